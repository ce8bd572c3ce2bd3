use secrecy::ExposeSecret as _;

use super::*;
use crate::config::{Env, Settings};

/// A folder with a configuration file and others beside it.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn settings(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = folder(files);
    let lookup =
        |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    let prefix = format!("{}/", dir.path().display());
    Env::read(&lookup, Some(&dir.path().join("realtime.toml")))
        .and_then(|env| Settings::from_env(&env))
        .map_err(|error| error.to_string().replace(&prefix, ""))
}

#[test]
fn a_file_with_everything() {
    let file = r#"
        [server]
        port = 5000
        [auth]
        jwt_secret_file = "secret"
        claim_validators = { iss = "me" }
        [limits]
        max_concurrent_users = 5
        [database]
        host = "db"
        password = "from file"
        ssl = false
        [messages]
        run_janitor = false
    "#;
    let files = [("realtime.toml", file), ("secret", "s3cret\n")];
    let settings = settings(&files, &[("DB_PASSWORD", "from environment")]).unwrap();
    assert_eq!(settings.port, 5000);
    assert!(!settings.janitor.delete && !settings.well_known_secret);
    let [tenant] = &settings.tenants[..] else { panic!("one tenant expected") };
    assert_eq!(tenant.jwt_secret.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!(tenant.database.host, "db");
    assert_eq!(tenant.database.password.expose_secret(), "from environment");
    assert_eq!(tenant.limits.max_concurrent_users, 5);
}

#[test]
fn several_tenants() {
    let file = r#"
        [database]
        host = "db"
        slot_name_suffix = "x"
    "#;
    let wrong = settings(&[("realtime.toml", file)], &[]).unwrap_err();
    assert_eq!(wrong, "realtime.toml:4:9: unknown key slot_name_suffix in [database]");

    let file = r#"
        [database]
        host = "db"
        [limits]
        max_events_per_second = 9
        [[tenants]]
        external_id = "Shop"
        default = true
        jwt_secret_file = "shop"
        database = { name = "shop", password = "pw", slot_name_suffix = "shop", slot_durable = true }
        [[tenants]]
        external_id = "lab"
        jwks = { keys = [] }
        private_only = true
        limits = { max_joins_per_second = 1 }
        database = { host = "lab", ssl_mode = "require", slot_durable = true }
    "#;
    let files = [("realtime.toml", file), ("shop", "s3cret")];
    let read = settings(&files, &[]).unwrap();
    let [shop, lab] = &read.tenants[..] else { panic!("two tenants expected") };
    assert_eq!((&*shop.external_id, shop.default, &*shop.database.name), ("shop", true, "shop"));
    assert_eq!(shop.jwt_secret.as_ref().unwrap().expose_secret(), "s3cret");
    assert_eq!((&*shop.database.host, shop.limits.max_events_per_second), ("db", 9));
    assert_eq!(shop.database.slot_name, "supabase_realtime_replication_slot_shop");
    assert!(lab.jwt_secret.is_none() && lab.private_only && !lab.default);
    assert_eq!(lab.jwt_jwks.as_deref(), Some(r#"{"keys":[]}"#));
    assert_eq!((lab.limits.max_joins_per_second, lab.limits.max_events_per_second), (1, 9));
    assert_eq!((&*lab.database.host, lab.database.route.tls.mode().name()), ("lab", "require"));
    // The environment describes one too when it says so; then two are the default.
    let both = settings(&files, &[("SEED_SELF_HOST", "true")]).unwrap_err();
    assert!(both.starts_with("realtime.toml:6:9: default of tenant Shop is another tenant's too"), "{both}");
}

#[test]
fn what_is_wrong_is_one_line_with_its_place() {
    let tenant = |rest: &str| format!("[[tenants]]\nexternal_id = \"a\"\njwt_secret = \"s\"\n{rest}");
    for (text, expected) in [
        ("[server]\nprot = 1", "realtime.toml:2:1: unknown key prot in [server]; did you mean port?"),
        ("[serber]\n", "realtime.toml:1:2: unknown table serber; did you mean server?"),
        ("port = 1", "realtime.toml:1:1: unknown table port"),
        ("server = 1", "realtime.toml:1:10: server must be a table, written [server]"),
        ("[server]\nport = \"4000\"", "realtime.toml:2:8: port must be a whole number, not a TOML string"),
        (
            "[server]\nport = 70000",
            "realtime.toml:2:1: port must be a whole number from 0 to 65535, not \"70000\"",
        ),
        ("[server]\nregion = \"\"", "realtime.toml:2:10: region is empty: leave it out instead"),
        ("[log]\nlevel = \"info\"\nlevel = \"info\"", "realtime.toml:3:1: duplicate key"),
        (
            "[log]\nlevel = \"loud\"",
            "realtime.toml:2:1: level must be one of emergency, alert, critical, error, warning, warn, notice, info, debug, trace, not \"loud\"",
        ),
        (
            "[database]\npassword_file = \"none\"",
            "realtime.toml:2:1: password_file names none, which cannot be used: No such file or directory (os error 2)",
        ),
        (
            &tenant("colour = 1"),
            "realtime.toml:4:1: unknown field `colour`, expected one of `external_id`, `default`, `jwt_secret`, `jwt_secret_file`, `jwks`, `jwks_file`, `private_only`, `suspend`, `presence_enabled`, `webhooks_file`, `limits`, `database`",
        ),
        (
            &tenant("database = { port = 70000 }"),
            "realtime.toml:4:21: invalid value: integer `70000`, expected u16",
        ),
        (
            &tenant("jwt_secret_file = \"x\""),
            "realtime.toml:1:1: tenant a: jwt_secret_file cannot be set beside jwt_secret",
        ),
        (
            &tenant("[[tenants]]\nexternal_id = \"A\"\njwt_secret = \"x\""),
            "realtime.toml:4:1: external_id of tenant A is another tenant's too",
        ),
        (
            &tenant("[[tenants]]\nexternal_id = \"b\""),
            "realtime.toml:4:1: jwt_secret of tenant b or jwks has to be set",
        ),
        (
            &tenant("[[tenants]]\nexternal_id = \"b.c\""),
            "realtime.toml:4:1: external_id of tenant b.c must consist of letters, digits, - and _",
        ),
        (
            &tenant("database = { ssl_ca_cert = \"none.pem\" }"),
            "realtime.toml:1:1: ssl_ca_cert of tenant a cannot be used: CA file none.pem: there is no such file",
        ),
    ] {
        assert_eq!(settings(&[("realtime.toml", text)], &[]).map(drop), Err(expected.to_owned()), "{text}");
    }
}

/// The example of docs/configuration.md is a file that works.
#[test]
fn the_example_of_the_reference() {
    let page = crate::config::reference::page();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let example = example.replace("/run/secrets/", "");
    let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
    let files = [
        ("realtime.toml", &*example),
        ("metrics", "m"),
        ("db_password", "p"),
        ("ca.pem", &*ca),
        ("shop", "s"),
        ("lab-jwks.json", r#"{"keys": []}"#),
    ];
    let settings = settings(&files, &[]).unwrap();
    let [shop, lab] = &settings.tenants[..] else { panic!("two tenants expected") };
    assert_eq!(
        (shop.default, &*shop.database.host, &*lab.database.host),
        (true, "db.internal", "lab.internal")
    );
    assert_eq!(lab.database.route.tls.mode().name(), "verify-full");
}

#[test]
fn near_words() {
    assert_eq!(nearest("max_conections", ["port", "max_connections"].into_iter()), Some("max_connections"));
    assert_eq!(nearest("colour", ["port", "region"].into_iter()), None);
}
