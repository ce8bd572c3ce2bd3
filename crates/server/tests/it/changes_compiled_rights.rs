//! For whom compiled policies are: roles, their rights, and claims that cannot be read (row_security 13, 14).

use anyhow::{Result, ensure};
use realtime_testkit::{ServerOptions, Socket, TestDb, Version, sign, unix_now};
use serde_json::json;

use crate::{
    changes_compiled::ids,
    changes_images::{TOPIC, server, server_on, watching},
};

/// row_security 14: a term that raises for one party; others go on without a question
#[tokio::test]
async fn a_term_that_raises_concerns_its_party_alone() -> Result<()> {
    let (server, db) = server(
        "create table numbered (id int primary key, owner bigint);
         alter table numbered enable row level security;
         create policy own on numbered to authenticated using
            (owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::bigint);
         alter publication supabase_realtime add table numbered;",
    )
    .await?;
    let (mut one, mut bad) =
        (watching(&server, "1", "numbered").await?, watching(&server, "x", "numbered").await?);
    db.sql("insert into numbered values (1, 1), (2, 2)").await?;
    assert_eq!(ids(&db, &mut one).await?, [1]);
    let frames = crate::changes_images::frames(&db, &mut bad).await?;
    let told: Vec<&str> = frames.iter().filter_map(|frame| frame.payload["message"].as_str()).collect();
    ensure!(
        told.iter().any(|text| text.contains("22P02")) && !told.iter().any(|text| text.contains("\"x\"")),
        "{told:?}"
    );
    Ok(())
}

/// row_security 13: who the policies are for
#[tokio::test]
async fn roles_and_their_policies() -> Result<()> {
    let (server, db) = server(
        "create table mixed (id int primary key, owner text, kind text);
         create role staff_of_compiled nologin;
         alter table mixed enable row level security;
         create policy a on mixed to authenticated using (owner = me());
         create policy b on mixed to staff_of_compiled using (kind = 'staff');
         create policy c on mixed as restrictive to authenticated using (kind is distinct from 'hidden');
         create policy d on mixed to anon using (true);
         alter publication supabase_realtime add table mixed;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "mixed").await?;
    let rows = "(1, 'ann', 'x'), (2, 'ann', 'hidden'), (3, 'bob', 'staff'), (4, 'ann', null)";
    db.sql(&format!("insert into mixed values {rows}")).await?;
    assert_eq!(ids(&db, &mut ann).await?, [1, 4]);
    db.sql("grant staff_of_compiled to authenticated").await?;
    let begun = tokio::time::Instant::now();
    loop {
        db.sql(&format!("delete from mixed; insert into mixed values {rows}")).await?;
        if ids(&db, &mut ann).await? == [1, 3, 4] {
            break;
        }
        ensure!(begun.elapsed() < realtime_testkit::PATIENCE, "the membership is not followed");
    }
    db.sql("revoke staff_of_compiled from authenticated; drop owned by staff_of_compiled; drop role staff_of_compiled").await?;
    Ok(())
}

/// row_security 13: whose policies count for a role, and whether any do, is followed while its rows are watched
#[tokio::test]
async fn rights_of_roles_are_followed() -> Result<()> {
    // Changes of roles have policies compiled anew in all databases of a cluster, and others count what is asked.
    let (server, db) = server_on(
        TestDb::alone().await?,
        "create table guarded (id int primary key, kind text);
         alter table guarded enable row level security;
         alter publication supabase_realtime add table guarded;",
        ServerOptions::fast(),
    )
    .await?;
    let [user, staff, boss] = ["user", "staff", "boss"].map(|role| format!("{role}_of_{}", db.name()));
    db.sql(&format!(
        "create role {user} nologin; create role {staff} nologin; create role {boss} nologin;
         grant usage on schema public to {user}; grant select on all tables in schema public to {user};
         create policy a on guarded to {user} using (kind = 'own');
         create policy b on guarded to {staff} using (kind = 'staff')"
    ))
    .await?;
    let claims = json!({"role": user, "exp": unix_now() + 3600});
    let mut socket = Socket::connect(server.port(), Version::V2, &sign(&claims)).await?;
    let watched = ["guarded", "fence"].map(|table| json!({"event": "*", "schema": "public", "table": table}));
    socket.watch(TOPIC, json!(watched)).await?;
    // A grant has the role's inheritance as of then, from PostgreSQL 16 on.
    let regrant = format!("revoke {staff} from {user}; grant {staff} to {user}");
    let steps: [(String, &[i32]); 9] = [
        (format!("grant {staff} to {user}"), &[1, 2]),
        (format!("alter role {user} noinherit; {regrant}"), &[1]),
        (format!("alter role {user} inherit; {regrant}"), &[1, 2]),
        (format!("alter table guarded owner to {boss}; grant {boss} to {user}"), &[1, 2, 3]),
        ("alter table guarded force row level security".to_owned(), &[1, 2]),
        ("alter table guarded no force row level security".to_owned(), &[1, 2, 3]),
        (format!("revoke {boss} from {user}"), &[1, 2]),
        (format!("alter role {user} bypassrls"), &[1, 2, 3]),
        (format!("alter role {user} nobypassrls"), &[1, 2]),
    ];
    let rows = "delete from guarded; insert into guarded values (1, 'own'), (2, 'staff'), (3, 'other')";
    db.sql(rows).await?;
    assert_eq!(ids(&db, &mut socket).await?, [1]);
    for (step, expected) in steps {
        db.sql(&step).await?;
        let begun = tokio::time::Instant::now();
        loop {
            db.sql(rows).await?;
            if ids(&db, &mut socket).await? == expected {
                break;
            }
            ensure!(begun.elapsed() < realtime_testkit::PATIENCE, "{step} is not followed");
        }
        if step.contains("noinherit") {
            // What was seen may have been what counts without the grant.
            tokio::time::sleep(tokio::time::Duration::from_millis(2_500)).await;
            db.sql(rows).await?;
            assert_eq!(ids(&db, &mut socket).await?, expected);
        }
    }
    drop(socket);
    db.sql(&format!(
        "alter table guarded owner to current_user; drop owned by {user}, {staff}, {boss};
         drop role {user}, {staff}, {boss}"
    ))
    .await
}
