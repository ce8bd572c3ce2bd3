// The rows of a live binding: joins its channel, keeps the rows by key, joins again when the channel has ended.
import { equal } from './equal.js';
/** What the server says when all rows of the result were sent. */
const COMPLETE = 'Live rows are complete';
/** Codes of warnings after which no more rows come: the first two for good, the third until the database allows it again. */
const REFUSED = ['LiveResultTooLarge', 'LiveKeyNotUnique', 'RealtimeDisabledForConfiguration'];
/** After a channel that the server has closed, in milliseconds; doubled up to the second number. */
const AGAIN = [1_000, 30_000];
export class Feed {
    client;
    binding;
    keyOf;
    sink;
    /** The result as it was told, by key. */
    rows = new Map();
    state = 'connecting';
    /** Rows of a join that are not all there yet. */
    #coming;
    #pending = [];
    #timer;
    #again;
    #failures = 0;
    #channel;
    #over = false;
    #watches = new Map();
    constructor(client, binding, keyOf, sink) {
        this.client = client;
        this.binding = binding;
        this.keyOf = keyOf;
        this.sink = sink;
    }
    start() {
        void this.#join();
    }
    stop() {
        this.#over = true;
        clearTimeout(this.#timer);
        clearTimeout(this.#again);
        for (const watches of this.#watches.values())
            for (const watch of watches)
                watch.news();
        if (this.#channel)
            void this.client.removeChannel(this.#channel);
    }
    get isOver() {
        return this.#over;
    }
    /** Gives the collection what has come and was not given yet. */
    flush() {
        clearTimeout(this.#timer);
        this.#timer = undefined;
        const differences = this.#pending;
        this.#pending = [];
        if (differences.length > 0)
            this.sink.apply(differences);
    }
    /** Calls `news` whenever something is told about a row, or the state changes. */
    watch(key, news) {
        const watch = { touched: false, news };
        const all = this.#watches.get(key) ?? new Set();
        this.#watches.set(key, all.add(watch));
        return Object.assign(watch, {
            stop: () => {
                all.delete(watch);
                if (all.size === 0 && this.#watches.get(key) === all)
                    this.#watches.delete(key);
            },
        });
    }
    async #join() {
        try {
            await fetchToken(this.client);
        }
        catch (error) {
            this.sink.problem(asError(error));
        }
        if (this.#over)
            return;
        // Each has a topic of its own: the client has one channel per topic, with one join.
        const channel = this.client.channel(`live:${this.binding.table}:${Math.random().toString(36).slice(2)}`);
        this.#channel = channel;
        const mine = (handle) => (...values) => {
            if (!this.#over && this.#channel === channel)
                handle(...values);
        };
        channel
            .on('postgres_changes', this.binding, mine((change) => this.#changed(change)))
            .on('system', {}, mine((message) => this.#told(message)))
            .subscribe(mine((status, error) => this.#status(status, error)));
    }
    #status(status, error) {
        if (status === 'SUBSCRIBED') {
            this.#failures = 0;
            this.#coming = new Map();
            return this.#become('connecting');
        }
        this.#coming = undefined;
        if (error && isAnswer(error)) {
            this.sink.refused(error);
            this.#become('refused');
        }
        else {
            // A lost connection: the client makes a new one, and joins again.
            if (error)
                this.sink.problem(asError(error));
            if (this.state !== 'refused')
                this.#become('connecting');
        }
        if (status === 'CLOSED')
            this.#joinAgain();
    }
    /** The server has ended the channel, as it does when a token has expired. No client joins again by itself. */
    #joinAgain() {
        const [first, most] = AGAIN;
        void this.client.removeChannel(this.#channel);
        this.#channel = undefined;
        this.#again = setTimeout(() => void this.#join(), Math.min(first * 2 ** this.#failures++, most));
    }
    #told({ extension, status, message, code }) {
        if (extension === 'postgres_changes' && status === 'ok') {
            if (message === COMPLETE)
                this.#complete();
        }
        else if (status === 'error' || REFUSED.includes(String(code))) {
            const error = new Error(String(message));
            this.sink.refused(error);
            this.#become('refused');
        }
        else if (status !== 'ok') {
            this.sink.problem(new Error(String(message)));
        }
    }
    #changed({ eventType, new: row, old, errors }) {
        if (errors)
            return this.sink.problem(new Error(errors.join(', ')));
        const key = this.keyOf(eventType === 'DELETE' ? old : row);
        if (this.#coming) {
            if (eventType === 'DELETE')
                this.#coming.delete(key);
            else
                this.#coming.set(key, row);
            return;
        }
        this.#put(key, eventType === 'DELETE' ? undefined : row);
        this.#timer ??= setTimeout(() => this.flush(), 0);
    }
    /** What a client had before a join is replaced as a whole, by differences: unchanged rows do not move. */
    #complete() {
        const coming = this.#coming;
        this.#coming = undefined;
        if (coming) {
            for (const key of [...this.rows.keys()])
                if (!coming.has(key))
                    this.#put(key, undefined);
            for (const [key, row] of coming)
                if (!equal(this.rows.get(key), row))
                    this.#put(key, row);
        }
        this.flush();
        this.#become('live');
        this.sink.ready();
    }
    /** Puts a row under a key, or takes it away. */
    #put(key, row) {
        const before = this.rows.get(key);
        if (row) {
            this.rows.set(key, row);
            this.#pending.push({ type: before ? 'update' : 'insert', key, value: row });
        }
        else if (before) {
            this.rows.delete(key);
            this.#pending.push({ type: 'delete', key, value: before });
        }
        for (const watch of this.#watches.get(key) ?? []) {
            watch.touched = true;
            watch.news();
        }
    }
    #become(state) {
        if (state === this.state)
            return;
        this.state = state;
        this.sink.state(state);
        for (const watches of this.#watches.values())
            for (const watch of watches)
                watch.news();
    }
}
/**
 * Has the client fetch the user's token, so that the join carries it. A token that was set by hand stays as it is. Old
 * clients cannot fetch: without an argument they would forget the token that they have.
 */
async function fetchToken({ realtime }) {
    if (realtime.setAuth.length === 0 && !realtime._isManualToken?.())
        await realtime.setAuth();
}
/** Whether the server has refused the join. Otherwise the cause is an event of the socket, or there is none. */
function isAnswer({ cause }) {
    const { reason, code } = (cause ?? {});
    return typeof reason === 'string' && typeof code !== 'number';
}
const asError = (error) => (error instanceof Error ? error : new Error(String(error)));
