// A list and a journal over a network that is cut: between the official client and the server stands a proxy, a process of its
// own, which is killed and started again while rows change. Usage: node network-cut.mjs PACKAGE URL TOKEN
//
// The table is `todos (id, task)`. The test that runs this changes it, as scenarios ask for it. With `REALTIME_TRANSCRIPT=FILE`
// what happens is written there.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { createServer } from 'node:net'
import ws from 'ws'
import { PATIENCE, ask, endInTime, eventually } from '../browser/ask.mjs'

const [name, url, token] = process.argv.slice(2)
const { createClient } = await import(name)
endInTime()

const say = (text) => process.env.REALTIME_TRANSCRIPT && appendFileSync(process.env.REALTIME_TRANSCRIPT, `${text}\n`)

// A port that is free now.
const freePort = async () => {
  const server = createServer().listen(0, 'localhost')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

const port = await freePort()
let proxy
const plug = async () => {
  proxy = spawn(process.execPath, ['proxy.mjs', String(port), new URL(url).port], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(proxy.stdout, 'data')
}
const pull = async () => {
  proxy.kill('SIGKILL')
  await once(proxy, 'exit')
}
process.on('exit', () => proxy?.kill('SIGKILL'))

await plug()
const supabase = createClient(`http://localhost:${port}`, token, { realtime: { transport: ws, timeout: PATIENCE, reconnectAfterMs: () => 200 } })

// A list that is kept: rows by key. It goes on where it was.
const rows = new Map()
const list = { event: '*', schema: 'public', table: 'todos', live: true, since: undefined }
// All that ever was inserted.
const tasks = []
const journal = { event: 'INSERT', schema: 'public', table: 'todos', since: undefined }
// Since the last look: what has come, and what was told.
let came = []
let told = []
let status

const channel = supabase
  .channel('todos')
  .on('postgres_changes', list, ({ eventType, new: row, old, commit_timestamp }) => {
    if (eventType === 'DELETE') rows.delete(old.id)
    else rows.set(row.id, row)
    list.since = commit_timestamp
    came.push(`${eventType} ${row.id ?? old.id}`)
  })
  .on('postgres_changes', journal, ({ new: { id, task }, commit_timestamp }) => {
    if (!tasks.some((known) => known.id === id)) tasks.push({ id, task })
    journal.since = commit_timestamp
  })
  .on('system', {}, ({ message, code }) => {
    if (message === 'Live rows begin anew') rows.clear()
    told.push(code ?? message)
  })
  .subscribe((now) => {
    status = now
    if (now === 'SUBSCRIBED' && list.since === undefined) rows.clear()
  })

const show = () => [...rows.values()].sort((a, b) => a.id - b.id).map(({ id, task }) => `${id} ${task}`)
const sql = async (text) => {
  say(`  sql        ${text}`)
  await ask({ sql: text })
}

await eventually('the first rows', () => [status, told.includes('Live rows are complete'), show()], ['SUBSCRIBED', true, ['1 Say hello', '2 Water the plants', '3 Call home']])
say(`list         ${show().join(', ')}`)
await sql("insert into todos values (4, 'Buy bread')")
await eventually('a fourth', () => [show().length, tasks.length], [4, 1])

const cuts = [
  ["update todos set task = 'Call mum' where id = 3; delete from todos where id = 1; insert into todos values (5, 'Write to Ben')", ['2 Water the plants', '3 Call mum', '4 Buy bread', '5 Write to Ben']],
  ["insert into todos values (6, 'Read'); insert into todos values (7, 'Forget'); delete from todos where id = 7", ['2 Water the plants', '3 Call mum', '4 Buy bread', '5 Write to Ben', '6 Read']],
  ["delete from todos; insert into todos values (8, 'Begin anew')", ['8 Begin anew']],
]
for (const [statements, expected] of cuts) {
  came = []
  told = []
  // Once in a thousand times it is a whole second, which is no place for live rows.
  const isPlace = !list.since.endsWith('.000Z')
  await pull()
  say('the proxy is killed')
  await eventually('the client has noticed', () => channel.state !== 'joined', true)
  for (const statement of statements.split('; ')) await sql(statement)
  await plug()
  say('the proxy is started again')
  await eventually('it is back', () => told.includes('Live rows are complete') && told.includes('Caught up'), true)
  await eventually('the list is right', show, expected)
  say(`told         ${told.join(', ')}`)
  say(`came         ${came.join(', ')}`)
  say(`list         ${show().join(', ')}`)
  assert.ok(!told.includes('ChangesNotKept') && !(isPlace && told.includes('Live rows begin anew')), told.join())
}
say(`inserts      ${tasks.map(({ id, task }) => `${id} ${task}`).join(', ')}`)
assert.deepEqual(tasks.map(({ id }) => id), [4, 5, 6, 7, 8], 'none is missing, in their order')
process.exit(0)
