use proptest::prelude::*;

use super::*;
use crate::Lsn;

fn bytes(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

fn decode(message: Bytes) -> Result<Message, DecodeError> {
    Decoder::new(1).decode(message)
}

/// 2019-07-18 17:02:35.726322 UTC
const TIME: [u8; 8] = 0x0002_30F6_5858_D5F2_u64.to_be_bytes();

/// postgres_changes 122
#[test]
fn begin_and_commit() {
    let begin = bytes(&[b"B", &0x0000_0002_A7F4_A880_u64.to_be_bytes(), &TIME, &619u32.to_be_bytes()]);
    let time = UnixMicros(1_563_469_355_726_322);
    assert_eq!(
        decode(begin),
        Ok(Message::Begin { final_lsn: Lsn(0x2_A7F4_A880), commit_time: time, xid: 619 })
    );
    let commit = bytes(&[
        b"C\0",
        &0x0000_0002_A7F4_A880_u64.to_be_bytes(),
        &0x0000_0002_A7F4_A8B0_u64.to_be_bytes(),
        &TIME,
    ]);
    let expected = Message::Commit {
        flags: 0,
        commit_lsn: Lsn(0x2_A7F4_A880),
        end_lsn: Lsn(0x2_A7F4_A8B0),
        commit_time: time,
    };
    assert_eq!(decode(commit), Ok(expected));
}

fn foo() -> Vec<u8> {
    let columns = b"\0bar\0\0\0\0\x19\xFF\xFF\xFF\xFF\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF";
    [&b"R\0\0\x60\0public\0foo\0d\0\x02"[..], columns].concat()
}

/// postgres_changes 123
#[test]
fn relation_type_and_origin() {
    let column = |name: &str, identity, type_oid| RelationColumn {
        identity,
        name: name.into(),
        type_oid,
        type_modifier: -1,
    };
    let relation = Relation {
        oid: 24_576,
        schema: "public".into(),
        name: "foo".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("bar", false, 25), column("id", true, 23)],
    };
    assert_eq!(decode(foo().into()), Ok(Message::Relation { xid: None, relation: Arc::new(relation) }));
    let expected =
        Message::Type { xid: None, oid: 32_820, schema: "public".into(), name: "example_type".into() };
    assert_eq!(decode(bytes(&[b"Y\0\0\x80\x34public\0example_type\0"])), Ok(expected));
    let built_in = Message::Type { xid: None, oid: 23, schema: "pg_catalog".into(), name: "int4".into() };
    assert_eq!(decode(bytes(&[b"Y\0\0\0\x17\0int4\0"])), Ok(built_in));
    let expected = Message::Origin { commit_lsn: Lsn(7), name: "here".into() };
    assert_eq!(decode(bytes(&[b"O\0\0\0\0\0\0\0\x07here\0"])), Ok(expected));
}

fn text(text: &'static str) -> Value {
    Value::Text(Bytes::from_static(text.as_bytes()))
}

/// postgres_changes 103, 126: what an update left alone is taken from the old row
#[test]
fn unchanged_values() {
    let update = |old: &'static [u8]| match decode(bytes(&[b"U\0\0\0\x01", old, b"N\0\x03uut\0\0\0\x012"])) {
        Ok(Message::Update { new, .. }) => new,
        other => panic!("{other:?}"),
    };
    assert_eq!(update(b""), [Value::Unchanged, Value::Unchanged, text("2")]);
    assert_eq!(update(b"K\0\x03t\0\0\0\x01knn"), [text("k"), Value::Unchanged, text("2")]);
    assert_eq!(update(b"O\0\x03t\0\0\0\x01kt\0\0\0\x01vn"), [text("k"), text("v"), text("2")]);
}

