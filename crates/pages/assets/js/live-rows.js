// The rows of a live binding as a client keeps them, with marks for what has just happened to them. Pure: time is given.

// How long a row is marked after it has entered or changed, and is seen after it has left, in milliseconds.
export const MARKED = 1_600

// More rows than these are counted, but not drawn.
export const DRAWN = 500

// The columns of an order, `created_at.desc.nullslast,id`.
const terms = (order) =>
  (order.match(/(?:"(?:[^"\\]|\\.)*"|[^,])+/g) ?? []).map((text) => {
    const [name = '', ...words] = text.trim().match(/"(?:[^"\\]|\\.)*"|[^.]+/g) ?? []
    const descending = words.includes('desc')
    return {
      column: name.startsWith('"') ? name.slice(1, -1).replace(/\\(.)/g, '$1') : name,
      descending,
      nullsFirst: words.includes('nullsfirst') || (descending && !words.includes('nullslast')),
    }
  })

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)
// Whether a row has these values; a key without columns is that of no row.
const has = (record, key) => {
  const entries = Object.entries(key)
  return entries.length > 0 && entries.every(([column, value]) => same(record[column], value))
}

export class LiveRows {
  #order
  #next = 1
  // Rows of a join that are not all there yet. Those of before are shown until then.
  #coming = null
  columns = []
  // `{ id, record, mark, changed, since }` in their order; `mark` is null, `entered`, `changed` or `left`.
  rows = []
  isComplete = false

  constructor(order = '') {
    this.#order = terms(order)
  }

  get count() {
    return this.rows.filter((row) => row.mark !== 'left').length
  }

  // The channel is joined: all rows come again.
  joined() {
    this.#coming = []
    this.isComplete = false
  }

  // The channel is joined where it was: what has changed comes, to the rows that are here.
  resumed() {
    this.#coming = null
    this.isComplete = false
  }

  // The connection is lost: the rows are those of the last time.
  lost() {
    this.#coming = null
    this.isComplete = false
  }

  change({ eventType, new: record, old }, now) {
    if (eventType === 'DELETE') return this.#leave(old, now)
    if (!same(this.columns, Object.keys(record))) this.columns = Object.keys(record)
    if (this.#coming) this.#coming.push(record)
    else this.#put(record, old ?? {}, now)
  }

  // All rows have come. What is not among them has left meanwhile.
  complete(now) {
    const coming = this.#coming
    this.#coming = null
    this.isComplete = true
    if (!coming) return
    const before = new Map(this.rows.map((row) => [row, JSON.stringify(row.record)]))
    const isFirst = this.rows.length === 0
    const known = new Map()
    for (const [row, text] of before) if (row.mark !== 'left') known.set(text, row)
    this.rows = coming.map((record) => {
      const text = JSON.stringify(record)
      const row = known.get(text)
      known.delete(text)
      before.delete(row)
      return row ?? this.#row(record, isFirst ? null : 'entered', now)
    })
    for (const row of before.keys()) this.#insert(row.mark === 'left' ? row : { ...row, mark: 'left', since: now })
  }

  // Takes marks away that were seen long enough. Returns whether there are others.
  fade(now) {
    const isOld = (row) => now - row.since >= MARKED
    this.rows = this.rows.filter((row) => !(row.mark === 'left' && isOld(row)))
    for (const row of this.rows) if (isOld(row)) row.mark = null
    return this.rows.some((row) => row.mark !== null)
  }

  #row(record, mark, now) {
    return { id: this.#next++, record, mark, changed: [], since: now }
  }

  #leave(key, now) {
    if (this.#coming) {
      this.#coming = this.#coming.filter((record) => !has(record, key))
      return
    }
    const row = this.rows.find((row) => row.mark !== 'left' && has(row.record, key))
    if (row) Object.assign(row, { mark: 'left', since: now })
  }

  #put(record, key, now) {
    const place = this.rows.findIndex((row) => row.mark !== 'left' && has(row.record, key))
    if (place < 0) {
      // It may have left a moment ago.
      this.rows = this.rows.filter((row) => !(row.mark === 'left' && same(row.record, record)))
      return this.#insert(this.#row(record, 'entered', now))
    }
    const before = this.rows[place]
    const changed = Object.keys(record).filter((column) => !same(record[column], before.record[column]))
    const row = { ...before, record, mark: 'changed', changed, since: now }
    if (this.#compare(before.record, record) === 0) this.rows[place] = row
    else {
      this.rows.splice(place, 1)
      this.#insert(row)
    }
  }

  // Puts a row behind all that the order does not put behind it.
  #insert(row) {
    const place = this.rows.findLastIndex((other) => this.#compare(other.record, row.record) <= 0)
    this.rows.splice(place + 1, 0, row)
  }

  #compare(a, b) {
    for (const { column, descending, nullsFirst } of this.#order) {
      const [x, y] = [a[column] ?? null, b[column] ?? null]
      if (x === null || y === null) {
        if (x !== y) return (x === null) === nullsFirst ? -1 : 1
      } else if (x < y || x > y) {
        return x < y === descending ? 1 : -1
      }
    }
    return 0
  }
}
