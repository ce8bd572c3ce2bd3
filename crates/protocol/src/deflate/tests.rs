use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;
use crate::frame;

/// Largest message of the tests, in bytes.
const MOST: usize = 5_000_000;

/// The payload of a compressed frame. Its header is that of a compressed one.
fn content(packed: &Bytes, plain: &Bytes) -> Vec<u8> {
    assert_eq!(packed[0], plain[0] | 0x40);
    let payload = frame::payload(packed).unwrap();
    unpack(&payload, MOST).unwrap()
}

/// What a client's library makes of a message.
fn deflate(message: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1024);
    let mut deflate = Compress::new(Compression::new(level), false);
    deflate.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(&TAIL).unwrap().to_vec()
}

fn row(columns: usize) -> String {
    let columns: Vec<String> =
        (0..columns).map(|n| format!("\"column_{n}\":\"value {}\"", n * 7_919 % 1_000)).collect();
    format!("{{\"type\":\"INSERT\",\"record\":{{{}}}}}", columns.join(","))
}

#[test]
fn a_frame_gets_smaller_and_comes_back_whole() {
    for text in [row(20), row(200), "x".repeat(65_536), row(100_000)] {
        for plain in [frame::text(text.as_bytes()), frame::binary(text.as_bytes())] {
            let packed = pack(&plain).unwrap();
            assert!(packed.len() < plain.len() / 2, "{} of {}", packed.len(), plain.len());
            assert_eq!(content(&packed, &plain), text.as_bytes());
        }
    }
}

#[test]
fn what_does_not_get_smaller_and_what_is_no_message_stays_plain() {
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert_eq!(pack(&frame::binary(&noise[..50])), None);
    assert_eq!(pack(&frame::text(b"")), None);
    for frame in [frame::pong(&[b'x'; 100]), frame::close(1000), frame::chunk(&[b'x'; 100])] {
        assert_eq!(pack(&frame), None);
        assert!(Packer::new(&frame).is_none());
    }
    assert_eq!(pack(&pack(&frame::text(&[b'x'; 1_000])).unwrap()), None, "it is compressed already");
}

#[test]
fn steps_make_the_same_message_as_one() {
    let text = row(20_000);
    let plain = frame::text(text.as_bytes());
    let mut packer = Packer::new(&plain).unwrap();
    let mut steps = 1;
    while packer.step(10_000) {
        steps += 1;
    }
    assert_eq!(steps, text.len().div_ceil(10_000));
    let packed = packer.finish().unwrap();
    assert_eq!(content(&packed, &plain), text.as_bytes());
}

/// Noise of megabytes costs a few steps.
#[test]
fn what_does_not_shrink_at_first_is_given_up() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(1_000_000)
    .collect();
    let mut packer = Packer::new(&frame::binary(&noise)).unwrap();
    let steps = (1..).find(|_| !packer.step(65_536));
    assert_eq!(steps, Some(4), "of sixteen");
    assert_eq!(packer.finish(), None);
}

#[test]
fn frames_around_a_shared_part_come_back_whole() {
    let row = row(30);
    let shared = Shared::new(row.as_bytes()).unwrap();
    for (before, after) in [("", ""), ("[\"topic\",", "]"), ("", "}"), ("{\"data\":", "")] {
        let text = format!("{before}{row}{after}");
        let plain = frame::text(text.as_bytes());
        let packed = shared.frame(row.as_bytes(), &plain).unwrap();
        assert!(packed.len() < plain.len());
        assert_eq!(content(&packed, &plain), text.as_bytes());
    }
    let other = frame::text(b"something else, and long enough for it to be a row");
    assert_eq!(shared.frame(row.as_bytes(), &other), None);
    let long = "x".repeat(70_000);
    let long = frame::text(format!("{long}{row}").as_bytes());
    assert_eq!(shared.frame(row.as_bytes(), &long), None, "no block is so long");
    assert!(Shared::new(b"short").is_none());
}

/// RFC 7692 7.2.3.
#[test]
fn the_examples_of_the_rfc_are_read() {
    let hello: [&[u8]; 5] = [
        &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
        // A block that is not compressed.
        &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00],
        // A last block, with what is told behind it and without.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
        // Two blocks.
        &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00],
    ];
    for packed in hello {
        assert_eq!(unpack(packed, MOST).unwrap(), b"Hello", "{packed:x?}");
    }
    assert_eq!(unpack(&[0x00], MOST).unwrap(), b"");
    assert_eq!(unpack(&[], MOST).unwrap(), b"");
}

