// What the test clients share: JSON objects, one a line, in and out.

// How long the clients wait for an answer, in milliseconds: of themselves they wait ten seconds, and a machine may be busy.
export const PATIENCE = 120_000

export const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

// Bytes have no JSON: shown as numbers.
export const shown = (payload) => {
  if (payload instanceof ArrayBuffer) return { bytes: [...new Uint8Array(payload)] }
  if (ArrayBuffer.isView(payload)) return { bytes: [...payload] }
  return payload
}

// Hands each command over, one after the other within what has come at once; the end of input ends the program.
export const commands = (handle) => {
  process.stdin.setEncoding('utf8')
  let buffer = ''
  process.stdin.on('data', async (text) => {
    buffer += text
    const lines = buffer.split('\n')
    buffer = lines.pop()
    for (const line of lines) await handle(JSON.parse(line))
  })
  process.stdin.on('end', () => process.exit(0))
}
