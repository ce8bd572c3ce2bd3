// The scenario in Node.js. Usage: node node.mjs URL KEY USER_TOKEN
import ws from 'ws'
import { endInTime } from '../../browser/ask.mjs'
import { start } from './app.js'
import { Rest, play } from './scenario.mjs'

const [url, key, userToken] = process.argv.slice(2)
endInTime()
const rest = new Rest()
const app = start({ url, key, userToken, rest: rest.answer, realtime: { transport: ws, timeout: 120_000, reconnectAfterMs: () => 200 } })
await play(app, rest)
await app.close()
process.exit(0)
