//! The binary as operators meet it.

use std::process::Command;

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

#[test]
fn check_config_shows_everything_but_secrets() -> Result<()> {
    let env = [("API_JWT_SECRET", "s3cret"), ("DB_PASSWORD", "pa55"), ("DB_HOST", "db.example")];
    let (code, shown, _) = run(&["check-config"], &env)?;
    assert_eq!(code, Some(0));
    assert!(shown.contains("db.example") && !shown.contains("s3cret") && !shown.contains("pa55"), "{shown}");
    Ok(())
}

#[test]
fn tokens_can_be_made() -> Result<()> {
    let (code, token, _) = run(&["token", "--role", "authenticated"], &[("API_JWT_SECRET", "s3cret")])?;
    assert_eq!((code, token.trim().split('.').count()), (Some(0), 3));
    let (code, _, errors) = run(&["token", "--claims", "[]"], &[])?;
    assert_eq!((code, errors.lines().count()), (Some(64), 1), "{errors}");
    Ok(())
}

#[test]
fn help_names_the_commands() -> Result<()> {
    let (code, help, _) = run(&["--help"], &[])?;
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(help);
    Ok(())
}
