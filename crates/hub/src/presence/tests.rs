use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn object(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn origin(member: MemberId) -> Origin {
    Origin { node: 0, member }
}

fn track(
    presence: &mut Presence,
    member: MemberId,
    key: &str,
    object: impl Into<Bytes>,
    phx_ref: &str,
) -> bool {
    let object = object.into();
    let same = presence.entry(origin(member)).is_some_and(|entry| entry.says(&object));
    !same && presence.track(origin(member), Wish::new(key, object, phx_ref))
}

fn diff(presence: &mut Presence) -> Option<Value> {
    let diff = presence.take_diff(usize::MAX);
    (!diff.is_empty()).then(|| serde_json::from_slice(&diff.to_json()).unwrap())
}

fn state(presence: &mut Presence) -> Value {
    serde_json::from_slice(&presence.state_json()).unwrap()
}

/// protocol 58, 61, 62
#[test]
fn joins_updates_and_leaves() {
    let mut presence = Presence::default();
    assert_eq!(state(&mut presence), json!({}));

    assert!(track(&mut presence, 1, "u", object(r#"{"a":1}"#), "r1"));
    let joined = json!({"u":{"metas":[{"a":1,"phx_ref":"r1"}]}});
    assert_eq!(diff(&mut presence), Some(json!({"joins":joined,"leaves":{}})));
    assert_eq!(state(&mut presence), joined);

    assert!(!track(&mut presence, 1, "u", object(r#"{ "a": 1 }"#), "r2"));
    assert_eq!(diff(&mut presence), None);

    assert!(track(&mut presence, 1, "u", object("{}"), "r3"));
    let updated = json!({"u":{"metas":[{"phx_ref":"r3","phx_ref_prev":"r1"}]}});
    assert_eq!(diff(&mut presence), Some(json!({"joins":updated,"leaves":joined})));

    assert!(presence.untrack(origin(1)));
    assert_eq!(diff(&mut presence), Some(json!({"joins":{},"leaves":updated})));
    assert!(!presence.untrack(origin(1)));
    assert!(track(&mut presence, 1, "u", object("{}"), "r4"));
}

#[test]
fn members_of_one_key_stand_together() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "k\"1", object(r#"{"n":1}"#), "a");
    track(&mut presence, 2, "k\"1", object(r#"{"n":2}"#), "b");
    track(&mut presence, 3, "other", object(r#"{"phx_ref":"mine"}"#), "c");
    diff(&mut presence);
    let state = state(&mut presence);
    assert_eq!(state["k\"1"]["metas"].as_array().unwrap().len(), 2);
    assert_eq!(state["other"], json!({"metas":[{"phx_ref":"c"}]}));
}

/// Who has gone is in no state, whether it was told or not (recording 02).
#[test]
fn states_do_not_show_who_has_gone() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "u", object("{}"), "r1");
    diff(&mut presence);
    assert_ne!(state(&mut presence), json!({}));
    presence.untrack(origin(1));
    assert_eq!(state(&mut presence), json!({}));
    assert_eq!(diff(&mut presence).unwrap()["leaves"]["u"]["metas"][0]["phx_ref"], "r1");
}

#[test]
fn changes_between_two_diffs_are_told_as_one() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "u", object("{}"), "r1");
    track(&mut presence, 1, "u", object(r#"{"a":1}"#), "r2");
    track(&mut presence, 2, "gone", object("{}"), "r3");
    presence.untrack(origin(2));
    assert_eq!(state(&mut presence), json!({}), "nothing was announced");
    let told = json!({"joins":{"u":{"metas":[{"a":1,"phx_ref":"r2"}]}},"leaves":{}});
    assert_eq!(diff(&mut presence), Some(told), "no ref of what nobody knew");

    presence.untrack(origin(1));
    track(&mut presence, 1, "u", object(r#"{"a":1}"#), "r4");
    let told = diff(&mut presence).unwrap();
    assert_eq!(told["joins"]["u"]["metas"], json!([{"a":1,"phx_ref":"r4"}]));
    assert_eq!(told["leaves"]["u"]["metas"], json!([{"a":1,"phx_ref":"r2"}]));
}

/// An object of about so many bytes.
fn large(bytes: usize) -> Bytes {
    format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes)).into()
}

/// The refs in a group of keys.
fn refs(value: &Value) -> Vec<String> {
    let metas = value.as_object().unwrap().values().flat_map(|v| v["metas"].as_array().unwrap());
    let mut refs: Vec<_> = metas.map(|meta| meta["phx_ref"].as_str().unwrap().to_owned()).collect();
    refs.sort();
    refs
}

/// Who wants more than there is room for is refused, and keeps what it had. Who wants less than an equal share finds a place:
/// the largest are hidden.
#[test]
fn what_is_shown_is_bounded() {
    let mut presence = Presence::default();
    assert!(!track(&mut presence, 1, "a", large(MAX_SHOWN), "r0"), "it would not fit alone");
    assert!(track(&mut presence, 1, "a", large(2_900_000), "r1"));
    assert!(!track(&mut presence, 2, "b", large(2_900_000), "r2"));
    assert_eq!(presence.len(), 1);
    assert!(track(&mut presence, 2, "b", large(1_900_000), "r3"));
    diff(&mut presence);
    assert!(!track(&mut presence, 2, "b", large(2_600_000), "r4"), "also later");
    assert_eq!(refs(&state(&mut presence)), ["r1", "r3"]);
    assert!(presence.state_json().len() <= MAX_SHOWN);

    assert!(track(&mut presence, 3, "c", large(500_000), "r5"), "less than a third");
    let told = presence.take_diff(usize::MAX);
    assert_eq!(told.hidden, [1], "its client is told");
    let told: Value = serde_json::from_slice(&told.to_json()).unwrap();
    assert_eq!((refs(&told["joins"]), refs(&told["leaves"])), (vec!["r5".into()], vec!["r1".into()]));
    assert_eq!(refs(&state(&mut presence)), ["r3", "r5"]);
    assert_eq!(diff(&mut presence), None);

    assert!(!track(&mut presence, 1, "a", large(2_800_000), "r6"), "it stays too large");
    presence.untrack(origin(2));
    let told = diff(&mut presence).unwrap();
    assert_eq!((refs(&told["joins"]), refs(&told["leaves"])), (vec!["r1".into()], vec!["r3".into()]));
    assert_eq!(refs(&state(&mut presence)), ["r1", "r5"]);
    // What was hidden and changed is announced as what it is, without a ref of what nobody knows.
    assert!(track(&mut presence, 2, "b", large(2_000), "r7"));
    assert!(track(&mut presence, 3, "c", object("{}"), "r8"));
    diff(&mut presence);
    assert_eq!(refs(&state(&mut presence)), ["r1", "r7", "r8"]);
}

/// Two halves of a cluster meet, each with as much as it may have: every node shows the same.
#[test]
fn nodes_that_meet_hide_the_same() {
    let entries: Vec<(Origin, &str, usize)> = (0..4u32)
        .flat_map(|node| [(node, 0, 2_900_000), (node, 1, 1_500_000), (node, 2, 20)])
        .map(|(node, member, bytes)| (Origin { node, member }, "k", bytes))
        .collect();
    let name = |origin: &Origin| format!("{}.{}", origin.node, origin.member);
    let mut shown = Vec::new();
    for here in 0..4u32 {
        let mut presence = Presence::default();
        let tell = |of: &dyn Fn(u32) -> bool, presence: &mut Presence| {
            for (origin, key, bytes) in entries.iter().filter(|(origin, ..)| of(origin.node)) {
                let wish = Wish::new(key, large(*bytes), &name(origin));
                if origin.node == here {
                    assert!(presence.track(*origin, wish));
                } else {
                    let entry = wish.entry(None);
                    presence.set_remote(*origin, Some(Entry::remote(key, &name(origin), entry.meta)));
                }
            }
        };
        tell(&|node| node == here, &mut presence);
        diff(&mut presence);
        let before = refs(&state(&mut presence)).len();
        assert_eq!(before, 3);
        tell(&|node| node != here, &mut presence);
        let mut known: BTreeSet<_> = refs(&state(&mut presence)).into_iter().collect();
        loop {
            let told = presence.take_diff(1_000_000);
            if told.is_empty() {
                break;
            }
            let json = told.to_json();
            assert!(json.len() < 3_000_000, "no more than one large entry at once");
            let told: Value = serde_json::from_slice(&json).unwrap();
            refs(&told["leaves"]).iter().for_each(|left| assert!(known.remove(left)));
            refs(&told["joins"]).into_iter().for_each(|joined| assert!(known.insert(joined)));
            let state = presence.state_json();
            assert!(state.len() <= MAX_SHOWN + 2, "at no time more: {}", state.len());
            let state: Value = serde_json::from_slice(&state).unwrap();
            assert!(refs(&state).iter().eq(&known));
        }
        shown.push(known);
    }
    assert_eq!(shown[0].len(), 7, "the small ones, and what fits beside them: {:?}", shown[0]);
    assert!(shown.iter().all(|known| *known == shown[0]));
}

/// Large objects are not parsed: to the letter the same, or another.
#[test]
fn large_objects_are_compared_by_their_bytes() {
    assert!(same_json(br#"{"a":1,"b":[]}"#, br#"{ "b": [], "a": 1 }"#));
    let (text, spaced) = (large(MAX_PARSED), [b" ", &*large(MAX_PARSED)].concat());
    assert!(same_json(&text, &text));
    assert!(!same_json(&text, &spaced));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whatever is tracked, told and hidden: the state never takes more than it may, and is what the diffs have told.
    #[test]
    fn the_state_never_takes_more_than_it_may(
        steps in prop::collection::vec((0..8u8, 0..9u64, 1..30usize), 1..60),
    ) {
        let mut presence = Presence::default();
        let mut known = BTreeSet::new();
        for (n, (step, member, size)) in steps.into_iter().enumerate() {
            match step {
                0 => { presence.untrack(origin(member)); }
                1 => {
                    let entry = Entry::remote("r", &format!("r{n}"), Wish::new("r", large(size * 100_000), &format!("r{n}")).entry(None).meta);
                    presence.set_remote(Origin { node: 1, member }, Some(entry));
                }
                2 => { presence.set_remote(Origin { node: 1, member }, None); }
                3..5 => {
                    let told: Value = serde_json::from_slice(&presence.take_diff(1_000_000).to_json()).unwrap();
                    for left in refs(&told["leaves"]) { prop_assert!(known.remove(&left), "{left} left"); }
                    for joined in refs(&told["joins"]) { prop_assert!(known.insert(joined)); }
                }
                _ => { track(&mut presence, member, "k", large(size * 100_000), &format!("r{n}")); }
            }
            let state = presence.state_json();
            prop_assert!(state.len() <= MAX_SHOWN + 2);
            prop_assert!(state.len() <= presence.state_bytes() + 2);
            let state: Value = serde_json::from_slice(&state).unwrap();
            prop_assert!(refs(&state).iter().all(|known_ref| known.contains(known_ref)));
        }
        while !presence.take_diff(1_000_000).is_empty() {}
        let entries: usize = presence.entries.values().map(|entry| entry.bytes()).sum();
        prop_assert_eq!(entries, presence.bytes);
    }
}

proptest! {
    /// Whoever gets a state and every later diff knows who is present, whenever that was: each ref joins at
    /// most once, and after the first diff only what is known leaves.
    #[test]
    fn a_state_and_the_diffs_after_it_are_the_truth(
        steps in prop::collection::vec((0..6u8, 0..4u64), 1..100),
        watch_from in 0..100usize,
    ) {
        let refs = |value: &Value| -> Vec<String> {
            let metas = value.as_object().unwrap().values().flat_map(|v| v["metas"].as_array().unwrap());
            metas.map(|meta| meta["phx_ref"].as_str().unwrap().to_owned()).collect()
        };
        let mut presence = Presence::default();
        let mut known: Option<BTreeSet<String>> = None;
        let mut diffs = 0;
        let mut apply = |known: &mut Option<BTreeSet<String>>, presence: &mut Presence| {
            let Some(told) = diff(presence) else { return };
            let Some(known) = known else { return };
            diffs += 1;
            for left in refs(&told["leaves"]) {
                assert!(known.remove(&left) || diffs == 1, "{left} left but was not known");
            }
            for joined in refs(&told["joins"]) {
                assert!(known.insert(joined.clone()), "{joined} joined twice");
            }
        };
        for (n, (step, member)) in steps.into_iter().enumerate() {
            if n == watch_from {
                known = Some(refs(&state(&mut presence)).into_iter().collect());
            }
            match step {
                0 => { presence.untrack(origin(member)); }
                1 => apply(&mut known, &mut presence),
                _ => { track(&mut presence, member, "k", format!("{{\"a\":{step}}}"), &format!("r{n}")); }
            }
        }
        apply(&mut known, &mut presence);
        if let Some(known) = known {
            prop_assert_eq!(known, refs(&state(&mut presence)).into_iter().collect::<BTreeSet<_>>());
        }
    }
}
