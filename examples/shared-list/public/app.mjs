// The page: log in, live rows of the list, who is here, who is typing.
const get = (id) => document.getElementById(id)
const tell = (text) => (get('state').textContent = text)
const LIST = 1

const send = async (method, path, body) => {
  const answer = await fetch(path, { method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body) })
  if (!answer.ok) throw new Error(`The backend answers ${answer.status}`)
  return answer.status === 204 ? undefined : answer.json()
}

// What a click does. What went wrong is shown.
const attempt = (work) => work.then(() => tell(''), (error) => tell(error.message))

// The token of the user. A new one is fetched when less than a minute is left. The client calls this for every connection,
// and every 25 seconds.
let current
const userToken = async () => {
  if (!current || current.expires - Date.now() < 60_000) current = await send('GET', '/api/realtime-token')
  return current.token
}

// Joins a channel. `prepare` says what to listen to; `joined` is called each time that it is joined, also after a lost
// connection. If the server closes the channel, as when a token has expired, it is made anew.
const join = async (client, name, config, prepare, joined) => {
  const again = () => setTimeout(() => join(client, name, config, prepare, joined), 2_000)
  try {
    await client.realtime.setAuth()
  } catch (error) {
    tell(error.message)
    return again()
  }
  const channel = prepare(client.channel(name, { config }))
  channel.subscribe((status, error) => {
    tell(status === 'SUBSCRIBED' ? '' : (error?.message ?? 'connecting …'))
    if (status === 'SUBSCRIBED') joined(channel)
    if (status === 'CLOSED') again()
  })
}

const items = new Map()

const show = () => {
  const sorted = [...items.values()].sort((a, b) => a.inserted_at.localeCompare(b.inserted_at))
  get('items').replaceChildren(...sorted.map(({ id, text, done }) => {
    const row = document.createElement('li')
    const box = Object.assign(document.createElement('input'), { type: 'checkbox', checked: done, ariaLabel: text })
    const label = Object.assign(document.createElement('span'), { textContent: text })
    const remove = Object.assign(document.createElement('button'), { textContent: '×', ariaLabel: `Delete ${text}` })
    box.onchange = () => attempt(send('PATCH', '/api/items', { id, done: box.checked }))
    remove.onclick = () => attempt(send('DELETE', '/api/items', { id }))
    row.className = done ? 'done' : ''
    row.append(box, label, remove)
    return row
  }))
}

// The items, as far as the user may see them: they come, change and leave by themselves.
const watchItems = (client) =>
  join(client, `items:${LIST}`, {}, (channel) =>
    channel.on('postgres_changes', { event: '*', schema: 'public', table: 'items', filter: `list=eq.${LIST}`, live: true }, ({ eventType, new: row, old }) => {
      if (eventType === 'DELETE') items.delete(old.id)
      else items.set(row.id, row)
      show()
    }),
    // All rows come again.
    () => items.clear())

// Who is here, and who is typing: a private channel, for members only.
const meet = (client, name) => {
  let room
  let quiet
  let last = 0
  get('text').addEventListener('input', () => {
    // Not at every key: a message counts once for its sender, and once for every receiver.
    if (!room || Date.now() - last < 1_000) return
    last = Date.now()
    room.send({ type: 'broadcast', event: 'typing', payload: { name } })
  })
  return join(client, `list:${LIST}`, { private: true, presence: { key: name } }, (channel) =>
    channel
      .on('presence', { event: 'sync' }, () => (get('here').textContent = `Here: ${Object.keys(channel.presenceState()).sort().join(', ')}`))
      .on('broadcast', { event: 'typing' }, ({ payload }) => {
        get('typing').textContent = `${payload.name} is typing …`
        clearTimeout(quiet)
        quiet = setTimeout(() => (get('typing').textContent = ''), 2_000)
      }),
    (channel) => {
      room = channel
      channel.track({ since: new Date().toISOString() })
    })
}

const start = async () => {
  const { name } = await send('POST', '/api/login', { name: get('name').value })
  const { url, key } = await send('GET', '/api/config')
  // The key opens connections; the user's token opens channels. In a worker, heartbeats go on while the page is hidden.
  const client = supabase.createClient(url, key, { accessToken: userToken, realtime: { worker: true } })
  get('login').hidden = true
  get('app').hidden = false
  await Promise.all([watchItems(client), meet(client, name)])
}

get('login').onsubmit = (event) => {
  event.preventDefault()
  attempt(start())
}

get('add').onsubmit = (event) => {
  event.preventDefault()
  const text = get('text').value.trim()
  get('text').value = ''
  // The row comes back through the channel, to everybody.
  if (text) attempt(send('POST', '/api/items', { id: crypto.randomUUID(), list: LIST, text }))
}
