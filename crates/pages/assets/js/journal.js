// The event log: the newest entries, those that wait while it is paused, and what of it is visible. Pure.
import { match } from './search.js'

export const LIMIT = 500

export const GROUPS = {
  channel: ['system', 'broadcast', 'presence', 'postgres'],
  client: ['transport', 'channel', 'worker', 'error'],
}

// The newest entries of each group: what the client says of itself does not push out what happens in the channel.
class Newest {
  #groups = new Map()

  add(entry) {
    const before = this.#groups.get(entry.group) ?? []
    this.#groups.set(entry.group, [entry, ...before].slice(0, LIMIT))
  }

  // All of them, newest first.
  all() {
    return [...this.#groups.values()].flat().sort((a, b) => b.id - a.id)
  }
}

export class Journal {
  #kept = new Newest()
  #waiting = new Newest()
  #held = new Map()
  #next = 1
  paused = false

  // Entries, newest first.
  get entries() {
    return this.#kept.all()
  }

  // How many of these categories have come since the log was paused.
  held(categories) {
    return [...this.#held.values()].reduce((sum, { group, category, count }) => sum + (categories.has(group, category) ? count : 0), 0)
  }

  // Takes an entry `{ group, category, time, label, summary, payload, latency }`; a paused log shows it later.
  add(entry) {
    const numbered = { id: this.#next++, ...entry }
    if (this.paused) {
      const { group, category } = entry
      const name = `${group}/${category}`
      this.#held.set(name, { group, category, count: (this.#held.get(name)?.count ?? 0) + 1 })
      this.#waiting.add(numbered)
    } else {
      this.#kept.add(numbered)
    }
    return numbered
  }

  pause() {
    this.paused = true
  }

  // What waited comes in, in its order.
  resume() {
    for (const entry of this.#waiting.all().reverse()) this.#kept.add(entry)
    this.#waiting = new Newest()
    this.#held.clear()
    this.paused = false
  }

  clear() {
    this.#kept = new Newest()
    this.#waiting = new Newest()
    this.#held.clear()
  }
}

// Which categories are shown: those of the channel, not those of the client, until somebody changes it.
export class Categories {
  #shown = new Set(GROUPS.channel.map((category) => `channel/${category}`))

  has(group, category) {
    return this.#shown.has(`${group}/${category}`)
  }

  toggle(group, category) {
    const name = `${group}/${category}`
    if (!this.#shown.delete(name)) this.#shown.add(name)
  }

  // `all`, `some` or `none` of a group.
  of(group) {
    const shown = GROUPS[group].filter((category) => this.has(group, category)).length
    return shown === 0 ? 'none' : shown === GROUPS[group].length ? 'all' : 'some'
  }

  // All of a group, or none if all are shown.
  toggleGroup(group) {
    const wanted = this.of(group) !== 'all'
    for (const category of GROUPS[group]) if (this.has(group, category) !== wanted) this.toggle(group, category)
  }
}

// The newest 500 entries of shown categories that match, with the places that do.
export const visible = (entries, categories, query) =>
  entries.flatMap((entry) => {
    if (!categories.has(entry.group, entry.category)) return []
    if (query.trim() === '') return [{ entry, label: [], summary: [] }]
    const label = match(query, entry.label)
    const summary = match(query, entry.summary)
    return label || summary ? [{ entry, label: label ?? [], summary: summary ?? [] }] : []
  }).slice(0, LIMIT)

// Entries as NDJSON, one a line, newest first as they are shown.
export const toNdjson = (entries) =>
  entries
    .map(({ group, category, time, label, payload, latency }) =>
      JSON.stringify({ time: new Date(time).toISOString(), group, category, event: label, payload, latency_ms: latency }))
    .map((line) => `${line}\n`)
    .join('')
