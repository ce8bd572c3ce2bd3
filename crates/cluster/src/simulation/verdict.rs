//! Whether the promises were kept.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering};

use super::world::{LIMIT, PATIENCE, World};
use crate::{AskError, link::simulated::Traffic, rates::METERS, scope::Scope};

/// What a run has come to.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) broadcasts: u64,
    /// Nodes that had to hear them, all together.
    pub(super) hearers: u64,
    /// To members on other nodes.
    pub(super) deliveries: u64,
    /// Messages that did not reach a member, which was told of a gap.
    pub(super) missed: u64,
    /// Messages that a node took with it when it was killed.
    pub(super) excused: u64,
    pub(super) gaps: u64,
    pub(super) answers: u64,
    /// How often following a database ended, and the follower knew.
    pub(super) ends: u64,
    /// Rows of databases that came to followers, and that were left out.
    pub(super) rows: u64,
    pub(super) left_out: u64,
    /// How long it took until a gap was told, in milliseconds, at worst.
    pub(super) told_after: u64,
    pub(super) traffic: BTreeMap<&'static str, Traffic>,
    /// Simulated seconds, and nodes times seconds.
    pub(super) seconds: u64,
    /// All that was heard and told: the same for a seed each time.
    pub(super) digest: u64,
}

impl Report {
    /// Adds another run's.
    pub(super) fn add(&mut self, other: &Self) {
        self.broadcasts += other.broadcasts;
        self.deliveries += other.deliveries;
        self.hearers += other.hearers;
        self.missed += other.missed;
        self.excused += other.excused;
        self.gaps += other.gaps;
        self.answers += other.answers;
        self.ends += other.ends;
        self.rows += other.rows;
        self.left_out += other.left_out;
        self.seconds += other.seconds;
        self.told_after = self.told_after.max(other.told_after);
        for (kind, one) in &other.traffic {
            let all = self.traffic.entry(kind).or_default();
            for (all, one) in
                [(&mut all.taken, one.taken), (&mut all.given, one.given), (&mut all.passed, one.passed)]
            {
                *all = (all.0 + one.0, all.1 + one.1);
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            broadcasts,
            hearers,
            deliveries,
            missed,
            excused,
            gaps,
            answers,
            ends,
            rows,
            left_out,
            told_after,
            seconds,
            ..
        } = self;
        writeln!(
            f,
            "{seconds} simulated seconds, {broadcasts} broadcasts for {hearers} other nodes, {deliveries} deliveries to members on other nodes; \
             {missed} missed and told within {told_after} ms by {gaps} gaps, {excused} gone with their node; {answers} answers, {ends} followers told that they were left behind; \
             {rows} rows came to followers, {left_out} were left out"
        )?;
        for (kind, Traffic { taken, given, passed }) in &self.traffic {
            let each = |(count, bytes): (u64, u64)| bytes.checked_div(count).unwrap_or(0);
            writeln!(
                f,
                "{kind}: {} taken of {} bytes, {} given of {} bytes, {} over routes",
                taken.0,
                each(*taken),
                given.0,
                each(*given),
                passed.0
            )?;
        }
        Ok(())
    }
}

impl World {
    /// Checks what members heard; call it when everything works again and has had time.
    pub(super) fn heard(&self, report: &mut Report) -> Result<(), String> {
        (report.broadcasts, report.hearers) = (self.broadcasts, self.hearers);
        for (who, party) in self.parties.iter().enumerate() {
            report.gaps += party.gaps.len() as u64;
            let Some(joined) = party.joined else { continue };
            for (from, sender) in self.parties.iter().enumerate() {
                if (sender.tenant, sender.room) != (party.tenant, party.room) || from == who {
                    continue;
                }
                let heard = party.heard.get(&from).map(Vec::as_slice).unwrap_or_default();
                if sender.host != party.host {
                    report.deliveries += heard.len() as u64;
                }
                self.heard_from(report, (who, joined), from, heard)?;
            }
        }
        Ok(())
    }

