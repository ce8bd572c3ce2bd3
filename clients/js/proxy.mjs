// A TCP proxy, to be killed: a network that is cut. Usage: node proxy.mjs PORT TO_PORT
import { connect, createServer } from 'node:net'

const [port, to] = process.argv.slice(2).map(Number)

createServer((client) => {
  const server = connect(to, 'localhost')
  for (const [one, other] of [[client, server], [server, client]]) {
    one.pipe(other)
    one.on('error', () => other.destroy())
    one.on('close', () => other.destroy())
  }
}).listen(port, 'localhost', () => process.stdout.write('listening\n'))
