// The Inspector as a person uses it. Usage: node inspector.mjs URL TOKEN USER_TOKEN EXPIRED_TOKEN
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { ask, checkAccessibility, checkNoSidewaysScrolling, eventually, picture, run } from './browser.mjs'

const [url, token, userToken, expiredToken] = process.argv.slice(2)

const text = (page, selector) => page.textContent(selector)
const query = (page) => new URL(page.url()).searchParams
const events = (page, category) =>
  page.$$eval('#log .row', (rows, wanted) => rows
    .filter((row) => !wanted || row.querySelector('.badge').textContent === wanted)
    .map((row) => row.querySelector('.event').textContent), category)
const isVisible = (page, selector) => page.isVisible(selector)

const connect = async (page, what = 'connected') => {
  await page.click('#connect')
  await eventually(what, () => text(page, '#status'), `Connected to ${url}`)
}

const broadcast = (messages) => fetch(`${url}/realtime/v1/api/broadcast`, {
  method: 'POST',
  headers: { apikey: token, 'content-type': 'application/json' },
  body: JSON.stringify({ messages: messages.map((payload, index) => ({ topic: 'room_a', event: payload.event ?? `e${index}`, payload })) }),
}).then((answer) => assert.equal(answer.status, 202))

// Hosts, tokens, links, what is missing.
const form = async (page) => {
  await page.goto(`${url}/inspector?channel=room_a`)
  assert.equal(new URL(page.url()).pathname, '/')
  assert.equal(await page.title(), 'Inspector - Realtime')
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  assert.equal(await page.evaluate(() => document.activeElement.id), 'main', 'the first key skips the header')
  assert.equal(await page.inputValue('#host'), url, 'on a server of ones own its host is filled in')
  assert.ok(!(await page.content()).includes('supabase.co'))
  assert.deepEqual([await isVisible(page, '#log-level-field'), await isVisible(page, '#this-server')], [false, false])
  await page.click('#connect')
  assert.equal(await text(page, '#token-error'), "can't be blank")
  assert.equal(await page.evaluate(() => document.activeElement.id), 'token')
  await page.fill('#host', '')
  await page.click('#connect')
  assert.equal(await text(page, '#host-error'), "can't be blank")
  assert.equal(await page.evaluate(() => document.activeElement.id), 'host')
  await page.fill('#token', 'kept')
  await page.fill('#host', '  someref ')
  await page.press('#host', 'Tab')
  assert.equal(await page.inputValue('#host'), 'https://someref.supabase.co')
  assert.equal(await isVisible(page, '#host-error'), false)
  assert.equal(await page.inputValue('#token'), 'kept', 'the token stays when the host is edited')
  assert.equal(await isVisible(page, '#log-level-field'), true)
  await page.fill('#host', `${url}/project/default?a=b`)
  await page.press('#host', 'Tab')
  assert.equal(await page.inputValue('#host'), url)
  await page.fill('#token', ` ${token} `)
  await page.fill('#channel', '')
  await page.press('#channel', 'Tab')
  assert.equal(await text(page, '#channel-error'), "can't be blank")
  await page.fill('#channel', 'room_a')
  await page.press('#channel', 'Tab')
  assert.equal(query(page).get('token'), token)
  assert.equal(query(page).get('host'), url)

  await page.goto(`${url}/?project=old`)
  assert.equal(await page.inputValue('#host'), 'https://old.supabase.co')
  await page.click('#this-server')
  assert.equal(await page.inputValue('#host'), url)
  assert.equal(await isVisible(page, '#this-server'), false)

  // What is below the fold has a cue.
  await page.setViewportSize({ width: 1280, height: 620 })
  await page.click('label:has(#changes)')
  await eventually('there is more', () => isVisible(page, '#more-below'), true)
  await page.$eval('#form-body', (body) => body.scrollTo(0, body.scrollHeight))
  await eventually('that was all', () => isVisible(page, '#more-below'), false)
  await page.setViewportSize({ width: 1280, height: 800 })
}

