// The dialog "Why do I get nothing?".
import { get, make, tell } from './dom.js'
import { ask } from './why.js'

const WORDS = { yes: 'yes', no: 'no', open: 'unknown', note: '' }

const step = ({ step, outcome, text, mend }) =>
  make(
    'li',
    { class: `why-step why-${outcome in WORDS ? outcome : 'note'}` },
    make('span', { class: 'why-word', text: WORDS[outcome] ?? '' }),
    make('span', { class: 'why-name', text: step }),
    make('span', { class: 'why-text', text }),
    ...(mend ?? []).map((one) => make('code', { class: 'why-mend', text: one.text })),
  )

export class WhyDialog {
  #form
  #jwt

  // `form` gives the form as it is, `jwt` the user's token.
  constructor(form, jwt) {
    this.#form = form
    this.#jwt = jwt
    get('why-form').addEventListener('submit', (event) => {
      event.preventDefault()
      this.#ask()
    })
    get('why-close').addEventListener('click', () => get('why-dialog').close())
  }

  open() {
    get('why-steps').replaceChildren()
    tell(get('why-answer'), '')
    tell(get('why-error'), '')
    get('why-dialog').showModal()
    get('why-key').focus()
  }

  async #ask() {
    const button = get('why-ask')
    button.disabled = true
    tell(get('why-error'), '')
    try {
      const { explanation, problem } = await ask(this.#form(), this.#jwt(), get('why-key').value, fetch)
      tell(get('why-error'), problem)
      tell(get('why-answer'), explanation?.answer)
      get('why-answer').dataset.sent = explanation?.sent ?? ''
      get('why-steps').replaceChildren(...(explanation?.steps ?? []).map(step))
    } catch (error) {
      tell(get('why-error'), error instanceof TypeError ? 'The host cannot be reached.' : error.message)
    } finally {
      button.disabled = false
    }
  }
}
