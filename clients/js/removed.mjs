// Watches a table, sets another token and removes the channel at once, again and again; one plain channel stays.
// Usage: node removed.mjs URL TOKEN TOKEN_A TOKEN_B ROUNDS
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'
import { PATIENCE, commands, print } from './lines.mjs'

const [url, token, a, b, rounds] = process.argv.slice(2)

const supabase = createClient(url, token, { realtime: { transport: ws, timeout: PATIENCE } })
const subscribed = (channel) =>
  new Promise((resolve, reject) => {
    channel.subscribe((status, error) => {
      if (status === 'SUBSCRIBED') resolve()
      else if (status === 'CHANNEL_ERROR' || status === 'TIMED_OUT') reject(error ?? new Error(status))
    })
  })

commands(async () => process.exit(0))

await subscribed(supabase.channel('stays'))
for (let round = 0; round < Number(rounds); round++) {
  const channel = supabase.channel(`round-${round}`)
  channel.on('postgres_changes', { event: '*', schema: 'public', table: 'test' }, () => {})
  await subscribed(channel)
  // Both leave in one turn of the event loop: the client does not wait for the server in between.
  const renewed = supabase.realtime.setAuth(round % 2 ? a : b)
  const removed = supabase.removeChannel(channel)
  await Promise.all([renewed, removed])
}
print({ removed: Number(rounds) })
