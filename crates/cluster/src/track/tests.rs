use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::wire::{Present, Room};

fn users(count: u32) -> Record {
    Record::Users(count)
}

#[test]
fn answers_replace_and_what_is_newer_follows() {
    let mut track = Track::asking(1);
    assert_eq!(track.arrive(5, false, 9), Arrival::Next);
    assert_eq!(track.record(5, users(5)), None);
    assert_eq!(track.arrive(6, false, 9), Arrival::Next);
    assert_eq!(track.record(6, users(6)), None);
    assert_eq!(track.told(2, 6, vec![]), None, "to another question");
    assert_eq!(track.asked(), Some(1));
    assert_eq!(track.told(1, 5, vec![users(4)]), Some((vec![users(4)], vec![users(6)])));
    assert_eq!(track.asked(), None);
    assert_eq!(track.arrive(7, false, 9), Arrival::Next);
    assert_eq!(track.record(7, users(7)), Some(users(7)));
}

#[test]
fn what_is_missing_is_seen() {
    let mut track = Track::asking(1);
    track.told(1, 3, vec![]);
    assert_eq!(track.arrive(2, false, 2), Arrival::Next, "older than the answer");
    assert_eq!(track.record(2, users(2)), None);
    assert_eq!(track.arrive(3, false, 2), Arrival::Next);
    assert_eq!(track.arrive(3, true, 2), Arrival::Next, "a mark repeats the number");
    assert_eq!(track.arrive(3, false, 2), Arrival::Again);
    assert_eq!(track.arrive(5, false, 2), Arrival::AfterGap);
    assert_eq!(track.asked(), Some(2));
    track.told(2, 5, vec![]);
    assert_eq!(track.arrive(6, true, 3), Arrival::AfterGap, "the last one was lost");

    let mut track = Track::asking(1);
    track.told(1, 3, vec![]);
    assert_eq!(track.arrive(5, false, 2), Arrival::AfterGap, "what followed the answer was lost");
}

/// A node that changes entries and numbers what it says.
#[derive(Default)]
struct Teller {
    number: u64,
    entries: BTreeMap<u64, u32>,
}

fn room() -> Room {
    Room { audience: realtime_hub::Audience::Public, topic: "t".into() }
}

fn present(member: u64, n: u32) -> Record {
    let present = Present { key: "k".into(), phx_ref: n.to_string().into(), meta: "{}".into() };
    Record::Present(room(), member, present)
}

fn apply(copy: &mut BTreeMap<u64, u32>, record: Record) {
    match record {
        Record::Present(_, member, present) => {
            copy.insert(member, present.phx_ref.parse().unwrap());
        }
        Record::Absent(_, member) => {
            copy.remove(&member);
        }
        _ => {}
    }
}

proptest! {
    /// Whatever is lost and however late answers are: when the last question is answered the copy is the truth.
    #[test]
    fn a_copy_is_the_truth_once_it_was_answered(
        steps in prop::collection::vec((0..4u64, any::<bool>(), 0..10u8, 0..4u8), 1..200),
    ) {
        let mut teller = Teller::default();
        let mut track = Track::asking(1);
        let mut copy = BTreeMap::new();
        let mut next_ask = 1;
        // Envelopes on their way; answers on theirs, which may overtake them.
        let mut envelopes: VecDeque<(u64, Record)> = VecDeque::new();
        let mut questions = vec![1];
        let mut answers: VecDeque<(u64, u64, BTreeMap<u64, u32>)> = VecDeque::new();
        let mut hear = |track: &mut Track, copy: &mut BTreeMap<u64, u32>, questions: &mut Vec<u64>, number, mark, record: Option<Record>| {
            next_ask += 1;
            match track.arrive(number, mark, next_ask) {
                Arrival::AfterGap => questions.push(next_ask),
                Arrival::Again => return,
                Arrival::Next => {}
            }
            if let Some(record) = record.and_then(|record| track.record(number, record)) {
                apply(copy, record);
            }
        };
        let answer = |track: &mut Track, copy: &mut BTreeMap<u64, u32>, (ask, as_of, state): (u64, u64, BTreeMap<u64, u32>)| {
            let records = state.into_iter().map(|(member, n)| present(member, n)).collect();
            if let Some((state, newer)) = track.told(ask, as_of, records) {
                copy.clear();
                state.into_iter().chain(newer).for_each(|record| apply(copy, record));
            }
        };
        for (n, (member, ends, fate, moves)) in steps.into_iter().enumerate() {
            teller.number += 1;
            let n = n as u32;
            let record = if ends {
                teller.entries.remove(&member);
                Record::Absent(room(), member)
            } else {
                teller.entries.insert(member, n);
                present(member, n)
            };
            // One in ten is lost on the way.
            if fate > 0 {
                envelopes.push_back((teller.number, record));
            }
            for ask in questions.drain(..) {
                answers.push_back((ask, teller.number, teller.entries.clone()));
            }
            if moves & 1 > 0 && let Some((number, record)) = envelopes.pop_front() {
                hear(&mut track, &mut copy, &mut questions, number, false, Some(record));
            }
            if moves & 2 > 0 && let Some(told) = answers.pop_front() {
                answer(&mut track, &mut copy, told);
            }
        }
        // Everything arrives, a mark after it; questions are answered.
        for (number, record) in envelopes {
            hear(&mut track, &mut copy, &mut questions, number, false, Some(record));
        }
        hear(&mut track, &mut copy, &mut questions, teller.number, true, None);
        answers.extend(questions.drain(..).map(|ask| (ask, teller.number, teller.entries.clone())));
        for told in answers {
            answer(&mut track, &mut copy, told);
        }
        prop_assert_eq!(track.asked(), None);
        prop_assert_eq!(copy, teller.entries);
    }
}
