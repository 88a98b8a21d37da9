//! Clients with keys at an address of their own (`jwks_uri`), which rotate them, take them away at once, are away, answer late or say
//! nonsense; assertions by new, old, stolen and nobody's keys; and the one node that keeps what it has fetched in memory. The real rule
//! decides; the waiting around it, which `app` has with locks and sockets, is written again as events.
//!
//! What nobody in the world knows is when each key was at its address. Held against that: how long a key counts that was taken away,
//! that nobody is lost whose key counts, that nobody is told that they are wrong when that is not known, and how often addresses are asked.
use crate::clock::At;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::world::{Event, World, tell};
use portcullis_domain::client_keys::{self, Line, Spans, Standing, Step};
use portcullis_wire::Millis;
use portcullis_wire::b64;
use portcullis_wire::jwk::PublicKey;
use std::collections::{BTreeMap, VecDeque};

/// How many clients there are.
const CLIENTS: usize = 3;
/// A day in the life of a key, in seconds.
const SPANS: Spans = Spans { fresh: 8_000, meanwhile: 4_000, usable: 24_000, again: 1_500, longest_rest: 6_000 };
/// The longest call: longer ones are given up.
const LONGEST: i64 = 3_000;
/// What clocks may make of these spans.
const SLACK: i64 = 100;
/// Nobody's key.
const STRANGER: u32 = u32::MAX;

/// How an address answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// After a while, sometimes too late.
    Late,
    Away,
    /// With what is no set of keys, or too much of one.
    Nonsense,
}

/// A client: what stands at its address, and stood there.
#[derive(Debug)]
struct Place {
    /// By number: since when, and until when.
    keys: BTreeMap<u32, (At, Option<At>)>,
    mood: Mood,
    since: At,
    /// It stays so at least until then.
    until: At,
    /// Nobody signs for it until then.
    rests_until: At,
}

/// What the node knows of a client, in memory.
#[derive(Debug, Default)]
struct Known {
    standing: Standing,
    keys: Vec<PublicKey>,
    asking: Option<u32>,
    waiting: VecDeque<u32>,
    // The truth about that:
    /// What was read there when the last good answer was made, and when it was asked for by the node's clock.
    read: Vec<u32>,
    asked: Option<Millis>,
    began: Millis,
    /// When the last call ended, how long it took, how many have failed since a good one.
    ended: Option<Millis>,
    took: Millis,
    failed: u32,
}

/// All of them.
#[derive(Debug)]
pub struct ClientKeys {
    /// A source of its own, so that what else happens in a world does not depend on it.
    rng: Rng,
    places: Vec<Place>,
    known: Vec<Known>,
    next_key: u32,
}

impl ClientKeys {
    pub fn new(seed: u64) -> Self {
        let first = |key| Place {
            keys: BTreeMap::from([(key, (0, None))]),
            mood: Mood::Well,
            since: 0,
            until: 0,
            rests_until: 0,
        };
        let places = (0..).take(CLIENTS).map(first).collect();
        let mut all = Self { rng: Rng::new(seed ^ 0x7a1c_93e5_0d42_6bf8), places, known: Vec::new(), next_key: 100 };
        all.forget();
        all
    }
    /// The node dies: its memory is gone.
    pub fn forget(&mut self) {
        self.known = (0..CLIENTS).map(|_| Known::default()).collect();
    }
}

/// A key by its number.
fn member(key: u32) -> String {
    let mut x = [7_u8; 32];
    x[..4].copy_from_slice(&key.to_be_bytes());
    format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, b64::encode(&x))
}

