// A list that is right whatever happens. Played with `app`, the functions of `app.js`, wherever these run.
import assert from 'node:assert/strict'
import { ask, begin, eventually } from '../../browser/ask.mjs'

const ID = { hello: 1, more: 2, shout: 3, away: 4 }
const id = (name) => `00000000-0000-4000-8000-00000000000${ID[name]}`

// Answers as PostgREST would. `hold` keeps answers back, `refuse` refuses the next write.
export class Rest {
  hold = null
  refuse = null

  answer = async (method, path, text) => {
    const url = new URL(path, 'http://rest')
    assert.equal(url.pathname, '/rest/v1/todos')
    await this.hold
    if (this.refuse) {
      const message = this.refuse
      this.refuse = null
      return { status: 403, body: { code: '42501', message } }
    }
    const body = text === null ? null : JSON.parse(text)
    const json = `'${JSON.stringify(body).replaceAll("'", "''")}'`
    if (method === 'POST') {
      const columns = Object.keys(body[0]).join(', ')
      await ask({ sql: `insert into todos (${columns}) select ${columns} from jsonb_populate_recordset(null::todos, ${json})` })
      return { status: 201, body: null }
    }
    const id = url.searchParams.get('id').replace('eq.', '')
    const where = `where id = '${id}'`
    if (method === 'PATCH') {
      const columns = Object.keys(body).join(', ')
      await ask({ sql: `update todos set (${columns}) = (select ${columns} from jsonb_populate_record(null::todos, ${json})) ${where}` })
    } else {
      await ask({ sql: `delete from todos ${where}` })
    }
    return { status: 200, body: [{ ...body, id }] }
  }
}

export const play = async (app, rest) => {
  const shows = (what, expected) => eventually(what, app.rows, expected)
  await eventually('the rows are there', async () => [await app.state(), ...(await app.problems())], ['live'])
  await shows('the first rows', ['· buy bread', '· call home', '· water plants'])

  await ask({ sql: "insert into todos (list, owner, task) values (5, 'ann', 'sing'), (6, 'ann', 'of another list'), (5, 'bob', 'of somebody else'); update todos set done = true where task = 'call home'; delete from todos where task = 'buy bread'" })
  await shows('what others change', ['✓ call home', '· sing', '· water plants'])
  await ask({ sql: "update todos set owner = 'bob' where task = 'sing'; update todos set list = 5 where task = 'of another list'; update todos set owner = 'ann' where task = 'of somebody else'" })
  await shows('rows that enter and leave', ['✓ call home', '· of another list', '· of somebody else', '· water plants'])
  await ask({ sql: "delete from todos where task like 'of %'" })
  await shows('they are deleted', ['✓ call home', '· water plants'])

  begin('writes')
  let go
  rest.hold = new Promise((resolve) => (go = resolve))
  const insertion = app.insert({ id: id('hello'), list: 5, owner: 'ann', task: 'say hello', done: false })
  assert.deepEqual(await app.rows(), ['✓ call home', '· say hello', '· water plants'], 'it is shown before it is written')
  rest.hold = null
  go()
  assert.equal(await insertion, 'settled')
  assert.deepEqual(await app.rows(), ['✓ call home', '· say hello', '· water plants'])
  assert.equal(await app.change(id('hello'), { done: true }), 'settled')
  assert.deepEqual(await app.rows(), ['✓ call home', '✓ say hello', '· water plants'])
  rest.refuse = 'no rights'
  assert.equal(await app.change(id('hello'), { task: 'stolen' }), 'no rights')
  assert.deepEqual(await app.rows(), ['✓ call home', '✓ say hello', '· water plants'], 'what is refused is undone')
  // A trigger writes it in small letters.
  assert.equal(await app.insert({ id: id('shout'), list: 5, owner: 'ann', task: 'SHOUT', done: false }), 'settled')
  assert.deepEqual(await app.rows(), ['✓ call home', '✓ say hello', '· shout', '· water plants'])
  assert.equal(await app.remove(id('hello')), 'settled')
  assert.deepEqual(await app.rows(), ['✓ call home', '· shout', '· water plants'])

  begin('the server is away')
  await ask({ stop: true })
  await eventually('it is noticed', app.state, 'connecting')
  const away = app.insert({ id: id('away'), list: 5, owner: 'ann', task: 'written meanwhile', done: false })
  await ask({ sql: "update todos set done = true where task = 'water plants'; delete from todos where task = 'call home'" })
  await shows('the rows of the last time and one more', ['✓ call home', '· shout', '· water plants', '· written meanwhile'])
  await ask({ start: true })
  assert.equal(await away, 'settled')
  await eventually('it is back', app.state, 'live')
  await shows('the rows of now', ['· shout', '✓ water plants', '· written meanwhile'])

  begin('the database is away')
  await ask({ away: true })
  await ask({ back: true })
  await ask({ sql: "delete from todos where task = 'shout'; update todos set done = false" })
  await shows('the rows of now', ['· water plants', '· written meanwhile'])

  begin('policies')
  await ask({ sql: `alter policy "one's own" on todos using (owner = 'bob')` })
  await shows('those of bob', ['· sing'])
  await ask({ sql: `alter policy "one's own" on todos using (owner = current_setting('request.jwt.claims', true)::json ->> 'sub')` })
  await shows('those of ann', ['· water plants', '· written meanwhile'])
}
