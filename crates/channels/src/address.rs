//! Addresses of clients.

use std::net::{IpAddr, Ipv6Addr};

/// The part of an address that one client cannot choose: all of IPv4, the first 64 bits of IPv6.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}
