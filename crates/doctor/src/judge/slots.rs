//! Replication slots and walsenders.

use crate::{Code, Expected, Facts, Finding, Severity, SlotFacts, Step, quote::literal};

/// A reader that has not answered for longer is stuck: PostgreSQL asks for an answer at least every half minute.
const SILENT_SECONDS: f64 = 60.0;

/// Log that a slot without a reader may keep before it is worth a warning.
const MUCH: f64 = 1e9;

/// Slots or senders to add where all are used.
const MORE: i64 = 10;

pub(super) fn judge(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    room(facts, findings);
    for slot in &facts.slots {
        one(slot, expected, findings);
    }
    if expected.durable {
        bounds(facts, expected, findings);
    }
}

fn room(facts: &Facts, findings: &mut Vec<Finding>) {
    let server = &facts.server;
    // What we have already is room for us.
    let reads = facts.slots.iter().any(|slot| slot.ours && slot.reader.is_some());
    let restart = || Step::Do("restart PostgreSQL: the setting counts from then on".to_owned());
    let (used, all) = server.slots;
    if used >= all && !facts.slots.iter().any(|slot| slot.ours) {
        let text = format!("All {all} replication slots are in use (max_replication_slots)");
        let idle: Vec<_> = facts.slots.iter().filter(|slot| slot.reader.is_none()).collect();
        let mut mend =
            vec![Step::Sql(format!("alter system set max_replication_slots = {}", all + MORE)), restart()];
        if let [idle, ..] = idle[..] {
            mend.push(Step::Do(format!("or drop {}, which nobody reads", idle.name)));
        }
        findings.push(Finding::new(Code::NoFreeSlot, text, mend));
    }
    let (used, all) = server.senders;
    if used >= all && !reads {
        let text = format!("All {all} walsenders are in use (max_wal_senders)");
        let mend = vec![Step::Sql(format!("alter system set max_wal_senders = {}", all + MORE)), restart()];
        findings.push(Finding::new(Code::NoFreeSender, text, mend));
    }
}

fn one(slot: &SlotFacts, expected: &Expected, findings: &mut Vec<Finding>) {
    let SlotFacts { name, .. } = slot;
    let size = megabytes(slot.lag_bytes);
    let drop = || Step::Sql(format!("select pg_drop_replication_slot({})", literal(name)));
    if slot.ours && slot.lost {
        let text = format!("PostgreSQL has removed log that slot {name} still needed");
        findings.push(Finding::new(Code::SlotLost, text, vec![drop()]));
        return;
    }
    if let Some(reader) = slot.reader {
        if slot.silent_seconds.is_some_and(|silent| silent > SILENT_SECONDS) {
            let text = format!("The reader of slot {name} has not answered for a minute");
            let mend = vec![Step::Sql(format!("select pg_terminate_backend({reader})"))];
            findings.push(Finding::new(Code::SlotStuck, text, mend));
        } else if slot.ours && is_far(slot, expected) {
            let text = format!("Slot {name} is {size} behind");
            let mend = vec![Step::Do(
                "look for slow policies and locks on published tables (ChangesDelayed in the log)".to_owned(),
            )];
            findings.push(Finding::new(Code::SlotLagging, text, mend));
        }
        return;
    }
    if slot.temporary {
        return;
    }
    if slot.ours && expected.durable {
        if is_far(slot, expected) {
            let text = format!("Slot {name} is read by nobody and keeps {size} of the log");
            let mend = vec![Step::Do("start the server, which reads it".to_owned())];
            findings.push(Finding::new(Code::SlotLagging, text, mend));
        }
        return;
    }
    let text = format!("Slot {name} is read by nobody and keeps {size} of the log");
    let severity = if slot.ours || slot.lag_bytes > MUCH { Severity::Warning } else { Severity::Note };
    findings.push(Finding::new(Code::SlotInactive, text, vec![drop()]).of(severity));
}

/// Whether a slot is near the size at which it is given up.
fn is_far(slot: &SlotFacts, expected: &Expected) -> bool {
    let bound = expected.max_lag_bytes as f64 / 2.0;
    slot.lag_bytes > if bound > 0.0 { bound } else { 10.0 * MUCH }
}

fn bounds(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let reload = || Step::Sql("select pg_reload_conf()".to_owned());
    match facts.server.keep_mb {
        Some(keep) if keep < 0 => {
            let text = "Nothing bounds what the permanent slot keeps while the server is away (max_slot_wal_keep_size)";
            let gigabytes = (expected.max_lag_bytes / 500_000_000).clamp(1, 1_000);
            let set = format!("alter system set max_slot_wal_keep_size = '{gigabytes}GB'");
            findings.push(Finding::new(Code::SlotUnbounded, text, vec![Step::Sql(set), reload()]));
        }
        Some(keep) if expected.max_lag_bytes > 0 && megabytes_of(expected.max_lag_bytes) > keep => {
            let wanted = megabytes_of(expected.max_lag_bytes);
            let text = format!(
                "PostgreSQL gives the permanent slot up at {keep} MB (max_slot_wal_keep_size), before MAX_REPLICATION_LAG_MB"
            );
            let set = format!("alter system set max_slot_wal_keep_size = '{wanted}MB'");
            findings.push(Finding::new(Code::SlotKeptTooShort, text, vec![Step::Sql(set), reload()]));
        }
        _ => {}
    }
    if let Some(seconds) = facts.server.idle_slot_seconds.filter(|seconds| *seconds > 0) {
        let text = format!(
            "A server that is away for {seconds} s loses its permanent slot (idle_replication_slot_timeout)"
        );
        let set = Step::Sql("alter system set idle_replication_slot_timeout = 0".to_owned());
        findings.push(Finding::new(Code::IdleSlotTimeout, text, vec![set, reload()]));
    }
}

fn megabytes_of(bytes: u64) -> i64 {
    i64::try_from(bytes.div_ceil(1 << 20)).unwrap_or(i64::MAX)
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes.max(0.0) / 1e6)
}
