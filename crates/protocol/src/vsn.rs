//! Which serializer a socket uses (protocol 1.3).

/// Serializer version of a socket, fixed at the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vsn {
    /// 1.0.x: JSON objects; join_ref is never sent.
    V1,
    /// 2.0.x: JSON arrays and binary frames.
    V2,
    /// 2.0.x over a transport that carries text alone (long-poll, protocol 1.11).
    V2Text,
    /// Server-sent events (resume 5). Clients cannot ask for it over a socket.
    Events,
}

/// The version is none that this server speaks; answered with 403 and an empty body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Unsupported serializer version")]
pub struct UnsupportedVsn;

impl Vsn {
    /// The serializer for the `vsn` parameter; absent means 1.0.0.
    ///
    /// # Errors
    /// [`UnsupportedVsn`] for anything but a full semantic version 1.0.x or 2.0.x.
    pub fn negotiate(vsn: Option<&str>) -> Result<Self, UnsupportedVsn> {
        let Some(vsn) = vsn else { return Ok(Self::V1) };
        let version = semver::Version::parse(vsn).map_err(|_| UnsupportedVsn)?;
        match (version.major, version.minor, version.pre.is_empty()) {
            (1, 0, true) => Ok(Self::V1),
            (2, 0, true) => Ok(Self::V2),
            _ => Err(UnsupportedVsn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// protocol 9
    #[test]
    fn versions() {
        for (text, vsn) in
            [(None, Vsn::V1), (Some("1.0.0"), Vsn::V1), (Some("1.0.5"), Vsn::V1), (Some("2.0.0"), Vsn::V2)]
        {
            assert_eq!(Vsn::negotiate(text), Ok(vsn));
        }
        for bad in ["", "1.0", "1", "3.0.0", "2.1.0", "1.1.0", "abc", " 2.0.0", "2.0.0-rc.1"] {
            assert_eq!(Vsn::negotiate(Some(bad)), Err(UnsupportedVsn), "{bad}");
        }
    }
}
