// What the status page makes of a report: sorted nodes, and the pairs that have a problem. Pure.

export const SHOWN = 200

export const LABELS = { ok: 'OK', slow: 'Slow', unreachable: 'Unreachable', stale: 'Stale', loading: 'Loading…' }

const SEVERITY = { unreachable: 0, stale: 1, slow: 2, loading: 3, ok: 4 }

const regionOf = (region) => region ?? 'no region'
const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0)

// Pairs that are slow, unreachable or stale, worst first or as asked; of many the first 200, and how many more.
export const problems = (report, order = 'severity') => {
  const regions = new Map(report.nodes.map((node) => [node.id, regionOf(node.region)]))
  const bad = report.pairs
    .filter((pair) => ['slow', 'unreachable', 'stale'].includes(pair.status))
    .map((pair) => ({ ...pair, fromRegion: regions.get(pair.from), toRegion: regions.get(pair.to) }))
  const severity = (a, b) => SEVERITY[a.status] - SEVERITY[b.status]
  // Who does not answer at all takes longest.
  const latency = (a, b) => (b.latency_ms ?? Infinity) - (a.latency_ms ?? Infinity) || 0
  const region = (a, b) => byText(a.fromRegion, b.fromRegion) || byText(a.toRegion, b.toRegion)
  const name = (a, b) => byText(a.from, b.from) || byText(a.to, b.to)
  const first = { severity, latency, region }[order]
  bad.sort((a, b) => first(a, b) || severity(a, b) || latency(a, b) || name(a, b))
  return { shown: bad.slice(0, SHOWN), more: Math.max(0, bad.length - SHOWN) }
}

// Nodes whose databases do not answer, and what to say of each.
export const databaseProblems = (report) =>
  report.nodes
    .filter((node) => node.databases.failing > 0)
    .map((node) => ({ id: node.id, region: regionOf(node.region), status: databaseStatus(node), text: databasesText(node.databases) }))

// Nodes whose region contains a text, in an order.
export const nodes = (report, filter = '', order = 'node') => {
  const text = filter.trim().toLowerCase()
  const found = report.nodes.filter((node) => regionOf(node.region).toLowerCase().includes(text))
  const compare = {
    node: () => 0,
    region: (a, b) => byText(regionOf(a.region), regionOf(b.region)),
    status: (a, b) => SEVERITY[worst(a)] - SEVERITY[worst(b)],
  }[order]
  return found.sort((a, b) => compare(a, b) || byText(a.id, b.id))
}

// Of a node's databases: some that do not answer are a warning, all of them a failure.
const databaseStatus = ({ databases: { connected, failing } }) => (failing === 0 ? 'ok' : connected === 0 ? 'unreachable' : 'slow')

// Of a node: its own status, or worse if its databases do not answer.
export const worst = (node) => {
  const database = databaseStatus(node)
  return SEVERITY[database] < SEVERITY[node.status] ? database : node.status
}

// The latencies from a node to each other, and back.
export const peers = (report, id) =>
  report.nodes.map((node) => ({
    id: node.id,
    region: regionOf(node.region),
    out: report.pairs.find((pair) => pair.from === id && pair.to === node.id),
    in: report.pairs.find((pair) => pair.from === node.id && pair.to === id),
  }))

const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`

// One sentence about databases; empty if there are none.
export const databasesText = ({ connected, failing }) => {
  const all = connected + failing
  if (all === 0) return ''
  if (failing === 0) return all === 1 ? 'The database answers' : `All ${all} databases answer`
  if (connected === 0) return all === 1 ? 'The database does not answer' : `None of ${all} databases answers`
  return `${plural(failing, 'database does', 'databases do')} not answer, ${connected} do${connected === 1 ? 'es' : ''}`
}

// The headline of a report.
export const headline = (report) => {
  const databases = report.nodes.reduce(
    (sum, node) => ({ connected: sum.connected + node.databases.connected, failing: sum.failing + node.databases.failing }),
    { connected: 0, failing: 0 },
  )
  const bad = report.nodes.filter((node) => !['ok', 'loading'].includes(node.status)).length
  if (bad > 0) return `${plural(bad, 'node has', 'nodes have')} a problem`
  if (databases.failing > 0) return databasesText(databases)
  return report.status === 'loading' ? 'Looking…' : 'All systems work'
}

export const milliseconds = (value) => {
  if (value === null || value === undefined) return '–'
  return `${value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : Math.round(value)} ms`
}

export const duration = (seconds) => {
  const units = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]]
  const [name, size] = units.find(([, unit]) => seconds >= unit) ?? units.at(-1)
  return `${Math.floor(seconds / size)} ${name}`
}
