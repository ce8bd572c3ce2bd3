// Filters of row changes: `column=[not.]operator.value` and groups, `or=(column.operator.value,…)`, joined by commas. Pure.

export const OPERATORS = [
  'eq', 'neq', 'gt', 'gte', 'lt', 'lte', 'in', 'like', 'ilike', 'match', 'imatch', 'is', 'isdistinct',
  'cs', 'cd', 'ov', 'sl', 'sr', 'nxl', 'nxr', 'adj',
]
export const IS_VALUES = ['null', 'true', 'false', 'unknown']

// Their values may be arrays or ranges, whose commas are their own.
const WITH_BRACKETS = ['cs', 'cd', 'ov', 'sl', 'sr', 'nxl', 'nxr', 'adj']
const MAX_DEPTH = 8
const GROUP = /^(not\.)?(or|and)=\(/

// What a filter may look like is decided by its server; this is thrown with a text for the person who edits it.
export class FilterError extends Error {}

// Where a text in quotes ends that begins here; -1 if it does not end.
const endOfQuoted = (text, from) => {
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === '\\') at++
    else if (text[at] === '"') return at + 1
  }
  return -1
}

// Where an array, a range or an object ends that begins here; -1 if it does not end. Ranges may be closed by either.
const endOfBrackets = (text, from) => {
  let depth = 0
  for (let at = from; at < text.length; at++) {
    if (text[at] === '"') {
      at = endOfQuoted(text, at) - 1
      if (at < 0) return -1
    } else if ('{[('.includes(text[at])) depth++
    else if ('}])'.includes(text[at]) && --depth === 0) return at + 1
  }
  return -1
}

// Reads a group; throws if it is none.
class GroupReader {
  constructor(text, at) {
    this.text = text
    this.at = at
  }

  // At the name of a group: reads up to behind its closing parenthesis.
  group(depth) {
    if (depth > MAX_DEPTH) throw new FilterError(`groups stand in more than ${MAX_DEPTH} others`)
    this.at = this.text.indexOf('(', this.at) + 1
    for (;;) {
      this.#blanks()
      if (/^(not\.)?(or|and)\(/.test(this.text.slice(this.at))) this.group(depth + 1)
      else this.#condition()
      this.#blanks()
      const next = this.text[this.at++]
      if (next === ')') return
      if (next === undefined) throw new FilterError('a group has no closing parenthesis')
      if (next !== ',') throw new FilterError('a comma is missing in a group')
    }
  }

  #blanks() {
    while (/\s/.test(this.text[this.at] ?? '')) this.at++
  }

  #ends(at) {
    return /^\s*([,)]|$)/.test(this.text.slice(at))
  }

  #condition() {
    const begun = this.at
    const whole = () => this.text.slice(begun).split(/[,)]/)[0].trim()
    if (whole() === '') throw new FilterError('a condition is empty')
    // A name, or a key behind an arrow, may stand in quotes.
    for (; this.at < this.text.length && this.text[this.at] !== '.'; this.at++) {
      const opens = this.text[this.at] === '"' && (this.at === begun || this.text[this.at - 1] === '>')
      if (opens && endOfQuoted(this.text, this.at) > 0) this.at = endOfQuoted(this.text, this.at) - 1
      else if (',)='.includes(this.text[this.at])) break
    }
    const rest = this.text.slice(this.at)
    const found = /^\.(?:not\.)?([a-z]+)\./.exec(rest)
    if (this.at === begun || !found || !OPERATORS.includes(found[1])) {
      throw new FilterError(`${whole()} is no condition of a group, which is written column.operator.value`)
    }
    this.at += found[0].length
    this.#value(found[1])
  }

  #value(operator) {
    const from = this.at
    const first = this.text[from]
    if (operator === 'in') {
      const end = first === '(' ? endOfBrackets(this.text, from) : -1
      if (end < 0 || !this.#ends(end)) throw new FilterError('the values of in need parentheses')
      this.at = end
      return
    }
    let end = -1
    if (first === '"') end = endOfQuoted(this.text, from)
    else if (first === '{' || (WITH_BRACKETS.includes(operator) && '[('.includes(first ?? ' '))) end = endOfBrackets(this.text, from)
    if (end < 0 || !this.#ends(end)) {
      end = from
      while (end < this.text.length && !',)'.includes(this.text[end])) end++
    }
    this.at = end
    const value = this.text.slice(from, end).trim()
    if (operator === 'is' && !IS_VALUES.includes(value)) throw new FilterError(`is takes ${IS_VALUES.join(', ')}`)
  }
}

// Whether an array or a range begins here that ends a condition; then where it ends, else -1.
const endOfValue = (condition, text, at) => {
  const found = /=(?:not\.)?([a-z]+)\.$/.exec(condition)
  if (!found || condition.indexOf('=') !== found.index || !WITH_BRACKETS.includes(found[1])) return -1
  const end = endOfBrackets(text, at)
  return end > 0 && /^\s*(,|$)/.test(text.slice(end)) ? end : -1
}

