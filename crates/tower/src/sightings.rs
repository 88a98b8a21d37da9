//! Where tokens were shown, until the server is told: a bounded table, written by requests without waiting and without allocation.
//!
//! A session in a network has one place, which others may have too; who comes second is left out until the first was told. A request
//! that finds its place busy leaves it. So nothing here can slow a request down, and nothing grows.
use portcullis_feed::Mono;
use portcullis_wire::SessionId;
use portcullis_wire::frame::{MAX_SEEN_AGENT, MAX_SIGHTINGS, Sighting, network_of};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// So many sessions in a network have a place.
const PLACES: usize = 512;
/// The same is told again after so long.
const AGAIN_MS: i64 = 60_000;

struct Seen {
    session: SessionId,
    network: IpAddr,
    at: Mono,
    told: bool,
    agent: [u8; MAX_SEEN_AGENT],
    length: usize,
}

/// What was seen.
pub(crate) struct Sightings {
    places: Box<[Mutex<Option<Seen>>]>,
    /// By which places are found, so that nobody knows who shares one.
    seed: u64,
    /// Whether something waits to be told.
    waits: AtomicBool,
    /// Where the next look begins, so that all have their turn.
    next: AtomicUsize,
}

impl std::fmt::Debug for Sightings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sightings").finish_non_exhaustive()
    }
}

impl Sightings {
    /// None yet. `seed`: by chance.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            places: (0..PLACES).map(|_| Mutex::new(None)).collect(),
            seed,
            waits: AtomicBool::new(false),
            next: AtomicUsize::new(0),
        }
    }

    fn place_of(&self, session: SessionId, network: IpAddr) -> usize {
        let network = match network {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let mut hash = u128::from(self.seed);
        for part in [session.bits(), network] {
            hash = (hash ^ part).wrapping_mul(0xda94_2042_e4dd_58b5_9e37_79b9_7f4a_7c15).rotate_left(61);
        }
        usize::try_from((hash >> 64) % PLACES as u128).unwrap_or(0)
    }

    /// Notes that a token of this session was shown from there.
    pub(crate) fn note(&self, session: SessionId, ip: IpAddr, agent: Option<&str>, now: Mono) {
        let network = network_of(ip);
        let Some(Ok(mut place)) = self.places.get(self.place_of(session, network)).map(Mutex::try_lock) else { return };
        let stays = place.as_ref().is_some_and(|seen| match seen.told {
            false => true,
            true => seen.session == session && seen.network == network && now.since(seen.at) < AGAIN_MS,
        });
        if stays {
            return;
        }
        let mut seen = Seen { session, network, at: now, told: false, agent: [0; MAX_SEEN_AGENT], length: 0 };
        // Control characters are no part of a header; what is cut off is cut between characters.
        for c in agent.unwrap_or_default().chars().filter(|c| !c.is_control()) {
            let Some(room) = seen.agent.get_mut(seen.length..).filter(|room| room.len() >= c.len_utf8()) else { break };
            seen.length += c.encode_utf8(room).len();
        }
        *place = Some(seen);
        self.waits.store(true, Ordering::Release);
    }

    /// What the server is to be told now; it counts as told.
    pub(crate) fn waiting(&self, now: Mono) -> Vec<Sighting> {
        let mut out = Vec::new();
        if !self.waits.swap(false, Ordering::AcqRel) {
            return out;
        }
        let from = self.next.load(Ordering::Relaxed);
        for n in 0..PLACES {
            let at = (from + n) % PLACES;
            if out.len() == MAX_SIGHTINGS {
                self.next.store(at, Ordering::Relaxed);
                self.waits.store(true, Ordering::Release);
                break;
            }
            let Some(place) = self.places.get(at) else { continue };
            let Ok(mut place) = place.try_lock() else {
                self.waits.store(true, Ordering::Release);
                continue;
            };
            let Some(seen) = place.as_mut().filter(|seen| !seen.told) else { continue };
            seen.told = true;
            let agent = seen.agent.get(..seen.length).and_then(|bytes| std::str::from_utf8(bytes).ok());
            out.push(Sighting {
                session: seen.session,
                ago_ms: u64::try_from(now.since(seen.at)).unwrap_or(0),
                network: seen.network.to_string(),
                agent: agent.filter(|agent| !agent.is_empty()).map(str::to_owned),
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u128) -> SessionId {
        SessionId::from_bits(n)
    }

    #[test]
    fn one_session_in_one_network_is_told_once_a_minute() {
        let (seen, start) = (Sightings::new(7), Mono(1_000_000));
        let home: IpAddr = "203.0.113.77".parse().unwrap();
        for ip in ["203.0.113.77", "203.0.113.78", "::ffff:203.0.113.9"] {
            seen.note(session(1), ip.parse().unwrap(), Some("Firefox\n/130"), start);
        }
        let told = seen.waiting(start.plus(500));
        let one = Sighting {
            session: session(1),
            ago_ms: 500,
            network: "203.0.113.0".into(),
            agent: Some("Firefox/130".into()),
        };
        assert_eq!(told, [one]);
        seen.note(session(1), home, None, start.plus(59_999));
        assert_eq!(seen.waiting(start.plus(60_000)), []);
        seen.note(session(1), "2001:db8:1:2:3::4".parse().unwrap(), None, start.plus(60_000));
        assert_eq!(seen.waiting(start.plus(60_000))[0].network, "2001:db8:1::");
        seen.note(session(1), home, None, start.plus(60_000));
        assert_eq!(seen.waiting(start.plus(60_000)).len(), 1);
    }

    #[test]
    fn it_is_bounded_and_loses_nothing_that_has_a_place() {
        let (seen, now) = (Sightings::new(7), Mono(0));
        let home: IpAddr = "203.0.113.77".parse().unwrap();
        for n in 0..100_000 {
            seen.note(session(n), home, Some(&"é".repeat(500)), now);
        }
        let mut all = std::collections::BTreeSet::new();
        loop {
            let told = seen.waiting(now);
            if told.is_empty() {
                break;
            }
            assert!(told.len() <= MAX_SIGHTINGS);
            for one in told {
                assert!(one.agent.unwrap().len() <= MAX_SEEN_AGENT);
                assert!(all.insert(one.session), "told twice");
            }
        }
        assert_eq!(all.len(), PLACES);
    }
}
