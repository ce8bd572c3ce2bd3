//! The life of one webhook: its reader and its deliveries begin, follow changed settings, and end.

use std::sync::Arc;

use realtime_codes::ErrorCode;
use realtime_postgres::{DatabaseConfig, RowReader, RowReaderConfig, drop_idle_beginning};
use tokio::{
    sync::watch,
    time::{self, Duration},
};
use tokio_util::sync::CancellationToken;

use super::{
    delivery,
    queue::Queue,
    sink::Sink,
    state::HookState,
    wanted::{Aim, Hooks, Wanted},
};

/// Attempts to drop the slot of a webhook that was removed: another node may be about to leave it.
const DROP_ATTEMPTS: u32 = 20;

/// Pause between them.
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// Runs a webhook until it is removed, or until the server stops.
pub(super) async fn run(
    mut aims: watch::Receiver<Aim>,
    hooks: Hooks,
    state: Arc<HookState>,
    stop: CancellationToken,
) {
    // Where its slot is, if it is permanent.
    let mut last: Option<DatabaseConfig> = None;
    while !stop.is_cancelled() {
        let aim = aims.borrow_and_update().clone();
        match aim {
            Aim::Run(wanted) => {
                let reader = wanted.reader();
                last = reader.database.durable_slot.then(|| reader.database.clone());
                serve(&wanted, reader, &mut aims, &state, &stop).await;
            }
            Aim::Pause => {
                state.rests();
                let _ = stop.run_until_cancelled(aims.changed()).await;
            }
            Aim::Remove => {
                if let Some(config) = last.take() {
                    stop.run_until_cancelled(drop_slot(&config, &aims)).await;
                }
                let mut hooks = hooks.lock();
                // It may have come back meanwhile.
                if matches!(*aims.borrow(), Aim::Remove) {
                    hooks.remove(state.name());
                    return;
                }
            }
        }
    }
}

/// Reads and posts until something else is to be read, or nothing any more.
async fn serve(
    wanted: &Wanted,
    reader: RowReaderConfig,
    aims: &mut watch::Receiver<Aim>,
    state: &Arc<HookState>,
    stop: &CancellationToken,
) {
    let queue = Arc::new(Queue::default());
    let (settings, of_delivery) = watch::channel(Arc::clone(&wanted.webhook));
    let started = delivery::client(&wanted.webhook, wanted.reach).and_then(|client| {
        let sink = Sink::new(Arc::clone(&queue), Arc::clone(state));
        let reader = RowReader::start(reader, sink).map_err(|error| error.to_string())?;
        Ok((client, reader))
    });
    let (client, reader) = match started {
        Ok(started) => started,
        Err(error) => {
            let code = ErrorCode::WebhooksUnavailable.as_str();
            tracing::error!(
                code,
                tenant = state.tenant(),
                webhook = state.name(),
                error,
                "a webhook cannot run"
            );
            state.waits(code);
            let _ = stop.run_until_cancelled(aims.changed()).await;
            return;
        }
    };
    // What it drops looks handed over: it goes only when the reader confirms nothing any more.
    let posting = delivery::run((client, wanted.reach), Arc::clone(&queue), of_delivery, Arc::clone(state));
    let mut posting = std::pin::pin!(posting);
    let following = async {
        while aims.changed().await.is_ok() {
            match &*aims.borrow_and_update() {
                Aim::Run(new) if new.reads_the_same(wanted) => {
                    settings.send_replace(Arc::clone(&new.webhook));
                }
                _ => return,
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = following => {}
        () = &mut posting => {}
    }
    reader.shutdown().await;
    state.ends();
}

/// Drops the slot of a webhook that was removed, unless it comes back.
async fn drop_slot(config: &DatabaseConfig, aims: &watch::Receiver<Aim>) {
    let mut reason = "it is still read".to_owned();
    for _ in 0..DROP_ATTEMPTS {
        if !matches!(*aims.borrow(), Aim::Remove) {
            return;
        }
        let other = |name: &str| name != config.slot_name;
        match drop_idle_beginning(config, &config.slot_name, &other).await {
            Ok(busy) if busy.is_empty() => return,
            Ok(_) => reason = "it is still read".to_owned(),
            Err(error) => {
                tracing::debug!(tenant = &*config.tenant, %error, "cannot drop the slot of a webhook");
                reason = error.to_string();
            }
        }
        time::sleep(DROP_PAUSE).await;
    }
    tracing::warn!(
        code = ErrorCode::DropReplicationSlotFailed.as_str(),
        tenant = &*config.tenant,
        slot = config.slot_name,
        reason,
        "the slot of a webhook that was removed was not dropped"
    );
}
