// Why a connection failed, in words. Browsers tell pages nothing about a refused WebSocket, so the host is asked over
// HTTP.

// What to do about a token that is not accepted.
const REMEDY = ' Use a token of this host that has not expired: `realtime dev` prints one, `realtime token` makes one with the secret of the server.'

const HINTS = {
  401: 'The host does not accept the token.',
  403: 'The host refuses this token or this page.',
  404: 'The host knows no such project or tenant.',
  429: 'The host refuses more connections for now.',
}

// What an answer to the handshake's address, asked for as a plain page, means. Pure.
export const explainAnswer = (status, body) => {
  const detail = readError(body)
  const because = detail ? ` It says: ${detail}` : ''
  if (status === 404 && !detail) {
    return { text: 'The host answers, but not as Realtime (404): is the address right?', final: true }
  }
  const remedy = status === 401 ? `${because && !/[.!?]$/.test(because) ? '.' : ''}${REMEDY}` : ''
  if (HINTS[status]) return { text: `${HINTS[status]} (${status})${because}${remedy}`, final: status !== 429 }
  if (status >= 500) return { text: `The host has a problem of its own (${status}).${because}`, final: false }
  return { text: `The host answers (${status}), but the WebSocket could not be opened: something between here and there may not let it pass.`, final: false }
}

const readError = (body) => {
  try {
    const { error, message } = JSON.parse(body)
    return typeof error === 'string' ? error : typeof message === 'string' ? message : null
  } catch {
    return null
  }
}

const isLocal = ({ hostname }) => /^(localhost|127\.[\d.]+|\[::1\]|.+\.localhost)$/.test(hostname)

// Asks the host why. `fetch` and the page's address are handed in, so that tests need no network.
export const explain = async (host, token, { fetch, page, timeout = 5000 }) => {
  const query = new URLSearchParams({ apikey: token, vsn: '2.0.0' })
  let address
  try {
    address = new URL(`/realtime/v1/websocket?${query}`, host)
  } catch {
    return { text: `${host} is not a web address.`, final: true }
  }
  const options = () => ({ cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer', signal: AbortSignal.timeout(timeout) })
  try {
    const answer = await fetch(address, options())
    return explainAnswer(answer.status, await answer.text())
  } catch {
    // Unreachable, or its answers are not for pages of other sites: one that is there answers this.
  }
  try {
    await fetch(new URL('/', host), { ...options(), mode: 'no-cors' })
    return { text: `${host} answers, but does not let this page read why it refused. Check the token.`, final: false }
  } catch {
    const hint = isLocal(address) && !isLocal(page)
      ? ' Is it running, and may this page connect to this computer? The browser asks once.'
      : page.protocol === 'https:' && address.protocol === 'http:' && !isLocal(address)
        ? ' Pages over HTTPS may not connect to hosts over HTTP.'
        : ' Is it running, and is the address right?'
    return { text: `${host} cannot be reached.${hint}`, final: false }
  }
}
