//! Who may administer tenants, and servers without a metadata database.

use realtime_testkit::token;

use super::*;

const ROUTES: [(&str, &str); 9] = [
    ("GET", "/api/tenants"),
    ("POST", "/api/tenants"),
    ("GET", "/api/tenants/realtime-dev"),
    ("PUT", "/api/tenants/realtime-dev"),
    ("PATCH", "/api/tenants/realtime-dev"),
    ("DELETE", "/api/tenants/realtime-dev"),
    ("POST", "/api/tenants/realtime-dev/reload"),
    ("POST", "/api/tenants/realtime-dev/shutdown"),
    ("GET", "/api/tenants/realtime-dev/health"),
];

async fn answers(server: &Server, headers: &[(&str, &str)]) -> Result<Vec<(u16, String)>> {
    let mut answers = Vec::new();
    for (method, path) in ROUTES {
        let answer = server.http(method, path, headers, b"").await?;
        answers.push((answer.status, answer.body));
    }
    Ok(answers)
}

/// http_and_ops 1 to 6; spec README, decision 9
#[tokio::test]
async fn administrators_alone() -> Result<()> {
    let db = TestDb::new().await?;
    let blocked = sign(&json!({"blocked": true}));
    let options = ServerOptions::default()
        .env("API_JWT_SECRET_NEXT", "the-next-secret")
        .env("API_TOKEN_BLOCKLIST", &format!("other, {blocked}"));
    let server = Server::start(BINARY, &db, options).await?;
    let refused = vec![(403, String::new()); ROUTES.len()];
    assert_eq!(answers(&server, &[]).await?, refused);
    let good = sign(&json!({}));
    for value in [
        "Bearer potato".to_owned(),
        format!("bearer {good}"),
        good.clone(),
        format!("Bearer {}", sign_with("another-secret", &json!({}))),
        format!("Bearer {}", sign(&json!({"exp": unix_now() - 5}))),
        format!("Bearer {blocked}"),
        format!("Bearer {}", token("anon")),
        format!("Bearer {}", token("authenticated")),
        format!("Bearer {}", token("staff")),
        format!("Bearer {}", token("")),
        format!("Bearer {}", token("Authenticated")),
        format!("Bearer {}", sign(&json!({"role": ["authenticated"]}))),
        format!("Bearer {}", sign(&json!({"role": null}))),
    ] {
        assert_eq!(answers(&server, &[("Authorization", &value)]).await?, refused, "{value}");
    }
    assert_eq!(answers(&server, &[("apikey", &good)]).await?, refused);

    for token in [good, sign_with("the-next-secret", &json!({})), sign(&json!({"role": "service_role"}))] {
        let bearer = format!("Bearer {token}");
        let answer = server.http("GET", "/api/tenants", &[("Authorization", &bearer)], b"").await?;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(r#"{"data":[{"id":""#), "{}", answer.body);
    }

    let nobody = ServerOptions::default().env("API_JWT_SECRET", "");
    let server = Server::start(BINARY, &db, nobody).await?;
    for secret in [realtime_testkit::SECRET, "super-secret-jwt-token-with-at-least-32-characters-long", ""] {
        let bearer = format!("Bearer {}", sign_with(secret, &json!({})));
        assert_eq!(answers(&server, &[("Authorization", &bearer)]).await?, refused);
    }
    Ok(())
}

/// What works without a metadata database; the self-hosting container's question after its own health, which bears the
/// token of clients; http_and_ops 7
#[tokio::test]
async fn tenants_of_the_configuration() -> Result<()> {
    let db = TestDb::new().await?;
    let options =
        ServerOptions::default().env("REGION", "eu-west-2").env("NODE_NAME", "one").env("POD_IP", "::1");
    let server = Server::start(BINARY, &db, options).await?;
    let bearer = format!("Bearer {}", sign(&json!({})));
    let admin = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let shown = server.http("GET", "/api/tenants/realtime-dev", &admin, b"").await?;
    assert_eq!((shown.status, shown.header("content-type")), (200, "application/json; charset=utf-8"));
    let tenant = data(&shown)?;
    assert_eq!(
        (&tenant["external_id"], &tenant["max_events_per_second"]),
        (&json!("realtime-dev"), &json!(100))
    );
    assert_eq!(tenant["extensions"][0]["settings"]["publication"], "supabase_realtime");
    assert!(!shown.body.contains("db_") && !shown.body.contains("secret"), "{}", shown.body);
    let list = server.http("GET", "/api/tenants", &admin, b"").await?;
    assert_eq!(data(&list)?, json!([tenant]));
    let missing = server.http("GET", "/api/tenants/nobody", &admin, b"").await?;
    assert_eq!((missing.status, &*missing.body), (404, r#"{"message":"not found"}"#));

    let body = br#"{"tenant":{"external_id":"realtime-dev"}}"#;
    for (method, path) in [
        ("POST", "/api/tenants"),
        ("PUT", "/api/tenants/realtime-dev"),
        ("PATCH", "/api/tenants/realtime-dev"),
        ("DELETE", "/api/tenants/realtime-dev"),
    ] {
        let answer = server.http(method, path, &admin, body).await?;
        assert_eq!(answer.status, 501);
        assert!(answer.body.contains("set DB_ENC_KEY"), "{}", answer.body);
    }

    let health = || async {
        let answer = server.http("GET", "/api/tenants/realtime-dev/health", &admin, b"").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        data(&answer)
    };
    until("connected from the start", || async { Ok(health().await?["db_connected"] == true) }).await?;
    let expected = json!({
        "healthy": true, "db_connected": true, "replication_connected": false, "connected_cluster": 0,
        "region": "eu-west-2", "node": "one@::1",
    });
    assert_eq!(health().await?, expected);

    let anon = format!("Bearer {}", token("anon"));
    let anon = [("Authorization", &*anon)];
    let probe = server.http("HEAD", "/api/tenants/realtime-dev/health", &anon, b"").await?;
    assert_eq!((probe.status, &*probe.body), (200, ""));
    assert_eq!(server.http("HEAD", "/api/tenants/nobody/health", &anon, b"").await?.status, 404);
    assert_eq!(server.http("HEAD", "/api/tenants/realtime-dev/health", &[], b"").await?.status, 403);
    for path in ["/api/tenants", "/api/tenants/realtime-dev"] {
        assert_eq!(server.http("HEAD", path, &anon, b"").await?.status, 403, "{path}");
        let head = server.http("HEAD", path, &admin, b"").await?;
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
    }
    assert_eq!(server.http("GET", "/realtime/v1/api/tenants", &admin, b"").await?.status, 404);
    assert_eq!(server.http("DELETE", "/api/tenants", &admin, b"").await?.status, 404);

    for (path, status) in [("reload", 204), ("shutdown", 204)] {
        let known = server.http("POST", &format!("/api/tenants/realtime-dev/{path}"), &admin, b"").await?;
        assert_eq!((known.status, &*known.body), (status, ""));
        let unknown = server.http("POST", &format!("/api/tenants/nobody/{path}"), &admin, b"").await?;
        assert_eq!((unknown.status, &*unknown.body), (404, r#"{"message":"not found"}"#));
    }
    Ok(())
}
