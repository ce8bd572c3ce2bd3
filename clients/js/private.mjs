// A private channel with the official client; prints one JSON object a line: what its user would see.
// Usage: node private.mjs URL APIKEY VSN TOKEN TOPIC BROADCAST PRESENCE
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'

const [url, key, vsn, token, topic, broadcast, presence] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

// Bytes have no JSON: shown as numbers.
const shown = (payload) => {
  if (payload instanceof ArrayBuffer) return { bytes: [...new Uint8Array(payload)] }
  if (ArrayBuffer.isView(payload)) return { bytes: [...payload] }
  return payload
}

// The client asks for the token whenever it joins: one that is only told to it would be replaced by the key.
let current = token
const supabase = createClient(url, key, { accessToken: async () => current, realtime: { transport: ws, vsn } })
await supabase.realtime.setAuth()
const channel = supabase.channel(topic, { config: { private: true, broadcast: JSON.parse(broadcast) } })
channel.on('broadcast', { event: '*' }, ({ event, payload, meta }) => print({ broadcast: { event, payload: shown(payload), meta: meta ?? null } }))
if (presence === 'true') channel.on('presence', { event: 'sync' }, () => print({ presence: Object.keys(channel.presenceState()).length }))
channel.on('system', {}, (payload) => print({ system: payload }))
channel.subscribe((status, error) => print({ status, error: error?.message ?? null }))

// Commands come as JSON objects, one a line; the end of input ends the program.
process.stdin.setEncoding('utf8')
let buffer = ''
process.stdin.on('data', async (text) => {
  buffer += text
  const lines = buffer.split('\n')
  buffer = lines.pop()
  for (const line of lines) {
    const { send, track, auth } = JSON.parse(line)
    if (send) print({ sent: await channel.send({ type: 'broadcast', event: 'text', payload: send }) })
    if (track) print({ tracked: await channel.track({ user: track }) })
    if (auth) {
      current = auth
      await supabase.realtime.setAuth()
    }
  }
})
process.stdin.on('end', () => process.exit(0))
