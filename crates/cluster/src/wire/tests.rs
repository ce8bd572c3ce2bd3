use proptest::prelude::*;

use super::*;

fn room(audience: Audience) -> Room {
    Room { audience, topic: "realtime:ä".into() }
}

#[test]
fn records_come_back() {
    let (public, private) = (room(Audience::Public), room(Audience::Private));
    let user = UserBroadcast { event: "e".into(), encoding: Encoding::Binary, body: vec![0; 300].into() };
    let entry = Entry::remote("key", "ref", "{\"phx_ref\":\"ref\"}".into());
    let mut out = BytesMut::new();
    put_json(&mut out, public.audience, &public.topic, b"{}");
    put_user(&mut out, private.audience, &private.topic, &user);
    put_present(&mut out, private.audience, &private.topic, u64::MAX, &entry);
    put_absent(&mut out, public.audience, &public.topic, 7);
    put_users(&mut out, 128);
    put_dropped(&mut out, public.audience, &public.topic, 300);
    let body = out.freeze();
    let present = Present { key: "key".into(), phx_ref: "ref".into(), meta: entry.meta().clone() };
    let expected = [
        Record::Json(public.clone(), "{}".into()),
        Record::User(private.clone(), user),
        Record::Present(private, u64::MAX, present),
        Record::Absent(public.clone(), 7),
        Record::Users(128),
        Record::Dropped(public, 300),
    ];
    assert_eq!(records(body.clone()).unwrap(), expected);
    let read = (0..body.len()).filter(|cut| records(body.slice(..*cut)).is_ok()).count();
    assert_eq!(read, expected.len(), "what is cut off is not read, but between two records");
}

#[test]
fn headers_and_direct_messages_come_back() {
    for kind in [Kind::Records, Kind::Fragment, Kind::LastFragment, Kind::Mark, Kind::FirstFragment] {
        let header = Header { kind, node: 0xABCD_EF01, number: u64::MAX };
        let mut message = Bytes::copy_from_slice(&header.encode());
        assert_eq!(Header::decode(&mut message), Ok(header));
        assert!(message.is_empty());
    }
    let told = Told { ask: 1, tenant: "t".into(), as_of: 9, offset: 7, last: true, records: "x".into() };
    for direct in [
        Direct::Want { ask: 3, tenants: vec!["a".into(), "b".into()] },
        Direct::Told(told),
        Direct::Ping(1),
        Direct::Pong(2),
    ] {
        assert_eq!(Direct::decode(direct.encode(5)), Ok((5, direct)));
    }
}

#[test]
fn another_version_is_refused() {
    let mut header = Header { kind: Kind::Mark, node: 1, number: 1 }.encode();
    header[0] = WIRE_VERSION + 1;
    assert_eq!(Header::decode(&mut Bytes::copy_from_slice(&header)), Err(Malformed));
    let mut ping = Direct::Ping(1).encode(1).to_vec();
    ping[0] = WIRE_VERSION + 1;
    assert_eq!(Direct::decode(ping.into()), Err(Malformed));
}

proptest! {
    /// Whatever comes, nothing panics, and no length makes us reserve what is not there.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = records(Bytes::from(bytes.clone()));
        let _ = Direct::decode(Bytes::from(bytes.clone()));
        let _ = Header::decode(&mut Bytes::from(bytes));
    }

    #[test]
    fn numbers_come_back(value: u64) {
        let mut out = BytesMut::new();
        put_number(&mut out, value);
        prop_assert_eq!(number(&mut out.freeze()), Ok(value));
    }
}
