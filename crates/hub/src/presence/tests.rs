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

fn diff(presence: &mut Presence) -> Option<Value> {
    presence.take_diff().map(|diff| serde_json::from_slice(&diff.to_json()).unwrap())
}

fn state(presence: &mut Presence) -> Value {
    serde_json::from_slice(&presence.state_json()).unwrap()
}

/// protocol 58, 61, 62
#[test]
fn joins_updates_and_leaves() {
    let mut presence = Presence::default();
    assert_eq!(state(&mut presence), json!({}));

    assert!(presence.track(origin(1), "u", object(r#"{"a":1}"#), "r1"));
    let joined = json!({"u":{"metas":[{"a":1,"phx_ref":"r1"}]}});
    assert_eq!(diff(&mut presence), Some(json!({"joins":joined,"leaves":{}})));
    assert_eq!(state(&mut presence), joined);

    assert!(!presence.track(origin(1), "u", object(r#"{ "a": 1 }"#), "r2"));
    assert_eq!(diff(&mut presence), None);

    assert!(presence.track(origin(1), "u", object("{}"), "r3"));
    let updated = json!({"u":{"metas":[{"phx_ref":"r3","phx_ref_prev":"r1"}]}});
    assert_eq!(diff(&mut presence), Some(json!({"joins":updated,"leaves":joined})));

    assert!(presence.untrack(origin(1)));
    assert_eq!(diff(&mut presence), Some(json!({"joins":{},"leaves":updated})));
    assert!(!presence.untrack(origin(1)));
    assert!(presence.track(origin(1), "u", object("{}"), "r4"));
}

#[test]
fn members_of_one_key_stand_together() {
    let mut presence = Presence::default();
    presence.track(origin(1), "k\"1", object(r#"{"n":1}"#), "a");
    presence.track(origin(2), "k\"1", object(r#"{"n":2}"#), "b");
    presence.track(origin(3), "other", object(r#"{"phx_ref":"mine"}"#), "c");
    presence.take_diff();
    let state = state(&mut presence);
    assert_eq!(state["k\"1"]["metas"].as_array().unwrap().len(), 2);
    assert_eq!(state["other"], json!({"metas":[{"phx_ref":"c"}]}));
}

/// Who has gone is in no state, whether it was told or not (recording 02).
#[test]
fn states_do_not_show_who_has_gone() {
    let mut presence = Presence::default();
    presence.track(origin(1), "u", object("{}"), "r1");
    presence.take_diff();
    assert_ne!(state(&mut presence), json!({}));
    presence.untrack(origin(1));
    assert_eq!(state(&mut presence), json!({}));
    assert_eq!(diff(&mut presence).unwrap()["leaves"]["u"]["metas"][0]["phx_ref"], "r1");
}

#[test]
fn changes_between_two_diffs_are_told_as_one() {
    let mut presence = Presence::default();
    presence.track(origin(1), "u", object("{}"), "r1");
    presence.track(origin(1), "u", object(r#"{"a":1}"#), "r2");
    presence.track(origin(2), "gone", object("{}"), "r3");
    presence.untrack(origin(2));
    assert_eq!(state(&mut presence), json!({}), "nothing was announced");
    let told = json!({"joins":{"u":{"metas":[{"a":1,"phx_ref":"r2"}]}},"leaves":{}});
    assert_eq!(diff(&mut presence), Some(told), "no ref of what nobody knew");

    presence.untrack(origin(1));
    presence.track(origin(1), "u", object(r#"{"a":1}"#), "r4");
    let told = diff(&mut presence).unwrap();
    assert_eq!(told["joins"]["u"]["metas"], json!([{"a":1,"phx_ref":"r4"}]));
    assert_eq!(told["leaves"]["u"]["metas"], json!([{"a":1,"phx_ref":"r2"}]));
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
                _ => { presence.track(origin(member), "k", format!("{{\"a\":{step}}}").into(), &format!("r{n}")); }
            }
        }
        apply(&mut known, &mut presence);
        if let Some(known) = known {
            prop_assert_eq!(known, refs(&state(&mut presence)).into_iter().collect::<BTreeSet<_>>());
        }
    }
}
