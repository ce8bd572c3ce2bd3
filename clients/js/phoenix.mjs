// Talks in a channel with the client of the Phoenix framework and prints one JSON object a line.
// Usage: node phoenix.mjs TRANSPORT URL TOKEN KEY
import { LongPoll, Presence, Socket } from 'phoenix'
import ws from 'ws'
import { PATIENCE, commands, print } from './lines.mjs'

const [transport, url, token, key] = process.argv.slice(2)
// Where the client looks for what browsers have.
global.WebSocket = ws

// Over a WebSocket serializer 2.0.0 sends compact broadcasts, which this client cannot read.
const options =
  transport === 'longpoll'
    ? { transport: LongPoll }
    : {
        transport: ws,
        vsn: '1.0.0',
        encode: (message, callback) => callback(JSON.stringify(message)),
        decode: (text, callback) => callback(JSON.parse(text)),
      }
const socket = new Socket(`${url}/socket`, { ...options, timeout: PATIENCE, params: { apikey: token } })
socket.onError((error) => print({ error: String(error?.message ?? error) }))
socket.connect()
const config = { broadcast: { ack: true }, presence: { enabled: true, key } }
const channel = socket.channel('realtime:talk', { config })
channel.on('broadcast', ({ event, payload }) => print({ broadcast: { event, payload } }))
const presence = new Presence(channel)
presence.onSync(() => {
  const state = Object.fromEntries(presence.list((key, { metas }) => [key, metas.map((meta) => meta.user)]))
  print({ presence: state })
})
channel
  .join()
  .receive('ok', () => print({ status: 'SUBSCRIBED' }))
  .receive('error', (response) => print({ status: 'CHANNEL_ERROR', error: response }))

const done = (push, name) => new Promise((resolve) => {
  push.receive('ok', () => resolve('ok')).receive('error', () => resolve('error')).receive('timeout', () => resolve('timeout'))
}).then((result) => print({ [name]: result }))

commands(async ({ send, track, untrack, leave }) => {
  if (send) await done(channel.push('broadcast', { type: 'broadcast', event: 'text', payload: send }), 'sent')
  if (track) await done(channel.push('presence', { type: 'presence', event: 'track', payload: { user: track } }), 'tracked')
  if (untrack) await done(channel.push('presence', { type: 'presence', event: 'untrack' }), 'untracked')
  if (leave) await done(channel.leave(), 'left')
})
