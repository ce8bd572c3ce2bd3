//! The process: signals, file descriptors, and printing to a person.

use std::{io::Write as _, process::ExitCode};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Raises the limit of file descriptors. Every socket is one; the usual soft limit of 1024 is for programs that use
/// `select`.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files, and each socket is one; raise it from outside (ulimit -n, LimitNOFILE)");
    }
}

/// Done when the process is asked to stop: SIGTERM, or Ctrl-C. Signals are handled from the call on, not from the
/// first poll, so that a server that has just begun to serve stops gracefully, too.
pub fn stop_signal() -> impl Future<Output = ()> {
    let signals = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    async move {
        match signals {
            Ok((mut terminate, mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot listen for signals: stop the server with SIGKILL");
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Done when `stop` is done, or when standard input ends. A thread of its own reads the input: a thread of the runtime
/// would delay the end of the program.
pub async fn stop_or_end_of_input(stop: impl Future<Output = ()>) {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    tokio::select! {
        () = stop => {}
        _ = end => {}
    }
}

/// Ignores signals that have no meaning for a server but would end it: closing a terminal, or a script that wants a
/// reload, must not cost the sockets (http_and_ops 64).
pub fn ignore_other_signals() {
    // The task that reloads certificates handles SIGHUP later. Until then it must not end the process.
    if let Err(error) = signal(SignalKind::hangup()) {
        tracing::warn!(%error, signal = "SIGHUP", "signal cannot be ignored");
    }
    let signals = [
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
        ("SIGALRM", SignalKind::alarm()),
    ];
    for (name, kind) in signals {
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        tracing::info!(signal = name, "signal ignored");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, signal = name, "signal cannot be ignored"),
        }
    }
}

/// Prints what a person asked for. A closed output, as with `| head`, is no error.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints an error before logging has begun or after it has ended.
pub fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Runs the server on a runtime that uses all cores.
pub fn block_on(main: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(main),
        Err(error) => {
            print_error(&format!("Cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}
