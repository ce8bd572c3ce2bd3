// How a scenario talks with the test that runs it, and waits. Needs no browser.
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'

// How long anything that should come may take: the machine may be busy.
export const PATIENCE = 120_000

// Longest run of a scenario, less than the test's patience: so that it is told where it hangs.
const LIMIT = 570_000

// What the scenario is about at the moment.
let step = 'the start'
let lines

// Tells what the scenario is about from now on.
export const begin = (what) => {
  step = what
}

// Asks the test for something, `{ sql }`, `{ stop }` or `{ start }`, and waits until it is done.
export const ask = async (what) => {
  step = JSON.stringify(what)
  lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]()
  process.stdout.write(`${JSON.stringify(what)}\n`)
  const { value } = await lines.next()
  assert.equal(value, 'done', `${JSON.stringify(what)}: ${value}`)
}

// Waits until a look at something gives what is expected.
export const eventually = async (what, look, expected) => {
  step = what
  const limit = Date.now() + PATIENCE
  for (;;) {
    try {
      // A look may fall into the change from one page to the next.
      const seen = await look()
      if (expected instanceof RegExp) assert.match(String(seen), expected)
      else assert.deepEqual(seen, expected)
      return
    } catch (error) {
      if (Date.now() > limit) throw new Error(`${what}: ${error.message}`)
      await new Promise((resolve) => setTimeout(resolve, 40))
    }
  }
}

// Ends the process with 1 when the scenario takes too long.
export const endInTime = () => {
  setTimeout(() => {
    console.error(`hangs at or after: ${step}`)
    process.exit(1)
  }, LIMIT)
}
