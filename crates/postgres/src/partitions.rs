//! The daily partitions of `realtime.messages`: which there have to be and which are too old
//! (tenant_database 1.3, 5). Pure; days are of UTC.

use jiff::{
    Span, Timestamp,
    civil::{Date, date},
    tz::TimeZone,
};

/// Days before today that have a partition: rows of sessions whose clocks are behind.
const DAYS_BEFORE: i64 = 1;

/// Days after today that have one, so that a server that is down for a while does no harm.
const DAYS_AHEAD: i64 = 3;

/// How long messages are kept at least, in hours; whole days are dropped.
const RETENTION_HOURS: i64 = 72;

/// Key of the advisory lock that nodes hold while they change the schema: "Realtime" in ASCII.
pub(crate) const LOCK_KEY: i64 = 0x5265_616c_7469_6d65;

/// Roles of clients, which pass through the parent table and its policies only.
pub(crate) const CLIENT_ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// The partitions that exist, with their bounds; none where there is no such table. Looked up by names, because
/// `to_regclass` raises for those who may not use the schema.
pub(crate) const CHILDREN: &str = "select c.relname::text, pg_catalog.pg_get_expr(c.relpartbound, c.oid)
    from pg_catalog.pg_namespace n
    join pg_catalog.pg_class p on p.relnamespace = n.oid and p.relname = 'messages'
    join pg_catalog.pg_inherits i on i.inhparent = p.oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relnamespace = n.oid and c.relispartition
    where n.nspname = 'realtime'";

/// A partition as the catalog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    /// Name of the table, in schema `realtime`.
    pub(crate) name: String,
    /// Its bounds as `pg_get_expr` writes them in a session with `DateStyle=ISO`.
    pub(crate) bounds: String,
}

/// Today in UTC.
fn today(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// A day further on, or the same where the calendar ends.
fn plus(day: Date, days: i64) -> Date {
    day.checked_add(Span::new().days(days)).unwrap_or(day)
}

/// Name of a day's partition.
pub(crate) fn name(day: Date) -> String {
    day.strftime("messages_%Y_%m_%d").to_string()
}

fn bounds(day: Date) -> String {
    format!("FOR VALUES FROM ('{day} 00:00:00') TO ('{} 00:00:00')", plus(day, 1))
}

/// The day of a partition that is ours: name and bounds agree. Others are left alone.
fn day(child: &Child) -> Option<Date> {
    let mut parts = child.name.strip_prefix("messages_")?.split('_');
    let (year, month, day) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let day = Date::new(year, month, day).ok()?;
    (parts.next().is_none() && name(day) == child.name && bounds(day) == child.bounds).then_some(day)
}

/// The days that should have a partition and have none.
pub(crate) fn missing(now: Timestamp, children: &[Child]) -> Vec<Date> {
    (-DAYS_BEFORE..=DAYS_AHEAD)
        .map(|days| plus(today(now), days))
        .filter(|day| children.iter().all(|child| child.bounds != bounds(*day)))
        .collect()
}

/// The partitions all of whose rows are older than the retention, oldest first.
pub(crate) fn expired(now: Timestamp, children: &[Child]) -> Vec<String> {
    let horizon = now.checked_sub(Span::new().hours(RETENTION_HOURS)).map_or(date(0, 1, 1), today);
    let mut old: Vec<_> =
        children.iter().filter_map(|child| Some((day(child)?, child.name.clone()))).collect();
    old.retain(|(day, _)| *day < horizon);
    old.sort();
    old.into_iter().map(|(_, name)| name).collect()
}

/// Makes a day's partition, if nobody else has. It belongs to the owner of the parent, and client roles get
/// nothing on it, whatever the default privileges say: it has no policies.
pub(crate) fn create_sql(day: Date) -> String {
    let name = name(day);
    let next = plus(day, 1);
    let clients = CLIENT_ROLES.map(|role| format!("'{role}'")).join(", ");
    format!(
        "do $realtime$
declare
    parent_owner name;
    client name;
begin
    perform pg_catalog.set_config('lock_timeout', '2s', true);
    perform pg_catalog.pg_advisory_xact_lock({LOCK_KEY});
    if pg_catalog.to_regclass('realtime.{name}') is not null then
        return;
    end if;
    create table realtime.{name} partition of realtime.messages for values from ('{day}') to ('{next}');
    revoke all on table realtime.{name} from public;
    for client in select rolname from pg_catalog.pg_roles where rolname in ({clients}) loop
        execute pg_catalog.format('revoke all on table realtime.{name} from %I', client);
    end loop;
    select pg_catalog.pg_get_userbyid(relowner) into parent_owner
        from pg_catalog.pg_class where oid = 'realtime.messages'::pg_catalog.regclass;
    if parent_owner operator(pg_catalog.<>) current_user then
        execute pg_catalog.format('alter table realtime.{name} owner to %I', parent_owner);
    end if;
end
$realtime$"
    )
}

/// Drops a partition that [`expired`] named, if nobody else has.
pub(crate) fn drop_sql(name: &str) -> String {
    format!(
        "do $realtime$
begin
    perform pg_catalog.set_config('lock_timeout', '2s', true);
    perform pg_catalog.pg_advisory_xact_lock({LOCK_KEY});
    drop table if exists realtime.{name};
end
$realtime$"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(day: Date) -> Child {
        Child { name: name(day), bounds: bounds(day) }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn five_days_are_wanted() {
        let names: Vec<_> = missing(at("2024-02-28T23:59:59Z"), &[]).into_iter().map(name).collect();
        let wanted = ["2024_02_27", "2024_02_28", "2024_02_29", "2024_03_01", "2024_03_02"];
        assert_eq!(names, wanted.map(|day| format!("messages_{day}")));
        assert_eq!(missing(at("2024-02-28T00:00:00Z"), &[child(date(2024, 2, 28))]).len(), 4);
    }

    #[test]
    fn what_covers_a_day_counts_whatever_its_name() {
        let odd = Child { name: "mine".into(), bounds: bounds(date(2024, 1, 2)) };
        assert!(!missing(at("2024-01-02T12:00:00Z"), &[odd]).contains(&date(2024, 1, 2)));
    }

    #[test]
    fn days_before_the_retention_expire() {
        let children: Vec<_> = (0..10).map(|days| child(plus(date(2024, 3, 10), -days))).collect();
        // 72 hours before is on the 7th: it is kept whole.
        let expected: Vec<_> = (1..=6).map(|day| name(date(2024, 3, day))).collect();
        assert_eq!(expired(at("2024-03-10T00:00:00Z"), &children), expected);
        assert_eq!(expired(at("2024-03-10T23:59:59Z"), &children), expected);
    }

    #[test]
    fn what_is_not_a_day_of_ours_is_left_alone() {
        let old = date(2001, 1, 1);
        let odd = [
            Child { name: "messages_default".into(), bounds: "DEFAULT".into() },
            Child { name: "messages_2001_01_01".into(), bounds: "DEFAULT".into() },
            Child { name: "messages_2001_1_1".into(), bounds: bounds(old) },
            Child { name: "messages_2001_13_01".into(), bounds: bounds(old) },
            Child { name: "messages_2001_01_01_x".into(), bounds: bounds(old) },
            Child { name: "messages_2001_01_01".into(), bounds: bounds(date(2001, 1, 2)) },
        ];
        assert_eq!(expired(at("2024-03-10T00:00:00Z"), &odd), Vec::<String>::new());
    }
}
