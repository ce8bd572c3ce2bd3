// The application's own backend: it knows who somebody is, signs their tokens, and writes for them.
import { createHmac, randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import postgres from 'postgres'

const { API_JWT_SECRET, DATABASE, TOKEN, URL: REALTIME = 'http://localhost:4000', PORT = '3000' } = process.env
if (!API_JWT_SECRET || !DATABASE || !TOKEN) {
  console.error('Set DATABASE, TOKEN and API_JWT_SECRET to what `realtime dev` prints.')
  process.exit(64)
}
const sql = postgres(DATABASE, { onnotice: () => {} })
await sql.file(new URL('schema.sql', import.meta.url))

// A real application checks a password, and keeps sessions where a restart does not lose them.
const sessions = new Map()
const personOf = (request) => sessions.get(/session=([\w-]+)/.exec(request.headers.cookie ?? '')?.[1])

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const TOKEN_SECONDS = Number(process.env.TOKEN_SECONDS ?? 600)

// The token of a user: short-lived, so that a person who is thrown out is out soon.
const userToken = (person) => {
  const expires = Math.floor(Date.now() / 1000) + TOKEN_SECONDS
  const body = `${base64({ alg: 'HS256', typ: 'JWT' })}.${base64({ role: 'authenticated', sub: person, exp: expires })}`
  return { token: `${body}.${createHmac('sha256', API_JWT_SECRET).update(body).digest('base64url')}`, expires: expires * 1000 }
}

// Writes with the rights of the person: the policies that decide who sees a row decide who may write it.
const as = (person, work) =>
  sql.begin(async (tx) => {
    const claims = JSON.stringify({ role: 'authenticated', sub: person })
    await tx`select set_config('role', 'authenticated', true), set_config('request.jwt.claims', ${claims}, true)`
    return work(tx)
  })

const routes = {
  'POST /api/login': async ({ body, response }) => {
    if (!/^[a-z]{1,20}$/.test(body.name ?? '')) return [422, { error: 'a name has 1 to 20 small letters' }]
    const session = randomUUID()
    sessions.set(session, body.name)
    response.setHeader('set-cookie', `session=${session}; HttpOnly; SameSite=Strict; Path=/`)
    return [200, { name: body.name }]
  },
  // Addresses and the key are public; the key alone sees nothing of the lists.
  'GET /api/config': () => [200, { url: REALTIME, key: TOKEN }],
  'GET /api/realtime-token': ({ person }) => [200, userToken(person)],
  'POST /api/items': async ({ person, body }) => {
    const { id, list, text } = body
    await as(person, (tx) => tx`insert into items (id, list, text) values (${id}, ${list}, ${text})`)
    return [204]
  },
  'PATCH /api/items': async ({ person, body }) => {
    await as(person, (tx) => tx`update items set done = ${body.done} where id = ${body.id}`)
    return [204]
  },
  'DELETE /api/items': async ({ person, body }) => {
    await as(person, (tx) => tx`delete from items where id = ${body.id}`)
    return [204]
  },
}

const FILES = {
  '/': ['public/index.html', 'text/html'],
  '/app.mjs': ['public/app.mjs', 'text/javascript'],
  // A bundler would put it into the page.
  '/supabase.js': ['node_modules/@supabase/supabase-js/dist/umd/supabase.js', 'text/javascript'],
}

const answer = async (request, response) => {
  const { pathname } = new URL(request.url, 'http://here')
  const file = request.method === 'GET' && FILES[pathname]
  if (file) {
    response.setHeader('content-type', `${file[1]}; charset=utf-8`)
    return response.end(await readFile(new URL(file[0], import.meta.url)))
  }
  const route = routes[`${request.method} ${pathname}`]
  if (!route) return response.writeHead(404).end()
  const person = personOf(request)
  if (!person && !['/api/login', '/api/config'].includes(pathname)) return response.writeHead(401).end()
  let text = ''
  for await (const part of request) if ((text += part).length > 10_000) return response.writeHead(413).end()
  const [status, told] = await route({ person, body: text ? JSON.parse(text) : {}, response })
  response.writeHead(status, { 'content-type': 'application/json' }).end(told && JSON.stringify(told))
}

createServer((request, response) => {
  answer(request, response).catch((error) => {
    // 42501: a policy does not allow it.
    response.writeHead(error.code === '42501' ? 403 : 400, { 'content-type': 'application/json' }).end(JSON.stringify({ error: error.message }))
  })
}).listen(Number(PORT), () => console.log(`http://localhost:${PORT}`))
