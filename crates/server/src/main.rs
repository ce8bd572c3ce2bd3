//! The `realtime` binary: settings, then the server, then a graceful stop.

use std::{
    io::IsTerminal as _,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser as _;
use realtime_doctor::explain::Outcome;
use realtime_server::{
    cli::{
        Cli, Command, DevArgs, DoctorArgs, EXIT_CONFIG, ExplainArgs, MigrateArgs, SendArgs, ServeArgs,
        TenantsArgs, TokenArgs, WatchArgs,
    },
    config::{self, ConfigError, Env, NearMiss, Settings},
    dev, doctor, explain, migrate,
    operators::logging,
    pages,
    process::{block_on, print, print_error, stop_signal},
    remote, run, watch,
};
use secrecy::{ExposeSecret as _, SecretString};

/// Returns memory to the system within some seconds, from a thread of its own. So a burst, or a client that does not
/// read, takes memory only for a while.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let command = command.unwrap_or_else(|| Command::Serve(ServeArgs::default()));
    if let Some(page) = page(&command) {
        return page;
    }
    let lookup = |name: &str| std::env::var(name).ok();
    match &command {
        Command::CheckConfig => return check_config(&lookup, config.as_deref()),
        Command::Doctor(args) => return run_doctor(args, &lookup, config.as_deref()),
        Command::Explain(args) => return run_explain(args, &lookup, config.as_deref()),
        _ => {}
    }
    let outcome = Env::read(&lookup, config.as_deref()).and_then(|env| match command {
        Command::Serve(args) => serve(&args, &env),
        Command::Dev(args) => run_dev(&args, config.as_deref()),
        Command::Token(args) => token(&args, &env),
        Command::Watch(args) => run_watch(&args, &env),
        Command::Send(args) => run_send(&args, &env),
        Command::Tenants(args) => run_tenants(&args, &env),
        Command::Migrate(args) => Ok(run_migrate(args, &Settings::from_env(&env)?)),
        // These had their turn.
        Command::CheckConfig
        | Command::Doctor(_)
        | Command::Explain(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Reference => Ok(ExitCode::SUCCESS),
    });
    outcome.unwrap_or_else(|error| wrong_settings(&[error]))
}

/// Tells what is wrong with the settings, a line for each.
fn wrong_settings(errors: &[ConfigError]) -> ExitCode {
    for error in errors {
        print_error(&format!("Wrong setting: {error}"));
    }
    ExitCode::from(EXIT_CONFIG)
}

/// Variables of this process that are nearly settings.
fn near_misses() -> Vec<NearMiss> {
    config::misses(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn check_config(lookup: &dyn Fn(&str) -> Option<String>, config: Option<&Path>) -> ExitCode {
    let (env, problems) = Env::read_all(lookup, config);
    let misses = near_misses();
    match config::check(env.clone(), problems) {
        Ok(settings) => {
            print(config::effective(&env, &settings).trim_end());
            for finding in doctor::of_settings(&env, &settings, &misses) {
                print(&format!("# {}: {}", finding.severity.as_str(), finding.text));
            }
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for miss in misses {
                print_error(&format!("Unknown setting: {}; did you mean {}?", miss.name, miss.meant));
            }
            wrong_settings(&errors)
        }
    }
}

fn run_doctor(args: &DoctorArgs, lookup: &dyn Fn(&str) -> Option<String>, config: Option<&Path>) -> ExitCode {
    let (env, problems) = match with_url(args.url.as_ref(), lookup, config) {
        Ok(read) => read,
        Err(error) => return wrong_settings(&[error]),
    };
    let settings = config::check(env.clone(), problems);
    let is_usable = settings.is_ok();
    let asked = doctor::Asked { env, settings, misses: near_misses(), tenant: args.tenant.clone() };
    block_on(async move {
        let report = doctor::run(&asked).await;
        if args.json {
            print(&format!("{:#}", report.json()));
        } else {
            print(report.text(args.all, has_colours()).trim_end());
        }
        match (is_usable, report.is_right(args.strict)) {
            (false, _) => ExitCode::from(EXIT_CONFIG),
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::FAILURE,
        }
    })
}

/// The settings, with the database of an address if one is given. Tenants of the file have databases of their own.
fn with_url(
    url: Option<&SecretString>,
    lookup: &dyn Fn(&str) -> Option<String>,
    config: Option<&Path>,
) -> Result<(Env, Vec<ConfigError>), ConfigError> {
    let Some(url) = url else { return Ok(Env::read_all(lookup, config)) };
    let of_url = doctor::of_url(url)?;
    let lookup = |name: &str| {
        let given = of_url.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        // What the address says of the password counts, and not a file.
        given.or_else(|| lookup(name).filter(|_| name != "DB_PASSWORD_FILE"))
    };
    Ok(Env::read_all(&lookup, None))
}

fn run_explain(
    args: &ExplainArgs,
    lookup: &dyn Fn(&str) -> Option<String>,
    config: Option<&Path>,
) -> ExitCode {
    let settings = with_url(args.url.as_ref(), lookup, config)
        .map_err(|error| vec![error])
        .and_then(|(env, problems)| config::check(env, problems));
    let settings = match settings {
        Ok(settings) => settings,
        Err(errors) => return wrong_settings(&errors),
    };
    let asked = match explain::Asked::read(&args.params()) {
        Ok(asked) => asked,
        Err(problem) => return wrong_settings(&[ConfigError::new("The binding:", problem)]),
    };
    let now = since_1970().as_secs();
    block_on(async {
        let token = args.token.expose_secret().trim();
        match explain::run(&settings, args.tenant.as_deref(), token, now, &asked).await {
            Ok(explanation) => {
                match (args.json, serde_json::to_string_pretty(&explanation)) {
                    (true, Ok(json)) => print(&json),
                    _ => print(&explanation.text()),
                }
                if explanation.sent == Outcome::No { ExitCode::FAILURE } else { ExitCode::SUCCESS }
            }
            Err(error) => {
                print_error(&error);
                ExitCode::FAILURE
            }
        }
    })
}

/// Whether standard output is a terminal that may be coloured.
fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Prints what needs no settings. `None`: something else is wanted.
fn page(command: &Command) -> Option<ExitCode> {
    let text = match command {
        Command::Reference => config::reference::page(),
        Command::Completions(args) => String::from_utf8_lossy(&pages::completions(args.shell)).into_owned(),
        Command::Man(args) => match pages::man(args.command.as_deref()) {
            Ok(Some(page)) => String::from_utf8_lossy(&page).into_owned(),
            Ok(None) => {
                print_error("There is no such command");
                return Some(ExitCode::FAILURE);
            }
            Err(error) => {
                print_error(&error.to_string());
                return Some(ExitCode::FAILURE);
            }
        },
        _ => return None,
    };
    print(text.trim_end());
    Some(ExitCode::SUCCESS)
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
    for miss in near_misses() {
        tracing::warn!(
            variable = miss.name,
            "this is no setting and has no effect; did you mean {}?",
            miss.meant
        );
    }
    if settings.well_known_secret {
        tracing::warn!(
            "API_JWT_SECRET is not set: tokens are signed with a secret that everybody knows; set it to one of at least 32 bytes"
        );
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

fn run_migrate(args: MigrateArgs, settings: &Settings) -> ExitCode {
    block_on(async {
        let outcome = migrate::run(settings, args.dry_run).await;
        print(outcome.text.trim_end());
        if outcome.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn token(args: &TokenArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    print(&args.token(env, since_1970())?);
    Ok(ExitCode::SUCCESS)
}

/// The time since 1970.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn run_send(args: &SendArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    let token = args.token(env, since_1970())?;
    Ok(block_on(async { ended(remote::send(args, &token).await) }))
}

fn run_tenants(args: &TenantsArgs, env: &Env) -> Result<ExitCode, ConfigError> {
    let token = args.token(env, since_1970())?;
    Ok(block_on(async { ended(remote::tenants(args, &token).await.map(|text| print(&text))) }))
}

/// Tells why something failed.
fn ended(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
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
