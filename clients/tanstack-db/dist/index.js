/** Live rows of Realtime as a collection of TanStack DB, over an unmodified supabase-js client. */
import { Feed } from './feed.js';
import { comparison } from './order.js';
import { settle } from './settle.js';
import { writer } from './write.js';
/** How long a write waits for its row while the rows are live, in milliseconds. */
const PATIENCE = 3_000;
/**
 * Options for `createCollection`: the rows of a table or a view that the user may see, kept equal to the database.
 *
 * Writes are shown at once. They go through `onInsert`, `onUpdate` and `onDelete`, or through `supabase.from(table)`,
 * and settle when the row comes back by the live binding. A write that fails is undone.
 */
export function liveRows(config) {
    const { supabase, table, schema = 'public', filter, order, limit, select, patience = PATIENCE } = config;
    const key = config.key ?? ['id'];
    const keyOf = config.getKey ?? ((row) => keyFrom(row, key));
    const listeners = new Set();
    let state = 'connecting';
    let feed;
    const binding = { event: '*', schema, table, live: true };
    for (const [name, value] of Object.entries({ filter, order, limit, select, key: config.key })) {
        if (value !== undefined)
            binding[name] = value;
    }
    const become = (next) => {
        state = next;
        for (const listener of listeners)
            listener(next);
    };
    const sync = ({ begin, write, commit, markReady, markError, collection }) => {
        become('connecting');
        const mine = new Feed(supabase, binding, keyOf, {
            apply: (differences) => {
                begin();
                for (const difference of differences)
                    write(difference);
                commit();
            },
            ready: markReady,
            refused: (error) => {
                config.onProblem?.(error);
                // Rows that were there stay: they are those of the last time.
                if (collection.status === 'loading')
                    markError(error);
            },
            problem: (error) => config.onProblem?.(error),
            state: become,
        });
        feed = mine;
        mine.start();
        return () => {
            if (feed === mine)
                feed = undefined;
            mine.stop();
        };
    };
    const write = writer(supabase, schema, table, key);
    const settled = async (writes, send) => {
        const rows = async () => {
            const answer = await send();
            return answer === undefined ? undefined : [answer].flat().filter((row) => typeof row === 'object' && row !== null);
        };
        await settle(() => feed, writes, patience, rows, keyOf);
    };
    const options = {
        id: config.id ?? `live:${schema}.${table}:${[filter, order, limit].filter((part) => part !== undefined).join(':')}:${Math.random().toString(36).slice(2)}`,
        getKey: keyOf,
        // Rows come whole.
        sync: { sync, rowUpdateMode: 'full' },
        onInsert: async (params) => {
            const writes = params.transaction.mutations.map((one) => ({ type: 'insert', key: one.key, values: one.modified }));
            await settled(writes, () => (config.onInsert ?? write.insert)(params));
        },
        onUpdate: async (params) => {
            const writes = params.transaction.mutations.map((one) => ({ type: 'update', key: one.key, values: one.changes }));
            await settled(writes, () => (config.onUpdate ?? write.update)(params));
        },
        onDelete: async (params) => {
            const writes = params.transaction.mutations.map((one) => ({ type: 'delete', key: one.key, values: {} }));
            await settled(writes, () => (config.onDelete ?? write.delete)(params));
        },
        utils: {
            state: () => state,
            onState: (listener) => {
                listeners.add(listener);
                return () => void listeners.delete(listener);
            },
        },
    };
    if (order !== undefined)
        options.compare = comparison(order);
    if (config.startSync !== undefined)
        options.startSync = config.startSync;
    if (config.gcTime !== undefined)
        options.gcTime = config.gcTime;
    return options;
}
function keyFrom(row, columns) {
    const values = columns.map((column) => row[column]);
    const [only] = values;
    if (values.length === 1 && (typeof only === 'string' || typeof only === 'number'))
        return only;
    return JSON.stringify(values);
}
