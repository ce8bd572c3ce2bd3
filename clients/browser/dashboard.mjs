// The dashboard: logging in, a tenant, stopping its database, feature flags, SQL. Usage: node dashboard.mjs URL TENANT
import assert from 'node:assert/strict'
import { ask, checkAccessibility, checkNoSidewaysScrolling, picture, run } from './browser.mjs'

const [url, tenant] = process.argv.slice(2)
const home = `${url}/admin/dashboard`

await run(async (browser) => {
  const stranger = await browser.profile()
  assert.equal((await stranger.request.get(home)).status(), 401)
  await stranger.close()

  const context = await browser.profile({ httpCredentials: { username: 'ann', password: 'of-the-dashboard' } })
  const page = await context.newPage()
  const main = () => page.innerText('main')
  await page.goto(home)
  assert.equal(page.url(), `${home}/home`)
  assert.match(await main(), /Region\s+eu-west-2/)
  await checkAccessibility(page, 'home')
  await page.click('text=Follow')
  assert.match(await main(), /Loaded anew every 5 s/)
  await page.click('text=Stop')

  await page.click('nav >> text=Tenants')
  await checkAccessibility(page, 'tenants')
  await page.fill('[name=external_id]', 'nobody')
  await page.click('text=Look up')
  assert.match(await main(), /Tenant not found/)
  await page.click('nav >> text=Tenants')
  await page.fill('[name=external_id]', tenant)
  await page.click('text=Look up')
  assert.match(await main(), /wal_level\s+logical/)
  assert.match(await main(), /db_password\s+\*\*\*/)
  await checkAccessibility(page, 'tenant')
  await picture(page, 'dashboard')
  await page.click('text=Stop database connection')
  assert.match(await main(), /The connections to the database were stopped/)
  await ask({ stopped: true })

  await page.click('nav >> text=Feature flags')
  await page.fill('[name=name]', 'in_the_browser')
  await page.fill('[name=rollout]', '0')
  await page.click('text=Create')
  assert.match(await main(), /in_the_browser disabled/)
  await checkAccessibility(page, 'feature flags')
  const flag = page.locator('section', { has: page.locator('h2', { hasText: 'in_the_browser' }) })
  await flag.getByRole('button', { name: 'Enable' }).click()
  assert.match(await main(), /in_the_browser enabled/)
  await page.goto(`${home}/tenants/${tenant}`)
  const row = page.locator('tr', { hasText: 'in_the_browser' })
  assert.match(await row.innerText(), /off\s+rollout to 0 %/)
  await row.getByRole('button', { name: 'Turn on' }).click()
  assert.match(await row.innerText(), /on\s+set for the tenant/)
  await page.click('nav >> text=Feature flags')
  await flag.locator('summary').click()
  await flag.locator('[name=confirm]').check()
  await flag.getByRole('button', { name: 'Delete' }).click()
  assert.doesNotMatch(await main(), /in_the_browser/)

  await page.click('nav >> text=SQL inspector')
  await page.fill('textarea', 'select external_id, jwt_secret as x from tenants')
  await page.click('text=Ask')
  assert.match(await main(), new RegExp(`${tenant}\\s+\\*\\*\\*`))
  await checkAccessibility(page, 'SQL inspector')
  await page.getByRole('button', { name: 'external_id' }).click()
  assert.equal(await page.getAttribute('th', 'aria-sort'), 'ascending')
  await page.fill('textarea', 'select * from _realtime.tenants')
  await page.click('text=Ask')
  assert.match(await main(), /cannot be looked at/)

  await page.click('#theme')
  await checkAccessibility(page, 'in the dark')
  await page.setViewportSize({ width: 360, height: 740 })
  for (const path of ['home', 'nodes', 'tenants', `tenants/${tenant}`, `tenants/${tenant}/schema`, 'flags', 'sql']) {
    await page.goto(`${home}/${path}`)
    await checkNoSidewaysScrolling(page, `${path} on a telephone`)
  }

  const plain = await browser.profile({
    javaScriptEnabled: false, httpCredentials: { username: 'ann', password: 'of-the-dashboard' },
  })
  const simple = await plain.newPage()
  await simple.goto(`${home}/flags`)
  await simple.fill('[name=name]', 'without_scripts')
  await simple.click('text=Create')
  assert.match(await simple.innerText('main'), /without_scripts/)
})
