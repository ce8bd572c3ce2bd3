import type { Client, Key, LiveRowsState } from './types.js';
/** One difference for the collection. */
export type Difference<Row> = {
    type: 'insert' | 'update';
    key: Key;
    value: Row;
} | {
    type: 'delete';
    key: Key;
    value: Row;
};
/** Where the rows go. */
export interface Sink<Row> {
    apply: (differences: Difference<Row>[]) => void;
    /** All rows are there. */
    ready: () => void;
    /** The server refuses. */
    refused: (error: Error) => void;
    /** Something that a person may want to know. */
    problem: (error: Error) => void;
    state: (state: LiveRowsState) => void;
}
/** A write that waits for its row. */
export interface Watch {
    /** Whether something was told about the row since `since` was called last. */
    touched: boolean;
    stop: () => void;
}
export declare class Feed<Row extends object> {
    #private;
    private readonly client;
    private readonly binding;
    private readonly keyOf;
    private readonly sink;
    /** The result as it was told, by key. */
    readonly rows: Map<Key, Row>;
    state: LiveRowsState;
    constructor(client: Client, binding: Record<string, unknown>, keyOf: (row: Row) => Key, sink: Sink<Row>);
    start(): void;
    stop(): void;
    get isOver(): boolean;
    /** Gives the collection what has come and was not given yet. */
    flush(): void;
    /** Calls `news` whenever something is told about a row, or the state changes. */
    watch(key: Key, news: () => void): Watch;
}
