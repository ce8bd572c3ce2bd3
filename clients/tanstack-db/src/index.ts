/** Live rows of Realtime as a collection of TanStack DB, over an unmodified supabase-js client. */

import type { SyncConfig } from '@tanstack/db'
import { Feed } from './feed.js'
import { comparison } from './order.js'
import { settle, type Write } from './settle.js'
import type { Key, LiveRowsConfig, LiveRowsOptions, LiveRowsState } from './types.js'
import { writer } from './write.js'

export type { Client, Key, LiveRowsConfig, LiveRowsOptions, LiveRowsState, LiveRowsUtils } from './types.js'

/** How long a write waits for its row while the rows are live, in milliseconds. */
const PATIENCE = 3_000

/**
 * Options for `createCollection`: the rows of a table or a view that the user may see, kept equal to the database.
 *
 * Writes are shown at once. They go through `onInsert`, `onUpdate` and `onDelete`, or through `supabase.from(table)`,
 * and settle when the row comes back by the live binding. A write that fails is undone.
 */
export function liveRows<Row extends object = Record<string, any>>(config: LiveRowsConfig<Row>): LiveRowsOptions<Row> {
  const { supabase, table, schema = 'public', filter, order, limit, select, patience = PATIENCE } = config
  const key = config.key ?? ['id']
  const keyOf = config.getKey ?? ((row: Row) => keyFrom(row, key))
  const listeners = new Set<(state: LiveRowsState) => void>()
  let state: LiveRowsState = 'connecting'
  let feed: Feed<Row> | undefined

  const binding: Record<string, unknown> = { event: '*', schema, table, live: true }
  for (const [name, value] of Object.entries({ filter, order, limit, select, key: config.key })) {
    if (value !== undefined) binding[name] = value
  }

  const become = (next: LiveRowsState) => {
    state = next
    for (const listener of listeners) listener(next)
  }

  const sync: SyncConfig<Row, Key>['sync'] = ({ begin, write, commit, markReady, markError, collection }) => {
    become('connecting')
    const mine = new Feed<Row>(supabase, binding, keyOf, {
      apply: (differences) => {
        begin()
        for (const difference of differences) write(difference)
        commit()
      },
      ready: markReady,
      refused: (error) => {
        config.onProblem?.(error)
        // Rows that were there stay: they are those of the last time.
        if (collection.status === 'loading') markError(error)
      },
      problem: (error) => config.onProblem?.(error),
      state: become,
    })
    feed = mine
    mine.start()
    return () => {
      if (feed === mine) feed = undefined
      mine.stop()
    }
  }

  const write = writer<Row>(supabase, schema, table, key)
  const settled = async (writes: Write[], send: () => Promise<unknown>) => {
    const rows = async () => {
      const answer = await send()
      return answer === undefined ? undefined : ([answer].flat() as Row[]).filter((row) => typeof row === 'object' && row !== null)
    }
    await settle(() => feed, writes, patience, rows, keyOf)
  }
  const options: LiveRowsOptions<Row> = {
    id: config.id ?? `live:${schema}.${table}:${[filter, order, limit].filter((part) => part !== undefined).join(':')}:${Math.random().toString(36).slice(2)}`,
    getKey: keyOf,
    // Rows come whole.
    sync: { sync, rowUpdateMode: 'full' },
    onInsert: async (params) => {
      const writes = params.transaction.mutations.map((one) => ({ type: 'insert', key: one.key, values: one.modified }) as const)
      await settled(writes, () => (config.onInsert ?? write.insert)(params))
    },
    onUpdate: async (params) => {
      const writes = params.transaction.mutations.map((one) => ({ type: 'update', key: one.key, values: one.changes }) as const)
      await settled(writes, () => (config.onUpdate ?? write.update)(params))
    },
    onDelete: async (params) => {
      const writes = params.transaction.mutations.map((one) => ({ type: 'delete', key: one.key, values: {} }) as const)
      await settled(writes, () => (config.onDelete ?? write.delete)(params))
    },
    utils: {
      state: () => state,
      onState: (listener) => {
        listeners.add(listener)
        return () => void listeners.delete(listener)
      },
    },
  }
  if (order !== undefined) options.compare = comparison<Row>(order)
  if (config.startSync !== undefined) options.startSync = config.startSync
  if (config.gcTime !== undefined) options.gcTime = config.gcTime
  return options
}

function keyFrom<Row extends object>(row: Row, columns: string[]): Key {
  const values = columns.map((column) => (row as Record<string, unknown>)[column])
  const [only] = values
  if (values.length === 1 && (typeof only === 'string' || typeof only === 'number')) return only
  return JSON.stringify(values)
}
