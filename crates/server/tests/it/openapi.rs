//! The OpenAPI document and Swagger UI (http_and_ops 3).

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::server;

/// What `openapi-spec-validator` says is wrong with a document; empty if nothing is.
fn problems(document: &str) -> Result<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
    let interpreter = dir.join(".venv/bin/python");
    ensure!(interpreter.exists(), "make clients/python/.venv from requirements.txt, or run scripts/test");
    let mut command = Command::new(interpreter);
    command.current_dir(dir).arg("validate_openapi.py").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(document.as_bytes())?;
    let output = child.wait_with_output()?;
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    ensure!(output.status.success() || !told.is_empty(), "the validator failed in silence");
    Ok(told)
}

/// http_and_ops 57: valid by an independent validator, and every operation in it exists
#[tokio::test]
async fn the_document_is_valid_and_true() -> Result<()> {
    let (server, _db) = server().await?;
    let answer = server.http("GET", "/api/openapi", &[("Host", "abc.example:4000")], b"").await?;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json; charset=utf-8"));
    assert_eq!(problems(&answer.body)?, "");
    assert_ne!(problems(&answer.body.replace("\"openapi\"", "\"open\""))?, "", "the validator does look");
    let document: Value = serde_json::from_str(&answer.body)?;
    assert_eq!(document["servers"][0]["url"], "http://abc.example:4000");

    let forwarded = [("Host", "abc.example"), ("X-Forwarded-Proto", "https")];
    let answer = server.http("GET", "/realtime/v1/api/openapi", &forwarded, b"").await?;
    let by_gateway: Value = serde_json::from_str(&answer.body)?;
    assert_eq!(by_gateway["servers"][0]["url"], "https://abc.example/realtime/v1");
    assert_eq!(by_gateway["paths"], document["paths"]);

    let paths = document["paths"].as_object().context("paths")?;
    for (path, operations) in paths {
        let path = path.replace(['{', '}'], "");
        for method in operations.as_object().context("operations")?.keys() {
            let answer = server.http(&method.to_uppercase(), &path, &[], b"").await?;
            let absent = answer.status == 405 || answer.body == "Not Found";
            assert!(!absent, "{method} {path} is described and does not exist");
        }
    }
    Ok(())
}

/// http_and_ops 57
#[tokio::test]
async fn swagger_ui_needs_nobody_else() -> Result<()> {
    let (server, _db) = server().await?;
    let page = server.http("GET", "/swaggerui", &[], b"").await?;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.body.contains("Swagger UI"));
    assert!(!page.body.contains("//"), "everything comes from this server");
    assert!(page.header("content-security-policy").contains("script-src 'self';"));
    for part in page.body.split(['"']).filter(|part| part.starts_with("swaggerui/")) {
        let plain = server.http("GET", &format!("/{part}"), &[], b"").await?;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""), "{part}");
        let packed = [("Accept-Encoding", "gzip, br")];
        let packed = server.http("GET", &format!("/{part}"), &packed, b"").await?;
        assert_eq!(packed.status, 200, "{part}");
    }
    assert_eq!(server.http("GET", "/swaggerui/index.html", &[], b"").await?.status, 404);
    assert_eq!(server.http("GET", "/swaggerui/nothing.js", &[], b"").await?.status, 404);
    Ok(())
}
