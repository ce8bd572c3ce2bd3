//! Who may speak to the nodes: every way to log in to NATS, right and wrong.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use nkeys::KeyPair;
use realtime_testkit::{Nats, SECRET, Server, ServerOptions, Socket, TestDb, Version, until};
use serde_json::{Value, json};

use super::{TIMES, say};
use crate::{BINARY, authority::Authority};

const TOPIC: &str = "realtime:lobby";

/// A NATS server with a configuration file, and a database for the nodes.
struct Guarded {
    nats: Nats,
    file: PathBuf,
    db: TestDb,
    dir: tempfile::TempDir,
}

type Variables<'a> = &'a [(&'a str, &'a str)];

impl Guarded {
    async fn start(configuration: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, configuration)?;
        let nats = Nats::start(&["-c", file.to_str().context("path")?]).await?;
        Ok(Self { nats, file, db: TestDb::new().await?, dir })
    }

    /// Changes what NATS demands.
    fn demand(&self, configuration: &str) -> Result<()> {
        std::fs::write(&self.file, configuration)?;
        self.nats.reload()
    }

    async fn node(&self, variables: Variables<'_>) -> Result<Server> {
        let url = format!("nats://localhost:{}", self.nats.port());
        let options = TIMES.iter().chain(variables);
        let options = options.fold(
            ServerOptions::default()
                .env("NATS_URL", &url)
                .env("METRICS_JWT_SECRET", SECRET)
                .env("LOG_LEVEL", "debug"),
            |options, (name, value)| options.env(name, value),
        );
        Server::start(BINARY, &self.db, options).await
    }

    /// Two nodes with these variables are a cluster. Returns them.
    async fn cluster(&self, variables: Variables<'_>) -> Result<[Server; 2]> {
        let nodes = [self.node(variables).await?, self.node(variables).await?];
        for node in &nodes {
            let count = async || Ok(node.metric("realtime_cluster_nodes").await? == 2.0);
            until("two nodes", count).await.with_context(|| node.log())?;
        }
        hear_each_other(&nodes[0], &nodes[1]).await?;
        Ok(nodes)
    }

    /// A node with these variables serves alone, and tells why. No value is in its log.
    async fn alone(&self, variables: Variables<'_>, reason: &str) -> Result<Server> {
        let node = self.node(variables).await?;
        let line = node.logged("UnableToConnectToNats").await?;
        assert!(line.contains(reason), "{reason}: {line}");
        assert_eq!(node.metric("realtime_cluster_connected").await?, 0.0);
        let mut sockets = [enter(&node).await?, enter(&node).await?];
        say(&mut sockets[0], TOPIC, "alone", json!({})).await?;
        assert_eq!(sockets[1].event(TOPIC, "broadcast").await?["event"], "alone");
        says_no_secret(&node, variables);
        Ok(node)
    }
}

fn says_no_secret(node: &Server, variables: Variables<'_>) {
    let log = node.log();
    let secrets = ["NATS_PASSWORD", "NATS_TOKEN", "NATS_NKEY_SEED"];
    for (name, value) in variables.iter().filter(|(name, _)| secrets.contains(name)) {
        assert!(!log.contains(value), "{name}: {log}");
    }
}

async fn enter(node: &Server) -> Result<Socket> {
    let mut socket = node.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join(TOPIC, json!({"config": {}})).await?;
    assert_eq!(reply["status"], "ok", "{reply}");
    Ok(socket)
}

async fn hear_each_other(a: &Server, b: &Server) -> Result<()> {
    let mut sockets = [enter(a).await?, enter(b).await?];
    for from in 0..2 {
        say(&mut sockets[from], TOPIC, "across", json!({ "from": from })).await?;
        assert_eq!(sockets[1 - from].event(TOPIC, "broadcast").await?["payload"]["from"], json!(from));
    }
    Ok(())
}

/// What `realtime check-config` says of variables that cannot be used: one line. A server does not start either.
fn refused(variables: Variables<'_>) -> Result<String> {
    let mut lines = Vec::new();
    for arguments in [&["check-config"][..], &[]] {
        let output = Command::new(BINARY)
            .args(arguments)
            .env_clear()
            .env("NATS_URL", "nats://localhost:1")
            .envs(variables.iter().copied())
            .output()?;
        let text = String::from_utf8(output.stderr)?;
        assert_eq!((output.status.code(), text.lines().count()), (Some(64), 1), "{text}");
        lines.push(text);
    }
    assert_eq!(lines[0], lines[1]);
    lines.pop().context("line")
}

