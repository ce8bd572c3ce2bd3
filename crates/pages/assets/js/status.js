// The status page.
import { watchAppearance } from './appearance.js'
import { get, make, tell } from './dom.js'
import { LABELS, databaseProblems, databasesText, duration, headline, milliseconds, nodes, peers, problems, worst } from './problems.js'

// Reports come at most this often (http_and_ops 4.2: once a second).
const EVERY = 2000
const PATIENCE = 5000

const pill = (status) => make('span', { class: 'pill', 'data-status': status, text: LABELS[status] })
const place = (region) => region ?? 'no region'
const opened = new Set()
let report = null
let heard = null
// Whether the server has not answered the last time.
let lost = false

const nodeCard = (node) => {
  const isOpen = opened.has(node.id)
  const databases = databasesText(node.databases)
  // What is shown of a server that does not answer is old: of the node that serves this page it is not true any more.
  const isLost = lost && node.id === report.node
  const status = isLost ? 'unreachable' : worst(node)
  const facts = make('span', { class: 'node-facts' },
    make('span', { text: 'Region' }), make('span', { text: place(node.region) }),
    make('span', { text: 'Version' }), make('span', { class: 'mono', text: node.version }))
  if (node.uptime_seconds !== null) facts.append(make('span', { text: 'Up for' }), make('span', { class: 'uptime' }))
  if (databases) {
    const tone = node.databases.failing === 0 ? 'ok' : node.databases.connected === 0 ? 'unreachable' : 'slow'
    const told = isLost ? { 'data-status': 'stale', text: 'not known' } : { 'data-status': tone, text: databases }
    facts.append(make('span', { text: 'Databases' }), make('span', told))
  }
  const card = make('li', { class: 'panel node', 'data-id': node.id, 'data-status': status },
    make('button', {
      type: 'button', class: 'node-head', 'aria-expanded': String(isOpen),
      onclick: () => {
        if (!opened.delete(node.id)) opened.add(node.id)
        drawNodes()
      },
    },
    make('span', { class: 'node-top' }, make('span', { class: 'node-name', text: node.id }), pill(status)),
    facts,
    make('span', { class: 'node-more', text: isOpen ? 'Hide latencies' : 'Show latencies' })))
  if (isOpen) card.append(peerTable(node))
  return card
}

const peerTable = (node) => {
  const cell = (pair) => {
    if (!pair) return make('td', { 'data-status': 'loading', text: '–' })
    return make('td', { 'data-status': pair.status, text: ['ok', 'slow'].includes(pair.status) ? milliseconds(pair.latency_ms) : LABELS[pair.status] })
  }
  const rows = peers(report, node.id).map((peer) =>
    make('tr', {}, make('th', { scope: 'row' }, make('span', { class: 'mono', text: peer.id }), ' ', make('small', { text: peer.id === node.id ? 'itself' : peer.region })), cell(peer.out), cell(peer.in)))
  return make('div', { class: 'peers' }, make('table', { 'aria-label': `Latencies of ${node.id}` },
    make('thead', {}, make('tr', {}, make('th', { scope: 'col', text: 'Peer' }), make('th', { scope: 'col', text: 'Outgoing' }), make('th', { scope: 'col', text: 'Incoming' }))),
    make('tbody', {}, ...rows)))
}

const cards = new Map()

// Cards that would look the same stay: a click or the keyboard's place in them is not lost.
const drawNodes = () => {
  const focused = document.activeElement?.closest?.('.node')?.dataset.id
  const found = nodes(report, get('region-filter').value, get('node-order').value)
  const elements = found.map((node) => {
    const isOpen = opened.has(node.id)
    const key = JSON.stringify([lost, { ...node, uptime_seconds: node.uptime_seconds === null }, isOpen && report.pairs.map(({ age_seconds, ...pair }) => pair)])
    let card = cards.get(node.id)
    if (card?.key !== key) card = { key, element: nodeCard(node) }
    if (node.uptime_seconds !== null) card.element.querySelector('.uptime').textContent = duration(node.uptime_seconds)
    cards.set(node.id, card)
    return card.element
  })
  if (elements.length !== get('nodes').children.length || elements.some((element, at) => element !== get('nodes').children[at])) {
    get('nodes').replaceChildren(...elements)
    if (focused) get('nodes').querySelector(`[data-id="${CSS.escape(focused)}"] .node-head`)?.focus()
  }
  for (const id of cards.keys()) if (!report.nodes.some((node) => node.id === id)) cards.delete(id)
  get('no-nodes').hidden = found.length > 0
}

