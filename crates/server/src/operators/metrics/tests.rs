use std::{sync::Arc, time::Duration};

use realtime_hub::Outbox;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{Gathered, Part};
use crate::{
    config::{Env, Settings},
    node::Node,
};

fn gathered() -> Gathered {
    let settings = Settings::from_env(&Env::new(&|_| None)).unwrap();
    Gathered::new(Node::new(settings, CancellationToken::new()).unwrap())
}

/// The value of a sample, if it is shown.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
    Some(line.rsplit(' ').next()?.parse().unwrap())
}

/// http_and_ops 54: a tenant without sockets is left out after a while, and nothing that was counted is lost
#[tokio::test(start_paused = true)]
async fn vacant_tenants_are_left_out() {
    let gathered = gathered();
    let runtime = gathered.node().runtime_for_host("realtime-dev").await.unwrap().unwrap();
    runtime.meters().joins().add(3);
    let outbox = Arc::new(Outbox::new(1000));
    let guard = runtime.sockets().enter(&outbox, runtime.sockets().era());
    time::advance(Duration::from_secs(6_000)).await;
    assert_eq!(value(&gathered.render(Part::All), "realtime_channel_joins"), Some(3.0), "it has a socket");
    drop(guard);
    time::advance(Duration::from_secs(599)).await;
    assert_eq!(value(&gathered.render(Part::Tenants), "realtime_channel_joins"), Some(3.0));
    time::advance(Duration::from_secs(2)).await;
    let text = gathered.render(Part::All);
    assert!(!text.contains("tenant="), "{text}");
    assert_eq!(value(&text, "realtime_channel_global_joins"), Some(3.0));
    let _guard = runtime.sockets().enter(&outbox, runtime.sockets().era());
    runtime.meters().joins().add(1);
    assert_eq!(value(&gathered.render(Part::All), "realtime_channel_joins"), Some(4.0), "it goes on");
}

/// Bytes written are those of all sockets, and never fall.
#[tokio::test]
async fn bytes_written_never_fall() {
    let gathered = gathered();
    let runtime = gathered.node().runtime_for_host("realtime-dev").await.unwrap().unwrap();
    let written = |gathered: &Gathered| value(&gathered.render(Part::All), "realtime_channel_output_bytes");
    let outbox = Arc::new(Outbox::new(1000));
    let guard = runtime.sockets().enter(&outbox, runtime.sockets().era());
    outbox.push(bytes::Bytes::from_static(b"12345")).unwrap();
    assert_eq!(written(&gathered), Some(0.0), "it waits");
    outbox.take(&mut std::collections::VecDeque::new());
    assert_eq!(written(&gathered), Some(5.0));
    drop(guard);
    assert_eq!(written(&gathered), Some(5.0));
    assert_eq!(value(&gathered.render(Part::Global), "realtime_channel_global_output_bytes"), Some(5.0));
}
