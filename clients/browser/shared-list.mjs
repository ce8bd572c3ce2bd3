// The example examples/shared-list: two members and a stranger. Usage: node shared-list.mjs URL
import assert from 'node:assert/strict'
import { ask, checkAccessibility, checkNoSidewaysScrolling, eventually, picture, run } from './browser.mjs'

const [url] = process.argv.slice(2)

await run(async (browser) => {
  const enter = async (name) => {
    const context = await browser.profile()
    const page = await context.newPage()
    await page.goto(url)
    await page.fill('#name', name)
    await page.click('text=Log in')
    return page
  }
  const items = (page) => page.$$eval('#items li', (rows) => rows.map((row) => `${row.className}${row.querySelector('span').textContent}`))
  const [ann, ben, eve] = [await enter('ann'), await enter('ben'), await enter('eve')]
  for (const page of [ann, ben]) await eventually('both are here', () => page.textContent('#here'), 'Here: ann, ben')
  await eventually('a stranger may not meet them', () => eve.textContent('#state'), /You do not have permissions/)

  await ann.fill('#text', 'Bread')
  await eventually('ann types', () => ben.textContent('#typing'), 'ann is typing …')
  await ann.click('text=Add')
  for (const page of [ann, ben]) await eventually('bread is there', () => items(page), ['Bread'])
  await ben.click('#items input')
  await eventually('ben has bought it', () => items(ann), ['doneBread'])
  await eve.fill('#text', 'Poison')
  await eve.click('text=Add')
  await eventually('a stranger may not write', () => eve.textContent('#state'), 'The backend answers 403')
  assert.deepEqual(await items(eve), [])
  await checkAccessibility(ann, 'a shared list')
  await picture(ann, 'shared-list')
  await ann.setViewportSize({ width: 400, height: 780 })
  await checkNoSidewaysScrolling(ann, 'a shared list on a telephone')

  await ask({ stop: true })
  await ask({ sql: "insert into items (id, list, text) values (gen_random_uuid(), 1, 'Milk')" })
  await ask({ start: true })
  for (const page of [ann, ben]) await eventually('milk has come meanwhile', () => items(page), ['doneBread', 'Milk'])
  for (const page of [ann, ben]) await eventually('both are here again', () => page.textContent('#here'), 'Here: ann, ben')
  await ask({ sql: "delete from members where person = 'ben'" })
  await eventually('ben is no member any more', () => items(ben), [])
  await ann.click('[aria-label="Delete Milk"]')
  await eventually('ann still is', () => items(ann), ['doneBread'])
})
