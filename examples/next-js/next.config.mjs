import { fileURLToPath } from 'node:url'

/** @type {import('next').NextConfig} */
export default {
  // This folder is all there is to the app, whatever lies above it.
  turbopack: { root: fileURLToPath(new URL('.', import.meta.url)) },
}