/// What an address says: its keys, among others that are of no use here.
fn document(keys: &[u32]) -> String {
    let own: Vec<String> = keys.iter().map(|key| member(*key)).collect();
    format!(r#"{{"keys":[{{"kty":"oct","k":"AAAA"}},{}]}}"#, own.join(","))
}

/// One of these keys has made a signature by `key`.
fn made(keys: &[PublicKey], key: u32) -> bool {
    serde_json::from_str(&member(key)).is_ok_and(|own| PublicKey::from_json(&own).is_ok_and(|own| keys.contains(&own)))
}

impl World {
    /// Something happens to a client's keys, and somebody signs with one.
    pub fn client_keys_act(&mut self) {
        let pause = self.client_keys.rng.range(60, 900);
        self.after(pause, Event::ClientKeys);
        let now = self.now;
        let all = &mut self.client_keys;
        let client = all.rng.index(CLIENTS);
        let next_key = all.next_key;
        let (place, rng) = (&mut all.places[client], &mut all.rng);
        let live: Vec<u32> = place.keys.iter().filter(|(_, (_, to))| to.is_none()).map(|(key, _)| *key).collect();
        match rng.range(0, 99) {
            0..=5 if live.len() < 4 => {
                place.keys.insert(next_key, (now, None));
                all.next_key += 1;
            }
            // Taken away: an old one, or one that was stolen.
            6..=10 if live.len() > 1 => {
                let gone = rng.pick(&live);
                place.keys.insert(gone, (place.keys[&gone].0, Some(now)));
            }
            11..=16 if now >= place.until => {
                let mood =
                    rng.pick(&[Mood::Well, Mood::Well, Mood::Well, Mood::Late, Mood::Late, Mood::Away, Mood::Nonsense]);
                if mood != place.mood {
                    (place.mood, place.since) = (mood, now);
                }
                // Some are away for longer than their keys are borne.
                if mood == Mood::Away && rng.chance(400) {
                    place.until = now + rng.range(SPANS.usable, 2 * SPANS.usable);
                }
            }
            17..=19 => place.rests_until = now + rng.range(5_000, 30_000),
            _ => {}
        }
        if now < place.rests_until {
            return;
        }
        let live: Vec<u32> = place.keys.iter().filter(|(_, (_, to))| to.is_none()).map(|(key, _)| *key).collect();
        let gone: Vec<u32> = place.keys.iter().filter(|(_, (_, to))| to.is_some()).map(|(key, _)| *key).collect();
        let key = match rng.range(0, 9) {
            0 => STRANGER,
            1..=3 if !gone.is_empty() => gone[gone.len() - 1 - rng.index(gone.len().min(4))],
            _ => rng.pick(&live),
        };
        // Often twice at once: whoever asks is not the only one.
        let times = if rng.chance(300) { 2 } else { 1 };
        for _ in 0..times {
            self.key_shown(client, key);
        }
    }

    fn key_shown(&mut self, client: usize, key: u32) {
        if !self.node.up || self.now < self.node.paused_until {
            return;
        }
        let line = if self.client_keys.known[client].asking.is_some() { Line::Busy } else { Line::Free };
        let step = self.key_step(client, key, line);
        if step == Step::Use {
            return self.key_judged(client, key, step, line);
        }
        self.client_keys.known[client].waiting.push_back(key);
        if line == Line::Free {
            self.key_turn(client);
        }
    }

    /// The rule, or a planted bug.
    fn key_step(&mut self, client: usize, key: u32, line: Line) -> Step {
        let (mut spans, now) = (SPANS, self.node_now().0);
        let known = &self.client_keys.known[client];
        let mut standing = known.standing;
        match self.mutant {
            Some(Mutant::KeptKeysForEver) => spans.usable = Millis::MAX,
            Some(Mutant::RemovedKeysMeanwhile) => spans.meanwhile = spans.usable,
            Some(Mutant::GarbageAsksAlways) => standing.tried = None,
            _ => {}
        }
        let step = standing.step(&spans, made(&known.keys, key), line, now);
        match step {
            Step::Unavailable if self.has(Mutant::WrongWhenNobodyKnows) => Step::Unknown,
            step => step,
        }
    }

    /// Whoever waits has their turn, one after another, until one of them must ask.
    fn key_turn(&mut self, client: usize) {
        while let Some(key) = self.client_keys.known[client].waiting.pop_front() {
            let step = self.key_step(client, key, Line::Free);
            if step != Step::Fetch {
                self.key_judged(client, key, step, Line::Free);
                continue;
            }
            if self.client_keys.rng.chance(20) {
                self.counts.add("client keys: all places taken");
                let step = self.key_step(client, key, Line::Full);
                self.key_judged(client, key, step, Line::Full);
                continue;
            }
            return self.keys_asked(client, key);
        }
    }

    /// I12: an address is asked only so often, and one that fails less and less.
    fn keys_asked(&mut self, client: usize, key: u32) {
        let now = self.node_now().0;
        let (life, known) = (self.node.life, &mut self.client_keys.known[client]);
        let rest = SPANS.again.saturating_mul(1 << known.failed.saturating_sub(1).min(16)).min(SPANS.longest_rest);
        let too_soon = known.ended.filter(|at| now - at < rest);
        known.standing = known.standing.trying(now);
        (known.asking, known.began) = (Some(key), now);
        let (place, rng) = (&self.client_keys.places[client], &mut self.client_keys.rng);
        let late = |rng: &mut Rng| rng.range(0, LONGEST / 2) + rng.range(0, LONGEST * 2 / 3);
        let (read, rest_of_it) = match place.mood {
            Mood::Well => (rng.range(1, 60), rng.range(1, 60)),
            Mood::Late => (rng.range(1, 100), late(rng)),
            Mood::Away | Mood::Nonsense => (rng.range(1, 60), rng.range(1, LONGEST)),
        };
        self.after(read, Event::KeysRead { life, client, wait: rest_of_it });
        if let Some(at) = too_soon {
            let detail =
                format!("the address of client {client} is asked {} ms after the last call, of {rest}", now - at);
            self.violate("I12", detail);
        }
    }

    /// The address makes its answer.
    pub fn keys_read(&mut self, life: u32, client: usize, wait: i64) {
        let (place, rng) = (&self.client_keys.places[client], &mut self.client_keys.rng);
        let own: Vec<u32> = place.keys.iter().filter(|(_, (_, to))| to.is_none()).map(|(key, _)| *key).collect();
        let said = match place.mood {
            Mood::Well | Mood::Late => Some((document(&own), own)),
            Mood::Away => None,
            Mood::Nonsense => {
                let many: Vec<u32> = (0..17).map(|n| own[0] ^ n).collect();
                let twice = document(&own).replacen('{', r#"{"keys":[],"#, 1);
                let private = document(&own).replace(r#""x""#, r#""d":"AAAA","x""#);
                let all = ["<html>".into(), r#"{"keys":[]}"#.into(), document(&many), twice, private];
                Some((all[rng.index(all.len())].clone(), Vec::new()))
            }
        };
        let said = said.filter(|_| wait <= LONGEST);
        self.after(wait.min(LONGEST), Event::KeysCome { life, client, said });
    }

    /// The call ends, with an answer or without; whoever asked is answered, and the others after them.
    pub fn keys_come(&mut self, client: usize, said: Option<(String, Vec<u32>)>) {
        let (now, bug) = (self.node_now().0, self.mutant);
        let read = said.and_then(|(text, own)| client_keys::read(text.as_bytes()).ok().map(|keys| (keys, own)));
        self.counts.add(if read.is_some() { "client keys: fetched" } else { "client keys: a fetch failed" });
        let known = &mut self.client_keys.known[client];
        known.standing = known.standing.tried(read.is_some(), now);
        (known.ended, known.took) = (Some(now), now - known.began);
        match read {
            Some((keys, own)) => {
                (known.keys, known.read, known.asked, known.failed) = (keys, own, Some(known.began), 0);
                if bug == Some(Mutant::KeysFromArrival) {
                    known.standing.fetched = Some(now);
                }
            }
            None => {
                known.failed += 1;
                if bug == Some(Mutant::FailureForgetsKeys) {
                    known.keys.clear();
                    known.standing.fetched = None;
                }
            }
        }
        if let Some(key) = self.client_keys.known[client].asking.take() {
            let step = self.key_step(client, key, Line::Free);
            let step = if step == Step::Fetch { Step::Unavailable } else { step };
            self.key_judged(client, key, step, Line::Free);
        }
        self.key_turn(client);
    }

    /// An assertion is answered.
    fn key_judged(&mut self, client: usize, key: u32, step: Step, line: Line) {
        let (now, node) = (self.now, self.node_now().0);
        let (known, place) = (&self.client_keys.known[client], &self.client_keys.places[client]);
        let life = place.keys.get(&key).copied();
        let fails = known.failed > 0 || line == Line::Full;
        let since_asked = known.asked.map(|at| node - at);
        let kept = known.read.contains(&key) && since_asked.is_some_and(|age| age < SPANS.usable - SLACK);
        let kept = kept && known.took <= SPANS.fresh;
        let (kind, wrong) = match step {
            Step::Use => {
                let busy = line == Line::Busy || known.took > SPANS.fresh / 2;
                let limit = match (fails, busy) {
                    (true, _) => SPANS.usable,
                    (_, true) => SPANS.fresh + SPANS.meanwhile,
                    _ => SPANS.fresh,
                };
                let gone = life.map_or(Some(At::MIN), |(_, to)| to);
                let late = gone.map(|at| now.saturating_sub(at)).filter(|late| *late > limit + SLACK);
                let why = |late| ("I1", format!("counts {late} ms after it was taken away; {limit} are allowed"));
                let kind = match (gone, fails, line) {
                    (Some(_), ..) => "client keys: used, and taken away",
                    (_, true, _) => "client keys: used while their address fails",
                    (.., Line::Busy) => "client keys: used while they are asked for",
                    _ => "client keys: used",
                };
                (kind, late.map(why))
            }
            Step::Unknown => {
                let since_call = known.ended.map_or(i64::MAX, |at| node - at);
                let lives = life.is_some_and(|(_, to)| to.is_none());
                let why = match () {
                    () if fails => Some("is called wrong, and nobody could know"),
                    () if lives && known.read.contains(&key) => Some("was fetched, and is called wrong"),
                    () if lives && since_call > SPANS.again + SLACK => Some("is called wrong, and nobody asked"),
                    () => None,
                };
                ("client keys: wrong", why.map(|why| ("I11", why.to_owned())))
            }
            Step::Fetch | Step::Unavailable => {
                // The address is asked again at the latest then, whatever stood still meanwhile.
                let back = LONGEST + SPANS.longest_rest + 3 * self.settings.bound + SLACK;
                let well = matches!(place.mood, Mood::Well) && now - place.since > back && line != Line::Full;
                let why = match () {
                    () if kept => Some("is refused, and what was fetched still counts"),
                    () if well => Some("is refused, and its address has long been back"),
                    () => None,
                };
                ("client keys: nobody knows", why.map(|why| ("I11", why.to_owned())))
            }
        };
        self.counts.add(kind);
        tell!(self, "client {client}: key {key} by {line:?}: {step:?}");
        if let Some((invariant, why)) = wrong {
            self.violate(invariant, format!("key {key} of client {client} {why}"));
        }
    }
}
