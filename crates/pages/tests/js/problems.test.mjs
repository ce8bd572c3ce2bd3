import assert from 'node:assert/strict'
import { test } from 'node:test'
import { databasesText, duration, headline, milliseconds, nodes, peers, problems, worst } from '../../assets/js/problems.js'

const databases = (connected = 0, failing = 0) => ({ connected, failing })
const node = (id, region, status = 'ok', counts = databases()) => ({ id, region, status, databases: counts, version: '1', uptime_seconds: 5 })
const pair = (from, to, status, latency_ms = null) => ({ from, to, status, latency_ms, age_seconds: 1 })
const report = {
  status: 'slow',
  nodes: [node('b', 'us'), node('a', 'eu', 'slow'), node('c', null, 'unreachable')],
  pairs: [pair('a', 'b', 'slow', 1500), pair('b', 'a', 'ok', 10), pair('a', 'c', 'unreachable'), pair('b', 'c', 'stale', 20), pair('c', 'b', 'slow', 2500), pair('c', 'a', 'loading')],
}
const ways = (found) => found.shown.map(({ from, to }) => `${from}${to}`)

// http_and_ops 62
test('problems are sorted, and of many 200 are shown', () => {
  assert.deepEqual(ways(problems(report)), ['ac', 'bc', 'cb', 'ab'])
  assert.deepEqual(ways(problems(report, 'latency')), ['ac', 'cb', 'ab', 'bc'])
  assert.deepEqual(ways(problems(report, 'region')), ['ac', 'ab', 'cb', 'bc'])
  const many = { nodes: [node('a', 'x')], pairs: Array.from({ length: 450 }, () => pair('a', 'a', 'stale')) }
  assert.deepEqual([problems(many).shown.length, problems(many).more], [200, 250])
  assert.equal(problems({ ...many, pairs: many.pairs.slice(0, 200) }).more, 0)
})

test('nodes are found by region and sorted', () => {
  const ids = (...how) => nodes(report, ...how).map((each) => each.id)
  assert.deepEqual(ids(), ['a', 'b', 'c'])
  assert.deepEqual(ids('', 'status'), ['c', 'a', 'b'])
  assert.deepEqual(ids('', 'region'), ['a', 'c', 'b'])
  assert.deepEqual(ids(' U'), ['a', 'b'])
})

test('databases count', () => {
  assert.equal(worst(node('a', null, 'ok', databases(1, 1))), 'slow')
  assert.equal(worst(node('a', null, 'unreachable', databases(1, 0))), 'unreachable')
  assert.equal(worst(node('a', null, 'ok', databases(0, 1))), 'unreachable')
  assert.deepEqual(
    [databases(), databases(1), databases(2), databases(0, 1), databases(0, 2), databases(1, 1), databases(2, 2)].map(databasesText),
    ['', 'The database answers', 'All 2 databases answer', 'The database does not answer', 'None of 2 databases answers', '1 database does not answer, 1 does', '2 databases do not answer, 2 do'],
  )
  assert.equal(headline({ status: 'unreachable', nodes: [node('a', null, 'ok', databases(0, 1))] }), 'The database does not answer')
  assert.equal(headline({ status: 'ok', nodes: [node('a', null)] }), 'All systems work')
  assert.equal(headline(report), '2 nodes have a problem')
})

test('a node and its peers', () => {
  const found = peers(report, 'a')
  assert.deepEqual(found.map((peer) => [peer.id, peer.out?.status, peer.in?.status]), [['b', 'slow', 'ok'], ['a', undefined, undefined], ['c', 'unreachable', 'loading']])
})

test('numbers are short', () => {
  assert.deepEqual([0.042, 3.14, 1234.5, null].map(milliseconds), ['0.04 ms', '3.1 ms', '1235 ms', '–'])
  assert.deepEqual([0, 59, 61, 7200, 90000].map(duration), ['0 s', '59 s', '1 min', '2 h', '1 d'])
})
