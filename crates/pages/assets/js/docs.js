// The documentation works without this; only the button for dark mode needs it.
import { watchAppearance } from './appearance.js'

watchAppearance()