/// By name and password, by token, by NKey: the right ones make a cluster, who has wrong ones is alone until NATS accepts
/// them.
#[tokio::test]
async fn passwords_tokens_and_keys() -> Result<()> {
    let by_name = |password: &str| format!("authorization {{ user: me, password: {password} }}");
    let guarded = Guarded::start(&by_name("s3cret-word")).await?;
    let [one, _two] = guarded.cluster(&[("NATS_USER", "me"), ("NATS_PASSWORD", "s3cret-word")]).await?;
    says_no_secret(&one, &[("NATS_PASSWORD", "s3cret-word")]);
    let wrong: Variables<'_> = &[("NATS_USER", "me"), ("NATS_PASSWORD", "an0ther-word")];
    let late = guarded.alone(wrong, "authorization violation").await?;
    // What it said alone is nobody else's. When NATS takes its password it belongs to those who have that one.
    guarded.demand(&by_name("an0ther-word"))?;
    until("it is let in", || async { Ok(late.metric("realtime_cluster_connected").await? == 1.0) }).await?;
    one.logged("UnableToConnectToNats").await?;
    let url = format!("nats://me:an0ther-word@localhost:{}", guarded.nats.port());
    let third = guarded.node(&[("NATS_URL", &url)]).await?;
    until("two nodes", async || Ok(third.metric("realtime_cluster_nodes").await? == 2.0)).await?;
    hear_each_other(&late, &third).await?;
    says_no_secret(&late, wrong);
    says_no_secret(&third, &[("NATS_PASSWORD", "an0ther-word")]);
    drop((one, late, third));

    let guarded = Guarded::start("authorization { token: \"t0ken-of-the-nodes\" }").await?;
    let [one, _two] = guarded.cluster(&[("NATS_TOKEN", "t0ken-of-the-nodes")]).await?;
    says_no_secret(&one, &[("NATS_TOKEN", "t0ken-of-the-nodes")]);
    guarded.alone(&[("NATS_TOKEN", "an0ther-token")], "authorization violation").await?;
    drop(one);

    let (known, unknown) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", known.public_key());
    let guarded = Guarded::start(&users).await?;
    let (known, unknown) = (known.seed()?, unknown.seed()?);
    let [one, _two] = guarded.cluster(&[("NATS_NKEY_SEED", &known)]).await?;
    says_no_secret(&one, &[("NATS_NKEY_SEED", &known)]);
    guarded.alone(&[("NATS_NKEY_SEED", &unknown)], "authorization violation").await?;
    Ok(())
}

