//! What the clients of a result have.

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;

use crate::{Digest, Secret, trail::Trail};

/// Bytes of a key that stand beside its digest. Longer keys stand together elsewhere.
const INLINE: usize = 19;

/// In the head of an entry: its key stands elsewhere.
const ELSEWHERE: u8 = 0x7f;

/// In place of the digest of a row that a client does not have: its next image is new to it.
const GONE: Digest = [0; 16];

/// In place of the digest of a row of which it is not known what a client has: its next image is another one.
const OTHER: Digest = [0xff; 16];

/// In the head of an entry: with which of two readings it was last seen.
const TURN: u8 = 0x80;

/// Parts of themselves by which the entries grow: little more than is used is held.
const GROWTH: usize = 16;

/// What an image of a row is to the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// They do not have it: INSERT.
    New,
    /// They have another one under its key: UPDATE.
    Changed,
    /// They have it.
    Same,
    /// The reading has had a row under its key already: it is no key.
    Twice,
}

/// One row: what was sent of it, and under which key.
#[derive(Debug, Clone, Copy)]
struct Entry {
    digest: Digest,
    /// The length of the key, or [`ELSEWHERE`], and the [`TURN`].
    head: u8,
    /// The key; or where it begins and how long it is.
    key: [u8; INLINE],
}

/// What was so before a reading told something else.
#[derive(Debug, Clone)]
struct Before {
    key: Box<[u8]>,
    digest: Option<Digest>,
}

/// What the clients of a result have: for each row its key and a digest of what was sent.
#[derive(Debug, Clone)]
pub struct Keeper {
    secret: Secret,
    entries: Vec<Entry>,
    /// Places in `entries`, by key.
    places: HashTable<u32>,
    /// Keys that are longer than [`INLINE`].
    long: Vec<u8>,
    /// How many bytes of them belong to rows that have left.
    unused: usize,
    /// The mark of rows that the last reading has seen.
    turn: u8,
    /// While a reading may be undone: what it has changed.
    undo: Option<Vec<Before>>,
    /// What has changed of late, for clients that come back.
    trail: Option<Box<Trail>>,
    /// The time that is told with what changes now, in milliseconds.
    time: i64,
}

