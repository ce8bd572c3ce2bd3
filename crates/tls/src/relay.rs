//! A local door to a connection that was dialled here, for a library that only dials by itself.
//!
//! The library for replication speaks over TCP or a Unix socket, with TLS of another cryptographic library than ours
//! and less to choose. It gets a Unix socket, in a directory that is ours alone, and bytes are passed on. That costs an
//! encrypted replication session one copy in memory; plain ones have no relay.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{io::copy_bidirectional_with_sizes, net::UnixListener, time};

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
            if let Err(error) = copy_bidirectional_with_sizes(&mut inner, &mut outer, BUFFER, BUFFER).await {
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, UnixStream},
    };

    use super::*;
    use crate::Route;

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