// Tokens of users stay out of the address, and in this browser; channels are joined with them.
const user = async (page, joins) => {
  await page.goto(`${url}/?${new URLSearchParams({ host: url, token })}`)
  await page.click('#user-fold summary')
  assert.deepEqual([await isVisible(page, '#by-password'), await isVisible(page, '#make-token')], [false, true], 'this server has no log-in')
  const use = async (jwt) => {
    await page.fill('#jwt', jwt)
    await page.click('#use-jwt')
  }
  await use('nonsense')
  assert.equal(await text(page, '#user-subject'), 'unreadable token')
  await page.click('#sign-out')
  await use(expiredToken)
  assert.equal(await isVisible(page, '#user-expired'), true)
  await page.click('#sign-out')
  await use(userToken)
  assert.deepEqual([await text(page, '#user-subject'), await text(page, '#user-role'), await isVisible(page, '#user-expired')], ['ann@example.com', 'authenticated', false])
  assert.ok(!page.url().includes(userToken) && page.url().includes(token))
  await connect(page)
  assert.equal(joins.at(-1).access_token, userToken)
  assert.ok(joins.address.includes(`apikey=${token}`) && !joins.address.includes(userToken))
  await page.reload()
  await eventually('the user is remembered', () => text(page, '#user-brief'), 'ann@example.com')
  await page.goto(`${url}/?host=http://other.example`)
  assert.equal(await text(page, '#user-brief'), 'anonymous', 'another host gets nothing')
  await page.goto(`${url}/?host=${encodeURIComponent(url)}`)
  await eventually('the user is back', () => text(page, '#user-brief'), 'ann@example.com')
  await page.click('#share')
  const copied = () => page.evaluate(() => navigator.clipboard.readText())
  await eventually('a link', copied, /^http:\/\/localhost/)
  assert.ok(!(await copied()).includes(userToken))
  await page.click('#copy-code')
  await eventually('a program', copied, /^import /)
  const code = await copied()
  assert.ok(code.includes(`createClient("${url}", "${token}", { accessToken: async () => userToken })`) && !code.includes(userToken))
  await page.click('#clear-saved')
  assert.equal(await text(page, '#user-brief'), 'anonymous')
  assert.equal(await page.evaluate(() => localStorage.getItem('realtime.inspector')), null)
  // Another host may have a log-in; this one has none, and does not let other pages ask: the person is told.
  const elsewhere = url.replace('localhost', '127.0.0.1')
  await page.fill('#host', elsewhere)
  await page.press('#host', 'Tab')
  await page.fill('#token', token)
  if ((await page.getAttribute('#user-fold', 'open')) === null) await page.click('#user-fold summary')
  await page.fill('#email', 'ann@example.com')
  await page.fill('#password', 'secret')
  await page.click('#sign-in')
  await eventually('sign-in fails', () => text(page, '#user-error'), /Not signed in: the host cannot be reached, or does not let this page sign in/)
  // What a gateway would answer; that the request is right is what is tested here.
  const asked = []
  await page.route(`${elsewhere}/auth/v1/token**`, async (route) => {
    const request = route.request()
    asked.push([request.method(), new URL(request.url()).search, request.headers().apikey, request.postDataJSON()])
    const good = request.postDataJSON().password === 'secret'
    const headers = { 'access-control-allow-origin': '*' }
    await route.fulfill(good ? { headers, json: { access_token: userToken } } : { headers, status: 400, json: { error_description: 'Invalid login credentials' } })
  })
  await page.fill('#password', 'guess')
  await page.press('#password', 'Enter')
  await eventually('a wrong password', () => text(page, '#user-error'), 'Not signed in: Invalid login credentials')
  await page.fill('#password', 'secret')
  await page.click('#sign-in')
  await eventually('signed in', () => text(page, '#user-subject'), 'ann@example.com')
  assert.deepEqual(asked.at(-1), ['POST', '?grant_type=password', token, { email: 'ann@example.com', password: 'secret' }])
  await page.click('#sign-out')
  assert.equal(await page.inputValue('#password'), '')
}