const drawRegions = () => {
  const names = [...new Set(report.nodes.map((node) => node.region))].sort()
  const cell = (from, to) => {
    const way = report.regions.find((region) => region.from === from && region.to === to)
    if (!way) return make('td', { 'data-status': 'loading', text: '–' })
    return make('td', { 'data-status': way.status }, milliseconds(way.latency_ms), make('small', { text: LABELS[way.status] }))
  }
  get('regions').replaceChildren(
    make('caption', { class: 'sr-only', text: 'Mean latency from the row to the column' }),
    make('thead', {}, make('tr', {}, make('th', { scope: 'col', text: 'From / to' }), ...names.map((name) => make('th', { scope: 'col', text: place(name) })))),
    make('tbody', {}, ...names.map((from) => make('tr', {}, make('th', { scope: 'row', text: place(from) }), ...names.map((to) => cell(from, to))))))
}

// What is wrong with a node itself: it does not answer, or its databases do not.
const failures = () => {
  const item = (id, region, status, text) =>
    make('li', { class: 'of-node' }, pill(status), make('span', { class: 'way' }, make('span', { class: 'mono', text: id }), ` (${region})`), make('span', { class: 'amount', text }))
  if (lost) {
    const region = report.nodes.find((node) => node.id === report.node)?.region
    return [item(report.node, place(region), 'unreachable', 'The server does not answer')]
  }
  return databaseProblems(report).map(({ id, region, status, text }) => item(id, region, status, text))
}

const drawProblems = () => {
  const { shown, more } = problems(report, get('problem-order').value)
  const item = (pair) => {
    const amount = pair.status === 'slow' ? milliseconds(pair.latency_ms) : pair.age_seconds === null ? 'never seen' : `${duration(pair.age_seconds)} ago`
    return make('li', {}, pill(pair.status),
      make('span', { class: 'way' }, make('span', { class: 'mono', text: pair.from }), ` (${pair.fromRegion}) → `, make('span', { class: 'mono', text: pair.to }), ` (${pair.toRegion})`),
      make('span', { class: 'amount', text: amount }))
  }
  const found = [...failures(), ...shown.map(item)]
  const list = found.length ? found : [make('li', { class: 'none', text: report.nodes.length === 1 ? 'None.' : 'No slow, unreachable or stale connection between nodes.' })]
  if (more > 0) list.push(make('li', { class: 'more', text: `+${more} more` }))
  get('problems').replaceChildren(...list)
}

const say = (status, text, detail) => {
  get('banner').dataset.status = status
  // A live region speaks whenever it is written to: only news is.
  if (get('headline').textContent !== text) get('headline').textContent = text
  if (get('subline').textContent !== detail) get('subline').textContent = detail
}

const draw = () => {
  const regions = new Set(report.nodes.map((node) => node.region)).size
  const count = (number, one) => `${number} ${one}${number === 1 ? '' : 's'}`
  const all = report.nodes.reduce((sum, { databases }) => sum + databases.connected + databases.failing, 0)
  const detail = [count(report.nodes.length, 'node'), count(regions, 'region'), all > 0 && `${count(all, 'database')} in use`].filter(Boolean)
  say(report.status, headline(report), detail.join(', '))
  drawAll()
}

const drawAll = () => {
  // Of one node there is nothing to compare, to sort or to look for.
  const isAlone = report.nodes.length === 1
  for (const part of ['region-section', 'node-controls', 'problem-controls']) get(part).hidden = isAlone
  drawNodes()
  drawRegions()
  drawProblems()
}

const clock = () => {
  if (heard === null) return
  const seconds = Math.round((Date.now() - heard) / 1000)
  tell(get('updated'), seconds < 4 ? 'Up to date' : `${duration(seconds)} old`)
}

const look = async () => {
  try {
    const answer = await fetch('/status.json', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) })
    if (!answer.ok) throw new Error(`The server answered ${answer.status}`)
    report = await answer.json()
    heard = Date.now()
    lost = false
    draw()
  } catch {
    lost = true
    if (report) drawAll()
    say('unreachable', 'The server does not answer', 'What is shown below is what it last told.')
  }
  clock()
}

const watch = async () => {
  for (;;) {
    if (!document.hidden) await look()
    await new Promise((resolve) => {
      setTimeout(resolve, EVERY)
      if (document.hidden) document.addEventListener('visibilitychange', resolve, { once: true })
    })
  }
}

watchAppearance()
for (const id of ['region-filter', 'node-order']) get(id).addEventListener('input', () => report && drawNodes())
get('problem-order').addEventListener('input', () => report && drawProblems())
setInterval(clock, 1000)
watch()