impl Keeper {
    /// The clients have nothing.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self {
            secret,
            entries: Vec::new(),
            places: HashTable::new(),
            long: Vec::new(),
            unused: 0,
            turn: 0,
            undo: None,
            trail: None,
            time: i64::MIN,
        }
    }

    /// What changes from now on is told with this time, in milliseconds.
    pub const fn tells_at(&mut self, time: i64) {
        self.time = time;
    }

    /// From now on clients that have all rows and got this keeper's time with the last one may come back.
    pub fn remember(&mut self) {
        let time = self.time;
        match &mut self.trail {
            Some(trail) => trail.date(time),
            None => self.trail = Some(Box::new(Trail::begin(time))),
        }
    }

    /// What clients have had is not known any more.
    pub fn forget(&mut self) {
        self.trail = None;
    }

    /// What a client has that names the last time that it has got with a row of this result, in milliseconds: the rows of
    /// which that is not sure differ from all that comes. `None`: it is not known what it has.
    #[must_use]
    pub fn of_client(&self, time: i64) -> Option<Self> {
        let touched = self.trail.as_ref()?.since(time)?;
        let mut own = Self {
            secret: self.secret,
            entries: self.entries.clone(),
            places: self.places.clone(),
            long: self.long.clone(),
            unused: self.unused,
            turn: self.turn,
            undo: None,
            trail: None,
            time,
        };
        // The earliest counts: what the client had at that time.
        for (key, had) in touched.rev() {
            let digest = if had { OTHER } else { GONE };
            match own.find(key).and_then(|at| own.entries.get_mut(at)) {
                Some(entry) => entry.digest = digest,
                None => own.insert(key, digest, own.turn),
            }
        }
        Some(own)
    }

    fn touch(&mut self, key: &[u8], had: bool) {
        let (time, rows) = (self.time, self.entries.len());
        if let Some(trail) = &mut self.trail {
            trail.touch(time, key, had, rows);
        }
    }

    /// How many rows they have.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether they have none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.places.allocation_size()
            + self.long.capacity()
            + self.trail.as_ref().map_or(0, |trail| trail.bytes())
    }

    /// Whether they have a row under this key.
    #[must_use]
    pub fn has(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// This is now the row under this key.
    pub fn put(&mut self, key: &[u8], digest: Digest) -> Seen {
        let turn = self.turn;
        match self.find(key).and_then(|at| self.entries.get_mut(at)) {
            Some(entry) if entry.digest == digest => Seen::Same,
            Some(entry) => {
                entry.digest = digest;
                self.touch(key, true);
                Seen::Changed
            }
            None => {
                self.insert(key, digest, turn);
                self.touch(key, false);
                Seen::New
            }
        }
    }

    /// No row is under this key now. Whether there was one: DELETE.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        match self.find(key) {
            Some(at) => {
                self.take(at);
                self.touch(key, true);
                true
            }
            None => false,
        }
    }

    /// A reading of all rows begins. Until it is [told](Self::told) it can be undone.
    pub fn begin(&mut self) {
        self.turn ^= TURN;
        self.undo = Some(Vec::new());
    }

    /// The reading has a row.
    pub fn see(&mut self, key: &[u8], digest: Digest) -> Seen {
        let turn = self.turn;
        let Some(entry) = self.find(key).and_then(|at| self.entries.get_mut(at)) else {
            self.insert(key, digest, turn);
            self.note(key, None);
            self.touch(key, false);
            return Seen::New;
        };
        if entry.head & TURN == turn {
            return Seen::Twice;
        }
        entry.head ^= TURN;
        let before = std::mem::replace(&mut entry.digest, digest);
        if before == digest {
            return Seen::Same;
        }
        self.note(key, Some(before));
        self.touch(key, before != GONE);
        if before == GONE { Seen::New } else { Seen::Changed }
    }

    fn note(&mut self, key: &[u8], digest: Option<Digest>) {
        if let Some(undo) = &mut self.undo {
            undo.push(Before { key: key.into(), digest });
        }
    }

    /// What the reading has found so far was told: it cannot be undone any more.
    pub fn told(&mut self) {
        self.undo = None;
    }

    /// The keys of the rows that the reading has not seen, if it ended now.
    pub fn left(&self) -> impl Iterator<Item = &[u8]> {
        let turn = self.turn;
        self.entries.iter().filter(move |entry| entry.head & TURN != turn).map(|entry| self.key_of(entry))
    }

    /// The reading has seen all rows. Those that it has not seen have left: DELETE.
    pub fn end(&mut self) {
        self.undo = None;
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            if entry.head & TURN == self.turn {
                at += 1;
            } else {
                let key: Box<[u8]> = self.key_of(entry).into();
                self.take(at);
                self.touch(&key, true);
            }
        }
        self.shrink();
    }

    /// The reading has failed. What it has changed is undone, unless it was told.
    pub fn give_up(&mut self) {
        for Before { key, digest } in self.undo.take().unwrap_or_default().into_iter().rev() {
            match digest {
                Some(digest) => {
                    if let Some(entry) = self.find(&key).and_then(|at| self.entries.get_mut(at)) {
                        entry.digest = digest;
                    }
                }
                None => {
                    self.remove(&key);
                }
            }
        }
        for entry in &mut self.entries {
            entry.head = entry.head & !TURN | self.turn;
        }
    }

    /// All rows leave: their keys.
    pub fn clear(&mut self) -> Vec<Box<[u8]>> {
        let keys = self.entries.iter().map(|entry| self.key_of(entry).into()).collect();
        *self = Self::new(self.secret);
        keys
    }

    /// The hashes of the keys of all rows that they have, for [`Holders`](crate::Holders).
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|entry| self.hash(self.key_of(entry)))
    }

    /// The hash of a row's key. Keepers with the same secret have the same.
    #[must_use]
    pub fn hash_of(secret: Secret, key: &[u8]) -> u64 {
        hash(secret, key)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        hash(self.secret, key)
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        let is_it = |at: &u32| self.entry(*at).is_some_and(|entry| self.key_of(entry) == key);
        self.places.find(self.hash(key), is_it).map(|at| *at as usize)
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)
    }

    fn key_of<'k>(&'k self, entry: &'k Entry) -> &'k [u8] {
        match entry.head & !TURN {
            ELSEWHERE => self.long.get(entry.elsewhere()).unwrap_or_default(),
            length => entry.key.get(..usize::from(length)).unwrap_or_default(),
        }
    }

    fn insert(&mut self, key: &[u8], digest: Digest, turn: u8) {
        // More rows than that no client can have.
        let Ok(place) = u32::try_from(self.entries.len()) else { return };
        let mut entry = Entry { digest, head: turn, key: [0; INLINE] };
        match (u8::try_from(key.len()), entry.key.get_mut(..key.len())) {
            (Ok(length), Some(inline)) => {
                inline.copy_from_slice(key);
                entry.head |= length;
            }
            _ => {
                entry.put_elsewhere(self.long.len(), key.len());
                self.long.extend_from_slice(key);
            }
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / GROWTH + 4);
        }
        self.entries.push(entry);
        let Self { places, entries, long, secret, .. } = self;
        places.insert_unique(hash(*secret, key), place, |at| hash_at(*secret, entries, long, *at));
    }

    /// Takes the row at a place out; the last one comes into its place.
    fn take(&mut self, at: usize) {
        let Some(entry) = self.entries.get(at).copied() else { return };
        let (hash, last) = (self.hash(self.key_of(&entry)), self.entries.len() - 1);
        if let Ok(found) = self.places.find_entry(hash, |place| *place as usize == at) {
            found.remove();
        }
        if let (Some(moved), Ok(place)) = (self.entries.get(last).filter(|_| last != at), u32::try_from(at)) {
            let hash = self.hash(self.key_of(moved));
            if let Some(found) = self.places.find_mut(hash, |place| *place as usize == last) {
                *found = place;
            }
        }
        self.entries.swap_remove(at);
        if entry.head & !TURN == ELSEWHERE {
            self.unused += entry.elsewhere().len();
            if self.unused > self.long.len() / 2 {
                self.move_together();
            }
        }
    }

    /// Closes the gaps between long keys.
    fn move_together(&mut self) {
        let mut together = Vec::with_capacity(self.long.len() - self.unused);
        for entry in self.entries.iter_mut().filter(|entry| entry.head & !TURN == ELSEWHERE) {
            let key = self.long.get(entry.elsewhere()).unwrap_or_default();
            entry.put_elsewhere(together.len(), key.len());
            together.extend_from_slice(key);
        }
        (self.long, self.unused) = (together, 0);
    }

    /// Gives memory back after many rows have left.
    fn shrink(&mut self) {
        if self.entries.capacity() > 2 * self.entries.len() + 4 {
            self.entries.shrink_to_fit();
            let Self { places, entries, long, secret, .. } = self;
            places.shrink_to_fit(|at| hash_at(*secret, entries, long, *at));
        }
    }
}

