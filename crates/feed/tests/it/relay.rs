//! A relay between the log and verifiers that get answers late or never: none is fresh by more than the relay itself was, and
//! what it acknowledges everybody has.
use crate::support::{Chance, LOG, end, ses};
use portcullis_feed::fleet::Instance;
use portcullis_feed::publisher::Limits;
use portcullis_feed::relay::{Refused, age_ms, oldest};
use portcullis_feed::subscriber::{Action, Ask, Config, Frame, Input, Now};
use portcullis_feed::{Mono, Policies, Policy, Publisher, Relay, Subscriber};
use portcullis_wire::frame::{AckAnswer, AckRequest, Entries, Hello, Tail};
use portcullis_wire::{Chain, ClientId, Entry, InstanceId, Rev, SecretString, Target, Time};

const B: i64 = 1_000;
const BELOW: usize = 4;

fn id(n: usize) -> InstanceId {
    InstanceId::from_bits(n as u128 + 1)
}

fn instance(n: usize) -> Instance {
    let (client, policies) = (ClientId::from_bits(1), Policies::default());
    Instance { id: id(n), name: "v".into(), client, policies, bound_ms: None }
}

fn question(n: usize, log: &Publisher, applied: Rev) -> AckRequest {
    AckRequest {
        instance: id(n),
        instance_secret: SecretString::new("s"),
        epoch: log.epoch(),
        applied,
        enforced: None,
        position: String::new(),
        nonce: "n".into(),
        keys: None,
    }
}

/// The server, the relay's follower, and the relay.
struct World {
    log: Publisher,
    follower: Subscriber,
    relay: Relay,
    asks: Vec<Ask>,
    now: i64,
}

impl World {
    fn new() -> Self {
        let mut log = Publisher::empty(LOG, Limits::default());
        log.set_keys(Vec::new());
        let follower = Subscriber::new(Config { relays: true, ..Config::default() });
        let relay = Relay::new(0, BELOW, Limits::default());
        let mut world = Self { log, follower, relay, asks: Vec::new(), now: 10_000 };
        world.takes(Input::Tick);
        world.connects();
        world
    }

    fn at(&self) -> (Mono, Time) {
        (Mono(self.now), Time(1_000_000 + self.now))
    }

    fn connects(&mut self) {
        let hello = Hello {
            v: 1,
            log: LOG,
            instance: id(99),
            instance_secret: SecretString::new("s"),
            epoch: self.log.epoch(),
            head: self.log.head(),
            chain: self.log.chain(),
            bound_ms: B as u64,
            max_life_s: 60,
        };
        self.takes(Input::Frame(Frame::Hello(hello), None));
        for part in self.log.snapshot(100) {
            self.takes(Input::Frame(Frame::Snapshot(part), Some(format!("name of {}", self.log.head()))));
        }
    }

    fn takes(&mut self, input: Input) {
        let (mono, wall) = self.at();
        for action in self.follower.handle(input, Now { mono, wall, chance: self.now as u64 }) {
            assert!(!matches!(action, Action::Disconnect), "the relay refuses the log");
            if let Action::Ask(ask) = action {
                self.asks.push(ask);
            }
        }
        self.relay.learn(&mut self.follower, mono);
    }

    fn commits(&mut self) -> Entry {
        let entry = end(self.log.head().0 + 1, Target::Session(ses(self.log.head().0)));
        let chain = self.log.chain().after(&entry);
        self.log.append(core::slice::from_ref(&entry), chain, Mono(self.now)).unwrap();
        entry
    }

    /// The server answers the newest question, by a read that begins now.
    fn answered(&mut self) {
        let Some(ask) = self.asks.pop() else { return };
        let answer = AckAnswer {
            nonce: ask.nonce,
            epoch: self.log.epoch(),
            head: self.log.head(),
            chain: self.log.chain(),
            horizon_floor: Time(0),
            age_ms: 0,
            time: Some(Time(5_000)),
            position: Some(format!("name of {}", self.log.head())),
            entries: self.log.tail(ask.epoch, ask.applied, 100),
            keys: None,
        };
        self.takes(Input::Answer(answer));
    }

    fn asked_by(&mut self, n: usize, applied: u64, arrived: i64) -> Result<AckAnswer, Refused> {
        let (mono, wall) = self.at();
        let asked = question(n, &self.log, Rev(applied));
        self.relay.answer(&asked, Mono(arrived), mono, wall)
    }
}

