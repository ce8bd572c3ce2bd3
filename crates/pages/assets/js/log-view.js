// The event log on the screen.
import { copy, get, make, toast } from './dom.js'
import { GROUPS, visible } from './journal.js'
import { pieces } from './search.js'

// Between two drawings, in milliseconds, and at least this many times what the last one took: a flood of events does
// not keep the page from everything else.
const PAUSE = 60
const SHARE = 3

const time = (millis) => {
  const date = new Date(millis)
  const two = (value) => String(value).padStart(2, '0')
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

// Of a time the day is left out.
const shortPlace = (place) => place?.replace(/^\d{4}-\d{2}-\d{2}T/, '') ?? ''

const marked = (element, text, ranges) => {
  element.replaceChildren(...pieces(text, ranges).map((piece) => (piece.hit ? make('mark', { text: piece.text }) : piece.text)))
}

export class LogView {
  #journal
  #categories
  #query = ''
  #rows = new Map()
  #scheduled = false
  #took = 0
  #cleared = false
  // Entries after this one are new to the eye.
  #seen = 0

  constructor(journal, categories) {
    this.#journal = journal
    this.#categories = categories
    this.#drawCategories()
    get('search').addEventListener('input', () => {
      this.#query = get('search').value
      this.draw()
    })
  }

  // What is shown now, newest first.
  get shown() {
    return visible(this.#journal.entries, this.#categories, this.#query).map(({ entry }) => entry)
  }

  cleared() {
    this.#cleared = true
    this.draw()
  }

  // Draws soon.
  changed() {
    if (this.#scheduled) return
    this.#scheduled = true
    setTimeout(() => {
      this.#scheduled = false
      this.draw()
    }, Math.max(PAUSE, SHARE * this.#took))
  }

  draw() {
    const begun = performance.now()
    const { entries } = this.#journal
    const found = visible(entries, this.#categories, this.#query)
    const list = get('log')
    const wanted = new Set(found.map(({ entry }) => entry.id))
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue
      row.element.remove()
      this.#rows.delete(id)
    }
    let place = list.firstElementChild
    for (const { entry, label, summary } of found) {
      let row = this.#rows.get(entry.id)
      if (!row) {
        row = this.#row(entry)
        if (entry.id > this.#seen) row.element.classList.add('new')
        this.#rows.set(entry.id, row)
      }
      if (row.query !== this.#query) {
        marked(row.event, entry.label, label)
        marked(row.summary, entry.summary, summary)
        row.query = this.#query
      }
      if (row.element === place) place = place.nextElementSibling
      else list.insertBefore(row.element, place)
    }
    this.#seen = Math.max(this.#seen, entries[0]?.id ?? 0)
    this.#tell(found.length, entries.length)
    this.#took = performance.now() - begun
  }

  #tell(shown, all) {
    const { paused } = this.#journal
    const held = this.#journal.held(this.#categories)
    const searching = this.#query.trim() !== ''
    get('matches').textContent = searching ? `${shown} ${shown === 1 ? 'match' : 'matches'}` : ''
    get('pause').classList.toggle('on', paused)
    get('pause').textContent = paused ? `Resume${held ? `, ${held} new` : ''}` : 'Pause'
    get('export').disabled = shown === 0
    get('empty').hidden = shown > 0
    if (all > 0) {
      get('empty-text').textContent = searching ? 'Nothing matches' : 'Nothing to show'
      get('empty-hint').textContent = `${all} ${all === 1 ? 'event is' : 'events are'} hidden by the search or the categories.`
    } else if (this.#cleared) {
      get('empty-text').textContent = 'The log is empty'
      get('empty-hint').textContent = 'New events show up here.'
    }
  }

  #row(entry) {
    const event = make('span', { class: 'event' })
    const summary = make('span', { class: 'summary' })
    const head = make('button', { type: 'button', class: 'row-head', 'aria-expanded': 'false' },
      make('span', { class: 'badge', 'data-category': entry.category, text: entry.category }),
      make('time', { datetime: new Date(entry.time).toISOString(), text: time(entry.time) }),
      event, summary,
      make('span', { class: 'place', text: shortPlace(entry.place), title: entry.place ? `${entry.place}: its place, for \`since\`` : undefined }),
      make('span', { class: 'latency', text: entry.latency === null ? '' : `${entry.latency} ms`, title: entry.latency === null ? undefined : 'From the commit to here' }))
    const element = make('li', { class: 'row' }, head)
    head.addEventListener('click', () => {
      const open = head.getAttribute('aria-expanded') === 'true'
      head.setAttribute('aria-expanded', String(!open))
      if (open) element.lastElementChild.remove()
      else element.append(this.#detail(entry))
    })
    return { element, event, summary }
  }

  #detail(entry) {
    const text = typeof entry.payload === 'string' ? entry.payload : JSON.stringify(entry.payload, null, 2)
    return make('div', { class: 'detail' },
      make('pre', { text, tabindex: '0', 'aria-label': `Payload of ${entry.label}` }),
      make('button', {
        type: 'button', class: 'button small copy', text: 'Copy', 'aria-label': 'Copy payload',
        onclick: async () => toast((await copy(text)) ? 'Payload copied' : 'The browser does not allow copying'),
      }))
  }

  #drawCategories() {
    const update = () => {
      for (const button of get('categories').querySelectorAll('button')) {
        const { group, category } = button.dataset
        const state = category ? this.#categories.has(group, category) : { all: true, some: 'mixed', none: false }[this.#categories.of(group)]
        button.setAttribute('aria-pressed', String(state))
      }
      this.draw()
    }
    const button = (text, data, toggle) => {
      const element = make('button', { type: 'button', class: `category${data.category ? '' : ' group'}`, text, onclick: () => { toggle(); update() } })
      Object.assign(element.dataset, data)
      return element
    }
    for (const [group, categories] of Object.entries(GROUPS)) {
      const name = group === 'channel' ? 'Channel' : 'Client'
      get('categories').append(
        button(name, { group }, () => this.#categories.toggleGroup(group)),
        ...categories.map((category) => button(category, { group, category }, () => this.#categories.toggle(group, category))))
    }
    update()
  }
}
