// A write is shown at once, and settles when its row has come back by the live binding.
import { shows } from './equal.js';
/** How long a row may be on its way that came in another form than it was written, in milliseconds. */
const OTHER_FORM = 300;
/**
 * Writes, and waits until the result shows it. `send` returns the rows that the database has, or nothing.
 *
 * Three ways out: the result has the row as it was written (after a delete: it has none); something was told about the
 * row after the write was answered, or shortly before it (a trigger has changed the values, or somebody else has); or
 * nothing comes for `patience` milliseconds with the rows being live (the row is not in the result: a filter, a limit,
 * a policy). While the rows are not live the write waits: the rows come again with the connection.
 */
export async function settle(feed, writes, patience, send, keyOf) {
    const waiting = writes.map((write) => new Waiting(feed(), write, patience));
    try {
        const rows = await send();
        const returned = new Map(rows?.map((row) => [keyOf(row), row]));
        // An inserted row may have got its key from the database: it comes under that one.
        const other = (place) => (rows?.length === writes.length ? rows[place] : undefined);
        const until = (one, place) => {
            const row = returned.get(one.write.key) ?? (one.write.type === 'insert' ? other(place) : undefined);
            return one.until(row, row && keyOf(row));
        };
        await Promise.all(waiting.map(until));
    }
    finally {
        for (const one of waiting)
            one.stop();
    }
    // The collection has the rows before it lets go of what was shown meanwhile.
    feed()?.flush();
}
class Waiting {
    feed;
    write;
    patience;
    #news = () => { };
    #watch;
    #key;
    constructor(feed, write, patience) {
        this.feed = feed;
        this.write = write;
        this.patience = patience;
        this.#key = write.key;
        this.#watch = feed?.watch(write.key, () => this.#news());
    }
    stop() {
        this.#watch?.stop();
    }
    #isShown(returned) {
        const row = this.feed?.rows.get(this.#key);
        if (this.write.type === 'delete')
            return row === undefined;
        return row !== undefined && shows(row, returned ?? this.write.values);
    }
    /** Waits for the row, under this key. */
    until(returned, key = this.#key) {
        const { feed } = this;
        if (feed && key !== this.#key) {
            this.stop();
            this.#key = key;
            this.#watch = feed.watch(key, () => this.#news());
        }
        const watch = this.#watch;
        if (!feed || !watch)
            return Promise.resolve();
        const patience = watch.touched ? Math.min(OTHER_FORM, this.patience) : this.patience;
        watch.touched = false;
        return new Promise((resolve) => {
            let timer;
            this.#news = () => {
                if (feed.isOver || watch.touched || this.#isShown(returned)) {
                    clearTimeout(timer);
                    return resolve();
                }
                if (feed.state === 'live')
                    timer ??= setTimeout(resolve, patience);
                else
                    timer = void clearTimeout(timer);
            };
            this.#news();
        });
    }
}
