create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void
language plpgsql volatile
as $body$
declare
    row_id constant pg_catalog.uuid := pg_catalog.gen_random_uuid();
    body pg_catalog.jsonb := payload;
    missing constant pg_catalog.text := pg_catalog.concat_ws(
        ', ',
        case when payload is null then 'payload' end,
        case when event is null then 'event' end,
        case when private is null then 'private' end
    );
begin
    -- The row is stored as it is, and nobody will hear it. (A topic that is NULL fails below.)
    if missing operator(pg_catalog.<>) '' then
        raise warning 'WarnSendingBroadcastMessage: the message is stored and not sent, for this is NULL: %', missing;
    end if;
    -- Only an object can take the key: anything else without it ends as a warning.
    if not (body operator(pg_catalog.?) 'id') then
        body := pg_catalog.jsonb_set(body, '{id}', pg_catalog.to_jsonb(row_id));
    end if;
    -- Policies that test realtime.topic() must see this topic.
    perform pg_catalog.set_config('realtime.topic', topic, true);
    insert into realtime.messages (id, topic, extension, event, private, payload)
    values (row_id, topic, 'broadcast', event, private, body);
exception when others then
    -- The caller's transaction must not fail because nobody could be told.
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$body$;
