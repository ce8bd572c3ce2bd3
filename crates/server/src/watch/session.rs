//! Follows a server: connects, joins, reads, and does so again when the connection is lost.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use realtime_retry::Backoff;
use tokio::{net::TcpStream, sync::mpsc, time};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use super::{
    asked::Asked,
    error::WatchError,
    frames::{self, Incoming},
    told::Told,
};

/// Pauses between connections.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Between two heartbeats; each has to be answered before the next. The server closes a socket that says nothing for 60
/// seconds.
const HEARTBEAT: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection has ended.
enum End {
    /// Nobody hears what is told.
    Unheard,
    /// It is lost; another one may do.
    Lost(String),
    /// The server does not want this.
    Refused(String),
    /// The server has ended the result for good.
    Ended(String),
}

/// Follows a server until nobody hears what is told. Once the rows were there, refusals are taken for passing troubles.
///
/// # Errors
/// When the server refuses before that, or ends the result for good.
pub(super) async fn follow(asked: &Asked, tell: &mpsc::Sender<Told>) -> Result<(), WatchError> {
    // The library for TLS is chosen once for the process. If that was done, it is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut was_complete = false;
    loop {
        let mut session = Session { asked, tell, is_complete: false };
        let why = match session.once().await {
            End::Unheard => return Ok(()),
            End::Refused(why) if !was_complete && !session.is_complete => return Err(WatchError(why)),
            End::Ended(why) => return Err(WatchError(why)),
            End::Refused(why) | End::Lost(why) => why,
        };
        if session.is_complete {
            was_complete = true;
            backoff.succeeded();
        }
        let pause = backoff.failed(rand::random_range(0.5..1.0));
        if tell.send(Told::Lost { why, pause }).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = time::sleep(pause) => {}
            () = tell.closed() => return Ok(()),
        }
    }
}

/// One connection.
struct Session<'a> {
    asked: &'a Asked,
    tell: &'a mpsc::Sender<Told>,
    /// Whether all rows have come by it.
    is_complete: bool,
}

impl Session<'_> {
    async fn once(&mut self) -> End {
        let socket = match time::timeout(CONNECT, self.connect()).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(end)) => return end,
            Err(_) => return End::Lost("the server does not answer".to_owned()),
        };
        match self.listen(socket).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn connect(&self) -> Result<Socket, End> {
        let refused = |error: &dyn std::fmt::Display| End::Refused(error.to_string());
        let mut request =
            self.asked.address.clone().into_client_request().map_err(|error| refused(&error))?;
        let token = self.asked.token().map_err(|error| refused(&error))?;
        let token = HeaderValue::from_str(&token).map_err(|_| refused(&"The token is none"))?;
        request.headers_mut().insert("x-api-key", token);
        match connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => {
                let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
                let why = format!("The server answers {}: {}", answer.status(), body.trim());
                // A proxy whose server is away answers with 502 to 504.
                Err(if answer.status().is_client_error() { End::Refused(why) } else { End::Lost(why) })
            }
            Err(Error::Url(error)) => Err(refused(&error)),
            Err(error) => Err(End::Lost(error.to_string())),
        }
    }

    async fn listen(&mut self, mut socket: Socket) -> Result<std::convert::Infallible, End> {
        send(&mut socket, frames::join(&self.asked.binding)).await?;
        let mut heartbeats = time::interval_at(time::Instant::now() + HEARTBEAT, HEARTBEAT);
        let mut is_answered = true;
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let incoming = frames::read(&text)
                            .map_err(|error| End::Lost(format!("a message cannot be read: {error}")))?;
                        if matches!(incoming, Incoming::Alive) {
                            is_answered = true;
                        }
                        self.hear(incoming).await?;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(End::Lost(error.to_string())),
                    None => return Err(End::Lost("the server has closed the connection".to_owned())),
                },
                _ = heartbeats.tick() => {
                    if !is_answered {
                        return Err(End::Lost("the server does not answer".to_owned()));
                    }
                    is_answered = false;
                    send(&mut socket, frames::heartbeat()).await?;
                }
                () = self.tell.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn hear(&mut self, incoming: Incoming) -> Result<(), End> {
        let told = match incoming {
            Incoming::Joined(Ok(())) => Told::Joined,
            Incoming::Joined(Err(reason)) => return Err(End::Refused(reason)),
            Incoming::Closed => return Err(End::Lost("the server has closed the channel".to_owned())),
            Incoming::Change(change) => Told::Change(change),
            Incoming::System(system) if system.is_complete() => {
                self.is_complete = true;
                Told::Complete { rows: system.rows }
            }
            Incoming::System(system) if system.is_end() => return Err(End::Ended(system.message)),
            // Before the rows it is a refusal. Later the server may give them again by itself.
            Incoming::System(system) if system.status == "error" && !self.is_complete => {
                return Err(End::Refused(system.message));
            }
            Incoming::System(system) if system.status == "ok" => return Ok(()),
            Incoming::System(system) => Told::Notice { status: system.status, message: system.message },
            Incoming::Alive | Incoming::Other => return Ok(()),
        };
        self.tell.send(told).await.map_err(|_| End::Unheard)
    }
}

async fn send(socket: &mut Socket, text: String) -> Result<(), End> {
    socket.send(Message::text(text)).await.map_err(|error| End::Lost(error.to_string()))
}
