// The scenario in Chromium. Usage: node chromium.mjs URL KEY USER_TOKEN
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { run } from '../../browser/browser.mjs'
import { Rest, play } from './scenario.mjs'

const [url, key, userToken] = process.argv.slice(2)

const bundle = async () => {
  const options = { bundle: true, write: false, format: 'esm', platform: 'browser', define: { 'process.env.NODE_ENV': '"development"' } }
  const contents = "import { start } from './app.js'; window.begin = (options) => (window.app = start({ ...options, rest: window.rest, realtime: { timeout: 120000, reconnectAfterMs: () => 200 } }), null)"
  const { outputFiles } = await build({ ...options, stdin: { contents, resolveDir: fileURLToPath(new URL('.', import.meta.url)) } })
  return outputFiles[0].text
}

await run(async (browser) => {
  const script = await bundle()
  // A page of the server itself: browsers do not let those of strangers connect to this machine.
  const context = await browser.profile({ bypassCSP: true })
  const page = await context.newPage()
  const rest = new Rest()
  await page.exposeFunction('rest', rest.answer)
  await page.goto(`${url}/status`)
  await page.addScriptTag({ content: script, type: 'module' })
  await page.waitForFunction(() => window.begin)
  await page.evaluate((options) => window.begin(options), { url, key, userToken })
  const app = Object.fromEntries(['state', 'problems', 'rows', 'insert', 'change', 'remove'].map((name) => [name, (...values) => page.evaluate(([name, values]) => window.app[name](...values), [name, values])]))
  await play(app, rest)
})
