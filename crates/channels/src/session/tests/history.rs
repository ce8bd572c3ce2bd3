//! Joins that ask for the history of a topic (resume 4).

use super::*;
use crate::history::Found;

const WHOLE: Found = Found { stored: Vec::new(), is_whole: true, elsewhere: false };

fn keeping() -> Fixture {
    Fixture::new(|tenant| {
        tenant.limits.broadcast_history_seconds = 60;
        tenant.limits.broadcast_history_messages = 100;
    })
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

fn replay(since: u64) -> Value {
    json!({"config": {"broadcast": {"replay": {"since": since}}}})
}

fn say(socket: &mut Socket, n: u32) {
    let payload = json!({"type": "broadcast", "event": "e", "payload": {"n": n}});
    socket.send(json!(["1", "9", "realtime:a", "broadcast", payload]));
}

fn numbers(frames: &[Value]) -> Vec<(u64, bool)> {
    let broadcasts = frames.iter().filter(|frame| frame[3] == "broadcast");
    broadcasts
        .map(|frame| (frame[4]["payload"]["n"].as_u64().unwrap(), frame[4]["meta"]["replayed"] == true))
        .collect()
}

/// Who joins a public channel gets what was said before, then what is said while it joins, with nothing in between.
#[test]
fn public_channels_have_replays_where_a_history_is_kept() {
    let fixture = keeping();
    let since = now();
    let (mut early, mut late) = (fixture.socket(), fixture.socket());
    early.join("realtime:a", json!({"config": {}}));
    say(&mut early, 1);
    assert!(late.join("realtime:a", replay(since)).is_empty(), "it looks for what it has missed");
    let Some(Effect::Recall(ticket, room, asked)) = late.effects.pop() else { panic!("a look") };
    assert_eq!((&*room.topic, asked.limit), ("realtime:a", 100));
    say(&mut early, 2);
    assert!(late.frames().is_empty());
    let frames = late.complete(Completion::Recalled(ticket, Ok(WHOLE)));
    assert_eq!(frames[0][3], "phx_reply");
    assert_eq!(numbers(&frames), [(1, true), (2, false)]);
    assert_eq!(frames.len(), 3);
    let id = frames[1][4]["meta"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    say(&mut early, 3);
    assert_eq!(numbers(&late.frames()), [(3, false)]);
    assert_eq!(fixture.runtime.counters().messages_replayed.get(), 1);

    let frames = late.join("realtime:b", json!({"config": {"broadcast": {"replay": {"since": "x"}}}}));
    assert_eq!(frames[0][4]["response"]["reason"], "UnableToReplayMessages: Replay params are not valid");
    assert_eq!(late.join("realtime:b", json!({"config": {"broadcast": {"replay": "x"}}})).len(), 1);
}

/// What the history does not reach is told before the messages that there are.
#[test]
fn a_gap_is_told_before_what_is_left() {
    let fixture = keeping();
    let mut early = fixture.socket();
    early.join("realtime:a", json!({"config": {}}));
    say(&mut early, 1);
    let not_whole = Found { is_whole: false, ..WHOLE };
    for (since, found) in [(1, WHOLE), (now() + 100_000, WHOLE), (now() - 1_000, not_whole)] {
        let mut late = fixture.socket();
        late.join("realtime:a", replay(since));
        let Some(Effect::Recall(ticket, ..)) = late.effects.pop() else { panic!("a look") };
        let frames = late.complete(Completion::Recalled(ticket, Ok(found)));
        assert_eq!((&frames[1][3], &frames[1][4]["code"]), (&json!("system"), &json!("MessagesNotKept")));
        assert_eq!(frames[1][4]["status"], "gap");
    }
}

/// A setting that changes while a join looks back harms nobody; at zero nothing is kept.
#[test]
fn a_history_may_end_while_somebody_joins() {
    let fixture = keeping();
    let mut early = fixture.socket();
    early.join("realtime:a", json!({"config": {}}));
    say(&mut early, 1);
    assert_eq!(fixture.runtime.hub().history_figures("t").messages, 1);
    let mut late = fixture.socket();
    late.join("realtime:a", replay(now() - 10));
    let Some(Effect::Recall(ticket, ..)) = late.effects.pop() else { panic!("a look") };
    let mut tenant = (*fixture.runtime.tenant()).clone();
    tenant.limits.broadcast_history_messages = 0;
    fixture.runtime.set_tenant(Arc::new(tenant));
    assert_eq!(fixture.runtime.hub().history_figures("t").messages, 0);
    say(&mut early, 2);
    let frames = late.complete(Completion::Recalled(ticket, Ok(Found::default())));
    assert_eq!((numbers(&frames), frames.len()), (vec![(2, false)], 3));
    assert!(frames[2][4].get("meta").is_none(), "no ids any more: {}", frames[2]);
}
