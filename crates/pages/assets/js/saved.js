// What this browser remembers: for each host the token and the user's token. They are kept by host, so that a link
// to another one cannot get them.

const KEY = 'realtime.inspector'

export const read = (key) => {
  try {
    return localStorage.getItem(key)
  } catch {
    return null
  }
}

export const write = (key, value) => {
  try {
    localStorage.setItem(key, value)
  } catch {
    // Nothing is remembered where storage is forbidden or full.
  }
}

const load = () => {
  try {
    const saved = JSON.parse(read(KEY) ?? '{}')
    return { last: typeof saved.last === 'string' ? saved.last : '', hosts: new Map(Object.entries(saved.hosts ?? {})) }
  } catch {
    return { last: '', hosts: new Map() }
  }
}

// The host that was last connected to; empty if there is none.
export const lastHost = () => load().last

// `{ token, jwt }` of a host.
export const ofHost = (host) => ({ token: '', jwt: '', ...load().hosts.get(host) })

export const remember = (host, values) => {
  const saved = load()
  saved.hosts.set(host, { ...saved.hosts.get(host), ...values })
  write(KEY, JSON.stringify({ last: host, hosts: Object.fromEntries(saved.hosts) }))
}

export const forget = () => {
  try {
    localStorage.removeItem(KEY)
  } catch {
    // Then there is nothing either.
  }
}
