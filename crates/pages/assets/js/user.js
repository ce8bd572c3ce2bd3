// "As user": a token of a user, got by signing in or pasted.
import { get, tell } from './dom.js'
import { describeToken } from './jwt.js'

const SIGN_IN_LIMIT = 15000

// Signs in as the gateway of a project does it; the user's token.
const signIn = async (host, key, email, password) => {
  const answer = await fetch(new URL('/auth/v1/token?grant_type=password', host), {
    method: 'POST',
    headers: { apikey: key, 'content-type': 'application/json' },
    body: JSON.stringify({ email, password }),
    credentials: 'omit',
    referrerPolicy: 'no-referrer',
    signal: AbortSignal.timeout(SIGN_IN_LIMIT),
  })
  const body = await answer.json().catch(() => ({}))
  if (!answer.ok) throw new Error(body.error_description ?? body.msg ?? body.message ?? `the host answered ${answer.status}`)
  if (typeof body.access_token !== 'string') throw new Error('the host sent no token')
  return body.access_token
}

export class User {
  #jwt = ''
  #changed

  // `form` gives the form as it is, `changed` is called with the token that counts from now on.
  constructor(form, changed) {
    this.#changed = changed
    get('sign-in').addEventListener('click', () => this.#signIn(form()))
    get('use-jwt').addEventListener('click', () => this.#paste())
    get('sign-out').addEventListener('click', () => {
      this.#set('')
      get('email').focus()
    })
    for (const id of ['email', 'password']) {
      get(id).addEventListener('keydown', (event) => {
        if (event.key !== 'Enter') return
        event.preventDefault()
        get('sign-in').click()
      })
    }
    this.show('')
  }

  // The user's token; empty if there is none.
  get jwt() {
    return this.#jwt
  }

  // Shows a token that is known from elsewhere.
  show(jwt) {
    this.#jwt = jwt
    const found = jwt && describeToken(jwt, Date.now())
    get('user-in').hidden = !jwt
    get('user-out').hidden = Boolean(jwt)
    get('user-subject').textContent = found ? found.subject : 'unreadable token'
    get('user-role').textContent = found ? found.role : ''
    get('user-role').hidden = !found
    get('user-expired').hidden = !found?.expired
    get('user-brief').textContent = jwt ? get('user-subject').textContent : 'anonymous'
    tell(get('user-error'), '')
  }

  #set(jwt) {
    for (const id of ['email', 'password', 'jwt']) get(id).value = ''
    this.show(jwt)
    this.#changed(jwt)
  }

  #paste() {
    const jwt = get('jwt').value.replace(/\s+/g, '')
    if (jwt === '') tell(get('user-error'), "token can't be blank")
    else this.#set(jwt)
  }

  async #signIn({ form, errors }) {
    const [email, password] = [get('email').value.trim(), get('password').value]
    const missing = errors.host ? `host ${errors.host}` : errors.token ? `token ${errors.token}` : !email || !password ? "email and password can't be blank" : null
    tell(get('user-error'), missing)
    if (missing) return
    const button = get('sign-in')
    button.disabled = true
    try {
      this.#set(await signIn(form.host, form.token, email, password))
    } catch (error) {
      const text = error instanceof TypeError ? 'the host cannot be reached, or does not let this page sign in' : error.message
      tell(get('user-error'), `Not signed in: ${text}`)
    } finally {
      button.disabled = false
    }
  }
}
