// Keeps a map of live rows with the client of the Phoenix framework over long-poll, and prints what is in it.
// Usage: node live-phoenix.mjs URL TOKEN SUBSCRIPTION
import { LongPoll, Socket } from 'phoenix'
import { PATIENCE, commands, print } from './lines.mjs'

const [url, token, subscription] = process.argv.slice(2)
const socket = new Socket(`${url}/socket`, { transport: LongPoll, timeout: PATIENCE, params: { apikey: token } })
socket.onError((error) => print({ error: String(error?.message ?? error) }))
socket.connect()
const channel = socket.channel('realtime:live', { config: { postgres_changes: [JSON.parse(subscription)] } })
const map = new Map()
channel.on('postgres_changes', ({ data: { type, record, old_record: old } }) => {
  if (type === 'DELETE') map.delete(old.id)
  else map.set(record.id, record)
  print({ maps: [[...map.values()].sort((a, b) => a.id - b.id)] })
})
channel.on('system', (payload) => print({ system: payload }))
channel
  .join()
  .receive('ok', () => print({ status: 'SUBSCRIBED' }))
  .receive('error', (response) => print({ refused: response }))
commands(() => {})
