// The rows of a live binding: joins its channel, keeps the rows by key, joins again when the channel has ended.

import { equal } from './equal.js'
import type { Client, Key, LiveRowsState } from './types.js'

/** What the server says when all rows of the result were sent. */
const COMPLETE = 'Live rows are complete'

/** Codes of warnings after which no more rows come: the first two for good, the third until the database allows it again. */
const REFUSED = ['LiveResultTooLarge', 'LiveKeyNotUnique', 'RealtimeDisabledForConfiguration']

/** After a channel that the server has closed, in milliseconds; doubled up to the second number. */
const AGAIN: [number, number] = [1_000, 30_000]

/** One difference for the collection. */
export type Difference<Row> = { type: 'insert' | 'update'; key: Key; value: Row } | { type: 'delete'; key: Key; value: Row }

/** Where the rows go. */
export interface Sink<Row> {
  apply: (differences: Difference<Row>[]) => void
  /** All rows are there. */
  ready: () => void
  /** The server refuses. */
  refused: (error: Error) => void
  /** Something that a person may want to know. */
  problem: (error: Error) => void
  state: (state: LiveRowsState) => void
}

interface Change<Row> {
  eventType: string
  new: Row
  old: Row
  errors: string[] | null
}

/** A write that waits for its row. */
export interface Watch {
  /** Whether something was told about the row since `since` was called last. */
  touched: boolean
  stop: () => void
}

export class Feed<Row extends object> {
  /** The result as it was told, by key. */
  readonly rows = new Map<Key, Row>()
  state: LiveRowsState = 'connecting'
  /** Rows of a join that are not all there yet. */
  #coming: Map<Key, Row> | undefined
  #pending: Difference<Row>[] = []
  #timer: ReturnType<typeof setTimeout> | undefined
  #again: ReturnType<typeof setTimeout> | undefined
  #failures = 0
  #channel: unknown
  #over = false
  #watches = new Map<Key, Set<{ touched: boolean; news: () => void }>>()

  constructor(
    private readonly client: Client,
    private readonly binding: Record<string, unknown>,
    private readonly keyOf: (row: Row) => Key,
    private readonly sink: Sink<Row>,
  ) {}

  start(): void {
    void this.#join()
  }

