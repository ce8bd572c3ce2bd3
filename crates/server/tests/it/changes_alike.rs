//! Rows that the policies cannot tell apart are one question, where it is certain that they say the same of each
//! (row_security 2.4).

use anyhow::Result;

use crate::{
    changes_compiled::ids,
    changes_images::{server, watching},
};

/// `turn` is true and false by turns, for each party anew.
const SAYS: &str = "
    create table says (id int primary key, room int, body text);
    alter table says enable row level security;
    alter publication supabase_realtime add table says;
    create function turn() returns bool language plpgsql volatile as $$ begin
        perform set_config('app.turn', (coalesce(nullif(current_setting('app.turn', true), ''), '0')::int + 1)::text, true);
        return current_setting('app.turn')::int % 2 = 1;
    end $$;
    create table one (id int primary key);
    insert into one values (1);";

/// What views, policies of other tables and aggregates call is not looked into: each row is asked about.
#[tokio::test]
async fn rows_are_judged_one_by_one_where_what_is_called_is_out_of_sight() -> Result<()> {
    let (server, db) = server(&format!(
        "{SAYS}
         create view turns as select turn() as is_mine;
         create table guarded (id int primary key);
         insert into guarded values (1);
         alter table guarded enable row level security;
         create policy by_turns on guarded using (turn());
         create function turn_of(before bool, n int) returns bool language sql volatile as $$ select public.turn() $$;
         create aggregate turns_of(int) (sfunc = turn_of, stype = bool);"
    ))
    .await?;
    let mut ann = watching(&server, "ann", "says").await?;
    for policy in [
        "exists (select from turns t where t.is_mine and says.room > 0)",
        "exists (select from guarded g where g.id <= says.room)",
        "(select turns_of(o.id) from one o where o.id <= says.room)",
    ] {
        db.sql(&format!(
            "delete from says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy});
             insert into says select n, 1, 'x' from generate_series(1, 4) n"
        ))
        .await?;
        assert_eq!(ids(&db, &mut ann).await?, [1, 3], "{policy}");
    }
    Ok(())
}

/// Whether a function says the same of equal rows is looked up anew when it is another one, also behind an operator: it
/// counts for the rows of the transaction that replaces it.
#[tokio::test]
async fn a_function_that_becomes_volatile_is_called_for_each_row() -> Result<()> {
    let (server, db) = server(SAYS).await?;
    let mut ann = watching(&server, "ann", "says").await?;
    let define = |volatility: &str, what: &str| {
        format!(
            "create or replace function is_seen(a text, b text) returns bool language plpgsql {volatility} as $$
                declare answer bool; begin execute 'select {what}' into answer; return answer; end $$;"
        )
    };
    db.sql(&define("stable", "true")).await?;
    db.sql("create operator === (function = is_seen, leftarg = text, rightarg = text)").await?;
    for policy in ["is_seen(body, 'x')", "body === 'x'"] {
        db.sql(&format!(
            "{} delete from says; drop policy if exists own on says;
             create policy own on says to authenticated using ({policy})",
            define("stable", "true")
        ))
        .await?;
        db.sql("insert into says select n, 1, 'x' from generate_series(1, 4) n").await?;
        assert_eq!(ids(&db, &mut ann).await?, [1, 2, 3, 4], "{policy}");
        db.sql(&format!(
            "begin; {} insert into says select n, 1, 'x' from generate_series(11, 14) n; commit",
            define("volatile", "public.turn()")
        ))
        .await?;
        assert_eq!(ids(&db, &mut ann).await?, [11, 13], "{policy}");
    }
    Ok(())
}
