// Writes through `supabase.from(table)`, which is PostgREST: for those who pass no handlers of their own.
export function writer(client, schema, table, key) {
    const from = () => {
        if (!client.schema && !client.from)
            throw new Error('supabase.from() is missing: pass onInsert, onUpdate and onDelete');
        return client.schema ? client.schema(schema).from(table) : client.from(table);
    };
    const ofRow = (query, row) => key.reduce((narrowed, column) => narrowed.eq(column, row[column]), query);
    return {
        async insert({ transaction }) {
            // Without asking for the rows: a user may insert what a policy does not show.
            rows(await from().insert(transaction.mutations.map((mutation) => mutation.modified)));
        },
        async update({ transaction }) {
            const updates = transaction.mutations.map(({ original, changes }) => ofRow(from().update(changes), original).select());
            return written(await Promise.all(updates), 'updated');
        },
        async delete({ transaction }) {
            const deletes = transaction.mutations.map(({ original }) => ofRow(from().delete(), original).select(key.join(',')));
            written(await Promise.all(deletes), 'deleted');
        },
    };
}
function rows({ data, error }) {
    if (error)
        throw Object.assign(new Error(error.message), { cause: error });
    return Array.isArray(data) ? data : [];
}
/** PostgREST answers with no rows, and no error, what a policy does not allow. */
function written(answers, what) {
    return answers.flatMap((answer) => {
        const found = rows(answer);
        if (found.length === 0)
            throw new Error(`No row was ${what}: it is gone, or a policy does not allow it`);
        return found;
    });
}
