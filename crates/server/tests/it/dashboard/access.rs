//! Who may see the dashboard, and who may act in it.

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, unix_now};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
    time,
};

use super::{Operator, options, seal};
use crate::BINARY;

/// http_and_ops 58
#[tokio::test]
async fn a_name_and_a_password() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let bearing = |credentials: &str| format!("Basic {}", BASE64_STANDARD.encode(credentials));
    for (path, wrong) in [
        ("/admin/dashboard", "ann:wrong"),
        ("/admin/dashboard/", "bob:of-the-dashboard"),
        ("/admin/dashboard/home", "ann:"),
        ("/admin/dashboard/nowhere", ":"),
    ] {
        let answer = server.http("GET", path, &[("Authorization", &bearing(wrong))], b"").await?;
        assert_eq!(answer.status, 401, "{path} {wrong}");
        let answer = server.http("GET", path, &[], b"").await?;
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Application\"");
        assert_eq!((answer.header("set-cookie"), answer.header("cache-control")), ("", "no-store"));
    }
    let mut ann = Operator::new(&server);
    for path in ["", "/"] {
        let answer = ann.get(path).await?;
        assert_eq!((answer.status, answer.header("location")), (302, "/admin/dashboard/home"), "{path}");
    }
    let home = ann.get("/home").await?;
    assert_eq!((home.status, home.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = home.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(
        !home.body.contains("<style") && !home.body.contains(" style=") && !home.body.contains(" onclick")
    );
    assert!(
        home.body.split("<script").skip(1).all(|script| script.split('>').next().unwrap().contains(" src="))
    );
    assert_eq!(ann.get("/nowhere").await?.status, 404);

    let locked = Server::start(BINARY, &db, ServerOptions::default()).await?;
    for guess in [":", "admin:admin", "ann:of-the-dashboard"] {
        let headers = [("Authorization", &*bearing(guess))];
        assert_eq!(locked.http("GET", "/admin/dashboard/home", &headers, b"").await?.status, 401);
    }
    Ok(())
}

/// Passwords cannot be tried without end.
#[tokio::test]
async fn failed_logins_are_throttled() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let path = "/admin/dashboard/home";
    let wrong = format!("Basic {}", BASE64_STANDARD.encode("ann:guess"));
    // One is forgotten every six seconds: on a machine that is slow more than ten may be tried.
    let mut tries = 0;
    let barred = loop {
        let answer = server.http("GET", path, &[("Authorization", &wrong)], b"").await?;
        if answer.status != 401 {
            break answer;
        }
        tries += 1;
        assert!(tries < 1000, "nobody is ever barred");
    };
    assert!(tries >= 10, "{tries}");
    assert_eq!((barred.status, barred.header("set-cookie")), (429, ""));
    assert!((1..=6).contains(&barred.header("retry-after").parse::<u64>()?));
    // Who brings nothing is asked for a password, and nothing else is barred.
    assert_eq!(server.http("GET", path, &[], b"").await?.status, 401);
    assert_eq!(server.http("GET", "/healthcheck", &[], b"").await?.status, 200);
    let mut ann = Operator::new(&server);
    let let_in = async {
        while ann.get("/home").await?.status != 200 {
            time::sleep(time::Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, let_in).await.context("she is barred for ever")??;
    assert!(server.log().contains("too many failed logins"), "{}", server.log());
    Ok(())
}

/// Other sites cannot act in the name of who is logged in.
#[tokio::test]
async fn forms_come_from_the_dashboard() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let mut ann = Operator::new(&server);
    let page = ann.get("/tenants/realtime-dev").await?;
    assert_eq!(page.status, 200);
    let cookie = page.header("set-cookie");
    assert!(
        cookie.contains("HttpOnly; SameSite=Strict") && cookie.contains("Path=/admin/dashboard;"),
        "{cookie}"
    );
    // The tenant runs once somebody has come.
    server.http("GET", "/api/ping", &[], b"").await?;
    let seal = seal(&ann.get("/tenants/realtime-dev").await?.body)?;
    let action = "/tenants/realtime-dev/end-replication";
    let host = format!("localhost:{}", server.port());
    let origin = format!("http://{host}");
    let right = [
        ("Authorization", &*ann.authorization),
        ("Cookie", &*ann.cookie),
        ("Host", &*host),
        ("Origin", &*origin),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let body = format!("seal={seal}");
    let path = format!("/admin/dashboard{action}");
    let send = async |headers: &[(&str, &str)], body: &str| -> Result<u16> {
        Ok(server.http("POST", &path, headers, body.as_bytes()).await?.status)
    };
    assert_eq!(send(&right, &body).await?, 303);
    let but = |name: &str, value: &'static str| {
        let mut headers = right.to_vec();
        headers.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            headers.push((
                if name == "Sec" {
                    "Sec-Fetch-Site"
                } else {
                    right.iter().find(|(known, _)| *known == name).unwrap().0
                },
                value,
            ));
        }
        headers
    };
    for (refused, headers) in [
        (401, but("Authorization", "")),
        (403, but("Cookie", "")),
        (403, but("Cookie", "realtime_dashboard=0123456789012345678901234567890123456789012")),
        (403, but("Origin", "")),
        (403, but("Origin", "null")),
        (403, but("Origin", "https://evil.example")),
        (403, but("Sec", "cross-site")),
        (403, but("Sec", "same-site")),
        (415, but("Content-Type", "text/plain")),
        (415, but("Content-Type", "")),
    ] {
        assert_eq!(send(&headers, &body).await?, refused, "{headers:?}");
    }
    assert_eq!(send(&but("Sec", "same-origin"), &body).await?, 303);
    for bad in ["", "seal=", "seal=AAAA", &body[..body.len() - 2]] {
        assert_eq!(send(&right, bad).await?, 403, "{bad}");
    }
    let long = format!("{body}&x={}", "y".repeat(200_000));
    assert_eq!(send(&right, &long).await?, 413);
    for method in ["PUT", "DELETE", "PATCH"] {
        assert_eq!(server.http(method, &path, &right, body.as_bytes()).await?.status, 404);
    }
    let get = server.http("GET", &path, &right, b"").await?;
    assert_eq!(get.status, 404, "nothing is changed by links");
    Ok(())
}

