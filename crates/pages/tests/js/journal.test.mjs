import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Categories, Journal, toNdjson, visible } from '../../assets/js/journal.js'

const event = (n, category = 'broadcast', group = 'channel') => ({
  group, category, time: 1000 + n, label: `event ${n}`, summary: `{"n":${n}}`, payload: { n }, latency: null,
})
const labels = (journal) => journal.entries.map((entry) => entry.label)

// http_and_ops 61
test('the newest 500 are kept', () => {
  const journal = new Journal()
  for (let n = 1; n <= 501; n++) journal.add(event(n))
  assert.equal(journal.entries.length, 500)
  assert.deepEqual([labels(journal)[0], labels(journal)[499]], ['event 501', 'event 2'])
  // Those of the client are kept beside them, and at most 500 are shown.
  for (let n = 0; n < 600; n++) journal.add(event(n, 'transport', 'client'))
  assert.equal(journal.entries.length, 1000)
  const categories = new Categories()
  assert.equal(visible(journal.entries, categories, '').length, 500)
  categories.toggleGroup('client')
  assert.equal(visible(journal.entries, categories, '').length, 500)
})

// http_and_ops 61
test('a paused log counts what comes and shows it in order when it goes on', () => {
  const journal = new Journal()
  journal.add(event(1))
  journal.pause()
  for (let n = 2; n <= 4; n++) journal.add(event(n))
  journal.add(event(5, 'transport', 'client'))
  assert.deepEqual([journal.held(new Categories()), labels(journal)], [3, ['event 1']])
  journal.resume()
  assert.deepEqual([journal.held(new Categories()), labels(journal)], [0, ['event 5', 'event 4', 'event 3', 'event 2', 'event 1']])
  journal.pause()
  for (let n = 0; n < 700; n++) journal.add(event(n))
  assert.equal(journal.held(new Categories()), 700)
  journal.resume()
  assert.deepEqual([journal.entries.length, labels(journal)[0]], [501, 'event 699'], 'that of the client is still there')
  journal.pause()
  journal.add(event(1))
  journal.clear()
  assert.deepEqual([journal.held(new Categories()), journal.entries.length, journal.paused], [0, 0, true])
})

// http_and_ops 61
test('categories of the client are off until somebody wants them', () => {
  const journal = new Journal()
  journal.add(event(1))
  journal.add(event(2, 'transport', 'client'))
  journal.add(event(3, 'channel', 'client'))
  const categories = new Categories()
  const seen = (query = '') => visible(journal.entries, categories, query).map(({ entry }) => entry.label)
  assert.deepEqual(seen(), ['event 1'])
  assert.deepEqual([categories.of('channel'), categories.of('client')], ['all', 'none'])
  categories.toggle('client', 'transport')
  assert.deepEqual([seen(), categories.of('client')], [['event 2', 'event 1'], 'some'])
  categories.toggleGroup('client')
  assert.deepEqual(seen(), ['event 3', 'event 2', 'event 1'])
  categories.toggleGroup('channel')
  assert.deepEqual(seen('evt 3'), ['event 3'])
  assert.deepEqual(seen('n:2'), ['event 2'], 'in the payload too')
})

test('exported lines are JSON', () => {
  const text = toNdjson([{ id: 1, ...event(1), latency: 12 }, { id: 2, ...event(2) }])
  const lines = text.trimEnd().split('\n').map(JSON.parse)
  assert.deepEqual(lines[0], { time: '1970-01-01T00:00:01.001Z', group: 'channel', category: 'broadcast', event: 'event 1', payload: { n: 1 }, latency_ms: 12 })
  assert.equal(lines.length, 2)
})
