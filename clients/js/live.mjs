// Keeps maps of live rows with an official client, as its user would, and prints what is in them.
// Usage: node live.mjs PACKAGE URL TOKEN VSN SUBSCRIPTIONS
//
// A map for each subscription: emptied at each SUBSCRIBED, INSERT and UPDATE go into it, DELETE out of it. Its key is
// that of the subscription, or `id`. The maps are printed, rows ordered by key, when something has changed.
import ws from 'ws'
import { PATIENCE, commands, print } from './lines.mjs'

const [name, url, token, vsn, subscriptions] = process.argv.slice(2)
const { createClient } = await import(name)

// The old client finds `ws` by itself, and never comes back if it tries too often.
const own = name.includes('2.39') ? {} : { transport: ws, vsn, reconnectAfterMs: () => 200 }
const supabase = createClient(url, token, { realtime: { timeout: PATIENCE, ...own } })
const channel = supabase.channel('live', { config: { broadcast: { self: true } } })
const maps = []
const show = () => print({ maps: maps.map(({ map }) => [...map].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row)) })

JSON.parse(subscriptions).forEach((subscription, index) => {
  const columns = subscription.key ?? ['id']
  const keyOf = (row) => columns.map((column) => String(row[column]).padStart(8, '0')).join(' ')
  const map = new Map()
  // What is not live is no map.
  if (subscription.live || subscription.filter?.includes('@live')) maps.push({ map })
  channel.on('postgres_changes', subscription, (change) => {
    const { eventType, errors } = change
    if (errors) throw new Error(errors.join(', '))
    if (eventType === 'DELETE') map.delete(keyOf(change.old))
    else map.set(keyOf(change.new), change.new)
    print({ change: { index, eventType, new: change.new, old: change.old, time: typeof change.commit_timestamp } })
    show()
  })
})
channel.on('system', {}, (payload) => {
  print({ system: payload })
  show()
})
channel.on('broadcast', { event: '*' }, (message) => print({ broadcast: { event: message.event, payload: message.payload } }))
channel.on('presence', { event: 'sync' }, () => print({ presence: Object.keys(channel.presenceState()) }))
channel.subscribe((status, error) => {
  if (status === 'SUBSCRIBED') for (const { map } of maps) map.clear()
  print({ status, error: error?.message ?? null })
})

commands(async (command) => {
  if (command.send) print({ sent: await channel.send({ type: 'broadcast', event: command.send, payload: { n: 1 } }) })
  if (command.track) print({ tracked: await channel.track(command.track) })
  if (command.leave) print({ left: await supabase.removeChannel(channel) })
})
