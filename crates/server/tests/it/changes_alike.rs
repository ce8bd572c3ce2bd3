//! Rows that the policies cannot tell apart are one question, where it is certain that they say the same of each
//! (row_security 2.4).

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, Socket, TestDb};

use crate::{
    changes_compiled::ids,
    changes_images::{server_on, watching},
};

/// Rows of a transaction: the server gets them in few pieces.
const ROWS: usize = 100;

/// The log tells how often `look` was called. Its statement is built as it runs: it is not compiled.
const SAYS: &str = "
    create table says (id int primary key, room int, body text);
    alter table says enable row level security;
    alter publication supabase_realtime add table says;
    create function look() returns bool language plpgsql volatile as $$ declare answer bool; begin
        raise log 'it was looked at';
        execute format('select %L::bool', 'true') into answer;
        return answer;
    end $$;
    create table one (id int primary key);
    insert into one values (1);";

/// A server on a cluster of its own, whose log nobody else writes to.
async fn server(more: &str) -> Result<(Server, TestDb)> {
    server_on(TestDb::alone().await?, more, ServerOptions::fast()).await
}

/// Writes rows that are equal but for their keys, with something before them in their transaction; they come. How often
/// `look` was called meanwhile.
async fn looks(db: &TestDb, socket: &mut Socket, before: &str, first: usize) -> Result<usize> {
    let count = || anyhow::Ok(db.log()?.matches("LOG:  it was looked at").count());
    let begun = count()?;
    let last = first + ROWS - 1;
    db.sql(&format!(
        "begin; {before} insert into says select n, 1, 'x' from generate_series({first}, {last}) n; commit"
    ))
    .await?;
    assert_eq!(ids(db, socket).await?, (first..=last).collect::<Vec<usize>>());
    Ok(count()? - begun)
}

/// What views, policies of other tables and aggregates call is not looked into: each row is asked about.
#[tokio::test]
async fn rows_are_judged_one_by_one_where_what_is_called_is_out_of_sight() -> Result<()> {
    let (server, db) = server(&format!(
        "{SAYS}
         create view looking as select look() as is_seen;
         create table guarded (id int primary key);
         insert into guarded values (1);
         alter table guarded enable row level security;
         create policy looking on guarded using (look());
         create function look_at(before bool, n int) returns bool language sql volatile as $$ select public.look() $$;
         create aggregate look_at_all(int) (sfunc = look_at, stype = bool);"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    for policy in [
        "(select l.is_seen from looking l where says.room > 0)",
        "(select g.id > 0 from guarded g where g.id <= says.room)",
        "(select look_at_all(o.id) from one o where o.id <= says.room)",
    ] {
        let before = format!(
            "truncate says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy});"
        );
        db.sql(&before).await?;
        ids(&db, &mut ann).await?;
        let looks = looks(&db, &mut ann, "", 1).await?;
        ensure!(looks >= ROWS, "{policy}: it was looked {looks} times");
    }
    Ok(())
}

/// Whether a function says the same of equal rows is looked up anew when it is another one, also behind an operator: it
/// counts for the rows of the transaction that replaces it.
#[tokio::test]
async fn a_function_that_becomes_volatile_is_called_for_each_row() -> Result<()> {
    let (server, db) = server(SAYS).await?;
    let mut ann = watching(&server, "ann", "says").await?;
    let define = |volatility: &str| {
        format!(
            "create or replace function is_seen(a text, b text) returns bool language plpgsql {volatility} as $$
                declare answer bool; begin execute format('select public.%I()', 'look') into answer; return answer; end $$;"
        )
    };
    db.sql(&define("stable")).await?;
    db.sql("create operator === (function = is_seen, leftarg = text, rightarg = text)").await?;
    for policy in ["is_seen(body, 'x')", "body === 'x'"] {
        db.sql(&format!(
            "{} truncate says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})",
            define("stable")
        ))
        .await?;
        ids(&db, &mut ann).await?;
        let few = looks(&db, &mut ann, "", 1).await?;
        ensure!((1..ROWS).contains(&few), "{policy}: equal rows are asked about once, not {few} times");
        let many = looks(&db, &mut ann, &define("volatile"), 1 + ROWS).await?;
        ensure!(many >= ROWS, "{policy}: it was looked {many} times");
    }
    Ok(())
}
