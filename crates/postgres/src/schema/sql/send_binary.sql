create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void
language plpgsql volatile
as $body$
declare
    missing constant text := pg_catalog.concat_ws(
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
    perform pg_catalog.set_config('realtime.topic', topic, true);
    insert into realtime.messages (topic, extension, event, private, binary_payload)
    values (topic, 'broadcast', event, private, payload);
exception when others then
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$body$;
