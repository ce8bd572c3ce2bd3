//! Questions to the database that several ask at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::Answer;

/// The questions under way, by name.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Box<str>, Flight>>);

#[derive(Debug, Default)]
struct Flight {
    answer: Arc<OnceCell<Answer>>,
    /// Who waits for it.
    seats: usize,
}

/// A place among those who wait for an answer. When the last is left, or the answer is there, the question is forgotten:
/// names that nobody waits for any more take no memory, and who asks later asks anew.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    flights: &'a Flights,
    name: &'a str,
    pub(super) answer: Arc<OnceCell<Answer>>,
}

impl Flights {
    pub(super) fn seat<'a>(&'a self, name: &'a str) -> Seat<'a> {
        let mut flights = self.0.lock();
        let flight = flights.entry(name.into()).or_default();
        flight.seats += 1;
        Seat { flights: self, name, answer: Arc::clone(&flight.answer) }
    }

    /// Whether the answer to a question is awaited.
    pub(super) fn awaits(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock();
        let Some(flight) = flights.get_mut(self.name) else { return };
        if !Arc::ptr_eq(&flight.answer, &self.answer) {
            return;
        }
        flight.seats -= 1;
        if flight.seats == 0 || self.answer.initialized() {
            flights.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_when_all_who_wait_go() {
        let flights = Flights::default();
        let ask = || async {
            let seat = flights.seat("t");
            seat.answer.get_or_init(std::future::pending).await.clone()
        };
        let short = Duration::from_millis(1);
        let (one, other) = tokio::join!(timeout(short, ask()), timeout(2 * short, ask()));
        assert!(one.is_err() && other.is_err());
        assert!(flights.0.lock().is_empty());
    }

    #[tokio::test]
    async fn who_asks_after_the_answer_asks_anew() {
        let flights = Flights::default();
        let (first, second) = (flights.seat("t"), flights.seat("t"));
        assert!(Arc::ptr_eq(&first.answer, &second.answer));
        first.answer.get_or_init(|| async { Ok(None) }).await;
        drop(first);
        let later = flights.seat("t");
        assert!(!Arc::ptr_eq(&second.answer, &later.answer));
        drop(second);
        assert_eq!(flights.0.lock().len(), 1);
        drop(later);
        assert!(flights.0.lock().is_empty());
    }
}
