use proptest::prelude::*;

use super::*;
use crate::scope::{Part, Parts, Scope};

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
    let listens = Listens { version: 300, buckets: u64::MAX };
    put_listens(&mut out, listens);
    let mut rates = Rates::default();
    rates[1] = Rate { average: 300, recent: u32::MAX };
    put_rates(&mut out, &rates);
    put_dropped(&mut out, public.audience, &public.topic, 300);
    put_kept(&mut out, u128::MAX);
    put_json(&mut out, public.audience, &public.topic, b"{}");
    let body = out.freeze();
    let present = Present { key: "key".into(), phx_ref: "ref".into(), meta: entry.meta().clone() };
    let expected = [
        Record::Json(public.clone(), "{}".into()),
        Record::User(private.clone(), user),
        Record::Present(private, u64::MAX, present),
        Record::Absent(public.clone(), 7),
        Record::Users(128),
        Record::Listens(listens),
        Record::Rates(rates),
        Record::Dropped(public.clone(), 300),
        Record::Kept(u128::MAX, Box::new(Record::Json(public, "{}".into()))),
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
    let scope = |part| Scope { tenant: "t".into(), part };
    let told = |part, unheard| Told {
        ask: 1,
        scope: scope(part),
        as_of: 9,
        unheard,
        offset: 7,
        last: true,
        records: "x".into(),
    };
    let parts = Parts { whole: true, buckets: 1 << 63 };
    let asked =
        |tenant: &str| Asked { tenant: tenant.into(), parts, listens: Listens { version: 128, buckets: 5 } };
    let blank = |unheard| Blank { tenant: "t".into(), parts, as_of: 300, unheard };
    for direct in [
        Direct::Want { ask: 3, about: vec![asked("a"), asked("b")] },
        Direct::Told(told(Part::Whole, None)),
        Direct::Told(told(Part::Bucket(63), Some(0))),
        Direct::Blank { ask: 4, about: vec![blank(None), blank(Some(u64::MAX - 1))] },
        Direct::Ping(1),
        Direct::Pong(2),
    ] {
        assert_eq!(Direct::decode(direct.encode(5)), Ok((5, direct)));
    }
}

#[test]
fn there_are_no_more_buckets_than_there_are() {
    let scope = Scope { tenant: "t".into(), part: Part::Bucket(7) };
    let told = Told { ask: 1, scope, as_of: 1, unheard: None, offset: 0, last: true, records: Bytes::new() };
    let mut bytes = Direct::Told(told).encode(1).to_vec();
    // Version, node, kind, ask, length of the name, name.
    let at = 1 + 4 + 1 + 8 + 1 + 1;
    assert_eq!(bytes[at], 7);
    bytes[at] = 65;
    assert_eq!(Direct::decode(bytes.into()), Err(Malformed));
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
