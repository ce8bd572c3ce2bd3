// The dashboard: logging in, a tenant, stopping its database, feature flags, SQL. Usage: node dashboard.mjs URL TENANT
import assert from 'node:assert/strict'
import { ask, checkAccessibility, checkNoSidewaysScrolling, eventually, picture, run } from './browser.mjs'

const [url, tenant] = process.argv.slice(2)
const home = `${url}/admin/dashboard`

await run(async (browser) => {
  const stranger = await browser.profile()
  assert.equal((await stranger.request.get(home)).status(), 401)
  await stranger.close()

  const context = await browser.profile({ httpCredentials: { username: 'ann', password: 'of-the-dashboard' } })
  const page = await context.newPage()
  const main = () => page.innerText('main')
  const shows = (expected) => eventually(`it shows ${expected}`, main, expected)
  await page.goto(home)
  assert.equal(page.url(), `${home}/home`)
  await shows(/Region\s+eu-west-2/)
  await checkAccessibility(page, 'home')
  await page.click('text=Follow')
  await shows(/Loaded anew every 5 s/)
  await page.click('text=Stop')

  await page.click('nav >> text=Tenants')
  await checkAccessibility(page, 'tenants')
  await page.fill('[name=external_id]', 'nobody')
  await page.click('text=Look up')
  await shows(/Tenant not found/)
  await page.click('nav >> text=Tenants')
  await page.fill('[name=external_id]', tenant)
  await page.click('text=Look up')
  await shows(/wal_level\s+logical/)
  await shows(/db_password\s+\*\*\*/)
  await checkAccessibility(page, 'tenant')
  await picture(page, 'dashboard')
  await page.click('text=Stop database connection')
  await shows(/The connections to the database were stopped/)
  await ask({ stopped: true })

  await page.click('nav >> text=Feature flags')
  await page.fill('[name=name]', 'in_the_browser')
  await page.fill('[name=rollout]', '0')
  await page.click('text=Create')
  await shows(/in_the_browser disabled/)
  await checkAccessibility(page, 'feature flags')
  const flag = page.locator('section', { has: page.locator('h2', { hasText: 'in_the_browser' }) })
  await flag.getByRole('button', { name: 'Enable' }).click()
  await shows(/in_the_browser enabled/)
  await page.goto(`${home}/tenants/${tenant}`)
  const row = page.locator('tr', { hasText: 'in_the_browser' })
  await eventually('the flag is off', () => row.innerText(), /off\s+rollout to 0 %/)
  await row.getByRole('button', { name: 'Turn on' }).click()
  await eventually('the flag is on', () => row.innerText(), /on\s+set for the tenant/)
  await page.click('nav >> text=Feature flags')
  await flag.locator('summary').click()
  await flag.locator('[name=confirm]').check()
  await flag.getByRole('button', { name: 'Delete' }).click()
  await eventually('the flag is gone', async () => (await main()).includes('in_the_browser'), false)

  await page.click('nav >> text=SQL inspector')
  await page.fill('textarea', 'select external_id, jwt_secret as x from tenants')
  await page.click('text=Ask')
  await shows(new RegExp(`${tenant}\\s+\\*\\*\\*`))
  await checkAccessibility(page, 'SQL inspector')
  await page.getByRole('button', { name: 'external_id' }).click()
  await eventually('it is sorted', () => page.getAttribute('th', 'aria-sort'), 'ascending')
  await page.fill('textarea', 'select * from _realtime.tenants')
  await page.click('text=Ask')
  await shows(/cannot be looked at/)

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
  await eventually('it works without scripts', () => simple.innerText('main'), /without_scripts/)
})
