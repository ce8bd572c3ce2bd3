// The rows of a live binding on the screen: a table that changes in place.
import { get, make, tell } from './dom.js'
import { DRAWN, LiveRows, MARKED } from './live-rows.js'

// Between two drawings, in milliseconds, and at least this many times what the last one took.
const PAUSE = 60
const SHARE = 3

// What a cell shows, and how.
const shown = (value) => {
  if (value === null || value === undefined) return { text: 'null', kind: 'null' }
  if (typeof value === 'object') return { text: JSON.stringify(value), kind: 'json' }
  return { text: String(value), kind: typeof value }
}

export class LiveView {
  #rows = new LiveRows()
  #elements = new Map()
  #columns = null
  #timer = null
  #took = 0

  // Begins anew, for rows in this order.
  begin(order) {
    this.#rows = new LiveRows(order)
    this.#elements.clear()
    this.#columns = null
    get('live-head').replaceChildren()
    get('live-body').replaceChildren()
    this.draw()
  }

  // `joined`, `complete`, `lost`, or a change.
  hear(what, change) {
    if (what === 'change') this.#rows.change(change, Date.now())
    else this.#rows[what](Date.now())
    this.#soon(Math.max(PAUSE, SHARE * this.#took))
  }

  #soon(pause) {
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      this.draw()
    }, pause)
  }

  draw() {
    const begun = performance.now()
    const hasMarks = this.#rows.fade(Date.now())
    if (this.#columns !== this.#rows.columns) this.#drawHead()
    const body = get('live-body')
    const rows = this.#rows.rows.slice(0, DRAWN)
    const wanted = new Set(rows.map(({ id }) => id))
    for (const [id, { element }] of this.#elements) {
      if (wanted.has(id)) continue
      element.remove()
      this.#elements.delete(id)
    }
    let place = body.firstElementChild
    for (const row of rows) {
      const element = this.#drawRow(row)
      if (element === place) place = place.nextElementSibling
      else body.insertBefore(element, place)
    }
    this.#tell()
    this.#took = performance.now() - begun
    // Marks are taken away in time, also when nothing more comes.
    if (hasMarks) this.#soon(MARKED / 8)
  }

  #tell() {
    const { count, isComplete, rows } = this.#rows
    get('live').dataset.state = isComplete ? 'live' : 'waiting'
    tell(get('fact-rows'), isComplete ? `${count} ${count === 1 ? 'row' : 'rows'}` : '')
    tell(get('live-more'), rows.length > DRAWN ? `… ${rows.length - DRAWN} more` : '')
    get('live-empty').hidden = rows.length > 0
    get('live-empty-text').textContent = isComplete ? 'No rows' : 'No rows yet'
  }

  #drawHead() {
    this.#columns = this.#rows.columns
    const names = this.#columns.map((name) => make('th', { scope: 'col', text: name }))
    get('live-head').replaceChildren(make('tr', {}, make('th', { class: 'mark' }, make('span', { class: 'sr-only', text: 'What has happened' })), ...names))
    // Cells belong to columns: all are made anew.
    for (const { element } of this.#elements.values()) element.remove()
    this.#elements.clear()
  }

  #drawRow({ id, record, mark, changed }) {
    let row = this.#elements.get(id)
    if (!row) {
      const cells = new Map(this.#columns.map((column) => [column, make('td')]))
      const sign = make('td', { class: 'mark' })
      row = { element: make('tr', {}, sign, ...cells.values()), sign, cells, record: null }
      this.#elements.set(id, row)
    }
    const signs = { entered: ['+', 'entered'], changed: ['~', 'changed'], left: ['−', 'left'] }
    const [sign, name] = signs[mark] ?? ['', '']
    if (row.sign.textContent !== sign) {
      row.sign.textContent = sign
      row.element.dataset.mark = name
    }
    for (const [column, cell] of row.cells) {
      if (row.record !== record) {
        const { text, kind } = shown(record[column])
        cell.textContent = text
        cell.className = kind
        cell.title = text.length > 40 ? text : ''
      }
      cell.classList.toggle('touched', mark === 'changed' && changed.includes(column))
    }
    row.record = record
    return row.element
  }
}
