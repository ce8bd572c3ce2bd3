// Keeps time for heartbeats: browsers slow the timers of pages in the background, not those of workers.
let timer
self.onmessage = ({ data }) => {
  if (data?.event !== 'start') return
  clearInterval(timer)
  timer = setInterval(() => self.postMessage({ event: 'keepAlive' }), data.interval)
}
