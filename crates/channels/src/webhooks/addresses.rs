//! Which addresses may be posted to. Whoever may set webhooks is not therefore trusted with what only this machine reaches.

use std::{
    error::Error,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What may be posted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Whether addresses that are not public may be.
    pub private: bool,
}

impl Reach {
    /// Whether an address may be posted to.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.allows_v4(address),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => self.allows_v4(mapped),
                None => self.allows_v6(address),
            },
        }
    }

    fn allows_v4(self, address: Ipv4Addr) -> bool {
        let [a, b, ..] = address.octets();
        // Metadata services of clouds.
        if address.is_link_local()
            || matches!(address.octets(), [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192])
        {
            return false;
        }
        let shared = a == 100 && (64..128).contains(&b);
        let special = address.is_private()
            || address.is_loopback()
            || address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
            || shared
            || matches!(address.octets(), [198, 18 | 19, ..] | [192, 0, 0, _])
            || a == 0
            || a >= 240;
        self.private || !special
    }

    fn allows_v6(self, address: Ipv6Addr) -> bool {
        let [first, second, .., seventh, last] = address.segments();
        // Metadata services of clouds, and link-local addresses of the older kind that are translated.
        if address.is_unicast_link_local()
            || matches!(
                (first, second, seventh, last),
                (0xfd00, 0x0ec2, 0, 0x254) | (0xfd20, 0x00ce, 0, 0x254)
            )
            || (first, second) == (0x64, 0xff9b) && seventh == 0xa9fe
            || (first, second) == (0x2002, 0xa9fe)
        {
            return false;
        }
        // Addresses of the older kind that are written within these, and what translates them.
        let embedded = first == 0x2002 || (first, second) == (0x64, 0xff9b) || first == 0;
        let special = address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_unique_local()
            || first & 0xffc0 == 0xfec0
            || embedded;
        self.private || !special
    }

    /// Whether the host of an address is one that may be posted to, as far as that is known without asking for its name.
    pub(super) fn allows_url(self, url: &str) -> bool {
        let Ok(url) = reqwest::Url::parse(url) else { return false };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.parse().map_or(true, |address| self.allows(address))
    }
}

/// Resolves names to what may be posted to.
impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                let refused = io::Error::new(io::ErrorKind::PermissionDenied, "the address is not allowed");
                return Err(Box::<dyn Error + Send + Sync>::from(refused));
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_allowed_where_it_is_set_so() {
        let allowed = |private, address: &str| Reach { private }.allows(address.parse().unwrap());
        for public in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(allowed(false, public) && allowed(true, public), "{public}");
        }
        for private in [
            "10.0.0.5",
            "127.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.5",
            "64:ff9b::a00:5",
            "2002:a00:5::1",
            "::10.0.0.5",
            "198.18.0.1",
            "192.0.0.1",
            "fec0::1",
        ] {
            assert!(!allowed(false, private) && allowed(true, private), "{private}");
        }
        for never in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(!allowed(false, never) && !allowed(true, never), "{never}");
        }
    }

    #[test]
    fn addresses_in_urls_are_looked_at() {
        let allowed = |url: &str| Reach { private: false }.allows_url(url);
        assert!(allowed("https://example.com/x") && allowed("http://1.1.1.1:8080/"));
        // All spellings of one address.
        for url in [
            "http://127.0.0.1/",
            "http://[::1]:4000/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://127.1/",
            "x",
        ] {
            assert!(!allowed(url), "{url}");
        }
        assert!(!Reach { private: true }.allows_url("http://169.254.169.254/latest"));
    }
}
