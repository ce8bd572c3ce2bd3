//! The I/O of one WebSocket: reads frames into its session, writes its outbox, and closes it if the client is silent.

use std::{io, sync::Arc, time::Duration};

use realtime_channels::driver::Ending;
use realtime_codes::ErrorCode;
use realtime_hub::{Closed, Flush, Holding, Outbox};
use realtime_protocol::frame;
use tokio::time::{self, Instant};

use super::{
    ConnectionPermit, Transport,
    conversation::Conversation,
    ws::reader::{Event, Reader},
};

/// Default of the time after which a silent client counts as gone (protocol 1.8).
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Close code of an idle socket (protocol 1.10).
const CLOSE_IDLE: u16 = 1000;

/// Close code of a client that reads more slowly than its rooms send: "try again later" (RFC 6455 registry).
pub const CLOSE_SLOW_CONSUMER: u16 = 1013;

/// How long the queued frames, the close frame and the client's answer may take together.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a client that was sent a close frame may be silent.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 2;

/// Full turns in a row before the socket rests between turns. A burst of some tens of kilobytes is read without delay.
const FULL_TURNS: u8 = 8;

/// Length of a rest. A client that sends as much as it can gets 200 turns a second, some thousands of small messages.
/// The rest of the machine's time is for others.
const REST: Duration = Duration::from_millis(5);

/// Memory of a socket is counted in steps of this many bytes. An idle socket counts nothing.
const COUNTED: usize = 4_096;

/// Why the socket ends.
enum End {
    /// The client is gone, or has broken the connection.
    Gone,
    /// Send a close frame with this code and wait for the client's.
    Close(u16),
    /// Answer the client's close frame.
    Answer(u16),
    /// The client has broken the protocol. Nothing that it sends has a meaning any more, not even a close frame.
    Fail(u16),
    /// The client is too slow. Queued frames are dropped, except one that is partly written.
    TooSlow,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Drop => Self::Gone,
            Ending::Close(code) => Self::Close(code),
        }
    }
}

/// Serves one upgraded connection until it ends. The session's outbox must write to `stream`. `permit` is held
/// meanwhile.
///
/// Not an `async fn`: each socket's future would keep the arguments beside the places they are moved to.
pub fn run<T: Transport, C: Conversation>(
    stream: Arc<T>,
    reader: Reader,
    driver: C,
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
        idle_limit,
        heard: Instant::now(),
        deaf: false,
        full_turns: 0,
        resting: None,
        _permit: permit,
    };
    async move {
        let end = socket.serve().await;
        // Channels end before the lingering close: others must not wait for this client's last answer.
        socket.driver.end();
        socket.close(end).await;
    }
}

struct Socket<T, C> {
    stream: Arc<T>,
    reader: Reader,
    driver: C,
    outbox: Arc<Outbox>,
    /// How long the client may be silent.
    idle_limit: Duration,
    /// When the client last sent something. Time in which it was not read does not count.
    heard: Instant,
    /// Whether the session refuses input.
    deaf: bool,
    /// Memory of what was read and waits.
    holding: Holding,
    /// Full turns in a row: there was more to read than a turn takes.
    full_turns: u8,
    /// The client has sent more than its share: it is not read before this time.
    resting: Option<Instant>,
    _permit: ConnectionPermit,
}

impl<T: Transport, C: Conversation> Socket<T, C> {
    async fn serve(&mut self) -> End {
        // Frames that came with the upgrade request need no further read.
        if let Err(end) = self.read_events() {
            return end;
        }
        let timer = time::sleep_until(self.heard + self.idle_limit);
        tokio::pin!(timer);
        loop {
            self.driver.flush();
            let blocked = match self.outbox.flush() {
                Flush::Done => false,
                Flush::Blocked => true,
                Flush::Closed(Closed::SlowConsumer) => return End::TooSlow,
                Flush::Closed(Closed::Gone) => return End::Gone,
            };
            let wants_input = self.driver.wants_input();
            if self.deaf || !wants_input {
                // The silence is ours: the client was not read.
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
                // There is more to read. Other tasks get their turn first.
                tokio::task::yield_now().await;
            }
            let input = wants_input && self.resting.is_none();
            let stepped = tokio::select! {
                readable = self.stream.readable(), if input => {
                    if readable.is_err() { Err(End::Gone) } else { self.read() }
                }
                () = self.outbox.ready() => self.driver.signals().map_err(End::from),
                writable = self.stream.writable(), if blocked => writable.map_err(|_| End::Gone),
                event = self.driver.event() => event.map_err(End::from),
                () = &mut timer => self.on_time(),
            };
            if let Err(end) = stepped {
                return end;
            }
        }
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

    /// Reads what is there, up to a fair share. Rests if there is more.
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
        }
        self.full_turns = self.full_turns.saturating_add(1);
        if self.full_turns > FULL_TURNS {
            self.resting = Some(Instant::now() + REST);
        }
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

    /// Closes the connection by the rules of RFC 6455 7.1, within [`CLOSE_LIMIT`].
    async fn close(&mut self, end: End) {
        let failed = matches!(end, End::Fail(_));
        let (code, rest, answered) = match end {
            End::Gone => return,
            End::Close(code) => (code, true, false),
            End::Answer(code) => (code, true, true),
            End::Fail(code) => (code, true, false),
            End::TooSlow => {
                self.driver.count_slow();
                self.reader = Reader::default();
                tracing::warn!(
                    tenant = self.driver.tenant(),
                    code = ErrorCode::SlowConsumer.as_str(),
                    "socket closed: it reads more slowly than its channels send, or held most of the memory for clients"
                );
                (CLOSE_SLOW_CONSUMER, false, false)
            }
        };
        self.outbox.finish(frame::close(code), rest);
        let _ = time::timeout(CLOSE_LIMIT, async {
            while !self.outbox.write_last()? {
                self.stream.writable().await?;
            }
            if failed {
                // The client sees the end after the close frame, and has nothing to wait for.
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

    /// Reads and drops input until the client leaves or pauses; see [`Self::await_close`].
    async fn drop_input(&mut self) -> io::Result<()> {
        self.reader = Reader::default();
        loop {
            time::timeout(QUIET_LIMIT, self.stream.readable()).await??;
            let space = self.reader.space();
            match self.stream.try_read_buf(space) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => space.clear(),
            }
        }
    }

    /// Reads and drops what the client sent before it saw our close frame, until it answers or leaves. Closing with
    /// unread input would reset the connection, and the client might lose the close frame.
    async fn await_close(&mut self) -> io::Result<()> {
        loop {
            match self.reader.next_event() {
                Ok(Some(Event::Close(_))) => return Ok(()),
                Ok(Some(_)) => continue,
                // After a violation the stream has no frames any more. Input is dropped until it pauses.
                Err(_) => self.reader = Reader::default(),
                Ok(None) => {}
            }
            time::timeout(QUIET_LIMIT, self.stream.readable()).await??;
            match self.stream.try_read_buf(self.reader.space()) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}
