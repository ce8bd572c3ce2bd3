// Writes are shown at once, and settle when their row has come back.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createCollection } from '@tanstack/db'
import { liveRows } from '../dist/index.js'
import { Fake, insert, remove, until, update } from './fake.mjs'

const LONG = 60_000

const start = async (rows = [{ id: 1, task: 'a', done: false }], more = {}) => {
  const supabase = new Fake()
  const collection = createCollection(liveRows({ supabase, table: 'todos', startSync: true, patience: LONG, ...more }))
  const channel = await supabase.rows(rows)
  return { supabase, collection, channel }
}
const isSettled = async (transaction) => Promise.race([transaction.isPersisted.promise.then(() => true), new Promise((resolve) => setTimeout(resolve, 30, false))])

test('an insert settles with its row', async () => {
  const { supabase, collection, channel } = await start()
  const insertion = collection.insert({ id: 2, task: 'b', done: false })
  assert.equal(collection.get(2).task, 'b', 'it is shown at once')
  await until(() => supabase.writes.length === 1)
  assert.deepEqual(supabase.writes[0], { table: 'todos', where: {}, insert: [{ id: 2, task: 'b', done: false }] })
  assert.equal(await isSettled(insertion), false)
  insert(channel, { id: 2, task: 'b', done: false, inserted_at: '2026-01-01T00:00:00+00:00' })
  await insertion.isPersisted.promise
  assert.equal(collection.get(2).inserted_at, '2026-01-01T00:00:00+00:00')
})

test('an update settles with its values, not with those of somebody else before it', async () => {
  const { supabase, collection, channel } = await start()
  supabase.answers.push({ data: [{ id: 1, task: 'a', done: true }], error: null })
  const change = collection.update(1, (draft) => void (draft.done = true))
  await until(() => supabase.writes.length === 1)
  assert.deepEqual(supabase.writes[0], { table: 'todos', where: { id: 1 }, update: { done: true } })
  assert.equal(await isSettled(change), false)
  update(channel, { id: 1, task: 'a', done: true })
  await change.isPersisted.promise
  assert.equal(collection.get(1).done, true)
})

test('a row that comes before the answer settles it', async () => {
  let answer
  const { collection, channel } = await start(undefined, { onUpdate: () => new Promise((resolve) => (answer = resolve)) })
  const change = collection.update(1, (draft) => void (draft.task = 'B'))
  await until(() => answer)
  // A trigger has made it small.
  update(channel, { id: 1, task: 'b', done: false })
  assert.equal(await isSettled(change), false)
  answer()
  await change.isPersisted.promise
  assert.equal(collection.get(1).task, 'b')
})

test('a delete settles when the row has left', async () => {
  const { supabase, collection, channel } = await start()
  supabase.answers.push({ data: [{ id: 1 }], error: null })
  const removal = collection.delete(1)
  assert.equal(collection.has(1), false)
  await until(() => supabase.writes.length === 1)
  assert.equal(await isSettled(removal), false)
  remove(channel, { id: 1 })
  await removal.isPersisted.promise
  assert.equal(collection.has(1), false)
})

test('what is refused is undone', async () => {
  const { supabase, collection } = await start()
  supabase.answers.push({ data: null, error: { message: 'permission denied', code: '42501' } })
  await assert.rejects(collection.insert({ id: 2, task: 'b', done: false }).isPersisted.promise, /permission denied/)
  assert.equal(collection.has(2), false)
  // What a policy forbids is answered with no rows.
  supabase.answers.push({ data: [], error: null })
  await assert.rejects(collection.update(1, (draft) => void (draft.done = true)).isPersisted.promise, /No row was updated/)
  assert.equal(collection.get(1).done, false)
  supabase.answers.push({ data: [], error: null })
  await assert.rejects(collection.delete(1).isPersisted.promise, /No row was deleted/)
  assert.equal(collection.has(1), true)
})

test('a row that never comes is let go', async () => {
  const { collection } = await start(undefined, { patience: 20 })
  await collection.insert({ id: 2, task: 'not in the filter', done: true }).isPersisted.promise
  assert.equal(collection.has(2), false)
})

test('without a connection a write waits for it', async () => {
  const { supabase, collection, channel } = await start(undefined, { patience: 20 })
  channel.status('CHANNEL_ERROR', new Error('the socket is gone'))
  const insertion = collection.insert({ id: 2, task: 'b', done: false })
  await until(() => supabase.writes.length === 1)
  assert.equal(await isSettled(insertion), false)
  await new Promise((resolve) => setTimeout(resolve, 40))
  assert.equal(collection.has(2), true)
  await supabase.rows([{ id: 1, task: 'a', done: false }, { id: 2, task: 'b', done: false }])
  await insertion.isPersisted.promise
  assert.equal(collection.has(2), true)
})

test('an update of a column that is not sent settles at once', async () => {
  const { collection } = await start(undefined, { onUpdate: async () => {} })
  await collection.update(1, (draft) => void (draft.note = 'not selected')).isPersisted.promise
  assert.equal(collection.get(1).note, undefined)
})

test('handlers may return the row as the database has it', async () => {
  const { collection, channel } = await start(undefined, { onInsert: async ({ transaction }) => ({ ...transaction.mutations[0].modified, task: 'small' }) })
  const insertion = collection.insert({ id: 2, task: 'SMALL', done: false })
  assert.equal(await isSettled(insertion), false)
  insert(channel, { id: 2, task: 'small', done: false })
  await insertion.isPersisted.promise
  assert.equal(collection.get(2).task, 'small')
})

test('a key of the database takes the place of one that was made up', async () => {
  const { collection, channel } = await start(undefined, { onInsert: async () => ({ id: 2, task: 'b', done: false }) })
  const insertion = collection.insert({ id: -1, task: 'b', done: false })
  assert.equal(await isSettled(insertion), false)
  insert(channel, { id: 2, task: 'b', done: false })
  await insertion.isPersisted.promise
  assert.deepEqual(collection.toArray.map(({ id }) => id), [1, 2])
})

test('several rows at once', async () => {
  const { supabase, collection, channel } = await start()
  const insertion = collection.insert([{ id: 2, task: 'b', done: false }, { id: 3, task: 'c', done: false }])
  await until(() => supabase.writes.length === 1)
  assert.equal(supabase.writes[0].insert.length, 2)
  insert(channel, { id: 3, task: 'c', done: false })
  assert.equal(await isSettled(insertion), false)
  insert(channel, { id: 2, task: 'b', done: false })
  await insertion.isPersisted.promise
  assert.equal(collection.size, 3)
})
