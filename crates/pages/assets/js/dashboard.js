// The dashboard works without this; only the button for dark mode needs it.
import { watchAppearance } from './appearance.js'
import { get } from './dom.js'

get('theme').hidden = false
watchAppearance()
