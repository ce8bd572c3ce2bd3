//! The process: its signals, its descriptors, and what it prints to a person.

use std::{io::Write as _, process::ExitCode};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Every socket is a file descriptor; the usual soft limit of 1024 is for programs that use `select`.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Done when the process is asked to stop: SIGTERM, or Ctrl-C. They are listened for from the call on, not from the first
/// poll: who stops a server that has just begun to serve means a graceful stop too.
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

/// Done when `stop` is, or standard input ends. A thread waits for that: one of the runtime would hold up the end of the
/// program.
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

/// Signals that mean nothing to a server, and would end it if nobody took them: sockets are not to be lost by a
/// terminal that was closed, or by a script that wants a reload (http_and_ops 64).
pub fn ignore_other_signals() {
    // Taken by whoever reads certificates again, but not before that has begun: until then it must not end the process.
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

/// What a person asked to see. That nobody reads it any more, as with `| head`, is no fault.
pub fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Before and after logging there is nothing else.
pub fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Runs the server's future on a runtime of all cores.
pub fn block_on(main: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(main),
        Err(error) => {
            print_error(&format!("Cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}
