// Filters of row changes: `column=[not.]operator.value`, several joined by commas. Pure.

export const OPERATORS = ['eq', 'neq', 'gt', 'gte', 'lt', 'lte', 'in', 'like', 'ilike', 'match', 'imatch', 'is', 'isdistinct']
export const IS_VALUES = ['null', 'true', 'false', 'unknown']

// What a filter may look like is decided by its server; this is thrown with a text for the person who edits it.
export class FilterError extends Error {}

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
    } else if (char === ',' && depth === 0) {
      found.push(current)
      current = ''
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

// The conditions of a filter: `{ column, not, operator, value }`, where the value of `in` is a list as it is written.
export const parseFilter = (text) => (text.trim() === '' ? [] : segments(text).map(parseSegment))

const printCondition = ({ column, not, operator, value }) => {
  const written = operator === 'in' ? `(${value})` : operator === 'is' ? value : quote(value)
  return `${column}=${not ? 'not.' : ''}${operator}.${written}`
}

// The filter of conditions; throws where a server would read something else than what is meant.
export const printFilter = (conditions) => {
  const cleaned = conditions.map((condition) => ({
    ...condition,
    column: condition.column.trim(),
    value: ['in', 'is'].includes(condition.operator) ? condition.value.trim().replace(/^\((.*)\)$/s, '$1') : condition.value,
  }))
  for (const { column } of cleaned) if (column === '') throw new FilterError('a condition needs a column')
  const text = cleaned.map(printCondition).join(',')
  if (JSON.stringify(parseFilter(text)) !== JSON.stringify(cleaned.map(({ column, not, operator, value }) => ({ column, not: Boolean(not), operator, value })))) {
    throw new FilterError('a name or a list cannot be written: look at its commas, quotes and parentheses')
  }
  return text
}

// Columns as chips: trimmed, none twice.
export const addColumns = (columns, text) => {
  const added = text.split(',').map((column) => column.trim()).filter(Boolean)
  return [...new Set([...columns, ...added])]
}
