// The button that turns dark mode on and off. What a person chose is kept; until then the system decides.
import { get } from './dom.js'
import { read, write } from './saved.js'

const KEY = 'realtime.theme'
const root = document.documentElement
const system = matchMedia('(prefers-color-scheme: dark)')

const apply = (dark) => {
  root.dataset.theme = dark ? 'dark' : 'light'
  get('theme').setAttribute('aria-pressed', String(dark))
}

export const watchAppearance = () => {
  apply(root.dataset.theme === 'dark')
  get('theme').addEventListener('click', () => {
    const dark = root.dataset.theme !== 'dark'
    write(KEY, dark ? 'dark' : 'light')
    apply(dark)
  })
  system.addEventListener('change', () => {
    if (read(KEY) === null) apply(system.matches)
  })
}