#[test]
fn the_age_is_its_own_and_never_less() {
    assert_eq!([age_ms(Mono(10), Mono(9)), age_ms(Mono(10), Mono(10)), age_ms(Mono(10), Mono(250))], [0, 1, 241]);
    let mut world = World::new();
    world.relay.introduce(instance(0), Mono(world.now)).unwrap();
    assert_eq!(world.asked_by(0, 0, world.now).map(drop), Err(Refused::NotFresh), "no lease of its own yet");
    let asked = world.now + 5;
    world.now = asked;
    world.takes(Input::Tick);
    world.now += 30;
    world.answered();
    for later in [40, 200, oldest(B) - 5] {
        world.now = asked + later;
        let answer = world.asked_by(0, 0, world.now).unwrap();
        // 1 ms for the cut-off, and it asked somewhat before.
        assert!((later as u64 + 1..=later as u64 + 7).contains(&answer.age_ms), "{} at {later}", answer.age_ms);
        assert_eq!((answer.position.as_deref(), answer.entries), (Some("name of 0"), Tail::Entries(vec![])));
    }
    world.now = asked + oldest(B) + 1;
    let (mono, wall) = world.at();
    assert!(!world.relay.is_ready(mono, wall));
    assert_eq!(world.asked_by(0, 0, world.now).map(drop), Err(Refused::NotFresh));
    assert_eq!(world.asked_by(3, 0, world.now).map(drop), Err(Refused::Gone), "nobody knows it");
}

#[test]
fn it_says_for_all_what_all_have_said() {
    let mut world = World::new();
    world.now += 5;
    world.takes(Input::Tick);
    world.answered();
    for n in 0..2 {
        assert_eq!(world.relay.introduce(instance(n), Mono(world.now)), Ok(B));
        world.asked_by(n, 0, world.now).unwrap();
    }
    let entry = world.commits();
    world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![entry], ack: true }), None));
    world.relay.prompted();
    assert_eq!((world.relay.log().unwrap().head(), world.relay.tells(Mono(world.now))), (Rev(1), Rev(0)));
    assert_eq!(world.relay.position(), None, "the server has not named it yet");
    world.asked_by(0, 1, world.now).unwrap();
    assert!(!world.relay.has_to_tell(Mono(world.now)));
    world.asked_by(1, 1, world.now).unwrap();
    assert!(world.relay.has_to_tell(Mono(world.now)));
    assert_eq!(world.relay.tells(Mono(world.now)), Rev(1));
    assert!(!world.relay.has_to_tell(Mono(world.now)));

    // A relay below says less than it has applied; one that is silent is waited for until its lease has ended.
    let entry = world.commits();
    world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![entry], ack: false }), None));
    let (mono, wall) = world.at();
    let asked = AckRequest { enforced: Some(Rev(1)), ..question(0, &world.log, Rev(2)) };
    world.relay.answer(&asked, mono, mono, wall).unwrap();
    assert_eq!(world.relay.enforced(mono), Rev(1));
    assert_eq!(world.relay.enforced(mono.plus(B - 50)), Rev(1));
    assert_eq!(world.relay.enforced(mono.plus(B + 11)), Rev(2), "by arithmetic");
}

#[test]
fn there_is_a_limit_and_a_lower_bound_calls_everyone_back() {
    let mut world = World::new();
    let told = |world: &mut World, n: usize| world.relay.introduce(instance(n), Mono(world.now));
    for n in 0..BELOW {
        assert_eq!(told(&mut world, n), Ok(B));
    }
    assert!(told(&mut world, BELOW).is_err(), "full");
    let open = Policies::only(Policy::Open);
    world.relay.introduce(Instance { policies: open, ..instance(0) }, Mono(world.now)).unwrap();
    assert_eq!(world.relay.fleet().policies(), open.with(Policy::Closed));
    let (generation, hello) = (world.relay.generation(), |world: &World| Hello {
        v: 1,
        log: LOG,
        instance: id(99),
        instance_secret: SecretString::new("s"),
        epoch: world.log.epoch(),
        head: world.log.head(),
        chain: world.log.chain(),
        bound_ms: B as u64 / 2,
        max_life_s: 60,
    });
    let hello = hello(&world);
    world.takes(Input::Frame(Frame::Hello(hello), None));
    assert_eq!(world.asked_by(1, 0, world.now).map(drop), Err(Refused::Gone), "it was told a longer one");
    assert_eq!(told(&mut world, 1), Ok(B / 2));
    assert_eq!(world.relay.generation(), generation, "the log goes on");
}

/// A verifier as it is: what it has applied, and until when it calls itself fresh.
#[derive(Default, Clone, Copy)]
struct Truth {
    applied: u64,
    fresh_until: i64,
}

#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// Answers as if it were fresh itself just now.
    Renews,
    /// Acknowledges what it has applied itself.
    SpeaksForAll,
}

