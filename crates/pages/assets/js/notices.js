// What the server tells about row changes, by whatever transport, and what it means for the page.

// What the server says when all live rows were sent, and when it does not know what the page has of them.
const COMPLETE = 'Live rows are complete'
const ANEW = 'Live rows begin anew'

// Codes of warnings after which no live rows come.
const NO_ROWS = ['LiveResultTooLarge', 'LiveKeyNotUnique', 'RealtimeDisabledForConfiguration']

// `message`: of the extension `postgres_changes`. `hooks`: those of the page.
export const heed = (message, form, hooks, isJoined) => {
  if (message.status === 'ok') {
    if (message.message === COMPLETE) hooks.live('complete')
    if (message.message === ANEW) hooks.live('joined')
    hooks.table(`${form.schema}.${form.table}`)
    if (isJoined) hooks.state('connected', `Connected to ${form.host}`)
  } else if (message.status === 'error' || NO_ROWS.includes(message.code)) {
    hooks.table(null)
    hooks.state('failed', String(message.message))
  }
}
