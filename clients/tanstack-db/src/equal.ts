// When two values are the same row, or the same value of a column.

/** Whether two JSON values are equal. */
export function equal(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (Array.isArray(a) !== Array.isArray(b)) return false
  const [left, right] = [a as Record<string, unknown>, b as Record<string, unknown>]
  const keys = Object.keys(left)
  return keys.length === Object.keys(right).length && keys.every((key) => key in right && equal(left[key], right[key]))
}

/**
 * Whether a row has the values that were written. Columns that the row does not show are not compared. The same value
 * may be written in several ways: `2` and `"2"`, a `Date` and its text.
 */
export function shows(row: object, written: object): boolean {
  return Object.entries(written).every(([column, value]) => {
    if (value === undefined || !(column in row)) return true
    const shown = (row as Record<string, unknown>)[column]
    if (value instanceof Date) return typeof shown === 'string' && Date.parse(shown) === value.getTime()
    if (equal(shown, value)) return true
    return isPlain(shown) && isPlain(value) && String(shown) === String(value)
  })
}

const isPlain = (value: unknown) => ['string', 'number', 'bigint', 'boolean'].includes(typeof value)
