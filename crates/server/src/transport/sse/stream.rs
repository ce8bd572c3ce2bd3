//! The task of a stream: writes its outbox, lets its session go on, and watches whether its client is there.

use std::{collections::VecDeque, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use realtime_channels::driver::{Driver, Ending};
use realtime_codes::ErrorCode;
use realtime_hub::{Closed, Flush, Outbox, Sink};
use realtime_protocol::{Ref, SystemMessage, Vsn, encode, events, frame};
use tokio::time::{self, Duration, Instant};

use crate::{
    node::Node,
    transport::{ConnectionPermit, Transport, takeover::Connection},
    turns::{Line, Turn},
};

/// How often a comment is sent: proxies end connections on which nothing comes, and a client that is gone is noticed.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// How long what is queued may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes that a client may send after its request, which nobody reads.
const MAX_SENT: usize = 64 * 1024;

/// Milliseconds after which browsers come back. Not all at once after a restart.
const RETRY: std::ops::Range<u64> = 1_000..3_000;

/// A stream that is about to take over its connection.
pub(super) struct Stream {
    pub(super) node: Arc<Node>,
    pub(super) driver: Driver,
    /// What its client gets first.
    pub(super) first: VecDeque<Bytes>,
    pub(super) permit: ConnectionPermit,
    /// The topic, without `realtime:`.
    pub(super) topic: String,
}

impl Stream {
    /// Starts to write to a connection, beginning with the head of the answer.
    pub(super) fn start(self, connection: Connection, head: Bytes) {
        match connection {
            Connection::Plain(tcp) => self.over(tcp, head),
            Connection::Encrypted(tls) => self.over(*tls, head),
        }
    }

    fn over<T: Transport>(self, stream: T, head: Bytes) {
        let Self { node, driver, mut first, permit, topic } = self;
        let stream = Arc::new(stream);
        let sink: Arc<dyn Sink> = Arc::<T>::clone(&stream);
        let outbox = Arc::clone(driver.outbox());
        first.push_front(events::retry(rand::random_range(RETRY)));
        first.push_front(head);
        outbox.attach(sink, first.into_iter());
        let line = node.turns().line();
        let task = Task { stream, driver, outbox, topic, line, sent: 0, blocked: false, large: false };
        node.sockets().spawn(task.run(permit));
    }
}

/// Why a stream ends.
enum End {
    /// The client is gone.
    Gone,
    /// There is nothing more to send.
    Over,
    /// Too slow, or too large for the node: what is queued is dropped, but for what is partly written.
    TooSlow(Closed),
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Drop => Self::Gone,
            Ending::Close(_) => Self::Over,
        }
    }
}

struct Task<T> {
    stream: Arc<T>,
    driver: Driver,
    outbox: Arc<Outbox>,
    topic: String,
    /// Where it waits for turns to write what is large.
    line: Line,
    /// Bytes that the client has sent.
    sent: usize,
    /// Whether the client took less than was written.
    blocked: bool,
    /// Whether a turn is needed to write on.
    large: bool,
}

impl<T: Transport> Task<T> {
    async fn run(mut self, _permit: ConnectionPermit) {
        let end = self.serve().await;
        // The channel ends before the last bytes are taken: others must not wait for this client.
        self.driver.end();
        self.close(end).await;
    }

    async fn serve(&mut self) -> End {
        let mut comment_at = Instant::now() + COMMENT_EVERY;
        let timer = time::sleep_until(comment_at);
        tokio::pin!(timer);
        let mut turn = None;
        loop {
            if let Err(end) = self.write(turn.take()) {
                return end;
            }
            let wake = self.driver.wake_at().map_or(comment_at, |at| at.min(comment_at));
            if wake != timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake);
            }
            let wants_turn = self.large && !self.blocked;
            if !wants_turn {
                self.line.leave();
            }
            let stepped = tokio::select! {
                readable = self.stream.readable() => match readable {
                    Ok(()) => self.read(),
                    Err(_) => Err(End::Gone),
                },
                taken = self.line.turn(), if wants_turn => {
                    turn = taken;
                    Ok(())
                }
                () = self.outbox.ready() => self.driver.signals().map_err(End::from),
                writable = self.stream.writable(), if self.blocked => {
                    self.blocked = false;
                    writable.map_err(|_| End::Gone)
                }
                event = self.driver.event() => event.map_err(End::from),
                () = &mut timer => {
                    if Instant::now() >= comment_at {
                        comment_at = Instant::now() + COMMENT_EVERY;
                        let _ = self.outbox.queue(events::comment(b""));
                    }
                    self.driver.on_time().map_err(End::from)
                }
            };
            if let Err(end) = stepped {
                return end;
            }
        }
    }

    /// Gives the client what waits for it, as far as it takes that. An error if the stream is over.
    fn write(&mut self, turn: Option<Turn>) -> Result<(), End> {
        self.driver.flush();
        if !self.driver.has_channels() {
            return Err(End::Over);
        }
        self.large = false;
        match self.outbox.flush(turn.is_some()) {
            Flush::Done => self.blocked = false,
            Flush::Blocked => self.blocked = true,
            Flush::Large => self.large = true,
            Flush::Closed(Closed::Gone) => return Err(End::Gone),
            Flush::Closed(why) => return Err(End::TooSlow(why)),
        }
        Ok(())
    }

    /// Reads what the client sends, which means nothing, to see when it goes.
    fn read(&mut self) -> Result<(), End> {
        let mut dropped = BytesMut::with_capacity(4_096);
        match self.stream.try_read_buf(&mut dropped) {
            Ok(0) => Err(End::Gone),
            Ok(count) => {
                self.sent += count;
                if self.sent > MAX_SENT { Err(End::Over) } else { Ok(()) }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(End::Gone),
        }
    }

    async fn close(&mut self, end: End) {
        let (last, rest) = match end {
            End::Gone => return,
            End::Over => (Bytes::from_static(frame::LAST_CHUNK), true),
            End::TooSlow(why) => (self.too_slow(why), false),
        };
        self.line.leave();
        self.outbox.finish(last, rest);
        let _ = time::timeout(CLOSE_LIMIT, async {
            while !self.write_last().await? {
                self.stream.writable().await?;
            }
            io::Result::Ok(())
        })
        .await;
        self.stream.end();
    }

    /// Counts a client that reads too slowly; what it is told last.
    fn too_slow(&self, why: Closed) -> Bytes {
        let code = ErrorCode::SlowConsumer.as_str();
        self.driver.counters().node().slow_consumers.add(1);
        tracing::warn!(tenant = self.driver.tenant(), code, reason = why.reason(), "stream closed");
        let text = format!("{code}: the stream is read more slowly than it is written");
        let told = encode::system(Vsn::Events, &Ref::null(), &self.topic, &SystemMessage::error(text));
        [&told[..], frame::LAST_CHUNK].concat().into()
    }

    /// Writes what is left, in turns if it is large. True when all is written.
    async fn write_last(&mut self) -> io::Result<bool> {
        let _turn = if self.outbox.is_large() { self.line.turn().await } else { None };
        self.outbox.write_last()
    }
}
