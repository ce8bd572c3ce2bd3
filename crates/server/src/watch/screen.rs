//! The rows on a terminal, redrawn in place.

use std::io::Write as _;

use realtime_changes::OrderBy;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{self, Instant},
};

use super::{
    draw::{self, Canvas, State},
    rows::Rows,
    told::Told,
};

/// Between two drawings: a flood of changes is drawn as often as eyes can follow.
const FRAME: time::Duration = time::Duration::from_millis(50);

/// A terminal that does not tell its size.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// Another screen, without a cursor; and back.
const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";

/// The terminal as it was, when this is dropped; with the last lines, so that something stays to be read.
struct Screen {
    colours: bool,
    last: Vec<String>,
}

impl Screen {
    fn begin() -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let _ = write(BEGIN);
        Self { colours, last: Vec::new() }
    }

    fn canvas(&self) -> Canvas {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).map(|size| (size.ws_col, size.ws_row));
        let (width, height) =
            size.ok().filter(|(width, height)| *width > 0 && *height > 0).unwrap_or(USUAL_SIZE);
        Canvas { width: width.into(), height: height.into(), colours: self.colours }
    }

    fn draw(&mut self, lines: Vec<String>) -> std::io::Result<()> {
        let frame = lines.iter().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n");
        self.last = lines;
        write(&format!("\x1b[H{frame}\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(&format!("{END}{}\n", self.last.join("\n")));
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Shows rows until there is nothing more to tell, or the terminal is gone.
pub(super) async fn show(mut told: mpsc::Receiver<Told>, title: String, order: Vec<OrderBy>) {
    let mut view = View { rows: Rows::new(order), state: State::Connecting, notice: String::new() };
    let mut screen = Screen::begin();
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut frames = time::interval(FRAME);
    frames.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut is_due = true;
    loop {
        tokio::select! {
            message = told.recv() => match message {
                Some(message) => {
                    view.hear(message);
                    is_due = true;
                }
                None => return,
            },
            () = resize(&mut resized) => is_due = true,
            _ = frames.tick(), if is_due => {
                is_due = view.rows.fade(Instant::now());
                let lines = draw::lines(&title, &view.rows, &view.state, &view.notice, screen.canvas());
                if screen.draw(lines).is_err() {
                    return;
                }
            }
        }
    }
}

/// Done when the terminal has another size.
async fn resize(signals: &mut Option<tokio::signal::unix::Signal>) {
    match signals {
        Some(signals) => {
            signals.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// What is shown.
struct View {
    rows: Rows,
    state: State,
    notice: String,
}

impl View {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Joined => self.rows.joined(),
            Told::Change(change) => {
                if let Some(errors) = &change.errors {
                    self.notice = errors.join(", ");
                } else {
                    self.rows.change(*change, Instant::now());
                }
            }
            Told::Complete { .. } => {
                self.rows.complete(Instant::now());
                self.state = State::Live;
                self.notice.clear();
            }
            Told::Notice { message, .. } => self.notice = message,
            Told::Lost { why, pause } => self.state = State::Lost { why, pause },
        }
    }
}
