//! From an admitted request to a stream, or to the reason why there is none.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use http::StatusCode;
use realtime_channels::driver::{Driver, Ending};
use realtime_codes::ErrorCode;
use realtime_protocol::{Opcode, encode::REPLY, frame};
use serde_json::{Value, json};
use tokio::time::{self, Duration, Instant};

use super::query::Asked;

/// How long the database may take to say whether there is something to send.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The refusal of a join, by the code that its reason begins with.
    fn of_join(reason: &str) -> Self {
        let code = reason.split(':').next().unwrap_or_default();
        let is = |codes: &[ErrorCode]| codes.iter().any(|known| known.as_str() == code);
        let status = if is(&[ErrorCode::Unauthorized, ErrorCode::PrivateOnly]) {
            StatusCode::FORBIDDEN
        } else if code.starts_with("InvalidJWT") || is(&[ErrorCode::JwtSignatureError]) {
            StatusCode::UNAUTHORIZED
        } else if is(&[
            ErrorCode::ConnectionRateLimitReached,
            ErrorCode::ClientJoinRateLimitReached,
            ErrorCode::ChannelRateLimitReached,
        ]) {
            StatusCode::TOO_MANY_REQUESTS
        } else if is(&[ErrorCode::TenantNotFound]) {
            StatusCode::NOT_FOUND
        } else if is(&[
            ErrorCode::InvalidJoinPayload,
            ErrorCode::TopicNameRequired,
            ErrorCode::UnableToReplayMessages,
            ErrorCode::UnknownErrorOnChannel,
        ]) {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self::new(status, reason)
    }

    fn ending() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is stopping, or ends the clients of this tenant",
        )
    }

    fn of(_: Ending) -> Self {
        Self::ending()
    }
}

/// What a frame says about the beginning of a stream.
enum Word {
    /// The join is accepted.
    Joined,
    /// Row changes come.
    Subscribed,
    Refused(Refused),
    /// Something else, for the client.
    Other,
}

fn word(frame: &Bytes) -> Word {
    let Some(content) = frame::content(frame) else { return Word::Other };
    if let Some(reply) = content.strip_prefix(b": ").and_then(|line| line.strip_prefix(REPLY)) {
        let reply: Value = serde_json::from_slice(reply).unwrap_or_default();
        if reply["status"] == "ok" {
            return Word::Joined;
        }
        return Word::Refused(Refused::of_join(reply["response"]["reason"].as_str().unwrap_or_default()));
    }
    if content.starts_with(b"event: subscribed\n") {
        return Word::Subscribed;
    }
    if let Some(data) = content.strip_prefix(b"event: error\ndata: ") {
        let told: Value = serde_json::from_slice(data).unwrap_or_default();
        return Word::Refused(Refused::new(
            StatusCode::BAD_REQUEST,
            told["message"].as_str().unwrap_or_default(),
        ));
    }
    Word::Other
}

/// Joins the channel of a stream. Returns what the client gets first.
///
/// # Errors
/// [`Refused`].
pub(super) async fn begin(driver: &mut Driver, asked: &Asked) -> Result<VecDeque<Bytes>, Refused> {
    let topic = format!("realtime:{}", asked.topic);
    let message = json!(["1", "1", topic, "phx_join", asked.join]).to_string();
    let outbox = Arc::clone(driver.outbox());
    let limit = Instant::now() + ANSWER_LIMIT;
    let mut frames = VecDeque::new();
    let mut looked = 0;
    let mut stepped = driver.receive(Opcode::Text, message.into());
    loop {
        driver.flush();
        let closed = outbox.take(&mut frames);
        while let Some(frame) = frames.get(looked) {
            match word(frame) {
                // It could not be asked, and is asked again.
                Word::Refused(_) if driver.is_retrying() => drop(frames.remove(looked)),
                Word::Refused(refused) => return Err(refused),
                Word::Joined => {
                    frames.remove(looked);
                    if !asked.rows {
                        return Ok(frames);
                    }
                }
                Word::Subscribed => return Ok(frames),
                Word::Other => looked += 1,
            }
        }
        stepped.map_err(Refused::of)?;
        if closed.is_some() {
            return Err(Refused::ending());
        }
        let wake = driver.wake_at().map_or(limit, |at| at.min(limit));
        stepped = tokio::select! {
            event = driver.event() => event,
            () = outbox.ready() => driver.signals(),
            () = time::sleep_until(wake) => {
                if Instant::now() >= limit {
                    let text = "The database has not answered in time";
                    return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text));
                }
                driver.on_time()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use realtime_protocol::{Ref, SystemMessage, Vsn, encode};

    use super::*;

    /// resume 5: errors before the stream have their HTTP status
    #[test]
    fn refusals_have_their_status() {
        let status = |reason: &str| {
            let reply = encode::reply_error(Vsn::Events, &Ref::null(), &Ref::null(), "realtime:a", reason);
            match word(&reply) {
                Word::Refused(refused) => {
                    assert_eq!(refused.text, reason);
                    refused.status.as_u16()
                }
                _ => panic!("{reason}"),
            }
        };
        assert_eq!(status("Unauthorized: You do not have permissions"), 403);
        assert_eq!(status("PrivateOnly: This project only allows private channels"), 403);
        assert_eq!(status("InvalidJWTToken: Token has expired 3 seconds ago"), 401);
        assert_eq!(status("JwtSignatureError: no"), 401);
        assert_eq!(status("ClientJoinRateLimitReached: Too many joins per second"), 429);
        assert_eq!(status("InvalidJoinPayload: no"), 400);
        assert_eq!(status("UnableToConnectToProject: no"), 503);
        let error = SystemMessage::postgres_changes_error("no such table");
        let told = encode::system(Vsn::Events, &Ref::null(), "realtime:a", &error);
        let Word::Refused(refused) = word(&told) else { panic!("{told:?}") };
        assert_eq!(refused, Refused::new(StatusCode::BAD_REQUEST, "no such table"));
        let subscribed =
            encode::system(Vsn::Events, &Ref::null(), "realtime:a", &SystemMessage::subscribed());
        assert!(matches!(word(&subscribed), Word::Subscribed));
    }
}
