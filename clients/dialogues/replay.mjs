// Plays one client's part and checks what it is answered. Usage: replay.mjs CLIENT URL TOKEN
//
// Prints `{"step": …}` a line: `{"sql": …}`, which is to be run and confirmed with a line on the input; `{"done": n}` at
// the end; `{"failed": …}` with all that came.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

// Installed for the official client in JavaScript.
import WebSocket from '../js/node_modules/ws/wrapper.mjs'
import { fits, pushed } from './common.mjs'

const PATIENCE = 30_000

const [client, url, token] = process.argv.slice(2)
const { default: Checker } = await import(`./${client}.mjs`)
const checker = new Checker()
const print = (step) => process.stdout.write(JSON.stringify({ step }) + '\n')
const came = []
const confirmations = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

const fail = (why, step) => {
  print({ failed: String(why), step, told: checker.told, came })
  process.exit(1)
}

const open = (path) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url + path.replace('{{token}}', token))
    socket.on('open', () => resolve(socket))
    socket.on('error', (error) => fail(error))
  })

let wake = () => {}
const listen = (socket) => {
  socket.on('message', (data, isBinary) => {
    came.push(isBinary ? [...data] : data.toString())
    try {
      if (isBinary) checker.binary(data)
      else checker.text(data.toString())
    } catch (fault) {
      fail(fault)
    }
    wake()
  })
  socket.on('close', (code) => fail(`closed: ${code}`))
}

/** Waits for something that was not waited for before. */
const until = async (pattern, step) => {
  const deadline = Date.now() + PATIENCE
  for (;;) {
    const at = checker.told.findIndex((event) => fits(event, pattern))
    if (at >= 0) return checker.told.splice(at, 1)
    const left = deadline - Date.now()
    if (left <= 0) fail('it did not come', step)
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, left)
      wake = () => (clearTimeout(timer), resolve())
    })
  }
}

const steps = readFileSync(new URL(`./${client}.jsonl`, import.meta.url), 'utf8').trim().split('\n').map((line) => JSON.parse(line))
let socket, other, others = 0
for (const step of steps) {
  if (step.connect) {
    socket = await open(step.connect)
    listen(socket)
  } else if (step.send) {
    const message = JSON.parse(JSON.stringify(step.send).replaceAll('{{token}}', token))
    checker.sent(message)
    socket.send(JSON.stringify(message))
  } else if (step.binary) {
    socket.send(pushed(step.binary))
  } else if (step.other) {
    other ??= await open('/realtime/v1/websocket?apikey={{token}}&vsn=2.0.0')
    const name = `other-${++others}`
    const answered = new Promise((resolve) => other.on('message', (text) => String(text).includes(name) && resolve()))
    const [joinRef, , ...rest] = step.other
    other.send(JSON.stringify([joinRef, name, ...rest]))
    await answered
  } else if (step.sql) {
    print({ sql: step.sql })
    await confirmations.next()
  } else if (step.until) {
    await until(step.until, step)
  } else {
    fail('an unknown step', step)
  }
}
print({ done: steps.length })
process.exit(0)
