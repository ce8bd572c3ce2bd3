//! Which results have a row: the way back from a row to those whose clients have it.

use hashbrown::HashTable;

/// In a slot: several have the row, and this is the place of their list.
const SEVERAL: u32 = 1 << 31;

/// The results that have rows, by the hashes of the rows' keys ([`Keeper::hash_of`](crate::Keeper::hash_of)).
///
/// Half of a hash is kept. So it may name a result that has another row; and a result stands here as often as it has
/// rows with the same half, so that one row that leaves does not take another one's place along.
#[derive(Debug, Default)]
pub struct Holders {
    slots: HashTable<Slot>,
    /// Results that have rows of the same hash, ascending.
    several: Vec<Vec<u32>>,
    /// Places there that are free.
    free: Vec<u32>,
}

/// The results of a hash: one, or the place of a list.
#[derive(Debug, Clone, Copy)]
struct Slot {
    half: u32,
    of: u32,
}

impl Holders {
    /// Names of results are smaller than this.
    pub const LIMIT: u32 = SEVERAL;

    /// A result has a row that it has not had.
    pub fn add(&mut self, hash: u64, result: u32) {
        let half = half(hash);
        let Self { slots, several, free } = self;
        let Some(slot) = slots.find_mut(spread(half), |slot| slot.half == half) else {
            slots.insert_unique(spread(half), Slot { half, of: result }, |slot| spread(slot.half));
            return;
        };
        if slot.of & SEVERAL == 0 {
            let mut both = vec![slot.of, result];
            both.sort_unstable();
            // As many lists do not fit into memory.
            let Some(place) = place(several, free, both) else { return };
            slot.of = place | SEVERAL;
        } else if let Some(list) = several.get_mut((slot.of & !SEVERAL) as usize) {
            let at = list.partition_point(|known| *known <= result);
            list.insert(at, result);
        }
    }

    /// A result has no more a row that it has had.
    pub fn remove(&mut self, hash: u64, result: u32) {
        let half = half(hash);
        let Ok(mut found) = self.slots.find_entry(spread(half), |slot| slot.half == half) else { return };
        let of = found.get().of;
        if of & SEVERAL == 0 {
            if of == result {
                found.remove();
            }
            return;
        }
        let place = of & !SEVERAL;
        let Some(list) = self.several.get_mut(place as usize) else { return };
        if let Ok(at) = list.binary_search(&result) {
            list.remove(at);
        }
        if let [last] = **list {
            found.get_mut().of = last;
            *list = Vec::new();
            self.free.push(place);
        }
    }

    /// The results that may have a row, ascending, each once for every row that it may be.
    #[must_use]
    pub fn of(&self, hash: u64) -> &[u32] {
        let half = half(hash);
        match self.slots.find(spread(half), |slot| slot.half == half) {
            None => &[],
            Some(slot) if slot.of & SEVERAL == 0 => std::slice::from_ref(&slot.of),
            Some(slot) => {
                self.several.get((slot.of & !SEVERAL) as usize).map(Vec::as_slice).unwrap_or_default()
            }
        }
    }

    /// Whether no result has a row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Puts a list where there is room.
fn place(several: &mut Vec<Vec<u32>>, free: &mut Vec<u32>, list: Vec<u32>) -> Option<u32> {
    if let Some(place) = free.pop() {
        if let Some(slot) = several.get_mut(place as usize) {
            *slot = list;
        }
        return Some(place);
    }
    let place = u32::try_from(several.len()).ok().filter(|place| *place < SEVERAL)?;
    several.push(list);
    Some(place)
}

fn half(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}

/// The table wants good bits at both ends.
fn spread(half: u32) -> u64 {
    u64::from(half).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_of_one_result_takes_few_bytes() {
        let mut holders = Holders::default();
        for row in 0..10_000_u64 {
            holders.add(row.wrapping_mul(0x2545_f491_4f6c_dd1d), 7);
        }
        assert!(holders.slots.allocation_size() / 10_000 <= 20);
        assert!(holders.several.len() < 4, "{}", holders.several.len());
    }

    proptest! {
        /// Whatever comes and goes, those who have a row are found; hashes that are equal in half included.
        #[test]
        fn who_has_a_row_is_found(steps in prop::collection::vec((0..6_u64, 0..5_u32, any::<bool>()), 0..200)) {
            let mut holders = Holders::default();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (row, result, comes) in steps {
                // Rows 0 and 3, 1 and 4, 2 and 5 are equal in half.
                let hash = row % 3 + ((row / 3) << 32);
                match model.iter().position(|known| *known == (row, result)) {
                    None if comes => {
                        model.push((row, result));
                        holders.add(hash, result);
                    }
                    Some(at) if !comes => {
                        model.swap_remove(at);
                        holders.remove(hash, result);
                    }
                    _ => {}
                }
                for row in 0..6_u64 {
                    let mut expected: Vec<u32> =
                        model.iter().filter(|(known, _)| known % 3 == row % 3).map(|(_, result)| *result).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(holders.of(row % 3), &expected[..]);
                }
            }
            for (row, result) in model {
                holders.remove(row % 3, result);
            }
            prop_assert!(holders.is_empty());
        }
    }
}
