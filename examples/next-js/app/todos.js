'use client'

import { useEffect, useState } from 'react'
import { createClient } from '@supabase/supabase-js'

// One client for the page, however often its parts are mounted.
let client
const realtime = (url, token) => (client ??= createClient(url, token))

// What a change makes of the list, newest first. Changes may have been in the list already: they are merged by key.
const apply = (todos, change) => {
  const id = change.eventType === 'DELETE' ? change.old.id : change.new.id
  const others = todos.filter((todo) => todo.id !== String(id))
  if (change.eventType === 'DELETE') return others
  const { task, done } = change.new
  return [...others, { id: String(id), task, done }].sort((a, b) => Number(b.id) - Number(a.id))
}

const send = (path, method, body) =>
  fetch(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

export function Todos({ initial, url, token }) {
  const [todos, setTodos] = useState(initial)
  const [state, setState] = useState('connecting')
  const [task, setTask] = useState('')

  useEffect(() => {
    const supabase = realtime(url, token)
    // Changes that come while the list is read; they are applied to it afterwards.
    let waiting = null
    let round = 0

    const reload = async () => {
      const mine = ++round
      waiting ??= []
      const answer = await fetch('/api/todos').catch(() => null)
      if (mine !== round) return
      if (!answer?.ok) return void setTimeout(() => mine === round && reload(), 2_000)
      const list = await answer.json()
      if (mine !== round) return
      const changes = waiting
      waiting = null
      setTodos(changes.reduce(apply, list))
    }

    const channel = supabase
      .channel('todos')
      .on('postgres_changes', { event: '*', schema: 'public', table: 'todos' }, (change) => {
        if (waiting) waiting.push(change)
        else setTodos((todos) => apply(todos, change))
      })
      .on('system', {}, ({ extension, status }) => {
        if (extension !== 'postgres_changes') return
        if (status === 'ok') setState('live')
        if (status === 'error') setState('not live')
        // `ok`: from now on every change arrives. `gap`: some may be missing. What happened before is in the table.
        if (status === 'ok' || status === 'gap') reload()
      })
      .subscribe((status) => status !== 'SUBSCRIBED' && setState('not live'))
    return () => {
      round += 1
      supabase.removeChannel(channel)
    }
  }, [url, token])

  const add = async (event) => {
    event.preventDefault()
    if (!task.trim()) return
    setTask('')
    // The row itself comes back through the channel, to this browser as to all others.
    await send('/api/todos', 'POST', { task })
  }

  return (
    <>
      <p className={state === 'live' ? 'state live' : 'state'} role="status">
        {state}
      </p>
      <form onSubmit={add}>
        <input value={task} onChange={(event) => setTask(event.target.value)} placeholder="What is to be done?" aria-label="Task" maxLength={200} />
        <button>Add</button>
      </form>
      <ul>
        {todos.map(({ id, task, done }) => (
          <li key={id} className={done ? 'done' : ''}>
            <label>
              <input type="checkbox" checked={done} onChange={() => send(`/api/todos/${id}`, 'PATCH', { done: !done })} />
              {task}
            </label>
            <button aria-label={`Delete ${task}`} onClick={() => send(`/api/todos/${id}`, 'DELETE')}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </>
  )
}
