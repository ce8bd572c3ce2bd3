//! A stream whose events are sorted by what they are about (pure).
//!
//! All followers get the *line*: what concerns everybody, and for what is about one thing either the events themselves or
//! where they stand, how many they are and how long. The events are then on the *strand* of that thing, a subject of its own.
//! The line says how much is on it, so that a loss is noticed. Invariants:
//!
//! 1. What a follower wants changes at one place of the line, where the owner says so: both know of each event whether the
//!    follower takes it.
//! 2. Events are on a strand only if each follower has said whether it wants them: who does listens there since before it
//!    said so.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    messages::{event, put_event},
    wish::Wish,
};
use crate::{chance::Map, wire::Malformed};

const EVENT: u8 = 0;
const STRAND: u8 = 1;
const TOLD: u8 = 2;

/// Bytes that an event takes on a strand beside its own.
const OVERHEAD: usize = 4;

/// A part of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Event(Bytes),
    Strand(Run),
    /// From here on a follower gets what it has said in its words of this version.
    Told {
        follower: u64,
        version: u64,
    },
}

/// Events about one thing, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) key: u32,
    pub(super) events: u32,
    /// Of the events.
    pub(super) bytes: u64,
}

impl Run {
    /// How long it is on its strand.
    pub(super) fn len(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).saturating_add(self.events as usize * OVERHEAD)
    }
}

fn put_item(out: &mut BytesMut, item: &Item) {
    match item {
        Item::Event(event) => {
            out.put_u8(EVENT);
            put_event(out, event);
        }
        Item::Strand(Run { key, events, bytes }) => {
            out.put_u8(STRAND);
            out.put_u32(*key);
            out.put_u32(*events);
            out.put_u64(*bytes);
        }
        Item::Told { follower, version } => {
            out.put_u8(TOLD);
            out.put_u64(*follower);
            out.put_u64(*version);
        }
    }
}

/// The next item of a body.
pub(super) fn item(body: &mut Bytes) -> Result<Item, Malformed> {
    let kind = body.try_get_u8().map_err(|_| Malformed)?;
    let mut read = || {
        Some(match kind {
            STRAND => Item::Strand(Run {
                key: body.try_get_u32().ok()?,
                events: body.try_get_u32().ok()?,
                bytes: body.try_get_u64().ok()?,
            }),
            TOLD => Item::Told { follower: body.try_get_u64().ok()?, version: body.try_get_u64().ok()? },
            EVENT => Item::Event(event(body).ok()?),
            _ => return None,
        })
    };
    read().ok_or(Malformed)
}

/// Where events about a thing go that do not go to all, with the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To those who want them.
    Strand,
    /// To nobody.
    Nowhere,
}

/// Where the events about each thing go; those that are not named go with the line.
pub(super) fn ways<'a>(followers: impl Iterator<Item = Option<&'a Wish>>) -> Map<u32, Way> {
    let mut all = 0_usize;
    let mut said: Map<u32, (usize, usize)> = Map::default();
    for wish in followers {
        all += 1;
        let Some(wish) = wish else { continue };
        wish.unwanted.iter().for_each(|key| said.entry(*key).or_default().1 += 1);
        let wanted = wish.wanted.difference(&wish.unwanted);
        wanted.for_each(|key| said.entry(*key).or_default().0 += 1);
    }
    let way = |(key, (wanted, unwanted))| {
        let way = match (wanted, unwanted) {
            (_, unwanted) if unwanted == all => Way::Nowhere,
            (_, 0) => return None,
            (wanted, unwanted) if wanted + unwanted == all => Way::Strand,
            _ => return None,
        };
        Some((key, way))
    };
    said.into_iter().filter_map(way).collect()
}

