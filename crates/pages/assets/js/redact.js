// What must not be shown, exported or copied from the log, and what is too large for it. Pure.

const LONGEST = 512
const DEEPEST = 6
const HIDDEN = '[redacted]'

const TOKEN = /\beyJ[\w-]{5,}\.[\w-]{2,}\.[\w-]*/g
const KEY = /\bsb_(publishable|secret)_[\w-]+/g
const QUERY = /([?&](?:apikey|access_token|token)=)[^&\s"']+/gi
const SECRET_NAMES = new Set(['apikey', 'api_key', 'access_token', 'refresh_token', 'authorization', 'jwt', 'password', 'token'])

const text = (value, secrets) => {
  let shown = value
  for (const secret of secrets) if (secret.length > 3) shown = shown.replaceAll(secret, HIDDEN)
  shown = shown.replace(QUERY, `$1${HIDDEN}`).replace(TOKEN, HIDDEN).replace(KEY, HIDDEN)
  return shown.length > LONGEST ? `${shown.slice(0, LONGEST)}… (${shown.length - LONGEST} more)` : shown
}

// A copy of a value that may be shown; `secrets` are the keys and tokens of this page.
export const redact = (value, secrets = [], depth = 0) => {
  if (typeof value === 'string') return text(value, secrets)
  if (typeof value === 'bigint') return value.toString()
  if (value instanceof Error) return text(value.message, secrets)
  if (value instanceof ArrayBuffer) return bytes(new Uint8Array(value))
  if (ArrayBuffer.isView(value)) return bytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
  if (typeof value !== 'object' || value === null) return typeof value === 'function' ? undefined : value
  if (depth >= DEEPEST) return Array.isArray(value) ? '[…]' : '{…}'
  if (Array.isArray(value)) return value.map((item) => redact(item, secrets, depth + 1))
  const shown = {}
  for (const [name, item] of Object.entries(value)) {
    const secret = SECRET_NAMES.has(name.toLowerCase()) && typeof item === 'string' && item !== ''
    // Not by assignment: a name may be `__proto__`.
    Object.defineProperty(shown, text(name, secrets), {
      value: secret ? HIDDEN : redact(item, secrets, depth + 1),
      enumerable: true,
      configurable: true,
      writable: true,
    })
  }
  return shown
}

const bytes = (array) => {
  const hex = [...array.subarray(0, 32)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ')
  return `${array.length} bytes: ${hex}${array.length > 32 ? ' …' : ''}`
}
