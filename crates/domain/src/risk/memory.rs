//! What is remembered of one account. It is bounded, whatever happens: each list has a length, and what is oldest goes.
//!
//! It is kept as text with a version. What does not read, or is of a newer version, begins anew: an account of which nothing is
//! remembered is one to which nothing is new, and so nobody is disturbed by it.
use super::{Act, Origin, Seen, Step};
use alloc::{string::String, vec::Vec};
use portcullis_wire::{Millis, SessionId, Time, b64};
use serde::{Deserialize, Serialize};

/// The longest text of a memory, in bytes. A test fills one up.
pub const MAX_BYTES: usize = 4096;

const VERSION: u32 = 1;
/// Of so many networks it is remembered that the account was there.
pub(super) const MAX_NETWORKS: usize = 10;
/// And of so many more that it was there for the first time within the hour, the latest. They have places of their own, so that whoever
/// goes through ten networks in a minute pushes out none that the account has known for longer.
pub(super) const MAX_YOUNG: usize = 3;
/// A network, provider or country is new to an account for so long. Otherwise whoever got in once would be at home a second later.
pub(super) const NEW_FOR: i64 = 3600;
/// What was seen for so long has taken root: it stays longer than what was passed through.
const ROOTED: i64 = 86_400;
/// That a sign-in was refused is remembered for so long.
pub(super) const REFUSED_FOR: i64 = 86_400;
/// And of so many kinds of devices.
pub(super) const MAX_AGENTS: usize = 4;
/// And of so many sessions.
pub(super) const MAX_SESSIONS: usize = 5;
/// The most moments of one kind at the account.
pub(super) const MAX_MOMENTS: usize = 6;
/// The most moves of a session.
pub(super) const MAX_MOVES: usize = 4;
/// The most repetitions from elsewhere.
pub(super) const MAX_ECHOES: usize = 5;
/// The most forks.
pub(super) const MAX_FORKS: usize = 5;
/// The most late repetitions, and as many refusals.
pub(super) const MAX_LATE: usize = 2;
/// The most wrong proofs.
pub(super) const MAX_WRONG: usize = 5;
/// The most sightings of a session by services.
pub(super) const MAX_SEEN: usize = 3;
/// The longest name of a kind of device that is kept.
pub(super) const MAX_AGENT: usize = 32;
/// Networks and kinds of devices are forgotten when they were not seen for so long.
const LIFE: Millis = 120 * 86_400_000;
/// And sessions, with the networks in which they stand. It is more than a session lives by default: refreshes where it stands are not
/// seen.
const SESSION_LIFE: Millis = 200 * 86_400_000;

/// What is remembered of one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    pub(super) kept: Kept,
}

/// As it is written. Names are short: there is one for each account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// The version.
    pub v: u32,
    /// Where the account was, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub n: Vec<Net>,
    /// With what, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub d: Vec<Agent>,
    /// Its sessions, the one seen last at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub s: Vec<Sess>,
    /// Sign-ins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub i: Vec<i64>,
    /// Changes of credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub c: Vec<i64>,
    /// Recoveries asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ra: Vec<i64>,
    /// Recoveries done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rd: Vec<i64>,
    /// Of the last one: from a new network, from a new country.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rf: Option<(bool, bool)>,
    /// Told from outside: leaked, lost, fraud.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub x: [Option<i64>; 3],
    /// Where the account was last, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<(Where, i64)>,
    /// Since when anything is remembered: what was seen then is the account's own, and not new to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f: Option<i64>,
    /// When a sign-in with the right password was refused by a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<i64>,
}

impl Kept {
    /// Whether a network is known by now: seen an hour ago, or the account's first.
    pub fn knows(&self, net: &Net, now: i64) -> bool {
        now - net.3 >= NEW_FOR || self.f == Some(net.3)
    }

    /// Whether it was seen over a day, or a session stands there that is older than that: refreshes there are not seen.
    fn rooted(&self, net: &Net, now: i64) -> bool {
        let stands = |session: &Sess| session.network() == net.0 && now - session.b >= ROOTED;
        net.4 - net.3 >= ROOTED || self.s.iter().any(stands)
    }

