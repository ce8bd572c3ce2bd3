//! A load balancer: one address before all nodes.

use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
};

/// Takes connections to one node after the other; one that does not answer is passed over. Ends with its runtime.
pub(super) struct Balancer {
    port: u16,
    nodes: Arc<Mutex<Vec<u16>>>,
}

impl Balancer {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let nodes: Arc<Mutex<Vec<u16>>> = Arc::default();
        let of_task = Arc::clone(&nodes);
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                let mut nodes = of_task.lock().clone();
                turn += 1;
                let first = turn % nodes.len().max(1);
                nodes.rotate_left(first);
                tokio::spawn(carry(client, nodes));
            }
        });
        Ok(Self { port, nodes })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The ports of the nodes from now on.
    pub(super) fn serve(&self, nodes: Vec<u16>) {
        *self.nodes.lock() = nodes;
    }
}

async fn carry(mut client: TcpStream, nodes: Vec<u16>) {
    for node in nodes {
        if let Ok(mut node) = TcpStream::connect(("127.0.0.1", node)).await {
            let _ = (client.set_nodelay(true), node.set_nodelay(true));
            let _ = io::copy_bidirectional(&mut client, &mut node).await;
            return;
        }
    }
}
