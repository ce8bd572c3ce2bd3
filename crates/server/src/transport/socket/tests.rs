use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use realtime_protocol::Opcode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::*;
use crate::turns::Turns;

const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it hears.
struct Echo(Arc<Outbox>);

impl Conversation for Echo {
    fn outbox(&self) -> &Arc<Outbox> {
        &self.0
    }

    fn tenant(&self) -> &'static str {
        "echo"
    }

    fn count(&self, _: usize, _: Duration) {}

    fn count_slow(&self) {}

    fn wants_input(&self) -> bool {
        true
    }

    fn waiting_bytes(&self) -> usize {
        0
    }

    fn receive(&mut self, _: Opcode, message: Bytes) -> Result<(), Ending> {
        let _ = self.0.queue(frame::text(&message));
        Ok(())
    }

    fn flush(&mut self) {}

    fn event(&mut self) -> impl Future<Output = Result<(), Ending>> + Send {
        std::future::pending()
    }

    fn signals(&mut self) -> Result<(), Ending> {
        Ok(())
    }

    fn wake_at(&self) -> Option<Instant> {
        None
    }

    fn on_time(&mut self) -> Result<(), Ending> {
        Ok(())
    }

    fn end(&mut self) {}
}

/// A socket that echoes, as its client has it and as publishers have it. Its messages may be compressed.
async fn echo(turns: &Turns) -> (TcpStream, Arc<Outbox>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Arc::new(listener.accept().await.unwrap().0);
    let outbox = Arc::new(Outbox::with_sink(10_000_000, Arc::<TcpStream>::clone(&stream)));
    let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let conversation = Echo(Arc::clone(&outbox));
    let line = turns.line();
    tokio::spawn(run(
        stream,
        Reader::default().inflating(true),
        conversation,
        line,
        IDLE_LIMIT,
        ConnectionPermit::new(place),
    ));
    (client, outbox)
}

/// A client's message, with a mask that changes nothing.
async fn send(client: &mut TcpStream, payload: &[u8]) {
    send_as(0x81, client, payload).await;
}

async fn send_as(first: u8, client: &mut TcpStream, payload: &[u8]) {
    let mut message = vec![first, 0x80 | 127];
    message.extend((payload.len() as u64).to_be_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    client.write_all(&message).await.unwrap();
}

/// Reads what `payload` looks like as a frame of the server.
async fn receive(client: &mut TcpStream, payload: &[u8]) {
    let expected = frame::text(payload);
    let mut read = vec![0; expected.len()];
    time::timeout(PATIENCE, client.read_exact(&mut read)).await.unwrap().unwrap();
    assert!(read == expected);
}

/// Whether something has come.
async fn is_silent(client: &TcpStream) -> bool {
    time::timeout(Duration::from_millis(100), client.readable()).await.is_err()
}

/// While others have all turns, what is large is neither read nor written; what is small is, of other sockets.
#[tokio::test]
async fn large_messages_wait_for_a_turn() {
    let turns = Turns::new();
    let large = vec![b'x'; 1_000_000];
    let (mut sender, _) = echo(&turns).await;
    let (mut receiver, outbox) = echo(&turns).await;
    let (mut other, _) = echo(&turns).await;
    let turn = turns.of(large.len()).await;
    // All of it is on its way: sockets that are not read take a part of it only.
    let (to_send, sent) = (large.clone(), tokio::sync::oneshot::channel());
    tokio::spawn(async move {
        send(&mut sender, &to_send).await;
        let _ = sent.0.send(sender);
    });
    outbox.send(&[frame::text(&large)]).unwrap();
    for _ in 0..3 {
        send(&mut other, b"small").await;
        receive(&mut other, b"small").await;
    }
    assert!(is_silent(&receiver).await, "it was written without a turn");
    drop(turn);
    receive(&mut receiver, &large).await;
    let mut sender = time::timeout(PATIENCE, sent.1).await.unwrap().unwrap();
    receive(&mut sender, &large).await;
}

/// However small it came. What comes behind it stays behind it, and others do not wait.
#[tokio::test]
async fn what_becomes_large_waits_for_a_turn() {
    let turns = Turns::new();
    let large: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
    let mut packed = Vec::with_capacity(large.len());
    let mut deflate = Compress::new(Compression::new(6), false);
    deflate.compress_vec(&large, &mut packed, FlushCompress::Sync).unwrap();
    packed.truncate(packed.len() - 4);
    assert!(packed.len() < BULK && large.len() > BULK);
    let (mut sender, _) = echo(&turns).await;
    let (mut other, _) = echo(&turns).await;
    let turn = turns.of(large.len()).await;
    send_as(0xC1, &mut sender, &packed).await;
    send(&mut sender, b"behind").await;
    for _ in 0..3 {
        send(&mut other, b"small").await;
        receive(&mut other, b"small").await;
    }
    assert!(is_silent(&sender).await, "it was inflated without a turn");
    drop(turn);
    receive(&mut sender, &large).await;
    receive(&mut sender, b"behind").await;
}

/// A client that takes nothing does not keep asking for turns, and gets the rest when it reads on.
#[tokio::test]
async fn a_client_that_does_not_read_leaves_the_turns_to_others() {
    let turns = Turns::new();
    let (mut deaf, outbox) = echo(&turns).await;
    let parts = vec![b'x'; 1_000_000];
    for _ in 0..9 {
        outbox.send(&[frame::text(&parts)]).unwrap();
    }
    let (mut sender, _) = echo(&turns).await;
    send(&mut sender, &parts).await;
    receive(&mut sender, &parts).await;
    for _ in 0..9 {
        receive(&mut deaf, &parts).await;
    }
}
