// supabase-swift: serializer 2.0.0, broadcasts in binary frames.
import { Checker, demand, isObject, isText, parsed, userBroadcast } from './common.mjs'

export default class Swift extends Checker {
  binary(bytes) {
    const { topic, event, encoding, body } = userBroadcast(bytes)
    const payload = encoding === 0 ? [...body] : parsed(body.toString())
    demand(encoding === 0 || isObject(payload), 'the payload of a broadcast is an object', payload)
    this.tell({ broadcast: { topic, event, payload } })
  }

  text(text) {
    const { joinRef, ref, topic, event, payload } = this.array(text)
    demand(isObject(payload), 'the payload is an object: the read loop ends', payload)
    const channel = this.channels.get(topic)
    switch (event) {
      case 'phx_reply':
        demand(isText(payload.status) && isObject(payload.response), 'a reply', payload)
        if (channel?.ref === ref && payload.status === 'ok') return this.joined(channel, topic, payload.response)
        return this.tell({ reply: { topic, ref, status: payload.status } })
      case 'postgres_changes': {
        const data = this.change(payload)
        const wanted = channel.entries.filter(
          (entry) =>
            payload.ids.includes(entry.id) &&
            entry.schema === data.schema &&
            (entry.table === undefined || entry.table === data.table) &&
            (entry.event === '*' || entry.event === data.type),
        )
        demand(wanted.length > 0, 'no callback fits', payload)
        return this.tell({ change: { topic, ids: payload.ids, data } })
      }
      case 'presence_state':
        return this.tell({ presence: { topic, keys: this.present(payload) } })
      case 'presence_diff':
        return this.tell({ diff: { topic, ...this.difference(payload) } })
      case 'broadcast':
        return this.tell({ broadcast: { topic, event: payload.event, payload } })
      case 'system':
        demand(payload.status !== 'error', 'an error on a living channel', payload)
        return this.tell({ system: { topic, ...payload } })
      case 'phx_close':
      case 'phx_error':
        // Those of another join are ignored; one without a join_ref counts.
        if (isText(joinRef) && joinRef !== channel?.joinRef) return
        this.channels.delete(topic)
        return this.tell({ [event]: { topic } })
      default:
        demand(false, 'an event that nobody listens for', event)
    }
  }

  joined(channel, topic, response) {
    demand('postgres_changes' in response, 'without the key postgres_changes it is never subscribed', response)
    for (const entry of response.postgres_changes) {
      demand(Number.isInteger(entry.id) && isText(entry.schema), 'id and schema', entry)
      demand(['INSERT', 'UPDATE', 'DELETE', '*'].includes(entry.event), 'event', entry)
      demand(entry.select === undefined || (Array.isArray(entry.select) && entry.select.every(isText)), 'select', entry)
    }
    channel.entries = response.postgres_changes
    this.tell({ subscribed: topic })
  }
}