fn run(seed: u64, planted: Planted) -> Result<(u32, u32), String> {
    let (mut dice, mut world) = (Chance::new(seed), World::new());
    let mut commits: Vec<i64> = Vec::new();
    let mut below = [Truth::default(); BELOW];
    let mut coming: Vec<(usize, i64, AckAnswer)> = Vec::new();
    let (mut acknowledged, mut leases, mut cut_until) = (0, 0, 0);
    for n in 0..BELOW {
        world.relay.introduce(instance(n), Mono(world.now)).unwrap();
    }
    for _ in 0..500 {
        world.now += dice.below(25) as i64;
        world.takes(Input::Tick);
        let (n, now) = (dice.below(BELOW as u64) as usize, world.now);
        match dice.below(30) {
            0 => {
                let entry = world.commits();
                commits.push(now);
                if now >= cut_until {
                    world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![entry], ack: false }), None));
                }
            }
            1 if dice.one_in(4) => cut_until = now + dice.below(3_000) as i64,
            2..=8 if now >= cut_until => world.answered(),
            9..=20 => {
                let asked_at = now - dice.below(40) as i64;
                if let Ok(mut answer) = world.asked_by(n, below[n].applied, now) {
                    if planted == Planted::Renews {
                        answer.age_ms = 0;
                    }
                    coming.push((n, asked_at, answer));
                    leases += 1;
                }
            }
            21..=28 if !coming.is_empty() => {
                let (n, asked_at, answer) = coming.swap_remove(dice.below(coming.len() as u64) as usize);
                if !dice.one_in(5) && answer.head.0 >= below[n].applied {
                    below[n].applied = answer.head.0;
                    below[n].fresh_until = below[n].fresh_until.max(asked_at - answer.age_ms as i64 + B * 99 / 100);
                }
            }
            _ => {}
        }
        let told = match planted {
            Planted::SpeaksForAll => world.relay.log().unwrap().head(),
            _ => world.relay.tells(Mono(now)),
        };
        acknowledged += u32::from(told.0 > 0 && commits[told.0 as usize - 1] + B > now);
        for truth in below.iter().filter(|truth| truth.fresh_until > now) {
            if truth.applied < told.0 {
                return Err(format!("seed {seed}: {told} is acknowledged, and one has only {}", truth.applied));
            }
            if commits.get(truth.applied as usize).is_some_and(|at| at + B < now) {
                return Err(format!("seed {seed}: fresh at {now} without what was committed B before"));
            }
        }
    }
    Ok((acknowledged, leases))
}

#[test]
fn whatever_gets_lost_nobody_is_fresher_than_the_relay_was() {
    let (mut acknowledged, mut leases) = (0, 0);
    for seed in 1..1_500 {
        let counts = run(seed, Planted::Nothing).unwrap();
        (acknowledged, leases) = (acknowledged + counts.0, leases + counts.1);
    }
    assert!(acknowledged > 500 && leases > 50_000, "{acknowledged} {leases}: too little happened");
}

#[test]
fn what_would_be_wrong_is_noticed() {
    for planted in [Planted::Renews, Planted::SpeaksForAll] {
        assert!((1..500).any(|seed| run(seed, planted).is_err()));
    }
}

#[test]
fn a_snapshot_or_a_fork_begins_anew() {
    let mut world = World::new();
    let before = world.relay.generation();
    for _ in 0..3 {
        world.commits();
    }
    world.connects(); // by a snapshot beyond what it has
    assert_eq!(world.relay.log().unwrap().head(), Rev(3));
    assert!(world.relay.generation() > before);
    assert_eq!(world.relay.position(), Some("name of 3"));
    let chain: Chain = world.relay.log().unwrap().chain();
    assert_eq!(chain, world.log.chain());
    // What is in a set may be wider than what the log said: nobody resumes by it.
    assert_eq!(world.relay.log().unwrap().tail(world.log.epoch(), Rev(1), 10), Tail::Snapshot);
}

/// What was acknowledged before may be of another history: whoever is below comes back by a stream first.
#[test]
fn nobody_below_has_said_anything_of_what_began_anew() {
    let mut world = World::new();
    world.now += 5;
    world.takes(Input::Tick);
    world.answered();
    world.relay.introduce(instance(0), Mono(world.now)).unwrap();
    world.relay.stream_opened(instance(0).id, Mono(world.now)).unwrap();
    world.asked_by(0, 0, world.now).unwrap();
    for _ in 0..3 {
        world.commits();
    }
    world.connects();
    world.now += 5;
    world.takes(Input::Tick);
    world.answered();
    assert_eq!(world.asked_by(0, 3, world.now).map(drop), Err(Refused::NotFresh), "of which history?");
    assert_eq!(world.relay.enforced(Mono(world.now)), Rev(0), "its lease lives");
    world.relay.stream_opened(instance(0).id, Mono(world.now)).unwrap();
    world.asked_by(0, 3, world.now).unwrap();
    assert_eq!(world.relay.enforced(Mono(world.now)), Rev(3));
}
