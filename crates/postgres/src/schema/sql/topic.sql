create or replace function realtime.topic() returns text
language sql stable
as $body$
    select case when t.name operator(pg_catalog.<>) '' then t.name end
    from (select pg_catalog.current_setting('realtime.topic', true) as name) as t
$body$;
