use std::io::Cursor;

use proptest::prelude::*;
use serde_json::{Value, json};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

use super::*;

/// Payload of a frame that must be one whole WebSocket message of this kind.
fn payload(frame: &Bytes, opcode: Data) -> Bytes {
    let mut cursor = Cursor::new(frame);
    let (header, len) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
    assert_eq!(header.opcode, OpCode::Data(opcode));
    let start = cursor.position() as usize;
    assert_eq!(frame.len() - start, len as usize);
    frame.slice(start..)
}

fn text(frame: &Bytes) -> String {
    String::from_utf8(payload(frame, Data::Text).to_vec()).unwrap()
}

fn both(encode: impl Fn(Vsn) -> Bytes) -> String {
    format!("{}\n{}", text(&encode(Vsn::V1)), text(&encode(Vsn::V2)))
}

fn one() -> Ref {
    Ref::from_text("1")
}

#[test]
fn every_message_in_both_serializers() {
    let topic = "realtime:a";
    insta::assert_snapshot!(both(|vsn| reply_ok(vsn, &Ref::null(), &Ref::from_json("9"), "phoenix", b"{}")), @r#"
    {"topic":"phoenix","event":"phx_reply","ref":9,"payload":{"status":"ok","response":{}}}
    [null,9,"phoenix","phx_reply",{"status":"ok","response":{}}]
    "#);
    insta::assert_snapshot!(both(|vsn| reply_error(vsn, &one(), &Ref::from_text("2"), topic, "unmatched \"topic\"")), @r#"
    {"topic":"realtime:a","event":"phx_reply","ref":"2","payload":{"status":"error","response":{"reason":"unmatched \"topic\""}}}
    ["1","2","realtime:a","phx_reply",{"status":"error","response":{"reason":"unmatched \"topic\""}}]
    "#);
    let meta = br#"{"id":"i","replayed":true}"#;
    insta::assert_snapshot!(both(|vsn| replayed(vsn, &one(), topic, Some("e"), b"{\"n\": 1}", meta)), @r#"
    {"topic":"realtime:a","event":"broadcast","ref":null,"payload":{"type":"broadcast","event":"e","payload":{"n": 1},"meta":{"id":"i","replayed":true}}}
    ["1",null,"realtime:a","broadcast",{"type":"broadcast","event":"e","payload":{"n": 1},"meta":{"id":"i","replayed":true}}]
    "#);
    insta::assert_snapshot!(both(|vsn| close(vsn, &one(), topic)), @r#"
    {"topic":"realtime:a","event":"phx_close","ref":"1","payload":{}}
    ["1","1","realtime:a","phx_close",{}]
    "#);
    insta::assert_snapshot!(both(|vsn| system(vsn, &one(), topic, &SystemMessage::subscribed())), @r#"
    {"topic":"realtime:a","event":"system","ref":null,"payload":{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}}
    ["1",null,"realtime:a","system",{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}]
    "#);
    insta::assert_snapshot!(both(|vsn| system(vsn, &one(), topic, &SystemMessage::error("Token has expired 0 seconds ago"))), @r#"
    {"topic":"realtime:a","event":"system","ref":null,"payload":{"extension":"system","status":"error","message":"Token has expired 0 seconds ago","channel":"a"}}
    ["1",null,"realtime:a","system",{"extension":"system","status":"error","message":"Token has expired 0 seconds ago","channel":"a"}]
    "#);
    insta::assert_snapshot!(both(|vsn| presence_state(vsn, &one(), topic, b"{}")), @r#"
    {"topic":"realtime:a","event":"presence_state","ref":null,"payload":{}}
    ["1",null,"realtime:a","presence_state",{}]
    "#);
    insta::assert_snapshot!(both(|vsn| presence_diff(vsn, topic, b"{\"joins\":{},\"leaves\":{}}")), @r#"
    {"topic":"realtime:a","event":"presence_diff","ref":null,"payload":{"joins":{},"leaves":{}}}
    [null,null,"realtime:a","presence_diff",{"joins":{},"leaves":{}}]
    "#);
    insta::assert_snapshot!(both(|vsn| broadcast(vsn, topic, b"{\"a\": 1}")), @r#"
    {"topic":"realtime:a","event":"broadcast","ref":null,"payload":{"a": 1}}
    [null,null,"realtime:a","broadcast",{"a": 1}]
    "#);
    insta::assert_snapshot!(both(|vsn| postgres_changes(vsn, topic, &[1, 20], b"{\"type\":\"INSERT\"}")), @r#"
    {"topic":"realtime:a","event":"postgres_changes","ref":null,"payload":{"ids":[1,20],"data":{"type":"INSERT"}}}
    [null,null,"realtime:a","postgres_changes",{"ids":[1,20],"data":{"type":"INSERT"}}]
    "#);
    insta::assert_snapshot!(both(|vsn| legacy_change(vsn, topic, "INSERT", b"{}")), @r#"
    {"topic":"realtime:a","event":"INSERT","ref":null,"payload":{}}
    [null,null,"realtime:a","INSERT",{}]
    "#);
}

/// protocol 31
#[test]
fn join_responses_echo_and_number() {
    let response =
        join_response(&[r#"{"event":"INSERT", "x":1.50 } "#, "{}", " { } ", r#"{"id":5}"#], &[1, 2, 3, 4]);
    let response: Value = serde_json::from_slice(&response).unwrap();
    let expected = json!([{"event":"INSERT","x":1.50,"id":1},{"id":2},{"id":3},{"id":4}]);
    assert_eq!(response["postgres_changes"], expected);
    let none: [&str; 0] = [];
    assert_eq!(join_response(&none, &[]), br#"{"postgres_changes":[]}"#);
}

fn user(event: &str, encoding: Encoding, body: &'static [u8]) -> UserBroadcast {
    UserBroadcast { event: event.into(), encoding, body: Bytes::from_static(body) }
}

/// protocol 17, 44, 45: table 2.4
#[test]
fn user_broadcasts() {
    let json = user("user_event", Encoding::Json, br#"{"a":"b"}"#);
    let frame = user_broadcast(Vsn::V2, "topic", &json, None).unwrap();
    assert_eq!(&payload(&frame, Data::Binary)[..], b"\x04\x05\x0A\x00\x01topicuser_event{\"a\":\"b\"}");
    let frame = user_broadcast(Vsn::V2, "topic", &json, Some(br#"{"replayed":true}"#)).unwrap();
    assert_eq!(
        &payload(&frame, Data::Binary)[..],
        b"\x04\x05\x0A\x11\x01topicuser_event{\"replayed\":true}{\"a\":\"b\"}"
    );
    insta::assert_snapshot!(text(&user_broadcast(Vsn::V1, "t", &json, Some(b"{}")).unwrap()),
        @r#"{"topic":"t","event":"broadcast","ref":null,"payload":{"type":"broadcast","event":"user_event","payload":{"a":"b"},"meta":{}}}"#);

    let bytes = user("e", Encoding::Binary, b"\xFF");
    assert_eq!(
        &payload(&user_broadcast(Vsn::V2, "t", &bytes, None).unwrap(), Data::Binary)[..],
        b"\x04\x01\x01\x00\x00te\xFF"
    );
    assert_eq!(user_broadcast(Vsn::V1, "t", &bytes, None), None);
}

/// A body that is no JSON must not be able to forge a frame.
#[test]
fn bodies_that_are_no_json_do_not_become_text() {
    for body in [&b"{not json"[..], b"1},\"topic\":\"forged\",\"x\":{\"y\":1", b"", b"\xFF"] {
        assert_eq!(user_broadcast(Vsn::V1, "t", &user("e", Encoding::Json, body), None), None);
    }
    assert!(user_broadcast(Vsn::V1, "t", &user("e", Encoding::Json, b" 5 "), None).is_some());
}

/// protocol 15.5
#[test]
fn names_too_long_for_a_binary_frame_go_as_text() {
    let long = "x".repeat(256);
    let frame = user_broadcast(Vsn::V2, &long, &user("e", Encoding::Json, b"1"), None).unwrap();
    assert!(text(&frame).starts_with("[null,null,\"xxx"));
    assert_eq!(user_broadcast(Vsn::V2, &long, &user("e", Encoding::Binary, b"1"), None), None);
}

proptest! {
    #[test]
    fn whatever_the_names_the_frames_are_json(topic in "\\PC{0,30}", event in "\\PC{0,300}", reason in "\\PC*") {
        let reference = Ref::from_text(&event);
        let frame = reply_error(Vsn::V2, &reference, &Ref::null(), &topic, &reason);
        let parsed: Value = serde_json::from_str(&text(&frame)).unwrap();
        prop_assert_eq!(parsed, json!([event, null, topic, "phx_reply", {"status":"error","response":{"reason":reason}}]));
        let frame = legacy_change(Vsn::V1, &topic, &event, b"{}");
        let parsed: Value = serde_json::from_str(&text(&frame)).unwrap();
        prop_assert_eq!(parsed, json!({"topic":topic,"event":event,"ref":null,"payload":{}}));
    }
}

/// resume 5: the same JSON as over a WebSocket, without its envelope
#[test]
fn messages_as_events() {
    let (topic, vsn) = ("realtime:a", Vsn::Events);
    let text = |frame: Bytes| String::from_utf8(crate::frame::content(&frame).unwrap().to_vec()).unwrap();
    let user = UserBroadcast { event: "e".into(), encoding: Encoding::Json, body: "{\"n\":\n1}".into() };
    let all = [
        change_event("INSERT", Some(&"0/1:1"), b"{\"type\":\"INSERT\"}"),
        broadcast(vsn, topic, br#"{"event":"e","payload":{"n":1}}"#),
        user_broadcast(vsn, topic, &user, Some(br#"{"id":"i"}"#)).unwrap(),
        replayed(vsn, &one(), topic, Some("gap"), b"{}", br#"{"id":"i","replayed":true}"#),
        system(vsn, &one(), topic, &SystemMessage::subscribed()),
        system(vsn, &one(), topic, &SystemMessage::caught_up()),
        system(vsn, &one(), topic, &SystemMessage::complete(7, 3)),
        system(vsn, &one(), topic, &SystemMessage::begin_anew(7)),
        system(
            vsn,
            &one(),
            topic,
            &SystemMessage::gap(crate::Extension::PostgresChanges, "ChangesNotKept", "t"),
        ),
        system(vsn, &one(), topic, &SystemMessage::error("Token has expired 0 seconds ago")),
        reply_error(vsn, &one(), &one(), topic, "no"),
        close(vsn, &one(), topic),
    ];
    insta::assert_snapshot!(all.map(text).concat(), @r#"
    event: INSERT
    id: 0/1:1
    data: {"type":"INSERT"}

    event: e
    data: {"event":"e","payload":{"n":1}}

    event: e
    id: i
    data: {"type":"broadcast","event":"e","payload":{"n": 1},"meta":{"id":"i"}}

    event: broadcast
    id: i
    data: {"type":"broadcast","event":"gap","payload":{},"meta":{"id":"i","replayed":true}}

    event: subscribed
    data: {"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"a"}

    event: caught_up
    data: {"extension":"postgres_changes","status":"ok","message":"Caught up","channel":"a"}

    event: complete
    data: {"extension":"postgres_changes","status":"ok","message":"Live rows are complete","bindings":[7],"rows":3,"channel":"a"}

    event: anew
    data: {"extension":"postgres_changes","status":"ok","message":"Live rows begin anew","bindings":[7],"channel":"a"}

    event: gap
    data: {"extension":"postgres_changes","status":"gap","message":"t","code":"ChangesNotKept","channel":"a"}

    event: error
    data: {"extension":"system","status":"error","message":"Token has expired 0 seconds ago","channel":"a"}

    : reply {"status":"error","response":{"reason":"no"}}

    : closed
    "#);
    let binary = UserBroadcast { encoding: Encoding::Binary, ..user };
    assert!(user_broadcast(vsn, topic, &binary, None).is_none(), "text carries no bytes");
}