// Rows of each kind, with a filter and columns.
const rows = async (page, joins) => {
  await page.goto(`${url}/?${new URLSearchParams({ host: url, token, enable_db_changes: 'true', table: 'test', filter: 'id=is.banana', log_level: 'warning' })}`)
  await page.click('#connect')
  assert.match(await text(page, '#filter-error'), /is takes null, true, false, unknown/)
  assert.equal(await text(page, '#status'), 'Not connected')
  await page.click('#edit-where')
  assert.match(await text(page, '#filter-note'), /id=is\.banana cannot be read/)
  await page.keyboard.press('Escape')
  assert.equal(query(page).get('filter'), 'id=is.banana', 'Esc changes nothing')
  await page.click('#edit-where')
  await page.click('#add-condition')
  await page.fill('.condition .column', 'id')
  await page.selectOption('.condition .operator', 'gt')
  await page.fill('.condition .value', '1')
  for (const column of ['id', ' details , id']) {
    await page.fill('#column-input', column)
    await page.press('#column-input', 'Enter')
  }
  assert.equal(await text(page, '#preview'), 'filter: id=gt.1\nselect: ["id","details"]')
  await page.click('#add-group')
  await page.fill('.condition .group', 'or=(id.gt.1')
  assert.match(await text(page, '#filter-dialog-error'), /no closing parenthesis/)
  await page.fill('.condition .group', 'or=(id.gt.1,and(details.is.null,id.lt.9))')
  assert.equal(await text(page, '#preview'), 'filter: id=gt.1,or=(id.gt.1,and(details.is.null,id.lt.9))\nselect: ["id","details"]')
  await checkAccessibility(page, 'the editor')
  await page.click('.of-group .remove')
  assert.equal(await text(page, '#preview'), 'filter: id=gt.1\nselect: ["id","details"]')
  await page.click('#filter-apply')
  assert.deepEqual([query(page).get('filter'), query(page).get('select')], ['id=gt.1', 'id,details'])

  await connect(page)
  await eventually('rows are confirmed', () => text(page, '#fact-table'), 'public.test')
  await eventually('the heartbeat is timed', () => text(page, '#fact-rtt'), /^\d+ ms$/)
  const join = joins.at(-1)
  assert.deepEqual(join.config.postgres_changes, [{ event: '*', schema: 'public', table: 'test', filter: 'id=gt.1', select: ['id', 'details'] }])
  assert.match(joins.address, /log_level=warning/)
  await ask({ sql: "insert into test (details) values ('hidden'), ('seen'); update test set details = 'new' where id = 2; delete from test" })
  await eventually('three changes', () => events(page, 'postgres'), ['DELETE public.test', 'UPDATE public.test', 'INSERT public.test'])
  assert.match(await text(page, '#log .row:has-text("INSERT") .latency'), /^-?\d+ ms$/)
  assert.equal(await text(page, '#log .row:has-text("INSERT") .summary'), '{"id":2,"details":"seen"}')

  await page.click('.segments label:has(input[value=DELETE])')
  assert.equal(await isVisible(page, '#changed'), true)
  await page.click('#clear')
  await connect(page)
  await eventually('rows are confirmed again', () => text(page, '#fact-table'), 'public.test')
  assert.equal(joins.at(-1).config.postgres_changes[0].event, 'DELETE')
  await ask({ sql: "insert into test (details) values ('x'); delete from test" })
  await eventually('deletes alone', () => events(page, 'postgres'), ['DELETE public.test'])
}

