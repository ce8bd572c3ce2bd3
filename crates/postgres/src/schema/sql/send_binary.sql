create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void
language plpgsql volatile
as $body$
begin
    perform pg_catalog.set_config('realtime.topic', topic, true);
    insert into realtime.messages (topic, extension, event, private, binary_payload)
    values (topic, 'broadcast', event, private, payload);
exception when others then
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$body$;
