// A channel of a host as server-sent events: a stream of its broadcasts, and one of row changes. What `Connection` is for
// WebSockets.
import * as describe from './describe.js'
import { EventStream } from './event-stream.js'
import { explain } from './explain.js'
import { streamQuery } from './form.js'
import { heed } from './notices.js'
import { redact } from './redact.js'

const CHANGES = ['INSERT', 'UPDATE', 'DELETE']
const SYSTEM = ['subscribed', 'caught_up', 'complete', 'anew', 'gap', 'warning', 'error', 'system']

// Answers after which it is of no use to ask again.
const FINAL = [400, 401, 403, 404]

const wait = (millis) => new Promise((resolve) => setTimeout(resolve, millis))

export class Stream {
  #form
  #secrets
  #hooks
  #headers
  #ending = new AbortController()
  // Which streams are open, of those that are wanted.
  #open = new Set()
  #wanted = []
  // The place of the last change, if there is one.
  place = null

  // `since`: the place from which row changes go on.
  constructor(form, jwt, hooks, since) {
    this.#form = form
    this.#secrets = [form.token, jwt].filter(Boolean)
    this.#hooks = hooks
    this.#headers = { apikey: form.token, authorization: `Bearer ${jwt || form.token}` }
    this.place = since
    hooks.state('connecting', 'Connecting')
    const channel = new URLSearchParams(form.private ? { private: 'true' } : {})
    this.#wanted = [['broadcast', () => `broadcast/${encodeURIComponent(form.channel)}?${channel}`]]
    if (form.changes) this.#wanted.push(['changes', (from) => `changes?${streamQuery(form, from)}`])
    for (const [name, address] of this.#wanted) this.#follow(name, address)
  }

  get #isOver() {
    return this.#ending.signal.aborted
  }

  // Reads a stream, again and again. A stream of row changes goes on where it was.
  async #follow(name, address) {
    const events = new EventStream()
    for (let from = this.place; !this.#isOver; from = (this.#form.live ? this.place : events.id) || from) {
      events.begin()
      try {
        const request = { headers: this.#headers, signal: this.#ending.signal, cache: 'no-store' }
        const answer = await fetch(`${this.#form.host}/realtime/v1/sse/${address(from)}`, request)
        if (!answer.ok) {
          if (await this.#refused(answer)) return
        } else {
          this.#opened(name, from !== null)
          await this.#read(name, events, answer.body)
        }
      } catch (error) {
        if (this.#isOver) return
        this.#add(describe.status, `stream of ${name}`, String(error.message ?? error))
      }
      await this.#lost(name)
      await wait(events.retry)
    }
  }

  async #read(name, events, body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done || this.#isOver) return
      for (const event of events.take(value)) this.#hear(name, event)
    }
  }

  #opened(name, isBack) {
    this.#open.add(name)
    if (name === 'changes') this.#hooks.live(isBack ? 'resumed' : 'joined')
    if (this.#open.size < this.#wanted.length) return
    this.#add(describe.status, 'streams are open', { channel: this.#form.channel })
    this.#hooks.state('connected', `Connected to ${this.#form.host}`)
  }

  // The host answers, but not with a stream. Whether that is final.
  async #refused(answer) {
    const text = await answer.text()
    let reason = text
    try {
      const { error, message } = JSON.parse(text)
      reason = String(message ?? error ?? text)
    } catch {
      // It is not the server that answers so.
    }
    if (this.#isOver) return true
    this.#add(describe.status, `refused (${answer.status})`, reason)
    this.#hooks.state('failed', reason)
    const isFinal = FINAL.includes(answer.status)
    if (isFinal) this.#ending.abort()
    return isFinal
  }

  async #lost(name) {
    if (this.#isOver) return
    const wasOpen = this.#open.delete(name)
    if (name === 'changes') {
      this.#hooks.table(null)
      this.#hooks.live('lost')
    }
    if (wasOpen) return this.#hooks.state('connecting', 'Reconnecting (the stream has ended)')
    if (this.#open.size > 0) return
    const { text } = await explain(this.#form.host, this.#form.token, { fetch: (...request) => fetch(...request), page: location })
    if (!this.#isOver && this.#open.size === 0) this.#hooks.state('failed', `${text} Trying again.`)
  }

  #hear(name, { event, data, id }) {
    if (this.#isOver) return
    const message = JSON.parse(data)
    if (name === 'changes' && CHANGES.includes(event)) return this.#change(message, id)
    if (SYSTEM.includes(event) && message.extension) return this.#system(message)
    this.#add(describe.broadcast, message)
  }

  #change({ type, schema, table, commit_timestamp, record = {}, old_record = {}, errors }, id) {
    // Live rows have no ids; their times serve.
    this.place = (!this.#form.live && id) || commit_timestamp
    this.#hooks.place(this.place)
    const change = { eventType: type, schema, table, commit_timestamp, new: record, old: old_record, errors }
    if (this.#form.live && !errors) {
      this.#hooks.live('change', { ...change, new: redact(record, this.#secrets), old: redact(old_record, this.#secrets) })
    } else this.#add(describe.change, { ...change, position: id })
  }

  #system(message) {
    this.#add(describe.system, message)
    if (message.extension === 'postgres_changes') heed(message, this.#form, this.#hooks, this.isJoined)
    else if (message.status === 'error') this.#hooks.state('failed', String(message.message))
  }

  #add(description, ...detail) {
    if (this.#isOver) return
    this.#hooks.entry(description(...detail, Date.now(), this.#secrets))
  }

  get isJoined() {
    return !this.#isOver && this.#open.size === this.#wanted.length
  }

  // Sends a broadcast over HTTP, since streams go one way; what went wrong, or `null`.
  async send(event, payload) {
    const messages = [{ topic: this.#form.channel, event, payload, private: this.#form.private }]
    const request = { method: 'POST', headers: { ...this.#headers, 'content-type': 'application/json' }, body: JSON.stringify({ messages }) }
    try {
      const answer = await fetch(`${this.#form.host}/realtime/v1/api/broadcast`, request)
      return answer.ok ? null : `the server refused it (${answer.status})`
    } catch {
      return 'the server cannot be reached'
    }
  }

  close() {
    this.#ending.abort()
  }
}
