//! Policies that cannot be evaluated (tenant_database 3.5).

use std::time::Duration;

use anyhow::Result;
use realtime_postgres::{AuthorizeError, AuthorizeRequest, DatabaseConfig, TenantDatabase};
use realtime_testkit::TestDb;
use serde_json::json;

use crate::support::{may_read, may_write, policy, ready, ready_with, request, with_claims};

/// tenant_database 8
#[tokio::test]
async fn a_policy_that_raises() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        "create function public.raises() returns boolean language plpgsql as
            $$ begin raise exception 'no way'; end $$;
         create policy r on realtime.messages for select to authenticated using (public.raises());
         create policy w on realtime.messages for insert to authenticated with check (public.raises());",
    )
    .await?;
    let request = request("authenticated");
    for _ in 0..2 {
        let error = database.authorize_read(&request).await.unwrap_err();
        assert_eq!(error, AuthorizeError::RlsPolicy("ERROR P0001 (raise_exception)".to_owned()));
        assert_eq!(
            error.join_reason("T"),
            "Unauthorized: You do not have permissions to read from this Channel topic: T"
        );
        assert_eq!(error.code(), "RlsPolicyError");
        let error = database.authorize_write(&request).await.unwrap_err();
        assert!(matches!(error, AuthorizeError::RlsPolicy(_)), "{error:?}");
    }
    // Others are not harmed.
    assert_eq!(
        database.authorize_read(&crate::support::request("service_role")).await?,
        may_read(true, true)
    );
    Ok(())
}

/// tenant_database 9
#[tokio::test]
async fn a_role_that_does_not_exist() -> Result<()> {
    let (_db, database) = ready().await?;
    for role in ["potato", "", "NONE", "none", "authenticated; select 1"] {
        let read = database.authorize_read(&request(role)).await;
        let write = database.authorize_write(&request(role)).await;
        // Without the server's words: a policy's error may repeat values of rows, and this is logged.
        let expected = "ERROR 22023 (invalid_parameter_value)";
        for error in [read.unwrap_err(), write.unwrap_err()] {
            assert!(
                matches!(&error, AuthorizeError::RlsPolicy(text) if text.starts_with(expected)),
                "{error:?}"
            );
        }
    }
    Ok(())
}

/// A role without rights on the table may write nothing, and cannot be asked what it may read.
#[tokio::test]
async fn a_role_without_rights() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "select", &["broadcast"]).await?;
    db.sql("revoke all on realtime.messages from authenticated").await?;
    let request = request("authenticated");
    let error = database.authorize_read(&request).await.unwrap_err();
    assert!(matches!(&error, AuthorizeError::RlsPolicy(text) if text.contains("42501")), "{error:?}");
    assert_eq!(database.authorize_write(&request).await?, may_write(false, false));
    Ok(())
}

/// Claims and headers that are no good for policies fail their own question only.
#[tokio::test]
async fn claims_that_policies_cannot_read() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        "create policy r on realtime.messages for select to authenticated
         using (current_setting('request.jwt.claims')::jsonb ->> 'a' is null)",
    )
    .await?;
    let bad = with_claims(json!({"role": "authenticated", "a": "\u{0}"}));
    let error = database.authorize_read(&bad).await.unwrap_err();
    assert!(matches!(&error, AuthorizeError::RlsPolicy(_)), "{error:?}");
    let mut bad = request("authenticated");
    bad.topic = "a\u{0}b".into();
    let error = database.authorize_read(&bad).await.unwrap_err();
    assert!(matches!(&error, AuthorizeError::RlsPolicy(_)), "{error:?}");
    assert!(database.authorize_read(&request("authenticated")).await?.broadcast);
    Ok(())
}