    /// Of what is too much those go that were seen the longest ago; of what is known, first what was passed through.
    pub fn crowd_out(&mut self, now: i64) {
        loop {
            let known: Vec<bool> = self.n.iter().map(|net| self.knows(net, now)).collect();
            let many = |which: bool, most: usize| known.iter().filter(|known| **known == which).count() > most;
            let gone = if many(false, MAX_YOUNG) {
                known.iter().position(|known| !known)
            } else if many(true, MAX_NETWORKS) {
                // `min_by_key` takes the first of equals, and they stand in the order in which they were last seen.
                let all = known.iter().enumerate().filter(|(_, known)| **known).map(|(at, _)| at);
                all.min_by_key(|at| self.rooted(&self.n[*at], now))
            } else {
                None
            };
            let Some(at) = gone else { return };
            self.n.remove(at);
        }
    }
}

fn is_false(is: &bool) -> bool {
    !*is
}

fn is_zero(numbers: &[u32; 4]) -> bool {
    *numbers == [0; 4]
}

fn is_nothing(told: &[Option<i64>; 3]) -> bool {
    *told == [None; 3]
}

/// A spot as it is kept: degrees by a thousand (a hundred metres), and the radius in kilometres.
pub(super) type Where = (i32, i32, u16);

/// A network: name, country, provider, first seen, last seen (seconds).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Net(pub NetName, pub Option<Country>, pub u32, pub i64, pub i64);

/// A kind of device, and when it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agent(pub String, pub i64);

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sess {
    /// Which: the last 8 bytes of its id, which tell the sessions of one account apart.
    pub i: NetName,
    /// When it was first seen.
    pub b: i64,
    /// When last.
    pub l: i64,
    /// With which kind of device it was made.
    pub a: String,
    /// By bits, how it was made: see [`Sess::DEVICE`] and those below it.
    pub f: u8,
    /// The network that it was made in.
    pub h: NetName,
    /// Where it is now, as far as it was noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<(Where, i64)>,
    /// Its networks, the latest last, each with the moment that it went there, and whether it was new to the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub m: Vec<Move>,
    /// Repetitions from another network, in a row, and from which to which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub e: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ep: Option<(NetName, NetName)>,
    /// When the first one of all came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub es: Option<i64>,
    /// Forks in a row, and from which network to which the last one went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fk: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp: Option<(NetName, NetName)>,
    /// Each of those began in another country than the one where it went on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fa: bool,
    /// Repetitions of what had come from a network that was new, in a row, and from which network to which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub n: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub np: Option<(NetName, NetName)>,
    /// Of which program what follows is (a digest); its version if it is a browser, the phone's system's, and the phone's model
    /// ([`crate::device::Build`])
    #[serde(default, skip_serializing_if = "is_zero")]
    pub u: [u32; 4],
    /// Late repetitions, with their networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub k: Vec<(i64, NetName)>,
    /// Refusals of another kind of device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub o: Vec<i64>,
    /// Wrong proofs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub p: Vec<i64>,
    /// When its device signed in anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<i64>,
    /// Where services saw it, each time in another network than before, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub g: Vec<(NetName, i64)>,
}

/// A move of a session: to which network, when, of which provider (0: not known), and whether that was new to the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Move(pub NetName, pub i64, pub u32, pub bool);

impl Sess {
    /// Made by a sign-in without a mark.
    pub const DEVICE: u8 = 1;
    /// Made in a new network.
    pub const NETWORK: u8 = 2;
    /// Made in a new country.
    pub const COUNTRY: u8 = 4;
    /// Made with a stolen password.
    pub const BREACHED: u8 = 8;
    /// Seen when it was made; of others nothing is known of how.
    pub const MADE: u8 = 16;

    /// Where it was last.
    pub fn network(&self) -> NetName {
        self.m.last().map_or(self.h, |step| step.0)
    }
}

/// Eight bytes, written in base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NetName(pub [u8; 8]);

