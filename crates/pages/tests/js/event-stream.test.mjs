import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventStream } from '../../assets/js/event-stream.js'

// resume 5
test('events are read whatever the pieces they come in', () => {
  const text = 'retry: 1874\n\nid: 0/1:0\n\nevent: INSERT\nid: 0/1:1\ndata: {"a":\ndata: 1}\n\n: alive\n\nevent: gap\r\ndata: {}\r\n\r\n'
  const expected = [{ event: 'INSERT', data: '{"a":\n1}', id: '0/1:1' }, { event: 'gap', data: '{}', id: '0/1:1' }]
  for (const size of [1, 2, 7, text.length]) {
    const stream = new EventStream()
    const events = []
    for (let at = 0; at < text.length; at += size) events.push(...stream.take(text.slice(at, at + size)))
    assert.deepEqual([events, stream.id, stream.retry], [expected, '0/1:1', 1874], `pieces of ${size}`)
  }
})

test('what a lost stream has not ended is void, and its place stays', () => {
  const stream = new EventStream()
  stream.take('id: 5\n\nevent: INSERT\ndata: 1\nid: 6')
  stream.begin()
  assert.deepEqual(stream.take('data: 2\n\n'), [{ event: 'message', data: '2', id: '5' }])
})
