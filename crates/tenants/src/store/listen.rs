//! News of what other nodes changed.

use std::future::poll_fn;

use tokio::{sync::mpsc, task::JoinHandle, time};
use tokio_postgres::AsyncMessage;

use super::{APPLICATION, CHANNEL, Store, StoreError, error::describe, pool};

/// News that may be waiting; a connection that brings more than that at once is slowed down.
const WAITING: usize = 256;

/// What somebody changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// A tenant was made, changed or removed.
    Tenant(Box<str>),
    /// A feature flag was.
    Flag,
}

impl News {
    /// Reads what a notification says; `None` if that is nothing of ours.
    fn parse(payload: &str) -> Option<Self> {
        match payload.split_once(' ')? {
            ("tenant", name) => Some(Self::Tenant(name.into())),
            ("flag", _) => Some(Self::Flag),
            _ => None,
        }
    }
}

/// A connection that listens. It ends when dropped.
pub(crate) struct Listener {
    news: mpsc::Receiver<News>,
    task: JoinHandle<()>,
    /// Without it the connection would end.
    client: tokio_postgres::Client,
}

impl Listener {
    /// The next of the news; `None` when the connection is lost. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Store {
    /// Listens for what is changed from now on, on a connection of its own.
    pub(crate) async fn listen(&self) -> Result<Listener, StoreError> {
        let config = self.config();
        let settings = pool::settings(config, APPLICATION);
        let connecting = config.route.connect(&settings);
        let (client, mut connection) = match time::timeout(config.connect_timeout, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(StoreError::Timeout("no connection in time".to_owned())),
        };
        let (sender, news) = mpsc::channel(WAITING);
        let task = tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        if let Some(news) = News::parse(notification.payload())
                            && sender.send(news).await.is_err()
                        {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(error = describe(&error), "listening ended");
                        return;
                    }
                }
            }
        });
        let listener = Listener { news, task, client };
        let statement = format!("listen {CHANNEL}");
        let listen = listener.client.batch_execute(&statement);
        match time::timeout(config.statement_timeout, listen).await {
            Ok(listening) => listening?,
            Err(_) => return Err(StoreError::Timeout("no answer in time".to_owned())),
        }
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read() {
        assert_eq!(News::parse("tenant a b"), Some(News::Tenant("a b".into())));
        assert_eq!(News::parse("flag x"), Some(News::Flag));
        for other in ["", "tenant", "weather fine"] {
            assert_eq!(News::parse(other), None);
        }
    }
}
