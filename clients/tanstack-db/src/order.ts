// Orders as PostgREST writes them, `created_at.desc.nullslast,id`, as a comparison of rows.

interface Term {
  column: string
  descending: boolean
  nullsFirst: boolean
}

/** The terms of an order. What the server would refuse is read as well as it can be: the server tells what is wrong. */
export function terms(order: string): Term[] {
  // A name with a comma or a dot stands in double quotes.
  const found = order.match(/(?:"(?:[^"\\]|\\.)*"|[^,])+/g) ?? []
  return found.map((text) => {
    const parts = text.trim().match(/"(?:[^"\\]|\\.)*"|[^.]+/g) ?? []
    const [name = '', ...words] = parts
    const column = name.startsWith('"') ? name.slice(1, -1).replace(/\\(.)/g, '$1') : name
    const descending = words.includes('desc')
    const nullsFirst = words.includes('nullsfirst') || (descending && !words.includes('nullslast'))
    return { column, descending, nullsFirst }
  })
}

/** Compares rows by an order. Texts are compared by their characters, whatever the database's collation does. */
export function comparison<Row extends object>(order: string): (a: Row, b: Row) => number {
  const by = terms(order)
  return (a, b) => {
    for (const { column, descending, nullsFirst } of by) {
      const [x, y] = [value(a, column), value(b, column)]
      if (x === null || y === null) {
        if (x !== y) return (x === null) === nullsFirst ? -1 : 1
      } else if (x !== y) {
        const less = x < y
        if (less || x > y) return less === descending ? 1 : -1
      }
    }
    return 0
  }
}

function value(row: object, column: string): string | number | boolean | null {
  const found = (row as Record<string, unknown>)[column] ?? null
  return found !== null && typeof found === 'object' ? JSON.stringify(found) : (found as string | number | boolean | null)
}
