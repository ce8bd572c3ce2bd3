//! The I/O of one WebSocket: reads frames into its session, writes its outbox, watches for silence.

use std::{future::pending, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use realtime_channels::driver::Ending;
use realtime_codes::ErrorCode;
use realtime_hub::{BULK, Closed, Flush, Holding, Outbox};
use realtime_protocol::frame;
use tokio::{
    io::{Interest, Ready},
    time::{self, Instant},
};

use super::{
    ConnectionPermit, Transport,
    conversation::Conversation,
    ws::reader::{Event, Reader},
};
use crate::turns::{Line, Turn};

/// A client that sends nothing for this long is gone, unless set otherwise (protocol 1.8).
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Close code of an idle socket (protocol 1.10).
const CLOSE_IDLE: u16 = 1000;

/// Close code of a client that reads slower than its rooms talk: "try again later" (RFC 6455 registry).
pub const CLOSE_SLOW_CONSUMER: u16 = 1013;

/// How long what is queued, the close frame and the client's answer may take together.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a client that was sent a close frame may be silent.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// Bytes that are dropped at once of what a client sends after the end.
const DROPPED: usize = 64 * 1024;

/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 2;

/// Turns in a row with more to read than they take, before the socket rests between them: a burst of some tens of
/// kilobytes is read without delay.
const FULL_TURNS: u8 = 8;

/// Bytes that are inflated at once without a turn, of what comes compressed.
const INFLATED: usize = BULK;

/// How long it rests. A client that sends all it can takes its turn 200 times a second, some thousands of small
/// messages: the rest of the machine is for others.
const REST: Duration = Duration::from_millis(5);

/// What a socket holds is counted in steps of so many bytes: an idle one counts nothing.
const COUNTED: usize = 4_096;

/// Why the socket ends.
enum End {
    /// The client is gone, or broke off.
    Gone,
    /// Send a close frame with this code and wait for the client's.
    Close(u16),
    /// Answer the client's close frame.
    Answer(u16),
    /// The client broke the protocol: what comes from it means nothing any more, its close frame neither.
    Fail(u16),
    /// Too slow, or too large for the node: what is queued is dropped, but for a frame that is partly written.
    TooSlow(Closed),
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Drop => Self::Gone,
            Ending::Close(code) => Self::Close(code),
        }
    }
}

/// Serves one upgraded connection until it ends. The session's outbox has to write to `stream`; `permit` is
/// held as long. What is large is read and written in the turns of `line`.
///
/// No `async fn`: its arguments would stay in the future beside what they are moved into, for each socket.
pub fn run<T: Transport, C: Conversation>(
    stream: Arc<T>,
    reader: Reader,
    driver: C,
    line: Line,
    idle_limit: Duration,
    permit: ConnectionPermit,
) -> impl Future<Output = ()> + Send {
    let outbox = Arc::clone(driver.outbox());
    let mut socket = Socket {
        stream,
        reader,
        driver,
        holding: Holding::new(&outbox),
        outbox,
        line,
        idle_limit,
        heard: Instant::now(),
        deaf: false,
        blocked: false,
        wants: Wants::default(),
        full_turns: 0,
        resting: None,
        _permit: permit,
    };
    async move {
        let end = socket.serve().await;
        // Channels end before the lingering close: others must not wait for this client's last answer.
        socket.driver.end();
        // What a socket needs at its end is not in its memory before.
        Box::pin(socket.close(end)).await;
    }
}

