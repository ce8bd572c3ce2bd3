import type { Feed } from './feed.js';
import type { Key } from './types.js';
/** One write of a transaction. */
export interface Write {
    type: 'insert' | 'update' | 'delete';
    key: Key;
    /** The values that were written. */
    values: object;
}
/**
 * Writes, and waits until the result shows it. `send` returns the rows that the database has, or nothing.
 *
 * Three ways out: the result has the row as it was written (after a delete: it has none); something was told about the
 * row after the write was answered, or shortly before it (a trigger has changed the values, or somebody else has); or
 * nothing comes for `patience` milliseconds with the rows being live (the row is not in the result: a filter, a limit,
 * a policy). While the rows are not live the write waits: the rows come again with the connection.
 */
export declare function settle<Row extends object>(feed: () => Feed<Row> | undefined, writes: Write[], patience: number, send: () => Promise<Row[] | undefined>, keyOf: (row: Row) => Key): Promise<void>;
