//! News of what other nodes changed.

use std::future::poll_fn;

use tokio::{sync::mpsc, task::JoinHandle, time};
use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::{APPLICATION, CHANNEL, Store, StoreError, pool};

/// News that may be waiting; a connection that brings more than that at once is slowed down.
const WAITING: usize = 256;

/// What somebody changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// A tenant was made, changed or removed.
    Tenant(Box<str>),
    /// A feature flag was.
    Flag,
    /// An administrator wants something done with what runs of a tenant, on all nodes but the one that says so.
    Operation {
        /// Who says so.
        node: Uuid,
        /// What.
        operation: Operation,
        /// Name of the tenant.
        tenant: Box<str>,
    },
}

/// What an administrator may want done with what runs of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// End the connections to its database, and its sockets.
    Reload,
    /// End the connections to its database.
    Shutdown,
}

impl Operation {
    const fn word(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Shutdown => "shutdown",
        }
    }
}

impl News {
    /// Reads what a notification says; `None` if that is nothing of ours.
    fn parse(payload: &str) -> Option<Self> {
        match payload.split_once(' ')? {
            ("tenant", name) => Some(Self::Tenant(name.into())),
            ("flag", _) => Some(Self::Flag),
            (word, rest) => {
                let operation =
                    [Operation::Reload, Operation::Shutdown].into_iter().find(|op| op.word() == word)?;
                let (node, tenant) = rest.split_once(' ')?;
                Some(Self::Operation { node: node.parse().ok()?, operation, tenant: tenant.into() })
            }
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
    /// Tells all who listen what is to be done with a tenant.
    pub(crate) async fn tell_operation(
        &self,
        node: Uuid,
        operation: Operation,
        tenant: &str,
    ) -> Result<(), StoreError> {
        let payload = format!("{} {node} {tenant}", operation.word());
        self.client().await?.execute("select pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &payload]).await?;
        Ok(())
    }

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
                        tracing::debug!(error = realtime_tls::describe(&error), "listening ended");
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
        let node = Uuid::from_u128(7);
        let operation = Operation::Reload;
        let tenant = "a b".into();
        assert_eq!(
            News::parse(&format!("reload {node} a b")),
            Some(News::Operation { node, operation, tenant })
        );
        for other in ["", "tenant", "weather fine", "reload", "reload a b", &format!("reload {node}")] {
            assert_eq!(News::parse(other), None);
        }
    }
}
