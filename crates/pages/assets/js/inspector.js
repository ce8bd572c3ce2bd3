// The Inspector: the form, its address, and what a channel does.
import { watchAppearance } from './appearance.js'
import { Connection } from './connection.js'
import { copy, get, make, tell, toast } from './dom.js'
import { FilterDialog } from './filter-dialog.js'
import { FilterError, parseFilter, printFilter } from './filters.js'
import { DEFAULTS, fromQuery, toCode, toQuery, validate } from './form.js'
import { Categories, Journal, toNdjson } from './journal.js'
import { LiveView } from './live-view.js'
import { LogView } from './log-view.js'
import * as saved from './saved.js'
import { Stream } from './stream.js'
import { User } from './user.js'
import { WhyDialog } from './why-dialog.js'

const TEXTS = ['host', 'token', 'channel', 'schema', 'table', 'order', 'limit', 'logLevel']
const SWITCHES = ['presence', 'changes', 'private']
const FIELDS = ['host', 'token', 'channel', 'schema', 'table', 'filter', 'limit']

const narrow = matchMedia('(width < 900px)')
const fields = get('form').elements
const journal = new Journal()
const log = new LogView(journal, new Categories())
const live = new LiveView()
const dialog = new FilterDialog()

// What has no input of its own.
let filter = ''
let select = []
let connection = null
// What the connection was made with; to tell when the form differs.
let connectedWith = null
// The form that it was made with, and the place of the last change: also when it has ended.
let followed = null
let place = null

const readForm = () => ({
  ...Object.fromEntries(TEXTS.map((name) => [name, get(name).value])),
  ...Object.fromEntries(SWITCHES.map((name) => [name, get(name).checked])),
  live: get('live-switch').checked,
  event: fields.namedItem('event').value,
  transport: fields.namedItem('transport').value,
  filter,
  select,
})

const writeForm = (form) => {
  for (const name of TEXTS) get(name).value = form[name]
  for (const name of SWITCHES) get(name).checked = form[name]
  get('live-switch').checked = form.live
  fields.namedItem('event').value = form.event
  fields.namedItem('transport').value = form.transport
  filter = form.filter
  select = form.select
}

const user = new User(() => validate(readForm(), true), (jwt) => {
  const { form, errors } = validate(readForm())
  if (form.host && !errors.host) saved.remember(form.host, { jwt })
  mirror()
})

const why = new WhyDialog(() => validate(readForm(), true).form, () => user.jwt)

const showErrors = (errors) => {
  for (const name of FIELDS) {
    tell(get(`${name}-error`), errors[name])
    get(name)?.setAttribute('aria-invalid', String(Boolean(errors[name])))
  }
}

const chips = (list, texts, none, bad = false) => {
  const items = texts.map((text) => make('li', { class: `chip${bad ? ' bad' : ''}`, text }))
  list.replaceChildren(...(items.length ? items : [make('li', { class: 'chip none', text: none })]))
}

const drawChips = () => {
  try {
    chips(get('where-chips'), parseFilter(filter).map((condition) => printFilter([condition])), 'all rows')
  } catch (error) {
    if (!(error instanceof FilterError)) throw error
    chips(get('where-chips'), [filter], '', true)
  }
  chips(get('returning-chips'), select, 'all columns')
}

const snapshot = (form) => JSON.stringify([toQuery(form), user.jwt])