/// A token of NATS (JWT, version 2), signed with an NKey.
fn nats_jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> Result<String> {
    let part = |value: &Value| base64_url(value.to_string().as_bytes());
    let header = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = part(&json!({"jti": name, "iat": realtime_testkit::unix_now(), "iss": issuer.public_key(),
        "name": name, "sub": subject.public_key(), "nats": nats}));
    let signature = base64_url(&issuer.sign(format!("{header}.{claims}").as_bytes())?);
    Ok(format!("{header}.{claims}.{signature}"))
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A file with the token and the seed of a new user that an account has made.
fn credentials(dir: &Path, name: &str, account: &KeyPair, rights: Value) -> Result<PathBuf> {
    let user = KeyPair::new_user();
    let mut nats = json!({"subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2});
    (nats["pub"], nats["sub"]) = (json!({}), rights);
    let jwt = nats_jwt(account, &user, name, nats)?;
    let seed = user.seed()?;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let file = dir.join(format!("{name}.creds"));
    std::fs::write(&file, text)?;
    Ok(file)
}

/// By a file with a JWT and a seed, as accounts of NATS want it; a user who may not listen is told of.
#[tokio::test]
async fn files_with_credentials() -> Result<()> {
    let (operator, account, stranger) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let own = nats_jwt(&operator, &operator, "operator", json!({"type": "operator", "version": 2}))?;
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1});
    let of_account =
        nats_jwt(&operator, &account, "nodes", json!({"limits": limits, "type": "account", "version": 2}))?;
    let guarded = Guarded::start(&format!(
        "operator: {own}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    ))
    .await?;
    let dir = guarded.dir.path();
    let text = |path: PathBuf| path.to_str().map(str::to_owned).context("path");
    let right = text(credentials(dir, "right", &account, json!({}))?)?;
    let wrong = text(credentials(dir, "wrong", &stranger, json!({}))?)?;
    let deaf = text(credentials(dir, "deaf", &account, json!({"deny": ["realtime.>"]}))?)?;

    let [one, _two] = guarded.cluster(&[("NATS_CREDENTIALS_FILE", &right)]).await?;
    let late = guarded.alone(&[("NATS_CREDENTIALS_FILE", &wrong)], "authorization violation").await?;
    // Credentials expire and are replaced: the file is read for each connection.
    std::fs::write(&wrong, "nothing yet")?;
    until("that is told", async || Ok(late.log().contains("names a file without credentials"))).await?;
    std::fs::copy(&right, &wrong)?;
    until("it is let in", async || Ok(late.metric("realtime_cluster_nodes").await? == 3.0)).await?;
    hear_each_other(&one, &late).await?;
    let node = guarded.node(&[("NATS_CREDENTIALS_FILE", &deaf)]).await?;
    let line = node.logged("RpcError").await?;
    assert!(line.to_lowercase().contains("permissions violation"), "{line}");
    for (node, file) in [(&one, &right), (&node, &deaf)] {
        let content = std::fs::read_to_string(file)?;
        let secret = content.lines().find(|line| line.starts_with("SU")).context("seed")?;
        assert!(!node.log().contains(secret));
    }
    Ok(())
}

/// TLS: the server's certificate is checked, and the node's own if NATS asks for one.
#[tokio::test]
async fn certificates() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (authority, other) = (Authority::new(dir.path(), "ca")?, Authority::new(dir.path(), "other")?);
    let write = |name: &str, authority: &Authority| -> Result<[String; 2]> {
        let (certificate, key) = authority.sign("localhost")?;
        let files = [dir.path().join(format!("{name}.crt")), dir.path().join(format!("{name}.key"))];
        std::fs::write(&files[0], certificate)?;
        std::fs::write(&files[1], key)?;
        Ok(files.map(|file| file.display().to_string()))
    };
    let (nats, node, foreign) =
        (write("nats", &authority)?, write("node", &authority)?, write("foreign", &other)?);
    let (ca, other) = (authority.file.display().to_string(), other.file.display().to_string());
    let guarded =
        Guarded::start(&format!("tls {{ cert_file: '{}', key_file: '{}' }}", nats[0], nats[1])).await?;
    let [_one, two] = guarded.cluster(&[("NATS_TLS_CA_FILE", &ca), ("NATS_TLS", "true")]).await?;
    assert!(!two.log().contains("UnableToConnectToNats"), "{}", two.log());
    guarded.alone(&[("NATS_TLS_CA_FILE", &other)], "invalid peer certificate: UnknownIssuer").await?;
    guarded.alone(&[], "invalid peer certificate: UnknownIssuer").await?;

    let verify =
        format!("tls {{ cert_file: '{}', key_file: '{}', ca_file: '{ca}', verify: true }}", nats[0], nats[1]);
    let guarded = Guarded::start(&verify).await?;
    let with = |own: &[String; 2]| {
        [
            ("NATS_TLS_CA_FILE", ca.clone()),
            ("NATS_TLS_CERT_FILE", own[0].clone()),
            ("NATS_TLS_KEY_FILE", own[1].clone()),
        ]
    };
    let (own, strange) = (with(&node), with(&foreign));
    let own = own.each_ref().map(|(name, value)| (*name, &**value));
    let strange = strange.each_ref().map(|(name, value)| (*name, &**value));
    let [one, _two] = guarded.cluster(&own).await?;
    guarded.alone(&own[..1], "localhost").await?;
    guarded.alone(&strange, "localhost").await?;
    let address = format!("tls://localhost:{}", guarded.nats.port());
    let by_scheme = guarded.node(&[&own[..], &[("NATS_URL", &address)]].concat()).await?;
    until("three nodes", async || Ok(by_scheme.metric("realtime_cluster_nodes").await? == 3.0)).await?;
    hear_each_other(&one, &by_scheme).await?;

    // NATS without TLS, where TLS is demanded.
    let plain = Guarded::start("").await?;
    plain.alone(&[("NATS_TLS", "true"), ("NATS_TLS_CA_FILE", &ca)], "localhost").await?;

    // What cannot be is refused at the start.
    let [a, b] = [&node, &foreign];
    for (variables, says) in [
        (&[("NATS_TLS_CA_FILE", "/does/not/exist")][..], "NATS_TLS_CA_FILE cannot be used: "),
        (&[("NATS_TLS_CA_FILE", &a[1])], "NATS_TLS_CA_FILE cannot be used: "),
        (&[("NATS_TLS_CERT_FILE", &a[0])], "NATS_TLS_KEY_FILE must be set with NATS_TLS_CERT_FILE"),
        (
            &[("NATS_TLS_CERT_FILE", &a[0]), ("NATS_TLS_KEY_FILE", &b[1])],
            "NATS_TLS_CERT_FILE cannot be used: ",
        ),
        (&[("NATS_CREDENTIALS_FILE", &a[0])], "NATS_CREDENTIALS_FILE names a file without credentials: "),
        (&[("NATS_NKEY_SEED", "SUAIO")], "NATS_NKEY_SEED is not the seed of an NKey"),
        (
            &[("NATS_NKEY_SEED", &KeyPair::new_account().seed()?)],
            "NATS_NKEY_SEED must be the seed of a user, which begins with SU",
        ),
        (&[("NATS_USER", "me")], "NATS_PASSWORD must be set with NATS_USER"),
        (
            &[("NATS_TOKEN", "t"), ("NATS_NKEY_SEED", "s")],
            "NATS_NKEY_SEED must not be set together with NATS_TOKEN",
        ),
    ] {
        let line = refused(variables)?;
        assert!(line.starts_with(&format!("Wrong setting: {says}")), "{line}");
    }
    Ok(())
}
