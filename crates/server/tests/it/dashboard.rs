//! The dashboard over HTTP (http_and_ops 3.1), on a real PostgreSQL.

mod access;
mod browser;
mod doctor;
mod pages;
mod policies;

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use realtime_testkit::{Answer, Server, ServerOptions};

/// A server whose dashboard lets `ann` in.
pub(crate) fn options() -> ServerOptions {
    ServerOptions::default().env("DASHBOARD_USER", "ann").env("DASHBOARD_PASSWORD", "of-the-dashboard")
}

/// Somebody with a browser: with credentials, and a cookie once there is one.
pub(crate) struct Operator<'a> {
    server: &'a Server,
    authorization: String,
    cookie: String,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        let credentials = BASE64_STANDARD.encode("ann:of-the-dashboard");
        Self { server, authorization: format!("Basic {credentials}"), cookie: String::new() }
    }

    /// A page; `path` is below that of the dashboard.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        let headers = [("Authorization", &*self.authorization), ("Cookie", &*self.cookie)];
        let answer = self.server.http("GET", &format!("/admin/dashboard{path}"), &headers, b"").await?;
        if let Some((cookie, _)) = answer.header("set-cookie").split_once(';') {
            self.cookie = cookie.to_owned();
        }
        Ok(answer)
    }

    /// Sends a form as the page at `path` has it, to `action`.
    pub(crate) async fn submit(
        &mut self,
        path: &str,
        action: &str,
        fields: &[(&str, &str)],
    ) -> Result<Answer> {
        let page = self.get(path).await?;
        let seal = seal(&page.body)?;
        self.post(action, &seal, fields).await
    }

    /// Sends a form with a seal.
    async fn post(&self, action: &str, seal: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let host = format!("localhost:{}", self.server.port());
        let origin = format!("http://{host}");
        let headers = [
            ("Authorization", &*self.authorization),
            ("Cookie", &*self.cookie),
            ("Host", &*host),
            ("Origin", &*origin),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("seal", seal)
            .extend_pairs(fields)
            .finish();
        self.server.http("POST", &format!("/admin/dashboard{action}"), &headers, body.as_bytes()).await
    }
}

/// The seal in the first form of a page.
fn seal(page: &str) -> Result<String> {
    let seal = page.split("name=\"seal\" value=\"").nth(1).context("a form")?;
    Ok(seal.split('"').next().context("a seal")?.to_owned())
}

/// The text of a page, without its tags, in one line.
pub(crate) fn text(page: &str) -> String {
    let mut text = String::new();
    for part in page.split('<') {
        text.push(' ');
        text.push_str(part.split_once('>').map_or(part, |(_, rest)| rest));
    }
    let text = text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
