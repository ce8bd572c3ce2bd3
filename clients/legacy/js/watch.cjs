// Watches topics with a first-generation client and prints one JSON object a line: what its user would see.
// Usage: node watch.cjs CLIENT URL TOPICS EVENTS PARAMS, with CLIENT realtime-js-0.9 or realtime-js-1.7; EVENTS is an
// object of lists by topic, or a list for all.
const [client, url, topics, events, params] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

const library = require(client)
const Client = library.RealtimeClient ?? library.Socket
// Of itself the client waits ten seconds for an answer, and a machine may be busy.
const socket = new Client(url, { params: JSON.parse(params ?? '{}'), timeout: 120_000 })
socket.connect()

const wanted = JSON.parse(events)
for (const topic of JSON.parse(topics)) {
  const channel = socket.channel(topic)
  for (const bound of wanted[topic] ?? wanted) {
    channel.on(bound, ({ type, schema, table, commit_timestamp, record, old_record }) =>
      print({ change: { topic, bound, type, schema, table, commit_timestamp, record, old_record } }))
  }
  const join = channel.subscribe ? channel.subscribe() : channel.join()
  join
    .receive('ok', () => print({ joined: topic }))
    .receive('error', (reason) => print({ refused: topic, reason }))
    .receive('timeout', () => print({ timeout: topic }))
}

process.stdin.on('end', () => process.exit(0)).resume()
