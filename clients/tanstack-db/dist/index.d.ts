/** Live rows of Realtime as a collection of TanStack DB, over an unmodified supabase-js client. */
import type { LiveRowsConfig, LiveRowsOptions } from './types.js';
export type { Client, Key, LiveRowsConfig, LiveRowsOptions, LiveRowsState, LiveRowsUtils } from './types.js';
/**
 * Options for `createCollection`: the rows of a table or a view that the user may see, kept equal to the database.
 *
 * Writes are shown at once. They go through `onInsert`, `onUpdate` and `onDelete`, or through `supabase.from(table)`,
 * and settle when the row comes back by the live binding. A write that fails is undone.
 */
export declare function liveRows<Row extends object = Record<string, any>>(config: LiveRowsConfig<Row>): LiveRowsOptions<Row>;
