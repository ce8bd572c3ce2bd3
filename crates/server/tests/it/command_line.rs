//! The binary as operators meet it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::BINARY;

fn run(arguments: &[&str], env: &[(&str, &str)]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(BINARY).args(arguments).env_clear().envs(env.iter().copied()).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

#[test]
fn wrong_settings_end_with_64_and_one_line() -> Result<()> {
    for (arguments, name) in [(&[][..], "PORT"), (&["check-config"], "PORT"), (&[], "LOG_LEVEL")] {
        let (code, _, errors) = run(arguments, &[(name, "nonsense")])?;
        assert_eq!((code, errors.lines().count()), (Some(64), 1), "{errors}");
        assert!(errors.starts_with(&format!("Wrong setting: {name} must be")), "{errors}");
    }
    Ok(())
}

/// The port is named: it is not always the one that was meant.
#[test]
fn a_port_that_is_taken_is_named() -> Result<()> {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = taken.local_addr()?.port().to_string();
    let (code, _, errors) = run(&[], &[("PORT", &port), ("DB_PORT", "1"), ("REALTIME_IP_VERSION", "ipv4")])?;
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains(&format!("\"port\":{port}")) && errors.contains("cannot start"), "{errors}");
    Ok(())
}

/// As with `realtime check-config | head -1`.
#[test]
fn who_stops_reading_sees_no_failure() -> Result<()> {
    let mut command = Command::new(BINARY);
    command.arg("check-config").env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn check_config_shows_everything_but_secrets() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("realtime.toml");
    std::fs::write(
        &file,
        "[server]\nport = 5000\nregion = \"here\"\n[auth]\nmetrics_jwt_secret = \"m3trics\"\n
         [auth.claim_validators]\niss = \"me\"\n
         [[tenants]]\nexternal_id = \"shop\"\njwt_secret = \"sh0p\"\ndatabase = { name = \"shop\", password = \"pw\" }\n",
    )?;
    std::fs::write(dir.path().join("password"), "pa55\n")?;
    let password = dir.path().join("password").display().to_string();
    let config = file.display().to_string();
    let env = [
        ("API_JWT_SECRET", "s3cret"),
        ("DB_PASSWORD_FILE", &*password),
        ("DB_HOST", "db.example"),
        ("PORT", "5001"),
        ("SEED_SELF_HOST", "true"),
        ("ERL_AFLAGS", "-proto_dist inet_tcp"),
        ("NUM_ACCEPTORS", "1"),
    ];
    let (code, shown, errors) = run(&["check-config", "--config", &config], &env)?;
    assert_eq!(code, Some(0), "{errors}");
    for secret in ["s3cret", "pa55", "m3trics", "sh0p", "\"pw\""] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
    // Not all of it: who adds a setting should not have to look here.
    let set = shown.lines().filter(|line| !line.ends_with(", default") && !line.ends_with(", not set"));
    let set = set
        .filter(|line| line.contains('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let set = set.collect::<Vec<_>>().join("\n").replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(set);

    // What it prints is a file that says the same, but for the secrets.
    std::fs::write(&file, shown)?;
    let (code, again, errors) = run(&["check-config"], &[("REALTIME_CONFIG", &*config)])?;
    assert_eq!(code, Some(0), "{errors}");
    assert!(again.contains("port = 5001") && again.contains("host = \"db.example\""), "{again}");
    Ok(())
}

#[test]
fn files_that_are_wrong_end_with_64_and_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("realtime.toml").display().to_string();
    let (code, _, errors) = run(&["--config", &file], &[])?;
    let expected = format!("Wrong setting: {file} cannot be read: No such file or directory (os error 2)\n");
    assert_eq!((code, &*errors), (Some(64), &*expected));
    std::fs::write(&file, "[server]\nprot = 1\n")?;
    for command in ["serve", "migrate", "check-config", "token"] {
        let (code, _, errors) = run(&[command, "--config", &file], &[])?;
        let expected =
            format!("Wrong setting: {file}:2:1: unknown key prot in [server]; did you mean port?\n");
        assert_eq!((code, &*errors), (Some(64), &*expected));
    }
    Ok(())
}

/// The claims of a printed token, if this secret has signed it.
fn claims(token: &str, secret: &str) -> Result<serde_json::Value> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).unwrap_or_default();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(payload)?)?;
    anyhow::ensure!(
        token == format!("{}\n", realtime_auth::sign_hs256(secret, &claims)),
        "{token}: {claims}"
    );
    Ok(serde_json::from_str(&claims)?)
}

