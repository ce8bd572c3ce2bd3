import type { DeleteMutationFnParams, InsertMutationFnParams, UpdateMutationFnParams } from '@tanstack/db';
import type { Client, Key, LiveRowsUtils } from './types.js';
export declare function writer<Row extends object>(client: Client, schema: string, table: string, key: string[]): {
    insert({ transaction }: InsertMutationFnParams<Row, Key, LiveRowsUtils>): Promise<undefined>;
    update({ transaction }: UpdateMutationFnParams<Row, Key, LiveRowsUtils>): Promise<Row[]>;
    delete({ transaction }: DeleteMutationFnParams<Row, Key, LiveRowsUtils>): Promise<undefined>;
};
