use proptest::prelude::*;

use super::*;

/// A client frame as RFC 6455 5.2 lays it out.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i % 4]));
    out
}

fn text(payload: &'static [u8]) -> Event {
    Event::Message(Opcode::Text, Bytes::from_static(payload))
}

fn all(bytes: &[u8]) -> Result<Vec<Event>, Violation> {
    let mut reader = Reader::new(bytes);
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        events.push(event);
    }
    Ok(events)
}

#[test]
fn messages_and_control_frames_interleave() {
    let mut bytes = frame(0x01, b"he");
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x80, b"llo"));
    bytes.extend(frame(0x82, &[0xFF]));
    bytes.extend(frame(0x8A, b""));
    bytes.extend(frame(0x88, &1001u16.to_be_bytes()));
    let expected = vec![
        Event::Ping(Bytes::from_static(b"ping")),
        text(b"hello"),
        Event::Message(Opcode::Binary, Bytes::from_static(&[0xFF])),
        Event::Pong,
        Event::Close(1001),
    ];
    assert_eq!(all(&bytes), Ok(expected));
}

/// protocol 1.8: the socket does not check UTF-8.
#[test]
fn text_that_is_not_utf8_is_a_message() {
    assert_eq!(all(&frame(0x81, b"\xFF\xFE")), Ok(vec![text(b"\xFF\xFE")]));
}

