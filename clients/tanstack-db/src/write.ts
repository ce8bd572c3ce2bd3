// Writes through `supabase.from(table)`, which is PostgREST: for those who pass no handlers of their own.

import type { DeleteMutationFnParams, InsertMutationFnParams, UpdateMutationFnParams } from '@tanstack/db'
import type { Client, Key, LiveRowsUtils } from './types.js'

export function writer<Row extends object>(client: Client, schema: string, table: string, key: string[]) {
  const from = () => {
    if (!client.schema && !client.from) throw new Error('supabase.from() is missing: pass onInsert, onUpdate and onDelete')
    return client.schema ? client.schema(schema).from(table) : client.from!(table)
  }
  const ofRow = (query: any, row: object) =>
    key.reduce((narrowed, column) => narrowed.eq(column, (row as Record<string, unknown>)[column]), query)

  return {
    async insert({ transaction }: InsertMutationFnParams<Row, Key, LiveRowsUtils>): Promise<undefined> {
      // Without asking for the rows: a user may insert what a policy does not show.
      rows(await from().insert(transaction.mutations.map((mutation) => mutation.modified)))
    },
    async update({ transaction }: UpdateMutationFnParams<Row, Key, LiveRowsUtils>): Promise<Row[]> {
      const updates = transaction.mutations.map(({ original, changes }) => ofRow(from().update(changes), original).select())
      return written(await Promise.all(updates), 'updated')
    },
    async delete({ transaction }: DeleteMutationFnParams<Row, Key, LiveRowsUtils>): Promise<undefined> {
      const deletes = transaction.mutations.map(({ original }) => ofRow(from().delete(), original).select(key.join(',')))
      written(await Promise.all(deletes), 'deleted')
    },
  }
}

interface Answer {
  data: unknown
  error: { message: string } | null
}

function rows({ data, error }: Answer): unknown[] {
  if (error) throw Object.assign(new Error(error.message), { cause: error })
  return Array.isArray(data) ? data : []
}

/** PostgREST answers with no rows, and no error, what a policy does not allow. */
function written<Row>(answers: Answer[], what: string): Row[] {
  return answers.flatMap((answer) => {
    const found = rows(answer)
    if (found.length === 0) throw new Error(`No row was ${what}: it is gone, or a policy does not allow it`)
    return found as Row[]
  })
}
