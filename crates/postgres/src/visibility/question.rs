//! The block of SQL that asks for every party.

use std::fmt::Write as _;

use realtime_changes::Table;

use super::condition::{Condition, Kind, PolicyColumn};
use crate::quote::quoted;

/// Rows of a party that are told one by one to raise an error, at most. More share what the last of them raised.
const MAX_RAISING: usize = 32;

/// The block that judges the images of the setting `realtime.check` for every party there and leaves what it found in
/// `realtime.verdicts`: a JSON object with one text per party, or with the images that cannot be built, and why. The
/// session has taken on the role of the parties.
///
/// The images are what the policies look at: the condition is evaluated on them, not on the rows that stand in the
/// table by now. They are brought into the types of their columns once, as the role (a domain's check may call
/// anybody's functions), into one array per column; a party's rows are picked out of these. If that fails, each image is
/// tried alone, nobody is asked, and those that failed are told: they are left out when the question is put again.
///
/// Each party is asked in a subtransaction that ends with an error: no setting, lock or cached identity of one party is
/// there for the next. Variables outlive it. A column wins over a variable of the same name, and the names of our own
/// that stand beside the columns are names that the table does not have. Settings are made by assignment, which the
/// language evaluates without a query of its own, and so are parties fetched.
///
/// If the policies raise an error, the party is asked about each row: one of them may be why.
///
/// The block ends early, with the verdicts that it has, when `slice` of the job is over (the rest is asked by another
/// one), or when a party is stopped by a time limit or meets a lock: then it tells the SQLSTATE. A time limit stops a
/// statement once; so nobody is asked behind such a party. Nor behind one whose policies have caught that and gone on:
/// then the block tells that it is overdue.
pub(super) fn question(table: &Table, columns: &[PolicyColumn], condition: &Condition) -> String {
    let names = Names::of(table);
    let judge = match condition {
        Condition::Open => all_wanted(),
        Condition::Holds { text, whole_row: true } => judge_whole(table, text, &names),
        Condition::Holds { text, whole_row: false } => judge_columns(table, columns, text, &names),
    };
    let whole = matches!(condition, Condition::Holds { whole_row: true, .. });
    let declared = if whole { declare_whole(table) } else { declarations(columns) };
    // Variables of ours are found by the table's name too: see `declare_whole`.
    let label = if whole { format!("<<{}>>\n", quoted(&table.name)) } else { String::new() };
    let prepared = prepare_images(&match condition {
        Condition::Open => String::new(),
        Condition::Holds { .. } if whole => build_whole(table),
        Condition::Holds { .. } => build(columns, &names),
    });
    // Long because it is one text.
    let body = format!(
        "
#variable_conflict use_column
{label}declare
    job pg_catalog.jsonb := pg_catalog.current_setting('realtime.check')::pg_catalog.jsonb;
    images pg_catalog.jsonb := job operator(pg_catalog.->) 'images';
    parties pg_catalog.jsonb := job operator(pg_catalog.->) 'parties';
    slice pg_catalog.interval := pg_catalog.make_interval(secs => (job operator(pg_catalog.->>) 'slice')::pg_catalog.float8);
    patience pg_catalog.interval := pg_catalog.current_setting('statement_timeout')::pg_catalog.interval;
    party pg_catalog.jsonb;
    everything pg_catalog.int4[] := array(select pg_catalog.generate_series(1, pg_catalog.jsonb_array_length(images)));
    wanted pg_catalog.int4[];
    each_of pg_catalog.int4[];
    batch pg_catalog.jsonb := images;
    built pg_catalog.bool := false;
    broken pg_catalog.int4[] := '{{}}';
    reasons pg_catalog.text[] := '{{}}';
    one pg_catalog.int4;
    judged pg_catalog.bool;
    verdict pg_catalog.text;
    seen pg_catalog.text;
    raised pg_catalog.text;
    raising pg_catalog.int4;
    failed pg_catalog.text;
    stopped pg_catalog.text;
    begun pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    before pg_catalog.timestamptz := begun;
    present pg_catalog.timestamptz;
    longest pg_catalog.interval := '0';
    slowest pg_catalog.int4 := 0;
    ignored pg_catalog.text;
    verdicts pg_catalog.text[] := '{{}}';{declared}
begin
    ignored := pg_catalog.set_config('realtime.check', '', true);
    <<each_party>>
    for at in 0 .. pg_catalog.jsonb_array_length(parties) operator(pg_catalog.-) 1 loop
        party := parties operator(pg_catalog.->) at;
        each_of := coalesce((party operator(pg_catalog.->>) 'rows')::pg_catalog.int4[], everything);
        wanted := each_of;
        one := 0;
        seen := null;
        failed := null;
        raising := 0;
        loop
            judged := false;
            verdict := null;
            begin
                ignored := pg_catalog.set_config('request.jwt.claims', party operator(pg_catalog.->>) 'claims', true);
                ignored := pg_catalog.set_config('request.jwt.claim.sub', party operator(pg_catalog.->>) 'sub', true);
                ignored := pg_catalog.set_config('request.jwt.claim.role', party operator(pg_catalog.->>) 'role', true);{prepared}
                exit each_party when not built;{judge}
                judged := true;
                raise exception 'undo';
            exception
                when lock_not_available or query_canceled then
                    stopped := sqlstate;
                when assert_failure or others then
                    raised := sqlstate;
            end;
            exit each_party when stopped is not null;
            if judged then
                seen := pg_catalog.concat_ws(',', seen, verdict);
            elsif one operator(pg_catalog.>) 0 or pg_catalog.cardinality(each_of) operator(pg_catalog.=) 1 then
                failed := pg_catalog.concat_ws(',', failed, pg_catalog.concat(wanted[1], ':', raised));
                raising := raising operator(pg_catalog.+) 1;
            end if;
            exit when judged and one operator(pg_catalog.=) 0
                or one operator(pg_catalog.=) pg_catalog.cardinality(each_of)
                or pg_catalog.cardinality(each_of) operator(pg_catalog.=) 1;
            one := one operator(pg_catalog.+) 1;
            if raising operator(pg_catalog.>=) {MAX_RAISING} then
                failed := pg_catalog.concat(failed, ',', pg_catalog.array_to_string(each_of[one:],
                    pg_catalog.concat(':', raised, ',')), ':', raised);
                exit;
            end if;
            wanted := each_of[one:one];
        end loop;
        verdicts := pg_catalog.array_append(verdicts, pg_catalog.concat('=', seen, '!', failed));
        present := pg_catalog.clock_timestamp();
        if (present operator(pg_catalog.-) before) operator(pg_catalog.>) longest then
            longest := present operator(pg_catalog.-) before;
            slowest := at;
        end if;
        before := present;
        exit when (present operator(pg_catalog.-) begun) operator(pg_catalog.>) slice;
    end loop;
    ignored := pg_catalog.set_config('realtime.verdicts', pg_catalog.jsonb_build_object(
        'verdicts', verdicts, 'broken', broken, 'reasons', reasons, 'stopped', stopped, 'slowest', slowest,
        'longest', pg_catalog.date_part('epoch', longest),
        -- Somebody has caught the cancellation: it came, or comes.
        'overdue', patience operator(pg_catalog.>) '0' and before operator(pg_catalog.>=)
            (pg_catalog.statement_timestamp() operator(pg_catalog.+) patience),
        'took', pg_catalog.date_part('epoch', before operator(pg_catalog.-) begun))::pg_catalog.text, true);
end
"
    );
    // Anyone can choose names; none may end the quotation.
    let mut tag = String::from("$realtime$");
    while body.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("do {tag}{body}{tag}")
}

