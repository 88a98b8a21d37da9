//! From which address a call comes.
//!
//! It is the connection's, unless the connection comes from a trusted proxy: then the proxies' own words count, read from the
//! right, and the first hop that is no trusted proxy is the caller. Whatever stands left of it was written by the caller.
//!
//! A proxy that keeps one of `X-Forwarded-For` and `Forwarded` (RFC 7239) usually hands the other through as the caller sent
//! it. So when both are there and do not name the same caller, neither is believed: whoever sends such a call comes from [`NOWHERE`],
//! which is new to everybody. By the proxy's own address they would be where many are, and nobody is new.
use http::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address of a caller whom the proxies' headers do not agree about: nobody can have it.
pub const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn trusted(ip: IpAddr, proxies: &[IpNet]) -> bool {
    proxies.iter().any(|net| net.contains(&ip))
}

/// The caller's address. `peer` is the connection's; `None` on a Unix socket.
pub fn client_ip(peer: Option<IpAddr>, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let peer = peer?.to_canonical();
    if !trusted(peer, proxies) {
        return Some(peer);
    }
    let plain = list(headers, "x-forwarded-for").map(|hops| walk(peer, hops.iter().map(|hop| address(hop)), proxies));
    let standard = list(headers, "forwarded").map(|hops| walk(peer, hops.iter().map(|hop| for_of(hop)), proxies));
    Some(match (plain, standard) {
        (Some(one), Some(other)) if one != other => NOWHERE,
        (Some(caller), _) | (None, Some(caller)) => caller,
        (None, None) => peer,
    })
}

/// Whether the connection comes from a trusted proxy.
pub fn from_proxy(peer: Option<IpAddr>, proxies: &[IpNet]) -> bool {
    peer.is_some_and(|peer| trusted(peer.to_canonical(), proxies))
}

/// All values of a list header, in order; `None` when it is not there. What is not ASCII becomes an unreadable hop.
fn list(headers: &HeaderMap, name: &str) -> Option<Vec<String>> {
    let values: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    (!values.is_empty()).then(|| values.join(",").split(',').map(|hop| hop.trim().to_owned()).collect())
}

/// From the right: over trusted proxies to the first hop that is none. What cannot be read ends the walk at the last hop
/// that could.
fn walk(peer: IpAddr, hops: impl DoubleEndedIterator<Item = Option<IpAddr>>, proxies: &[IpNet]) -> IpAddr {
    let mut known = peer;
    for hop in hops.rev() {
        let Some(ip) = hop else { return known };
        known = ip;
        if !trusted(ip, proxies) {
            return known;
        }
    }
    known
}

/// An address with or without port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(ip.to_canonical())
}

/// The `for` of one element of `Forwarded`. `unknown` and hidden names (`_x`) cannot be read.
fn for_of(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client_ip(Some(peer.parse().unwrap()), &map, &proxies).unwrap().to_string()
    }

    #[test]
    fn a_stranger_cannot_name_another_address() {
        assert_eq!(caller("203.0.113.9", &[("x-forwarded-for", "1.2.3.4")]), "203.0.113.9");
        assert_eq!(caller("203.0.113.9", &[("forwarded", "for=1.2.3.4")]), "203.0.113.9");
        // … not even by naming a trusted proxy
        assert_eq!(caller("203.0.113.9", &[("x-forwarded-for", "1.2.3.4, 10.0.0.1")]), "203.0.113.9");
        // nor through the proxy: what stands left of the hop that the proxy wrote is the caller's own invention
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, 198.51.100.7")]), "198.51.100.7");
        assert_eq!(
            caller("10.0.0.1", &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "198.51.100.7")]),
            "198.51.100.7"
        );
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, 198.51.100.7, 10.9.9.9")]), "198.51.100.7");
    }

    #[test]
    fn the_header_that_the_proxy_does_not_keep_is_not_believed() {
        let both = [("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(caller("10.0.0.1", &both), "0.0.0.0");
        let same = [("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=\"198.51.100.7:443\";proto=https")];
        assert_eq!(caller("10.0.0.1", &same), "198.51.100.7");
    }

    #[test]
    fn forms_of_addresses() {
        assert_eq!(caller("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(caller("10.0.0.1", &[("forwarded", "For=\"[2001:db8::1]:8080\"")]), "2001:db8::1");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "2001:db8::1")]), "2001:db8::1");
        assert_eq!(caller("::ffff:10.0.0.1", &[("x-forwarded-for", "::ffff:198.51.100.7")]), "198.51.100.7");
        assert_eq!(caller("fd00::1", &[("x-forwarded-for", "198.51.100.7:1234")]), "198.51.100.7");
        // what cannot be read ends the walk at the last address that was known
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, unknown, 10.0.0.2")]), "10.0.0.2");
        assert_eq!(caller("10.0.0.1", &[("forwarded", "for=_hidden")]), "10.0.0.1");
        assert_eq!(caller("10.0.0.1", &[("x-forwarded-for", "")]), "10.0.0.1");
    }
}
