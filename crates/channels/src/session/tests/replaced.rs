//! The tenant's database gets another handle while channels use it.

use super::*;

fn replaced(socket: &mut Socket, elsewhere: bool) -> Vec<Value> {
    socket.effects.clear();
    socket.session.outbox().signal(Signal::DatabaseReplaced { elsewhere });
    socket.frames()
}

/// Channels that watch are told of the gap and ask again; what the last handle still says is void.
#[tokio::test(start_paused = true)]
async fn watchers_ask_again() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    socket.join("realtime:a", watch());
    let first = socket.ticket();
    socket.complete(Completion::Subscribed(first.clone(), Ok(())));
    socket.join("realtime:b", json!({"config": {}}));
    let told = replaced(&mut socket, false);
    assert_eq!(told.len(), 1, "only who watches: {told:?}");
    assert_eq!((&told[0][2], &told[0][3]), (&json!("realtime:a"), &json!("system")));
    assert_eq!(told[0][4]["status"], "gap");
    assert_eq!(
        told[0][4]["message"],
        "The connection to the database was ended: changes may have been missed"
    );
    assert!(socket.complete(Completion::Subscribed(first, Ok(()))).is_empty(), "of the last handle");

    assert!(socket.effects.is_empty());
    time::advance(Duration::from_secs(10)).await;
    socket.session.tick(&mut socket.effects);
    let next = socket.ticket();
    let told = socket.complete(Completion::Subscribed(next, Ok(())));
    assert_eq!((told.len(), &told[0][4]["status"]), (1, &json!("ok")));
}

/// What another database's policies say is not known yet.
#[test]
fn private_channels_are_judged_anew() {
    let fixture = Fixture::new(|_| {});
    let private = json!({"config": {"private": true}});
    let read = ReadVerdict { broadcast: true, presence: None };
    let mut socket = fixture.socket();
    socket.join("realtime:a", private.clone());
    let ticket = socket.ticket();
    socket.complete(Completion::Read(ticket, Ok(read)));
    assert!(replaced(&mut socket, false).is_empty());
    assert!(socket.effects.is_empty(), "the same database");

    socket.join("realtime:b", private);
    let joining = socket.ticket();
    replaced(&mut socket, true);
    let refresh = socket.ticket();
    assert_eq!(&*refresh.topic, "realtime:a");
    let denied = ReadVerdict { broadcast: false, presence: None };
    let frames = socket.complete(Completion::Read(refresh, Ok(denied)));
    assert_eq!(frames[1][3], "phx_close", "{frames:?}");

    socket.effects.clear();
    let frames = socket.complete(Completion::Read(joining, Ok(read)));
    assert_eq!(frames[0][4]["status"], "ok");
    let again = socket.ticket();
    assert_eq!(&*again.topic, "realtime:b", "asked of the next database too");
    assert_eq!(socket.complete(Completion::Read(again, Ok(denied)))[1][3], "phx_close");
}

/// What a client has said of where it was counts once: what came since has been delivered (resume 2).
#[tokio::test(start_paused = true)]
async fn places_are_named_to_one_handle() {
    let fixture = Fixture::new(|_| {});
    let mut socket = fixture.socket();
    let entry = json!({"schema": "public", "since": "16/B374D848:3"});
    socket.join("realtime:a", json!({"config": {"postgres_changes": [entry]}}));
    let mut named = async |told: usize| {
        time::advance(Duration::from_secs(10)).await;
        socket.session.tick(&mut socket.effects);
        let Some(Effect::Subscribe(ticket, request)) = socket.effects.drain(..).next() else {
            panic!("nothing is asked")
        };
        let failed = SubscribeRefusal::Unavailable("Too many database timeouts".to_owned());
        let outcome = if told == 0 { Err(failed) } else { Ok(()) };
        socket.complete(Completion::Subscribed(ticket, outcome));
        if told > 0 {
            replaced(&mut socket, false);
        }
        request.subscriptions.iter().filter(|(_, spec)| spec.since.is_some()).count()
    };
    assert_eq!(named(0).await, 1);
    assert_eq!(named(1).await, 1, "the first was not answered");
    assert_eq!(named(2).await, 0);
}