impl Entry {
    fn elsewhere(&self) -> std::ops::Range<usize> {
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(self.key.get(from..from + 8).unwrap_or(&[0; 8]));
            usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (begin, length) = (number(0), number(8));
        begin..begin.saturating_add(length)
    }

    fn put_elsewhere(&mut self, begin: usize, length: usize) {
        self.head |= ELSEWHERE;
        for (from, number) in [(0, begin), (8, length)] {
            if let Some(bytes) = self.key.get_mut(from..from + 8) {
                bytes.copy_from_slice(&(number as u64).to_le_bytes());
            }
        }
    }
}

fn hash(secret: Secret, key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(secret.first(), secret.second());
    hasher.write(key);
    hasher.finish()
}

fn hash_at(secret: Secret, entries: &[Entry], long: &[u8], at: u32) -> u64 {
    let Some(entry) = entries.get(at as usize) else { return 0 };
    let key = match entry.head & !TURN {
        ELSEWHERE => long.get(entry.elsewhere()),
        length => entry.key.get(..usize::from(length)),
    };
    hash(secret, key.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;

    const SECRET: Secret = Secret::fixed(1, 2);

    fn number(number: usize) -> Vec<u8> {
        key([Some(number.to_string().as_bytes())])
    }

    /// live 5
    #[test]
    fn a_row_takes_at_most_48_bytes() {
        for rows in [1_000, 5_000, 10_000] {
            let mut keeper = Keeper::new(SECRET);
            keeper.begin();
            for row in 0..rows {
                keeper.told();
                keeper.see(&number(1_000_000 + row), [0; 16]);
            }
            keeper.end();
            let each = keeper.bytes() / rows;
            assert!(each <= 48, "{each} bytes a row of {rows}");
        }
    }

    #[test]
    fn a_reading_that_is_given_up_changes_nothing() {
        let mut keeper = Keeper::new(SECRET);
        for row in 0..4 {
            assert_eq!(keeper.put(&number(row), [1; 16]), Seen::New);
        }
        keeper.begin();
        assert_eq!(keeper.see(&number(0), [2; 16]), Seen::Changed);
        assert_eq!(keeper.see(&number(1), [1; 16]), Seen::Same);
        assert_eq!(keeper.see(&number(9), [1; 16]), Seen::New);
        assert_eq!(keeper.see(&number(9), [1; 16]), Seen::Twice);
        keeper.give_up();
        assert_eq!(keeper.len(), 4);
        keeper.begin();
        for row in 0..4 {
            assert_eq!(keeper.see(&number(row), [1; 16]), Seen::Same);
        }
        assert_eq!(keeper.left().count(), 0);
        keeper.end();
    }

    #[test]
    fn long_keys_leave_no_memory_behind() {
        let mut keeper = Keeper::new(SECRET);
        let long = |row: usize| format!("{row:0100}").into_bytes();
        for row in 0..10_000 {
            keeper.put(&long(row), [1; 16]);
            if row >= 10 {
                assert!(keeper.remove(&long(row - 10)));
            }
        }
        assert_eq!(keeper.len(), 10);
        assert!(keeper.long.len() <= 2_100, "{}", keeper.long.len());
        assert!((9_990..10_000).all(|row| keeper.has(&long(row))));
    }
}