#[test]
fn tokens_can_be_made() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (config, secret_file) = (path("realtime.toml"), path("secret"));
    std::fs::write(&secret_file, "of a file\n")?;
    std::fs::write(
        &config,
        "[[tenants]]\nexternal_id = \"shop\"\njwt_secret = \"of the shop\"\n[[tenants]]\nexternal_id = \"lab\"\njwks = { keys = [] }\n",
    )?;
    let env = [("API_JWT_SECRET", "s3cret"), ("METRICS_JWT_SECRET", "m3trics")];
    let well_known = "super-secret-jwt-token-with-at-least-32-characters-long";
    for (arguments, env, secret, role) in [
        (&[][..], &[][..], well_known, Some("anon")),
        (&[], &env, "s3cret", Some("anon")),
        (&["--role", "authenticated"], &env, "s3cret", Some("authenticated")),
        (&["--tenant", "realtime-dev"], &env, "s3cret", Some("anon")),
        (&["--admin"], &env, "s3cret", None),
        (&["--metrics"], &env, "m3trics", None),
        (&["--secret", "given"], &env, "given", Some("anon")),
        (&["--secret-file", &secret_file], &env, "of a file", Some("anon")),
        (&["--tenant", "shop", "--config", &config], &env, "of the shop", Some("anon")),
    ] {
        let (code, token, errors) = run(&[&["token"], arguments].concat(), env)?;
        assert_eq!((code, &*errors), (Some(0), ""), "{arguments:?}");
        let claims = claims(&token, secret)?;
        assert_eq!(claims["role"].as_str(), role, "{arguments:?}");
        assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|iat| iat + 3600));
    }
    for (arguments, problem) in [
        (&["--claims", "[]"][..], "--claims must be a JSON object"),
        (&["--metrics"], "METRICS_JWT_SECRET has to be set"),
        (&["--admin"], "API_JWT_SECRET has to be set"),
        (&["--tenant", "nobody"], "--tenant \"nobody\" is no tenant of the settings"),
        (&["--config", &config], "--tenant has to name one of several tenants"),
        (&["--tenant", "lab", "--config", &config], "--tenant \"lab\" has no secret, only a key set"),
        (&["--secret-file", "/nowhere"], "--secret-file /nowhere cannot be read"),
    ] {
        let (code, shown, errors) = run(&[&["token"], arguments].concat(), &[])?;
        assert_eq!((code, &*shown, errors.lines().count()), (Some(64), "", 1), "{errors}");
        assert!(errors.starts_with(&format!("Wrong setting: {problem}")), "{errors}");
    }
    Ok(())
}

#[test]
fn help_names_the_commands() -> Result<()> {
    let (code, help, _) = run(&["--help"], &[])?;
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(help);
    let (code, help, _) = run(&["token", "--help"], &[])?;
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("token_help", help);
    let (code, help, _) = run(&["serve", "--help"], &[])?;
    assert_eq!(code, Some(0));
    assert!(help.contains("  PORT (whole number; 4000)\n      Port to listen on"), "{help}");
    assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    Ok(())
}

/// All at once, with ranges; a misspelt variable has no effect, and that is told.
#[test]
fn everything_that_is_wrong_is_told_at_once() -> Result<()> {
    let env = [("PORT", "70000"), ("DB_SSL", "yes"), ("LOG_LEVEL", "loud"), ("DB_PASSWROD", "x")];
    let (code, _, errors) = run(&["check-config"], &env)?;
    assert_eq!((code, errors.lines().count()), (Some(64), 4), "{errors}");
    for told in [
        "Unknown setting: DB_PASSWROD; did you mean DB_PASSWORD?",
        "Wrong setting: PORT must be a whole number from 0 to 65535, not \"70000\"",
        "Wrong setting: DB_SSL must be",
        "Wrong setting: LOG_LEVEL must be",
    ] {
        assert!(errors.contains(told), "{told}: {errors}");
    }
    let (code, shown, _) = run(&["check-config"], &[("API_JWT_SECRET", "short"), ("DB_PASS", "x")])?;
    assert_eq!(code, Some(0));
    assert!(shown.contains("# warning: API_JWT_SECRET has 5 bytes; 32 are needed"), "{shown}");
    assert!(shown.contains("# warning: DB_PASS is no setting"), "{shown}");
    Ok(())
}

/// A file, too.
#[test]
fn everything_that_is_wrong_with_a_file_is_told_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("realtime.toml").display().to_string();
    std::fs::write(&file, "[server]\nprot = 1\n[database]\nhots = \"a\"\nport = 70000\n")?;
    let (code, _, errors) = run(&["check-config", "--config", &file], &[])?;
    assert_eq!((code, errors.lines().count()), (Some(64), 3), "{errors}");
    Ok(())
}