/// postgres_changes 124, 126
#[test]
fn rows() {
    let insert = bytes(&[b"I\0\0\x60\0N\0\x03t\0\0\0\x03barnu"]);
    let expected = Message::Insert {
        xid: None,
        relation: 24_576,
        new: vec![text("bar"), Value::Null, Value::Unchanged],
    };
    assert_eq!(decode(insert), Ok(expected));

    let new = b"N\0\x01t\0\0\0\x012";
    let update =
        |old: Option<OldTuple>| Ok(Message::Update { xid: None, relation: 1, old, new: vec![text("2")] });
    assert_eq!(decode(bytes(&[b"U\0\0\0\x01", new])), update(None));
    let key = b"K\0\x01t\0\0\0\x011";
    assert_eq!(decode(bytes(&[b"U\0\0\0\x01", key, new])), update(Some(OldTuple::Key(vec![text("1")]))));
    let full = b"O\0\x01n";
    assert_eq!(decode(bytes(&[b"U\0\0\0\x01", full, new])), update(Some(OldTuple::Full(vec![Value::Null]))));

    let deleted = |old| Ok(Message::Delete { xid: None, relation: 1, old });
    assert_eq!(decode(bytes(&[b"D\0\0\0\x01", key])), deleted(OldTuple::Key(vec![text("1")])));
    assert_eq!(decode(bytes(&[b"D\0\0\0\x01", full])), deleted(OldTuple::Full(vec![Value::Null])));
}

#[test]
fn values_are_slices_of_the_message() {
    let message = bytes(&[b"I\0\0\0\x01N\0\x01b\0\0\0\x02\xFF\x01"]);
    let range = message.as_ptr_range();
    let Ok(Message::Insert { new, .. }) = decode(message) else { panic!("insert expected") };
    let [Value::Binary(value)] = &new[..] else { panic!("binary value expected") };
    assert!(range.contains(&value.as_ptr()));
}

#[test]
fn truncate_and_logical_messages() {
    let expected =
        Message::Truncate { xid: None, cascade: true, restart_identity: true, relations: vec![1, 2] };
    assert_eq!(decode(bytes(&[b"T\0\0\0\x02\x03\0\0\0\x01\0\0\0\x02"])), Ok(expected));
    let expected = Message::Logical {
        xid: None,
        transactional: true,
        lsn: Lsn(9),
        prefix: "p".into(),
        content: Bytes::from_static(b"abc"),
    };
    assert_eq!(decode(bytes(&[b"M\x01\0\0\0\0\0\0\0\x09p\0\0\0\0\x03abc"])), Ok(expected));
}

/// Inside a streamed block messages carry a transaction id, outside they do not.
#[test]
fn streamed_blocks() {
    let mut decoder = Decoder::new(2);
    let insert = bytes(&[b"I\0\0\0\x01N\0\0"]);
    let streamed = bytes(&[b"I\0\0\0\x05\0\0\0\x01N\0\0"]);
    let row = |xid| Ok(Message::Insert { xid, relation: 1, new: vec![] });
    assert_eq!(decoder.decode(insert.clone()), row(None));
    assert_eq!(
        decoder.decode(bytes(&[b"S\0\0\0\x05\x01"])),
        Ok(Message::StreamStart { xid: 5, first: true })
    );
    assert_eq!(decoder.decode(streamed), row(Some(5)));
    assert_eq!(decoder.decode(bytes(&[b"E"])), Ok(Message::StreamStop));
    assert_eq!(decoder.decode(insert), row(None));
    let abort = |abort| Ok(Message::StreamAbort { xid: 5, subxid: 6, abort });
    assert_eq!(decoder.decode(bytes(&[b"A\0\0\0\x05\0\0\0\x06"])), abort(None));
    let parallel = bytes(&[b"A\0\0\0\x05\0\0\0\x06\0\0\0\0\0\0\0\x01", &TIME]);
    assert_eq!(decoder.decode(parallel), abort(Some((Lsn(1), UnixMicros(1_563_469_355_726_322)))));
    let commit = bytes(&[b"c\0\0\0\x05\0", &1u64.to_be_bytes(), &2u64.to_be_bytes(), &TIME]);
    assert!(matches!(decoder.decode(commit), Ok(Message::StreamCommit { xid: 5, end_lsn: Lsn(2), .. })));
}

