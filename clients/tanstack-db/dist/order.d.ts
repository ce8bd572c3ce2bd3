interface Term {
    column: string;
    descending: boolean;
    nullsFirst: boolean;
}
/** The terms of an order. What the server would refuse is read as well as it can be: the server tells what is wrong. */
export declare function terms(order: string): Term[];
/** Compares rows by an order. Texts are compared by their characters, whatever the database's collation does. */
export declare function comparison<Row extends object>(order: string): (a: Row, b: Row) => number;
export {};
