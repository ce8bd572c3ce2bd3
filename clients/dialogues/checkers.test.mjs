// Each checker finds what its client's parser would break off over.
import assert from 'node:assert'
import { test } from 'node:test'

import { Fault } from './common.mjs'
import CSharp from './csharp.mjs'
import Dart from './dart.mjs'
import Kotlin from './kotlin.mjs'
import Swift from './swift.mjs'

const breaks = (step, message) => assert.throws(step, Fault, message)
const TOPIC = 'realtime:a'
const BINDING = { event: '*', schema: 'public', table: 't' }
const ENTRY = { ...BINDING, id: 7 }
const DATA = {
  schema: 'public', table: 't', type: 'UPDATE', commit_timestamp: '2026-01-01T00:00:00.000Z',
  columns: [{ name: 'id', type: 'int4' }], record: { id: 1 }, old_record: { id: 1 }, errors: null,
}
const V2 = [Dart, Swift, Kotlin]
const join = (bindings) => ({ config: { postgres_changes: bindings } })
const without = (object, key) => Object.fromEntries(Object.entries(object).filter(([name]) => name !== key))

/** A checker that has sent a join. */
const joining = (Client, bindings = [BINDING]) => {
  const checker = new Client()
  const message = { topic: TOPIC, event: 'phx_join', payload: join(bindings), ref: '1', join_ref: '1' }
  checker.sent(Client === CSharp ? message : ['1', '1', TOPIC, 'phx_join', join(bindings)])
  return checker
}

const receive = (checker, event, payload, { ref = null, joinRef = null, topic = TOPIC } = {}) =>
  checker.text(
    JSON.stringify(checker instanceof CSharp ? { topic, event, payload, ref } : [joinRef, ref, topic, event, payload]),
  )
const reply = (checker, response, status = 'ok') => receive(checker, 'phx_reply', { status, response }, { ref: '1', joinRef: '1' })
const joined = (Client, bindings) => {
  const checker = joining(Client, bindings)
  reply(checker, { postgres_changes: (bindings ?? [BINDING]).map((binding) => ({ ...binding, id: 7 })) })
  return checker
}
const change = (checker, data) => receive(checker, 'postgres_changes', { ids: [7], data })

for (const Client of [Dart, Swift, Kotlin, CSharp]) {
  test(`${Client.name} takes what is right`, () => {
    const checker = joined(Client)
    change(checker, DATA)
    change(checker, { ...without(DATA, 'record'), type: 'DELETE' })
    receive(checker, 'system', { extension: 'system', status: 'warning', message: 'm', code: 'c', channel: 'a' })
    receive(checker, 'presence_state', { k: { metas: [{ phx_ref: 'r' }] } })
    receive(checker, 'presence_diff', { joins: {}, leaves: {} })
    assert.ok(checker.told.some((event) => event.change))
  })

  test(`${Client.name} breaks off over rows that lack something`, () => {
    for (const bad of [
      { ...DATA, commit_timestamp: null },
      without(DATA, 'commit_timestamp'),
      without(DATA, 'columns'),
      without(DATA, 'record'),
      without(DATA, 'old_record'),
      { ...without(without(DATA, 'record'), 'old_record'), type: 'DELETE' },
      { ...DATA, type: 'TRUNCATE' },
      { ...DATA, columns: [{ name: 'id' }] },
    ]) {
      breaks(() => change(joined(Client), bad), JSON.stringify(bad))
    }
    breaks(() => receive(joined(Client), 'postgres_changes', { ids: ['7'], data: DATA }))
    breaks(() => receive(joined(Client), 'postgres_changes', { ids: [2 ** 31], data: DATA }))
  })

  test(`${Client.name} breaks off over an error on a living channel`, () => {
    const system = { extension: 'postgres_changes', status: 'error', message: 'm', channel: 'a' }
    breaks(() => receive(joined(Client), 'system', system))
  })

  test(`${Client.name} breaks off over presence without refs`, () => {
    breaks(() => receive(joined(Client), 'presence_state', { k: { metas: [{}] } }))
    breaks(() => receive(joined(Client), 'presence_diff', { joins: {} }))
  })

  test(`${Client.name} breaks off over what is no message`, () => {
    for (const bad of ['', '{', '[]', '["1","1","t","e"]', '[null,null,5,"e",{}]', '5']) {
      breaks(() => joined(Client).text(bad), bad)
    }
  })
}

