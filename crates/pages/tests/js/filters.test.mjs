import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FilterError, OPERATORS, addColumns, parseFilter, printFilter } from '../../assets/js/filters.js'

const condition = (column, operator, value, not = false) => ({ column, not, operator, value })

test('filters of the specification are read', () => {
  const cases = [
    ['id=gt.0,id=lt.100', [condition('id', 'gt', '0'), condition('id', 'lt', '100')]],
    ['id=in.(1,2,3),details=eq.active', [condition('id', 'in', '1,2,3'), condition('details', 'eq', 'active')]],
    ['a=eq.x),b=eq.y),c=eq.z', [condition('a', 'eq', 'x)'), condition('b', 'eq', 'y)'), condition('c', 'eq', 'z')]],
    [`name=eq.O'Brien "x"`, [condition('name', 'eq', `O'Brien "x"`)]],
    ['name=eq."a,b",id=gt.0', [condition('name', 'eq', 'a,b'), condition('id', 'gt', '0')]],
    ['name=eq."she said \\"hi\\""', [condition('name', 'eq', 'she said "hi"')]],
    ['path=eq."C:\\\\tmp"', [condition('path', 'eq', 'C:\\tmp')]],
    ['name=eq.""', [condition('name', 'eq', '')]],
    ['tags=in.("a,b",c)', [condition('tags', 'in', '"a,b",c')]],
    ['name=eq."ab"cd', [condition('name', 'eq', '"ab"cd')]],
    ['desc=eq.5" tall,id=gt.0', [condition('desc', 'eq', '5" tall'), condition('id', 'gt', '0')]],
    ['id=not.eq.5', [condition('id', 'eq', '5', true)]],
    ['done=not.is.null', [condition('done', 'is', 'null', true)]],
    ['  ', []],
  ]
  for (const [text, expected] of cases) assert.deepEqual(parseFilter(text), expected, text)
})

// http_and_ops 60
test('filters that no server would take are refused', () => {
  for (const text of ['a=is.banana', 'wrong', 'id=foo.1', 'id=in.1,2', 'id=gt.0,', ',id=gt.0', 'a=eq.1,,b=eq.2', 'id=not.not.eq.1', '=eq.1', 'id=EQ.1']) {
    assert.throws(() => parseFilter(text), FilterError, text)
  }
  assert.throws(() => printFilter([condition('a', 'is', 'banana')]), /is takes null, true, false, unknown/)
  assert.throws(() => printFilter([condition(' ', 'eq', '1')]), /needs a column/)
  assert.throws(() => printFilter([condition('a,b', 'eq', '1')]), FilterError)
  assert.throws(() => printFilter([condition('a', 'in', '1,(2'), condition('b', 'eq', '1')]), FilterError)
})

test('what is printed is read back as it was', () => {
  const values = ['', ' ', 'x', 'a,b', 'a"b', '"', 'a."b', '(', ')', 'a\\', '\\"', ' padded ', 'not.eq.1', 'é,ü', 'a=b.c', '"quoted"']
  for (const value of values) {
    for (const operator of OPERATORS.filter((operator) => !['in', 'is'].includes(operator))) {
      const both = [condition('a', operator, value, true), condition('b', 'eq', '1')]
      assert.deepEqual(parseFilter(printFilter(both)), both, JSON.stringify(value))
    }
  }
  assert.equal(printFilter([condition(' id ', 'gt', '0'), condition('d', 'in', '(a, "b,c")')]), 'id=gt.0,d=in.(a, "b,c")')
  assert.equal(printFilter([]), '')
})

// row_security 5
test('groups, paths, arrays and ranges are read', () => {
  const cases = [
    ['or=(a.eq.1,b.gt.2)', [{ group: 'or=(a.eq.1,b.gt.2)' }]],
    ['status=eq.open,or=(owner.eq.ann,and(total.gte.100,paid.is.true),tags.cs.{urgent,new})',
      [condition('status', 'eq', 'open'), { group: 'or=(owner.eq.ann,and(total.gte.100,paid.is.true),tags.cs.{urgent,new})' }]],
    [' not.or=( a.eq.1 , not.and(b.not.in.(1,2),c.like.%x%) ) , id=gt.0', [{ group: 'not.or=( a.eq.1 , not.and(b.not.in.(1,2),c.like.%x%) )' }, condition('id', 'gt', '0')]],
    ['or=("unit.price".gt.5,data->>"a.b".eq."x,)y",seats.sl.[10,20),n.in.("a)",b))', [{ group: 'or=("unit.price".gt.5,data->>"a.b".eq."x,)y",seats.sl.[10,20),n.in.("a)",b))' }]],
    ['data->customer->>name=eq.Ann,data->n=gt.3', [condition('data->customer->>name', 'eq', 'Ann'), condition('data->n', 'gt', '3')]],
    ['tags=cs.{a,b},id=gt.0', [condition('tags', 'cs', '{a,b}'), condition('id', 'gt', '0')]],
    ['tags=not.ov.{"a}",b}', [condition('tags', 'ov', '{"a}",b}', true)]],
    ['period=ov.[2026-01-01,2026-02-01),seats=nxr.(,20]', [condition('period', 'ov', '[2026-01-01,2026-02-01)'), condition('seats', 'nxr', '(,20]')]],
    ['or=eq.1', [condition('or', 'eq', '1')]],
  ]
  for (const [text, expected] of cases) {
    assert.deepEqual(parseFilter(text), expected, text)
    assert.deepEqual(parseFilter(printFilter(expected)), expected, text)
  }
})

test('groups that no server would take are refused', () => {
  const deep = (depth) => `or=(${'and('.repeat(depth - 1)}a.eq.1${')'.repeat(depth)}`
  assert.deepEqual(parseFilter(deep(8)), [{ group: deep(8) }])
  for (const text of [
    'or=(a.eq.1', 'or=()', 'or=(a.eq.1,)', 'or=(a=eq.1)', 'or=(a.eq.1)b=eq.2', 'or=(a.foo.1)', 'or=(a.is.banana)', 'or=(a.in.1)',
    'or=(a.eq.1 and(b.eq.2))', 'or=(.eq.1)', 'or=(a)', deep(9),
  ]) {
    assert.throws(() => parseFilter(text), FilterError, text)
  }
  assert.throws(() => printFilter([{ group: 'a.eq.1' }]), /a group is written/)
  assert.throws(() => printFilter([{ group: 'or=(a.eq.1),b=eq.2' }]), FilterError)
})

test('columns are trimmed and unique', () => {
  assert.deepEqual(addColumns(['id'], ' details , id,, body'), ['id', 'details', 'body'])
})