impl NetName {
    pub fn of(session: SessionId) -> Self {
        let bits = session.bits().to_be_bytes();
        let mut out = [0; 8];
        out.copy_from_slice(&bits[8..]);
        Self(out)
    }
}

impl Serialize for NetName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&b64::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for NetName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <alloc::borrow::Cow<'de, str>>::deserialize(d)?;
        b64::decode_array(&text).map(Self).ok_or_else(|| serde::de::Error::custom("not eight bytes in base64url"))
    }
}

/// A country, written as its two letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Country(pub [u8; 2]);

impl Serialize for Country {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(core::str::from_utf8(&self.0).unwrap_or("??"))
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <alloc::borrow::Cow<'de, str>>::deserialize(d)?;
        let letters: Result<[u8; 2], _> = text.as_bytes().try_into();
        letters.map(Self).map_err(|_| serde::de::Error::custom("not two letters"))
    }
}

impl Memory {
    /// From what was written; empty when it does not read.
    pub fn read(text: &str) -> Self {
        let kept: Result<Kept, _> = serde_json::from_str(text);
        Self { kept: kept.ok().filter(|kept| kept.v == VERSION).unwrap_or_default() }
    }

    /// As text, of at most [`MAX_BYTES`].
    pub fn write(&self) -> String {
        // Lists, numbers and texts cannot fail to be written.
        serde_json::to_string(&self.kept).unwrap_or_default()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.kept.n.is_empty() && self.kept.d.is_empty()
    }

    /// What is remembered when a rule has ended something by what was seen, `before` being what was remembered then: that it happened,
    /// but not the place and the device, which so stay new to the account.
    pub fn doubted(&self, before: &Self) -> Self {
        let Kept { n, d, w, f, .. } = before.kept.clone();
        Self { kept: Kept { n, d, w, f, ..self.kept.clone() } }
    }

    /// The same when a rule has refused what was `seen`: what would have been done was not. `lasts`: of a sign-in it is remembered for a
    /// day, since its password was right.
    pub fn refused(&self, before: &Self, seen: &Seen, lasts: bool) -> Self {
        let mut kept = self.doubted(before).kept;
        match seen.act {
            Act::Change(_) => kept.c = before.kept.c.clone(),
            Act::Recover(Step::Done) => (kept.rd, kept.rf) = (before.kept.rd.clone(), before.kept.rf),
            _ => {}
        }
        // A change that was refused has changed nothing: what was said of the password holds.
        kept.x[0] = kept.x[0].or(before.kept.x[0]);
        // The first of a day counts, so that a day has an end however often somebody tries.
        let right = (lasts && matches!(seen.act, Act::SignIn { .. })).then(|| secs(seen.at));
        kept.q = kept.q.or(right).or(before.kept.q);
        Self { kept }
    }

    /// What is remembered once the account has another password: that somebody said the old one is known means nothing now, nor that
    /// whoever had it was refused. `None` where nothing of it was remembered.
    pub fn with_new_password(&self) -> Option<Self> {
        let mut kept = self.kept.clone();
        let (leaked, refused) = (kept.x[0].take(), kept.q.take());
        leaked.or(refused)?;
        Some(Self { kept })
    }

    /// A network's name is a MAC, and keys are replaced: where it is remembered by a name that it had under a key `before`, it is
    /// called by the one of `today` from now on.
    pub fn renamed(mut self, today: [u8; 8], before: &[[u8; 8]]) -> Self {
        let swap = |name: &mut NetName| {
            if before.contains(&name.0) {
                name.0 = today;
            }
        };
        let kept = &mut self.kept;
        kept.n.iter_mut().for_each(|net| swap(&mut net.0));
        for session in &mut kept.s {
            swap(&mut session.h);
            session.m.iter_mut().for_each(|step| swap(&mut step.0));
            let pairs = session.ep.iter_mut().chain(&mut session.fp).chain(&mut session.np);
            pairs.for_each(|(from, to)| [from, to].into_iter().for_each(swap));
            session.k.iter_mut().for_each(|late| swap(&mut late.1));
            session.g.iter_mut().for_each(|seen| swap(&mut seen.0));
        }
        // A node that does not have today's key yet may have learned it again by the old name.
        let same = |net: &&Net| net.0.0 == today;
        if let Some(first) = kept.n.iter().filter(same).map(|net| net.3).min()
            && let Some(at) = kept.n.iter().rposition(|net| same(&net))
        {
            kept.n[at].3 = first;
            let mut n = 0;
            kept.n.retain(|net| {
                n += 1;
                net.0.0 != today || n == at + 1
            });
        }
        self
    }

