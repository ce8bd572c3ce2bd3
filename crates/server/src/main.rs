//! The `realtime` binary: settings, then the server, then a graceful stop.

use std::{
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use realtime_server::{
    cli::{Cli, Command, DevArgs, EXIT_CONFIG, ServeArgs, TokenArgs, WatchArgs},
    config::{self, ConfigError, Env, Settings},
    dev, migrate,
    operators::logging,
    process::{block_on, print, print_error, stop_signal},
    run, watch,
};

/// Returns memory to the system within some seconds, from a thread of its own. So a burst, or a client that does not
/// read, takes memory only for a while.
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
        Command::Watch(args) => run_watch(&args, &env),
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
    if settings.well_known_secret {
        tracing::warn!("API_JWT_SECRET is not set: tokens are signed with a secret that everybody knows");
    }
    Ok(block_on(run::serve(settings, args.until_stdin_ends)))
}

fn run_dev(args: &DevArgs, config: Option<&Path>) -> Result<ExitCode, ConfigError> {
    let _traces = logging::init_for_people(&Env::read(&|name| std::env::var(name).ok(), config)?)?;
    Ok(block_on(async {
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
    block_on(async {
        let outcome = migrate::run(settings).await;
        print(outcome.text.trim_end());
        if outcome.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn token(args: &TokenArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    print(&args.token(env, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())?);
    Ok(ExitCode::SUCCESS)
}

fn run_watch(args: &WatchArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    let asked = watch::Asked::new(args, env)?;
    Ok(block_on(async {
        match watch::run(asked, stop_signal()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(&error.to_string());
                ExitCode::FAILURE
            }
        }
    }))
}