/// Builds the images, or finds out which of them cannot be built.
fn prepare_images(built: &str) -> String {
    format!(
        "
            if not built then
                batch := images;
                begin{built}
                    built := true;
                    -- Nobody in particular is why that took its time.
                    before := pg_catalog.clock_timestamp();
                exception
                    when lock_not_available then
                        raise;
                    when assert_failure or others then
                        for n in 1 .. pg_catalog.jsonb_array_length(images) loop
                            batch := pg_catalog.jsonb_build_array(
                                images operator(pg_catalog.->) (n operator(pg_catalog.-) 1));
                            begin{built}
                            exception
                                when lock_not_available then
                                    raise;
                                when assert_failure or others then
                                    broken := pg_catalog.array_append(broken, n);
                                    reasons := pg_catalog.array_append(reasons, sqlstate::pg_catalog.text);
                            end;
                        end loop;
                        if pg_catalog.cardinality(broken) operator(pg_catalog.=) 0 then
                            raise;
                        end if;
                end;
            end if;"
    )
}

/// Names of ours that are no column's.
struct Names {
    /// The number of an image, from one.
    number: String,
}

impl Names {
    fn of(table: &Table) -> Self {
        Self { number: quoted(&number(table)) }
    }
}

/// What the number of an image is called, in the images too.
pub(super) fn number(table: &Table) -> String {
    let mut number = String::from("number");
    while table.column(&number).is_some() {
        number.push('_');
    }
    number
}

/// The variable of a policy's column: its values, by image.
fn variable(at: usize) -> String {
    format!("values_{at}")
}

fn declarations(columns: &[PolicyColumn]) -> String {
    columns.iter().enumerate().fold(String::new(), |mut text, (at, column)| {
        let element = if column.kind == Kind::Array { "pg_catalog.text" } else { &*column.type_name };
        let _ = write!(text, "\n    {} {element}[];", variable(at));
        text
    })
}

