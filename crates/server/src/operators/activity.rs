//! What happens in a tenant now, on this node and on the others: channels, live results, slow policies, notices.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future;
use realtime_channels::tenant_runtime::TenantRuntime;
use realtime_hub::{Audience, RoomFigures};
use realtime_postgres::LiveResult;
use serde::{Deserialize, Serialize};
use tokio::time;

use super::{
    ask::{PATIENCE, Question, ask_others},
    history::{History, Series},
};
use crate::{diagnostics::ErrorCounts, node::Node};

/// Channels that are shown: so many with most members, and so many with most messages.
const MOST: usize = 20;

/// How long channels are watched to see what is said in them.
const WATCHED: Duration = Duration::from_millis(500);

/// What happens in a tenant on one node. Nodes of other releases may know less, or more.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// The fullest and the loudest channels.
    pub channels: Vec<Channel>,
    /// The largest live results.
    pub results: Vec<LiveThere>,
    /// Tables whose rows the database was asked about.
    pub tables: Vec<Asked>,
    /// Questions to the policies of private topics: reading, writing.
    pub topics: [Asked; 2],
    /// What channels were told of, the latest first.
    pub notices: Vec<NoticeThere>,
    /// Warnings and errors of the log since the start, by code.
    pub codes: Vec<(String, u64)>,
}

/// A channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Channel {
    /// The topic as applications know it.
    pub topic: String,
    /// Whether policies decide who may enter.
    pub private: bool,
    /// Members.
    pub members: u64,
    /// Members that are present, on all nodes.
    pub present: u64,
    /// Messages since the node made the room.
    pub said: u64,
    /// Messages per second right now.
    pub rate: f64,
}

/// A live result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveThere {
    /// Schema and name of the table or view.
    pub relation: String,
    /// The role that it is read as.
    pub role: String,
    /// Conditions of its filter.
    pub conditions: usize,
    /// Rows at most, if there is a limit.
    pub limit: Option<u32>,
    /// Rows that its clients have.
    pub rows: usize,
    /// Bindings that share it.
    pub bindings: usize,
    /// Milliseconds that the last reading took.
    pub took_ms: Option<f64>,
    /// Whether the log alone tells its changes.
    pub direct: bool,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

impl From<LiveResult> for LiveThere {
    fn from(result: LiveResult) -> Self {
        let LiveResult { relation, role, conditions, limit, rows, bindings, took, direct, trouble } = result;
        let took_ms = took.map(|took| took.as_secs_f64() * 1000.0);
        Self { relation, role, conditions, limit, rows, bindings, took_ms, direct, trouble }
    }
}

/// Questions to policies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// The table; empty for private topics.
    pub table: String,
    /// How often the database was asked.
    pub rounds: u64,
    /// How long it took in all, in microseconds.
    pub micros: u64,
    /// Verdicts that it gave.
    pub verdicts: u64,
    /// Rows that were withheld because it could not tell.
    pub withheld: u64,
}

impl Asked {
    /// Milliseconds that a question took, on the average.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        self.micros as f64 / 1000.0 / self.rounds.max(1) as f64
    }

    fn add(&mut self, other: &Self) {
        self.rounds = self.rounds.saturating_add(other.rounds);
        self.micros = self.micros.saturating_add(other.micros);
        self.verdicts = self.verdicts.saturating_add(other.verdicts);
        self.withheld = self.withheld.saturating_add(other.withheld);
    }
}

/// A notice, and how often it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoticeThere {
    /// `gap`, `warning` or `error`.
    pub status: String,
    /// The reason as a code.
    pub code: String,
    /// The text.
    pub text: String,
    /// How many channels were told.
    pub channels: u64,
    /// When it was given first, in seconds since 1970.
    pub first: u64,
    /// When it was given last.
    pub last: u64,
}

impl Activity {
    /// What happens in a tenant on this node. Takes half a second, in which its channels are watched.
    pub async fn here(node: &Node, external_id: &str) -> Self {
        let Some(runtime) = node.running(external_id) else { return Self::default() };
        let database = runtime.database();
        let (channels, results) = future::join(channels(node, external_id), database.live_results()).await;
        Self {
            channels,
            results: results.into_iter().map(LiveThere::from).collect(),
            tables: tables(&runtime),
            topics: topics(&runtime),
            notices: notices(&runtime),
            codes: codes(external_id),
        }
    }

    /// What happens in a tenant on all nodes. Nodes that do not answer are left out, and counted.
    pub async fn everywhere(node: &Node, external_id: &str) -> (Self, usize) {
        let question = Question::Activity(external_id.to_owned());
        let others = ask_others::<Self>(node, &question, PATIENCE);
        let (mut all, others) = future::join(Self::here(node, external_id), others).await;
        let mut missing = 0;
        for (_, there) in others {
            match there {
                Ok(there) => all.add(there),
                Err(_) => missing += 1,
            }
        }
        all.sort();
        (all, missing)
    }

