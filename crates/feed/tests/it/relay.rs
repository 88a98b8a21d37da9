//! A relay between the log and verifiers that get answers late or never: none is fresh by more than the relay itself was, and
//! what it acknowledges everybody has.
use crate::support::{Chance, LOG, end, ses};
use portcullis_feed::fleet::Instance;
use portcullis_feed::publisher::{Limits, Resume};
use portcullis_feed::relay::{Refused, age_ms, oldest};
use portcullis_feed::subscriber::{Action, Ask, Config, Frame, Input, Now, Trouble};
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

/// A verifier below the relay, or another relay; with the stream that it follows.
struct Below {
    it: Subscriber,
    asks: Vec<Ask>,
    opens: bool,
    /// Generation and position of its stream.
    stream: Option<(u64, Rev)>,
    troubles: Vec<Trouble>,
}

impl Below {
    fn new(relays: bool) -> Self {
        let it = Subscriber::new(Config { relays, ..Config::default() });
        Self { it, asks: Vec::new(), opens: false, stream: None, troubles: Vec::new() }
    }

    fn takes(&mut self, input: Input, now: i64) {
        let at = Now { mono: Mono(now), wall: Time(1_000_000 + now), chance: now as u64 };
        for action in self.it.handle(input, at) {
            match action {
                Action::Ask(ask) => self.asks.push(ask),
                Action::Connect { .. } => self.opens = true,
                Action::Disconnect => self.stream = None,
                Action::Report(trouble) => self.troubles.push(trouble),
                Action::Pull { .. } | Action::Publish => {}
            }
        }
    }

    /// The relay goes on from the position that it shows, or sends a snapshot.
    fn connects(&mut self, world: &mut World) {
        self.opens = false;
        world.relay.introduce(instance(0), Mono(world.now)).unwrap();
        world.relay.stream_opened(id(0), Mono(world.now)).unwrap();
        let Some(log) = world.relay.log() else { return };
        let hello = Hello { instance: id(0), head: log.head(), chain: log.chain(), ..hello(&world.log) };
        self.stream = Some((world.relay.generation(), log.head()));
        let name = world.relay.position().map(str::to_owned);
        let from = self.it.position().and_then(|name| name.strip_prefix("name of ")?.parse().ok());
        let frame = match from.map(|rev| log.resume(log.epoch(), Rev(rev), 100)) {
            Some(Resume::Entries(entries)) => Frame::Entries(Entries { entries, ack: false }),
            _ => Frame::Snapshot(log.snapshot(100).remove(0)),
        };
        self.takes(Input::Frame(Frame::Hello(hello), None), world.now);
        self.takes(Input::Frame(frame, name), world.now);
    }

    /// All goes its way for so long; whether it is fresh then.
    fn lives(&mut self, world: &mut World, ms: i64) -> bool {
        for _ in 0..ms / 20 {
            world.goes_on();
            self.takes(Input::Tick, world.now);
            if self.opens {
                self.connects(world);
            }
            if let (Some((generation, at)), Some(log)) = (self.stream, world.relay.log()) {
                if generation != world.relay.generation() {
                    self.takes(Input::Frame(Frame::Bye, None), world.now);
                } else if let Resume::Entries(entries) = log.resume(log.epoch(), at, 100)
                    && log.head() > at
                {
                    self.stream = Some((generation, log.head()));
                    self.takes(Input::Frame(Frame::Entries(Entries { entries, ack: false }), None), world.now);
                }
            }
            let (mono, wall) = world.at();
            for ask in std::mem::take(&mut self.asks) {
                let asked = AckRequest { nonce: ask.nonce.clone(), ..question(0, &world.log, ask.applied) };
                let input = match world.relay.answer(&asked, mono, mono, wall) {
                    Ok(answer) => Input::Answer(answer),
                    Err(refused) => Input::AskFailed { nonce: ask.nonce, gone: refused == Refused::Gone },
                };
                self.takes(input, world.now);
            }
        }
        let (mono, wall) = world.at();
        self.it.knowledge().fresh(mono, wall)
    }
}

fn hello(log: &Publisher) -> Hello {
    Hello {
        v: 1,
        log: LOG,
        instance: id(99),
        instance_secret: SecretString::new("s"),
        epoch: log.epoch(),
        head: log.head(),
        chain: log.chain(),
        bound_ms: B as u64,
        max_life_s: 60,
    }
}

