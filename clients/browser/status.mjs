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
  await page.fill('#region-filter', 'us-')
  assert.equal(await page.locator('.node').count(), 0)
  await page.fill('#region-filter', 'EU')
  assert.equal(await page.locator('.node').count(), 1)
  await checkAccessibility(page, 'status')
  await page.fill('#region-filter', '')
  await page.mouse.move(640, 20)
  await picture(page, 'status')

  await ask({ stop: true })
  await eventually('the database is missed', headline, 'The database does not answer')
  assert.equal(await banner(), 'unreachable')
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
})
