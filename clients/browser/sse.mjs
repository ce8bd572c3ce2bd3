// A browser's EventSource while the server is away and comes back. Usage: node sse.mjs URL
import assert from 'node:assert/strict'
import { ask, eventually, run } from './browser.mjs'

const [url] = process.argv.slice(2)

await run(async (browser) => {
  const context = await browser.profile()
  const page = await context.newPage()
  // Not a page of the server: its answers have to let others read them.
  await page.evaluate((url) => {
    window.seen = []
    window.told = []
    window.opened = 0
    const source = new EventSource(url)
    source.onopen = () => { window.opened += 1 }
    source.addEventListener('INSERT', (event) => window.seen.push(JSON.parse(event.data).record.id))
    for (const name of ['gap', 'warning']) source.addEventListener(name, (event) => window.told.push(event.data))
  }, url)
  const seen = () => page.evaluate(() => [...window.seen])
  const opened = (count) => eventually(`opened ${count} times`, () => page.evaluate(() => window.opened), count)
  const all = (count) => Array.from({ length: count }, (_, at) => at + 1)
  await opened(1)
  await ask({ insert: [1, 3] })
  await eventually('live changes', seen, all(3))
  await ask({ stop: true })
  await ask({ insert: [4, 6] })
  await ask({ start: true })
  await opened(2)
  await ask({ insert: [7, 9] })
  await eventually('none is missing after a restart, and none comes twice', seen, all(9))
  await ask({ kill: true })
  await ask({ insert: [10, 12] })
  await ask({ start: true })
  await opened(3)
  await ask({ insert: [13, 15] })
  await eventually('none is missing after a crash', seen, all(15))
  assert.deepEqual(await page.evaluate(() => window.told), [])
})
