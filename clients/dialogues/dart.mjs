// realtime_client of Dart: serializer 2.0.0.
import { Checker, demand, fits, isObject, isText, isTextOrNull, parsed, userBroadcast } from './common.mjs'

export default class Dart extends Checker {
  binary(bytes) {
    const { topic, event, encoding, body } = userBroadcast(bytes)
    this.tell({ broadcast: { topic, event, payload: encoding === 0 ? [...body] : parsed(body.toString()) } })
  }

  text(text) {
    const { joinRef, ref, topic, event, payload } = this.array(text)
    demand(isTextOrNull(ref) && isTextOrNull(joinRef), 'refs are strings or null', text)
    const channel = this.channels.get(topic)
    switch (event) {
      case 'phx_reply':
        demand(isText(payload.status) && isObject(payload.response), 'a reply', payload)
        if (channel?.ref === ref) return this.joined(channel, topic, payload)
        return this.tell({ reply: { topic, ref, status: payload.status } })
      case 'postgres_changes': {
        const data = this.change(payload)
        return this.tell({ change: { topic, ids: payload.ids, data } })
      }
      case 'presence_state':
        return this.tell({ presence: { topic, keys: this.present(payload) } })
      case 'presence_diff':
        return this.tell({ diff: { topic, ...this.difference(payload) } })
      case 'broadcast':
        demand(isText(payload.event), 'the name of the event', payload)
        return this.tell({ broadcast: { topic, event: payload.event, payload } })
      case 'system':
        demand(payload.status !== 'error', 'the user is told that a living channel has failed', payload)
        return this.tell({ system: { topic, ...payload } })
      case 'phx_close':
      case 'phx_error':
        if (channel?.ref !== ref) return
        this.channels.delete(topic)
        return this.tell({ [event]: { topic } })
      default:
        demand(false, 'an event that nobody listens for', event)
    }
  }

  joined(channel, topic, { status, response }) {
    demand(status === 'ok', 'a join that is refused stays in `joining`', response)
    const entries = response.postgres_changes
    if (entries !== null && entries !== undefined) {
      demand(Array.isArray(entries) && entries.length >= channel.bindings.length, 'as many entries as bindings', entries)
      channel.bindings.forEach((binding, i) => {
        const { event, schema, table, filter } = entries[i]
        const known = Object.fromEntries(Object.entries({ event, schema, table, filter }).filter(([, value]) => value !== undefined))
        const { select, ...wanted } = binding
        demand(fits(known, wanted) && fits(wanted, known), 'an entry differs from its binding', entries[i])
        demand(Number.isInteger(entries[i].id), 'id', entries[i])
      })
    }
    this.tell({ subscribed: topic })
  }
}
