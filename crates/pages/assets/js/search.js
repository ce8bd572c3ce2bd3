// Fuzzy search: the letters of the query in their order, with others between them, but not too many: in a long text
// the letters of every word could be found somewhere. Pure.

const spread = (length) => 2 * length + 4

// Ranges `[start, end)` of the text that match, `null` if it does not. What contains the query as it is matches there,
// else the place where its letters are closest together.
export const match = (query, text) => {
  const wanted = [...query.toLowerCase()].filter((char) => char.trim() !== '')
  if (wanted.length === 0) return []
  const low = text.toLowerCase()
  // Some letters become two in lower case: then places would be wrong.
  const haystack = low.length === text.length ? low : text
  const trimmed = query.trim().toLowerCase()
  const whole = haystack.indexOf(trimmed)
  if (whole >= 0) return [[whole, whole + trimmed.length]]
  let best = null
  let size = spread(wanted.length) + 1
  for (let from = haystack.indexOf(wanted[0]); from >= 0; from = haystack.indexOf(wanted[0], from + 1)) {
    const ranges = ahead(wanted, haystack, from)
    if (!ranges) break
    const span = ranges.at(-1)[1] - ranges[0][0]
    if (span < size) [best, size] = [ranges, span]
  }
  return best
}

// The first places of the letters from a place on, `null` if there is none for one of them.
const ahead = (wanted, haystack, from) => {
  const ranges = []
  let at = from
  for (const char of wanted) {
    const found = haystack.indexOf(char, at)
    if (found < 0) return null
    at = found + char.length
    const last = ranges.at(-1)
    if (last && last[1] === found) last[1] = at
    else ranges.push([found, at])
  }
  return ranges
}

// The text in pieces: `{ text, hit }`.
export const pieces = (text, ranges) => {
  const found = []
  let at = 0
  for (const [start, end] of ranges ?? []) {
    if (start > at) found.push({ text: text.slice(at, start), hit: false })
    found.push({ text: text.slice(start, end), hit: true })
    at = end
  }
  if (at < text.length || found.length === 0) found.push({ text: text.slice(at), hit: false })
  return found
}