// Puts the form into the address, and all that follows from it on the page.
const mirror = () => {
  const { form } = validate(readForm())
  history.replaceState(null, '', `${location.pathname}?${toQuery(form)}`)
  get('changes-section').hidden = !form.changes
  get('live-fields').hidden = !form.live
  get('event-field').hidden = form.live
  // Streams go one way: nobody is present by them.
  get('presence').disabled = form.transport === 'sse'
  const isOwn = form.host === location.origin
  get('this-server').hidden = isOwn
  // This server has no log-in of its own, and its log does not depend on the client.
  get('by-password').hidden = isOwn
  get('make-token').hidden = !isOwn
  get('log-level-field').hidden = isOwn && form.logLevel === DEFAULTS.logLevel
  get('setup-brief').textContent = [form.channel, form.host.replace(/^https?:\/\//, '')].filter(Boolean).join(' · ')
  get('changed').hidden = connectedWith === null || connectedWith === snapshot(form)
  drawChips()
}

// The tokens that are known of a host come with it. What somebody has written into the form stays: the token may be for a
// host that is only now spelled right. A user's token is of one host alone.
let hostBefore = ''
const followHost = () => {
  const { form, errors } = validate(readForm())
  if (form.host === hostBefore || errors.host) return
  const known = saved.ofHost(form.host)
  const before = saved.ofHost(hostBefore).token
  if (known.token && (form.token === '' || form.token === before)) get('token').value = known.token
  user.show(known.jwt)
  hostBefore = form.host
}

// Whether there is more of the form than is seen.
const cue = () => {
  const body = get('form-body')
  get('more-below').hidden = body.scrollHeight - body.scrollTop - body.clientHeight < 24
}

const setState = (name, text) => {
  get('status-line').dataset.state = name
  get('status').textContent = text
  get('connect').textContent = name === 'connecting' ? 'Connecting...' : connection ? 'Reconnect' : 'Connect'
  get('disconnect').hidden = !connection
  get('send').disabled = name !== 'connected'
  if (name === 'connected' && narrow.matches) get('setup').open = false
}

const disconnect = () => {
  connection?.close()
  connection = null
  connectedWith = null
  for (const fact of ['rtt', 'online', 'table', 'rows']) tell(get(`fact-${fact}`), '')
}

const connect = () => {
  const { form, errors } = validate(readForm(), true)
  writeForm(form)
  showErrors(errors)
  mirror()
  const wrong = FIELDS.find((name) => errors[name])
  if (wrong) {
    get('setup').open = true
    ;(get(wrong) ?? get('edit-where')).focus()
    return
  }
  saved.remember(form.host, { token: form.token, jwt: user.jwt })
  follow(form, null)
}

// Shows the place of the last change, from where the page can go on.
const setPlace = (text) => {
  place = text
  tell(get('fact-place'), text)
  get('resume').hidden = !text
}

// Connects with a form. `since`: goes on from there, with the rows that are shown.
const follow = (form, since) => {
  disconnect()
  connectedWith = snapshot(form)
  followed = form
  setPlace(since)
  get('changed').hidden = connectedWith === snapshot(validate(readForm()).form)
  const isLive = form.changes && form.live
  get('views').hidden = !isLive
  if (isLive && !since) live.begin(form.order)
  look(isLive ? 'rows' : 'log')
  // The first news may come before the connection is assigned.
  connection = true
  const Way = form.transport === 'sse' ? Stream : Connection
  connection = new Way(form, user.jwt, {
    state: setState,
    entry: (entry) => {
      journal.add(entry)
      log.changed()
    },
    rtt: (millis) => tell(get('fact-rtt'), millis === null ? '' : `${millis} ms`),
    online: (count) => tell(get('fact-online'), count === null ? '' : `${count} online`),
    table: (name) => tell(get('fact-table'), name),
    place: setPlace,
    live: (what, change) => isLive && live.hear(what, change),
  }, since)
}

// Shows the rows, or the log.
const look = (view) => {
  const isRows = view === 'rows'
  get('view-rows').setAttribute('aria-pressed', String(isRows))
  get('view-log').setAttribute('aria-pressed', String(!isRows))
  get('live').hidden = !isRows
  for (const part of document.querySelectorAll('.stage > .toolbar, .stage > .categories, .stage > .log-frame')) part.hidden = isRows
}

const send = async () => {
  const event = get('send-event').value.trim()
  const text = get('send-payload').value.trim()
  let problem = null
  let payload
  if (event === '') problem = "event can't be blank"
  else if (text === '') problem = "payload can't be blank"
  else {
    try {
      payload = JSON.parse(text)
    } catch (error) {
      problem = `invalid JSON: ${error.message}`
    }
  }
  get('send-event').setAttribute('aria-invalid', String(event === ''))
  get('send-payload').setAttribute('aria-invalid', String(event !== '' && problem !== null))
  tell(get('send-error'), problem)
  if (problem) return
  if (!connection?.isJoined) tell(get('send-error'), 'not connected')
  else tell(get('send-error'), await connection.send(event, payload))
}

const exportLog = () => {
  const address = URL.createObjectURL(new Blob([toNdjson(log.shown)], { type: 'application/x-ndjson' }))
  const name = get('channel').value.replace(/[^\w-]+/g, '_')
  make('a', { href: address, download: `realtime-${name}-${new Date().toISOString().replace(/[:.]/g, '-')}.ndjson` }).click()
  URL.revokeObjectURL(address)
}

const editFilter = (part) =>
  dialog.open(filter, select, part, (newFilter, newSelect) => {
    filter = newFilter
    select = newSelect
    showErrors(validate(readForm()).errors)
    mirror()
  })

const listen = () => {
  get('form').addEventListener('input', (event) => {
    event.target.setAttribute('aria-invalid', 'false')
    const error = get(`${event.target.id}-error`)
    if (error) tell(error, '')
    mirror()
  })
  get('form').addEventListener('change', (event) => {
    if (![...TEXTS, ...SWITCHES, 'event', 'transport', 'live'].includes(event.target.name)) return
    const { form, errors } = validate(readForm())
    writeForm(form)
    showErrors(errors)
    followHost()
    mirror()
  })
  get('form').addEventListener('submit', (event) => {
    event.preventDefault()
    connect()
  })
  get('form-body').addEventListener('scroll', cue, { passive: true })
  const sizes = new ResizeObserver(cue)
  for (const part of [get('form-body'), ...get('form-body').children]) sizes.observe(part)
  get('more-below').addEventListener('click', () => get('form-body').scrollBy({ top: get('form-body').clientHeight * 0.8, behavior: 'smooth' }))
  get('resume').addEventListener('click', () => follow(followed, place))
  get('view-rows').addEventListener('click', () => look('rows'))
  get('view-log').addEventListener('click', () => look('log'))
  get('disconnect').addEventListener('click', () => {
    disconnect()
    setState('idle', 'Not connected')
    get('changed').hidden = true
    get('connect').focus()
  })
  get('this-server').addEventListener('click', () => {
    get('host').value = location.origin
    showErrors(validate(readForm()).errors)
    followHost()
    mirror()
    get('token').focus()
  })
  get('share').addEventListener('click', async () => {
    mirror()
    toast((await copy(location.href)) ? 'Link copied; the token is part of it' : 'Copy the address of this page')
  })
  get('copy-code').addEventListener('click', async () => {
    const code = toCode(validate(readForm()).form, user.jwt !== '')
    toast((await copy(code)) ? 'Program copied; the token is part of it' : 'The browser does not allow copying')
  })
  get('clear-saved').addEventListener('click', () => {
    saved.forget()
    hostBefore = ''
    get('token').value = ''
    user.show('')
    mirror()
    toast('Saved tokens are forgotten')
  })
  get('edit-where').addEventListener('click', () => editFilter('where'))
  get('edit-returning').addEventListener('click', () => editFilter('returning'))
  get('why').addEventListener('click', () => why.open())
  get('pause').addEventListener('click', () => {
    if (journal.paused) journal.resume()
    else journal.pause()
    log.draw()
  })
  get('clear').addEventListener('click', () => {
    journal.clear()
    log.cleared()
  })
  get('export').addEventListener('click', exportLog)
  get('send-form').addEventListener('submit', (event) => {
    event.preventDefault()
    send()
  })
  // Beside the log the form is always open.
  narrow.addEventListener('change', () => {
    if (!narrow.matches) get('setup').open = true
  })
}

const start = () => {
  watchAppearance()
  const form = fromQuery(location.search)
  const given = new URLSearchParams(location.search)
  if (form.host === '') form.host = saved.lastHost() || location.origin
  const known = saved.ofHost(form.host)
  if (form.token === '' && !given.has('token')) form.token = known.token
  hostBefore = form.host
  writeForm({ ...DEFAULTS, ...form })
  user.show(known.jwt)
  listen()
  showErrors(validate(readForm()).errors)
  mirror()
  setState('idle', 'Not connected')
}

start()