    fn heard_from(
        &self,
        report: &mut Report,
        (who, joined): (usize, u64),
        from: usize,
        heard: &[(usize, u64)],
    ) -> Result<(), String> {
        let (party, sender) = (&self.parties[who], &self.parties[from]);
        let mut heard = heard.iter().peekable();
        for (number, said) in sender.said.iter().enumerate() {
            if heard.next_if(|(one, _)| *one == number).is_some() {
                continue;
            }
            // It may have left before it was told; what it heard after this one shows that this one is missing.
            let shown = heard.peek().map(|(_, at)| *at);
            // Or something else went wrong meanwhile.
            let ended = party.left.is_some_and(|left| {
                shown.is_none_or(|shown| {
                    left < shown + 3_000_000 || self.fails_within(shown, shown + 3_000_000)
                })
            });
            if *said < joined || ended {
                continue;
            }
            let told = party.gaps.iter().find(|at| *at >= said);
            let what = || {
                format!(
                    "message {number} of member {from} on node {} was said at {said} and did not reach member {who} on node {}",
                    sender.host, party.host
                )
            };
            if sender.host == party.host {
                return Err(format!("{}, which is the same node", what()));
            }
            match told {
                Some(told) => {
                    report.missed += 1;
                    report.told_after = report.told_after.max((told - said) / 1_000);
                }
                None if self.is_excused(sender.host, *said) => report.excused += 1,
                None => {
                    let near = |(at, _): &&(u64, String)| at.abs_diff(*said) < 30_000_000;
                    let log: Vec<_> = self.log.iter().filter(near).collect();
                    let (left, gaps) = (party.left, &party.gaps);
                    let what = what();
                    return Err(format!(
                        "{what}, which was not told (joined at {joined}, left at {left:?}, gaps at {gaps:?}): {log:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether something was wrong at this time.
    fn fails_within(&self, begin: u64, end: u64) -> bool {
        self.faults.iter().any(|(from, to)| *from < end && *to > begin)
    }

    /// Whether a node may have taken a message with it: it was killed before its server had read the message, or was gone before
    /// it could say again what a network that was out had lost.
    fn is_excused(&self, host: usize, said: u64) -> bool {
        let Some(gone) = self.hosts[host].gone else { return false };
        self.hosts[host].unread_since.is_some_and(|since| said >= since)
            || self.fails_within(said.saturating_sub(3_000_000), gone)
    }

    /// Checks that nodes and members agree on who is there.
    pub(super) fn agree(&self) -> Result<(), String> {
        for ((tenant, room), members) in &self.rooms {
            let mut there = Vec::new();
            for who in members {
                if let Some(announced) = self.parties[*who].announced {
                    there.push((format!("p{who}"), announced));
                }
            }
            there.sort();
            for who in members {
                let mut seen: Vec<_> =
                    self.parties[*who].present.iter().map(|((key, _), v)| (key.clone(), *v)).collect();
                seen.sort();
                if seen != there {
                    return Err(format!(
                        "member {who} on node {} of room {room} of tenant {tenant} sees {seen:?}, and there are {there:?}",
                        self.parties[*who].host
                    ));
                }
            }
        }
        self.working().try_for_each(|host| self.counts(host))
    }

    /// Checks that a node knows the users and rates of the others.
    fn counts(&self, at: usize) -> Result<(), String> {
        let host = &self.hosts[at];
        let others = self.working().filter(|other| *other != at).count();
        if host.cluster.node().peers.others().len() != others {
            return Err(format!("node {at} does not know all {others} others"));
        }
        for (tenant, side) in &host.sides {
            if host.cluster.node().peers.listened(&Scope::whole(&Self::tenant(*tenant))).is_none() {
                continue;
            }
            let elsewhere = || {
                self.working()
                    .filter(|other| *other != at)
                    .filter_map(|other| self.hosts[other].sides.get(tenant))
            };
            let users: u32 = elsewhere().map(|side| side.users.load(Ordering::Relaxed)).sum();
            let known = side.users_elsewhere.load(Ordering::Relaxed);
            if users != known {
                return Err(format!(
                    "node {at} believes in {known} users of tenant {tenant} elsewhere: {users}"
                ));
            }
            if side.users.load(Ordering::Relaxed) == 0 {
                // Rates are told to those who have users.
                continue;
            }
            for meter in 0..METERS {
                let rate: u64 = elsewhere().map(|side| side.rates.lock()[meter].average).sum();
                let known = side.rates_elsewhere.lock()[meter].rate.average;
                // Each of the others may be mistaken by its part of a twenty-fifth.
                if known.abs_diff(rate) > u64::from(LIMIT) * 1000 / 25 * 3 / 2 {
                    return Err(format!(
                        "node {at} believes in a rate of {known} of tenant {tenant} elsewhere: {rate}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks the answers to all questions. `all`: there must be one to each.
    pub(super) async fn answered(&mut self, report: &mut Report, all: bool) -> Result<(), String> {
        for asked in std::mem::take(&mut self.asked) {
            let (node, answer, took) = asked.await.map_err(|error| error.to_string())?;
            if took > PATIENCE + std::time::Duration::from_millis(5) {
                return Err(format!("a question was answered after {took:?}"));
            }
            match answer {
                Ok(answer) if answer[..] != [&node.to_be_bytes()[..], b"how are you?"].concat() => {
                    return Err("an answer of another node, or to another question".to_owned());
                }
                Ok(_) => report.answers += 1,
                Err(AskError::Refused | AskError::Broken) => return Err(format!("{answer:?}")),
                Err(error) if all => {
                    return Err(format!("a question to {node:08x} was not answered: {error}"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// All that was heard and told, as one number.
    pub(super) fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut digest = DefaultHasher::new();
        for party in &self.parties {
            (party.host, party.joined, party.left, &party.gaps, &party.heard).hash(&mut digest);
        }
        self.net.traffic().hash(&mut digest);
        digest.finish()
    }
}
