create or replace function realtime.broadcast_changes(
    topic_name text,
    event_name text,
    operation text,
    table_name text,
    table_schema text,
    new record,
    old record,
    level text default 'ROW'
)
returns void
language plpgsql volatile
as $body$
declare
    problem pg_catalog.text;
begin
    problem := case
        when level operator(pg_catalog.=) 'STATEMENT'
            then 'function can only be triggered for each row, not for each statement'
        when operation operator(pg_catalog.=) any (array['INSERT', 'UPDATE', 'DELETE']) then null
        else pg_catalog.concat('Unexpected operation type: ', operation)
    end;
    if problem is not null then
        raise exception '%', problem;
    end if;
    perform realtime.send(
        pg_catalog.jsonb_build_object(
            'schema', table_schema,
            'table', table_name,
            'operation', operation,
            'record', new,
            'old_record', old
        ),
        event_name,
        topic_name
    );
exception when others then
    raise exception 'Failed to process the row: %', sqlerrm;
end
$body$;
