import assert from 'node:assert/strict'
import { test } from 'node:test'
import { change, fromLogger, presence, summarize } from '../../assets/js/describe.js'
import { explain, explainAnswer } from '../../assets/js/explain.js'
import { describeToken } from '../../assets/js/jwt.js'
import { redact } from '../../assets/js/redact.js'
import { match, pieces } from '../../assets/js/search.js'

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const jwt = (claims) => `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}.c2ln`

test('keys and tokens are not shown', () => {
  const token = jwt({ role: 'anon' })
  const shown = JSON.stringify(redact({
    text: `before ${token} after`, url: `wss://x/realtime/v1/websocket?apikey=abc123&vsn=2.0.0`, access_token: 'short',
    deep: [{ Authorization: 'Bearer xyz' }], key: 'sb_secret_abc', [token]: 1, plain: 'the my-own-key here',
  }, ['my-own-key']))
  for (const secret of [token, 'abc123', 'short', 'xyz', 'sb_secret', 'my-own-key']) assert.ok(!shown.includes(secret), secret)
  assert.ok(shown.includes('before [redacted] after') && shown.includes('vsn=2.0.0'))
})

test('long and deep values are cut', () => {
  assert.equal(redact('x'.repeat(512)).length, 512)
  assert.equal(redact('x'.repeat(515)), `${'x'.repeat(512)}… (3 more)`)
  let deep = 'bottom'
  for (let n = 0; n < 7; n++) deep = { deep }
  assert.equal(JSON.stringify(redact(deep)), '{"deep":{"deep":{"deep":{"deep":{"deep":{"deep":"{…}"}}}}}}')
  assert.equal(redact(new Uint8Array([1, 255])), '2 bytes: 01 ff')
  assert.deepEqual(Object.keys(redact(JSON.parse('{"__proto__": 1}'))), ['__proto__'])
  assert.equal(summarize({ text: 'x'.repeat(400) }).length, 160)
})

test('searching is fuzzy and shows where', () => {
  assert.deepEqual(match('ins', 'INSERT public.todos'), [[0, 3]])
  assert.deepEqual(match('itd', 'INSERT public.todos'), [[11, 12], [14, 15], [16, 17]])
  assert.deepEqual(match('abc', 'a-b-x-a-bxc'), [[6, 7], [8, 9], [10, 11]], 'the closest')
  assert.equal(match('abc', `a${'-'.repeat(20)}bc`), null, 'too far')
  assert.equal(match('zz', 'INSERT'), null)
  assert.deepEqual(match('  ', 'INSERT'), [])
  assert.deepEqual(match('todos', 'tXo todos'), [[4, 9]])
  assert.deepEqual(pieces('abc', [[1, 2]]), [{ text: 'a', hit: false }, { text: 'b', hit: true }, { text: 'c', hit: false }])
  assert.deepEqual(pieces('', []), [{ text: '', hit: false }])
})

test('tokens tell who they are for', () => {
  assert.deepEqual(describeToken(jwt({ sub: 'u1', role: 'authenticated', exp: 100 }), 100_000), { subject: 'u1', role: 'authenticated', expired: true })
  assert.deepEqual(describeToken(jwt({ email: 'é@x', sub: 'u1', exp: 101 }), 100_000), { subject: 'é@x', role: 'no role', expired: false })
  for (const bad of ['', 'a.b', 'a.b.c', `${encode([])}.${encode({})}.x`]) assert.equal(describeToken(bad, 0), null)
})

test('events become readable entries', () => {
  const row = change({ eventType: 'UPDATE', schema: 'public', table: 'todos', commit_timestamp: '1970-01-01T00:00:01Z', new: { id: 1 }, old: { id: 1 }, errors: null }, 1250, [])
  assert.deepEqual([row.label, row.latency, row.category], ['UPDATE public.todos', 250, 'postgres'])
  assert.deepEqual([row.place, row.payload.position], ['1970-01-01T00:00:01Z', undefined])
  const streamed = change({ eventType: 'DELETE', schema: 's', table: 't', commit_timestamp: '1970-01-01T00:00:01Z', old: {}, position: '0/1:1' }, 0, [])
  assert.deepEqual([streamed.place, streamed.payload.position], ['0/1:1', '0/1:1'])
  assert.equal(presence('join', { key: 'k', newPresences: [{ name: 'user_1' }] }, 0, []).label, 'user_1 joined')
  assert.equal(fromLogger('push', 'phoenix heartbeat (null, 3)', {}, 0, []), null)
  assert.equal(fromLogger('receive', 'ok phoenix phx_reply (3)', {}, 0, []), null)
  assert.equal(fromLogger('transport', 'heartbeat timeout. Attempting to re-establish connection', undefined, 0, []).category, 'transport')
  assert.equal(fromLogger('push', 'realtime:a phx_join (1, 1)', {}, 0, []).label, 'sent phx_join')
  const reply = fromLogger('receive', 'ok realtime:a b phx_reply (1)', { status: 'ok' }, 0, [])
  assert.deepEqual([reply.label, reply.summary, reply.payload.message], ['received phx_reply ok', '{"status":"ok"}', 'ok realtime:a b phx_reply (1)'])
})

test('failures are explained', async () => {
  assert.match(explainAnswer(401, '{"error":"Token has expired"}').text, /does not accept the token\. \(401\) It says: Token has expired/)
  assert.equal(explainAnswer(403, '').final, true)
  assert.match(explainAnswer(404, '{"error":"Tenant not found"}').text, /Tenant not found/)
  assert.match(explainAnswer(404, '<html>').text, /is the address right/)
  assert.equal(explainAnswer(503, '').final, false)
  assert.match(explainAnswer(400, 'not an upgrade').text, /WebSocket could not be opened/)
  const down = async () => { throw new TypeError('Failed to fetch') }
  const why = (host, fetch, page = 'http://localhost:4000/') => explain(host, 't', { fetch, page: new URL(page) })
  assert.match((await why('http://localhost:1', down)).text, /cannot be reached\. Is it running, and is the address right/)
  assert.match((await why('http://localhost:1', down, 'https://a.example')).text, /may this page connect to this computer/)
  assert.match((await why('http://a.example', down, 'https://b.example')).text, /HTTPS may not/)
  assert.equal((await why('nonsense', down)).final, true)
  const opaque = async (_, options) => options.mode === 'no-cors' ? {} : down()
  assert.match((await why('http://a.example', opaque)).text, /does not let this page read why/)
  const asked = []
  const fine = async (address) => { asked.push(String(address)); return { status: 401, text: async () => '' } }
  assert.equal((await explain('http://a.example:1', 'k&k', { fetch: fine, page: new URL('http://b.example') })).final, true)
  assert.deepEqual(asked, ['http://a.example:1/realtime/v1/websocket?apikey=k%26k&vsn=2.0.0'])
})
