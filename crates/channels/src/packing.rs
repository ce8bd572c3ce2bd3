//! Compressed frames of a row: the row is compressed once, whoever gets it, on whatever topic.

use bytes::Bytes;
use realtime_hub::Outbox;
use realtime_protocol::deflate::Shared;

/// Largest row that is compressed, in bytes: the task that reads the log does it, and has a millisecond or two for it. What is
/// larger is sent as it is.
const MAX_ROW: usize = 128 * 1024;

/// Compresses one row when it is first wanted.
#[derive(Debug, Default)]
pub(crate) struct RowPacking(Option<Option<Shared>>);

impl RowPacking {
    fn frame(&mut self, row: &[u8], plain: &Bytes) -> Option<Bytes> {
        let make = || if row.len() <= MAX_ROW { Shared::new(row) } else { None };
        self.0.get_or_insert_with(make).as_ref()?.frame(row, plain)
    }
}

/// A frame that has a row in it, for all who get it: plain, and compressed when that is first wanted.
#[derive(Debug)]
pub(crate) struct RowFrame {
    plain: Bytes,
    packed: Option<Option<Bytes>>,
}

impl RowFrame {
    pub(crate) const fn new(plain: Bytes) -> Self {
        Self { plain, packed: None }
    }

    /// What a socket gets. `row`: what the frame has in it.
    pub(crate) fn of(&mut self, outbox: &Outbox, row: &[u8], packing: &mut RowPacking) -> Bytes {
        if self.plain.len() < outbox.packs_from() {
            return self.plain.clone();
        }
        let packed = self.packed.get_or_insert_with(|| packing.frame(row, &self.plain));
        packed.as_ref().unwrap_or(&self.plain).clone()
    }
}

#[cfg(test)]
mod tests {
    use realtime_protocol::{Vsn, deflate, encode, frame};

    use super::*;

    fn outbox(packs: bool) -> Outbox {
        let outbox = Outbox::new(1_000_000);
        if packs {
            outbox.pack_from(300);
        }
        outbox
    }

    fn content(frame: &Bytes) -> Vec<u8> {
        assert_eq!(frame[0], 0xC1, "it is compressed");
        deflate::unpack(&frame::payload(frame).unwrap(), 10_000_000).unwrap()
    }

    /// On each topic, for each serializer and for whatever subscriptions; who takes no compressed frames gets plain ones.
    #[test]
    fn a_row_is_compressed_for_those_who_take_it() {
        let row = format!("{{\"record\":[{}]}}", vec!["\"value\""; 100].join(","));
        let (takes, other) = (outbox(true), outbox(false));
        let mut packing = RowPacking::default();
        for (vsn, topic, ids) in [
            (Vsn::V1, "realtime:a", &[1][..]),
            (Vsn::V2, "realtime:a", &[1, 2]),
            (Vsn::V2, "realtime:b", &[3]),
        ] {
            let plain = encode::postgres_changes(vsn, topic, ids, row.as_bytes());
            let mut frame = RowFrame::new(plain.clone());
            assert_eq!(frame.of(&other, row.as_bytes(), &mut packing), plain);
            let packed = frame.of(&takes, row.as_bytes(), &mut packing);
            assert!(packed.len() < plain.len() / 2);
            assert_eq!(content(&packed), frame::payload(&plain).unwrap());
            assert_eq!(
                frame.of(&takes, row.as_bytes(), &mut packing).as_ptr(),
                packed.as_ptr(),
                "it is shared"
            );
        }
    }

    #[test]
    fn nothing_is_compressed_that_is_small_or_huge_or_that_nobody_takes() {
        for (len, packs) in [(100, true), (MAX_ROW + 1, true), (1_000, false)] {
            let row = "x".repeat(len);
            let plain = encode::postgres_changes(Vsn::V2, "realtime:a", &[1], row.as_bytes());
            let mut packing = RowPacking::default();
            let got = RowFrame::new(plain.clone()).of(&outbox(packs), row.as_bytes(), &mut packing);
            assert_eq!(got, plain);
            assert!(!matches!(packing, RowPacking(Some(Some(_)))));
        }
    }
}
