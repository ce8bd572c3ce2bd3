//! The `realtime` binary: settings, then the server, then a graceful stop.

use std::{
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use realtime_server::{
    cli::{Cli, Command, DevArgs, EXIT_CONFIG, ServeArgs, TokenArgs},
    config::{self, ConfigError, Env, Settings},
    dev, logging, migrate,
    startup::Server,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Gives memory back to the system within some seconds, from a thread of its own: what a burst, or a client that did not
/// read, once took is not kept for ever.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let command = command.unwrap_or_else(|| Command::Serve(ServeArgs::default()));
    if matches!(command, Command::Reference) {
        print(config::reference::page().trim_end());
        return ExitCode::SUCCESS;
    }
    let lookup = |name: &str| std::env::var(name).ok();
    let outcome = Env::read(&lookup, config.as_deref()).and_then(|env| match command {
        Command::Serve(args) => serve(&args, &env),
        Command::Dev(args) => run_dev(&args, config.as_deref()),
        Command::Token(args) => token(&args, &env),
        Command::Migrate => Ok(run_migrate(&Settings::from_env(&env)?)),
        Command::CheckConfig => {
            let settings = Settings::from_env(&env)?;
            print(config::effective(&env, &settings).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Reference => Ok(ExitCode::SUCCESS),
    });
    outcome.unwrap_or_else(|error| {
        print_error(&format!("Wrong setting: {error}"));
        ExitCode::from(EXIT_CONFIG)
    })
}

fn serve(args: &ServeArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    let settings = Settings::from_env(env)?;
    let _traces = logging::init(env)?;
    if !env.ignored().is_empty() {
        tracing::info!(
            variables = env.ignored().join(", "),
            "settings without meaning for this server are ignored"
        );
    }
    raise_descriptor_limit();
    if settings.well_known_secret {
        tracing::warn!("API_JWT_SECRET is not set: tokens are signed with a secret that everybody knows");
    }
    let (until_stdin_ends, port) = (args.until_stdin_ends, settings.port);
    Ok(run(async move {
        let server = match Server::bind(settings) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, port, "the server cannot start");
                return ExitCode::FAILURE;
            }
        };
        if let Err(error) = server.join_others().await {
            tracing::error!(%error, "cannot join the other nodes");
            return ExitCode::from(EXIT_CONFIG);
        }
        if let Ok(port) = server.port() {
            tracing::info!(port, version = env!("CARGO_PKG_VERSION"), "serving");
        }
        ignore_other_signals();
        let stop = stop_signal();
        server
            .run(async move { if until_stdin_ends { stop_or_end_of_input(stop).await } else { stop.await } })
            .await;
        ExitCode::SUCCESS
    }))
}

/// Every socket is a file descriptor; the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn run_dev(args: &DevArgs, config: Option<&Path>) -> Result<ExitCode, ConfigError> {
    let _traces = logging::init_for_people(&Env::read(&|name| std::env::var(name).ok(), config)?)?;
    Ok(run(async {
        match dev::run(args, config, stop_signal()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(&error.to_string());
                ExitCode::FAILURE
            }
        }
    }))
}

fn run_migrate(settings: &Settings) -> ExitCode {
    run(async {
        let outcome = migrate::run(settings).await;
        print(outcome.text.trim_end());
        if outcome.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn token(args: &TokenArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    print(&args.token(env, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())?);
    Ok(ExitCode::SUCCESS)
}

/// Runs the server's future on a runtime of all cores.
fn run(main: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(main),
        Err(error) => {
            print_error(&format!("Cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Done when the process is asked to stop: SIGTERM, or Ctrl-C. They are listened for from the call on, not from the first
/// poll: who stops a server that has just begun to serve means a graceful stop too.
fn stop_signal() -> impl Future<Output = ()> {
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
async fn stop_or_end_of_input(stop: impl Future<Output = ()>) {
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
fn ignore_other_signals() {
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
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Before and after logging there is nothing else.
fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
