//! Bodies in PL/pgSQL: what is found in them.

use super::*;

#[test]
fn a_body_that_only_returns_is_told_from_others() {
    assert_eq!(returned("\n begin -- it\n RETURN exists (select 1); END; "), Some("exists (select 1)"));
    assert_eq!(returned("begin return a; end"), Some("a"));
    for body in [
        "declare a int; begin return a; end",
        "begin a := 1; return a; end",
        "begin return a; return b; end",
        "<<x>> begin return a; end",
        "begin return; end",
        "begin return a; exception when others then return true; end",
    ] {
        assert_eq!(returned(body), None, "{body}");
    }
}

fn found(body: &str) -> Option<Vec<String>> {
    queries(body).map(|found| {
        found.iter().map(|query| query.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    })
}

#[test]
fn what_a_body_may_read_is_found() {
    for (body, expected) in [
        ("begin return true; end", &["select true"][..]),
        (
            "\nBEGIN\n  RETURN EXISTS (SELECT 1 FROM t WHERE a = b);\nEND;\n",
            &["select EXISTS (SELECT 1 FROM t WHERE a = b)"],
        ),
        ("begin return query select a from t; end", &["select a from t"]),
        (
            "declare n int := 1; r record; begin select count(*), max(x) into strict n, r.a from t where x = f(1); return n > 0; end",
            &["select 1", "select count(*), max(x) from t where x = f(1)", "select n > 0"],
        ),
        (
            "declare r t%rowtype; begin select into r * from t; return r.a; end",
            &["select * from t", "select r.a"],
        ),
        (
            "begin if a then return b; elsif c in (select d from t) then null; else x := y; x.y[1] = z; end if; return null; end",
            &["select a", "select b", "select c in (select d from t)", "select y", "select z", "select null"],
        ),
        (
            "begin <<l>> for r in select * from t loop continue when r.a; if b then exit l; end if; end loop l; for i in reverse 1..3 by 2 loop null; end loop; return 1; end",
            &["select * from t", "select r.a", "select b", "select 1", "select 3", "select 2", "select 1"],
        ),
        (
            "begin case a when 1, 2 then return case when b then c end; else raise exception 'no %', a; end case; end",
            &["select a", "select 1, 2", "select case when b then c end"],
        ),
        (
            "begin execute 'select $1 = ''x'' from t' into found using a, f(b); return found; end",
            &["select $1 = 'x' from t", "select a, f(b)", "select found"],
        ),
        (
            "-- if x then\nbegin /* ; /* */ end; */ perform f(';'); while g() loop null; end loop; return $q$;$q$; end",
            &["select f(';')", "select g()", "select $q$;$q$"],
        ),
        ("declare begin declare a int default f(); begin return a; end; end", &["select f()", "select a"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|query| (*query).to_owned()).collect();
        assert_eq!(found(body), Some(expected), "{body}");
    }
}

#[test]
fn what_is_not_listed_is_not_understood() {
    for body in [
        "",
        "beginning return true; end",
        "begin return true; end end x y",
        "begin insert into t values (1); return true; end",
        "begin update t set a = 1; return true; end",
        "begin delete from t where a = 1; return true; end",
        "begin execute 'select ' || x; return true; end",
        "begin execute format('select %I', x) into y; return true; end",
        "begin execute q into y; return true; end",
        "begin return query execute 'select 1'; end",
        "begin return true; exception when others then return false; end",
        "declare c cursor for select 1; begin open c; return true; end",
        "begin for r in c loop null; end loop; return true; end",
        "begin for r in execute 'select 1' loop null; end loop; return true; end",
        "begin get diagnostics n = row_count; return true; end",
        "begin raise notice '%', f(); return true; end",
        "begin a[f()] := 1; return true; end",
        "begin select 1; return true; end",
        "begin return 'x; end",
        "begin call p(); return true; end",
        "#variable_conflict use_variable\nbegin return true; end",
    ] {
        assert_eq!(found(body), None, "{body}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(body in "(begin|end|if|then|loop|case|when|;|'|\\$|\\$a\\$|\\(|\\)|<<|>>|e'|\\.\\.|1|select|into|,|é| |\n|/\\*|\\*/|--|:=|execute){0,40}") {
        let _ = queries(&body);
    }
}
