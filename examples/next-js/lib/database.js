import postgres from 'postgres'

// One pool, also when development reloads this module. Ids are numbers, as the browser has them.
const types = { bigint: { to: 20, from: [20], parse: Number, serialize: String } }
const connect = () => (globalThis.todosDatabase ??= postgres(process.env.DATABASE_URL, { types }))

export const todos = () => connect()`
  select id, task, done from public.todos order by id desc limit 100`

export const insert = (task) => connect()`
  insert into public.todos (task) values (${task}) returning id, task, done`

export const setDone = (id, done) => connect()`
  update public.todos set done = ${done} where id = ${id}`

export const remove = (id) => connect()`
  delete from public.todos where id = ${id}`
