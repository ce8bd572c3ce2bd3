//! The denominator: a server that accepts the same clients and does nothing but write ready frames.
//!
//! It answers upgrades and joins unseen, and gives every other member a copy of what one sends to a topic: one
//! system call each, or with `coalesce` one for all that has come in at once. One thread, no checks, no limits,
//! no queues.

use std::{cell::RefCell, collections::HashMap, io::IoSlice, rc::Rc};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use clap::Args;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{self, LocalSet},
};

use crate::wire::find;

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Options {
    /// Write what came in at once in one call per member
    #[arg(long)]
    coalesce: bool,
}

type Room = Rc<RefCell<Vec<(u64, Rc<TcpStream>)>>>;

#[derive(Default)]
struct Rooms {
    rooms: RefCell<HashMap<Vec<u8>, Room>>,
}

impl Rooms {
    fn room(&self, topic: &[u8]) -> Room {
        Rc::clone(self.rooms.borrow_mut().entry(topic.to_vec()).or_default())
    }
}

/// Serves on a free port, which it prints, until it is killed.
#[expect(clippy::print_stdout, reason = "tells its port to its parent")]
pub(crate) async fn serve(options: Options) -> Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener: TcpListener = socket.listen(4096)?;
    println!("{}", listener.local_addr()?.port());
    let rooms = Rc::new(Rooms::default());
    LocalSet::new()
        .run_until(async {
            let mut id = 0;
            loop {
                let (stream, _) = listener.accept().await?;
                id += 1;
                let rooms = Rc::clone(&rooms);
                task::spawn_local(async move {
                    let stream = Rc::new(stream);
                    let _ = stream.set_nodelay(true);
                    let mut joined = Vec::new();
                    let _ = connection(id, &stream, &rooms, &mut joined, options.coalesce).await;
                    for room in joined {
                        room.borrow_mut().retain(|(member, _)| *member != id);
                    }
                });
            }
        })
        .await
}

async fn connection(
    id: u64,
    stream: &Rc<TcpStream>,
    rooms: &Rooms,
    joined: &mut Vec<Room>,
    coalesce: bool,
) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        stream.readable().await?;
        buffer.reserve(4096);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        if buffer.starts_with(b"GET ") || buffer.starts_with(b"POST") {
            http(stream, rooms, &mut buffer).await?;
            continue;
        }
        let mut batch: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        while let Some((header, len)) = client_frame(&buffer) {
            if buffer.len() < header + len {
                break;
            }
            let payload = &buffer[header..header + len];
            if buffer[0] & 15 == 8 {
                return Ok(());
            }
            // Clients of this program write `[join_ref,ref,"topic","event",…`.
            let fields: Vec<&[u8]> = payload.splitn(9, |byte| *byte == b'"').collect();
            let topic = fields.get(5).context("topic")?.to_vec();
            if find(payload, b"phx_join").is_some() {
                let room = rooms.room(&topic);
                room.borrow_mut().push((id, Rc::clone(stream)));
                joined.push(room);
                let reply =
                    br#"["1","join","t","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#;
                write_all(stream, &server_frame(reply)).await?;
            } else {
                batch.push((topic, server_frame(payload)));
            }
            buffer.drain(..header + len);
        }
        while !batch.is_empty() {
            let take = if coalesce { batch.len() } else { 1 };
            let frames: Vec<_> = batch.drain(..take).collect();
            let slices: Vec<IoSlice<'_>> = frames.iter().map(|(_, frame)| IoSlice::new(frame)).collect();
            let topic = frames.first().context("frame")?.0.as_slice();
            for (_, member) in rooms.room(topic).borrow().iter().filter(|(member, _)| *member != id) {
                let _ = match &slices[..] {
                    [one] => member.try_write(one),
                    many => member.try_write_vectored(many),
                };
            }
        }
    }
}

/// An upgrade, or a broadcast over HTTP.
async fn http(stream: &Rc<TcpStream>, rooms: &Rooms, buffer: &mut Vec<u8>) -> Result<()> {
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(()) };
    if buffer.starts_with(b"GET ") {
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
            b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
        );
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        buffer.drain(..end + 4);
        return write_all(stream, answer.as_bytes()).await;
    }
    let head = buffer.get(..end).context("head")?;
    let length =
        crate::wire::number_after(&head.to_ascii_lowercase(), b"content-length: ").context("length")?;
    let total = end + 4 + usize::try_from(length)?;
    if buffer.len() < total {
        return Ok(());
    }
    let body = buffer.get(end + 4..total).context("body")?;
    let fields: Vec<&[u8]> = body.splitn(7, |byte| *byte == b'"').collect();
    let topic = [b"realtime:".as_slice(), fields.get(5).context("topic")?].concat();
    let frame = server_frame(body);
    for (_, member) in rooms.room(&topic).borrow().iter() {
        let _ = member.try_write(&frame);
    }
    buffer.drain(..total);
    write_all(stream, b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Length of the header and the payload of the frame that a buffer begins with.
fn client_frame(buffer: &[u8]) -> Option<(usize, usize)> {
    Some(match buffer.get(1)? & 0x7F {
        126 => (8, usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?))),
        127 => (14, usize::try_from(u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)).ok()?),
        len => (6, usize::from(len)),
    })
}

fn server_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = crate::wire::frame(1, payload);
    // The same without the mask.
    let mask = frame.len() - payload.len() - 4;
    frame.drain(mask..mask + 4);
    if let Some(len) = frame.get_mut(1) {
        *len &= 0x7F;
    }
    frame
}

/// The ideal server as a process of its own, so that its CPU time is its own.
pub(crate) struct Process {
    child: tokio::process::Child,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Process {
    /// Starts this program again as the ideal server.
    pub(crate) async fn start(coalesce: bool) -> Result<Self> {
        use tokio::io::AsyncBufReadExt as _;
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("ideal").args(coalesce.then_some("--coalesce"));
        let mut child = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        let mut lines = tokio::io::BufReader::new(stdout).lines();
        let port = lines.next_line().await?.context("no port")?.parse()?;
        Ok(Self { child, port })
    }

    /// Its CPU time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.child.id().context("it ended")?)
    }
}

/// CPU time of a process in seconds, to the microsecond: the sum over its threads that live.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0u64;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let stat = std::fs::read_to_string(thread.path().join("schedstat"))?;
        nanos += stat.split(' ').next().context("schedstat")?.parse::<u64>()?;
    }
    Ok(nanos as f64 / 1e9)
}
