#!/usr/bin/env node
// Starts the binary that the package for this platform carries, with the same arguments, and ends as it ends.
'use strict'

const { spawn } = require('node:child_process')
const { constants } = require('node:os')

const name = `realtime-server-${process.platform}-${process.arch}`
let binary
try {
  binary = require.resolve(`${name}/realtime`)
} catch {
  console.error(
    `realtime: the package ${name} is not installed. Either this platform has no binary, or optional packages were left out ` +
      '(npm install --omit=optional).'
  )
  process.exit(1)
}

const child = spawn(binary, process.argv.slice(2), { stdio: 'inherit' })
child.on('error', (error) => {
  console.error(`realtime: ${binary} cannot be started: ${error.message}`)
  process.exit(1)
})
// A terminal sends Ctrl-C to both, and the server must not hear it twice. Other signals come to this process alone.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']) {
  process.on(signal, () => {
    if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal)
  })
}
// npm starts this from a shell that ends at SIGTERM without passing it on. Then nobody waits for the server any more.
if (process.env.npm_execpath) {
  const parent = process.ppid
  setInterval(() => process.ppid !== parent && child.kill('SIGTERM'), 500).unref()
}
child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : code))