/// Events that gather for one message.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<(Option<u32>, Item)>,
    bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, key: Option<u32>, event: &Bytes) {
        self.bytes += event.len();
        self.items.push((key, Item::Event(event.clone())));
    }

    /// From here on a follower gets what it wants.
    pub(super) fn tell(&mut self, follower: u64, version: u64) {
        self.items.push((None, Item::Told { follower, version }));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What has gathered: what is on the line, and on each strand.
    pub(super) fn take(&mut self, ways: &Map<u32, Way>) -> (Bytes, Vec<(u32, Bytes)>) {
        let mut line = BytesMut::new();
        let mut strands: Vec<(u32, BytesMut)> = Vec::new();
        let mut run: Option<Run> = None;
        self.bytes = 0;
        for (key, item) in self.items.drain(..) {
            let way = key.and_then(|key| Some((key, *ways.get(&key)?)));
            let (Some((key, way)), Item::Event(event)) = (way, &item) else {
                if let Some(run) = run.take() {
                    put_item(&mut line, &Item::Strand(run));
                }
                put_item(&mut line, &item);
                continue;
            };
            if way == Way::Strand {
                match strands.iter_mut().find(|(of, _)| *of == key) {
                    Some((_, strand)) => put_event(strand, event),
                    None => {
                        let mut strand = BytesMut::new();
                        put_event(&mut strand, event);
                        strands.push((key, strand));
                    }
                }
            }
            let bytes = event.len() as u64;
            match run.as_mut().filter(|run| run.key == key) {
                Some(run) => (run.events, run.bytes) = (run.events + 1, run.bytes + bytes),
                None => {
                    if let Some(run) = run.replace(Run { key, events: 1, bytes }) {
                        put_item(&mut line, &Item::Strand(run));
                    }
                }
            }
        }
        if let Some(run) = run {
            put_item(&mut line, &Item::Strand(run));
        }
        (line.freeze(), strands.into_iter().map(|(key, strand)| (key, strand.freeze())).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(wanted: &[u32], unwanted: &[u32]) -> Wish {
        let set = |keys: &[u32]| keys.iter().copied().collect();
        Wish { version: 1, wanted: set(wanted), unwanted: set(unwanted) }
    }

    fn items(mut line: Bytes) -> Vec<Item> {
        let mut items = Vec::new();
        while !line.is_empty() {
            items.push(item(&mut line).unwrap());
        }
        items
    }

    #[test]
    fn what_somebody_has_not_named_goes_to_all() {
        let (one, other) = (wish(&[1, 2], &[3, 4]), wish(&[2, 3], &[1, 4]));
        let found = ways([Some(&one), Some(&other)].into_iter());
        let way = |key| found.get(&key).copied();
        let (strand, nowhere) = (Some(Way::Strand), Some(Way::Nowhere));
        assert_eq!([1, 2, 3, 4, 5].map(way), [strand, None, strand, nowhere, None]);
        assert!(ways([Some(&one), None].into_iter()).is_empty(), "one that has said nothing gets everything");
        let silent = wish(&[], &[1]);
        let found = ways([Some(&one), Some(&silent)].into_iter());
        assert_eq!(found.get(&1), Some(&Way::Strand));
        assert_eq!(found.get(&3), None, "one has not named it");
        // Who does not want what it wants does not listen to it.
        assert_eq!(ways([Some(&wish(&[1], &[1]))].into_iter()).get(&1), Some(&Way::Nowhere));
    }

    #[test]
    fn a_batch_is_sorted() {
        let ways: Map<u32, Way> = [(1, Way::Strand), (2, Way::Nowhere)].into_iter().collect();
        let mut batch = Batch::default();
        for (key, event) in
            [(None, "begin"), (Some(1), "a"), (Some(1), "bc"), (Some(2), "d"), (Some(1), "e"), (Some(3), "f")]
        {
            batch.push(key, &Bytes::from(event));
        }
        batch.tell(7, 8);
        batch.push(Some(2), &"g".into());
        assert_eq!(batch.bytes(), 12);
        let (line, strands) = batch.take(&ways);
        let run = |key, events, bytes| Item::Strand(Run { key, events, bytes });
        let expected = [
            Item::Event("begin".into()),
            run(1, 2, 3),
            run(2, 1, 1),
            run(1, 1, 1),
            Item::Event("f".into()),
            Item::Told { follower: 7, version: 8 },
            run(2, 1, 1),
        ];
        assert_eq!(items(line), expected);
        let [(1, strand)] = &strands[..] else { panic!("{strands:?}") };
        assert_eq!(strand.len(), Run { key: 1, events: 3, bytes: 4 }.len());
        let mut strand = strand.clone();
        let events: Vec<Bytes> = (0..3).map(|_| event(&mut strand).unwrap()).collect();
        assert_eq!(events, ["a", "bc", "e"]);
        assert!(batch.is_empty() && batch.bytes() == 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = item(&mut Bytes::from(bytes));
        }
    }
}
