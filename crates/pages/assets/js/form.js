// The connection form and its place in the page's address. Pure.
import { FilterError, parseFilter } from './filters.js'

export const DEFAULTS = {
  host: '',
  token: '',
  channel: 'room_a',
  presence: false,
  changes: false,
  private: false,
  schema: 'public',
  table: '*',
  event: '*',
  filter: '',
  select: [],
  live: false,
  order: '',
  limit: '',
  transport: 'websocket',
  logLevel: 'error',
}

export const EVENTS = ['*', 'INSERT', 'UPDATE', 'DELETE']
export const TRANSPORTS = ['websocket', 'sse']
export const LOG_LEVELS = ['debug', 'info', 'warning', 'error']

const FLAGS = { presence: 'enable_presence', changes: 'enable_db_changes', private: 'private_channel' }
const LOCAL = /^(localhost|127(\.\d+){3}|\[::1\]|[^/:]+\.localhost)(:\d+)?(\/|$)/i

// What a person means by a host: its scheme, name and port alone; a bare word is the ref of a Supabase project.
// What is no address is left as it is, for `validate` to complain about.
export const normalizeHost = (text) => {
  const host = text.trim()
  if (host === '') return ''
  if (!/[.:/]/.test(host) && host.toLowerCase() !== 'localhost') return projectHost(host)
  const address = /^[a-z][a-z0-9+.-]*:\/\//i.test(host) ? host : `${LOCAL.test(host) ? 'http' : 'https'}://${host}`
  try {
    const url = new URL(address.replace(/^ws(s?):/i, 'http$1:'))
    return ['http:', 'https:'].includes(url.protocol) && url.host ? url.origin : host
  } catch {
    return host
  }
}

const projectHost = (ref) => `https://${ref.trim()}.supabase.co`

export const isHost = (host) => {
  try {
    return new URL(host).origin === host && host.startsWith('http')
  } catch {
    return false
  }
}

const trimmed = (form) => ({
  ...form,
  host: normalizeHost(form.host),
  token: form.token.trim(),
  channel: form.channel.trim(),
  schema: form.schema.trim(),
  table: form.table.trim(),
  filter: form.filter.trim(),
  order: form.order.trim(),
  limit: form.limit.trim(),
})

// The form without spaces around values, and what is wrong with it by field. What a person has not come to yet, the
// host and the token, is missed only when they want to connect.
export const validate = (raw, connecting = false) => {
  const form = trimmed(raw)
  const errors = {}
  const required = ['channel', ...(form.changes ? ['schema', 'table'] : []), ...(connecting ? ['host', 'token'] : [])]
  for (const field of required) if (form[field] === '') errors[field] = "can't be blank"
  if (form.host !== '' && !isHost(form.host)) errors.host = 'is not a web address'
  if (form.changes) {
    try {
      parseFilter(form.filter)
    } catch (error) {
      if (!(error instanceof FilterError)) throw error
      errors.filter = error.message
    }
    if (form.live && (form.table === '*' || form.schema === '*')) errors[form.table === '*' ? 'table' : 'schema'] = 'must be one: live rows are those of a table'
    if (form.live && form.limit !== '' && !/^[1-9]\d{0,8}$/.test(form.limit)) errors.limit = 'must be a number of rows'
  }
  return { form, errors }
}

// The query that makes the form again. A user's token is no part of the form: it never comes here.
export const toQuery = (form) => {
  const query = new URLSearchParams()
  const put = (name, value, unless = '') => value !== unless && query.set(name, value)
  put('host', form.host)
  put('channel', form.channel)
  put('token', form.token)
  for (const [field, name] of Object.entries(FLAGS)) if (form[field]) query.set(name, 'true')
  if (form.changes) {
    put('schema', form.schema)
    put('table', form.table)
    put('event', form.event, '*')
    put('filter', form.filter)
    put('select', form.select.join(','))
    if (form.live) {
      query.set('live', 'true')
      put('order', form.order)
      put('limit', form.limit)
    }
  }
  put('transport', form.transport, DEFAULTS.transport)
  put('log_level', form.logLevel, DEFAULTS.logLevel)
  return query.toString()
}

