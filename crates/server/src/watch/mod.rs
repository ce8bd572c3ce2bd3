//! `realtime watch`: a client of live rows, for people and for scripts.
//!
//! A task follows the server ([`session`]) and tells what it hears. On a terminal the rows are kept ([`rows`]) and drawn in
//! place ([`draw`], [`screen`]). Elsewhere each message is a line of JSON ([`lines`]).

mod asked;
mod draw;
mod error;
mod frames;
mod lines;
mod rows;
mod screen;
mod session;
mod told;

use std::io::IsTerminal as _;

use tokio::{
    sync::mpsc,
    time::{self, Duration},
};

pub use self::{asked::Asked, error::WatchError};

/// Messages that were read and not shown yet. The socket waits beyond that.
const UNSHOWN: usize = 1_024;

/// How long a session that nobody hears any more is waited for: it may say why it has ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Shows rows until `stop` is done or nobody reads the output any more.
///
/// # Errors
/// When the server refuses before the rows were there once. Lost connections are made again.
pub async fn run(asked: Asked, stop: impl Future<Output = ()>) -> Result<(), WatchError> {
    let (tell, told) = mpsc::channel(UNSHOWN);
    let on_screen = !asked.events && std::io::stdout().is_terminal();
    let (title, order) = (asked.title(), asked.order().to_vec());
    let followed = tokio::spawn(async move { session::follow(&asked, &tell).await });
    let shown = async {
        if on_screen {
            screen::show(told, title, order).await;
        } else {
            lines::show(told).await;
        }
    };
    let mut stop = std::pin::pin!(stop);
    let mut shown = std::pin::pin!(shown);
    tokio::select! {
        () = &mut stop => Ok(()),
        // It ends when the session has ended, or when the output is closed.
        () = &mut shown => match time::timeout(LAST_WORD, followed).await {
            Ok(ended) => ended.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        },
    }
}