#[test]
fn two_phase_messages() {
    let fields =
        [&1u64.to_be_bytes()[..], &2u64.to_be_bytes(), &TIME, &7u32.to_be_bytes(), b"gid\0"].concat();
    let prepared = Prepared {
        prepare_lsn: Lsn(1),
        end_lsn: Lsn(2),
        time: UnixMicros(1_563_469_355_726_322),
        xid: 7,
        gid: "gid".into(),
    };
    let of = |tag: &[u8]| decode(bytes(&[tag, &fields]));
    assert_eq!(of(b"b"), Ok(Message::TwoPhase(TwoPhase::BeginPrepare(prepared.clone()))));
    assert_eq!(of(b"P\0"), Ok(Message::TwoPhase(TwoPhase::Prepare(prepared.clone()))));
    assert_eq!(of(b"K\0"), Ok(Message::TwoPhase(TwoPhase::CommitPrepared(prepared.clone()))));
    assert_eq!(of(b"p\0"), Ok(Message::TwoPhase(TwoPhase::StreamPrepare(prepared))));
    let rollback =
        bytes(&[b"r\0", &1u64.to_be_bytes(), &2u64.to_be_bytes(), &TIME, &TIME, &7u32.to_be_bytes(), b"g\0"]);
    assert!(matches!(decode(rollback), Ok(Message::TwoPhase(TwoPhase::RollbackPrepared { xid: 7, .. }))));
}

#[test]
fn what_is_no_message() {
    assert_eq!(decode(Bytes::new()), Err(DecodeError::Truncated("message type")));
    assert_eq!(decode(bytes(&[b"Z"])), Err(DecodeError::UnknownMessage(b'Z')));
    assert_eq!(decode(bytes(&[b"E!"])), Err(DecodeError::TrailingBytes(1)));
    assert_eq!(
        decode(bytes(&[b"I\0\0\0\x01X"])),
        Err(DecodeError::UnknownTag { what: "tuple type", byte: b'X' })
    );
    assert_eq!(
        decode(bytes(&[b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFFx"])),
        Err(DecodeError::Truncated("column value"))
    );
    assert_eq!(decode(bytes(&[b"Y\0\0\0\x01\xFF\0\0"])), Err(DecodeError::NotUtf8));
    assert_eq!(decode(bytes(&[b"T\xFF\xFF\xFF\xFF\0"])), Err(DecodeError::Truncated("relation")));
}

proptest! {
    #[test]
    fn never_panics(tag in prop::sample::select(&b"BCORYIUDTMSEcAbPKrpZ"[..]), rest: Vec<u8>, version in 1u8..5) {
        let mut decoder = Decoder::new(version);
        let message = Bytes::from([&[tag][..], &rest].concat());
        let _ = decoder.decode(message.clone());
        let _ = decoder.decode(Bytes::from_static(b"S\0\0\0\x05\x01"));
        let _ = decoder.decode(message);
    }

    /// Whatever the values are, a row is decoded to what was encoded.
    #[test]
    fn decode_inverts_encode_of_rows(values in prop::collection::vec(prop::option::of(any::<Vec<u8>>()), 0..20), oid: u32) {
        let mut message = b"I".to_vec();
        message.extend(oid.to_be_bytes());
        message.push(b'N');
        message.extend((values.len() as u16).to_be_bytes());
        for value in &values {
            match value {
                None => message.push(b'n'),
                Some(value) => {
                    message.push(b't');
                    message.extend((value.len() as u32).to_be_bytes());
                    message.extend(value);
                }
            }
        }
        let new = values.into_iter().map(|value| value.map_or(Value::Null, |value| Value::Text(value.into()))).collect();
        prop_assert_eq!(decode(message.into()), Ok(Message::Insert { xid: None, relation: oid, new }));
    }

    /// A message cut short is an error, never another message.
    #[test]
    fn every_cut_is_noticed(cut in 1usize..46) {
        let whole = foo();
        prop_assume!(cut < whole.len());
        prop_assert!(decode(whole[..cut].to_vec().into()).is_err());
    }
}
