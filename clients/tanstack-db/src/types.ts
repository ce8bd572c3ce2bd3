// What goes in and out.

import type { CollectionConfig, DeleteMutationFnParams, InsertMutationFnParams, UpdateMutationFnParams } from '@tanstack/db'

export type Key = string | number

/**
 * Whether the rows are those of the database: `live`, they are; `connecting`, they are those of the last time;
 * `refused`, the server does not give them, `onProblem` has told why.
 */
export type LiveRowsState = 'connecting' | 'live' | 'refused'

/** The parts of a supabase-js client that are used: any version from 2.39 on has them. */
export interface Client {
  channel(topic: string, options?: any): any
  removeChannel(channel: any): Promise<unknown>
  realtime: { setAuth(token?: any): unknown; _isManualToken?(): boolean }
  schema?(name: any): any
  from?(table: any): any
}

type Answer<Row> = Promise<Row | Row[] | undefined | void>

export interface LiveRowsConfig<Row extends object> {
  /** The client of supabase-js. */
  supabase: Client
  /** A table, a partitioned table or a view. */
  table: string
  /** The schema of the table, `public` if it is not given. */
  schema?: string
  /** Conditions that rows meet, as in other bindings: `room=eq.5,done=is.false`. */
  filter?: string
  /** The order of the rows, as PostgREST writes it: `created_at.desc,id`. The collection has its written rows in it. */
  order?: string
  /** How many rows the result has at most: the first ones of the order. */
  limit?: number
  /** The columns that are sent; all that the user may read if it is not given. */
  select?: string[]
  /** The columns that tell rows apart, `['id']` if it is not given. */
  key?: string[]
  /** The key of a row; made of the columns of `key` if it is not given. A row that leaves has only these columns. */
  getKey?: (row: Row) => Key
  /** The id of the collection. */
  id?: string
  /** Writes inserted rows. If it is not given: `supabase.from(table).insert(…)`. May return the rows as they are now. */
  onInsert?: (params: InsertMutationFnParams<Row, Key, LiveRowsUtils>) => Answer<Row>
  /** Writes changed rows. If it is not given: `supabase.from(table).update(…)`. May return the rows as they are now. */
  onUpdate?: (params: UpdateMutationFnParams<Row, Key, LiveRowsUtils>) => Answer<Row>
  /** Deletes rows. If it is not given: `supabase.from(table).delete()`. */
  onDelete?: (params: DeleteMutationFnParams<Row, Key, LiveRowsUtils>) => Answer<Row>
  /** How long a write waits for its row while the rows are live, in milliseconds: 3,000 if it is not given. */
  patience?: number
  /** Is called with what a person may want to know: a refusal, a lost connection, a notice of the server. */
  onProblem?: (error: Error) => void
  /** As of every collection: starts without somebody who looks. */
  startSync?: boolean
  /** As of every collection: milliseconds until the rows are let go when nobody looks. */
  gcTime?: number
}

export interface LiveRowsUtils {
  [name: string]: unknown
  /** Whether the rows are those of the database. */
  state: () => LiveRowsState
  /** Calls back when that changes; returns what ends it. Fits React's `useSyncExternalStore`. */
  onState: (listener: (state: LiveRowsState) => void) => () => void
}

export type LiveRowsOptions<Row extends object> = CollectionConfig<Row, Key, never, LiveRowsUtils> & {
  schema?: never
  utils: LiveRowsUtils
}
