// A client that knows nothing of the move: it says what it sees, and tries again by itself as the official client does.
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'

const supabase = createClient(process.env.URL, process.env.ANON_KEY, {
  accessToken: async () => process.env.USER_TOKEN,
  realtime: { transport: ws, heartbeatIntervalMs: 1000, reconnectAfterMs: () => 300 },
})
await supabase.realtime.setAuth()

const say = (what) => console.log(JSON.stringify(what))
supabase
  .channel('rows')
  .on('postgres_changes', { event: 'INSERT', schema: 'public', table: 'notes' }, ({ new: row }) => say({ row: row.body }))
  .subscribe((status) => say({ channel: 'rows', status }))
supabase
  .channel('room-1', { config: { private: true } })
  .on('broadcast', { event: '*' }, ({ event, payload }) => say({ event, text: payload.text }))
  .subscribe((status) => say({ channel: 'room-1', status }))
