//! What the server needs beside databases, and the clocks: each as it is right, and broken in each way.

use std::{path::Path, process};

use anyhow::{Context as _, Result, ensure};
use futures_util::future;
use realtime_testkit::{Nats, Server, ServerOptions, TestDb, free_port, sign};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
};

use super::{LONG, doctor, findings};
use crate::{BINARY, authority::Authority};

/// Asks about no database.
const NOBODY: [&str; 3] = ["--json", "--tenant", "nobody"];

/// What a run says of the settings: what is right, and what is wrong with the first line that mends it.
#[derive(Debug)]
struct Said {
    right: String,
    wrong: Vec<(String, String, String)>,
}

impl Said {
    async fn with(variables: &[(&str, &str)]) -> Result<Self> {
        let password = [("DB_PASSWORD", "of-nobody")];
        let env: Vec<(String, String)> = variables
            .iter()
            .chain(&password)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let (_, report, _) = doctor(&env, &NOBODY).await?;
        let of = |finding: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&finding["code"]), text(&finding["text"]), finding["mend"].to_string())
        };
        let wrong: Vec<_> = findings(&report).map(of).filter(|(code, ..)| code != "NoTenant").collect();
        Ok(Self { right: report["parts"][0]["right"].to_string(), wrong })
    }

    fn is_right(&self, what: &str) -> Result<()> {
        ensure!(self.right.contains(what) && self.wrong.is_empty(), "{what}: {self:?}");
        Ok(())
    }

    fn is_wrong(&self, code: &str, text: &str, mend: &str) -> Result<()> {
        let fits = |found: &(String, String, String)| {
            found.0 == code && found.1.contains(text) && found.2.contains(mend)
        };
        ensure!(self.wrong.len() == 1 && self.wrong.iter().all(fits), "{code} {text} {mend}: {self:?}");
        Ok(())
    }
}

/// An HTTP server that gives every request the same answer; none at all if that is empty.
async fn answering(answer: String) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            match answer.is_empty() {
                true => silent.push(stream),
                false => drop(stream.write_all(answer.as_bytes()).await),
            }
        }
    });
    Ok(port)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn with_keys(team: &str) -> Result<Said> {
    Said::with(&[("DASHBOARD_AUTH", "zta"), ("CF_TEAM_DOMAIN", team)]).await
}

