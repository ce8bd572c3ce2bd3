// "Why do I get nothing?": asks the host, under the token of the form. Pure, but for `fetch`, which is handed in.

const LIMIT = 15000

// Columns and values as `id=17, kind=a`. Throws what is wrong, in words.
export const readKey = (text) => {
  const key = {}
  for (const part of text.split(',').map((part) => part.trim()).filter(Boolean)) {
    const at = part.indexOf('=')
    if (at < 1) throw new Error(`${part}: write column=value`)
    key[part.slice(0, at).trim()] = part.slice(at + 1).trim()
  }
  return key
}

// The body of the question.
export const question = (form, keyText) => {
  if (form.table === '' || form.table === '*' || form.schema === '*') throw new Error('name one schema and one table')
  return {
    schema: form.schema || 'public',
    table: form.table,
    event: form.live ? '*' : form.event,
    ...(form.filter === '' ? {} : { filter: form.filter }),
    key: readKey(keyText),
  }
}

// What an answer means: the explanation, or why there is none.
export const readAnswer = (status, text) => {
  let body = null
  try {
    body = JSON.parse(text)
  } catch {
    // Not of this server.
  }
  if (status === 200 && Array.isArray(body?.steps)) return { explanation: body }
  const said = typeof body?.message === 'string' ? body.message : null
  if (status === 401) return { problem: 'The host does not accept the token: it may have expired, or be signed with another secret.' }
  if (status === 404) return { problem: 'The host does not answer such questions.' }
  if (status === 429) return { problem: 'Too many questions: try again in some seconds.' }
  return { problem: said ?? `The host answered ${status}.` }
}

export const ask = async (form, jwt, keyText, fetch) => {
  const body = JSON.stringify(question(form, keyText))
  const answer = await fetch(new URL('/realtime/v1/api/explain', form.host), {
    method: 'POST',
    headers: { apikey: form.token, authorization: `Bearer ${jwt || form.token}`, 'content-type': 'application/json' },
    body,
    cache: 'no-store',
    credentials: 'omit',
    referrerPolicy: 'no-referrer',
    signal: AbortSignal.timeout(LIMIT),
  })
  return readAnswer(answer.status, await answer.text())
}
