//! What policies allow (tenant_database 3).

use std::sync::atomic::Ordering;

use anyhow::Result;
use futures_util::future::join_all;
use realtime_postgres::{AuthorizeRequest, ReadVerdict};
use serde_json::json;

use crate::support::{may_read, may_write, one, policy, ready, request, with_claims};

const USER: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01";
const OTHER: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02";

/// tenant_database 1 to 3
#[tokio::test]
async fn policies_decide_and_nothing_is_stored() -> Result<()> {
    let (db, database) = ready().await?;
    for action in ["select", "insert"] {
        policy(&db, action, &["broadcast", "presence"]).await?;
    }
    let (allowed, denied) = (request("authenticated"), request("anon"));
    for _ in 0..3 {
        assert_eq!(database.authorize_read(&allowed).await?, may_read(true, true));
        assert_eq!(database.authorize_write(&allowed).await?, may_write(true, true));
        let verdict = database.authorize_read(&denied).await?;
        assert_eq!((verdict, verdict.may_join()), (may_read(false, false), false));
        assert_eq!(database.authorize_write(&denied).await?, may_write(false, false));
    }
    let elsewhere = AuthorizeRequest { topic: "U".into(), ..allowed };
    assert_eq!(database.authorize_read(&elsewhere).await?, may_read(false, false));
    assert_eq!(database.authorize_write(&elsewhere).await?, may_write(false, false));
    assert_eq!(one::<i64>(&db, "select count(*) from realtime.messages").await?, 0);
    Ok(())
}

/// tenant_database 4
#[tokio::test]
async fn policies_see_the_subject() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(&format!(
        "create policy own on realtime.messages for select to authenticated using (auth.uid() = '{USER}')"
    ))
    .await?;
    let of = |sub: &str| with_claims(json!({"role": "authenticated", "sub": sub}));
    assert_eq!(database.authorize_read(&of(USER)).await?, may_read(true, true));
    assert_eq!(database.authorize_read(&of(OTHER)).await?, may_read(false, false));
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(false, false));
    Ok(())
}

/// tenant_database 5
#[tokio::test]
async fn policies_see_the_role() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql("create policy p on realtime.messages for select using (auth.role() = 'anon')").await?;
    assert_eq!(database.authorize_read(&request("anon")).await?, may_read(true, true));
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(false, false));
    Ok(())
}

/// tenant_database 6
#[tokio::test]
async fn without_presence_only_broadcast_is_asked() -> Result<()> {
    let (db, database) = ready().await?;
    for action in ["select", "insert"] {
        policy(&db, action, &["broadcast", "presence"]).await?;
    }
    let request = AuthorizeRequest { presence: false, ..request("authenticated") };
    let verdict = database.authorize_read(&request).await?;
    assert_eq!(verdict, ReadVerdict { broadcast: true, presence: None });
    assert_eq!(database.authorize_write(&request).await?, may_write(true, false));
    Ok(())
}

/// tenant_database 7, 30
#[tokio::test]
async fn extensions_and_directions_are_independent() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "insert", &["broadcast"]).await?;
    let asked = request("authenticated");
    assert_eq!(database.authorize_write(&asked).await?, may_write(true, false));
    assert_eq!(database.authorize_read(&asked).await?, may_read(false, false));
    db.sql("drop policy insert_broadcast on realtime.messages").await?;
    policy(&db, "insert", &["presence"]).await?;
    policy(&db, "select", &["presence"]).await?;
    assert_eq!(database.authorize_write(&asked).await?, may_write(false, true));
    let verdict = database.authorize_read(&asked).await?;
    assert_eq!((verdict, verdict.may_join()), (may_read(false, true), true));
    Ok(())
}

/// tenant_database 20
#[tokio::test]
async fn a_role_that_bypasses_policies_needs_none() -> Result<()> {
    let (_db, database) = ready().await?;
    let service = request("service_role");
    assert_eq!(database.authorize_read(&service).await?, may_read(true, true));
    assert_eq!(database.authorize_write(&service).await?, may_write(true, true));
    Ok(())
}

