// What the checkers share. A checker throws where its client's parser would fail, and tells what its user is told.

export class Fault extends Error {}

export const demand = (condition, text, value) => {
  if (!condition) throw new Fault(value === undefined ? text : `${text}: ${JSON.stringify(value)}`)
}

export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
export const isText = (value) => typeof value === 'string'
export const isTextOrNull = (value) => value === null || value === undefined || isText(value)

/** Whether `value` has all that `pattern` has. */
export const fits = (value, pattern) =>
  isObject(pattern)
    ? isObject(value) && Object.entries(pattern).every(([key, part]) => fits(value[key], part))
    : Array.isArray(pattern)
      ? Array.isArray(value) && value.length === pattern.length && pattern.every((part, i) => fits(value[i], part))
      : value === pattern

/** A JSON text, or a fault. */
export const parsed = (text) => {
  try {
    return JSON.parse(text)
  } catch {
    throw new Fault(`not JSON: ${text}`)
  }
}

/** A binary frame from the server: a user broadcast (kind 4). */
export const userBroadcast = (bytes) => {
  demand(bytes[0] === 4, 'binary frame of another kind', bytes[0])
  const [topic, event, meta, encoding] = bytes.subarray(1, 5)
  let at = 5
  const text = (length) => bytes.subarray(at, (at += length)).toString('utf8')
  const [topicText, eventText, metaText] = [text(topic), text(event), text(meta)]
  demand(metaText === '' || isObject(parsed(metaText)), 'metadata', metaText)
  return { topic: topicText, event: eventText, encoding, body: bytes.subarray(at) }
}

/** A user broadcast as a client sends it (kind 3). */
export const pushed = ({ join_ref = '', ref = '', topic, event, encoding = 1, payload }) => {
  const parts = [join_ref, ref, topic, event].map((part) => Buffer.from(part))
  const body = encoding === 0 ? Buffer.from(payload) : Buffer.from(JSON.stringify(payload))
  return Buffer.concat([Buffer.from([3, ...parts.map((part) => part.length), 0, encoding]), ...parts, body])
}

const ISO_8601 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/

export class Checker {
  /** What its user was told, in order. */
  told = []
  /** Joins by topic: what was sent, and what is known of it. */
  channels = new Map()

  tell(event) {
    this.told.push(event)
  }

  /** A frame `[join_ref, ref, topic, event, payload]` that the client sends. */
  sent([joinRef, ref, topic, event, payload]) {
    if (event === 'phx_join') {
      this.channels.set(topic, { joinRef, ref, bindings: payload.config?.postgres_changes ?? [], state: 'joining', entries: [] })
    } else if (event === 'phx_leave') {
      const channel = this.channels.get(topic)
      if (channel) channel.leaving = ref
    }
  }

  /** The frame of serializer 2.0.0, as all three read it. */
  array(text) {
    const frame = parsed(text)
    demand(Array.isArray(frame) && frame.length >= 5, 'a list of five', frame)
    const [joinRef, ref, topic, event, payload] = frame
    demand(isText(topic) && isText(event), 'topic and event are strings', frame)
    return { joinRef, ref, topic, event, payload }
  }

  /** Rows as all demand them: a type that they know, the commit's time, the rows that belong to the type. */
  change(payload) {
    demand(Array.isArray(payload.ids) && payload.ids.every((id) => Number.isInteger(id) && id < 2 ** 31), 'ids', payload.ids)
    const data = payload.data
    demand(isObject(data), 'data is an object', data)
    demand(['INSERT', 'UPDATE', 'DELETE'].includes(data.type), 'type', data.type)
    demand(isText(data.schema) && isText(data.table), 'schema and table', data)
    demand(Array.isArray(data.columns), 'columns', data.columns)
    for (const column of data.columns) demand(isText(column.name) && isText(column.type) && column.type !== '', 'column', column)
    demand(isText(data.commit_timestamp) && ISO_8601.test(data.commit_timestamp), 'commit_timestamp', data.commit_timestamp)
    if (data.type !== 'DELETE') demand(isObject(data.record), 'record', data)
    if (data.type !== 'INSERT') demand(isObject(data.old_record), 'old_record', data)
    return data
  }

  /** What is present, or a difference: each entry has a `phx_ref`. */
  present(state) {
    demand(isObject(state), 'presences by key', state)
    for (const [key, { metas }] of Object.entries(state)) {
      demand(Array.isArray(metas) && metas.length > 0 && metas.every((meta) => isText(meta.phx_ref)), `metas of ${key}`, metas)
    }
    return Object.keys(state)
  }

  difference(payload) {
    demand('joins' in payload && 'leaves' in payload, 'joins and leaves', payload)
    return { joins: this.present(payload.joins), leaves: this.present(payload.leaves) }
  }
}
