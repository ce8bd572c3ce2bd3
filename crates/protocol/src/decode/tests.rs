use proptest::prelude::*;

use super::*;
use crate::{
    Encoding, Payload, Ref, UserBroadcast,
    message::{MAX_NAME, MAX_REF},
};

fn v1(text: &'static str) -> Result<ClientMessage, DecodeError> {
    decode(Vsn::V1, Opcode::Text, &Bytes::from_static(text.as_bytes()))
}

fn v2(text: &'static str) -> Result<ClientMessage, DecodeError> {
    decode(Vsn::V2, Opcode::Text, &Bytes::from_static(text.as_bytes()))
}

fn binary(bytes: &'static [u8]) -> Result<ClientMessage, DecodeError> {
    decode(Vsn::V2, Opcode::Binary, &Bytes::from_static(bytes))
}

fn parts(message: &ClientMessage) -> (&str, &str, &str, &str, &[u8]) {
    let payload = match &message.payload {
        Payload::Json(bytes) | Payload::Binary(bytes) => bytes,
        Payload::UserBroadcast(user) => &user.body,
    };
    (message.join_ref.as_json(), message.msg_ref.as_json(), &message.topic, &message.event, payload)
}

#[test]
fn envelopes() {
    let message =
        v1(r#" {"topic":"realtime:a","event":"e","payload":{"x": 1},"ref":"7","extra":[]}"#).unwrap();
    assert_eq!(parts(&message), ("null", "\"7\"", "realtime:a", "e", &br#"{"x": 1}"#[..]));
    let message = v2(r#"["1","2","realtime:a","e",{"x": 1}]"#).unwrap();
    assert_eq!(parts(&message), ("\"1\"", "\"2\"", "realtime:a", "e", &br#"{"x": 1}"#[..]));
}

/// Recording 05: numbers are references like any other.
#[test]
fn references_are_kept_to_the_letter() {
    assert_eq!(parts(&v2(r#"[1,9,"t","e",null]"#).unwrap()), ("1", "9", "t", "e", &b"null"[..]));
    assert_eq!(parts(&v2(r#"[null,null,"t","e",{}]"#).unwrap()).0, "null");
}

#[test]
fn names_and_references_have_an_end() {
    let message = |reference: usize, topic: usize, event: usize| {
        let (r, t, e) = ("r".repeat(reference), "t".repeat(topic), "e".repeat(event));
        let v2_text = format!(r#"["{r}","{r}","{t}","{e}",{{}}]"#);
        let v1_text =
            format!(r#"{{"topic":"{t}","event":"{e}","payload":{{}},"ref":"{r}","join_ref":"{r}"}}"#);
        let decoded = decode(Vsn::V2, Opcode::Text, &v2_text.into()).map(drop);
        assert_eq!(decode(Vsn::V1, Opcode::Text, &v1_text.into()).map(drop), decoded);
        decoded
    };
    assert_eq!(message(MAX_REF - 2, MAX_NAME, MAX_NAME), Ok(()));
    for (reference, topic, event) in [(MAX_REF, 1, 1), (1, MAX_NAME + 1, 1), (1, 1, MAX_NAME + 1)] {
        assert_eq!(message(reference, topic, event), Err(DecodeError::TooLong));
    }
}

/// What waits holds itself alone, not the megabytes that were read with it.
#[test]
fn a_compact_message_holds_what_its_size_says() {
    let text = format!(r#"["1","2","t","e",{{"a":1}},"{}"]"#, "x".repeat(4_000_000));
    let frame = Bytes::from(text);
    let message = decode(Vsn::V2, Opcode::Text, &frame).unwrap().compact();
    assert!(frame.is_unique(), "nothing of it is shared");
    assert_eq!(parts(&message).4, br#"{"a":1}"#);
    assert!(message.size() < 1_000);
}

/// protocol 15
#[test]
fn v1_reads_any_opcode() {
    let text = Bytes::from_static(br#"{"topic":"t","event":"e","payload":{},"ref":null}"#);
    assert!(decode(Vsn::V1, Opcode::Binary, &text).is_ok());
}

#[test]
fn of_repeated_keys_the_last_counts() {
    let message = v1(r#"{"topic":"a","topic":"b","event":"e","payload":1,"ref":null,"payload":2}"#).unwrap();
    assert_eq!(parts(&message), ("null", "null", "b", "e", &b"2"[..]));
}

/// protocol 14, 15 and table 2.5
#[test]
fn what_is_no_message_is_dropped_with_its_code() {
    use DecodeError::{Malformed, Unexpected};
    for text in ["", "hello", "{", r#"{"topic":"t","event":"e","payload":{}}"#, "{}"] {
        assert_eq!(v1(text), Err(Malformed), "{text}");
    }
    for text in ["5", "null", "[]", "\"x\"", r#"["1","1","t"]"#] {
        assert_eq!(v1(text), Err(Unexpected), "{text}");
    }
    for text in
        ["", "not json", "{}", "5", "null", "\"text\"", "[]", r#"["j","r","t"]"#, r#"["j","r","t","e"]"#]
    {
        assert_eq!(v2(text), Err(Malformed), "{text}");
    }
    assert_eq!(v2(r#"["1","2",3,"e",{}]"#), Err(Malformed));
    assert_eq!(v1(r#"{"topic":null,"event":"e","payload":{},"ref":null}"#), Err(Malformed));
    assert_eq!(
        decode(Vsn::V2, Opcode::Text, &Bytes::from_static(b"[\"1\",\"2\",\"\xFF\",\"e\",{}]")),
        Err(Malformed)
    );
    assert_eq!(Malformed.code().as_str(), "MalformedWebSocketMessage");
    assert_eq!(Unexpected.code().as_str(), "UnknownErrorOnWebSocketMessage");
}

/// Half a character makes a message malformed, wherever it is: many receivers drop what they get with it.
#[test]
fn half_characters_are_malformed() {
    for text in [
        r#"["1","2","t","e",{"x":"\ud800"}]"#,
        r#"["1","2","t","e",{"\udc00":1}]"#,
        r#"["1","2","t","\ud800",{}]"#,
        r#"["1","2","\ud800",{}]"#,
        r#"["1","\ud800","t","e",{}]"#,
        r#"["\ud800","2","t","e",{}]"#,
        r#"["1","2","t","e",{},"\ud800"]"#,
    ] {
        assert_eq!(v2(text), Err(DecodeError::Malformed), "{text}");
    }
    let text = r#"{"topic":"t","event":"e","payload":{"x":"\ud800"},"ref":"1"}"#;
    assert_eq!(v1(text), Err(DecodeError::Malformed));
    assert_eq!(
        decode(Vsn::V1, Opcode::Binary, &Bytes::from_static(text.as_bytes())),
        Err(DecodeError::Malformed)
    );
    assert!(v2(r#"["1","2","t","e",{"x":"\ud83d\ude00 \\ud800"}]"#).is_ok());
    assert_eq!(binary(b"\x03\x00\x00\x01\x01\x00\x01te{\"x\":\"\\ud800\"}"), Err(DecodeError::Malformed));
}

/// What is said to be JSON is JSON.
#[test]
fn compact_broadcasts_of_json_are_json() {
    assert_eq!(binary(b"\x03\x00\x00\x01\x01\x00\x01te{\"x\":"), Err(DecodeError::Malformed));
    assert_eq!(binary(b"\x03\x00\x00\x01\x01\x00\x01te\"\xff\""), Err(DecodeError::Malformed));
    assert!(binary(b"\x03\x00\x00\x01\x01\x00\x01te5").is_ok());
    assert!(binary(b"\x03\x00\x00\x01\x01\x00\x00te{\"x\":\"\\ud800").is_ok(), "opaque bytes");
}

/// The payload is only skipped, without recursion.
#[test]
fn deep_nesting_is_no_danger() {
    let bomb = format!(r#"["1","2","t","e",{}{}]"#, "[".repeat(200_000), "]".repeat(200_000));
    assert!(decode(Vsn::V2, Opcode::Text, &bomb.into()).is_ok());
}

/// protocol 18
#[test]
fn elements_after_the_fifth_are_ignored() {
    assert_eq!(parts(&v2(r#"["1","9","phoenix","heartbeat",{},"extra",{}]"#).unwrap()).3, "heartbeat");
}

/// protocol 16
#[test]
fn impossible_binary_frames_are_dropped() {
    let cases: [&[u8]; 6] = [
        b"",
        b"\x09",
        b"\x03\x01\x01",
        b"\x00\x01\x01\x0a\x09short",
        b"\x03\x00\x00\x01\x00\x05\x01t{}",
        b"\x00\x01\x02",
    ];
    for bytes in cases {
        assert_eq!(binary(bytes), Err(DecodeError::Unexpected), "{bytes:?}");
    }
    assert_eq!(binary(b"\x03\x00\x00\x01\x00\x01\x01t{"), Err(DecodeError::Malformed));
}

/// protocol 17: the worked example of 2.3, with and without metadata, both encodings.
#[test]
fn user_broadcast_pushes() {
    let message = binary(b"\x03\x02\x03\x05\x0A\x00\x0112123topicuser_event{\"a\":\"b\"}").unwrap();
    assert_eq!(parts(&message), ("\"12\"", "\"123\"", "topic", "broadcast", &br#"{"a":"b"}"#[..]));
    let Payload::UserBroadcast(user) = message.payload else { panic!("user broadcast expected") };
    assert_eq!((&*user.event, user.encoding), ("user_event", Encoding::Json));

    let message = binary(b"\x03\x00\x00\x01\x01\x02\x00te{}\xFF\x00").unwrap();
    assert_eq!(parts(&message), ("\"\"", "\"\"", "t", "broadcast", &b"\xFF\x00"[..]));
    let Payload::UserBroadcast(user) = message.payload else { panic!("user broadcast expected") };
    assert_eq!(user.encoding, Encoding::Binary);
}

/// Recording 05: a binary push.
#[test]
fn binary_pushes() {
    let message = binary(b"\x00\x01\x01\x0a\x0919realtime:mbroadcast{\"a\":1}").unwrap();
    assert_eq!(parts(&message), ("\"1\"", "\"9\"", "realtime:m", "broadcast", &br#"{"a":1}"#[..]));
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        "[\\[\\]{}\",:a-z0-9 ]{0,60}".prop_map(String::into_bytes),
        (0u8..5, any::<Vec<u8>>()).prop_map(|(kind, mut rest)| {
            rest.insert(0, kind);
            rest
        }),
    ]
}

proptest! {
    #[test]
    fn never_panics(frame in any_frame()) {
        let frame = Bytes::from(frame);
        for vsn in [Vsn::V1, Vsn::V2] {
            for opcode in [Opcode::Text, Opcode::Binary] {
                let _ = decode(vsn, opcode, &frame);
            }
        }
    }

    /// What a client encodes is what is decoded, in both serializers.
    #[test]
    fn decode_inverts_encode(
        join_ref in prop::option::of("\\PC{0,5}"), msg_ref in prop::option::of("\\PC{0,5}"),
        topic in "\\PC{0,20}", event in "\\PC{0,20}", value in "\\PC{0,20}",
    ) {
        let json = |text: &Option<String>| serde_json::to_string(text).unwrap();
        let payload = serde_json::json!({ "v": value }).to_string();
        let v1 = format!(
            r#"{{"topic":{},"event":{},"payload":{payload},"ref":{},"join_ref":{}}}"#,
            json(&Some(topic.clone())), json(&Some(event.clone())), json(&msg_ref), json(&join_ref),
        );
        let v2 = format!(
            "[{},{},{},{},{payload}]",
            json(&join_ref), json(&msg_ref), json(&Some(topic.clone())), json(&Some(event.clone())),
        );
        let v1 = decode(Vsn::V1, Opcode::Text, &v1.into()).unwrap();
        let v2 = decode(Vsn::V2, Opcode::Text, &v2.into()).unwrap();
        prop_assert_eq!(&v1, &v2);
        let (join, reference) = (json(&join_ref), json(&msg_ref));
        prop_assert_eq!(parts(&v1), (&*join, &*reference, &*topic, &*event, payload.as_bytes()));
    }

    #[test]
    fn decode_inverts_encode_of_user_broadcasts(
        join_ref in "\\PC{0,9}", msg_ref in "\\PC{0,9}", topic in "\\PC{0,60}", event in "\\PC{0,60}",
        encoding in 0u8..3, opaque: Vec<u8>, value in "\\PC{0,20}",
    ) {
        let body = if encoding == 0 { opaque } else { serde_json::json!({ "v": value }).to_string().into_bytes() };
        let fields = [&join_ref, &msg_ref, &topic, &event];
        let mut frame = vec![3];
        frame.extend(fields.map(|field| field.len() as u8));
        frame.extend([0, encoding]);
        for field in fields {
            frame.extend(field.as_bytes());
        }
        frame.extend(&body);
        let message = decode(Vsn::V2, Opcode::Binary, &frame.into()).unwrap();
        let expected = UserBroadcast {
            event: event.into(),
            encoding: if encoding == 0 { Encoding::Binary } else { Encoding::Json },
            body: body.into(),
        };
        prop_assert_eq!(message.payload, Payload::UserBroadcast(expected));
        prop_assert_eq!(&*message.topic, &*topic);
        prop_assert_eq!(message.join_ref, Ref::from_text(&join_ref));
        prop_assert_eq!(message.msg_ref, Ref::from_text(&msg_ref));
    }
}
