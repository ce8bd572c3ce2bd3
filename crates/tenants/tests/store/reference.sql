-- A metadata database as an older release of the reference leaves it: its tables without the newest columns, its
-- migrations up to then, and two tenants. The secrets of `old` were encrypted with `openssl enc -aes-128-ecb`, those
-- of `new` with AES-256-GCM by Python's `cryptography`; the keys are those of `support.rs`.
create schema _realtime;
set search_path to _realtime;

create table schema_migrations (version bigint not null primary key, inserted_at timestamp(0) without time zone);
insert into schema_migrations
select version, '2025-08-01 10:00:00' from unnest(array[
    20210706140551, 20220329161857, 20220410212326, 20220506102948, 20220527210857, 20220815211129, 20220815215024,
    20220818141501, 20221018173709, 20221102172703, 20221223010058, 20230110180046, 20230810220907, 20230810220924,
    20231024094642, 20240306114423, 20240418082835, 20240625211759, 20240704172020, 20240902173232, 20241106103258,
    20250424203323, 20250613072131, 20250711044927
]) version;

create table tenants (
    id uuid not null primary key,
    name varchar(255),
    external_id varchar(255),
    jwt_secret varchar(255),
    max_concurrent_users integer default 10000 not null,
    inserted_at timestamp(0) without time zone not null,
    updated_at timestamp(0) without time zone not null,
    max_events_per_second integer default 100 not null,
    postgres_cdc_default varchar(255) default 'postgres_cdc_rls',
    max_bytes_per_second integer default 100000 not null,
    max_channels_per_client integer default 100 not null,
    max_joins_per_second integer default 500 not null,
    suspend boolean default false,
    jwt_jwks jsonb,
    notify_private_alpha boolean default false,
    private_only boolean default false not null,
    migrations_ran integer default 0,
    broadcast_adapter varchar(255) default 'phoenix',
    constraint jwt_secret_or_jwt_jwks_required check (jwt_secret is not null or jwt_jwks is not null)
);
create unique index tenants_external_id_index on tenants (external_id);

create table extensions (
    id uuid not null primary key,
    type varchar(255),
    settings jsonb,
    tenant_external_id varchar(255),
    inserted_at timestamp(0) without time zone not null,
    updated_at timestamp(0) without time zone not null,
    constraint extensions_tenant_external_id_fkey
        foreign key (tenant_external_id) references tenants (external_id) on delete cascade
);
create index extensions_tenant_external_id_index on extensions (tenant_external_id);
create unique index extensions_tenant_external_id_type_index on extensions (tenant_external_id, type);

insert into tenants
    (id, name, external_id, jwt_secret, inserted_at, updated_at, max_concurrent_users, private_only, migrations_ran)
values
    ('5e4e0d1c-66a8-4b0c-8b39-9f6a1d4f7a11', 'The old one', 'old',
        '+i/skJvHndZaJR8LWXFmOHA23Ug9qZYruQbkbtZ+XZQk0lwPY6l+cqxtm2w9Mq/c',
        '2024-02-03 04:05:06', '2025-06-07 08:09:10', 321, true, 63),
    ('0c1f3c1f-3d0b-4a63-a2a5-0f2f8c7f5b22', 'The new one', 'new',
        'g1:3Y2LbMuQVpfY+M0MSZi4VfEq0rcdpFGvS4edbpgEYj+9UYn8zHkgf6+B2M1rFyCUy8Hkfko/5WpOijJl263A',
        '2025-07-08 09:10:11', '2025-07-08 09:10:11', 200, false, null);

insert into extensions (id, type, settings, tenant_external_id, inserted_at, updated_at) values
    ('b0a0a4b8-35fc-4f7f-8f07-4dd0f0f2c133', 'postgres_cdc_rls',
        '{"region": "us-east-1", "db_host": "+tuMxY3Plm4yKFbcNd5bgg==", "db_port": "MwMk/rLnGw1L2adIh/dmRQ==",
          "db_name": "sWBpZNdjggEPTQVlI52Zfw==", "db_user": "uxbEq/zz8DXVD53TOI1zmw==",
          "db_password": "dyN4XvHwVxkAFYaDCRUzXg==", "poll_interval_ms": 100, "poll_max_changes": 100,
          "poll_max_record_bytes": 1048576, "ssl_enforced": false, "publication": "supabase_realtime",
          "slot_name": "supabase_realtime_replication_slot"}',
        'old', '2024-02-03 04:05:06', '2024-02-03 04:05:06'),
    ('d7a1a6b0-7a9c-4cf6-bb9d-6f2b6b7f9d44', 'postgres_cdc_rls',
        '{"region": "eu-west-1",
          "db_host": "g1:IQ31CrRuRGklREd+rTSk2tX3xAzhrgBoXZTyC9ozn3mbbO6TgBghEt34",
          "db_port": "g1:DGXxR8RekBebrsa2368b1QzZ21ebyglD9jKFmdT4uew=",
          "db_name": "g1:pN47AN5j0Ns1aIZtAzvmic2Haqe7jBp0CM3MOIlNTg==",
          "db_user": "g1:MEw9cnINXElL+dOtyVs+LE9y92VVr3prMZop6KouUGrRWDpB",
          "db_password": "g1:iA3sMNhCZ7HkTHUArL/Zk1cUERtFDE5r/cBmYXwS93lqs/sC",
          "poll_interval_ms": 100, "subcriber_pool_size": 7}',
        'new', '2025-07-08 09:10:11', '2025-07-08 09:10:11');