/// The settings of tenant_database 3.2, in both checks.
#[tokio::test]
async fn policies_see_all_settings() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        r#"create function public.as_expected() returns boolean language sql as $$
            select current_user = 'authenticated' and realtime.topic() = 'T'
                and current_setting('request.jwt.claims')::jsonb
                    = '{"role": "authenticated", "team": {"id": "7 \"x\""}}'
                and current_setting('request.jwt.claim.sub') = ''
                and current_setting('request.jwt.claim.role') = 'authenticated'
                and current_setting('request.headers')::jsonb ->> 'x-region' = 'eu'
        $$;
        create policy r on realtime.messages for select using (public.as_expected() and private is false
            and event is null and payload is null and inserted_at = updated_at
            and inserted_at between (now() at time zone 'utc') - interval '1 hour'
                and (now() at time zone 'utc') + interval '1 hour');
        create policy w on realtime.messages for insert with check (public.as_expected());"#,
    )
    .await?;
    let claims = json!({"role": "authenticated", "team": {"id": "7 \"x\""}});
    let request = AuthorizeRequest { headers: r#"{"x-region":"eu"}"#.into(), ..with_claims(claims) };
    assert_eq!(database.authorize_read(&request).await?, may_read(true, true));
    assert_eq!(database.authorize_write(&request).await?, may_write(true, true));
    let other = AuthorizeRequest { headers: r#"{"x-region":"us"}"#.into(), ..request };
    assert_eq!(database.authorize_read(&other).await?, may_read(false, false));
    Ok(())
}

/// Whatever a policy does to its session is undone before the next question.
#[tokio::test]
async fn nothing_stays_on_the_session() -> Result<()> {
    let (db, database) = crate::support::ready_with(|config| realtime_postgres::DatabaseConfig {
        policy_pool_size: 1,
        ..config
    })
    .await?;
    db.sql(
        "create function public.leaky() returns boolean language plpgsql as $$
         declare clean boolean := coalesce(current_setting('app.leak', true), '') = '';
         begin
            perform set_config('app.leak', 'x', false), pg_advisory_lock(77);
            return clean;
         end $$;
         create policy r on realtime.messages for select using (public.leaky());
         create policy w on realtime.messages for insert with check (public.leaky());",
    )
    .await?;
    let request = AuthorizeRequest { presence: false, ..request("authenticated") };
    for _ in 0..2 {
        assert!(database.authorize_read(&request).await?.broadcast);
        assert!(database.authorize_write(&request).await?.broadcast);
    }
    let left = "select count(*) from pg_stat_activity a where a.datname = current_database()
        and a.application_name = 'realtime_connect'
        and (a.state <> 'idle' or exists (select from pg_locks l where l.pid = a.pid))";
    assert_eq!(one::<i64>(&db, left).await?, 0);
    let connections = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'realtime_connect'";
    assert_eq!(one::<i64>(&db, connections).await?, 1);
    Ok(())
}

/// Equal questions at once are one probe, different ones are not; each is one round trip of five statements.
///
/// tenant_database 16
#[tokio::test]
async fn equal_questions_share_a_probe() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "select", &["broadcast"]).await?;
    let stats = &database.stats().policies;
    let same = request("authenticated");
    let verdicts = join_all((0..50).map(|_| database.authorize_read(&same))).await;
    for verdict in verdicts {
        assert_eq!(verdict?, may_read(true, false));
    }
    let counted =
        || [&stats.asked, &stats.probes, &stats.statements].map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!(counted(), [50, 1, 5]);
    assert_eq!(stats.read.count(), 1);
    assert!(stats.read.sum() > 0);
    let different: Vec<_> = (0..20).map(|n| with_claims(json!({"role": "authenticated", "n": n}))).collect();
    for verdict in join_all(different.iter().map(|request| database.authorize_read(request))).await {
        assert_eq!(verdict?, may_read(true, false));
    }
    assert_eq!(counted(), [70, 21, 105]);
    database.authorize_write(&same).await?;
    assert_eq!(counted(), [71, 22, 112]);
    assert_eq!((stats.read.count(), stats.write.count()), (21, 1));
    Ok(())
}

/// Whoever asks after a policy has changed gets an answer by the new one.
///
/// tenant_database 27
#[tokio::test]
async fn a_change_of_policies_is_seen_by_the_next_question() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "insert", &["broadcast"]).await?;
    let request = request("authenticated");
    assert!(database.authorize_write(&request).await?.broadcast);
    db.sql("drop policy insert_broadcast on realtime.messages").await?;
    assert!(!database.authorize_write(&request).await?.broadcast);
    Ok(())
}

/// A function declared immutable that is not is no reason to take one user for another.
#[tokio::test]
async fn users_are_not_mistaken_for_one_another() -> Result<()> {
    let (db, database) = crate::support::ready_with(|config| realtime_postgres::DatabaseConfig {
        policy_pool_size: 1,
        ..config
    })
    .await?;
    db.sql(&format!(
        "create function public.wrongly_immutable() returns text language sql immutable as
            $$ select current_setting('request.jwt.claim.sub', true) $$;
         create policy r on realtime.messages for select to authenticated
            using (public.wrongly_immutable() = '{USER}');
         create policy w on realtime.messages for insert to authenticated
            with check (public.wrongly_immutable() = '{USER}')"
    ))
    .await?;
    for _ in 0..10 {
        for (sub, allowed) in [(USER, true), (OTHER, false)] {
            let request = with_claims(json!({"role": "authenticated", "sub": sub}));
            assert_eq!(database.authorize_read(&request).await?, may_read(allowed, allowed));
            assert_eq!(database.authorize_write(&request).await?, may_write(allowed, allowed));
        }
    }
    Ok(())
}

/// A check is about its own rows: policies are not evaluated for those of others, however many there are.
#[tokio::test]
async fn policies_see_no_rows_of_others() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql(
        "insert into realtime.messages (topic, extension)
            select 'secret', 'broadcast' from generate_series(1, 1000);
         create function public.only_mine(topic text) returns boolean language plpgsql as $$ begin
            if topic <> 'T' then raise exception 'seen'; end if;
            return true;
         end $$;
         create policy r on realtime.messages for select to authenticated using (public.only_mine(topic));",
    )
    .await?;
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, true));
    Ok(())
}

/// Connections that have asked before go on when the table is made anew.
#[tokio::test]
async fn the_table_may_be_made_anew() -> Result<()> {
    let (db, database) = crate::support::ready_with(|config| realtime_postgres::DatabaseConfig {
        policy_pool_size: 1,
        ..config
    })
    .await?;
    let service = request("service_role");
    assert!(database.authorize_read(&service).await?.broadcast);
    db.sql("drop table realtime.messages").await?;
    let error = database.authorize_read(&service).await.unwrap_err();
    assert!(error.to_string().contains("42P01"), "{error}");
    let report = database.set_up_schema(crate::support::today(), false).await?;
    assert_eq!(report.failed, Vec::<String>::new());
    assert!(database.authorize_read(&service).await?.broadcast);
    assert!(database.authorize_write(&service).await?.broadcast);
    Ok(())
}