// Live rows: a table that changes in place, and is right after the server was away.
const cells = (page) => page.$$eval('#live-body tr', (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent).join('|')))
const live = async (page, joins) => {
  await page.goto(`${url}/?${new URLSearchParams({ host: url, token, enable_db_changes: 'true', live: 'true', order: 'task' })}`)
  await page.click('#connect')
  assert.match(await text(page, '#table-error'), /must be one/)
  await page.fill('#table', 'todos')
  await page.fill('#limit', '0')
  await page.press('#limit', 'Tab')
  assert.equal(await text(page, '#limit-error'), 'must be a number of rows')
  await page.fill('#limit', '3')
  await ask({ sql: "truncate todos restart identity; insert into todos (task) values ('b'), ('c'), ('d')" })
  await connect(page)
  assert.deepEqual(joins.at(-1).config.postgres_changes, [{ event: '*', schema: 'public', table: 'todos', live: true, order: 'task', limit: 3 }])
  await eventually('the rows', () => cells(page), ['|1|b|false', '|2|c|false', '|3|d|false'])
  assert.equal(await text(page, '#fact-rows'), '3 rows')
  await ask({ sql: "begin; insert into todos (task) values ('a'); update todos set done = true where id = 2; end" })
  await eventually('what has happened', () => cells(page), ['+|4|a|false', '|1|b|false', '~|2|c|true', '−|3|d|false'])
  assert.deepEqual(await page.$$eval('#live-body .touched', (touched) => touched.map((cell) => cell.textContent)), ['true'])
  await eventually('the marks go', () => cells(page), ['|4|a|false', '|1|b|false', '|2|c|true'])
  assert.deepEqual(await events(page, 'postgres'), [], 'they are no events of the log')
  await page.click('#view-log')
  assert.deepEqual([await isVisible(page, '#live'), await isVisible(page, '#log')], [false, true])
  await page.click('#view-rows')
  await ask({ stop: true })
  await eventually('it reconnects', () => text(page, '#status'), /^Reconnecting \(/)
  assert.equal((await cells(page)).length, 3, 'the rows of the last time stay')
  await ask({ sql: 'delete from todos where id = 4' })
  await ask({ start: true })
  await eventually('the rows of now', () => cells(page), ['|1|b|false', '|2|c|true', '|3|d|false'])
  await ask({ sql: 'truncate todos restart identity' })
  await eventually('none', () => text(page, '#live-empty-text'), 'No rows')
}

// Going on where it was: what was missed comes, by both transports, as events and as live rows.
const resume = async (page) => {
  const open = (transport, more = {}) => page.goto(`${url}/?${new URLSearchParams({ host: url, token, enable_db_changes: 'true', table: 'todos', ...(transport === 'sse' && { transport }), ...more })}`)
  const tasks = () => page.$$eval('#log .row', (rows) => rows
    .filter((row) => row.querySelector('.badge').textContent === 'postgres')
    .map((row) => JSON.parse(row.querySelector('.summary').textContent).task).reverse())
  const isTold = (message) => page.$$eval('#log .row .summary', (all, message) => all.some((summary) => summary.textContent === message), message)
  for (const [transport, place] of [['websocket', /^\d{4}-\d\d-\d\dT.*Z$/], ['sse', /^[0-9A-F]+\/[0-9A-F]+:1$/]]) {
    await open(transport)
    assert.equal(await page.isChecked(`input[value=${transport}]`), true)
    await connect(page, `connected by ${transport}`)
    await eventually('rows are confirmed', () => text(page, '#fact-table'), 'public.todos')
    assert.equal(await isVisible(page, '#resume'), false, 'there is nothing to go on from')
    await ask({ sql: "insert into todos (task) values ('seen')" })
    await eventually('its place', () => text(page, '#fact-place'), place)
    assert.ok((await text(page, '#fact-place')).endsWith(await text(page, '#log .row:has-text("INSERT") .place')))
    await page.click('#send')
    await eventually('the broadcast comes back', () => events(page, 'broadcast'), ['test'])
    await checkAccessibility(page, `a place by ${transport}`)
    await page.click('#disconnect')
    await ask({ sql: "insert into todos (task) values ('missed')" })
    await page.click('#resume')
    await eventually('it goes on', () => text(page, '#status'), `Connected to ${url}`)
    await eventually('it has caught up', () => isTold('Caught up'), true)
    // A time says less than a position: the change of that time comes again.
    assert.deepEqual(await tasks(), transport === 'sse' ? ['seen', 'missed'] : ['seen', 'seen', 'missed'])
    await ask({ sql: "insert into todos (task) values ('live')" })
    await eventually('what is new', async () => (await tasks()).at(-1), 'live')

    await ask({ sql: "truncate todos restart identity; insert into todos (task) values ('a'), ('b'), ('c')" })
    await open(transport, { live: 'true', order: 'id' })
    await connect(page)
    await eventually('the rows', () => cells(page), ['|1|a|false', '|2|b|false', '|3|c|false'])
    await page.click('#disconnect')
    await ask({ sql: "update todos set done = true where id = 1; delete from todos where id = 2; insert into todos (task) values ('d')" })
    await page.click('#resume')
    await eventually('the rows of now', () => cells(page), ['|1|a|true', '|3|c|false', '|4|d|false'])
    await ask({ sql: 'truncate todos restart identity' })
    await eventually('none', () => text(page, '#live-empty-text'), 'No rows')
  }
  await page.setViewportSize({ width: 400, height: 780 })
  await checkNoSidewaysScrolling(page, 'the place on a telephone')
  await checkAccessibility(page, 'the place on a telephone')
  await page.setViewportSize({ width: 1280, height: 800 })
}

// Broadcasts, and who is here.
const channel = async (context, page) => {
  await page.goto(`${url}/?${new URLSearchParams({ host: url, token, enable_presence: 'true' })}`)
  await connect(page)
  await eventually('one is online', () => text(page, '#fact-online'), '1 online')
  await page.click('#send')
  await eventually('the broadcast comes back', () => events(page, 'broadcast'), ['test'])
  await page.fill('#send-payload', '{oops')
  await page.click('#send')
  assert.match(await text(page, '#send-error'), /^invalid JSON: /)
  await page.fill('#send-payload', '')
  await page.click('#send')
  assert.equal(await text(page, '#send-error'), "payload can't be blank")

  const other = await context.newPage()
  await other.goto(page.url())
  await connect(other)
  for (const each of [page, other]) await eventually('two are online', () => text(each, '#fact-online'), '2 online')
  await other.close()
  await eventually('one has left', () => text(page, '#fact-online'), '1 online')
  await eventually('that shows', async () => (await events(page, 'presence')).some((label) => /^user_\d+ left$/.test(label)), true)
}

// The log: what is kept, hidden, found, exported.
const log = async (page) => {
  await page.goto(`${url}/?${new URLSearchParams({ host: url, token })}`)
  await connect(page)
  assert.deepEqual(await events(page, 'transport'), [])
  await page.click('[data-group=client][data-category=transport]')
  await eventually('the join shows', async () => (await events(page, 'transport')).some((label) => label.includes('phx_join')), true)
  assert.ok(!(await events(page)).some((label) => label.includes('heartbeat')))
  await page.click('[data-group=client][data-category=transport]')
  await page.click('#clear')
  await eventually('the log is empty', () => text(page, '#empty-text'), 'The log is empty')

  await broadcast([{ event: 'first', note: `a key ${token} and a token ${userToken}`, apikey: 'plain', long: 'x'.repeat(600) }])
  await eventually('it comes', () => events(page), ['first'])
  await page.click('.row-head')
  const detail = await text(page, '.row pre')
  assert.ok(!detail.includes(token) && !detail.includes(userToken) && !detail.includes('plain') && detail.includes('[redacted]') && detail.includes('(88 more)'), detail)

  await page.click('#pause')
  await broadcast([{ event: 'second' }, { event: 'third' }])
  await eventually('they wait', () => text(page, '#pause'), 'Resume, 2 new')
  assert.deepEqual(await events(page), ['first'])
  await page.click('#pause')
  await eventually('they come', () => events(page), ['third', 'second', 'first'])
  await page.fill('#search', 'tird')
  await eventually('one is found', async () => [await events(page), await text(page, '#matches')], [['third'], '1 match'])
  assert.equal(await page.$$eval('.row .event mark', (marks) => marks.map((mark) => mark.textContent).join('')), 'tird')
  await page.fill('#search', '')
  await page.click('#clear')

  await broadcast(Array.from({ length: 501 }, (_, n) => ({ n })))
  await eventually('500 are kept', async () => {
    const found = await events(page)
    return [found.length, found[0], found.at(-1)]
  }, [500, 'e500', 'e1'])
  await page.fill('#search', 'e49')
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')])
  const exported = (await readFile(await download.path(), 'utf8')).trimEnd().split('\n').map(JSON.parse)
  assert.deepEqual(exported.map(({ event }) => event), await events(page))
  assert.ok(exported.some(({ event, payload, category }) => event === 'e49' && payload.n === 49 && category === 'broadcast'))
  await page.fill('#search', '')
}

// Failures in words.
const failures = async (page) => {
  const open = (more) => page.goto(`${url}/?${new URLSearchParams({ host: url, token, ...more })}`)
  await open({ token: 'wrong' })
  await page.click('#connect')
  await eventually('a wrong token', () => text(page, '#status'), /does not accept the token\. \(401\) It says: The token provided is not a valid JWT.*`realtime token` makes one/)
  await open({ token: expiredToken })
  await page.click('#connect')
  await eventually('an old token', () => text(page, '#status'), /Token has expired/)
  await open({ host: 'http://localhost:1' })
  await page.click('#connect')
  await eventually('nobody there', () => text(page, '#status'), /^http:\/\/localhost:1 cannot be reached/)
  await open({ private_channel: 'true' })
  await page.click('#connect')
  await eventually('no policy', () => text(page, '#status'), /You do not have permissions to read from this Channel topic: room_a/)
  // A policy for those who are signed in lets the user in, who may not write.
  await ask({ sql: 'create policy reads on realtime.messages for select to authenticated using (true)' })
  await page.click('#user-fold summary')
  await page.fill('#jwt', userToken)
  await page.click('#use-jwt')
  await connect(page, 'the user is let in')
  await page.click('#send')
  await eventually('but may not write', () => text(page, '#send-error'), 'the server refused it')
  await page.click('#sign-out')
  await open({ enable_db_changes: 'true', table: 'nowhere' })
  await page.click('#connect')
  await eventually('no table', () => text(page, '#status'), /Unable to subscribe to changes/)
  assert.equal(await page.getAttribute('#status-line', 'data-state'), 'failed')
}

// The table in both themes and on a telephone.
const liveLooks = async (browser) => {
  const link = `${url}/?${new URLSearchParams({ host: url, token, enable_db_changes: 'true', table: 'todos', live: 'true', order: 'id' })}`
  for (const [name, options] of [['light', { colorScheme: 'light' }], ['dark', { colorScheme: 'dark' }], ['phone', { viewport: { width: 400, height: 780 }, hasTouch: true }]]) {
    await ask({ sql: "truncate todos restart identity; insert into todos (task, done) values ('Say hello', true), ('Water the plants', false), ('Call home', false), ('Buy bread', false), (null, false)" })
    const context = await browser.profile(options)
    const page = await context.newPage()
    await page.goto(link)
    await connect(page)
    await eventually('the rows', async () => (await cells(page)).length, 5)
    await page.mouse.move(640, 20)
    await checkNoSidewaysScrolling(page, `live rows, ${name}`)
    // So that the marks stay.
    await page.clock.setFixedTime(new Date())
    await ask({ sql: "begin; insert into todos (task) values ('Write to Ben'); update todos set done = true where id = 3; delete from todos where id = 2; end" })
    await eventually('the marks', async () => (await cells(page)).map((row) => row[0]).join(''), '|−~||+')
    await checkAccessibility(page, `live rows, ${name}`)
    await picture(page, `inspector-live-${name}`)
    await context.close()
  }
  await ask({ sql: 'truncate todos restart identity' })
}

// Both themes and a telephone; a server that goes away.
const looks = async (browser) => {
  const link = `${url}/?${new URLSearchParams({ host: url, token, enable_presence: 'true', enable_db_changes: 'true', table: 'todos', filter: 'id=gt.0', select: 'id,task,done' })}`
  const show = async (page) => {
    await page.goto(link)
    await connect(page)
    await eventually('rows are confirmed', () => text(page, '#fact-table'), 'public.todos')
    await ask({ sql: "insert into todos (task) values ('Say hello'), ('Watch a row change'); update todos set done = true where task = 'Say hello'; delete from todos" })
    await page.click('#send')
    await eventually('five changes and a broadcast', async () => (await events(page, 'postgres')).length + (await events(page, 'broadcast')).length, 6)
    await page.mouse.move(640, 20)
  }
  for (const theme of ['light', 'dark']) {
    const context = await browser.profile({ colorScheme: theme })
    const page = await context.newPage()
    await show(page)
    await page.click('#log .row:has-text("UPDATE") .row-head')
    await page.mouse.move(640, 20)
    await checkAccessibility(page, `the Inspector, ${theme}`)
    await picture(page, `inspector-${theme}`)
    if (theme === 'light') {
      await page.click('#edit-where')
      await picture(page, 'inspector-filter')
      await page.keyboard.press('Escape')
      await page.click('#theme')
      await page.reload()
      assert.equal(await page.getAttribute('html', 'data-theme'), 'dark', 'the choice is kept')
      assert.equal(await page.getAttribute('#theme', 'aria-pressed'), 'true')
    }
    await context.close()
  }
  await liveLooks(browser)
  const phone = await browser.profile({ viewport: { width: 360, height: 740 }, hasTouch: true })
  const page = await phone.newPage()
  await page.goto(link)
  await checkNoSidewaysScrolling(page, 'the form')
  await checkAccessibility(page, 'the form on a telephone')
  await show(page)
  assert.equal(await page.getAttribute('#setup', 'open'), null, 'the form makes room')
  await checkNoSidewaysScrolling(page, 'the log')
  await checkAccessibility(page, 'the log on a telephone')
  await picture(page, 'inspector-phone')
  await page.click('#setup summary')
  await page.click('#edit-returning')
  await checkNoSidewaysScrolling(page, 'the editor')
  await page.keyboard.press('Escape')
  await ask({ stop: true })
  await eventually('it reconnects', () => text(page, '#status'), /^Reconnecting \(/)
  await ask({ start: true })
  await eventually('it is back', () => text(page, '#status'), `Connected to ${url}`)
  await eventually('with its rows', () => text(page, '#fact-table'), 'public.todos')
  await phone.close()
}

await run(async (browser) => {
  const context = await browser.profile()
  const page = await context.newPage()
  const joins = []
  page.on('websocket', (socket) => {
    joins.address = socket.url()
    socket.on('framesent', ({ payload }) => {
      if (typeof payload === 'string' && payload.includes('phx_join')) joins.push(JSON.parse(payload)[4])
    })
  })
  for (const part of [form, (page) => user(page, joins), (page) => rows(page, joins), (page) => live(page, joins), resume, (page) => channel(context, page), log, failures]) await part(page)
  await context.close()
  await looks(browser)
})
