// A small application: what the tests do with a collection, in Node.js and in a browser alike.
import { createCollection } from '@tanstack/db'
import { createClient } from '@supabase/supabase-js'
import { liveRows } from '../dist/index.js'

// `rest(method, path, body)` answers instead of PostgREST with `{ status, body }`.
export const start = ({ url, key, userToken, rest, realtime = {} }) => {
  const fetch = async (address, { method, body }) => {
    const answer = await rest(method, String(address).slice(url.length), body ?? null)
    return new Response(answer.body === null ? null : JSON.stringify(answer.body), { status: answer.status, headers: { 'content-type': 'application/json' } })
  }
  const supabase = createClient(url, key, { accessToken: async () => userToken, global: { fetch }, realtime })
  const problems = []
  const todos = createCollection(
    liveRows({
      supabase,
      table: 'todos',
      filter: 'list=eq.5',
      order: 'task',
      startSync: true,
      gcTime: 0,
      patience: 30_000,
      onProblem: (error) => problems.push(error.message),
    }),
  )
  const settled = async (transaction) => {
    try {
      await transaction.isPersisted.promise
      return 'settled'
    } catch (error) {
      return error.message
    }
  }
  return {
    ready: () => todos.preload(),
    state: () => todos.utils.state(),
    problems: () => problems,
    // What is not written yet stands at the end of a collection: live queries have an order of their own.
    rows: () => todos.toArray.sort((a, b) => (a.task < b.task ? -1 : 1)).map(({ task, done }) => `${done ? '✓' : '·'} ${task}`),
    insert: (row) => settled(todos.insert(row)),
    change: (id, changes) => settled(todos.update(id, (draft) => void Object.assign(draft, changes))),
    remove: (id) => settled(todos.delete(id)),
    close: async () => {
      await todos.cleanup()
      await supabase.realtime.disconnect()
    },
  }
}
