// The status page while a database stops and comes back. Usage: node status.mjs URL
import assert from 'node:assert/strict'
import { ask, checkAccessibility, checkNoSidewaysScrolling, eventually, picture, run } from './browser.mjs'

const [url] = process.argv.slice(2)

await run(async (browser) => {
  const context = await browser.profile()
  const page = await context.newPage()
  await page.goto(`${url}/status`)
  assert.equal(await page.textContent('h1'), 'Realtime Cluster Health')
  const headline = () => page.textContent('#headline')
  const banner = () => page.getAttribute('#banner', 'data-status')
  await eventually('all is well', headline, 'All systems work')
  assert.deepEqual([await banner(), await page.textContent('#subline')], ['ok', '1 node, 1 region, 1 database in use'])
  assert.match(await page.textContent('#regions td'), /^\d+\.\d+ msOK$/)
  assert.match(await page.textContent('.node'), /eu-west-2.*The database answers/s)
  await page.click('.node-head')
  assert.match(await page.textContent('.peers'), /itself/)
  assert.deepEqual(await Promise.all(['#region-section', '#node-controls', '#problem-controls'].map((part) => page.isVisible(part))), [false, false, false], 'one node has nothing to compare')
  assert.equal(await page.textContent('#problems'), 'None.')
  assert.equal(await page.title(), 'Status - Realtime')
  assert.deepEqual(await page.$$eval('.site-header nav a', (links) => links.map((link) => link.getAttribute('href'))), ['/', '/status', '/docs', '/swaggerui'])
  await checkAccessibility(page, 'status')
  await page.mouse.move(640, 20)
  await picture(page, 'status')

  await ask({ stop: true })
  await eventually('the database is missed', headline, 'The database does not answer')
  assert.equal(await banner(), 'unreachable')
  assert.equal(await page.getAttribute('.node', 'data-status'), 'unreachable')
  assert.equal(await page.textContent('.node .pill'), 'Unreachable')
  assert.match(await page.textContent('#problems'), /Unreachable.*The database does not answer/)
  await picture(page, 'status-database-down')
  await checkAccessibility(page, 'status of a failing database')
  await page.click('#theme')
  await checkAccessibility(page, 'the same in the dark')
  await ask({ start: true })
  await eventually('it is back', headline, 'All systems work')
  await checkAccessibility(page, 'status in the dark')

  await page.setViewportSize({ width: 360, height: 740 })
  await checkNoSidewaysScrolling(page, 'status on a telephone')
  await ask({ end: true })
  await eventually('the server is missed', headline, 'The server does not answer')
  assert.deepEqual([await page.getAttribute('.node', 'data-status'), await page.textContent('.node .pill')], ['unreachable', 'Unreachable'])
  assert.match(await page.textContent('#problems'), /Unreachable.*The server does not answer/)
  await checkAccessibility(page, 'status of a server that is gone')
  await picture(page, 'status-server-down')

  // What two nodes look like: regions are compared, and nodes are looked for.
  const pair = (from, to) => ({ from, to, status: 'ok', latency_ms: 12, age_seconds: 1 })
  const node = (id, region, failing) => ({ id, region, version: '1', uptime_seconds: 9, status: 'ok', databases: { connected: 1, failing } })
  await page.route('**/status.json', (route) => route.fulfill({ json: {
    node: 'aa', status: 'slow', nodes: [node('aa', 'eu-west-2', 0), node('bb', 'us-east-1', 1)], pairs: [pair('aa', 'bb'), pair('bb', 'aa')],
    regions: [{ from: 'eu-west-2', to: 'us-east-1', status: 'ok', latency_ms: 12 }],
  } }))
  await eventually('two nodes', () => page.locator('.node').count(), 2)
  assert.equal(await page.isVisible('#region-section'), true)
  assert.match(await page.textContent('#problems'), /Slow.*bb \(us-east-1\)1 database does not answer, 1 does/)
  await page.fill('#region-filter', 'EU')
  assert.equal(await page.locator('.node').count(), 1)
  await page.fill('#region-filter', 'asia')
  assert.equal(await page.isVisible('#no-nodes'), true)
  await page.fill('#region-filter', '')
  await checkNoSidewaysScrolling(page, 'two nodes on a telephone')
})
