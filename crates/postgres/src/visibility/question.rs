//! The block of SQL that asks for every party.

use realtime_changes::Table;

/// The block that asks for every party of the setting `realtime.check` and leaves what it found in
/// `realtime.verdicts`: a JSON array with one text per party.
///
/// The rows are looked up once, with our own rights, and the parties are shown their places (`ctid`) only: looking at
/// a place costs a quarter of a descent of the key's index, and it needs no operator that row-level security trusts
/// (`numeric` has none: its index would not be used at all). Where that cannot be done, each party looks for the keys:
/// in tables that are partitioned or have children, whose places repeat, and where our own role does not see all rows.
///
/// Settings are made by assignment, which the language evaluates without a query of its own, and so are parties fetched.
pub(super) fn question(table: &Table) -> String {
    let conditions: Vec<String> = table
        .primary_key
        .iter()
        .enumerate()
        .filter_map(|(at, column)| {
            let column = table.columns.get(*column)?;
            Some(format!("t.{} = (k.value ->> {at})::{}", quoted(&column.name), column.cast_type))
        })
        .collect();
    // Without a key there is no row to look for.
    let conditions = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" and ") };
    let relation = format!("{}.{}", quoted(&table.schema), quoted(&table.name));
    let places = if table.plain {
        format!(
            "
    begin
        if not row_security_active({oid}::oid) then
            select array_agg(t.ctid order by k.ordinality)
                into places
                from jsonb_array_elements(job -> 'keys') with ordinality k
                left join {relation} t on {conditions};
        end if;
    exception when insufficient_privilege then
        places := null;
    end;",
            oid = table.oid,
        )
    } else {
        String::new()
    };
    let oid = table.oid;
    let body = format!(
        "
declare
    job jsonb := current_setting('realtime.check')::jsonb;
    parties jsonb := job -> 'parties';
    party jsonb;
    places tid[];
    wanted int[];
    looked_at tid[];
    verdict text;
    ignored text;
    verdicts text[] := '{{}}';
begin{places}
    for at in 0 .. jsonb_array_length(parties) - 1 loop
        party := parties -> at;
        begin
            wanted := null;
            looked_at := places;
            if party ? 'rows' then
                wanted := array(select jsonb_array_elements_text(party -> 'rows')::int);
                looked_at := array(select places[n] from unnest(wanted) n);
            end if;
            ignored := set_config('request.jwt.claims', party ->> 'claims', true);
            ignored := set_config('role', party ->> 'role', true);
            -- A place is a system column: rights on some columns do not reach it.
            if places is not null and has_table_privilege({oid}::oid, 'SELECT') then
                select string_agg(array_position(places, t.ctid)::text, ',')
                    into verdict
                    from only {relation} t
                    where t.ctid = any(looked_at);
            else
                select string_agg(k.ordinality::text, ',')
                    into verdict
                    from jsonb_array_elements(job -> 'keys') with ordinality k
                    where (wanted is null or k.ordinality = any(wanted))
                        and exists (select from {relation} t where {conditions});
            end if;
            verdict := '=' || coalesce(verdict, '');
        exception
            when lock_not_available then
                raise;
            when others then
                verdict := 'ERROR ' || sqlstate || ' ' || sqlerrm;
        end;
        ignored := set_config('role', 'none', true);
        verdicts := verdicts || verdict;
    end loop;
    perform set_config('realtime.verdicts', to_jsonb(verdicts)::text, true);
end
"
    );
    // Names are anybody's: none may end the quotation.
    let mut tag = String::from("$realtime$");
    while body.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("do {tag}{body}{tag}")
}

/// An identifier, quoted.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::message::ReplicaIdentity;

    use super::*;

    #[test]
    fn names_cannot_end_the_quotation() {
        let table = Table {
            oid: 1,
            schema: "a\"b".into(),
            name: "x$realtime$; drop table y".into(),
            columns: Vec::new(),
            primary_key: Vec::new(),
            row_security: true,
            plain: true,
            replica_identity: ReplicaIdentity::Default,
        };
        let text = question(&table);
        assert!(text.starts_with("do $_realtime$") && text.ends_with("$_realtime$"));
        assert_eq!(text.matches("$_realtime$").count(), 2);
        assert!(text.contains("\"a\"\"b\".\"x$realtime$; drop table y\""));
        assert!(text.contains("where false"));
    }
}
