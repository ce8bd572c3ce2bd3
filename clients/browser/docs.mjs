// The documentation that a server shows, and Swagger UI. Usage: node docs.mjs URL
import assert from 'node:assert/strict'
import { checkAccessibility, checkNoSidewaysScrolling, eventually, picture, run } from './browser.mjs'

const [url] = process.argv.slice(2)

await run(async (browser) => {
  const elsewhere = []
  const watch = (context) => context.on('request', (request) => new URL(request.url()).origin === url || request.url().startsWith('data:') || elsewhere.push(request.url()))
  const context = await browser.profile()
  watch(context)
  const page = await context.newPage()
  await page.goto(url)
  await page.click('nav >> text=Docs')
  await page.waitForURL(`${url}/docs`)
  assert.equal(await page.textContent('h1'), 'Documentation')
  assert.equal(await page.getAttribute('.site-header a[aria-current]', 'href'), '/docs')
  await checkAccessibility(page, 'the index')
  await page.click('#pages >> text=Quick start')
  await page.waitForURL(`${url}/docs/quick-start`)
  assert.equal(await page.getAttribute('#pages a[aria-current]', 'href'), '/docs/quick-start')
  assert.match(await page.textContent('main'), /From nothing to row changes/)
  // A link to a place in another page.
  await page.click('main a[href="/docs/building-an-app#key-and-user-token"]')
  await page.waitForURL(`${url}/docs/building-an-app#key-and-user-token`)
  assert.equal(await page.locator('#key-and-user-token').textContent(), 'Key and user token')
  await checkAccessibility(page, 'a page with tables and programs')
  await picture(page, 'docs')

  await page.fill('[name=q]', 'slot lag')
  await page.press('[name=q]', 'Enter')
  await eventually('something is found', () => page.locator('.hits li').count().then((count) => count > 2), true)
  assert.ok((await page.locator('.hits mark').count()) > 2)
  await checkAccessibility(page, 'what was found')
  await picture(page, 'docs-search')
  await page.click('#theme')
  await checkAccessibility(page, 'what was found, in the dark')
  await page.locator('.hits a').first().click()
  await eventually('a hit is a page', () => page.locator('.docs-body h1').count(), 1)
  await page.fill('[name=q]', '<script>alert(1)</script>')
  await page.press('[name=q]', 'Enter')
  await eventually('nothing is found', () => page.textContent('main [role=status]'), '0 sections have all words.')
  assert.equal(await page.inputValue('[name=q]'), '<script>alert(1)</script>')
  await page.goto(`${url}/docs/inspector`)
  await eventually('pictures are shown', () => page.$$eval('main img', (images) => images.every((image) => image.complete && image.naturalWidth > 100)), true)
  await checkAccessibility(page, 'a page in the dark')
  await picture(page, 'docs-dark')
  await page.setViewportSize({ width: 400, height: 800 })
  for (const address of ['', '/quick-start', '/configuration', '/operations', '/row-changes', '/conformance', '/search?q=policy']) {
    await page.goto(`${url}/docs${address}`)
    await checkNoSidewaysScrolling(page, `docs${address} on a telephone`)
  }
  await page.goto(`${url}/docs/row-changes`)
  await picture(page, 'docs-narrow')
  await page.click('text=All pages')
  assert.equal(await page.evaluate(() => location.hash), '#pages')

  // Swagger UI takes the theme, and has a way back.
  await page.setViewportSize({ width: 1280, height: 800 })
  await page.goto(`${url}/swaggerui`)
  await eventually('operations are shown', () => page.locator('.opblock').count().then((count) => count > 5), true)
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(18, 18, 18)')
  await picture(page, 'swagger-dark')
  await page.setViewportSize({ width: 400, height: 800 })
  await picture(page, 'swagger-narrow')
  await page.click('.way-back >> text=Docs')
  await page.waitForURL(`${url}/docs`)

  // It is read and searched without scripts, too.
  const plain = await browser.profile({ javaScriptEnabled: false })
  watch(plain)
  const simple = await plain.newPage()
  await simple.goto(`${url}/docs`)
  await simple.fill('[name=q]', 'presence')
  await simple.press('[name=q]', 'Enter')
  await simple.waitForURL(`${url}/docs/search?q=presence`)
  assert.ok((await simple.locator('.hits li').count()) > 2)
  assert.deepEqual(elsewhere, [], 'nothing comes from elsewhere')
})