    fn add(&mut self, other: Self) {
        for channel in other.channels {
            let is_same =
                |known: &&mut Channel| known.topic == channel.topic && known.private == channel.private;
            match self.channels.iter_mut().find(is_same) {
                Some(known) => {
                    known.members = known.members.saturating_add(channel.members);
                    known.present = known.present.max(channel.present);
                    // A message is said on every node that has members.
                    known.said = known.said.max(channel.said);
                    known.rate = known.rate.max(channel.rate);
                }
                None => self.channels.push(channel),
            }
        }
        self.results.extend(other.results);
        for asked in other.tables {
            match self.tables.iter_mut().find(|known| known.table == asked.table) {
                Some(known) => known.add(&asked),
                None => self.tables.push(asked),
            }
        }
        for (mine, theirs) in self.topics.iter_mut().zip(&other.topics) {
            mine.add(theirs);
        }
        self.notices.extend(other.notices);
        let mut codes: BTreeMap<String, u64> = std::mem::take(&mut self.codes).into_iter().collect();
        for (code, count) in other.codes {
            let all = codes.entry(code).or_default();
            *all = all.saturating_add(count);
        }
        self.codes = codes.into_iter().collect();
    }

    fn sort(&mut self) {
        self.channels.sort_by(|a, b| (b.members, b.said, &a.topic).cmp(&(a.members, a.said, &b.topic)));
        self.results.sort_by_key(|result| (result.trouble.is_none(), std::cmp::Reverse(result.rows)));
        self.tables.sort_by_key(|asked| std::cmp::Reverse(asked.micros));
        self.notices.sort_by_key(|notice| std::cmp::Reverse(notice.last));
    }
}

/// What a tenant did during the last hour on all nodes.
pub async fn series_everywhere(node: &Node, history: &History, external_id: &str) -> Series {
    let question = Question::History(Some(external_id.to_owned()));
    let mut series = history.tenant(external_id);
    for (_, there) in ask_others::<Series>(node, &question, PATIENCE).await {
        series.merge(there.unwrap_or_default());
    }
    series
}

async fn channels(node: &Node, external_id: &str) -> Vec<Channel> {
    let before = node.busiest_rooms(external_id, MOST);
    if before.is_empty() {
        return Vec::new();
    }
    time::sleep(WATCHED).await;
    let name = |room: &RoomFigures| (room.topic.to_string(), room.audience == Audience::Private);
    let before: BTreeMap<_, u64> = before.iter().map(|room| (name(room), room.said)).collect();
    let rate = |room: &RoomFigures| {
        let before = before.get(&name(room)).copied().unwrap_or(room.said);
        room.said.saturating_sub(before) as f64 / WATCHED.as_secs_f64()
    };
    let now = node.busiest_rooms(external_id, MOST);
    now.iter()
        .map(|room| Channel {
            topic: room.topic.strip_prefix("realtime:").unwrap_or(&room.topic).to_owned(),
            private: room.audience == Audience::Private,
            members: room.members as u64,
            present: room.present as u64,
            said: room.said,
            rate: rate(room),
        })
        .collect()
}

fn tables(runtime: &TenantRuntime) -> Vec<Asked> {
    let relations = runtime.counters().database.relations.all();
    let asked = relations.into_iter().map(|(table, counters)| Asked {
        table: table.into(),
        rounds: counters.rounds.get(),
        micros: counters.asked_micros.get(),
        verdicts: counters.asked.get(),
        withheld: counters.withheld.get(),
    });
    asked.filter(|asked| asked.rounds > 0 || asked.withheld > 0).collect()
}

fn topics(runtime: &TenantRuntime) -> [Asked; 2] {
    let policies = &runtime.counters().database.policies;
    [&policies.read, &policies.write].map(|times| Asked {
        rounds: times.count(),
        micros: times.sum(),
        verdicts: times.count(),
        ..Asked::default()
    })
}

fn notices(runtime: &TenantRuntime) -> Vec<NoticeThere> {
    let recent = runtime.counters().notices.recent().into_iter();
    recent
        .map(|told| NoticeThere {
            status: told.status.to_owned(),
            code: told.code.to_owned(),
            text: told.text,
            channels: told.channels,
            first: told.first,
            last: told.last,
        })
        .collect()
}

fn codes(external_id: &str) -> Vec<(String, u64)> {
    let all = ErrorCounts::global().all().into_iter();
    all.filter(|(_, tenant, _)| tenant == external_id).map(|(code, _, count)| (code, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_put_together() {
        let channel =
            |topic: &str, members, said| Channel { topic: topic.into(), members, said, ..Channel::default() };
        let asked =
            |table: &str, micros| Asked { table: table.into(), rounds: 2, micros, ..Asked::default() };
        let of = |channels, tables, codes: &[(&str, u64)]| Activity {
            channels,
            tables,
            codes: codes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            ..Activity::default()
        };
        let mut all = of(vec![channel("a", 1, 9)], vec![asked("t", 1_000)], &[("X", 1)]);
        all.add(of(
            vec![channel("b", 5, 1), channel("a", 2, 8)],
            vec![asked("u", 9_000), asked("t", 3_000)],
            &[("W", 4), ("X", u64::MAX)],
        ));
        all.sort();
        assert_eq!(all.channels, [channel("b", 5, 1), channel("a", 3, 9)]);
        let tables: Vec<_> = all.tables.iter().map(|asked| (&*asked.table, asked.mean_ms())).collect();
        assert_eq!(tables, [("u", 4.5), ("t", 1.0)]);
        assert_eq!(all.codes, [("W".to_owned(), 4), ("X".to_owned(), u64::MAX)]);
        assert_eq!(Asked::default().mean_ms(), 0.0);
        // Another release may know less.
        assert!(serde_json::from_str::<Activity>(r#"{"channels":[{"topic":"a"}]}"#).is_ok());
    }
}