#[test]
fn what_is_no_deflate_is_refused() {
    let far_back = [0x02, 0x03, 0x00];
    let mut behind_the_end = vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    behind_the_end.extend([0x03, 0x00].repeat(1_000));
    for packed in [&[0xFF; 20][..], &[0x06], &[0x00, 0x05, 0x00, 0xFF, 0xFF, 0x00], &behind_the_end] {
        assert_eq!(unpack(packed, MOST), Err(UnpackError::Malformed), "{packed:x?}");
    }
    assert!(unpack(&far_back, MOST).is_err());
    assert_eq!(unpack(&deflate(b"Hello", 6), MOST).unwrap(), b"Hello", "nothing of it is left");
}

#[test]
fn a_bomb_is_not_inflated() {
    let bomb = deflate(&vec![b'x'; 50_000_000], 9);
    assert!(bomb.len() < 60_000);
    assert_eq!(unpack(&bomb, MOST), Err(UnpackError::TooLarge));
    // As much as may come out, and a byte more.
    let packed = deflate(&[b'x'; 100_000], 9);
    assert_eq!(unpack(&packed, 100_000).unwrap().len(), 100_000);
    assert_eq!(unpack(&packed, 99_999), Err(UnpackError::TooLarge));
    assert!(most(packed.len()) < 100_000, "it grows too much");
    assert_eq!(most(10), 65_536);
    assert!(most(deflate(row(50_000).as_bytes(), 9).len()) > row(50_000).len());
    assert_eq!(most(usize::MAX), usize::MAX);
}

/// Room is made for what comes out: not more than twice that, nor more than a byte above what may.
#[test]
fn memory_is_taken_for_what_comes_out() {
    for (len, most) in [(100_000, MOST), (4_000_000, MOST), (5_000_000, MOST)] {
        let out = unpack(&deflate(&vec![b'x'; len], 1), most).unwrap();
        assert!(out.capacity() <= (2 * len).min(most + 1), "{} for {len}", out.capacity());
    }
}

/// Blocks that bring nothing are read once, and what ends a message ends it.
#[test]
fn empty_blocks_are_skipped() {
    assert_eq!(unpack(&[0x00, 0x00, 0x00, 0xFF, 0xFF].repeat(500_000), MOST).unwrap(), b"");
    assert_eq!(unpack(&[0x03, 0x00].repeat(500_000), MOST), Err(UnpackError::Malformed));
}

#[test]
fn figures_count_each_message_once() {
    let (before, unpacked_before) = (packed(), unpacked());
    let plain = frame::text(row(100).as_bytes());
    let small = pack(&plain).unwrap();
    let _ = unpack(&frame::payload(&small).unwrap(), MOST).unwrap();
    // Other tests count too.
    assert!(packed().messages > before.messages && packed().before >= before.before + plain.len() as u64);
    assert!(packed().after >= before.after + small.len() as u64);
    assert!(unpacked().messages > unpacked_before.messages && unpacked().after > unpacked_before.after);
}

proptest! {
    #[test]
    fn round_trips(message in prop::collection::vec(0u8..4, 0..5_000), step in 1usize..2_000) {
        let plain = frame::binary(&message);
        if let Some(packed) = pack(&plain) {
            prop_assert!(packed.len() < plain.len());
            prop_assert_eq!(&content(&packed, &plain), &message);
        }
        let mut packer = Packer::new(&plain).unwrap();
        while packer.step(step) {}
        if let Some(packed) = packer.finish() {
            prop_assert_eq!(&content(&packed, &plain), &message);
        }
        for level in [0, 1, 6, 9] {
            prop_assert_eq!(&unpack(&deflate(&message, level), MOST).unwrap(), &message);
        }
    }

    #[test]
    fn shared_parts_round_trip(before: Vec<u8>, part in prop::collection::vec(0u8..3, 100..1_000), after: Vec<u8>) {
        let plain = frame::binary(&[&before[..], &part, &after].concat());
        if let Some(packed) = Shared::new(&part).and_then(|shared| shared.frame(&part, &plain)) {
            prop_assert_eq!(content(&packed, &plain), [&before[..], &part, &after].concat());
        }
    }

    #[test]
    fn unpacking_never_panics_nor_exceeds(bytes: Vec<u8>, most in 0usize..10_000) {
        if let Ok(out) = unpack(&bytes, most) {
            prop_assert!(out.len() <= most);
        }
    }
}
