//! Networks of clients in CIDR notation: which peers a listener serves. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Length of `::ffff:0:0/96`, which has the IPv4 addresses.
const MAPPED_PREFIX: u8 = 96;

/// A network such as `10.0.0.0/8` or `2001:db8::/32`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(IpNet);

impl Network {
    /// All IPv4 addresses.
    pub const ALL_V4: Self = Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)));
    /// All IPv6 addresses but those of IPv4.
    pub const ALL_V6: Self = Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)));

    /// Whether a peer is in it. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(self, peer: IpAddr) -> bool {
        self.0.contains(&peer.to_canonical())
    }
}

impl FromStr for Network {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.parse::<IpAddr>() {
            Ok(addr) => IpNet::from(addr),
            Err(_) => text.parse().ok().with_context(|| {
                format!("{text:?} is not a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"")
            })?,
        };
        ensure!(
            parsed.addr() == parsed.network(),
            "{text:?} has bits after its prefix; write \"{}\"",
            parsed.trunc()
        );
        Ok(Self(canonical(parsed)))
    }
}

/// Peers of IPv4 have IPv4 addresses, also where the socket is of IPv6.
fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(addr) = network.addr().to_canonical() else { return network };
    let len = network.prefix_len();
    let len = if network.addr().is_ipv6() { len.checked_sub(MAPPED_PREFIX) } else { Some(len) };
    len.and_then(|len| Ipv4Net::new(addr, len).ok()).map_or(network, IpNet::V4)
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|e: anyhow::Error| e.to_string())
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, peer: &str) -> bool {
        let network: Network = network.parse().expect(network);
        network.contains(peer.parse().expect("an address"))
    }

    #[test]
    fn a_network_has_the_addresses_of_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1/32", "192.0.2.1", "192.0.2.0"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::/0", "fe80::1", "127.0.0.1"),
            // A peer of IPv4 at a socket of IPv6.
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("::/0", "2001:db8::1", "::ffff:127.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
            ("::ffff:0.0.0.0/96", "::ffff:1.2.3.4", "::1.2.3.4"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ] {
            assert!(contains(network, inside), "{network} has {inside}");
            assert!(!contains(network, outside), "{network} does not have {outside}");
        }
    }

    #[test]
    fn everything_is_in_one_of_the_two_largest() {
        for peer in ["127.0.0.1", "::1", "::ffff:10.0.0.1", "255.255.255.255", "ff02::1"] {
            let peer = peer.parse().expect("an address");
            let [v4, v6] = [Network::ALL_V4, Network::ALL_V6].map(|all| all.contains(peer));
            assert!(v4 != v6, "{peer}");
        }
    }

    #[test]
    fn a_mistake_names_the_text_and_what_to_write() {
        for (text, message) in [
            ("", "\"\" is not a network such as"),
            ("web-01", "\"web-01\" is not a network such as"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is not a network"),
            ("10.0.0.0/", "\"10.0.0.0/\" is not a network"),
            ("10.0.0.0/8/8", "is not a network"),
            ("10.0.0/8", "is not a network"),
            ("2001:db8::/129", "is not a network"),
            ("[2001:db8::]/32", "is not a network"),
            ("10.1.2.3/8", "\"10.1.2.3/8\" has bits after its prefix; write \"10.0.0.0/8\""),
            ("2001:db8::1/32", "write \"2001:db8::/32\""),
            ("::ffff:10.0.0.1/104", "write \"::ffff:10.0.0.0/104\""),
        ] {
            let error = text.parse::<Network>().expect_err(text).to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }
}
