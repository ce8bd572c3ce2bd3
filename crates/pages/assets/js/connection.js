// A channel of a host, through the official client.
import { RealtimeClient } from '../vendor/realtime-js.js'
import * as describe from './describe.js'
import { explain } from './explain.js'
import { changesRequest } from './form.js'
import { heed } from './notices.js'
import { redact } from './redact.js'

const reasonOf = ({ code, reason }) => [reason, code && `code ${code}`].filter(Boolean).join(', ') || 'connection lost'

export class Connection {
  #form
  #secrets
  #hooks
  #client
  #channel
  // Set once this connection is none of the page's any more: what still comes of it is not shown.
  #over = false
  // Whether the socket is open now, and whether the channel ever was joined.
  #opened = false
  #joined = false
  #explaining = false
  #lastError = null
  // What is asked for of row changes. The client reads it anew at each join.
  #request
  // The place of the last change, if there is one.
  place = null

  // `hooks`: `state(name, text)`, `entry(entry)`, `rtt(ms)`, `online(count)`, `table(name)`, `place(text)`,
  // `live(what, change)`. `since`: the place from which row changes go on.
  constructor(form, jwt, hooks, since) {
    this.#form = form
    this.#request = { ...changesRequest(form), ...(since && { since }) }
    this.place = since
    this.#secrets = [form.token, jwt].filter(Boolean)
    this.#hooks = hooks
    const token = jwt || form.token
    this.#client = new RealtimeClient(`${form.host.replace(/^http/, 'ws')}/realtime/v1`, {
      params: { apikey: form.token, log_level: form.logLevel },
      accessToken: async () => token,
      logger: (kind, message, data) => this.#logged(kind, message, data),
      heartbeatCallback: (status, latency) => !this.#over && status === 'ok' && latency !== undefined && hooks.rtt(Math.round(latency)),
      worker: true,
      workerUrl: '/worker.js',
    })
    hooks.state('connecting', 'Connecting')
    // The join must carry the token: policies of private channels are asked with it.
    this.#client.setAuth().then(() => this.#over || this.#join())
  }

  #join() {
    const channel = this.#client.channel(this.#form.channel, {
      config: { private: this.#form.private, broadcast: { self: true, ack: true }, presence: { enabled: this.#form.presence } },
    })
    this.#channel = channel
    channel.on('broadcast', { event: '*' }, (message) => this.#add(describe.broadcast, message))
    channel.on('system', {}, (message) => this.#system(message))
    if (this.#form.changes) {
      channel.on('postgres_changes', this.#request, (message) => this.#change(message))
    }
    if (this.#form.presence) {
      const online = () => Object.values(channel.presenceState()).flat().length
      channel.on('presence', { event: 'sync' }, () => {
        if (this.#over) return
        this.#hooks.online(online())
        this.#add((detail, ...rest) => describe.presence('sync', detail, ...rest), { online: online(), state: channel.presenceState() })
      })
      for (const kind of ['join', 'leave']) {
        channel.on('presence', { event: kind }, (detail) => this.#add((...all) => describe.presence(kind, ...all), detail))
      }
    }
    channel.subscribe((status, error) => this.#status(status, error))
  }

  // Live rows are a table; events go to the log.
  #change(message) {
    if (this.#over) return
    this.place = message.commit_timestamp
    this.#hooks.place(this.place)
    if (this.#form.live && !message.errors) this.#hooks.live('change', { ...message, new: redact(message.new, this.#secrets), old: redact(message.old, this.#secrets) })
    else this.#add(describe.change, message)
  }

  #add(description, ...detail) {
    if (this.#over) return
    const entry = description(...detail, Date.now(), this.#secrets)
    if (entry) this.#hooks.entry(entry)
  }

  #logged(kind, message, data) {
    if (this.#over) return
    this.#add(describe.fromLogger, kind, message, data)
    if (kind !== 'transport') return
    if (String(message).startsWith('connected to')) this.#opened = true
    if (message === 'close') this.#closed(data ?? {})
  }

  #closed(event) {
    this.#hooks.rtt(null)
    this.#hooks.table(null)
    this.#hooks.online(null)
    this.#hooks.live('lost')
    if (this.#opened) {
      this.#opened = false
      this.#hooks.state('connecting', `Reconnecting (${reasonOf(event)})`)
    } else {
      this.#explain()
    }
  }

  // The socket did not open: browsers do not tell why, so the host is asked.
  async #explain() {
    if (this.#explaining) return
    this.#explaining = true
    const { text, final } = await explain(this.#form.host, this.#form.token, { fetch: (...request) => fetch(...request), page: location })
    this.#explaining = false
    if (this.#over || this.#opened) return
    this.#add(describe.status, 'not connected', text)
    if (final) {
      this.#client.disconnect()
      this.#hooks.state('failed', text)
    } else if (this.#joined) {
      this.#hooks.state('connecting', `Reconnecting (${text})`)
    } else {
      this.#hooks.state('failed', `${text} Trying again.`)
    }
  }

  #status(status, error) {
    if (this.#over) return
    if (status === 'SUBSCRIBED') {
      this.#joined = true
      this.#lastError = null
      this.#hooks.live(this.#request.since ? 'resumed' : 'joined')
      // A place counts once: a later join has all rows again.
      delete this.#request.since
      this.#add(describe.status, 'joined', { channel: this.#form.channel })
      this.#hooks.state('connected', `Connected to ${this.#form.host}`)
      this.#client.sendHeartbeat()
      if (this.#form.presence) this.#track()
    } else if (status === 'TIMED_OUT') {
      this.#add(describe.status, 'join timed out', null)
      this.#hooks.state('failed', 'Timed out')
    } else if (status === 'CHANNEL_ERROR' && error?.cause && this.#client.isConnected()) {
      // An answer of the server. Without a connection the reason shows elsewhere.
      const reason = error.message
      this.#add(describe.status, 'join refused', error.cause)
      this.#hooks.state('failed', reason)
    } else if (status === 'CLOSED') {
      this.#add(describe.status, 'channel closed', null)
      this.#hooks.table(null)
      this.#hooks.state('failed', this.#lastError ?? 'The server closed the channel')
    }
  }

  #system(message) {
    if (this.#over) return
    this.#add(describe.system, message)
    if (message.status === 'error') this.#lastError = String(message.message)
    if (message.extension === 'postgres_changes') heed(message, this.#form, this.#hooks, this.#joined)
  }

  async #track() {
    const answer = await this.#channel.track({ name: `user_${Math.floor(Math.random() * 100)}`, t: Date.now() })
    if (answer !== 'ok') this.#add(describe.status, 'presence was not tracked', answer)
  }

  get isJoined() {
    return !this.#over && this.#channel?.state === 'joined' && this.#client.isConnected()
  }

  // Sends a broadcast; what went wrong, or `null`.
  async send(event, payload) {
    const answer = await this.#channel.send({ type: 'broadcast', event, payload })
    return answer === 'ok' ? null : answer === 'timed out' ? 'the server did not confirm it in time' : 'the server refused it'
  }

  close() {
    this.#over = true
    this.#client.removeAllChannels().finally(() => this.#client.disconnect())
  }
}
