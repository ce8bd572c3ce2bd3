// Server-sent events, read piece by piece. Pure.

export class EventStream {
  #rest = ''
  #event = ''
  #data = []
  // The last id that was told, with an event or without.
  id = ''
  // Milliseconds to wait before the stream is asked for again, as the server wants it.
  retry = 1_000

  // The stream begins, or begins again: what had not ended is void.
  begin() {
    this.#rest = ''
    this.#event = ''
    this.#data = []
  }

  // Takes a piece of the stream; the events `{ event, data, id }` that end in it.
  take(piece) {
    const lines = (this.#rest + piece).split('\n')
    this.#rest = lines.pop()
    return lines.flatMap((line) => this.#line(line.replace(/\r$/, '')) ?? [])
  }

  #line(line) {
    if (line === '') {
      const event = { event: this.#event || 'message', data: this.#data.join('\n'), id: this.id }
      const isEvent = this.#data.length > 0
      this.#event = ''
      this.#data = []
      return isEvent ? event : null
    }
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/.exec(line)
    if (field === 'event') this.#event = value
    else if (field === 'data') this.#data.push(value)
    else if (field === 'id') this.id = value
    else if (field === 'retry' && /^\d+$/.test(value)) this.retry = Number(value)
    return null
  }
}
