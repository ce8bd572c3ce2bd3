//! The rooms of a tenant with most members and most messages, for operators.

use std::{cmp::Reverse, sync::Arc};

use crate::{cell::RoomCell, hub::Hub, key::Audience};

/// Rooms that are compared at once: what is kept while all rooms are looked at.
const COMPARED: usize = 1_000;

/// What happens in a room of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFigures {
    /// The topic as clients send it, `realtime:` included.
    pub topic: Arc<str>,
    /// Public or private.
    pub audience: Audience,
    /// Members on this node.
    pub members: usize,
    /// Members of all nodes that are present.
    pub present: usize,
    /// Messages of all kinds that were said in it since it was made.
    pub said: u64,
}

impl RoomFigures {
    fn of(cell: &RoomCell) -> Self {
        let room = cell.room.lock();
        let (members, present, said) = (room.len(), room.present(), room.said());
        Self { topic: Arc::clone(&cell.key.topic), audience: cell.key.audience, members, present, said }
    }
}

impl Hub {
    /// The `most` rooms of a tenant with most members and the `most` with most messages, in no order. Looks at all rooms
    /// of the node, one after the other.
    #[must_use]
    pub fn busiest(&self, tenant: &str, most: usize) -> Vec<RoomFigures> {
        let mut found = Vec::new();
        for cells in self.cells_of(tenant) {
            for cell in cells {
                found.push(RoomFigures::of(&cell));
                if found.len() > COMPARED.max(4 * most) {
                    found = of_most(found, most);
                }
            }
        }
        of_most(found, most)
    }
}

/// Those with most members, and those with most messages.
fn of_most(mut rooms: Vec<RoomFigures>, most: usize) -> Vec<RoomFigures> {
    rooms.sort_by_key(|room| Reverse((room.members, room.said)));
    let mut others = rooms.split_off(most.min(rooms.len()));
    others.sort_by_key(|room| Reverse(room.said));
    rooms.extend(others.into_iter().take(most));
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_and_the_loudest_are_found() {
        let room = |n: usize, members, said| RoomFigures {
            topic: format!("realtime:{n}").into(),
            audience: Audience::Public,
            members,
            present: 0,
            said,
        };
        let rooms: Vec<_> = (0..10).map(|n| room(n, n, 100 - n as u64)).collect();
        let found: Vec<usize> = of_most(rooms, 2).iter().map(|room| room.members).collect();
        assert_eq!(found, [9, 8, 0, 1]);
        assert_eq!(of_most(vec![room(1, 1, 1)], 2).len(), 1);
        assert!(of_most(Vec::new(), 2).is_empty());
    }
}
