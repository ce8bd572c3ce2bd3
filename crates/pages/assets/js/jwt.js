// What a token says about its bearer. Nothing is verified here. Pure.

const json = (part) => {
  const bytes = Uint8Array.from(atob(part.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0))
  return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
}

export const claims = (token) => {
  const parts = token.trim().split('.')
  if (parts.length !== 3) return null
  try {
    const [header, payload] = parts.slice(0, 2).map(json)
    const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
    return isObject(header) && isObject(payload) ? payload : null
  } catch {
    return null
  }
}

// `{ subject, role, expired }` of a token, `null` if it cannot be read. `now` in milliseconds.
export const describeToken = (token, now) => {
  const found = claims(token)
  if (!found) return null
  const text = (value) => (typeof value === 'string' && value !== '' ? value : null)
  return {
    subject: text(found.email) ?? text(found.sub) ?? 'no subject',
    role: text(found.role) ?? 'no role',
    expired: typeof found.exp === 'number' && found.exp * 1000 <= now,
  }
}