// Splits at commas outside of parentheses and of quotes. A quote opens only after `.`, `(` or `,`.
const segments = (text) => {
  const found = []
  let current = ''
  let depth = 0
  let quoted = false
  for (let at = 0; at < text.length; at++) {
    const char = text[at]
    if (quoted) {
      current += char
      if (char === '\\' && at + 1 < text.length) current += text[++at]
      else if (char === '"') quoted = false
    } else if (current.trim() === '' && GROUP.test(text.slice(at))) {
      const reader = new GroupReader(text, at)
      reader.group(1)
      current = text.slice(at, reader.at)
      at = reader.at - 1
      if (!/^\s*(,|$)/.test(text.slice(reader.at))) throw new FilterError('a comma is missing behind a group')
    } else if (char === ',' && depth === 0) {
      found.push(current)
      current = ''
    } else if (depth === 0 && '{[('.includes(char) && endOfValue(current, text, at) > 0) {
      const end = endOfValue(current, text, at)
      current += text.slice(at, end)
      at = end - 1
    } else {
      if (char === '"' && '.(,'.includes(current.at(-1) ?? ' ')) quoted = true
      if (char === '(') depth++
      if (char === ')') depth = Math.max(0, depth - 1)
      current += char
    }
  }
  return [...found, current]
}

// A value within quotes, or as it stands if the quotes do not enclose all of it.
const unquote = (value) => {
  if (!value.startsWith('"')) return value
  let text = ''
  for (let at = 1; at < value.length; at++) {
    if (value[at] === '\\' && at + 1 < value.length) text += value[++at]
    else if (value[at] === '"') return at === value.length - 1 ? text : value
    else text += value[at]
  }
  return value
}

const quote = (value) => {
  const plain = value !== '' && value === value.trim() && !/[,()"]/.test(value)
  return plain ? value : `"${value.replace(/[\\"]/g, '\\$&')}"`
}

const parseSegment = (segment) => {
  const text = segment.trim()
  if (text === '') throw new FilterError('a condition is empty')
  if (GROUP.test(text)) return { group: text }
  const equals = text.indexOf('=')
  if (equals < 1) throw new FilterError(`${text} is no condition`)
  let rest = text.slice(equals + 1)
  const not = rest.startsWith('not.')
  if (not) rest = rest.slice(4)
  const dot = rest.indexOf('.')
  const operator = rest.slice(0, dot)
  if (dot < 0 || !OPERATORS.includes(operator)) throw new FilterError(`${text} has no known operator`)
  let value = rest.slice(dot + 1)
  if (operator === 'in') {
    if (!value.startsWith('(') || !value.endsWith(')')) throw new FilterError('the values of in need parentheses')
    value = value.slice(1, -1)
  } else {
    value = unquote(value)
  }
  if (operator === 'is' && !IS_VALUES.includes(value)) throw new FilterError(`is takes ${IS_VALUES.join(', ')}`)
  return { column: text.slice(0, equals), not, operator, value }
}

// The conditions of a filter: `{ column, not, operator, value }`, where the value of `in` is a list as it is written; and
// groups, as they are written: `{ group }`.
export const parseFilter = (text) => (text.trim() === '' ? [] : segments(text).map(parseSegment))

// An array or a range stands as it is.
const isPlain = (operator, value) =>
  WITH_BRACKETS.includes(operator) && '{[('.includes(value[0] ?? ' ') && endOfBrackets(value, 0) === value.length

const printCondition = ({ group, column, not, operator, value }) => {
  if (group !== undefined) return group
  const written = operator === 'in' ? `(${value})` : operator === 'is' || isPlain(operator, value) ? value : quote(value)
  return `${column}=${not ? 'not.' : ''}${operator}.${written}`
}

// The filter of conditions; throws where a server would read something else than what is meant.
export const printFilter = (conditions) => {
  const cleaned = conditions.map((condition) => {
    if (condition.group !== undefined) return { group: condition.group.trim() }
    const { column, not, operator, value } = condition
    const isBare = ['in', 'is'].includes(operator)
    return { column: column.trim(), not: Boolean(not), operator, value: isBare ? value.trim().replace(/^\((.*)\)$/s, '$1') : value }
  })
  for (const { group, column } of cleaned) {
    if (column === '') throw new FilterError('a condition needs a column')
    if (group !== undefined && !GROUP.test(group)) throw new FilterError('a group is written or=(column.operator.value,…), and=(…) or not.or=(…)')
  }
  const text = cleaned.map(printCondition).join(',')
  if (JSON.stringify(parseFilter(text)) !== JSON.stringify(cleaned)) {
    throw new FilterError('a name or a list cannot be written: look at its commas, quotes and parentheses')
  }
  return text
}

// Columns as chips: trimmed, none twice.
export const addColumns = (columns, text) => {
  const added = text.split(',').map((column) => column.trim()).filter(Boolean)
  return [...new Set([...columns, ...added])]
}
