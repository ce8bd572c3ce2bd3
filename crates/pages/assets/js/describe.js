// Events of the client as entries of the log. Pure.
import { redact } from './redact.js'

const SUMMARY = 160

// One line of at most 160 characters.
export const summarize = (payload) => {
  const text = payload === undefined || payload === null ? '' : typeof payload === 'string' ? payload : JSON.stringify(payload)
  const line = text.replace(/\s+/g, ' ')
  return line.length > SUMMARY ? `${line.slice(0, SUMMARY - 1)}…` : line
}

// `brief` is what of the payload the one line shows: all, unless it is told.
const entry = (group, category, time, label, payload, secrets, { latency = null, place = null, brief = (shown) => shown } = {}) => {
  const shown = redact(payload, secrets)
  return { group, category, time, label: redact(label, secrets), summary: summarize(brief(shown)), payload: shown ?? null, latency, place }
}

export const broadcast = (message, time, secrets) =>
  entry('channel', 'broadcast', time, message.event ?? 'broadcast', message.payload, secrets)

// A row change; the latency is from its commit to now, by two clocks. Its place is its position in the log, where the
// transport tells it, or else the time of its commit.
export const change = (message, time, secrets) => {
  const committed = Date.parse(message.commit_timestamp)
  const { eventType, schema, table, errors, position } = message
  const payload = { new: message.new, old: message.old, commit_timestamp: message.commit_timestamp, ...(position && { position }), ...(errors && { errors }) }
  const place = position || message.commit_timestamp
  const latency = Number.isNaN(committed) ? null : time - committed
  const brief = (shown) => (errors ? shown.errors : eventType === 'DELETE' ? shown.old : shown.new)
  return entry('channel', 'postgres', time, `${eventType} ${schema}.${table}`, payload, secrets, { latency, place, brief })
}

export const system = (message, time, secrets) => {
  const what = message.extension === 'postgres_changes' ? 'row changes' : (message.extension ?? 'system')
  const brief = (shown) => shown.message ?? shown
  return entry('channel', 'system', time, `${what}: ${message.status ?? 'told'}`, message, secrets, { brief })
}

const names = (presences) => presences.map((presence) => presence.name ?? presence.presence_ref ?? 'somebody').join(', ')

export const presence = (kind, detail, time, secrets) => {
  const labels = {
    sync: () => `${detail.online} online`,
    join: () => `${names(detail.newPresences)} joined`,
    leave: () => `${names(detail.leftPresences)} left`,
  }
  const payload = kind === 'sync' ? detail.state : { key: detail.key, presences: detail.newPresences ?? detail.leftPresences }
  return entry('channel', 'presence', time, labels[kind](), payload, secrets)
}

export const status = (label, payload, time, secrets) => entry('channel', 'system', time, label, payload, secrets)

const CATEGORIES = { transport: 'transport', push: 'transport', receive: 'transport', channel: 'channel', worker: 'worker', error: 'error' }

// What the client's logger tells; `null` for heartbeats and their answers, which would hide all else.
export const fromLogger = (kind, message, data, time, secrets) => {
  const text = String(message ?? kind)
  if (/\bheartbeat\b/.test(text) && !/timeout/.test(text)) return null
  if (kind === 'receive' && /\bphoenix phx_reply\b/.test(text)) return null
  const category = CATEGORIES[kind] ?? 'error'
  if (kind !== 'push' && kind !== 'receive') return entry('client', category, time, text, plain(data), secrets)
  // `topic event (refs)`, and before it the status of an answer; topics may have spaces.
  const event = /(\S+)(?: \([^)]*\))?$/.exec(text)?.[1] ?? text
  const status = event === 'phx_reply' ? ` ${text.split(' ', 1)}` : ''
  const label = `${kind === 'push' ? 'sent' : 'received'} ${event}${status}`
  return entry('client', category, time, label, { message: text, payload: data }, secrets, { brief: (shown) => shown.payload })
}

// Events of the browser have no enumerable properties of their own.
const plain = (data) => {
  if (typeof CloseEvent !== 'undefined' && data instanceof CloseEvent) {
    return { code: data.code, reason: data.reason, clean: data.wasClean }
  }
  if (typeof Event !== 'undefined' && data instanceof Event) return { type: data.type }
  return data
}
