import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULTS, changesRequest, fromQuery, normalizeHost, streamQuery, toCode, toQuery, validate } from '../../assets/js/form.js'

// http_and_ops 59
test('hosts become origins', () => {
  const cases = {
    abcdefgh: 'https://abcdefgh.supabase.co',
    '  abcdefgh  ': 'https://abcdefgh.supabase.co',
    'https://x.supabase.co/project/default?a=b#c': 'https://x.supabase.co',
    'wss://x.supabase.co/realtime/v1/websocket': 'https://x.supabase.co',
    'ws://localhost:4000/socket': 'http://localhost:4000',
    'localhost:4000': 'http://localhost:4000',
    localhost: 'http://localhost',
    '127.0.0.1:4000/x': 'http://127.0.0.1:4000',
    'realtime-dev.localhost:4000': 'http://realtime-dev.localhost:4000',
    'example.com:8443/a': 'https://example.com:8443',
    'https://user:pw@example.com:8443/a': 'https://example.com:8443',
    'ftp://example.com': 'ftp://example.com',
    'https://': 'https://',
    '': '',
  }
  for (const [text, host] of Object.entries(cases)) assert.equal(normalizeHost(text), host, text)
})

// http_and_ops 59
test('the address has the form and makes it again', () => {
  const form = {
    ...DEFAULTS, host: 'http://localhost:4000', token: 'key', channel: 'a b&c', presence: true, changes: true,
    private: true, table: 'todos', event: 'UPDATE', filter: 'name=eq."a,b"', select: ['id', 'name'], transport: 'sse', logLevel: 'info',
  }
  assert.deepEqual(fromQuery(toQuery(form)), form)
  assert.deepEqual(fromQuery(''), DEFAULTS)
  assert.deepEqual(fromQuery(toQuery(DEFAULTS)), DEFAULTS)
  assert.equal(toQuery({ ...form, jwt: 'secret', user: 'secret' }).includes('secret'), false)
  assert.equal(fromQuery('?project=abc&token=t').host, 'https://abc.supabase.co')
  assert.equal(fromQuery('?project=abc&host=localhost:1').host, 'http://localhost:1')
  // What `realtime dev` prints.
  const dev = fromQuery('?host=http%3A%2F%2Flocalhost%3A4000&channel=demo&token=a.b.c&enable_presence=true&enable_db_changes=true&schema=public&table=todos')
  assert.deepEqual(dev, { ...DEFAULTS, host: 'http://localhost:4000', channel: 'demo', token: 'a.b.c', presence: true, changes: true, table: 'todos' })
  assert.equal(fromQuery('?event=banana&log_level=banana').event, '*')
  assert.deepEqual(fromQuery('?select= id, ,name,id').select, ['id', 'name'])
})

// http_and_ops 60
test('what is missing or wrong is said', () => {
  assert.deepEqual(validate(DEFAULTS).errors, {})
  assert.deepEqual(validate(DEFAULTS, true).errors, { host: "can't be blank", token: "can't be blank" })
  assert.deepEqual(validate({ ...DEFAULTS, channel: '  ' }).errors, { channel: "can't be blank" })
  assert.deepEqual(validate({ ...DEFAULTS, table: ' ' }).errors, {})
  assert.deepEqual(validate({ ...DEFAULTS, changes: true, table: ' ' }).errors, { table: "can't be blank" })
  assert.deepEqual(validate({ ...DEFAULTS, host: 'http://a b' }).errors, { host: 'is not a web address' })
  assert.match(validate({ ...DEFAULTS, changes: true, filter: 'done=is.banana' }).errors.filter, /is takes/)
  const { form } = validate({ ...DEFAULTS, host: ' abc ', token: ' t ', channel: ' c ', schema: ' s ' })
  assert.deepEqual([form.host, form.token, form.channel, form.schema], ['https://abc.supabase.co', 't', 'c', 's'])
})

// http_and_ops 60
test('columns reach the client as an array', () => {
  const form = { ...DEFAULTS, changes: true, table: 'todos', event: 'INSERT', select: ['id', 'details'] }
  assert.deepEqual(changesRequest(form), { event: 'INSERT', schema: 'public', table: 'todos', select: ['id', 'details'] })
  assert.deepEqual(changesRequest({ ...form, select: [], filter: 'id=gt.1' }), { event: 'INSERT', schema: 'public', table: 'todos', filter: 'id=gt.1' })
})

test('the form as a program', () => {
  const form = { ...DEFAULTS, host: 'http://localhost:4000', token: 'a"b', changes: true, table: "o'clock", filter: 'id=gt.0', select: ['id'], private: true, presence: true }
  assert.equal(toCode(form, true), `import { createClient } from '@supabase/supabase-js'

const supabase = createClient("http://localhost:4000", "a\\"b", { accessToken: async () => userToken })
await supabase.realtime.setAuth()
const channel = supabase.channel("room_a", {"config":{"private":true,"broadcast":{"self":true}}})

channel
  .on('broadcast', { event: '*' }, (message) => console.log(message))
  .on('postgres_changes', {"event":"*","schema":"public","table":"o'clock","filter":"id=gt.0","select":["id"]}, (change) => console.log(change))
  .on('presence', { event: 'sync' }, () => console.log(channel.presenceState()))
  .subscribe((status, error) => {
    console.log(status, error)
    if (status === 'SUBSCRIBED') channel.track({ name: 'somebody' })
  })
`)
  assert.ok(!toCode(DEFAULTS).includes('postgres_changes') && !toCode(DEFAULTS).includes('setAuth'))
})

test('live rows are those of one table', () => {
  const form = { ...DEFAULTS, changes: true, table: 'todos', live: true, order: 'id.desc', limit: '5', event: 'UPDATE' }
  assert.deepEqual(changesRequest(form), { event: '*', schema: 'public', table: 'todos', live: true, order: 'id.desc', limit: 5 })
  assert.deepEqual(fromQuery(toQuery(form)), form)
  assert.deepEqual(validate(form).errors, {})
  assert.deepEqual(Object.keys(validate({ ...form, table: '*', limit: 'all' }).errors).sort(), ['limit', 'table'])
  assert.equal(changesRequest({ ...form, live: false }).live, undefined)
})

// resume 5
test('a stream is asked for what a channel is', () => {
  const form = { ...DEFAULTS, host: 'http://h', token: 't', changes: true, table: 'todos', filter: 'id=gt.1', select: ['id', 'task'], transport: 'sse' }
  assert.equal(streamQuery(form), 'schema=public&table=todos&filter=id%3Dgt.1&select=id%2Ctask')
  assert.equal(streamQuery({ ...DEFAULTS, event: 'INSERT' }, '0/1:1'), 'schema=public&event=INSERT&since=0%2F1%3A1')
  assert.equal(streamQuery({ ...form, filter: '', select: [], live: true, order: 'id', limit: '3' }), 'schema=public&table=todos&live=true&order=id&limit=3')
  assert.match(toCode(form), /new URL\("http:\/\/h\/realtime\/v1\/sse\/changes\?schema=public&table=todos/)
})
