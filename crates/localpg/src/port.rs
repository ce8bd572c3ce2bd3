//! Ports that nobody listens on.

use std::{io, net::TcpListener, ops::Range};

use rand::Rng as _;

/// Where they are taken from. Linux gives outgoing connections ports from 32768 on: one of those could be taken by
/// anybody's connection before the server has it, or while it restarts.
const PORTS: Range<u16> = 10_240..32_768;

/// Ports that are tried.
const ATTEMPTS: usize = 100;

/// A port of this machine that nothing listens on, at random, so that those who choose at the same time do not meet.
///
/// # Errors
/// What the operating system says to the last of many attempts.
pub fn free_port() -> io::Result<u16> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let port = rand::rng().random_range(PORTS);
        // On all addresses: who listens on one of them has the port.
        match TcpListener::bind(("0.0.0.0", port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_listened_on() {
        let port = free_port().unwrap();
        assert!(PORTS.contains(&port));
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!((0..ATTEMPTS).all(|_| free_port().unwrap() != port), "it is taken");
    }
}
