// Names below `localhost` mean this machine, as in browsers and curl (RFC 6761, 6.3): Node.js asks the system, which may
// not know them. Use: node --import ./localhost.mjs PROGRAM
import dns from 'node:dns'

const { lookup } = dns
dns.lookup = (name, ...rest) => lookup(name.endsWith('.localhost') ? 'localhost' : name, ...rest)
