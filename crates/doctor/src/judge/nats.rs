//! NATS that a node cannot use.

use crate::{Code, Finding, Step};

/// What a login needs: one of these.
const LOGIN: &str = "NATS_USER and NATS_PASSWORD, NATS_TOKEN, NATS_NKEY_SEED or NATS_CREDENTIALS_FILE";

/// Why a node cannot connect to NATS. `error`: what the attempts ended with.
#[must_use]
pub fn nats_unreachable(servers: &str, error: &str) -> Finding {
    let lower = error.to_lowercase();
    let is_about = |what: &[&str]| what.iter().any(|what| lower.contains(what));
    let mend = if is_about(&["authorization", "authentication", "credentials", "nonce"]) {
        format!("correct what the node logs in with: {LOGIN}")
    } else if is_about(&["unknownissuer"]) {
        "set NATS_TLS_CA_FILE to a PEM file of the authority that signed the certificate of NATS".to_owned()
    } else if is_about(&["invalid peer certificate"]) {
        "give NATS a certificate that is valid now and for the host in NATS_URL".to_owned()
    } else if is_about(&["tls", "certificate", "handshake", "corrupt message"]) {
        "let NATS and the node agree on TLS: NATS_TLS, NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE here, tls in \
         the configuration of NATS"
            .to_owned()
    } else {
        format!("start NATS at {servers}, or correct NATS_URL")
    };
    let text = format!("The node cannot connect to NATS at {servers}: {error}");
    Finding::new(Code::NatsUnreachable, text, vec![Step::Do(mend)])
}

/// A node that is connected to NATS but may not use its subjects, which begin with `prefix`.
#[must_use]
pub fn nats_forbidden(servers: &str, prefix: &str, error: &str) -> Finding {
    let text = format!("NATS at {servers} refuses the subjects of the node: {error}");
    let mend = format!("let the user of the node publish and subscribe {prefix}.> in NATS");
    Finding::new(Code::NatsForbidden, text, vec![Step::Do(mend)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_remedy() {
        for (error, remedy) in [
            ("a:4222: authorization violation: \"Authorization Violation\"", "NATS_PASSWORD"),
            ("a:4222: TLS error: invalid peer certificate: UnknownIssuer", "NATS_TLS_CA_FILE"),
            (
                "a:4222: invalid peer certificate: certificate not valid for name",
                "a certificate that is valid",
            ),
            ("a:4222: TLS required", "agree on TLS"),
            ("a:4222: IO error: received corrupt message of type InvalidContentType", "agree on TLS"),
            ("a:4222: IO error: Connection refused", "start NATS at nats://a:4222"),
            ("no answer in time", "start NATS at nats://a:4222"),
        ] {
            let finding = nats_unreachable("nats://a:4222", error);
            assert!(finding.mend[0].line().contains(remedy), "{error}: {finding:?}");
        }
        let finding = nats_forbidden("nats://a:4222", "realtime", "Permissions Violation");
        assert!(finding.mend[0].line().contains("realtime.>"), "{finding:?}");
    }
}
