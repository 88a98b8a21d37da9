//! Whether a token that is shown days after it was replaced is shown where its session was last (decision 0055).
use super::memory::{Kept, Memory, Move, NetName, Sess, secs};
use super::observe::{is_older, numbers, token_at};
use super::{Origin, Place, Seen, Spot, km_between};

/// What lies no farther apart than this is one place,
const NEAR_KM: u16 = 20;
/// where it is known as exactly as that.
const EXACT_KM: u16 = 50;

impl Memory {
    /// Whether what is `seen` comes from where its session was last, which is the network `last`, and nothing speaks against it:
    /// - the same network, or
    /// - where the session was last is the account's own: another network that the account knows, or one of the same country, of a provider
    ///   that the account knows or in the same place.
    ///
    /// Where the session was last is not the account's own if it went there, where the account never was, by the very refresh whose answer
    /// is said to be lost: a thief may have got that answer. Who had the token before from there was there.
    ///
    /// What speaks against it is an older version than the session showed before, or another phone. Where nothing is remembered of the
    /// session, it is the same network or none.
    pub fn is_at_home(&self, last: [u8; 8], seen: &Seen) -> bool {
        let (Some(from), Some(session)) = (seen.from.as_ref(), seen.session) else { return false };
        let (kept, now) = (self.settled(secs(seen.at)), secs(seen.at));
        let one = kept.s.iter().find(|one| one.i == NetName::of(session));
        if from.network == Origin::NOWHERE || one.is_some_and(|one| is_older(&one.u, &numbers(seen))) {
            return false;
        }
        if from.network == last {
            return true;
        }
        let there = |one: &&Sess| one.network() == NetName(last) && !one.has_just_gone(token_at(seen));
        let Some(one) = one.filter(there) else { return false };
        let there = kept.n.iter().find(|net| net.0.0 == last);
        let country = |place: &Place| there.is_some_and(|net| net.1.is_some_and(|is| Some(is.0) == place.country));
        let near = |spot: Spot| one.w.is_some_and(|(there, _)| is_near(there, spot));
        let known = kept.n.iter().any(|net| net.0.0 == from.network && kept.knows(net, now));
        let provider = |asn: u32| kept.has_provider(asn, NetName(from.network), now);
        known || country(&from.place) && (from.place.asn.is_some_and(provider) || from.place.spot.is_some_and(near))
    }
}

impl Sess {
    /// Whether it went to a network that was new to the account by the refresh that made its current token. A phone, which is always in
    /// another one of its carrier's, has not.
    fn has_just_gone(&self, made_at: i64) -> bool {
        let Some(last) = self.m.last() else { return false };
        let roams = |step: &Move| step.2 != 0 && step.2 == last.2 && step.0 != last.0;
        last.3 && last.1 >= made_at && !self.m.iter().any(roams)
    }
}

impl Kept {
    /// Whether the account was known with a provider by then, in another network.
    fn has_provider(&self, asn: u32, but: NetName, then: i64) -> bool {
        asn != 0 && self.n.iter().any(|net| net.2 == asn && net.0 != but && self.knows(net, then))
    }
}

/// By databases that know towns. What lies in one of them is at its middle.
fn is_near((lat, lon, radius_km): super::memory::Where, here: Spot) -> bool {
    let middle = |lat_udeg, lon_udeg| Spot { lat_udeg, lon_udeg, radius_km: NEAR_KM / 2 };
    let there = middle(lat.saturating_mul(1000), lon.saturating_mul(1000));
    let exact = radius_km <= EXACT_KM && here.radius_km <= EXACT_KM;
    exact && km_between(there, middle(here.lat_udeg, here.lon_udeg)) == 0
}