    /// Without places that were not seen for `keep`, and without networks that were not seen for so long and for
    /// [`crate::throttle::NETWORK_LIFE`]: those in which a session stands stay with it, for as long as a session may.
    pub fn faded(mut self, now: Time, keep: Millis) -> Self {
        let now = secs(now);
        let kept = &mut self.kept;
        let young = |at: i64, keep: Millis| now.saturating_sub(at) < keep / 1000;
        kept.s.retain(|session| young(session.l, SESSION_LIFE));
        let stands: Vec<NetName> = kept.s.iter().map(Sess::network).collect();
        let networks = keep.max(crate::throttle::NETWORK_LIFE);
        kept.n.retain(|net| young(net.4, networks) || stands.contains(&net.0));
        kept.w = kept.w.filter(|(_, at)| young(*at, keep));
        for session in &mut kept.s {
            session.w = session.w.filter(|(_, at)| young(*at, keep));
        }
        self
    }

    /// Nothing lies in the future: when the clock was set back, it is as if no time had passed. What is old goes.
    pub(super) fn settled(&self, now: i64) -> Kept {
        let mut kept = Kept { v: VERSION, ..self.kept.clone() };
        let past = |at: &mut i64| *at = (*at).clamp(0, now.max(0));
        for net in &mut kept.n {
            past(&mut net.3);
            past(&mut net.4);
        }
        kept.d.iter_mut().for_each(|agent| past(&mut agent.1));
        for list in [&mut kept.i, &mut kept.c, &mut kept.ra, &mut kept.rd] {
            list.iter_mut().for_each(past);
        }
        kept.x.iter_mut().flatten().chain(&mut kept.f).chain(&mut kept.q).for_each(past);
        if let Some((_, at)) = &mut kept.w {
            past(at);
        }
        for session in &mut kept.s {
            past(&mut session.b);
            past(&mut session.l);
            session.m.iter_mut().for_each(|step| past(&mut step.1));
            session.k.iter_mut().for_each(|late| past(&mut late.0));
            session.g.iter_mut().for_each(|seen| past(&mut seen.1));
            for list in [&mut session.e, &mut session.n, &mut session.fk, &mut session.o, &mut session.p] {
                list.iter_mut().for_each(past);
            }
            session.r.iter_mut().chain(&mut session.es).for_each(past);
            if let Some((_, at)) = &mut session.w {
                past(at);
            }
        }
        let young = |at: i64, life: Millis| now - at < life / 1000;
        // Of what was written before this was kept: the oldest of it.
        kept.f = kept.f.or(kept.n.iter().map(|net| net.3).chain(kept.d.iter().map(|agent| agent.1)).min());
        kept.s.retain(|session| young(session.l, SESSION_LIFE));
        let stands: Vec<NetName> = kept.s.iter().map(Sess::network).collect();
        kept.n.retain(|net| young(net.4, LIFE) || stands.contains(&net.0));
        kept.d.retain(|agent| young(agent.1, LIFE));
        kept.q = kept.q.filter(|at| now - at < REFUSED_FOR);
        kept
    }
}

/// Seconds, as they are kept.
pub(super) fn secs(at: Time) -> i64 {
    at.secs().clamp(0, 99_999_999_999)
}

/// The place's spot, as it is kept.
pub(super) fn where_of(from: &Origin) -> Option<Where> {
    from.place.spot.map(|spot| (spot.lat_udeg / 1000, spot.lon_udeg / 1000, spot.radius_km))
}

/// Adds to a list the oldest of which goes.
pub(super) fn push<T>(list: &mut Vec<T>, one: T, most: usize) {
    list.push(one);
    while list.len() > most {
        list.remove(0);
    }
}
