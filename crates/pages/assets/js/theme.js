// Runs before the page is drawn, so that it does not flash in the other theme.
{
  let chosen = null
  try {
    chosen = localStorage.getItem('realtime.theme')
  } catch {
    // Storage may be forbidden: then the system's theme counts.
  }
  const dark = chosen === 'dark' || (chosen !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches)
  document.documentElement.dataset.theme = dark ? 'dark' : 'light'
}
