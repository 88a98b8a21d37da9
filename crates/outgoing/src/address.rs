//! Which addresses may be called.
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is somebody's on the public Internet: neither this machine's, nor a private network's, nor one that stands
/// for another address (IPv4-mapped, IPv4-compatible, NAT64, 6to4, Teredo), nor one that no host has.
///
/// By the IANA registries of special-purpose addresses (RFC 6890). Of IPv6 only global unicast (`2000::/3`) is public at all.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)              // this network, private (RFC 1918), loopback
            | (100, 64..=127, _)        // behind a provider's NAT (RFC 6598)
            | (169, 254, _)             // link-local, and what clouds tell their machines there
            | (172, 16..=31, _)         // private
            | (192, 0, 0 | 2)           // protocol assignments, documentation
            | (192, 88, 99)             // 6to4 relays
            | (192, 168, _)             // private
            | (198, 18 | 19, _)         // benchmarks
            | (198, 51, 100)            // documentation
            | (203, 0, 113)             // documentation
            | (224..=255, ..) // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b < 0x0200) // protocol assignments, Teredo among them
        && !(a == 0x2001 && b == 0x0db8) // documentation
        && a != 0x2002 // 6to4
        && !(a == 0x3fff && b < 0x1000) // documentation
}

/// What may be called besides public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Vec<IpNet>);

impl Allowed {
    /// Nothing else.
    pub fn nothing() -> Self {
        Self::default()
    }
    /// This machine, for trying things out.
    pub fn loopback() -> Self {
        Self::networks(
            [([127, 0, 0, 0], 8)]
                .into_iter()
                .map(|(ip, len)| net(IpAddr::from(ip), len))
                .chain([net(Ipv6Addr::LOCALHOST.into(), 128)]),
        )
    }
    /// Everything.
    pub fn everything() -> Self {
        Self::networks([net(Ipv4Addr::UNSPECIFIED.into(), 0), net(Ipv6Addr::UNSPECIFIED.into(), 0)])
    }
    /// These networks.
    pub fn networks(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }
    /// Whether it is in one of them. An IPv4 address in the clothes of IPv6 is the IPv4 address.
    pub fn has(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        self.0.iter().any(|net| net.contains(&plain))
    }
    /// Whether it may be called.
    pub fn admits(&self, address: IpAddr) -> bool {
        is_public(address) || self.has(address)
    }
}

fn net(address: IpAddr, len: u8) -> IpNet {
    IpNet::new_assert(address, len) // the lengths above fit their addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.0.3.1",
        "192.88.98.255",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.1",
        "198.51.101.1",
        "203.0.112.1",
        "203.0.114.1",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2606:4700::1",
        "2001:200::1",
        "2003::1",
        "2a00::1",
        "2400::1",
        "3fff:1000::1",
    ];
    const NOT: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.170",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        // unspecified, loopback
        "::",
        "::1",
        // IPv4-compatible, IPv4-mapped, IPv4-translated
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",
        // NAT64, well known and local
        "64:ff9b::127.0.0.1",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        // discard, unique local, link-local, site-local, multicast
        "100::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        // Teredo, ORCHID, documentation, 6to4
        "2001::1",
        "2001:0:7f00:1::",
        "2001:20::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff::1",
        // nobody's
        "4000::1",
        "8000::1",
        "e000::1",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_are_public() {
        for text in PUBLIC {
            assert!(is_public(ip(text)), "{text}");
        }
        for text in NOT {
            assert!(!is_public(ip(text)), "{text}");
            assert!(!Allowed::nothing().admits(ip(text)) && Allowed::everything().admits(ip(text)), "{text}");
        }
    }

    #[test]
    fn what_is_allowed_is_named() {
        let loopback = Allowed::loopback();
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "8.8.8.8"] {
            assert!(loopback.admits(ip(text)), "{text}");
        }
        for text in ["10.0.0.1", "169.254.169.254", "::", "::127.0.0.1", "64:ff9b::127.0.0.1", "fe80::1"] {
            assert!(!loopback.admits(ip(text)), "{text}");
        }
        let own = Allowed::networks(["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        for (text, may) in [("10.1.2.3", true), ("10.2.0.1", false), ("fd00:1::7", true), ("fd00:2::7", false)] {
            assert_eq!(own.admits(ip(text)), may, "{text}");
        }
    }
}
