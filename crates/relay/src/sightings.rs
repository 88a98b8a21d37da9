//! What services below have seen, until the server is told: the relay tells it as its own, for the server knows nobody below it.
//!
//! One malformed sighting has the server refuse the call that it is in. So what comes from below is looked at as the server does, and what
//! is taken is bounded: in all, of one session, and of one client a minute, so that none takes all that the server takes of a relay.
use portcullis_feed::Mono;
use portcullis_wire::ClientId;
use portcullis_wire::frame::{MAX_SEEN_AGENT, MAX_SIGHTINGS, Sighting, network_of};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// So many wait at most.
const WAITING: usize = 512;
/// And so many of one session.
const OF_ONE: usize = 4;
/// So many of one client below a minute: half of what the server takes of a relay.
const A_MINUTE: u32 = 300;
const MINUTE_MS: i64 = 60_000;
/// What is older says nothing of now.
const MAX_AGO_MS: i64 = 120_000;

/// What is wrong with a sighting.
pub(crate) type Wrong = &'static str;

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// With the time at which it was seen.
    rows: VecDeque<(Mono, Sighting)>,
    /// How many clients have told since this time. Of nobody but those whom the server knows.
    told: (Mono, BTreeMap<ClientId, u32>),
}

/// Whether the server would take it.
pub(crate) fn check(sighting: &Sighting) -> Result<(), Wrong> {
    let network: IpAddr = sighting.network.parse().map_err(|_| "network is no address")?;
    if network_of(network) != network {
        return Err("network has more than 24 bits (IPv4) or 56 (IPv6)");
    }
    let agent = sighting.agent.as_deref();
    if agent.is_some_and(|agent| agent.len() > MAX_SEEN_AGENT || agent.chars().any(char::is_control)) {
        return Err("agent is too long, or has control characters");
    }
    Ok(())
}

impl Waiting {
    /// Takes what a client below tells; how many of them.
    pub(crate) fn take(&mut self, client: ClientId, seen: Vec<Sighting>, now: Mono) -> usize {
        if now.since(self.told.0) >= MINUTE_MS {
            self.told = (now, BTreeMap::new());
        }
        let mut taken = 0;
        for one in seen {
            let ago_ms = i64::try_from(one.ago_ms).unwrap_or(i64::MAX);
            let (mut of_it, mut there) = (0, false);
            for (_, row) in self.rows.iter().filter(|(_, row)| row.session == one.session) {
                of_it += 1;
                there |= row.network == one.network;
            }
            let told = self.told.1.entry(client).or_default();
            if ago_ms > MAX_AGO_MS || there || of_it >= OF_ONE || *told >= A_MINUTE {
                continue;
            }
            if self.rows.len() >= WAITING {
                break;
            }
            *told += 1;
            taken += 1;
            self.rows.push_back((Mono(now.0 - ago_ms), one));
        }
        taken
    }

    /// What the server is to be told now; it counts as told.
    pub(crate) fn next(&mut self, now: Mono) -> Vec<Sighting> {
        self.rows.retain(|(at, _)| now.since(*at) <= MAX_AGO_MS);
        let many = self.rows.len().min(MAX_SIGHTINGS);
        let told = self.rows.drain(..many);
        told.map(|(at, row)| Sighting { ago_ms: u64::try_from(now.since(at)).unwrap_or(0), ..row }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_wire::SessionId;

    fn seen(session: u128, network: &str, ago_ms: u64) -> Sighting {
        Sighting {
            session: SessionId::from_bits(session),
            ago_ms,
            network: network.into(),
            agent: Some("curl/8".into()),
        }
    }

    fn client(n: u128) -> ClientId {
        ClientId::from_bits(n)
    }

    #[test]
    fn it_is_told_once_with_its_age_and_not_when_it_is_old() {
        let (mut waiting, start) = (Waiting::default(), Mono(1_000_000));
        let both = vec![seen(1, "203.0.113.0", 500), seen(1, "203.0.113.0", 100), seen(2, "203.0.113.0", 119_000)];
        assert_eq!(waiting.take(client(1), both, start), 2);
        assert_eq!(waiting.next(start.plus(2_000)), [seen(1, "203.0.113.0", 2_500)]);
        assert_eq!(waiting.next(start.plus(2_000)), []);
        assert_eq!(waiting.take(client(1), vec![seen(3, "203.0.113.0", 120_001)], start), 0);
    }

    #[test]
    fn no_session_and_no_client_takes_all() {
        let (mut waiting, start) = (Waiting::default(), Mono(1_000_000));
        let far = (0..64).map(|n| seen(1, &format!("10.0.{n}.0"), 0)).collect();
        assert_eq!(waiting.take(client(1), far, start), OF_ONE);
        let mut taken = OF_ONE;
        for n in 0..10 {
            let many = (0..64).map(|k| seen(100 + n * 64 + k, "10.0.0.0", 0)).collect();
            taken += waiting.take(client(1), many, start);
        }
        assert_eq!(taken, A_MINUTE as usize);
        let theirs = (0..64).map(|k| seen(10_000 + k, "10.0.0.0", 0)).collect();
        assert_eq!(waiting.take(client(2), theirs, start), 64);
        let mut told = 0;
        while let more @ 1.. = waiting.next(start).len() {
            assert!(more <= MAX_SIGHTINGS);
            told += more;
        }
        assert_eq!(told, A_MINUTE as usize + 64);
        // A minute later it may tell again; of all there wait so many.
        let later = start.plus(MINUTE_MS);
        let mut all = 0;
        for from in 0..20u128 {
            let many = (0..64).map(|k| seen(20_000 + from * 64 + k, "10.0.0.0", 0)).collect();
            all += waiting.take(client(from), many, later);
        }
        assert_eq!(all, WAITING);
    }

    #[test]
    fn what_the_server_would_refuse_is_refused_here() {
        let agent = |agent: String| Sighting { agent: Some(agent), ..seen(1, "203.0.113.0", 0) };
        assert_eq!(check(&seen(1, "2001:db8:1::", 0)), Ok(()));
        let wrong = [seen(1, "203.0.113.7", 0), seen(1, "home", 0), agent("x".repeat(201)), agent("a\nb".into())];
        assert!(wrong.iter().all(|one| check(one).is_err()));
    }
}
