//! The query of a handshake. Pure, and without other modules: `crates/server/fuzz` includes this file.

use realtime_protocol::{UnsupportedVsn, Vsn};

/// The parameters of an upgrade request that have a meaning (protocol 1.2).
pub(super) struct Query {
    vsn: Option<String>,
    vsn_repeated: bool,
    pub(super) apikey: Option<String>,
    /// Session of the long-poll transport.
    pub(super) token: Option<String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self { vsn: None, vsn_repeated: false, apikey: None, token: None };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "vsn" => {
                    parsed.vsn_repeated |= parsed.vsn.is_some();
                    parsed.vsn = Some(value.into_owned());
                }
                "vsn[]" => parsed.vsn_repeated = true,
                "token" => parsed.token = Some(value.into_owned()),
                "apikey" => parsed.apikey = Some(value.into_owned()),
                _ => {}
            }
        }
        parsed
    }

    /// The parameters of a client whose token came by whatever way.
    pub(super) const fn with_key(apikey: Option<String>) -> Self {
        Self { vsn: None, vsn_repeated: false, apikey, token: None }
    }

    pub(super) fn vsn(&self) -> Result<Vsn, UnsupportedVsn> {
        // A repeated parameter is not a valid version.
        Vsn::negotiate(if self.vsn_repeated { Some("") } else { self.vsn.as_deref() })
    }
}
