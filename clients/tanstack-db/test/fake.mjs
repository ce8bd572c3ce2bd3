// A supabase-js client whose server is the test.
import { setTimeout as pause } from 'node:timers/promises'

export class Fake {
  channels = []
  writes = []
  answers = []
  realtime = { setAuth: async () => {} }

  channel(topic, options) {
    const channel = {
      topic, options, handlers: {}, bindings: [],
      on: (type, filter, handle) => {
        channel.handlers[type] = handle
        channel.bindings.push([type, filter])
        return channel
      },
      subscribe: (status) => {
        channel.status = status
        this.channels.push(channel)
        return channel
      },
    }
    return channel
  }

  async removeChannel(channel) {
    channel.removed = true
  }

  // The channel that is in use, once it is there.
  async joined(number = this.channels.length || 1) {
    await until(() => this.channels.length >= number)
    return this.channels[number - 1]
  }

  // Joins with these rows.
  async rows(rows, number) {
    const channel = await this.joined(number)
    channel.status('SUBSCRIBED')
    for (const row of rows) insert(channel, row)
    complete(channel)
    return channel
  }

  from(table) {
    const write = { table, where: {} }
    const query = {
      insert: (rows) => (Object.assign(write, { insert: rows }), query),
      update: (changes) => (Object.assign(write, { update: changes }), query),
      delete: () => (Object.assign(write, { delete: true }), query),
      eq: (column, value) => ((write.where[column] = value), query),
      select: () => query,
      then: (resolve, reject) => {
        this.writes.push(write)
        return Promise.resolve(this.answers.shift() ?? { data: [], error: null }).then(resolve, reject)
      },
    }
    return query
  }
}

const change = (channel, eventType, row, old = {}) => channel.handlers.postgres_changes({ eventType, schema: 'public', table: 'todos', errors: null, new: row, old })
export const insert = (channel, row) => change(channel, 'INSERT', row)
export const update = (channel, row) => change(channel, 'UPDATE', row, { id: row.id })
export const remove = (channel, old) => change(channel, 'DELETE', {}, old)
export const system = (channel, message, status = 'ok', code = undefined) => channel.handlers.system({ extension: 'postgres_changes', status, message, code })
export const complete = (channel) => system(channel, 'Live rows are complete')

export const until = async (look) => {
  const limit = Date.now() + 20_000
  while (!(await look())) {
    if (Date.now() > limit) throw new Error(`it does not come: ${look}`)
    await pause(5)
  }
}