  stop(): void {
    this.#over = true
    clearTimeout(this.#timer)
    clearTimeout(this.#again)
    for (const watches of this.#watches.values()) for (const watch of watches) watch.news()
    if (this.#channel) void this.client.removeChannel(this.#channel)
  }

  get isOver(): boolean {
    return this.#over
  }

  /** Gives the collection what has come and was not given yet. */
  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const differences = this.#pending
    this.#pending = []
    if (differences.length > 0) this.sink.apply(differences)
  }

  /** Calls `news` whenever something is told about a row, or the state changes. */
  watch(key: Key, news: () => void): Watch {
    const watch = { touched: false, news }
    const all = this.#watches.get(key) ?? new Set()
    this.#watches.set(key, all.add(watch))
    return Object.assign(watch, {
      stop: () => {
        all.delete(watch)
        if (all.size === 0 && this.#watches.get(key) === all) this.#watches.delete(key)
      },
    })
  }

  async #join(): Promise<void> {
    try {
      await fetchToken(this.client)
    } catch (error) {
      this.sink.problem(asError(error))
    }
    if (this.#over) return
    // Each has a topic of its own: the client has one channel per topic, with one join.
    const channel = this.client.channel(`live:${this.binding.table}:${Math.random().toString(36).slice(2)}`)
    this.#channel = channel
    const mine = <T extends unknown[]>(handle: (...values: T) => void) => (...values: T) => {
      if (!this.#over && this.#channel === channel) handle(...values)
    }
    channel
      .on('postgres_changes', this.binding, mine((change: Change<Row>) => this.#changed(change)))
      .on('system', {}, mine((message: Record<string, unknown>) => this.#told(message)))
      .subscribe(mine((status: string, error?: Error) => this.#status(status, error)))
  }

  #status(status: string, error?: Error): void {
    if (status === 'SUBSCRIBED') {
      this.#failures = 0
      this.#coming = new Map()
      return this.#become('connecting')
    }
    this.#coming = undefined
    if (error && isAnswer(error)) {
      this.sink.refused(error)
      this.#become('refused')
    } else {
      // A lost connection: the client makes a new one, and joins again.
      if (error) this.sink.problem(asError(error))
      if (this.state !== 'refused') this.#become('connecting')
    }
    if (status === 'CLOSED') this.#joinAgain()
  }

  /** The server has ended the channel, as it does when a token has expired. No client joins again by itself. */
  #joinAgain(): void {
    const [first, most] = AGAIN
    void this.client.removeChannel(this.#channel)
    this.#channel = undefined
    this.#again = setTimeout(() => void this.#join(), Math.min(first * 2 ** this.#failures++, most))
  }

  #told({ extension, status, message, code }: Record<string, unknown>): void {
    if (extension === 'postgres_changes' && status === 'ok') {
      if (message === COMPLETE) this.#complete()
    } else if (status === 'error' || REFUSED.includes(String(code))) {
      const error = new Error(String(message))
      this.sink.refused(error)
      this.#become('refused')
    } else if (status !== 'ok') {
      this.sink.problem(new Error(String(message)))
    }
  }

  #changed({ eventType, new: row, old, errors }: Change<Row>): void {
    if (errors) return this.sink.problem(new Error(errors.join(', ')))
    const key = this.keyOf(eventType === 'DELETE' ? old : row)
    if (this.#coming) {
      if (eventType === 'DELETE') this.#coming.delete(key)
      else this.#coming.set(key, row)
      return
    }
    this.#put(key, eventType === 'DELETE' ? undefined : row)
    this.#timer ??= setTimeout(() => this.flush(), 0)
  }

  /** What a client had before a join is replaced as a whole, by differences: unchanged rows do not move. */
  #complete(): void {
    const coming = this.#coming
    this.#coming = undefined
    if (coming) {
      for (const key of [...this.rows.keys()]) if (!coming.has(key)) this.#put(key, undefined)
      for (const [key, row] of coming) if (!equal(this.rows.get(key), row)) this.#put(key, row)
    }
    this.flush()
    this.#become('live')
    this.sink.ready()
  }

  /** Puts a row under a key, or takes it away. */
  #put(key: Key, row: Row | undefined): void {
    const before = this.rows.get(key)
    if (row) {
      this.rows.set(key, row)
      this.#pending.push({ type: before ? 'update' : 'insert', key, value: row })
    } else if (before) {
      this.rows.delete(key)
      this.#pending.push({ type: 'delete', key, value: before })
    }
    for (const watch of this.#watches.get(key) ?? []) {
      watch.touched = true
      watch.news()
    }
  }

  #become(state: LiveRowsState): void {
    if (state === this.state) return
    this.state = state
    this.sink.state(state)
    for (const watches of this.#watches.values()) for (const watch of watches) watch.news()
  }
}

/**
 * Has the client fetch the user's token, so that the join carries it. A token that was set by hand stays as it is. Old
 * clients cannot fetch: without an argument they would forget the token that they have.
 */
async function fetchToken({ realtime }: Client): Promise<void> {
  if (realtime.setAuth.length === 0 && !realtime._isManualToken?.()) await realtime.setAuth()
}

/** Whether the server has refused the join. Otherwise the cause is an event of the socket, or there is none. */
function isAnswer({ cause }: Error): boolean {
  const { reason, code } = (cause ?? {}) as Record<string, unknown>
  return typeof reason === 'string' && typeof code !== 'number'
}

const asError = (error: unknown) => (error instanceof Error ? error : new Error(String(error)))
