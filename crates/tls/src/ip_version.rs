//! The versions of IP.

use std::{fmt, net::SocketAddr, str::FromStr};

/// Which addresses of a host are used (`DB_IP_VERSION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpVersion {
    /// All, in the order that the system gives them: IPv6 first where it works.
    #[default]
    Any,
    /// Only those of IPv4.
    V4,
    /// Only those of IPv6.
    V6,
}

impl IpVersion {
    pub(crate) fn allows(self, address: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "IP",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl FromStr for IpVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "ipv4" => Ok(Self::V4),
            "ipv6" => Ok(Self::V6),
            _ => Err(format!("must be one of ipv4, ipv6, not {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!("IPv4".parse(), Ok(IpVersion::V4));
        assert_eq!("5".parse::<IpVersion>().unwrap_err(), "must be one of ipv4, ipv6, not \"5\"");
    }
}