/// Brings the values into their types. What comes as JSON strings goes through the types' input functions.
fn build(columns: &[PolicyColumn], names: &Names) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let (mut aggregates, mut variables, mut definition) = (Vec::new(), Vec::new(), Vec::new());
    for (at, PolicyColumn { type_name, kind, .. }) in columns.iter().enumerate() {
        let cast = if *kind == Kind::Json { format!("::{type_name}") } else { String::new() };
        let number = &names.number;
        aggregates.push(format!("pg_catalog.array_agg(image.c{at}{cast} order by image.{number})"));
        variables.push(variable(at));
        let declared = if *kind == Kind::Plain { type_name } else { "pg_catalog.text" };
        definition.push(format!("c{at} {declared}"));
    }
    format!(
        "
                select {aggregates}
                    into {variables}
                    from pg_catalog.jsonb_to_recordset(batch) image ({definition}, {number} pg_catalog.int4);",
        aggregates = aggregates.join(", "),
        variables = variables.join(", "),
        definition = definition.join(", "),
        number = names.number,
    )
}

/// The variable of the rows that are taken as a whole: by image.
const RECORDS: &str = "records";

/// A row of the table's type has no `tableoid`. Where the condition reads it, as `tableoid` or as `table.tableoid`, it
/// finds a variable: the block is called as the table. Rows of a root stand in its partitions, so there it finds nothing.
fn declare_whole(table: &Table) -> String {
    let (schema, name) = (quoted(&table.schema), quoted(&table.name));
    let records = format!("\n    {RECORDS} {schema}.{name}[];");
    if table.partitioned {
        return records;
    }
    format!("{records}\n    tableoid constant pg_catalog.oid := {};", table.oid)
}

/// Brings the images into the type of the table.
fn build_whole(table: &Table) -> String {
    format!(
        "
                    select pg_catalog.array_agg(
                            pg_catalog.jsonb_populate_record(null::{}.{}, image.value) order by image.number)
                        into {RECORDS}
                        from pg_catalog.jsonb_array_elements(batch) with ordinality image (value, number);",
        quoted(&table.schema),
        quoted(&table.name),
    )
}

fn all_wanted() -> String {
    "
            verdict := pg_catalog.array_to_string(wanted, ',');"
        .to_owned()
}

/// The condition on the columns that it reads.
fn judge_columns(table: &Table, columns: &[PolicyColumn], condition: &str, names: &Names) -> String {
    let picked = columns.iter().enumerate().fold(String::new(), |mut text, (at, column)| {
        let cast = if column.kind == Kind::Array { format!("::{}", column.type_name) } else { String::new() };
        // The condition is written without the collations that columns have of themselves.
        let collate = column.collation.as_ref().map(|name| format!(" collate {name}")).unwrap_or_default();
        let _ =
            write!(text, "(({}[wanted_row.n]){cast}{collate}) as {}, ", variable(at), quoted(&column.name));
        text
    });
    format!(
        "
            select pg_catalog.string_agg({number}::pg_catalog.text, ',')
                into verdict
                from (select {picked}wanted_row.n as {number}
                    from pg_catalog.unnest(wanted) wanted_row (n)) as {table}
                where {condition};",
        number = names.number,
        table = quoted(&table.name),
    )
}

/// The condition on the row as a whole, which has to be of the table's type.
fn judge_whole(table: &Table, condition: &str, names: &Names) -> String {
    let mut other = String::from("wanted_row");
    while *other == *table.name {
        other.push('_');
    }
    format!(
        "
            select pg_catalog.string_agg({other}.{number}::pg_catalog.text, ',')
                into verdict
                from pg_catalog.unnest(wanted) {other} ({number})
                cross join lateral pg_catalog.unnest({RECORDS}[{other}.{number}:{other}.{number}]) as {table}
                where {condition};",
        number = names.number,
        table = quoted(&table.name),
    )
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
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        };
        let columns = [PolicyColumn {
            attnum: 1,
            name: "c\"".to_owned(),
            type_name: "pg_catalog.int4".to_owned(),
            kind: Kind::Plain,
            collation: Some("public.ci".to_owned()),
        }];
        for whole_row in [false, true] {
            let condition = Condition::Holds { text: "(c = 1)".to_owned(), whole_row };
            let text = question(&table, &columns, &condition);
            assert!(text.starts_with("do $_realtime$") && text.ends_with("$_realtime$"));
            assert_eq!(text.matches("$_realtime$").count(), 2);
            assert!(text.contains("as \"x$realtime$; drop table y\""));
            assert_eq!(text.contains("as \"c\"\"\""), !whole_row);
        }
    }
}