/// What a socket waits for from its client.
fn interest(reads: bool, writes: bool) -> Option<Interest> {
    match (reads, writes) {
        (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (true, false) => Some(Interest::READABLE),
        (false, true) => Some(Interest::WRITABLE),
        (false, false) => None,
    }
}

/// Returns when there may be something to do of what the socket waits for. Pending for ever if that is nothing. Cancel
/// safe.
async fn ready<T: Transport>(stream: &T, interest: Option<Interest>) -> io::Result<Ready> {
    match interest {
        Some(interest) => stream.ready(interest).await,
        None => pending().await,
    }
}

/// What a socket waits for a turn for.
#[derive(Debug, Default, Clone, Copy)]
struct Wants {
    /// To read on in a large message.
    read: bool,
    /// To write on in what waits.
    write: bool,
}

struct Socket<T, C> {
    stream: Arc<T>,
    reader: Reader,
    driver: C,
    outbox: Arc<Outbox>,
    /// How long the client may be silent.
    idle_limit: Duration,
    /// When the client last sent anything, or might have if it had been read.
    heard: Instant,
    /// Whether the session refuses to read.
    deaf: bool,
    /// Whether the client took less than was written: more is written when it has taken some of it.
    blocked: bool,
    /// Where it waits for turns.
    line: Line,
    /// What it waits for a turn for.
    wants: Wants,
    /// What was read and waits.
    holding: Holding,
    /// Turns in a row with more to read than they took.
    full_turns: u8,
    /// It sent more than its share: not read before this.
    resting: Option<Instant>,
    _permit: ConnectionPermit,
}

impl<T: Transport, C: Conversation> Socket<T, C> {
    async fn serve(&mut self) -> End {
        // Frames that came with the upgrade request wait for no further read.
        self.reader.allow(INFLATED);
        if let Err(end) = self.read_events() {
            return end;
        }
        let timer = time::sleep_until(self.heard + self.idle_limit);
        tokio::pin!(timer);
        let mut turn = None;
        loop {
            if let Err(end) = self.write(turn.take()) {
                return end;
            }
            let wants_input = self.driver.wants_input();
            if self.deaf || !wants_input {
                // It is not the client that is silent.
                self.heard = Instant::now();
            }
            self.deaf = !wants_input;
            let idle_at = self.heard + self.idle_limit;
            let wake =
                [self.driver.wake_at(), self.resting].into_iter().flatten().fold(idle_at, Instant::min);
            if wake < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake);
            }
            self.reader.release();
            let held = self.reader.held() + self.driver.waiting_bytes();
            self.holding.set(held - held % COUNTED);
            if self.full_turns > 0 && self.resting.is_none() {
                // There is more to read, after those who wait for their turn.
                tokio::task::yield_now().await;
            }
            let input = wants_input && self.resting.is_none();
            // What it has read has to be inflated in a turn, before it reads on.
            self.wants.read |= self.reader.waits();
            let wants_turn = self.wants.write || (self.wants.read && input);
            if !wants_turn {
                self.line.leave();
            }
            let interest = interest(input && !self.wants.read, self.blocked);
            let stepped = tokio::select! {
                ready = ready(&*self.stream, interest) => match ready {
                    Err(_) => Err(End::Gone),
                    Ok(ready) => self.on_ready(ready),
                },
                taken = self.line.turn(), if wants_turn => {
                    turn = taken;
                    if std::mem::take(&mut self.wants.read) && input { self.read_in_turn() } else { Ok(()) }
                }
                () = self.outbox.ready() => self.driver.signals().map_err(End::from),
                event = self.driver.event() => event.map_err(End::from),
                () = &mut timer => self.on_time(),
            };
            if let Err(end) = stepped {
                return end;
            }
        }
    }

    /// There may be something to read, or the client may take more.
    fn on_ready(&mut self, ready: Ready) -> Result<(), End> {
        if ready.is_writable() {
            self.blocked = false;
        }
        if !ready.is_readable() {
            return Ok(());
        }
        if self.reader.announced() > BULK {
            self.wants.read = true;
            return Ok(());
        }
        self.reader.allow(INFLATED);
        self.read()
    }

    /// Gives others what was said, and the client what waits for it, as far as it takes that; what is large in turns.
    fn write(&mut self, turn: Option<Turn>) -> Result<(), End> {
        self.driver.flush();
        self.wants.write = false;
        match self.outbox.flush(turn.is_some()) {
            Flush::Done => self.blocked = false,
            Flush::Blocked => self.blocked = true,
            // The client takes it only when it took what was written before.
            Flush::Large => self.wants.write = !self.blocked,
            Flush::Closed(Closed::Gone) => return Err(End::Gone),
            Flush::Closed(why) => return Err(End::TooSlow(why)),
        }
        Ok(())
    }

    fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.resting.is_some_and(|until| until <= now) {
            self.resting = None;
        }
        if !self.deaf && now >= self.heard + self.idle_limit {
            return Err(End::Close(CLOSE_IDLE));
        }
        Ok(self.driver.on_time()?)
    }

    /// Reads with a turn. A message that waits is inflated first, and what has come behind it is handled.
    fn read_in_turn(&mut self) -> Result<(), End> {
        self.reader.allow_one();
        if self.reader.waits() {
            let began = Instant::now();
            let handled = self.read_events();
            self.driver.count(0, began.elapsed());
            handled?;
            if self.reader.waits() {
                self.took_all();
                return Ok(());
            }
            if !self.driver.wants_input() {
                return Ok(());
            }
        }
        self.read()
    }

    /// It took its turn, and there is more. One that goes on so rests.
    fn took_all(&mut self) {
        self.full_turns = self.full_turns.saturating_add(1);
        if self.full_turns > FULL_TURNS {
            self.resting = Some(Instant::now() + REST);
        }
    }

    /// Reads what is there, up to a fair share; rests if there is more.
    fn read(&mut self) -> Result<(), End> {
        for _ in 0..READS_PER_TURN {
            match self.stream.try_read_buf(self.reader.space()) {
                Ok(0) => return Err(End::Gone),
                Ok(count) => {
                    self.heard = Instant::now();
                    let handled = self.read_events();
                    self.driver.count(count, self.heard.elapsed());
                    handled?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full_turns = 0;
                    return Ok(());
                }
                Err(_) => return Err(End::Gone),
            }
            if !self.driver.wants_input() {
                return Ok(());
            }
            if self.reader.waits() {
                break;
            }
        }
        self.took_all();
        Ok(())
    }

    fn read_events(&mut self) -> Result<(), End> {
        loop {
            match self.reader.next_event() {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Message(opcode, message))) => self.driver.receive(opcode, message)?,
                Ok(Some(Event::Ping(payload))) => {
                    let _ = self.outbox.queue(frame::pong(&payload));
                }
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(code))) => return Err(End::Answer(code)),
                Err(violation) => {
                    let tenant = self.driver.tenant();
                    let code = ErrorCode::MalformedWebSocketMessage.as_str();
                    tracing::warn!(tenant, code, error = %violation, "websocket violation");
                    return Err(End::Fail(violation.close_code()));
                }
            }
        }
    }

    /// Ends the connection as RFC 6455 7.1 has it, within [`CLOSE_LIMIT`].
    async fn close(&mut self, end: End) {
        let failed = matches!(end, End::Fail(_));
        let (code, rest, answered) = match end {
            End::Gone => return,
            End::Close(code) => (code, true, false),
            End::Answer(code) => (code, true, true),
            End::Fail(code) => (code, true, false),
            End::TooSlow(why) => {
                self.driver.count_slow();
                self.reader = Reader::default();
                tracing::warn!(
                    tenant = self.driver.tenant(),
                    code = ErrorCode::SlowConsumer.as_str(),
                    reason = why.reason(),
                    "socket closed with 1013"
                );
                (CLOSE_SLOW_CONSUMER, false, false)
            }
        };
        self.line.leave();
        self.outbox.finish(frame::close(code), rest);
        let _ = time::timeout(CLOSE_LIMIT, async {
            while !self.write_last().await? {
                self.stream.writable().await?;
            }
            if failed {
                // It sees the end behind the close frame, and has nothing to wait for.
                self.stream.end();
                self.drop_input().await
            } else if answered {
                Ok(())
            } else {
                self.await_close().await
            }
        })
        .await;
        if !failed {
            self.stream.end();
        }
    }

    /// Writes what is left, in turns if it is large. True when all is written.
    async fn write_last(&mut self) -> io::Result<bool> {
        let _turn = if self.outbox.is_large() { self.line.turn().await } else { None };
        self.outbox.write_last()
    }

    /// Reads and drops what the client sent before it saw our close frame, until it answers or goes: closing
    /// on unread data would reset the connection and could take the close frame with it.
    async fn await_close(&mut self) -> io::Result<()> {
        self.reader.skim();
        loop {
            match self.reader.next_event() {
                Ok(Some(Event::Close(_))) => return Ok(()),
                Ok(Some(_)) => continue,
                // After a violation the stream has no frames any more.
                Err(_) => return self.drop_input().await,
                Ok(None) => {}
            }
            time::timeout(QUIET_LIMIT, self.stream.readable()).await??;
            let _turn = if self.reader.announced() > BULK { self.line.turn().await } else { None };
            match self.stream.try_read_buf(self.reader.space()) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// Reads and drops what comes until the client goes or pauses, for the reason of [`Self::await_close`].
    async fn drop_input(&mut self) -> io::Result<()> {
        self.reader = Reader::default();
        let mut dropped = BytesMut::with_capacity(DROPPED);
        loop {
            time::timeout(QUIET_LIMIT, self.stream.readable()).await??;
            let _turn = self.line.turn().await;
            match self.stream.try_read_buf(&mut dropped) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => dropped.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
