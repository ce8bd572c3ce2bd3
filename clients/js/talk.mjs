// Talks in a channel with an official client and prints one JSON object a line: what its user would see.
// Usage: node talk.mjs PACKAGE URL TOKEN KEY [VSN]
import ws from 'ws'
import { PATIENCE, commands, print, shown } from './lines.mjs'

const [name, url, token, key, vsn] = process.argv.slice(2)
const { createClient } = await import(name)

// The old client finds `ws` by itself, and never opens a transport that it is given.
const own = name.includes('2.39') ? {} : { transport: ws, ...(vsn ? { vsn } : {}) }
const realtime = { timeout: PATIENCE, ...own }
const supabase = createClient(url, token, { realtime })
const channel = supabase.channel('talk', { config: { broadcast: { ack: true }, presence: { key } } })
channel.on('broadcast', { event: '*' }, (message) => print({ broadcast: { event: message.event, payload: shown(message.payload) } }))
channel.on('presence', { event: 'sync' }, () => {
  const state = channel.presenceState()
  print({ presence: Object.fromEntries(Object.entries(state).map(([key, metas]) => [key, metas.map((meta) => meta.user)])) })
})
channel.subscribe((status, error) => print({ status, error: error?.message ?? null }))

commands(async ({ send, bytes, rest, track, untrack }) => {
  if (send) print({ sent: await channel.send({ type: 'broadcast', event: 'text', payload: send }) })
  if (bytes) print({ sent: await channel.send({ type: 'broadcast', event: 'bytes', payload: new Uint8Array(bytes).buffer }) })
  if (rest) {
    // A channel that is not joined sends over HTTP.
    const other = createClient(url, token, { realtime }).channel('talk')
    print({ sent: await (other.httpSend ? other.httpSend('rest', rest) : other.send({ type: 'broadcast', event: 'rest', payload: rest })) })
  }
  if (track) print({ tracked: await channel.track({ user: track }) })
  if (untrack) print({ untracked: await channel.untrack() })
})