/// tenant_database 10
#[tokio::test]
async fn a_policy_that_takes_too_long() -> Result<()> {
    let (db, database) =
        ready_with(|config| DatabaseConfig { statement_timeout: Duration::from_millis(300), ..config })
            .await?;
    db.sql(
        "create function public.slow() returns boolean language sql as $$ select pg_sleep(60) is null $$;
         create policy r on realtime.messages for select to authenticated using (public.slow());
         create policy w on realtime.messages for insert to authenticated with check (public.slow());",
    )
    .await?;
    let expected = "ERROR 57014 (query_canceled)";
    let read = database.authorize_read(&request("authenticated")).await.unwrap_err();
    assert_eq!(read, AuthorizeError::QueryCanceled(expected.to_owned()));
    assert_eq!(read.join_reason("T"), format!("QueryCanceled: {expected}"));
    let write = database.authorize_write(&request("authenticated")).await.unwrap_err();
    assert_eq!(write, AuthorizeError::QueryCanceled(expected.to_owned()));
    Ok(())
}

/// tenant_database 11
#[tokio::test]
async fn no_partition_for_today() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "select", &["broadcast"]).await?;
    policy(&db, "insert", &["broadcast"]).await?;
    let partitions: Vec<String> = crate::support::all(
        &db,
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass",
    )
    .await?;
    assert_eq!(partitions.len(), 5);
    db.sql(&format!("drop table {}", partitions.join(", "))).await?;
    for error in [
        database.authorize_read(&request("authenticated")).await.unwrap_err(),
        database.authorize_write(&request("authenticated")).await.unwrap_err(),
    ] {
        assert!(matches!(&error, AuthorizeError::MissingPartition(_)), "{error:?}");
    }
    Ok(())
}

/// A user's own check on the table is no missing partition.
#[tokio::test]
async fn a_check_of_the_users() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql("alter table realtime.messages add constraint mine check (topic <> 'T')").await?;
    let error = database.authorize_read(&request("authenticated")).await.unwrap_err();
    assert!(matches!(&error, AuthorizeError::RlsPolicy(_)), "{error:?}");
    Ok(())
}

/// The connection ends in the insert, in the select and in the insert of the write check.
///
/// tenant_database 12
#[tokio::test]
async fn the_connection_ends_during_the_check() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        "create function public.kill() returns boolean language plpgsql security definer as
            $$ begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60); return true; end $$;
         create function public.kill_trigger() returns trigger language plpgsql security definer as
            $$ begin perform public.kill(); return new; end $$;
         create policy r on realtime.messages for select to authenticated using (public.kill());
         create policy w on realtime.messages for insert to authenticated with check (public.kill());",
    )
    .await?;
    let request = request("authenticated");
    let in_select = database.authorize_read(&request).await.unwrap_err();
    let in_write = database.authorize_write(&request).await.unwrap_err();
    db.sql("create trigger t before insert on realtime.messages for each row execute function public.kill_trigger()")
        .await?;
    let in_insert = database.authorize_read(&request).await.unwrap_err();
    for error in [in_select, in_write, in_insert] {
        assert!(matches!(&error, AuthorizeError::Unavailable(_)), "{error:?}");
        assert_eq!(
            error.join_reason("T"),
            "UnableToConnectToProject: Realtime was unable to connect to the project database"
        );
    }
    // New connections take the place of those that ended.
    db.sql("drop trigger t on realtime.messages; drop policy r on realtime.messages").await?;
    assert_eq!(database.authorize_read(&request).await?, may_read(false, false));
    Ok(())
}

/// Reading goes on for ever for users, whoever cancels it.
const ENDLESS: &str = "
    create function public.endless() returns boolean language plpgsql as $$ begin
        if auth.uid() is null then return true; end if;
        loop
            begin perform pg_sleep(60); exception when query_canceled or others then null; end;
        end loop;
    end $$;
    create policy r on realtime.messages for select to authenticated using (public.endless());";

/// Whether no session of the database sleeps.
const NOBODY_SLEEPS: &str = "select count(*) = 0 from pg_stat_activity
    where datname = current_database() and wait_event = 'PgSleep'";