#[test]
fn violations() {
    let mut unmasked = frame(0x81, b"");
    unmasked[1] = 0;
    let cases: [(&str, Vec<u8>); 10] = [
        ("unmasked", unmasked),
        ("rsv1", frame(0xC1, b"")),
        ("reserved data opcode", frame(0x83, b"")),
        ("reserved control opcode", frame(0x8B, b"")),
        ("fragmented ping", frame(0x09, b"")),
        ("long ping", frame(0x89, &[0; 126])),
        ("continuation of nothing", frame(0x80, b"")),
        ("text inside a fragmented text", [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
        ("close of one byte", frame(0x88, b"x")),
        ("close code 1005", frame(0x88, &1005u16.to_be_bytes())),
    ];
    for (name, bytes) in cases {
        assert_eq!(all(&bytes).map_err(Violation::close_code), Err(1002), "{name}");
    }
}

/// protocol 12: 5,000,000 bytes pass, one more does not; fragments count together; refused before they arrive.
#[test]
fn message_size_limit() {
    let largest = vec![b'x'; MAX_MESSAGE_BYTES];
    assert_eq!(all(&frame(0x81, &largest)), Ok(vec![Event::Message(Opcode::Text, largest.into())]));

    let mut announced = vec![0x81, 0x80 | 127];
    announced.extend((MAX_MESSAGE_BYTES as u64 + 1).to_be_bytes());
    announced.extend([0; 4]);
    assert_eq!(all(&announced), Err(Violation::TooLarge));
    announced[2..10].fill(0xFF);
    assert_eq!(all(&announced), Err(Violation::TooLarge));

    let half = vec![b'x'; MAX_MESSAGE_BYTES / 2];
    let fragments = [frame(0x01, &half), frame(0x00, &half), frame(0x80, b"x")].concat();
    assert_eq!(all(&fragments), Err(Violation::TooLarge));
}

#[test]
fn an_idle_reader_holds_no_memory() {
    let mut reader = Reader::default();
    reader.space().extend_from_slice(&frame(0x81, b"x"));
    assert_eq!(reader.next_event(), Ok(Some(text(b"x"))));
    reader.release();
    assert_eq!(reader.buffer.capacity(), 0);
}

/// Neither the rest of a large read nor a fragment keeps what came with it.
#[test]
fn a_little_that_waits_holds_little() {
    let mut reader = Reader::default();
    let large = vec![b'x'; 4_000_000];
    reader
        .space()
        .extend_from_slice(&[&frame(0x81, &large)[..], &frame(0x01, b"f"), &frame(0x81, b"x")[..3]].concat());
    assert_eq!(reader.next_event(), Ok(Some(Event::Message(Opcode::Text, large.into()))));
    assert_eq!(reader.next_event(), Ok(None));
    reader.release();
    assert!(reader.held() < 10_000, "{}", reader.held());
}

proptest! {
    #[test]
    fn never_panics(bytes: Vec<u8>) {
        let _ = all(&bytes);
    }

    /// However the network cuts the stream, the events are the same.
    #[test]
    fn cuts_do_not_matter(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
        cut in 1usize..40,
    ) {
        let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(0x82, payload)).collect();
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(cut) {
            reader.space().extend_from_slice(piece);
            while let Some(event) = reader.next_event().unwrap() {
                events.push(event);
            }
            reader.release();
        }
        prop_assert_eq!(events, all(&bytes).unwrap());
    }
}

/// How large a message is, is known before it is there; of fragments when there are some.
#[test]
fn the_size_of_a_message_is_known_by_what_it_announces() {
    let payload = vec![b'x'; KEPT + 1];
    let mut reader = Reader::new(&frame(0x81, &payload)[..100]);
    assert_eq!(reader.announced(), 0);
    assert_eq!(reader.next_event(), Ok(None));
    assert_eq!(reader.announced(), KEPT + 1);

    let mut begun = frame(0x01, &payload);
    begun.extend(&frame(0x80, &payload[..100])[..20]);
    let mut reader = Reader::new(&begun);
    assert_eq!(reader.next_event(), Ok(None));
    assert_eq!(reader.announced(), KEPT + 101);
    reader.space().extend_from_slice(&frame(0x80, &payload[..100])[20..]);
    assert!(
        matches!(reader.next_event(), Ok(Some(Event::Message(_, message))) if message.len() == KEPT + 101)
    );
    assert_eq!(reader.announced(), 0);
}

/// A large message takes as much memory as it is long, and none that its frame announces only.
#[test]
fn memory_is_taken_for_what_comes() {
    let (mut reader, sent) = (Reader::default(), frame(0x81, &vec![b'x'; 4_900_000]));
    let mut parts = sent.as_slice();
    while !parts.is_empty() {
        let space = reader.space();
        let room = (space.capacity() - space.len()).min(parts.len()).min(100_000);
        let (part, rest) = parts.split_at(room);
        space.extend_from_slice(part);
        parts = rest;
        let came = sent.len() - parts.len();
        if reader.next_event().unwrap().is_some() {
            break;
        }
        assert!(reader.held() <= (5 * came).max(3 * MAX_READ_CHUNK), "{} of {came}", reader.held());
        assert!(reader.held() <= 5_000_000, "{}", reader.held());
    }
    assert!(parts.is_empty());
}

mod compressed {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A message as a client's library compresses it.
    fn packed(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + 1024);
        let mut deflate = Compress::new(Compression::new(6), false);
        deflate.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - 4);
        out
    }

    fn reader(bytes: &[u8]) -> Reader {
        Reader::new(bytes).inflating(true)
    }

    fn events(bytes: &[u8]) -> Result<Vec<Event>, Violation> {
        let mut reader = reader(bytes);
        let mut events = Vec::new();
        while let Some(event) = reader.next_event()? {
            events.push(event);
        }
        Ok(events)
    }

    fn rows(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|n| format!("{{\"id\":{n},\"hash\":{}}},", n * 7_919 % 9_973).into_bytes())
            .collect()
    }

    /// In one frame or in several, with control frames and plain messages between.
    #[test]
    fn compressed_messages_are_inflated() {
        let (first, second) = (rows(100), rows(3));
        let (a, b) = (packed(&first), packed(&second));
        let (begin, end) = a.split_at(a.len() / 2);
        let bytes = [
            frame(0xC1, &a),
            frame(0x41, begin),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x80, end),
            frame(0x81, b"plain"),
            frame(0xC2, &b),
            // An empty message, in two ways.
            frame(0xC1, &[0]),
            frame(0x41, &[]),
            frame(0x80, &[0]),
        ]
        .concat();
        let text = |message: &[u8]| Event::Message(Opcode::Text, Bytes::copy_from_slice(message));
        let expected = vec![
            text(&first),
            Event::Ping(Bytes::from_static(b"ping")),
            text(&first),
            text(b"plain"),
            Event::Message(Opcode::Binary, second.into()),
            text(b""),
            text(b""),
        ];
        assert_eq!(events(&bytes), Ok(expected));
    }

    #[test]
    fn the_bit_stands_where_it_may_and_on_what_was_agreed() {
        let message = packed(b"hello");
        let codes = |bytes: &[u8]| events(bytes).map_err(Violation::close_code);
        for (name, bytes) in [
            ("ping", frame(0xC9, b"")),
            ("pong", frame(0xCA, b"")),
            ("close", frame(0xC8, &1000u16.to_be_bytes())),
            ("continuation", [frame(0x41, &message), frame(0xC0, b"")].concat()),
            ("continuation of a plain message", [frame(0x01, b"a"), frame(0xC0, b"")].concat()),
            ("second bit", frame(0xA1, b"")),
            ("third bit", frame(0xD1, &message)),
        ] {
            assert_eq!(codes(&bytes), Err(1002), "{name}");
        }
        assert_eq!(
            all(&frame(0xC1, &message)).map_err(Violation::close_code),
            Err(1002),
            "nothing was agreed"
        );
        assert_eq!(codes(&frame(0xC1, b"\xFF\xFF\xFF\xFF")), Err(1007));
    }

    /// The bound of a message is that of what it becomes.
    #[test]
    fn what_grows_too_much_is_refused() {
        let code = |message: &[u8]| events(&frame(0xC1, &packed(message))).map_err(Violation::close_code);
        assert!(code(&rows(100_000)).is_ok());
        let large = rows(250_000);
        assert!(large.len() > MAX_MESSAGE_BYTES);
        assert_eq!(code(&large), Err(1009), "too large");
        assert_eq!(code(&vec![b'x'; 1_000_000]), Err(1009), "a bomb");
        assert!(code(&vec![b'x'; 60_000]).is_ok(), "too small to do harm");
    }

    /// A message that becomes large waits for a turn; so do small ones that are large together. None is lost, and what is kept
    /// meanwhile is what came.
    #[test]
    fn large_messages_wait_until_they_may_be_inflated() {
        let (large, small) = (rows(50_000), rows(500));
        let (packed_large, packed_small) = (packed(&large), packed(&small));
        let mut bytes = frame(0xC1, &packed_small);
        bytes.extend(frame(0xC1, &packed_large));
        for _ in 0..10 {
            bytes.extend(frame(0xC1, &packed_small));
        }
        let mut reader = reader(&bytes);
        reader.allow(64 * 1024);
        let mut lengths = Vec::new();
        let mut waits = 0;
        loop {
            match reader.next_event().unwrap() {
                Some(Event::Message(_, message)) => lengths.push(message.len()),
                Some(_) => unreachable!(),
                None if reader.waits() => {
                    waits += 1;
                    assert!(reader.held() >= packed_small.len() && reader.held() < 2 * bytes.len());
                    assert_eq!(reader.next_event(), Ok(None), "it waits until more is allowed");
                    match waits {
                        1 => reader.allow_one(),
                        _ => reader.allow(64 * 1024),
                    }
                }
                None => break,
            }
        }
        let mut expected = vec![small.len(); 12];
        expected[1] = large.len();
        assert_eq!(lengths, expected);
        assert!((1..4).contains(&waits), "{waits}");
        reader.release();
        assert_eq!(reader.held(), 0);
    }

    /// Who is leaving has nothing inflated any more.
    #[test]
    fn messages_behind_the_end_are_not_inflated() {
        let mut reader = reader(&[frame(0xC1, b"\xFF\xFF\xFF"), frame(0x88, b"")].concat());
        reader.skim();
        assert!(matches!(reader.next_event(), Ok(Some(Event::Message(..)))));
        assert_eq!(reader.next_event(), Ok(Some(Event::Close(1000))));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, allowed in 0usize..1_000) {
            let mut reader = reader(&bytes);
            reader.allow(allowed);
            while let Ok(Some(_)) = reader.next_event() {}
        }

        /// However the network cuts the stream, and whatever may be inflated at once, the messages are the same.
        #[test]
        fn cuts_and_turns_do_not_matter(
            payloads in prop::collection::vec(prop::collection::vec(0u8..3, 0..2_000), 1..5),
            cut in 1usize..40,
            allowed in 0usize..2_000,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(0xC2, &packed(payload))).collect();
            let mut reader = reader(&[]);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.space().extend_from_slice(piece);
                reader.allow(allowed);
                loop {
                    match reader.next_event().unwrap() {
                        Some(event) => seen.push(event),
                        None if reader.waits() => reader.allow_one(),
                        None => break,
                    }
                }
                reader.release();
            }
            let payloads = payloads.into_iter().map(|payload| Event::Message(Opcode::Binary, payload.into()));
            prop_assert_eq!(seen, payloads.collect::<Vec<_>>());
        }
    }
}