for (const Client of V2) {
  test(`${Client.name} breaks off over broadcasts in frames that are none`, () => {
    const frame = (kind, encoding, body) => Buffer.from([kind, TOPIC.length, 1, 0, encoding, ...Buffer.from(`${TOPIC}e${body}`)])
    joined(Client).binary(frame(4, 1, '{"x":1}'))
    joined(Client).binary(frame(4, 0, '{'))
    breaks(() => joined(Client).binary(frame(3, 1, '{}')))
    breaks(() => joined(Client).binary(frame(4, 1, '{"x":')))
  })
}

test('Dart wants the entries of its bindings', () => {
  breaks(() => reply(joining(Dart), { postgres_changes: [] }))
  breaks(() => reply(joining(Dart), { postgres_changes: [{ ...ENTRY, event: 'INSERT' }] }))
  breaks(() => reply(joining(Dart), { postgres_changes: [{ ...ENTRY, filter: '' }] }))
  breaks(() => reply(joining(Dart), { postgres_changes: [BINDING] }))
  breaks(() => reply(joining(Dart), { reason: 'x' }, 'error'))
  breaks(() => reply(joining(Dart), 'text'))
  const checker = joined(Dart)
  receive(checker, 'phx_close', {}, { ref: '0', joinRef: '0' })
  assert.ok(checker.channels.has(TOPIC), 'that of another join is ignored')
})

test('Swift is subscribed by the key alone', () => {
  breaks(() => reply(joining(Swift, []), {}))
  breaks(() => reply(joining(Swift), { postgres_changes: [without(ENTRY, 'schema')] }))
  breaks(() => reply(joining(Swift), { postgres_changes: [{ ...ENTRY, event: 'TRUNCATE' }] }))
  breaks(() => receive(joined(Swift), 'broadcast', 'text'))
  breaks(() => change(joined(Swift), { ...DATA, schema: 'other' }), 'no callback fits')
  const text = Buffer.from([4, TOPIC.length, 1, 0, 1, ...Buffer.from(`${TOPIC}e5`)])
  breaks(() => joined(Swift).binary(text), 'no object')
})

test('Kotlin breaks off over a key too many', () => {
  breaks(() => reply(joining(Kotlin), { postgres_changes: [{ ...ENTRY, select: null }] }))
  breaks(() => reply(joining(Kotlin), { postgres_changes: [{ ...ENTRY, id: 2 ** 31 }] }))
  breaks(() => reply(joining(Kotlin), { postgres_changes: [without(ENTRY, 'event')] }))
  breaks(() => reply(joining(Kotlin), { postgres_changes: [ENTRY, ENTRY] }))
  breaks(() => receive(joined(Kotlin), 'broadcast', { payload: 'text' }))
  breaks(() => receive(joined(Kotlin), 'system', { extension: 'system', status: 'ok', message: 'm' }))
  breaks(() => receive(joined(Kotlin), 'phx_reply', { status: 'error', response: {} }, { ref: '2' }))
})

test('Kotlin wants the close right behind the reply to a leave', () => {
  const leaving = () => {
    const checker = joined(Kotlin)
    checker.sent([null, '2', TOPIC, 'phx_leave', {}])
    receive(checker, 'phx_reply', { status: 'ok', response: {} }, { ref: '2' })
    return checker
  }
  receive(leaving(), 'phx_close', {}, { ref: '1', joinRef: '1' })
  breaks(() => receive(leaving(), 'presence_diff', { joins: {}, leaves: {} }))
  breaks(() => receive(joined(Kotlin), 'phx_close', {}, { ref: '0', joinRef: '0' }), 'of a join that was replaced')
})

test('C# takes a diff for the answer to a join', () => {
  breaks(() => receive(joining(CSharp), 'presence_diff', { joins: {}, leaves: {} }))
  breaks(() => joined(CSharp).binary(Buffer.from([4])))
  breaks(() => receive(joined(CSharp), 'phx_reply', { status: 'error', response: 'text' }, { ref: '2' }))
  breaks(() => receive(joined(CSharp), 'system', { status: 'ok', message: 5 }))
  breaks(() => reply(joining(CSharp), {}))
})
