import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LiveRows, MARKED } from '../../assets/js/live-rows.js'

const insert = (row) => ({ eventType: 'INSERT', new: row, old: {} })
const update = (row) => ({ eventType: 'UPDATE', new: row, old: { id: row.id } })
const remove = (id) => ({ eventType: 'DELETE', new: {}, old: { id } })
const SIGNS = { entered: '+', changed: '~', left: '-' }
const seen = (rows) => rows.rows.map(({ mark, record }) => `${SIGNS[mark] ?? ''}${record.id}`)
const joined = (rows, ...records) => {
  rows.joined()
  for (const record of records) rows.change(insert(record), 0)
  rows.complete(0)
}

test('rows enter, change and leave in their order', () => {
  const rows = new LiveRows('task.desc,id')
  rows.joined()
  rows.change(insert({ id: 1, task: 'b' }), 0)
  assert.deepEqual([seen(rows), rows.isComplete], [[], false], 'not before all have come')
  rows.change(insert({ id: 2, task: 'a' }), 0)
  rows.complete(0)
  assert.deepEqual([seen(rows), rows.columns], [['1', '2'], ['id', 'task']])
  rows.change(insert({ id: 3, task: 'b' }), 0)
  rows.change(update({ id: 2, task: 'c' }), 0)
  rows.change(remove(1), 0)
  assert.deepEqual([seen(rows), rows.rows[0].changed, rows.count], [['~2', '-1', '+3'], ['task'], 2])
  assert.equal(rows.fade(MARKED - 1), true)
  assert.equal(rows.fade(MARKED), false)
  assert.deepEqual(seen(rows), ['2', '3'])
})

test('after a new join only differences are marked', () => {
  const rows = new LiveRows()
  joined(rows, { id: 1, task: 'a' }, { id: 2, task: 'b' })
  const [first] = rows.rows
  rows.lost()
  assert.deepEqual([rows.isComplete, rows.count], [false, 2], 'the rows of the last time stay')
  joined(rows, { id: 1, task: 'a' }, { id: 2, task: 'c' })
  assert.deepEqual(seen(rows).sort(), ['+2', '-2', '1'])
  assert.equal(rows.rows[0].id, first.id)
})

// resume 2
test('who goes on where it was keeps its rows', () => {
  const rows = new LiveRows()
  joined(rows, { id: 1, task: 'a' }, { id: 2, task: 'b' })
  rows.lost()
  rows.resumed()
  rows.change(update({ id: 2, task: 'c' }), 0)
  rows.change(insert({ id: 3, task: 'd' }), 0)
  rows.change(update({ id: 4, task: 'e' }), 0)
  rows.change(remove(1), 0)
  assert.deepEqual([seen(rows), rows.isComplete], [['-1', '~2', '+3', '+4'], false])
  rows.complete(0)
  assert.deepEqual([rows.count, rows.isComplete], [3, true])
})

test('a row that comes back is there once, and nulls have their place', () => {
  const rows = new LiveRows('id.desc')
  rows.change(insert({ id: 1 }), 0)
  rows.change(insert({ id: 10 }), 0)
  rows.change(remove(1), 0)
  rows.change(insert({ id: 1 }), 0)
  rows.change(insert({ id: null }), 0)
  rows.change(remove(77), 0)
  rows.change({ eventType: 'DELETE', new: {}, old: {} }, 0)
  assert.deepEqual(seen(rows), ['+null', '+10', '+1'])
})