// The form of a query; old links have `project`.
export const fromQuery = (text) => {
  const query = new URLSearchParams(text)
  const value = (name, otherwise) => query.get(name)?.trim() ?? otherwise
  const one = (name, allowed, otherwise) => allowed.find((each) => each === query.get(name)) ?? otherwise
  const project = value('project', '')
  const form = {
    ...DEFAULTS,
    host: normalizeHost(value('host', '') || (project && projectHost(project))),
    token: value('token', ''),
    channel: value('channel', DEFAULTS.channel),
    schema: value('schema', DEFAULTS.schema),
    table: value('table', DEFAULTS.table),
    filter: value('filter', ''),
    select: [...new Set(value('select', '').split(',').map((column) => column.trim()).filter(Boolean))],
    live: value('live', '') === 'true',
    order: value('order', ''),
    limit: value('limit', ''),
    event: one('event', EVENTS, '*'),
    transport: one('transport', TRANSPORTS, DEFAULTS.transport),
    logLevel: one('log_level', LOG_LEVELS, DEFAULTS.logLevel),
  }
  for (const [field, name] of Object.entries(FLAGS)) form[field] = value(name, '') === 'true'
  return form
}

// What a channel asks for of row changes, as the client takes it. Live rows come with all events: with less the table
// would not be right.
export const changesRequest = (form) => ({
  event: form.live ? '*' : form.event,
  schema: form.schema,
  table: form.table,
  ...(form.filter && { filter: form.filter }),
  ...(form.select.length > 0 && { select: form.select }),
  ...(form.live && { live: true, ...(form.order && { order: form.order }), ...(form.limit && { limit: Number(form.limit) }) }),
})

// What a stream of row changes is asked with; `since`: from where it goes on.
export const streamQuery = (form, since = null) => {
  const { event, schema, table, filter = '', select = [], live = false, order = '', limit = '' } = changesRequest(form)
  const all = { schema, table, event, filter, select: select.join(','), live: String(live), order, limit: String(limit), since: since ?? '' }
  const meant = Object.entries(all).filter(([, value]) => !['', '*', 'false'].includes(value))
  return new URLSearchParams(meant).toString()
}

// A program that does what the form does over HTTP.
const toStreamCode = (form, isUser) => {
  const token = isUser ? 'userToken' : JSON.stringify(form.token)
  const path = form.changes ? 'changes' : `broadcast/${encodeURIComponent(form.channel)}`
  const query = form.changes ? streamQuery(form) : form.private ? 'private=true' : ''
  return `${[
    `const address = new URL(${JSON.stringify(`${form.host}/realtime/v1/sse/${path}?${query}`)})`,
    `address.searchParams.set('access_token', ${token})`,
    '',
    '// It connects again by itself, and goes on where it was.',
    'const source = new EventSource(address)',
    `for (const type of ${JSON.stringify(form.changes ? ['INSERT', 'UPDATE', 'DELETE', 'gap'] : ['test'])}) {`,
    '  source.addEventListener(type, ({ lastEventId, data }) => console.log(type, lastEventId, JSON.parse(data)))',
    '}',
  ].join('\n')}\n`
}

// A program that does what the form does, with the official client or a browser's own.
export const toCode = (form, isUser = false) => {
  if (form.transport === 'sse') return toStreamCode(form, isUser)
  const literal = (value) => JSON.stringify(value)
  const lines = ["import { createClient } from '@supabase/supabase-js'", '']
  // Given as a function, the user's token is asked for again after a lost connection, and when it has to be renewed.
  const options = isUser ? ', { accessToken: async () => userToken }' : ''
  lines.push(`const supabase = createClient(${literal(form.host)}, ${literal(form.token)}${options})`)
  if (isUser) lines.push('await supabase.realtime.setAuth()')
  const config = { ...(form.private && { private: true }), broadcast: { self: true } }
  lines.push(`const channel = supabase.channel(${literal(form.channel)}, ${literal({ config })})`, '', 'channel')
  lines.push("  .on('broadcast', { event: '*' }, (message) => console.log(message))")
  if (form.changes) lines.push(`  .on('postgres_changes', ${literal(changesRequest(form))}, (change) => console.log(change))`)
  if (form.presence) lines.push("  .on('presence', { event: 'sync' }, () => console.log(channel.presenceState()))")
  if (form.presence) {
    lines.push('  .subscribe((status, error) => {', '    console.log(status, error)', "    if (status === 'SUBSCRIBED') channel.track({ name: 'somebody' })", '  })')
  } else {
    lines.push('  .subscribe((status, error) => console.log(status, error))')
  }
  return `${lines.join('\n')}\n`
}
