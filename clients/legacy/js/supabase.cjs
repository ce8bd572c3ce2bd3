// Watches a table with supabase-js 1 and prints one JSON object a line: what its user would see.
// Usage: node supabase.cjs URL TOKEN TABLE EVENT...; TABLE may carry a filter, as `todos:id=eq.1`.
const { createClient } = require('supabase-js-1')
const [url, token, table, ...events] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

// Of itself the client waits ten seconds for an answer, and a machine may be busy.
const supabase = createClient(url, token, { realtime: { timeout: 120_000 } })
let query = supabase.from(table)
for (const bound of events) {
  query = query.on(bound, ({ eventType, schema, table, errors, new: now, old }) =>
    print({ change: { bound, type: eventType, schema, table, errors, record: now, old_record: old } }))
}
query.subscribe((status, error) => print(status === 'SUBSCRIBED' ? { joined: table } : { status, error: error ?? null }))

process.stdin.on('end', () => process.exit(0)).resume()
