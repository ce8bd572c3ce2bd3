// supabase-kt: serializer 2.0.0. Whatever throws while a message is handled ends the read loop, and the socket with it.
import { Checker, demand, isObject, isText, parsed, userBroadcast } from './common.mjs'

const ENTRY = ['schema', 'table', 'filter', 'event', 'id']

export default class Kotlin extends Checker {
  binary(bytes) {
    this.closes()
    const { topic, event, encoding, body } = userBroadcast(bytes)
    this.tell({ broadcast: { topic, event, payload: encoding === 0 ? [...body] : parsed(body.toString()) } })
  }

  /** The first kind that applies is what a message is. */
  text(text) {
    const { ref, topic, event, payload } = this.array(text)
    demand(isObject(payload), 'the payload is an object', payload)
    const channel = this.channels.get(topic)
    const left = this.left
    if (left && event !== 'phx_close') this.closes()
    if (event === 'broadcast') {
      demand(payload.payload === undefined || isObject(payload.payload), 'the payload of a broadcast', payload)
      return this.tell({ broadcast: { topic, event: payload.event, payload: payload.payload } })
    }
    if (event === 'phx_close') {
      demand(left?.topic === topic, 'a close that nobody asked for removes the channel, whatever its join_ref', text)
      this.left = undefined
      this.channels.delete(topic)
      return this.tell({ phx_close: { topic } })
    }
    demand(event !== 'phx_error' && payload.status !== 'error', 'all channels are deaf for half a minute', payload)
    if (event === 'postgres_changes') return this.tell({ change: { topic, ids: payload.ids, data: this.change(payload) } })
    if (event === 'phx_reply' && payload.response?.postgres_changes) return this.joined(channel, topic, payload.response)
    if (event === 'presence_state') return this.tell({ presence: { topic, keys: this.present(payload) } })
    if (event === 'presence_diff') return this.tell({ diff: { topic, ...this.difference(payload) } })
    if (event === 'system' && payload.status === 'ok') {
      for (const key of ['extension', 'status', 'message', 'channel']) demand(isText(payload[key]), key, payload)
      return this.tell({ system: { topic, ...payload } })
    }
    if (event === 'phx_reply' && payload.status === 'ok') {
      if (channel?.leaving === ref) this.left = { topic }
      return this.tell({ reply: { topic, ref, status: 'ok' } })
    }
    // Anything else is logged.
    this.tell({ logged: { topic, event, ...payload } })
  }

  /** The reply to a leave has to be followed by the channel's close. */
  closes() {
    demand(!this.left, 'something came between the reply to a leave and the close', this.left)
  }

  change(payload) {
    const data = super.change(payload)
    demand(data.type !== 'DELETE' || data.record === undefined || isObject(data.record), 'record', data)
    return data
  }

  joined(channel, topic, response) {
    const entries = response.postgres_changes
    demand(Array.isArray(entries) && entries.length === channel.bindings.length, 'one entry for each binding', entries)
    for (const entry of entries) {
      for (const key of Object.keys(entry)) demand(ENTRY.includes(key), 'an unknown key', key)
      demand(Number.isInteger(entry.id) && entry.id < 2 ** 31, 'an id of 32 bits', entry)
      for (const key of ['schema', 'event']) demand(isText(entry[key]), key, entry)
    }
    this.tell({ subscribed: topic })
  }
}
