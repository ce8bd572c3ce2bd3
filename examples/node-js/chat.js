// A chat in the terminal. What you type goes to everybody in the room; who is there is presence; and what happens to the
// table `todos` of `realtime dev` is shown as it happens.
import { createInterface } from 'node:readline'
import { createClient } from '@supabase/supabase-js'
import ws from 'ws'

const url = process.env.REALTIME_URL ?? 'http://localhost:4000'
const token = process.env.REALTIME_TOKEN
const name = process.argv[2] ?? `guest-${Math.floor(Math.random() * 1000)}`
const room = process.argv[3] ?? 'lobby'

if (!token) {
  console.error('Set REALTIME_TOKEN to the token that `realtime dev` prints, or to one of `realtime token`.')
  process.exit(64)
}

const supabase = createClient(url, token, { realtime: { transport: ws } })
const channel = supabase.channel(room, {
  config: {
    presence: { key: name },
    // Who speaks knows what was said; the server says when it has it.
    broadcast: { self: false, ack: true },
  },
})

channel
  .on('broadcast', { event: 'said' }, ({ payload }) => console.log(`${payload.name}: ${payload.text}`))
  .on('presence', { event: 'join' }, ({ key }) => key !== name && console.log(`* ${key} is here`))
  .on('presence', { event: 'leave' }, ({ key }) => key !== name && console.log(`* ${key} has left`))
  .on('postgres_changes', { event: '*', schema: 'public', table: 'todos' }, (change) => {
    const row = change.eventType === 'DELETE' ? change.old : change.new
    console.log(`* ${change.eventType} ${change.table} ${JSON.stringify(row)}`)
  })
  .subscribe(async (status, error) => {
    if (status === 'SUBSCRIBED') {
      await channel.track({ since: new Date().toISOString() })
      console.log(`You are ${name} in ${room}. Type to talk, Ctrl-D to leave.`)
    } else if (status !== 'CLOSED') {
      // The client tries again by itself.
      console.error(`* ${status}${error ? `: ${error.message}` : ''}`)
    }
  })

// Row changes are watched from here on: whatever is committed now will be shown.
channel.on('system', {}, ({ extension, status, message }) => {
  if (extension === 'postgres_changes') console.log(status === 'ok' ? '* watching todos' : `* ${message}`)
})

const leave = async () => {
  await channel.unsubscribe()
  process.exit(0)
}

createInterface({ input: process.stdin, terminal: false })
  .on('line', async (text) => {
    const answer = await channel.send({ type: 'broadcast', event: 'said', payload: { name, text } })
    if (answer !== 'ok') console.error(`* not sent: ${answer}`)
  })
  .on('close', leave)
process.on('SIGINT', leave)