/// Serves a key set at the place of Cloudflare's.
async fn certs(jwks: Value) -> Result<(u16, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let Ok(read) = stream.read(&mut head).await else { continue };
            let (status, body) = if head[..read].starts_with(b"GET /cdn-cgi/access/certs ") {
                ("200 OK", jwks.to_string())
            } else {
                ("404 Not Found", String::new())
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((port, serving))
}

/// A key pair and its public key as a member of a key set.
fn key(kid: &str) -> Result<(KeyPair, Value)> {
    let pair = KeyPair::generate(KeySize::Rsa2048)?;
    let public = pair.public_key();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({
        "kid": kid, "kty": "RSA", "alg": "RS256", "use": "sig",
        "n": encode(public.modulus().big_endian_without_leading_zero()),
        "e": encode(public.exponent().big_endian_without_leading_zero()),
    });
    Ok((pair, jwk))
}

fn token(pair: &KeyPair, kid: &str, claims: &Value) -> Result<String> {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "RS256", "kid": kid})), encode(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)?;
    Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// http_and_ops 58: with Cloudflare Access before the server
#[tokio::test]
async fn cloudflare_access() -> Result<()> {
    let db = TestDb::new().await?;
    let (pair, jwk) = key("first")?;
    let (other, _) = key("first")?;
    let (port, serving) = certs(json!({"keys": [jwk], "public_certs": []})).await?;
    let team = format!("http://127.0.0.1:{port}");
    let options = ServerOptions::default()
        .env("DASHBOARD_AUTH", "zta")
        .env("CF_TEAM_DOMAIN", &team)
        .env("CF_ACCESS_AUD", "of-this-application");
    let server = Server::start(BINARY, &db, options.clone()).await?;
    let get = async |server: &Server, token: Option<&str>| {
        let headers: Vec<_> = token.iter().map(|token| ("Cf-Access-Jwt-Assertion", *token)).collect();
        server.http("GET", "/admin/dashboard/home", &headers, b"").await
    };
    let good = json!({
        "iss": team, "aud": ["of-this-application"], "email": "ann@example.com", "exp": unix_now() + 3600,
        "nbf": unix_now() - 1,
    });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let mut without_end = good.clone();
    without_end.as_object_mut().unwrap().remove("exp");
    assert_eq!(get(&server, None).await?.status, 403);
    let answer = get(&server, Some(&token(&pair, "first", &good)?)).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("ann@example.com"));
    for refused in [
        token(&other, "first", &good)?,
        token(&pair, "second", &good)?,
        token(&pair, "first", &with("iss", json!("http://127.0.0.1:1")))?,
        token(&pair, "first", &with("aud", json!(["other"])))?,
        token(&pair, "first", &with("exp", json!(unix_now() - 10)))?,
        token(&pair, "first", &with("nbf", json!(unix_now() + 3600)))?,
        token(&pair, "first", &without_end)?,
        realtime_testkit::sign(&good),
        "potato".to_owned(),
        String::new(),
    ] {
        assert_eq!(get(&server, Some(&refused)).await?.status, 403, "{refused}");
    }
    let basic = [("Authorization", "Basic YTph")];
    assert_eq!(server.http("GET", "/admin/dashboard/home", &basic, b"").await?.status, 403);

    serving.abort();
    let _ = serving.await;
    let known = token(&pair, "first", &good)?;
    assert_eq!(get(&server, Some(&known)).await?.status, 200, "keys that are known stay known");
    let fresh = Server::start(BINARY, &db, options).await?;
    assert_eq!(get(&fresh, Some(&known)).await?.status, 503);
    assert_eq!(get(&fresh, None).await?.status, 403);
    Ok(())
}