#[tokio::test]
async fn the_keys_of_cloudflare_access_are_fetched_and_read() -> Result<()> {
    let key = r#"{"keys":[{"kty":"new"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let (unreachable, unusable) = ("CertificatesUnreachable", "CertificatesUnusable");
    let domain = "CF_TEAM_DOMAIN";
    let cases = [
        (http("200 OK", key), "", ""),
        (http("404 Not Found", ""), unreachable, "404"),
        (http("500 Internal Server Error", key), unreachable, "500"),
        (http("302 Found\r\nLocation: /login", ""), unusable, "is no key set"),
        (http("200 OK", "<html>log in"), unusable, "is no key set"),
        (http("200 OK", r#"{"keys":{}}"#), unusable, "is no key set"),
        (http("200 OK", r#"{"keys":[]}"#), unusable, "has no key that can be used"),
        (http("200 OK", r#"{"keys":[{"kty":"RSA","kid":"a"}]}"#), unusable, "has no key that can be used"),
        (http("200 OK", &" ".repeat(300_000)), unusable, "too large"),
        (String::new(), unreachable, "timed out"),
    ];
    let runs = cases.into_iter().map(async |(answer, code, text)| {
        let said = with_keys(&format!("http://127.0.0.1:{}", answering(answer).await?)).await?;
        if code.is_empty() {
            said.is_right("keys of Cloudflare Access")
        } else {
            said.is_wrong(code, text, domain)
        }
    });
    future::try_join_all(runs).await?;
    // Nobody is there; and somebody who does not speak TLS.
    let said = with_keys(&format!("http://127.0.0.1:{}", free_port()?)).await?;
    said.is_wrong(unreachable, "Connection refused", domain)?;
    let port = answering(http("200 OK", key)).await?;
    with_keys(&format!("https://127.0.0.1:{port}")).await?.is_wrong(unreachable, "cannot be fetched", domain)
}

/// A NATS server with a configuration file.
async fn nats(dir: &Path, name: &str, configuration: &str) -> Result<Nats> {
    let file = dir.join(name);
    std::fs::write(&file, configuration)?;
    Nats::start(&["-c", file.to_str().context("path")?]).await
}

#[tokio::test]
async fn nats_is_tried_with_the_login_and_the_rights_of_the_node() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (plain, guarded) = tokio::try_join!(
        Nats::start(&[]),
        nats(
            dir.path(),
            "guarded",
            r#"authorization { users: [
                { user: me, password: "s3cret-word" },
                { user: deaf, password: pw, permissions: { subscribe: { deny: "realtime.>" } } },
                { user: dumb, password: pw, permissions: { publish: { deny: ["realtime.>", "other.2.>"] } } } ] }"#
        ),
    )?;
    let (plain, port) = (plain.url(), guarded.port());
    let free = format!("nats://127.0.0.1:{}", free_port()?);
    let silent = format!("nats://127.0.0.1:{}", answering(String::new()).await?);
    let of = |login: &str| format!("nats://{login}@127.0.0.1:{port}");
    let (me, wrong, deaf, dumb) = (of("me:s3cret-word"), of("me:an0ther-word"), of("deaf:pw"), of("dumb:pw"));
    let unknown = format!("nats://127.0.0.1:{port}");
    let (unreachable, forbidden) = ("NatsUnreachable", "NatsForbidden");
    let cases = [
        (&plain, "", "", ""),
        (&me, "", "", ""),
        (&free, unreachable, "Connection refused", "start NATS at nats://127.0.0.1:"),
        (&silent, unreachable, "127.0.0.1", "start NATS at"),
        (&wrong, unreachable, "authorization violation", "NATS_USER and NATS_PASSWORD"),
        (&unknown, unreachable, "authorization violation", "NATS_USER and NATS_PASSWORD"),
        (&deaf, forbidden, "Permissions Violation", "publish and subscribe realtime.>"),
        (&dumb, forbidden, "Permissions Violation", "publish and subscribe realtime.>"),
    ];
    let runs = cases.map(async |(url, code, text, mend)| {
        let said = Said::with(&[("NATS_URL", url.as_str())]).await?;
        ensure!(!format!("{said:?}").contains("word\""), "a password is shown: {said:?}");
        if code.is_empty() { said.is_right("NATS") } else { said.is_wrong(code, text, mend) }
    });
    future::try_join_all(runs).await?;
    let said = Said::with(&[("NATS_URL", &*dumb), ("NATS_SUBJECT_PREFIX", "other")]).await?;
    said.is_wrong(forbidden, "Permissions Violation", "other.>")
}

#[tokio::test]
async fn nats_has_a_certificate_that_the_node_trusts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (authority, other) = (Authority::new(dir.path(), "ca")?, Authority::new(dir.path(), "other")?);
    let certified = async |name: &str, host: &str| {
        let (certificate, key) = authority.sign(host)?;
        let files = ["crt", "key"].map(|end| dir.path().join(format!("{name}.{end}")));
        std::fs::write(&files[0], certificate)?;
        std::fs::write(&files[1], key)?;
        let [certificate, key] = files.map(|file| file.display().to_string());
        let tls = format!("tls {{ cert_file: '{certificate}', key_file: '{key}' }}");
        nats(dir.path(), name, &tls).await
    };
    let (nats, stranger) =
        (certified("nats", "localhost").await?, certified("stranger", "other.example").await?);
    let plain = Nats::start(&[]).await?;
    let url = |nats: &Nats| format!("nats://localhost:{}", nats.port());
    let (ca, other) = (authority.file.display().to_string(), other.file.display().to_string());
    let file = "NATS_TLS_CA_FILE";
    let cases = [
        (url(&nats), vec![(file, &*ca)], "", ""),
        (url(&nats), vec![], "UnknownIssuer", file),
        (url(&nats), vec![(file, &*other)], "UnknownIssuer", file),
        (url(&stranger), vec![(file, &*ca)], "not valid for name", "a certificate that is valid"),
        (url(&plain), vec![(file, &*ca), ("NATS_TLS", "true")], "localhost", "agree on TLS"),
    ];
    let runs = cases.into_iter().map(async |(url, mut variables, text, mend)| {
        variables.push(("NATS_URL", &*url));
        let said = Said::with(&variables).await?;
        if text.is_empty() { said.is_right("NATS") } else { said.is_wrong("NatsUnreachable", text, mend) }
    });
    future::try_join_all(runs).await.map(drop)
}

/// A library that has a program believe that it is earlier or later.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("CLOCK_SHIFT"));
    return failed;
}
"#;

/// The command runs on a machine whose clock is wrong.
#[tokio::test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
async fn clocks_that_differ_are_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
    std::fs::write(&source, CLOCK)?;
    let made = process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .context("a C compiler, which cargo needs, too")?;
    ensure!(made.success(), "{made}");
    let db = TestDb::new().await?;
    for (shift, says) in [
        ("0", None),
        ("-3600", Some("The database's clock is 3600 s ahead of this machine's")),
        ("90", Some("The database's clock is 90 s behind this machine's")),
    ] {
        let output = Command::new(BINARY)
            .args(["doctor", "--json"])
            .env_clear()
            .env("API_JWT_SECRET", LONG)
            .envs(db.env().await?)
            .env("LD_PRELOAD", &library)
            .env("CLOCK_SHIFT", shift)
            .output()
            .await?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let apart = findings(&report).find(|finding| finding["code"] == "ClocksApart");
        assert_eq!(apart.and_then(|finding| finding["text"].as_str()), says, "{report:#}");
        let right = report["parts"][1]["right"].to_string();
        assert_eq!(right.contains("clocks"), says.is_none(), "{right}");
        ensure!(says.is_none() || apart.is_some_and(|apart| apart["mend"].to_string().contains("NTP")));
    }
    Ok(())
}

