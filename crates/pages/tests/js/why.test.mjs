import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ask, question, readAnswer, readKey } from '../../assets/js/why.js'

const form = { host: 'https://a.example', token: 'anon', schema: 'public', table: 'todos', event: '*', filter: 'room=eq.1', live: false }

test('keys are columns and values', () => {
  assert.deepEqual(readKey(' id=17, kind = a=b '), { id: '17', kind: 'a=b' })
  assert.deepEqual(readKey(''), {})
  assert.throws(() => readKey('17'), /17: write column=value/)
})

test('a question is about one table', () => {
  assert.deepEqual(question(form, 'id=1'), { schema: 'public', table: 'todos', event: '*', filter: 'room=eq.1', key: { id: '1' } })
  assert.throws(() => question({ ...form, table: '*' }, ''), /one table/)
})

test('refusals are told in words', () => {
  assert.match(readAnswer(401, '{}').problem, /does not accept the token/)
  assert.match(readAnswer(429, '').problem, /some seconds/)
  assert.equal(readAnswer(422, '{"message":"no"}').problem, 'no')
  assert.equal(readAnswer(500, '<html>').problem, 'The host answered 500.')
  assert.deepEqual(readAnswer(200, '{"steps":[]}').explanation, { steps: [] })
})

test('the user counts, not the key', async () => {
  let asked
  const answer = await ask(form, 'user', '', async (url, options) => {
    asked = { url: String(url), ...options }
    return { status: 200, text: async () => '{"steps":[],"answer":"x"}' }
  })
  assert.equal(answer.explanation.answer, 'x')
  assert.equal(asked.url, 'https://a.example/realtime/v1/api/explain')
  assert.deepEqual([asked.headers.apikey, asked.headers.authorization], ['anon', 'Bearer user'])
})
