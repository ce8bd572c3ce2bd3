//! The I/O of one WebSocket: reads frames into its [`Session`], writes its outbox, keeps its timers.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use realtime_hub::{Closed, Outbox};
use realtime_protocol::frame;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    session::{Completion, Effect, Session},
    tenant_runtime::TenantRuntime,
    ws::reader::{Event, Reader},
};

/// A client that sends nothing for this long is gone (protocol 1.8).
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Close code of an idle socket (protocol 1.10).
const CLOSE_IDLE: u16 = 1000;

/// Close code of a server that is going down (protocol 1.10).
const CLOSE_RESTART: u16 = 1012;

/// Close code of a client that reads slower than its rooms talk: "try again later" (RFC 6455 registry).
pub const CLOSE_SLOW_CONSUMER: u16 = 1013;

/// How long what is queued, the close frame and the client's answer may take together.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a client that was sent a close frame may be silent.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// Frames in one vectored write.
const MAX_SLICES: usize = 64;

/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 8;

/// Why the socket ends.
enum End {
    /// The client is gone, or broke off.
    Gone,
    /// Send a close frame with this code and wait for the client's.
    Close(u16),
    /// Answer the client's close frame.
    Answer(u16),
    /// Too slow: what is queued is dropped, but for a frame that is partly written.
    TooSlow,
}

/// Serves one upgraded connection until it ends.
///
/// When `stopping` is cancelled the socket is closed with code 1012 (protocol 12).
pub async fn run(
    stream: TcpStream,
    reader: Reader,
    session: Session,
    runtime: Arc<TenantRuntime>,
    stopping: CancellationToken,
) {
    let outbox = Arc::clone(session.outbox());
    let mut socket = Socket {
        stream,
        reader,
        session,
        outbox,
        runtime,
        writing: VecDeque::new(),
        effects: Vec::new(),
        running: FuturesUnordered::new(),
        delayed: Vec::new(),
        heard: Instant::now(),
        stopping,
    };
    let end = socket.serve().await;
    // Channels end before the lingering close: others must not wait for this client's last answer.
    socket.session.end();
    socket.close(end).await;
}

/// A refusal that waits for its time: when, the frames, and the code to close the socket with after them.
type Delayed = (Instant, Vec<Bytes>, Option<u16>);

struct Socket {
    stream: TcpStream,
    reader: Reader,
    session: Session,
    outbox: Arc<Outbox>,
    runtime: Arc<TenantRuntime>,
    /// Frames taken from the outbox, the first perhaps partly written.
    writing: VecDeque<Bytes>,
    /// What the session asked for in the step just made. Empty between steps.
    effects: Vec<Effect>,
    /// Slow steps of joins. Empty while idle.
    running: FuturesUnordered<BoxFuture<'static, Completion>>,
    /// Refusals that wait for their time, in no order.
    delayed: Vec<Delayed>,
    /// When the client last sent anything.
    heard: Instant,
    stopping: CancellationToken,
}