/// Tenants of a metadata database: one whose key set is of no use, one whose record was written with another key.
#[tokio::test]
async fn stored_tenants_that_cannot_be_served_are_told() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("DB_ENC_KEY", "supabaserealtime");
    let server = Server::start(BINARY, &db, options).await?;
    server.administered().await?;
    let bearer = format!("Bearer {}", sign(&json!({})));
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let mut settings = json!({"region": "local", "ssl_enforced": false, "poll_interval_ms": 100});
    let mut env = db.env().await?;
    for (name, value) in &env {
        settings[name.to_ascii_lowercase()] = value.as_str().into();
    }
    env.push(("DB_ENC_KEY".to_owned(), "supabaserealtime".to_owned()));
    let tenant = json!({"tenant": {
        "name": "keyless", "jwt_jwks": {"keys": [{"kty": "RSA", "kid": "a"}]},
        "extensions": [{"type": "postgres_cdc_rls", "settings": settings}],
    }});
    let answer = server.http("PUT", "/api/tenants/keyless", &headers, tenant.to_string().as_bytes()).await?;
    ensure!(answer.status == 201, "{answer:?}");
    server.stop().await?;
    let code = |report: &Value, code: &str| {
        findings(report).find(|finding| finding["code"] == code).map(|finding| finding["text"].to_string())
    };
    let (exit, report, text) = doctor(&env, &["--json", "--tenant", "keyless"]).await?;
    let said = code(&report, "KeySetEmpty").context(text)?;
    ensure!(exit == Some(1) && said.contains("tenant keyless has no key that can be used"), "{said}");
    env.retain(|(name, _)| name != "DB_ENC_KEY");
    env.push(("DB_ENC_KEY".to_owned(), "another-key-of16".to_owned()));
    let (exit, report, text) = doctor(&env, &["--json", "--tenant", "keyless"]).await?;
    let said = code(&report, "TenantUnusable").context(text.clone())?;
    ensure!(exit == Some(1) && said.contains("The record of tenant keyless cannot be used"), "{text}");
    Ok(())
}