/// The server, the relay's follower, and the relay.
struct World {
    log: Publisher,
    follower: Subscriber,
    relay: Relay,
    asks: Vec<Ask>,
    now: i64,
    /// Its stream was another server's for a moment.
    forked: bool,
    opens: bool,
}

impl World {
    fn new() -> Self {
        let mut log = Publisher::empty(LOG, Limits::default());
        log.set_keys(Vec::new());
        let follower = Subscriber::new(Config { relays: true, ..Config::default() });
        let relay = Relay::new(0, BELOW, Limits::default());
        let mut world = Self { log, follower, relay, asks: Vec::new(), now: 10_000, forked: false, opens: false };
        world.takes(Input::Tick);
        world.connects();
        world
    }

    fn at(&self) -> (Mono, Time) {
        (Mono(self.now), Time(1_000_000 + self.now))
    }

    /// Time passes, and the server does what it is asked.
    fn goes_on(&mut self) {
        self.now += 20;
        self.takes(Input::Tick);
        if self.opens {
            self.connects();
        }
        self.answered();
    }

    fn connects(&mut self) {
        self.opens = false;
        let hello = hello(&self.log);
        self.takes(Input::Frame(Frame::Hello(hello), None));
        for part in self.log.snapshot(100) {
            self.takes(Input::Frame(Frame::Snapshot(part), Some(format!("name of {}", self.log.head()))));
        }
    }

    fn takes(&mut self, input: Input) {
        let (mono, wall) = self.at();
        for action in self.follower.handle(input, Now { mono, wall, chance: self.now as u64 }) {
            assert!(self.forked || !matches!(action, Action::Disconnect), "the relay refuses the log");
            self.opens |= matches!(action, Action::Connect { .. });
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
    let generation = world.relay.generation();
    let hello = Hello { bound_ms: B as u64 / 2, ..hello(&world.log) };
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

/// What a relay hands on before the server has named it may be of a fork. Who is below leaves that with it, and follows the right
/// log when it comes, without being started anew: also one that knows nothing else, and a relay below the relay.
#[test]
fn a_fork_that_a_relay_handed_on_is_left_below_it() {
    for (met_before, relays) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut world, mut below) = (World::new(), Below::new(relays));
        let entry = world.commits();
        world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![entry], ack: false }), None));
        world.goes_on();
        if met_before {
            assert!(below.lives(&mut world, 2 * B), "{:?}", below.troubles);
            assert_eq!(below.it.position(), Some("name of 1"));
        } else {
            world.answered();
        }
        // The stream brings what the server never wrote; what it wrote comes with its answer.
        world.forked = true;
        let (forged, asks) = (end(2, Target::All), std::mem::take(&mut world.asks));
        world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![forged], ack: false }), None));
        let asks = std::mem::replace(&mut world.asks, asks);
        below.takes(Input::Tick, world.now);
        if below.opens {
            below.connects(&mut world);
        } else {
            let Resume::Entries(entries) = world.relay.log().unwrap().resume(world.log.epoch(), Rev(1), 9) else {
                panic!("the relay has it");
            };
            below.takes(Input::Frame(Frame::Entries(Entries { entries, ack: false }), None), world.now);
        }
        assert_eq!((below.it.knowledge().applied, below.it.link()), (Rev(2), world.relay.log().map(Publisher::chain)));
        let (mono, wall) = world.at();
        for ask in std::mem::take(&mut below.asks) {
            let asked = AckRequest { nonce: ask.nonce, ..question(0, &world.log, ask.applied) };
            let answer = world.relay.answer(&asked, mono, mono, wall);
            answer.into_iter().for_each(|answer| below.takes(Input::Answer(answer), world.now));
        }
        world.commits();
        world.asks.extend(asks);
        below.lives(&mut world, 4 * B);
        let entry = world.commits();
        world.takes(Input::Frame(Frame::Entries(Entries { entries: vec![entry], ack: false }), None));
        assert!(below.lives(&mut world, 4 * B), "{met_before} {relays}: {:?}", below.troubles);
        assert_eq!((below.it.knowledge().applied, below.it.link()), (Rev(3), Some(world.log.chain())));
        assert!(below.troubles.contains(&Trouble::Fork), "it was never in the fork");
    }
}
