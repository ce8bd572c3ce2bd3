// What the types promise. Compiled by the tests, never run.
import { createClient } from '@supabase/supabase-js'
import { createClient as createOldClient } from 'supabase-js-2.39'
import { createCollection } from '@tanstack/db'
import { liveRows, type LiveRowsState } from '../dist/index.js'

interface Todo {
  id: number
  task: string
  done: boolean
}
interface Database {
  public: { Tables: { todos: { Row: Todo; Insert: Todo; Update: Partial<Todo>; Relationships: [] } }; Views: {}; Functions: {} }
}

const supabase = createClient('http://localhost:4000', 'key')
const typed = createClient<Database>('http://localhost:4000', 'key')
const old = createOldClient('http://localhost:4000', 'key')

// The row is named, or found by `getKey`.
const todos = createCollection(liveRows<Todo>({ supabase, table: 'todos', order: 'id.desc', limit: 50 }))
export const task: string | undefined = todos.get(1)?.task
todos.insert({ id: 1, task: 'a', done: false })
todos.update(1, (draft) => void (draft.done = true))
export const state: LiveRowsState = todos.utils.state()
const keyed = createCollection(liveRows({ supabase: typed, table: 'todos', getKey: (row: Todo) => row.id }))
export const done: boolean | undefined = keyed.get(1)?.done
export const any = createCollection(liveRows({ supabase: old, table: 'anything' }))

// @ts-expect-error: it has no such column
todos.insert({ id: 1, task: 'a', finished: false })
// @ts-expect-error: no filter of another kind
liveRows({ supabase, table: 'todos', filter: 5 })
export const handled = liveRows<Todo>({
  supabase,
  table: 'todos',
  onInsert: async ({ transaction }) => {
    const [first] = transaction.mutations
    await fetch('/todos', { method: 'POST', body: first.modified.task })
  },
  onUpdate: async ({ transaction }) => transaction.mutations.map(({ original, changes }) => ({ ...original, ...changes })),
})
