// Stands in the place of the old server, which is not to be had here: it lets everybody in and says nothing more.
import { WebSocketServer } from 'ws'

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.env.PORT) })
server.on('connection', (socket) => {
  socket.on('message', (data, binary) => {
    if (binary) return
    const [joinRef, ref, topic, event, payload] = JSON.parse(data)
    const response = {}
    if (event === 'phx_join') {
      const asked = payload.config?.postgres_changes ?? []
      response.postgres_changes = asked.map((binding, id) => ({ id: id + 1, ...binding }))
    }
    socket.send(JSON.stringify([joinRef, ref, topic, 'phx_reply', { status: 'ok', response }]))
  })
})
server.on('listening', () => console.log('listening'))
