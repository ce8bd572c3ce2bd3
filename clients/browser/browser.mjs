// What the scenarios share: a browser, pages that must not fail, and the test that runs them.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'
import { PATIENCE, ask, begin, endInTime, eventually } from './ask.mjs'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

export { ask, eventually }

export class Browser {
  #failures = []

  static async launch() {
    const browser = new Browser()
    browser.chromium = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
        '--disable-background-networking', '--disable-component-update', '--disable-sync',
        // In containers it is small, and a browser that finds it full hangs.
        '--disable-dev-shm-usage'],
    })
    return browser
  }

  // A browser profile of its own.
  async profile(options = {}) {
    const context = await this.chromium.newContext({
      viewport: { width: 1280, height: 800 }, permissions: ['clipboard-read', 'clipboard-write'], ...options,
    })
    context.setDefaultTimeout(PATIENCE)
    context.on('page', (page) => {
      page.on('pageerror', (error) => this.#failures.push(error.stack))
      page.on('console', (message) => {
        if (/Content Security Policy|Uncaught/i.test(message.text())) this.#failures.push(message.text())
      })
    })
    return context
  }

  // Fails if a page has had an error of its own, or tried what its policy forbids.
  check() {
    assert.deepEqual(this.#failures, [])
  }

  async close() {
    await this.chromium.close()
  }
}

// Waits for what is moving to come to rest: colours that fade are none to judge. What never ends is not waited for.
const atRest = (page) => page.evaluate(() => {
  const moving = document.getAnimations().filter((animation) => animation.effect.getComputedTiming().iterations !== Infinity)
  const rest = Promise.all(moving.map((animation) => animation.finished.catch(() => {})))
  return Promise.race([rest, new Promise((resolve) => setTimeout(resolve, 10_000))]).then(() => null)
})

// No serious violation of accessibility rules in the page as it is now.
export const checkAccessibility = async (page, what) => {
  begin(what)
  // A page that a link leads to may still be coming.
  await page.waitForLoadState()
  await atRest(page)
  await page.evaluate(axe)
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }))
  const told = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join('; ')}`)
  assert.deepEqual(told, [], what)
}

export const checkNoSidewaysScrolling = async (page, what) => {
  const [scroll, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth])
  assert.ok(scroll <= width, `${what}: ${scroll} > ${width}`)
}

// A picture for the documentation, if the test is asked to make them.
export const picture = async (page, name) => {
  const folder = process.env.REALTIME_PICTURES
  if (!folder) return
  await mkdir(folder, { recursive: true })
  await atRest(page)
  await page.screenshot({ path: `${folder}/${name}.png` })
}

// Runs a scenario; the process ends with 1 and the reason if it fails.
export const run = async (scenario) => {
  endInTime()
  const browser = await Browser.launch()
  try {
    await scenario(browser)
    browser.check()
  } finally {
    await browser.close()
  }
  process.exit(0)
}
