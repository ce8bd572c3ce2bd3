// A private channel with the official client; prints one JSON object a line: what its user would see.
// Usage: node private.mjs URL APIKEY VSN TOKEN TOPIC BROADCAST PRESENCE
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'
import { PATIENCE, commands, print, shown } from './lines.mjs'

const [url, key, vsn, token, topic, broadcast, presence] = process.argv.slice(2)

// The client asks for the token whenever it joins: one that is only told to it would be replaced by the key.
let current = token
const supabase = createClient(url, key, { accessToken: async () => current, realtime: { transport: ws, vsn, timeout: PATIENCE } })
await supabase.realtime.setAuth()
const channel = supabase.channel(topic, { config: { private: true, broadcast: JSON.parse(broadcast) } })
channel.on('broadcast', { event: '*' }, ({ event, payload, meta }) => print({ broadcast: { event, payload: shown(payload), meta: meta ?? null } }))
if (presence === 'true') channel.on('presence', { event: 'sync' }, () => print({ presence: Object.keys(channel.presenceState()).length }))
channel.on('system', {}, (payload) => print({ system: payload }))
channel.subscribe((status, error) => print({ status, error: error?.message ?? null }))

commands(async ({ send, track, auth }) => {
  if (send) print({ sent: await channel.send({ type: 'broadcast', event: 'text', payload: send }) })
  if (track) print({ tracked: await channel.track({ user: track }) })
  if (auth) {
    current = auth
    await supabase.realtime.setAuth()
  }
})
