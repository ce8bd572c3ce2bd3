//! The task of a long-poll session.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_channels::driver::{Driver, Ending};
use realtime_codes::ErrorCode;
use realtime_hub::{Holding, Outbox};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::sessions::Take;
use crate::turns::Turns;

/// How long a poll waits for frames.
pub(super) const POLL: Duration = Duration::from_secs(10);

/// Time without a poll after which a session ends.
const ABANDONED: Duration = Duration::from_secs(15);

/// A poll that waits for frames.
type Poll = oneshot::Sender<Vec<Bytes>>;

/// Runs a session until it ends or nobody polls it any more.
pub(super) async fn serve(
    mut driver: Driver,
    mut messages: mpsc::Receiver<Take>,
    mut polls: mpsc::Receiver<Poll>,
    turns: Turns,
) {
    let outbox = Arc::clone(driver.outbox());
    let mut holding = Holding::new(&outbox);
    let mut client = Client::new();
    loop {
        driver.flush();
        holding.set(driver.waiting_bytes());
        client.tell(&outbox);
        if outbox.is_closed() {
            let code = ErrorCode::SlowConsumer.as_str();
            driver.counters().node().slow_consumers.add(1);
            tracing::warn!(
                tenant = driver.tenant(),
                code,
                "long-poll session closed: it is polled more slowly than its channels send, or held most of the memory for clients"
            );
            break;
        }
        let abandoned = client.abandoned_at();
        let wake = driver.wake_at().map_or(abandoned, |at| at.min(abandoned));
        let input = driver.wants_input();
        let stepped = tokio::select! {
            take = messages.recv(), if input => match take {
                Some(take) => receive(&mut driver, take, &turns).await,
                None => break,
            },
            // Always read, even if many joins wait: the client is there, and gets the frames that there are.
            poll = polls.recv() => match poll {
                Some(poll) => {
                    client.polls(poll);
                    Ok(())
                }
                None => break,
            },
            () = outbox.ready() => driver.signals(),
            event = driver.event() => event,
            () = time::sleep_until(wake) => {
                if Instant::now() >= abandoned {
                    break;
                }
                driver.on_time()
            }
        };
        if stepped.is_err() {
            break;
        }
    }
    driver.end();
    client.tell_last(&outbox);
}

/// The client of a session: its waiting poll, and its frames.
struct Client {
    /// When the client last polled or got frames.
    polled: Instant,
    waiting: Option<Poll>,
    /// Frames for a poll that had just given up.
    untold: VecDeque<Bytes>,
}

impl Client {
    fn new() -> Self {
        Self { polled: Instant::now(), waiting: None, untold: VecDeque::new() }
    }

    /// The client polls. A second poll replaces the first one, which gets no frames.
    fn polls(&mut self, poll: Poll) {
        if let Some(first) = self.waiting.replace(poll) {
            let _ = first.send(Vec::new());
        }
    }

    /// Answers the waiting poll with the frames that there are.
    fn tell(&mut self, outbox: &Outbox) {
        // If the poll has given up, the client has to poll again in time.
        if self.waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
            self.waiting = None;
            self.polled = Instant::now();
        }
        let Some(poll) = self.waiting.take() else { return };
        outbox.take(&mut self.untold);
        if self.untold.is_empty() {
            self.waiting = Some(poll);
            return;
        }
        self.polled = Instant::now();
        // If the poll has just given up, the next one gets its frames.
        if let Err(untold) = poll.send(self.untold.drain(..).collect()) {
            self.untold = untold.into();
        }
    }

    /// Answers the waiting poll with the last frames.
    fn tell_last(mut self, outbox: &Outbox) {
        outbox.take(&mut self.untold);
        if let Some(poll) = self.waiting.filter(|_| !self.untold.is_empty()) {
            let _ = poll.send(self.untold.into());
        }
    }

    /// When the client counts as gone.
    fn abandoned_at(&self) -> Instant {
        if self.waiting.is_some() { Instant::now() + POLL + ABANDONED } else { self.polled + ABANDONED }
    }
}

async fn receive(driver: &mut Driver, take: Take, turns: &Turns) -> Result<(), Ending> {
    let bytes: usize = take.messages.iter().map(|(_, message)| message.len()).sum();
    let _turn = turns.of(bytes).await;
    driver.counters().input_bytes.add(bytes as u64);
    let mut taken = Ok(());
    for (opcode, message) in take.messages {
        taken = taken.and_then(|()| driver.receive(opcode, message));
    }
    let _ = take.done.send(());
    taken
}
