// The rows of a collection follow what the server tells.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createCollection } from '@tanstack/db'
import { liveRows } from '../dist/index.js'
import { Fake, complete, insert, remove, system, until, update } from './fake.mjs'

const collect = (supabase, more = {}) => {
  const problems = []
  const collection = createCollection(
    liveRows({ supabase, table: 'todos', startSync: true, onProblem: (error) => problems.push(error.message), ...more }),
  )
  return { collection, problems }
}
// What a row is beside the marks that TanStack DB puts on it.
const shown = (collection) => collection.toArray.map(({ id, task }) => ({ id, task }))

test('the binding has what was asked for', async () => {
  const supabase = new Fake()
  collect(supabase, { schema: 'app', filter: 'room=eq.5', order: 'id.desc', limit: 3, select: ['id'], key: ['id'] })
  const channel = await supabase.joined()
  const binding = { event: '*', schema: 'app', table: 'todos', live: true, filter: 'room=eq.5', order: 'id.desc', limit: 3, select: ['id'], key: ['id'] }
  assert.deepEqual(channel.bindings[0], ['postgres_changes', binding])
})

test('rows are there when all have come, then changes', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase)
  const channel = await supabase.joined()
  channel.status('SUBSCRIBED')
  insert(channel, { id: 1, task: 'a' })
  assert.equal(collection.status, 'loading')
  insert(channel, { id: 2, task: 'b' })
  complete(channel)
  await collection.preload()
  assert.deepEqual(shown(collection), [{ id: 1, task: 'a' }, { id: 2, task: 'b' }])
  update(channel, { id: 2, task: 'c' })
  remove(channel, { id: 1 })
  insert(channel, { id: 3, task: 'd' })
  await until(() => collection.has(3))
  assert.deepEqual(shown(collection), [{ id: 2, task: 'c' }, { id: 3, task: 'd' }])
})

test('a row that enters twice, and one that leaves unknown, do no harm', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase)
  const channel = await supabase.rows([{ id: 1, task: 'a' }])
  insert(channel, { id: 1, task: 'b' })
  remove(channel, { id: 9 })
  await until(() => collection.get(1)?.task === 'b')
  assert.equal(collection.size, 1)
})

test('after a new join only differences move', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase)
  const channel = await supabase.rows([{ id: 1, task: 'a' }, { id: 2, task: 'b' }, { id: 3, task: { deep: [1] } }])
  await collection.preload()
  const events = []
  collection.subscribeChanges((changes) => events.push(...changes.map(({ type, key }) => `${type} ${key}`)), { includeInitialState: true })
  events.length = 0
  channel.status('CHANNEL_ERROR', new Error('the socket is gone', { cause: { code: 1006, reason: '' } }))
  assert.equal(collection.utils.state(), 'connecting')
  assert.equal(collection.size, 3, 'the rows of the last time stay')
  await supabase.rows([{ id: 2, task: 'c' }, { id: 3, task: { deep: [1] } }, { id: 4, task: 'd' }])
  assert.equal(collection.utils.state(), 'live')
  assert.deepEqual(events.sort(), ['delete 1', 'insert 4', 'update 2'])
})

test('a channel that the server has closed is joined again', async () => {
  const supabase = new Fake()
  const { collection, problems } = collect(supabase)
  const channel = await supabase.rows([{ id: 1, task: 'a' }])
  system(channel, 'The token has expired', 'error')
  channel.status('CLOSED')
  assert.deepEqual([collection.utils.state(), channel.removed, problems], ['refused', true, ['The token has expired']])
  assert.equal(collection.size, 1, 'the rows of the last time stay')
  const next = await supabase.rows([{ id: 1, task: 'b' }], 2)
  assert.notEqual(next.topic, channel.topic)
  assert.deepEqual([collection.utils.state(), collection.get(1).task], ['live', 'b'])
  insert(channel, { id: 7, task: 'of the past' })
  await collection.preload()
  assert.equal(collection.has(7), false)
})

test('a refusal is told, and what comes later counts', async () => {
  const supabase = new Fake()
  const { collection, problems } = collect(supabase)
  const channel = await supabase.joined()
  const loaded = assert.rejects(collection.preload(), /no such table/)
  channel.status('CHANNEL_ERROR', new Error('no such table', { cause: { reason: 'no such table' } }))
  await loaded
  assert.deepEqual([collection.status, collection.utils.state(), problems], ['error', 'refused', ['no such table']])
  await supabase.rows([{ id: 1, task: 'a' }])
  assert.deepEqual([collection.status, collection.utils.state()], ['ready', 'live'])
})

test('a result that is ended is a refusal, and its rows may come back', async () => {
  const supabase = new Fake()
  const { collection, problems } = collect(supabase)
  const channel = await supabase.joined()
  channel.status('SUBSCRIBED')
  insert(channel, { id: 1, task: 'a' })
  const loaded = assert.rejects(collection.preload(), /more than 10000 rows/)
  remove(channel, { id: 1 })
  system(channel, 'it has more than 10000 rows', 'warning', 'LiveResultTooLarge')
  await loaded
  assert.deepEqual([collection.status, collection.utils.state(), problems.length], ['error', 'refused', 1])
  // As when a table is published again: without a new join.
  insert(channel, { id: 2, task: 'b' })
  complete(channel)
  assert.deepEqual([collection.status, collection.utils.state(), shown(collection)], ['ready', 'live', [{ id: 2, task: 'b' }]])
})

test('states are told, notices too', async () => {
  const supabase = new Fake()
  const { collection, problems } = collect(supabase)
  const states = []
  const end = collection.utils.onState((state) => states.push(state))
  const channel = await supabase.rows([])
  system(channel, 'slow query', 'warning')
  channel.status('TIMED_OUT')
  await supabase.rows([])
  end()
  channel.status('TIMED_OUT')
  assert.deepEqual([states, problems], [['live', 'connecting', 'live'], ['slow query']])
})

test('who stops looking leaves the channel', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase)
  const channel = await supabase.rows([{ id: 1, task: 'a' }])
  await collection.cleanup()
  assert.equal(channel.removed, true)
  collection.startSyncImmediate()
  await supabase.rows([{ id: 2, task: 'b' }], 2)
  assert.deepEqual(shown(collection), [{ id: 2, task: 'b' }])
})

test('keys of several columns, and of a function', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase, { key: ['room', 'id'] })
  const channel = await supabase.rows([{ room: 1, id: 1, task: 'a' }, { room: 2, id: 1, task: 'b' }])
  remove(channel, { room: 1, id: 1 })
  await until(() => collection.size === 1)
  const other = new Fake()
  const { collection: named } = collect(other, { getKey: (row) => `n${row.id}` })
  await other.rows([{ id: 5, task: 'a' }])
  assert.equal(named.get('n5').task, 'a')
})

test('the collection has the order that was asked for', async () => {
  const supabase = new Fake()
  const { collection } = collect(supabase, { order: 'task.desc.nullslast,id' })
  await supabase.rows([{ id: 4, task: null }, { id: 3, task: 'b' }, { id: 1, task: 'b' }, { id: 2, task: 'c' }])
  assert.deepEqual(collection.toArray.map(({ id }) => id), [2, 1, 3, 4])
})
