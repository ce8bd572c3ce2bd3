//! The task of a long-poll session.

use std::{sync::Arc, time::Duration};

use realtime_channels::driver::{Driver, Ending};
use realtime_codes::ErrorCode;
use realtime_hub::{Batch, Holding, Memory, Outbox};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use super::sessions::{Poll, Take};
use crate::turns::Turns;

/// How long a poll waits for frames.
pub(super) const POLL: Duration = Duration::from_secs(10);

/// Time without a poll after which a session ends.
const ABANDONED: Duration = Duration::from_secs(15);

/// Bytes of frames in an answer, if it is more than one.
const MOST_BYTES: usize = 1_000_000;

/// Runs a session until it ends or nobody polls it any more.
pub(super) async fn serve(
    mut driver: Driver,
    mut messages: mpsc::Receiver<Take>,
    mut polls: mpsc::Receiver<Poll>,
    turns: Turns,
    memory: Arc<Memory>,
) {
    let outbox = Arc::clone(driver.outbox());
    let mut holding = Holding::new(&outbox);
    let mut client = Client::new(memory);
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
                if Instant::now() >= abandoned && !client.reads() {
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
    memory: Arc<Memory>,
    /// When the client last polled or got frames.
    polled: Instant,
    waiting: Option<Poll>,
    /// What the last poll was told. If its client does not read it to its end, the next poll is told the same.
    told: Option<Arc<Batch>>,
}

impl Client {
    fn new(memory: Arc<Memory>) -> Self {
        Self { memory, polled: Instant::now(), waiting: None, told: None }
    }

    /// The client polls. A second poll replaces the first one, which gets no frames.
    fn polls(&mut self, poll: Poll) {
        if let Some(first) = self.waiting.replace(poll) {
            let _ = first.send(None);
        }
    }

    /// Answers the waiting poll with the frames that there are.
    fn tell(&mut self, outbox: &Outbox) {
        // If the poll has given up, the client has to poll again in time.
        if self.waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
            self.waiting = None;
            self.polled = Instant::now();
        }
        self.answer(outbox, MOST_BYTES);
    }

    /// Answers the waiting poll with the last frames: all that there are.
    fn tell_last(mut self, outbox: &Outbox) {
        self.answer(outbox, usize::MAX);
    }

    /// Answers the waiting poll, if there is something for it. What is over `most` bytes is for the next one.
    fn answer(&mut self, outbox: &Outbox, most: usize) {
        let Some(poll) = self.waiting.take() else { return };
        let before = self.told.take().map(|told| told.take_back());
        let Ok(mut frames) = before.unwrap_or_else(|| Ok(Vec::new())) else {
            // What is lost must not look as if it had never been: the client has to join anew.
            return outbox.close_slow();
        };
        outbox.take_some(&mut frames, most);
        if frames.is_empty() {
            self.waiting = Some(poll);
            return;
        }
        self.polled = Instant::now();
        let told = Batch::new(frames, &self.memory);
        self.told = Some(Arc::clone(&told));
        // If the poll has just given up, the next one gets the same.
        let _ = poll.send(Some(told));
    }

    /// When the client counts as gone, unless it still [reads](Self::reads).
    fn abandoned_at(&self) -> Instant {
        if self.waiting.is_some() { Instant::now() + POLL + ABANDONED } else { self.heard() + ABANDONED }
    }

    /// When the client last polled, or was reading an answer.
    fn heard(&self) -> Instant {
        match &self.told {
            Some(told) if told.is_underway() => Instant::now(),
            told => told.as_ref().and_then(|told| told.ended()).map_or(self.polled, |at| at.max(self.polled)),
        }
    }

    /// Whether the client reads an answer, or did so a moment ago.
    fn reads(&self) -> bool {
        self.told.is_some() && self.heard() + ABANDONED > Instant::now()
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
