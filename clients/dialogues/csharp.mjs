// realtime-csharp: serializer 1.0.0.
import { Checker, demand, isObject, isTextOrNull, parsed } from './common.mjs'

const TEXTS = ['schema', 'table', 'type', 'status', 'channel', 'extension', 'message']

export default class CSharp extends Checker {
  /** Topics with a join that is not answered. */
  open = new Set()

  sent({ topic, event, payload, ref, join_ref: joinRef }) {
    super.sent([joinRef, ref, topic, event, payload ?? {}])
    if (event === 'phx_join') this.open.add(topic)
  }

  binary() {
    demand(false, 'a binary frame')
  }

  text(text) {
    const frame = parsed(text)
    demand(isObject(frame), 'an object', frame)
    const { topic, event, payload, ref } = frame
    demand(isTextOrNull(ref) && isTextOrNull(frame.join_ref), 'refs', frame)
    demand(isObject(payload), 'payload', payload)
    for (const key of TEXTS) demand(isTextOrNull(payload[key]), `${key} is a string or null`, payload)
    demand(payload.response === undefined || payload.response === null || isObject(payload.response), 'response', payload)
    const channel = this.channels.get(topic)
    switch (event) {
      case 'phx_reply':
        if (channel?.ref === ref) {
          this.open.delete(topic)
          demand(payload.status === 'ok', 'a join that is refused', payload)
          const entries = payload.response.postgres_changes
          demand(Array.isArray(entries) && entries.length === channel.bindings.length, 'entries', entries)
          for (const { id } of entries) demand(Number.isInteger(id) && id < 2 ** 31, 'an id of 32 bits', id)
          channel.entries = entries
          // With row changes Subscribe() waits for the system message.
          if (channel.bindings.length === 0) this.tell({ subscribed: topic })
          return
        }
        return this.tell({ reply: { topic, ref, status: payload.status } })
      case 'system':
        demand(payload.status !== 'error', 'Subscribe() throws', payload)
        if (payload.status === 'ok' && payload.extension === 'postgres_changes') this.tell({ subscribed: topic })
        return this.tell({ system: { topic, ...payload } })
      case 'postgres_changes': {
        const data = this.change(payload)
        demand(channel.entries.some((entry) => payload.ids.includes(entry.id)), 'ids of no listener', payload.ids)
        return this.tell({ change: { topic, ids: payload.ids, data } })
      }
      case 'presence_state':
        return this.tell({ presence: { topic, keys: this.present(payload) } })
      case 'presence_diff':
        demand(this.open.size === 0, 'a diff is taken for the answer to the join of', [...this.open])
        return this.tell({ diff: { topic, ...this.difference(payload) } })
      case 'broadcast':
        return this.tell({ broadcast: { topic, event: payload.event, payload: payload.payload } })
      case 'phx_close':
      case 'phx_error':
        return
      default:
        demand(false, 'an event that nobody listens for', event)
    }
  }
}
