//! A member of a room, and what it has heard.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use realtime_hub::{Membership, Outbox};
use serde_json::Value;

use super::plan::Trick;
use crate::Interest;

/// A member of a room.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) host: usize,
    pub(super) tenant: usize,
    pub(super) room: usize,
    pub(super) interests: Option<[Interest; 2]>,
    pub(super) membership: Option<Membership>,
    pub(super) outbox: Arc<Outbox>,
    /// When its join was answered, and when it left, in microseconds.
    pub(super) joined: Option<u64>,
    pub(super) left: Option<u64>,
    /// When it said its messages, the first of which has the number 0.
    pub(super) said: Vec<u64>,
    /// The last thing that it announced.
    pub(super) announced: Option<u64>,
    /// The numbers that it heard, by who said them, each with its time.
    pub(super) heard: BTreeMap<usize, Vec<(usize, u64)>>,
    /// When it was told of a gap.
    pub(super) gaps: Vec<u64>,
    /// Who is present as far as it was told: keys and refs, and what they announce.
    pub(super) present: BTreeMap<(String, String), u64>,
}

impl Party {
    pub(super) fn new(host: usize, tenant: usize, room: usize, interests: [Interest; 2]) -> Self {
        Self {
            host,
            tenant,
            room,
            interests: Some(interests),
            membership: None,
            outbox: Arc::new(Outbox::new(50_000_000)),
            joined: None,
            left: None,
            said: Vec::new(),
            announced: None,
            heard: BTreeMap::new(),
            gaps: Vec::new(),
            present: BTreeMap::new(),
        }
    }

    /// It leaves; what it has heard remains.
    pub(super) fn leave(&mut self, now: u64) {
        (self.membership, self.interests, self.left) = (None, None, Some(now));
        self.announced = None;
    }

    /// Reads what has come. The trick is played with one frame, and then over.
    pub(super) fn read(&mut self, now: u64, trick: &mut Option<Trick>) -> Result<(), String> {
        let mut frames = VecDeque::new();
        self.outbox.take(&mut frames);
        let mut messages: Vec<(String, Value)> = frames.iter().filter_map(message).collect();
        trick_with(&mut messages, trick, !self.gaps.is_empty());
        for (event, payload) in messages {
            self.hear(&event, &payload, now)?;
        }
        Ok(())
    }

    fn hear(&mut self, event: &str, payload: &Value, now: u64) -> Result<(), String> {
        match event {
            "broadcast" => {
                let number = |name: &str| payload[name].as_u64().and_then(|n| usize::try_from(n).ok());
                let (Some(who), Some(number)) = (number("who"), number("n")) else {
                    return Err(format!("a strange message: {payload}"));
                };
                let heard = self.heard.entry(who).or_default();
                if let Some((last, _)) = heard.last().filter(|(last, _)| *last >= number) {
                    return Err(format!("message {number} of {who} was heard after {last}"));
                }
                heard.push((number, now));
            }
            "system" if payload["status"] == "gap" => self.gaps.push(now),
            "presence_state" => self.present = entries(payload),
            "presence_diff" => {
                // Leaves first: an entry that changes leaves and joins.
                for (entry, _) in entries(&payload["leaves"]) {
                    // The first diff may contain some that were no longer in the state.
                    self.present.remove(&entry);
                }
                for (entry, announced) in entries(&payload["joins"]) {
                    if self.present.insert(entry.clone(), announced).is_some() {
                        return Err(format!("{entry:?} joined twice"));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn trick_with(messages: &mut Vec<(String, Value)>, trick: &mut Option<Trick>, has_gap: bool) {
    let found = match *trick {
        Some(Trick::Twice) => messages.iter().position(|(event, _)| event == "broadcast"),
        Some(Trick::HideGap) => {
            messages.iter().position(|(event, payload)| event == "system" && payload["status"] == "gap")
        }
        Some(Trick::HideDiff) => messages
            .iter()
            .position(|(event, body)| event == "presence_diff" && body["leaves"] != serde_json::json!({})),
        Some(Trick::Swap) => messages.windows(2).position(|two| {
            two[0].0 == "broadcast" && two[1].0 == "broadcast" && two[0].1["who"] == two[1].1["who"]
        }),
        Some(Trick::LoseMarks | Trick::LoseRow | Trick::LeaveOut) | None => None,
    };
    let Some(at) = found.filter(|_| !has_gap) else { return };
    match trick {
        Some(Trick::Twice) => messages.insert(at, messages[at].clone()),
        Some(Trick::Swap) => messages.swap(at, at + 1),
        _ => drop(messages.remove(at)),
    }
    // What is hidden is hidden from all: one who was told later would not show it, nor one who leaves.
    if !matches!(trick, Some(Trick::HideGap | Trick::HideDiff)) {
        *trick = None;
    }
}

/// The event and the payload of a frame.
fn message(frame: &Bytes) -> Option<(String, Value)> {
    let header = match frame.get(1)? & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let Value::Array(mut parts) = serde_json::from_slice(frame.get(header..)?).ok()? else { return None };
    let payload = parts.pop()?;
    Some((parts.pop()?.as_str()?.to_owned(), payload))
}

/// The entries of a state, or of one half of a diff.
fn entries(state: &Value) -> BTreeMap<(String, String), u64> {
    let mut entries = BTreeMap::new();
    for (key, entry) in state.as_object().into_iter().flatten() {
        for meta in entry["metas"].as_array().into_iter().flatten() {
            let phx_ref = meta["phx_ref"].as_str().unwrap_or_default().to_owned();
            entries.insert((key.clone(), phx_ref), meta["v"].as_u64().unwrap_or_default());
        }
    }
    entries
}
