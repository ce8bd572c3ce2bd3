//! The runs.

use tokio::{runtime, time::Duration};

use super::{
    plan::{Plan, Trick},
    verdict::Report,
    world::World,
};

/// What a run comes to; the first promise that was not kept otherwise.
fn run(plan: Plan) -> Result<Report, String> {
    let seed = plan.seed;
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let result = runtime.block_on(simulate(plan));
    result.map_err(|error| format!("REALTIME_TEST_SEED={seed}: {error}"))
}

async fn simulate(plan: Plan) -> Result<Report, String> {
    let (is_calm, seconds) = (plan.is_calm, plan.seconds);
    // Until those who were forgotten are known again, and the last marks have come.
    let settled = plan.node_timeout * 8 + Duration::from_secs(5);
    let mut world = World::new(plan);
    let mut report = Report::default();
    world.rest(Duration::from_secs(3)).await?;
    world.own_streams();
    world.talk(seconds, !is_calm).await?;
    world.rest(settled).await?;
    world.agree()?;
    world.followed(false)?;
    (0..2).for_each(|stream| world.read_transaction(stream));
    // And everything works as if nothing had been.
    world.answered(&mut report, false).await?;
    let others: Vec<usize> = world.working().collect();
    for pair in others.windows(2) {
        world.put(pair[0], pair[1]);
    }
    world.answered(&mut report, true).await?;
    let heard_at = world.now();
    for who in world.there.clone() {
        world.say(who)?;
    }
    world.rest(Duration::from_secs(3)).await?;
    world.heard(&mut report)?;
    [report.ends, report.rows, report.left_out] = world.followed(true)?;
    let late = world.parties.iter().flat_map(|party| &party.gaps).filter(|at| **at > heard_at).count();
    if late > 0 || (is_calm && report.gaps + report.missed > 0) {
        return Err(format!("{late} gaps are told although nothing is wrong, of {}", report.gaps));
    }
    report.traffic = world.net.traffic();
    report.seconds = world.now() / 1_000_000;
    report.digest = world.digest();
    world.end_all();
    Ok(report)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn plan(seed: u64) -> Plan {
    let mut plan = Plan::of(seed);
    let size = |name| number(name).and_then(|size| usize::try_from(size).ok());
    if let (Some(nodes), Some(tenants)) = (size("REALTIME_TEST_NODES"), size("REALTIME_TEST_TENANTS")) {
        plan.sized(nodes, tenants);
    }
    plan
}

#[test]
fn whatever_breaks_what_is_promised_holds() {
    let first = number("REALTIME_TEST_SEED").unwrap_or(1);
    let is_chosen = number("REALTIME_TEST_SEEDS").is_some() || number("REALTIME_TEST_SEED").is_some();
    let count = number("REALTIME_TEST_SEEDS").unwrap_or(if is_chosen { 1 } else { 16 });
    let mut sum = Report::default();
    let mut failed = Vec::new();
    for seed in first..first.saturating_add(count) {
        match run(plan(seed)) {
            Ok(report) => sum.add(&report),
            Err(error) => failed.push(error),
        }
    }
    println!("{count} seeds from {first}: {sum}");
    assert!(failed.is_empty(), "{} of {count} failed:\n{}", failed.len(), failed.join("\n"));
}

/// One seed is one run.
#[test]
fn runs_repeat_themselves() {
    for seed in [1, 2, 3] {
        let digests = [(); 2].map(|()| run(Plan::of(seed)).map(|report| report.digest));
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

/// What nodes must not do is found.
#[test]
fn faults_made_on_purpose_are_found() {
    let tricks = [
        (Trick::LoseMarks, "was not told"),
        (Trick::HideGap, "was not told"),
        (Trick::Twice, "was heard after"),
        (Trick::Swap, "was heard after"),
        (Trick::HideDiff, "sees"),
        (Trick::LoseRow, "came instead of"),
        (Trick::LeaveOut, "which is wanted"),
    ];
    for (trick, expected) in tricks {
        let found = (1..9).find_map(|seed| {
            let error = run(Plan { trick: Some(trick), ..Plan::of(seed) }).err();
            error.filter(|error| error.contains(expected))
        });
        println!("{trick:?}: {found:?}");
        assert!(found.is_some(), "{trick:?}");
    }
}