impl Socket {
    async fn serve(&mut self) -> End {
        // Frames that came with the upgrade request wait for no further read.
        if let Err(end) = self.read_events() {
            return end;
        }
        let timer = time::sleep_until(self.heard + IDLE_LIMIT);
        tokio::pin!(timer);
        loop {
            if let Err(end) = self.write() {
                return end;
            }
            let wake = self.wake_at();
            if wake < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(wake);
            }
            self.reader.release();
            let input = self.session.wants_input() && self.delayed.len() < MAX_DELAYED;
            let stepped = tokio::select! {
                readable = self.stream.readable(), if input => {
                    if readable.is_err() { Err(End::Gone) } else { self.read() }
                }
                () = self.outbox.ready() => Ok(()),
                writable = self.stream.writable(), if !self.writing.is_empty() => {
                    writable.map_err(|_| End::Gone)
                }
                Some(completion) = self.running.next() => {
                    self.session.complete(completion, &mut self.effects);
                    self.carry_out()
                }
                () = &mut timer => self.on_time(),
                () = self.stopping.cancelled() => {
                    self.session.shut_down();
                    Err(End::Close(CLOSE_RESTART))
                }
            };
            if let Err(end) = stepped {
                return end;
            }
        }
    }

    /// The next moment at which something has to be done.
    fn wake_at(&self) -> Instant {
        let delayed = self.delayed.iter().map(|(at, ..)| *at).min();
        let (session, abandoned) = (self.session.deadline(), self.session.abandoned_at());
        [delayed, session, abandoned].into_iter().flatten().fold(self.heard + IDLE_LIMIT, Instant::min)
    }

    fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now >= self.heard + IDLE_LIMIT {
            return Err(End::Close(CLOSE_IDLE));
        }
        if self.session.abandoned_at().is_some_and(|at| now >= at) {
            tracing::debug!("socket without channels dropped");
            return Err(End::Gone);
        }
        let mut i = 0;
        while let Some((at, ..)) = self.delayed.get(i) {
            if *at <= now {
                let (_, frames, close) = self.delayed.swap_remove(i);
                for frame in frames {
                    let _ = self.outbox.push(frame);
                }
                if let Some(code) = close {
                    return Err(End::Close(code));
                }
            } else {
                i += 1;
            }
        }
        self.session.tick(&mut self.effects);
        self.carry_out()
    }

    /// Reads what is there, up to a fair share.
    fn read(&mut self) -> Result<(), End> {
        for _ in 0..READS_PER_TURN {
            match self.stream.try_read_buf(self.reader.space()) {
                Ok(0) => return Err(End::Gone),
                Ok(_) => {
                    self.heard = Instant::now();
                    self.read_events()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Gone),
            }
            if !self.session.wants_input() {
                break;
            }
        }
        Ok(())
    }

    fn read_events(&mut self) -> Result<(), End> {
        loop {
            match self.reader.next_event() {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Message(opcode, message))) => {
                    self.session.receive(opcode, message, &mut self.effects);
                    self.carry_out()?;
                }
                Ok(Some(Event::Ping(payload))) => {
                    let _ = self.outbox.push(frame::pong(&payload));
                }
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(code))) => return Err(End::Answer(code)),
                Err(violation) => {
                    tracing::debug!(error = %violation, "websocket violation");
                    return Err(End::Close(violation.close_code()));
                }
            }
        }
    }

    /// Does what the session asked for.
    fn carry_out(&mut self) -> Result<(), End> {
        let mut end = Ok(());
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Close(code) => end = Err(End::Close(code)),
                Effect::SendLater(delay, frames, close) => {
                    self.delayed.push((Instant::now() + delay, frames, close));
                }
                Effect::Database(ticket) => {
                    let runtime = Arc::clone(&self.runtime);
                    self.running.push(Box::pin(async move {
                        Completion::Database(ticket, runtime.database().ready().await)
                    }));
                }
                Effect::Subscribe(ticket, request) => {
                    let runtime = Arc::clone(&self.runtime);
                    self.running.push(Box::pin(async move {
                        Completion::Subscribed(ticket, runtime.database().subscribe(*request).await)
                    }));
                }
            }
        }
        end
    }

    /// Writes as much as the socket takes without waiting.
    fn write(&mut self) -> Result<(), End> {
        loop {
            if self.writing.is_empty()
                && let Some(closed) = self.outbox.take(&mut self.writing)
                && (self.writing.is_empty() || closed == Closed::SlowConsumer)
            {
                return Err(match closed {
                    Closed::SlowConsumer => End::TooSlow,
                    Closed::Requested(code) => End::Close(code),
                });
            }
            if self.writing.is_empty() {
                return Ok(());
            }
            match write_some(&self.stream, &mut self.writing) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// Ends the connection as RFC 6455 7.1 has it, within [`CLOSE_LIMIT`].
    async fn close(mut self, end: End) {
        let (code, answered) = match end {
            End::Gone => return,
            End::Close(code) => {
                self.outbox.take(&mut self.writing);
                (code, false)
            }
            End::Answer(code) => {
                self.outbox.take(&mut self.writing);
                (code, true)
            }
            End::TooSlow => {
                self.writing.truncate(1);
                (CLOSE_SLOW_CONSUMER, false)
            }
        };
        self.writing.push_back(frame::close(code));
        let _ = time::timeout(CLOSE_LIMIT, async {
            while !self.writing.is_empty() {
                self.stream.writable().await?;
                match write_some(&self.stream, &mut self.writing) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if answered {
                return Ok(());
            }
            self.await_close().await
        })
        .await;
    }

    /// Reads and drops what the client sent before it saw our close frame, until it answers or goes: closing
    /// on unread data would reset the connection and could take the close frame with it.
    async fn await_close(&mut self) -> io::Result<()> {
        loop {
            match self.reader.next_event() {
                Ok(Some(Event::Close(_))) => return Ok(()),
                Ok(Some(_)) => continue,
                // After a violation the stream has no frames any more: what comes is dropped until it pauses.
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

/// Refusals that may wait at once; beyond it the socket is not read until some were sent.
const MAX_DELAYED: usize = 64;

/// One vectored write of the first frames; removes what was written.
fn write_some(stream: &TcpStream, frames: &mut VecDeque<Bytes>) -> io::Result<()> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(frames.iter()) {
        *slice = IoSlice::new(frame);
        count += 1;
    }
    let mut written = stream.try_write_vectored(slices.get(..count).unwrap_or(&slices))?;
    while let Some(front) = frames.front_mut() {
        if written < front.len() {
            front.advance(written);
            break;
        }
        written -= front.len();
        frames.pop_front();
    }
    Ok(())
}
