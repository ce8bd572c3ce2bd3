'use client'

import { useState, useSyncExternalStore } from 'react'
import { createClient } from '@supabase/supabase-js'
import { createCollection, useLiveQuery } from '@tanstack/react-db'
import { liveRows } from 'realtime-tanstack-db'

const send = async (path, method, body) => {
  const answer = await fetch(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  if (!answer.ok) throw new Error(`The server answers ${answer.status}`)
  return answer.status === 204 ? undefined : answer.json()
}

// One collection for the page, however often its parts are mounted: the newest 100 rows, kept equal to the database.
let collection
const todosOf = (url, token) =>
  (collection ??= createCollection(
    liveRows({
      supabase: createClient(url, token),
      table: 'todos',
      select: ['id', 'task', 'done'],
      order: 'id.desc',
      limit: 100,
      // The row that comes back has the id that the database has made.
      onInsert: ({ transaction }) => Promise.all(transaction.mutations.map(({ modified }) => send('/api/todos', 'POST', { task: modified.task }))),
      onUpdate: async ({ transaction }) => {
        for (const { key, changes } of transaction.mutations) await send(`/api/todos/${key}`, 'PATCH', changes)
      },
      onDelete: async ({ transaction }) => {
        for (const { key } of transaction.mutations) await send(`/api/todos/${key}`, 'DELETE')
      },
      onProblem: (error) => console.warn(error.message),
    }),
  ))

const nothing = () => () => {}

// The first picture comes from the server; in the browser the rows are live.
export function Todos({ initial, url, token }) {
  const isBrowser = useSyncExternalStore(nothing, () => true, () => false)
  return isBrowser ? <Live initial={initial} todos={todosOf(url, token)} /> : <List rows={initial} state="connecting" />
}

function Live({ initial, todos }) {
  const { data, isReady } = useLiveQuery((query) => query.from({ todo: todos }).orderBy(({ todo }) => todo.id, 'desc'))
  const state = useSyncExternalStore(todos.utils.onState, todos.utils.state)
  const [problem, setProblem] = useState('')
  // A write is shown at once, and undone if it fails.
  const write = (transaction) =>
    transaction.isPersisted.promise.then(
      () => setProblem(''),
      (error) => setProblem(error.message),
    )
  return (
    <List
      rows={isReady ? data : initial}
      state={state}
      problem={problem}
      // Until the database has made an id, this one will do.
      add={(task) => write(todos.insert({ id: Date.now(), task, done: false }))}
      change={(id, done) => write(todos.update(id, (todo) => void (todo.done = done)))}
      remove={(id) => write(todos.delete(id))}
    />
  )
}

function List({ rows, state, problem, add, change, remove }) {
  const [task, setTask] = useState('')
  const submit = (event) => {
    event.preventDefault()
    if (!task.trim()) return
    setTask('')
    add?.(task.trim())
  }
  return (
    <>
      <p className={state === 'live' ? 'state live' : 'state'} role="status">
        {problem || state}
      </p>
      <form onSubmit={submit}>
        <input value={task} onChange={(event) => setTask(event.target.value)} placeholder="What is to be done?" aria-label="Task" maxLength={200} />
        <button>Add</button>
      </form>
      <ul>
        {rows.map(({ id, task, done }) => (
          <li key={id} className={done ? 'done' : ''}>
            <label>
              <input type="checkbox" checked={done} onChange={() => change?.(id, !done)} />
              {task}
            </label>
            <button aria-label={`Delete ${task}`} onClick={() => remove?.(id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </>
  )
}
