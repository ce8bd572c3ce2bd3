//! A local door to a connection that was dialled here, for a library that only dials by itself.
//!
//! The library for replication speaks over TCP or a Unix socket, with TLS of another cryptographic library than ours
//! and less to choose. It gets a Unix socket, in a directory that is ours alone, and bytes are passed on. That costs an
//! encrypted replication session one copy in memory; plain ones have no relay, but for those to old servers, to which the
//! library says more than they understand.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::UnixListener,
    time,
};

use crate::Stream;

/// How long the door stays open for the one who was told of it.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// Bytes in flight in each direction: a few of PostgreSQL's own network buffers.
const BUFFER: usize = 64 * 1024;

/// Longest path of a Unix socket, in bytes.
const MAX_PATH: usize = 107;

/// Where there may be room for the directory: the usual place, or memory where the disk is read-only.
const SHARED_MEMORY: &str = "/dev/shm";

/// A door for one, to be entered by whoever is told of it.
#[derive(Debug)]
pub struct Relay {
    dir: PathBuf,
    port: u16,
}

impl Relay {
    /// Opens the door and passes on what comes through it until one of the two ends.
    ///
    /// # Errors
    /// When there is no place for the socket.
    pub fn open(stream: Stream) -> io::Result<Self> {
        Self::open_edited(stream, None)
    }

    /// The same; the first query of whoever comes in that `edit` changes reaches the server as it says.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_edited(stream: Stream, edit: Option<Edit>) -> io::Result<Self> {
        // PostgreSQL's clients compose the path of the port; with one directory per relay any will do.
        let port = 5432;
        let (dir, listener) =
            listen(&std::env::temp_dir(), port).or_else(|_| listen(Path::new(SHARED_MEMORY), port))?;
        let relay = Self { dir: dir.path().to_owned(), port };
        tokio::spawn(async move {
            let accepted = time::timeout(OPEN_LIMIT, listener.accept()).await;
            drop((listener, dir));
            let Ok(Ok((mut inner, _))) = accepted else { return };
            let mut outer = stream;
            let ended = match edit {
                Some(edit) => pass_on_edited(inner, outer, edit).await,
                None => copy_bidirectional_with_sizes(&mut inner, &mut outer, BUFFER, BUFFER).await.map(drop),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "relayed connection ended");
            }
        });
        Ok(relay)
    }

    /// Directory of the socket: what PostgreSQL's clients take as the host.
    #[must_use]
    pub fn host(&self) -> &Path {
        &self.dir
    }

    /// What they take as the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// What becomes of a query. `None`: it is passed on as it is.
pub type Edit = fn(&str) -> Option<String>;

/// Longest message before the query that is edited.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Passes bytes on in both directions until one of them ends.
async fn pass_on_edited(
    inner: impl AsyncRead + AsyncWrite + Unpin,
    outer: impl AsyncRead + AsyncWrite + Unpin,
    edit: Edit,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(inner);
    let (mut from_server, mut to_server) = tokio::io::split(outer);
    let forth = async {
        edit_first(&mut from_client, &mut to_server, edit).await?;
        tokio::io::copy(&mut from_client, &mut to_server).await
    };
    tokio::select! {
        sent = forth => sent.map(drop),
        received = tokio::io::copy(&mut from_server, &mut to_client) => received.map(drop),
    }
}

/// Passes a client's messages on up to the first query that is edited (PostgreSQL documentation, "Message Formats").
async fn edit_first(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    edit: Edit,
) -> io::Result<()> {
    // The first message has no type.
    let mut kind = None;
    loop {
        let length = client.read_u32().await?;
        let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        let body = body.filter(|length| *length <= MAX_MESSAGE).ok_or(io::ErrorKind::InvalidData)?;
        let mut message = vec![0; body];
        client.read_exact(&mut message).await?;
        let query = (kind == Some(b'Q')).then(|| message.strip_suffix(b"\0")).flatten();
        let edited = query.and_then(|query| edit(std::str::from_utf8(query).ok()?));
        let is_edited = edited.is_some();
        if let Some(edited) = edited {
            message = edited.into_bytes();
            message.push(0);
        }
        let length = u32::try_from(message.len() + 4).map_err(|_| io::ErrorKind::InvalidData)?;
        message.splice(..0, kind.into_iter().chain(length.to_be_bytes()));
        server.write_all(&message).await?;
        server.flush().await?;
        if is_edited {
            return Ok(());
        }
        kind = Some(client.read_u8().await?);
    }
}

/// A socket in a new directory that only this user may enter.
fn listen(parent: &Path, port: u16) -> io::Result<(tempfile::TempDir, UnixListener)> {
    let dir = tempfile::Builder::new()
        .prefix("realtime-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    let path = dir.path().join(format!(".s.PGSQL.{port}"));
    if path.as_os_str().len() > MAX_PATH || dir.path().to_str().is_none() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let listener = UnixListener::bind(path)?;
    Ok((dir, listener))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixStream};

    use super::*;
    use crate::Route;

    /// A message as clients send it.
    fn message(kind: &str, body: &str) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [kind.as_bytes(), &length, body.as_bytes()].concat()
    }

    #[tokio::test]
    async fn one_query_is_edited() {
        let (mut client, inner) = tokio::io::duplex(100);
        let (outer, mut server) = tokio::io::duplex(100);
        let edit: Edit = |query| query.strip_suffix(" b").map(str::to_owned);
        let passing = tokio::spawn(pass_on_edited(inner, outer, edit));
        let startup = message("", "\0\x03\0\0user\0me\0\0");
        let sent = [
            startup.clone(),
            message("Q", "a\0"),
            message("Q", "a b\0"),
            message("Q", "a b\0"),
            b"d".to_vec(),
        ];
        let sent = sent.concat();
        let writing = async { client.write_all(&sent).await.unwrap() };
        let expected =
            [startup, message("Q", "a\0"), message("Q", "a\0"), message("Q", "a b\0"), b"d".to_vec()];
        let expected = expected.concat();
        let mut read = vec![0; expected.len()];
        let reading = async { server.read_exact(&mut read).await.map(drop).unwrap() };
        tokio::join!(writing, reading);
        assert_eq!(read, expected);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        passing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_nothing_stays() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let stream = Route::default().dial("127.0.0.1", port).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let relay = Relay::open(stream).unwrap();
        let path = relay.host().join(format!(".s.PGSQL.{}", relay.port()));
        let mut inner = UnixStream::connect(&path).await.unwrap();
        inner.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        accepted.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
        assert!(!relay.host().exists(), "the door is closed behind the one who came");
        accepted.write_all(b"pong").await.unwrap();
        inner.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"pong");
        drop(accepted);
        assert_eq!(inner.read(&mut read).await.unwrap(), 0);
    }
}
