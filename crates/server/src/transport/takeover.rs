//! Connections that a stream of events takes over from the HTTP server, when their request was answered.
//!
//! A stream writes as sockets do: publishers write finished bytes to the connection, and one task does all else. So the
//! HTTP server reads the request, and all its layers see the answer; then its head is written here.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::Duration,
};
use tokio_rustls::server::TlsStream;

use super::TlsSocket;

/// How long a client may acknowledge nothing of what was sent. It has nothing to send, so its silence says nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// A connection that any task can write to.
pub enum Connection {
    /// A plain one.
    Plain(TcpStream),
    /// An encrypted one.
    Encrypted(Box<TlsSocket>),
}

/// A connection as the HTTP server reads it.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Takes it from the HTTP server.
    fn into_connection(self) -> Connection;
}

impl Carrier for TcpStream {
    fn into_connection(self) -> Connection {
        watch(&self);
        Connection::Plain(self)
    }
}

impl Carrier for TlsStream<TcpStream> {
    fn into_connection(self) -> Connection {
        let (tcp, session) = self.into_inner();
        watch(&tcp);
        Connection::Encrypted(Box::new(TlsSocket::new(tcp, session)))
    }
}

/// Makes the system give up a connection whose client is gone without a word.
fn watch(tcp: &TcpStream) {
    if let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED)) {
        tracing::debug!(%error, "could not set TCP_USER_TIMEOUT");
    }
}

/// Starts what takes over a connection, with the head of the answer.
type Start = Box<dyn FnOnce(Connection, Bytes) + Send>;

/// Marks the answer to a request whose connection is taken over.
#[derive(Clone)]
struct Takeover(Arc<Mutex<Option<Start>>>);

/// The answer to a request whose connection is taken over.
pub fn answer(headers: HeaderMap, start: impl FnOnce(Connection, Bytes) + Send + 'static) -> Response {
    let mut response = (StatusCode::OK, headers).into_response();
    let start: Start = Box::new(start);
    response.extensions_mut().insert(Takeover(Arc::new(Mutex::new(Some(start)))));
    response
}

/// Where the service of a connection leaves what takes it over. Requests have it among their extensions.
#[derive(Default)]
pub struct Handover {
    left: Mutex<Option<(Start, Bytes)>>,
    told: Notify,
}

impl Handover {
    /// Leaves what takes the connection over, if that is in the answer. Whether it was so: then the HTTP server must not
    /// answer.
    pub fn takes(&self, response: &mut Response) -> bool {
        let Some(Takeover(start)) = response.extensions_mut().remove() else { return false };
        let Some(start) = start.lock().take() else { return false };
        *self.left.lock() = Some((start, head(response)));
        self.told.notify_one();
        true
    }

    /// Has the connection closed, whatever is being written to it.
    pub fn close(&self) {
        self.told.notify_one();
    }

    /// Returns when something was left, or the connection is to be closed. Cancel safe.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// Starts what was left. If there is nothing, the connection is closed.
    pub fn start(&self, connection: impl Carrier) {
        let left = self.left.lock().take();
        if let Some((start, head)) = left {
            start(connection.into_connection(), head);
        }
    }
}

/// The head of an answer with a chunked body, after which the connection ends.
fn head(response: &Response) -> Bytes {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    for (name, value) in response.headers() {
        if *name != header::CONTENT_LENGTH {
            line(name.as_str(), value.as_bytes());
        }
    }
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()) {
        line("date", date.as_bytes());
    }
    line("transfer-encoding", b"chunked");
    line("connection", b"close");
    head.extend_from_slice(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn heads_are_those_of_chunked_answers() {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CONTENT_LENGTH, HeaderValue::from_static("0")),
        ];
        let head = head(&(StatusCode::OK, HeaderMap::from_iter(headers)).into_response());
        let text = String::from_utf8(head.to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ndate: "), "{text}");
        assert!(text.ends_with(" GMT\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"), "{text}");
    }
}