/// A policy that catches its cancellation: the question fails like any that takes too long, and its session is ended.
#[tokio::test]
async fn a_policy_that_catches_its_cancellation() -> Result<()> {
    let (db, database) =
        ready_with(|config| DatabaseConfig { statement_timeout: Duration::from_millis(300), ..config })
            .await?;
    db.sql(ENDLESS).await?;
    db.sql("create policy w on realtime.messages for insert to authenticated with check (public.endless())")
        .await?;
    let stuck = with_claims(json!({"role": "authenticated", "sub": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}));
    let expected = AuthorizeError::QueryCanceled("ERROR 57014 (query_canceled)".to_owned());
    assert_eq!(database.authorize_read(&stuck).await.unwrap_err(), expected);
    assert_eq!(database.authorize_write(&stuck).await.unwrap_err(), expected);
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
    assert_eq!(database.authorize_write(&request("authenticated")).await?, may_write(true, true));
    crate::support::until(&db, NOBODY_SLEEPS).await
}

/// A database with one connection for questions, which is made, and a question whose policy never ends.
async fn endless() -> Result<(TestDb, TenantDatabase, AuthorizeRequest)> {
    let (db, database) = ready_with(|config| DatabaseConfig {
        statement_timeout: Duration::from_millis(300),
        policy_pool_size: 1,
        ..config
    })
    .await?;
    db.sql(ENDLESS).await?;
    let stuck = with_claims(json!({"role": "authenticated", "sub": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}));
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
    Ok((db, database, stuck))
}

/// While the database takes no new connections such a session cannot be ended. It is as soon as that is possible; until then
/// it keeps its place among the connections.
#[tokio::test]
async fn a_session_that_cannot_be_ended_at_once_is_ended_later() -> Result<()> {
    let (db, database, stuck) = endless().await?;
    let admin = realtime_testkit::cluster().await?.connect("postgres").await?;
    let name = db.name();
    admin.batch_execute(&format!("alter database {name} with allow_connections false")).await?;
    let expected = AuthorizeError::QueryCanceled("ERROR 57014 (query_canceled)".to_owned());
    assert_eq!(database.authorize_read(&stuck).await.unwrap_err(), expected);
    assert!(!crate::support::one::<bool>(&db, NOBODY_SLEEPS).await?);
    admin.batch_execute(&format!("alter database {name} with allow_connections true")).await?;
    crate::support::until(&db, NOBODY_SLEEPS).await?;
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
    Ok(())
}

/// Whoever asks may be gone before the answer. The connection is of use again, or replaced.
#[tokio::test]
async fn a_question_that_nobody_waits_for_harms_nobody() -> Result<()> {
    let (db, database, stuck) = endless().await?;
    let gone = tokio::time::timeout(Duration::from_millis(100), database.authorize_read(&stuck)).await;
    assert!(gone.is_err());
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
    // Its session is ended too. One that went on would hold up every replication slot that is made in the cluster.
    crate::support::until(&db, NOBODY_SLEEPS).await
}

/// Statements that a policy prepares outlive a rollback, as do locks: the next question meets none of them.
#[tokio::test]
async fn what_a_policy_leaves_on_a_connection_is_removed() -> Result<()> {
    let (db, database) = ready_with(|config| DatabaseConfig { policy_pool_size: 1, ..config }).await?;
    db.sql(
        "create function public.meddles() returns boolean language plpgsql as $$ begin
            perform pg_advisory_lock(4713);
            perform set_config('app.me', 'left', false);
            execute 'deallocate all';
            for n in 0 .. 20 loop
                execute format('prepare s%s as select 1 / 0', n);
            end loop;
            return true;
         end $$;
         create policy r on realtime.messages for select to authenticated using (public.meddles());
         create policy w on realtime.messages for insert to authenticated with check (public.meddles());",
    )
    .await?;
    for _ in 0..3 {
        assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
        assert_eq!(database.authorize_write(&request("authenticated")).await?, may_write(true, true));
        let locks = "select count(*)::text from pg_locks where locktype = 'advisory' and objid = 4713";
        assert_eq!(crate::support::all::<String>(&db, locks).await?, ["0"]);
    }
    Ok(())
}
