//! A request, and what is told of its answer.

use std::time::Duration;

use reqwest::{Client, Method, Response, Url};
use serde_json::Value;

/// How long an answer may take. Changing a tenant waits for its connections to end.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest text of a refusal that is shown, in characters.
const SHOWN: usize = 400;

/// Where the API of a project is, below its address.
const SERVICE: &str = "/realtime/v1";

/// The address of a path below a server, with or without [`SERVICE`]. Parts of the path are escaped.
pub(super) fn address(url: &str, service: bool, path: &[&str]) -> Result<Url, String> {
    let wrong = || format!("{url:?} is no address like http://localhost:4000");
    let base = url.trim().trim_end_matches('/');
    let base = base.strip_suffix(SERVICE).unwrap_or(base);
    let mut address = Url::parse(base).map_err(|_| wrong())?;
    if !matches!(address.scheme(), "http" | "https") {
        return Err(wrong());
    }
    let service =
        service.then_some(SERVICE).into_iter().flat_map(|service| service.trim_matches('/').split('/'));
    address.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(service).extend(path);
    Ok(address)
}

/// The answer to a request; a refusal is an error.
pub(super) async fn ask(
    method: Method,
    address: Url,
    token: &str,
    body: Option<&Value>,
) -> Result<Value, String> {
    let client = Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| realtime_tls::describe(&error))?;
    let host = address.host_str().unwrap_or_default().to_owned();
    let mut request = client.request(method, address).bearer_auth(token);
    if let Some(body) = body {
        request = request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_string());
    }
    let answer = request
        .send()
        .await
        .map_err(|error| format!("{host} cannot be reached: {}", realtime_tls::describe(&error)))?;
    read(answer).await
}

async fn read(answer: Response) -> Result<Value, String> {
    let status = answer.status();
    let text = answer.text().await.map_err(|error| realtime_tls::describe(&error))?;
    if status.is_success() {
        return Ok(serde_json::from_str(&text).unwrap_or_default());
    }
    let said: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    Err(format!("The server refuses ({}): {said}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_addresses_are_escaped() {
        let at = |url: &str, service| address(url, service, &["api", "a/b ?"]).map(|url| url.to_string());
        assert_eq!(at("http://h:4000", true).unwrap(), "http://h:4000/realtime/v1/api/a%2Fb%20%3F");
        assert_eq!(at("https://h/realtime/v1/", false).unwrap(), "https://h/api/a%2Fb%20%3F");
        for wrong in ["", "h:4000", "ftp://h", "http://"] {
            assert!(at(wrong, true).is_err(), "{wrong}");
        }
    }
}
