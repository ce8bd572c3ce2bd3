use std::{
    net::{TcpListener, TcpStream as StdStream},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;

/// A client after its handshake, and the socket that it talks to.
fn connected() -> (ClientConnection, StdStream, TlsSocket) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shakes = std::thread::spawn(move || {
        let mut stream = StdStream::connect(address).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::new(client), name).unwrap();
        session.complete_io(&mut stream).unwrap();
        (session, stream)
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut session = ServerConnection::new(Arc::new(server)).unwrap();
    session.complete_io(&mut stream).unwrap();
    let (client, client_stream) = shakes.join().unwrap();
    stream.set_nonblocking(true).unwrap();
    (client, client_stream, TlsSocket::new(TcpStream::from_std(stream).unwrap(), session))
}

/// Sends each text in a record of its own, and waits until all have arrived.
async fn send(client: &mut ClientConnection, stream: &mut StdStream, socket: &TlsSocket, texts: &[&[u8]]) {
    let mut records = Vec::new();
    for text in texts {
        client.writer().write_all(text).unwrap();
        client.write_tls(&mut records).unwrap();
    }
    stream.write_all(&records).unwrap();
    let mut arrived = vec![0; records.len()];
    while socket.tcp.peek(&mut arrived).await.unwrap() < records.len() {
        tokio::task::yield_now().await;
    }
}

/// Else a client whose messages are small would be read more slowly than over a plain connection.
#[tokio::test]
async fn one_read_takes_all_records_that_fit() {
    let (mut client, mut stream, socket) = connected();
    let texts = vec![&b"0123456789"[..]; 100];
    send(&mut client, &mut stream, &socket, &texts).await;
    let mut buffer = BytesMut::with_capacity(2048);
    assert_eq!(socket.try_read_buf(&mut buffer).unwrap(), 1000);
    assert_eq!(buffer, texts.concat());
    assert_eq!(socket.try_read_buf(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // What does not fit waits, and is there to be read.
    send(&mut client, &mut stream, &socket, &texts).await;
    let mut small = BytesMut::with_capacity(105);
    let room = small.capacity();
    assert_eq!(socket.try_read_buf(&mut small).unwrap(), room);
    assert!(socket.has_plaintext());
    assert_eq!(socket.try_read_buf(&mut buffer).unwrap(), 1000 - room);

    // The end comes after what was said before it.
    client.writer().write_all(b"bye").unwrap();
    client.send_close_notify();
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).unwrap();
    }
    stream.write_all(&records).unwrap();
    while socket.tcp.peek(&mut [0; 1024]).await.unwrap() < records.len() {
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.try_read_buf(&mut buffer).unwrap(), 3);
    assert_eq!(socket.try_read_buf(&mut buffer).unwrap(), 0);
}
