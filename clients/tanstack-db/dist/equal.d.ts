/** Whether two JSON values are equal. */
export declare function equal(a: unknown, b: unknown): boolean;
/**
 * Whether a row has the values that were written. Columns that the row does not show are not compared. The same value
 * may be written in several ways: `2` and `"2"`, a `Date` and its text.
 */
export declare function shows(row: object, written: object): boolean;
