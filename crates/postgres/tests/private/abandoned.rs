//! Questions that nobody waits for any more, given up at each of their steps.

use std::{future::poll_fn, pin::Pin, task::Poll};

use anyhow::Result;
use realtime_postgres::{AuthorizeError, DatabaseConfig, ReadVerdict};

use crate::support::{Log, config, may_read, open, policy, ready, request};

/// What is said of a policy that prepares statements.
const TOUCHED: &str = "changed prepared statements";

/// A question that a test holds.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<ReadVerdict, AuthorizeError>> + Send + 'a>>;

/// Lets a question take so many steps. Whether it was answered.
async fn hold(asking: &mut Asking<'_>, steps: usize) -> bool {
    let mut taken = 0;
    poll_fn(|context| {
        if taken == steps {
            return Poll::Ready(false);
        }
        taken += 1;
        match asking.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if taken == steps => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A question that is given up while its statements are being prepared does not have the next one, on the same connection,
/// say that a policy had changed them.
#[tokio::test]
async fn a_question_that_is_given_up_accuses_no_policy() -> Result<()> {
    let (db, _owner) = ready().await?;
    policy(&db, "select", &["broadcast", "presence"]).await?;
    let (log, _guard) = Log::listen();
    let request = request("authenticated");
    let mut steps = 1;
    loop {
        // One connection, which knows no statements yet.
        let database = open(DatabaseConfig { policy_pool_size: 1, ..config(&db).await? });
        database.ready().await?;
        let mut asking: Asking<'_> = Box::pin(database.authorize_read(&request));
        let is_answered = hold(&mut asking, steps).await;
        drop(asking);
        assert_eq!(database.authorize_read(&request).await?, may_read(true, true), "{steps} steps");
        assert_eq!(log.count(TOUCHED), 0, "given up after {steps} steps");
        if is_answered {
            break;
        }
        steps += 1;
    }
    assert!(steps > 4, "it was given up at several steps: {steps}");
    Ok(())
}
