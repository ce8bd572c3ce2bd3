// Watches a table with the official client and prints one JSON object a line: what its user would see.
// Usage: node watch.mjs URL TOKEN VSN SUBSCRIPTIONS
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'
import { PATIENCE, commands, print } from './lines.mjs'

const [url, token, vsn, subscriptions] = process.argv.slice(2)

const supabase = createClient(url, token, { realtime: { transport: ws, vsn, timeout: PATIENCE } })
const channel = supabase.channel('clients')
JSON.parse(subscriptions).forEach((subscription, index) => {
  channel.on('postgres_changes', subscription, (change) => {
    const { eventType, schema, table, errors } = change
    print({ change: { index, eventType, schema, table, errors, new: change.new, old: change.old } })
  })
})
channel.on('system', {}, (payload) => print({ system: payload }))
channel.on('broadcast', { event: '*' }, (message) => print({ broadcast: { event: message.event, payload: message.payload } }))
channel.on('presence', { event: 'sync' }, () => print({ presence: Object.keys(channel.presenceState()) }))
channel.subscribe((status, error) => print({ status, error: error?.message ?? null }))

commands(async (command) => {
  if (command.send) print({ sent: await channel.send({ type: 'broadcast', event: command.send, payload: { n: 1 } }) })
  if (command.track) print({ tracked: await channel.track(command.track) })
  if (command.leave) print({ left: await supabase.removeChannel(channel) })
})
