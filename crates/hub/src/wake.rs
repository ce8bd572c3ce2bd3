//! How a socket's task is woken.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Wakes one task; a call that comes while it does not wait counts for its next wait.
///
/// Like [`tokio::sync::Notify`] for a single waiter. To wait takes eight bytes of the task, which each socket has in memory
/// all the time.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    called: AtomicBool,
    waker: AtomicWaker,
}

impl Wake {
    /// Wakes the task.
    pub(crate) fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Returns when it was called since the last return. Cancel safe. For one waiting task: of two, the first is forgotten.
    pub(crate) async fn called(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // It may have been called before the waker was there.
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&self) -> bool {
        // No write where nobody has called: most looks are for another reason.
        self.called.load(Ordering::Acquire) && self.called.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        time::Duration,
    };

    use tokio::time;

    use super::*;

    #[tokio::test]
    async fn a_call_before_the_wait_counts_once() {
        let wake = Wake::default();
        wake.call();
        wake.call();
        wake.called().await;
        assert!(time::timeout(Duration::from_millis(10), wake.called()).await.is_err());
        wake.call();
        wake.called().await;
    }

    /// Each call is seen, at whatever moment of a look it comes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_missed() {
        const CALLS: usize = 50_000;
        let wake = Arc::new(Wake::default());
        let seen = Arc::new(AtomicUsize::new(0));
        let (caller, counter) = (Arc::clone(&wake), Arc::clone(&seen));
        std::thread::spawn(move || {
            for n in 0..CALLS {
                while counter.load(Ordering::SeqCst) < n {
                    std::hint::spin_loop();
                }
                caller.call();
            }
        });
        let all = async {
            for _ in 0..CALLS {
                wake.called().await;
                seen.fetch_add(1, Ordering::SeqCst);
            }
        };
        time::timeout(Duration::from_secs(60), all).await.expect("a call was missed");
    }
}
