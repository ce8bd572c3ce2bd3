//! The `realtime` binary: settings, then the server, then a graceful stop.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use realtime_server::{
    cli::{Cli, Command, DevArgs, EXIT_CONFIG, TokenArgs},
    config::{self, ConfigError, Env, Settings},
    dev, logging, migrate,
    startup::Server,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => match settings() {
            Ok(settings) => serve(settings),
            Err(error) => wrong_config(&error),
        },
        Command::Dev(args) => run_dev(&args),
        Command::Token(args) => token(&args),
        Command::Migrate => match settings() {
            Ok(settings) => run_migrate(&settings),
            Err(error) => wrong_config(&error),
        },
        Command::CheckConfig => match settings() {
            Ok(settings) => {
                print(&format!("{settings:#?}"));
                ExitCode::SUCCESS
            }
            Err(error) => wrong_config(&error),
        },
    }
}

fn settings() -> Result<Settings, ConfigError> {
    Settings::from_env(&Env::new(&|name| std::env::var(name).ok()))
}

fn serve(settings: Settings) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    if let Err(error) = logging::init(&Env::new(&env)) {
        return wrong_config(&error);
    }
    let ignored = config::ignored::present(|name| std::env::var_os(name).is_some());
    if !ignored.is_empty() {
        tracing::info!(
            variables = ignored.join(", "),
            "settings without meaning for this server are ignored"
        );
    }
    raise_descriptor_limit();
    if settings.well_known_secret {
        tracing::warn!("API_JWT_SECRET is not set: tokens are signed with a secret that everybody knows");
    }
    run(async move {
        let server = match Server::bind(settings) {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%error, "cannot listen");
                return ExitCode::FAILURE;
            }
        };
        if let Err(error) = server.join_others().await {
            return wrong_config(&ConfigError::new("NATS_URL", error));
        }
        if let Ok(port) = server.port() {
            tracing::info!(port, version = env!("CARGO_PKG_VERSION"), "serving");
        }
        server.run(stop_signal()).await;
        ExitCode::SUCCESS
    })
}

/// Every socket is a file descriptor; the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn run_dev(args: &DevArgs) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    if let Err(error) = logging::init_for_people(&Env::new(&env)) {
        return wrong_config(&error);
    }
    run(async {
        match dev::run(args, stop_signal()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(&error.to_string());
                ExitCode::FAILURE
            }
        }
    })
}

fn run_migrate(settings: &Settings) -> ExitCode {
    run(async {
        let outcome = migrate::run(settings).await;
        print(outcome.text.trim_end());
        if outcome.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn token(args: &TokenArgs) -> ExitCode {
    let secret = std::env::var("API_JWT_SECRET").unwrap_or_else(|_| config::WELL_KNOWN_SECRET.to_owned());
    match args.claims(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()) {
        Ok(claims) => {
            print(&realtime_auth::sign_hs256(&secret, &claims));
            ExitCode::SUCCESS
        }
        Err(error) => wrong_config(&ConfigError::new("--claims", error)),
    }
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

/// Done when the process is asked to stop: SIGTERM, or Ctrl-C.
async fn stop_signal() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot listen for signals: stop the server with SIGKILL");
            std::future::pending::<()>().await;
        }
    }
}

fn wrong_config(error: &ConfigError) -> ExitCode {
    print_error(&format!("Wrong setting: {error}"));
    ExitCode::from(EXIT_CONFIG)
}

#[expect(clippy::print_stdout, reason = "what a person asked to see")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "before and after logging there is nothing else")]
fn print_error(text: &str) {
    eprintln!("{text}");
}
