//! One request to the endpoint of a webhook, of either generation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderValue, StatusCode};

/// Why an attempt failed, and whether another may do better.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For the log.
    pub(crate) text: String,
    /// In a word: a status, or where it failed.
    pub(crate) code: String,
    pub(crate) passing: bool,
}

/// What makes clients for endpoints. They follow no redirections, which could lead anywhere.
pub(crate) fn client(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none())
}

/// Adds the headers of Standard Webhooks: id, time of the attempt, and the signature if there is a key.
pub(crate) fn sign(headers: &mut HeaderMap, key: Option<&hmac::Key>, id: &str, body: &[u8]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    put("webhook-id", id);
    put("webhook-timestamp", &now.to_string());
    if let Some(key) = key {
        put("webhook-signature", &realtime_webhooks::sign(key, id, now, body));
    }
}

/// Sends a request; the endpoint has to answer with success.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Result<(), Failure> {
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => {
            let status = answer.status();
            let passing = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            Err(Failure {
                text: format!("answered with {status}"),
                code: status.as_u16().to_string(),
                passing,
            })
        }
        Err(error) => {
            let code = match () {
                () if error.is_builder() => "address",
                () if error.is_timeout() => "timeout",
                () if error.is_connect() => "connect",
                () => "request",
            };
            let passing = !error.is_builder();
            // The address may hold a secret.
            let text = realtime_tls::describe(&error.without_url());
            Err(Failure { text, code: code.to_owned(), passing })
        }
    }
}
