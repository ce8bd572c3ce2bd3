// The scenario in Chromium. Usage: node chromium.mjs URL KEY USER_TOKEN
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { run } from '../../browser/browser.mjs'
import { Rest, play } from './scenario.mjs'

const [url, key, userToken] = process.argv.slice(2)
const PAGE = 'http://app.localhost/'

const bundle = async () => {
  const options = { bundle: true, write: false, format: 'esm', platform: 'browser', define: { 'process.env.NODE_ENV': '"development"' } }
  const contents = "import { start } from './app.js'; window.begin = (options) => (window.app = start({ ...options, rest: window.rest, realtime: { timeout: 120000, reconnectAfterMs: () => 200 } }), null)"
  const { outputFiles } = await build({ ...options, stdin: { contents, resolveDir: fileURLToPath(new URL('.', import.meta.url)) } })
  return outputFiles[0].text
}

await run(async (browser) => {
  const script = await bundle()
  const context = await browser.profile()
  const page = await context.newPage()
  const rest = new Rest()
  await page.exposeFunction('rest', rest.answer)
  await page.route(`${PAGE}**`, (route) =>
    route.request().url().endsWith('app.js')
      ? route.fulfill({ contentType: 'text/javascript', body: script })
      : route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>Live rows</title><script type="module" src="app.js"></script>' }))
  await page.goto(PAGE)
  await page.waitForFunction(() => window.begin)
  await page.evaluate((options) => window.begin(options), { url, key, userToken })
  const app = Object.fromEntries(['state', 'rows', 'insert', 'change', 'remove'].map((name) => [name, (...values) => page.evaluate(([name, values]) => window.app[name](...values), [name, values])]))
  await play(app, rest)
})
