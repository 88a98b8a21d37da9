//! The world: one queue of events in true time, and everything that they happen to.
use crate::checks::Violation;
use crate::clients::{Device, Thief};
use crate::clock::{At, Dates};
use crate::counts::Counts;
use crate::disk::Disk;
use crate::house::FloorLine;
use crate::mutant::Mutant;
use crate::net::{Link, Net};
use crate::rng::Rng;
use crate::server::{Node, Op};
use crate::truth::Truth;
use crate::verifiers::Verifier;
use portcullis_domain::Rules;
use portcullis_domain::family::MacKey;
use portcullis_wire::{AccountId, KeyId, LogId, SecretBytes};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// What happens. `life` numbers tell an event that was meant for an earlier life (of the server, a verifier, a
/// connection): it no longer happens then.
#[derive(Debug)]
pub enum Event {
    /// An operation at the server goes on.
    Op {
        life: u32,
        op: u64,
    },
    /// The commit that has begun reaches the disk.
    Durable {
        life: u32,
    },
    /// The oldest durable commit becomes visible to readers.
    Visible {
        life: u32,
    },
    /// Who committed is told.
    Told {
        life: u32,
        told: Box<crate::disk::Told>,
    },
    /// The hub's read of the log: it takes its snapshot, it ends, the next one is due.
    ReadSnapshot {
        life: u32,
    },
    ReadDone {
        life: u32,
    },
    ReadDue {
        life: u32,
        seq: u64,
    },
    /// Housekeeping at the server.
    House {
        life: u32,
    },
    /// A better hash is there for an account that signed in.
    Upgrade {
        life: u32,
        account: Box<portcullis_domain::model::Account>,
    },
    /// Revocations by filter are worked off at the server.
    Jobs {
        life: u32,
    },
    /// A lease that waited too long.
    LeaseTimeout {
        life: u32,
        ask: u64,
    },
    Restart,
    /// A message reaches the server.
    AtServer(Box<crate::net::ToServer>),
    /// A reply reaches a client.
    AtClient(Box<crate::net::ToClient>),
    /// Something reaches a verifier.
    AtVerifier(Box<crate::net::ToVerifier>),
    /// A device does what it does next.
    Device {
        device: usize,
        seq: u64,
    },
    /// A device goes without an answer.
    DeviceTimeout {
        device: usize,
        call: u64,
    },
    Thief {
        thief: usize,
    },
    Admin,
    /// An application does what it does next.
    Application,
    /// A machine does.
    Machine,
    /// A person signs out at another provider.
    Provider,
    /// Somebody new leaves for another provider, and comes back.
    Newcomer,
    NewcomerArrives {
        person: usize,
        begun: portcullis_domain::upstream::Begun,
    },
    /// Somebody new answers what they were asked.
    NewcomerAnswers {
        person: usize,
        ticket: portcullis_wire::SecretString,
        yes: bool,
    },
    /// Somebody outside says something of an account.
    Outside,
    /// Somebody reads their mail.
    Reader,
    /// A device comes back from one.
    Arrive {
        device: usize,
        begun: portcullis_domain::upstream::Begun,
    },
    /// A node that tells others goes on.
    Sender {
        sender: usize,
        life: u32,
    },
    /// Somebody guesses at a password.
    Guesser,
    /// An administrator goes without an answer.
    AdminTimeout {
        call: u64,
    },
    /// A verifier's timer.
    Tick {
        verifier: usize,
        life: u32,
        seq: u64,
    },
    /// A verifier that acknowledges too early shows what it knows.
    Show {
        verifier: usize,
        life: u32,
    },
    /// A request with some token at a verifier.
    Probe {
        verifier: usize,
    },
    /// A request with this token at a verifier.
    ProbeToken {
        verifier: usize,
        token: usize,
    },
    /// Somebody opens a connection at a verifier's service.
    Connect,
    /// A guard looks after its connection.
    Look {
        connection: usize,
        seq: u64,
    },
    /// Something is sent on a connection.
    Item {
        connection: usize,
    },
    /// A connection is seen to be open.
    Inspect {
        connection: usize,
    },
    /// A token is shown on a connection.
    ShowToken {
        connection: usize,
    },
    /// A suspended verifier goes on.
    Resume {
        verifier: usize,
    },
    VerifierRestart {
        verifier: usize,
    },
    /// F is looked at.
    WatchFloor,
    /// The keys are looked after.
    Keys {
        life: u32,
    },
    /// A thief uses a key that was revoked.
    Forge,
    /// Clients' keys change, and assertions are made with them.
    ClientKeys,
    /// The address of a client's keys makes its answer, which takes so long to come.
    KeysRead {
        life: u32,
        client: usize,
        wait: i64,
    },
    /// It comes, if it does: the text, and which keys are in it.
    KeysCome {
        life: u32,
        client: usize,
        said: Option<(String, Vec<u32>)>,
    },
    /// Something goes wrong.
    Chaos,
}

struct Queued {
    at: At,
    seq: u64,
    event: Event,
}
impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        Reverse((self.at, self.seq)).cmp(&Reverse((other.at, other.seq)))
    }
}

/// The settings of one run, chosen by its seed.
#[derive(Debug, Clone)]
pub struct Settings {
    pub rules: Rules,
    /// B in milliseconds.
    pub bound: i64,
    /// How long the run is.
    pub length: At,
    /// Whether lives are as long as real ones.
    pub slow: bool,
    /// After how long keys are replaced.
    pub key_rotation: Option<i64>,
    /// What accounts may, and how long things are kept.
    pub policy: crate::policy::Policy,
}

impl Settings {
    /// Mostly quick lives, so that much happens; sometimes lives as long as real ones, beside which the constants of the
    /// product (the lag of F, how long a verifier keeps a told time) are small.
    fn choose(rng: &mut Rng) -> Self {
        let slow = rng.chance(60);
        let factor = if slow { 12 } else { 1 };
        let access_ttl = rng.pick(&[15_000, 20_000, 25_000]) * factor;
        let late_retry = rng.pick(&[45_000, 60_000]) * factor;
        let rules = Rules {
            issuer: "https://id.example".into(),
            audience: "https://api.example".into(),
            access_ttl,
            longest_ttl: access_ttl,
            idle_ttl: rng.pick(&[70_000, 90_000]) * factor,
            absolute_ttl: rng.pick(&[100_000, 130_000, 600_000]) * factor,
            retry_window: 4_000,
            late_retry,
            late_retry_at_home: late_retry + 12_000 * factor,
            require_verified_email: false,
        };
        let length = if slow { 900_000 } else { 150_000 };
        let bound = rng.pick(&[2_000, 3_000, 5_000]);
        let key_rotation = rng.pick(&[None, Some(8_000 * factor), Some(15_000 * factor)]);
        let policy = crate::policy::Policy::choose(rng, rules.idle_ttl);
        Self { rules, bound, length, slow, key_rotation, policy }
    }
    /// What `hello` says.
    pub fn max_life_s(&self) -> u64 {
        self.rules.max_life().div_euclid(1000).unsigned_abs() + 1
    }
}

/// Everything there is.
pub struct World {
    pub now: At,
    pub rng: Rng,
    pub settings: Settings,
    pub mutant: Option<Mutant>,
    pub counts: Counts,
    pub truth: Truth,
    pub violation: Option<Violation>,
    pub database: Dates,
    pub disk: Disk,
    pub node: Node,
    pub floor_line: FloorLine,
    pub ops: BTreeMap<u64, Op>,
    pub mac: MacKey,
    pub net: Net,
    pub devices: Vec<Device>,
    pub thieves: Vec<Thief>,
    pub admin: crate::clients::Admin,
    pub applications: crate::applications::Applications,
    pub machines: crate::machines::Machines,
    pub client_keys: crate::client_keys::ClientKeys,
    pub told: crate::told::Told,
    pub providers: crate::upstream::Providers,
    pub guesses: crate::guesses::Guesses,
    pub suspicion: crate::suspicion::Suspicion,
    pub letters: crate::letters::Letters,
    pub imports: crate::imports::Imports,
    pub accounts: Vec<(AccountId, String)>,
    pub verifiers: Vec<Verifier>,
    pub streams: crate::streams::Streams,
    /// What was seen, folded into one number: the same seed gives the same.
    pub hash: u64,
    pub events: u64,
    queue: BinaryHeap<Queued>,
    seq: u64,
    next_id: u64,
    story: Option<VecDeque<String>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).finish_non_exhaustive()
    }
}

/// How many lines of the story are kept: those of a whole run, for what goes wrong may have begun long before.
const STORY: usize = 100_000;

impl World {
    /// A world at its beginning. `story`: whether to keep the last events in words.
    pub fn new(seed: u64, mutant: Option<Mutant>, story: bool) -> Self {
        let mut rng = Rng::new(seed);
        let settings = Settings::choose(&mut rng);
        let mut database = Dates::default();
        database.step(rng.range(-500, 500), 0);
        let log = LogId::from_bits(portcullis_domain::Chance::bits(&mut rng));
        let disk = Disk::new(log, database.now(0));
        let mac = MacKey::new(KeyId(1), &SecretBytes::new(portcullis_domain::Chance::secret(&mut rng)));
        let node = Node::new(&settings, &mut rng);
        let mut world = Self {
            now: 0,
            rng,
            settings,
            mutant,
            counts: Counts::default(),
            truth: Truth::default(),
            violation: None,
            database,
            disk,
            node,
            floor_line: FloorLine::default(),
            ops: BTreeMap::new(),
            mac,
            net: Net::default(),
            devices: Vec::new(),
            thieves: Vec::new(),
            admin: crate::clients::Admin::default(),
            applications: crate::applications::Applications::default(),
            machines: crate::machines::Machines::default(),
            client_keys: crate::client_keys::ClientKeys::new(seed),
            told: crate::told::Told::new(seed),
            providers: crate::upstream::Providers::new(seed),
            guesses: crate::guesses::Guesses::default(),
            suspicion: crate::suspicion::Suspicion::new(seed),
            letters: crate::letters::Letters::new(seed),
            imports: crate::imports::Imports::default(),
            accounts: Vec::new(),
            verifiers: Vec::new(),
            streams: crate::streams::Streams::new(seed),
            hash: seed,
            events: 0,
            queue: BinaryHeap::new(),
            seq: 0,
            next_id: 0,
            story: story.then(VecDeque::new),
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        self.make_accounts(5);
        self.make_first_keys();
        self.make_applications();
        self.make_machines();
        self.make_senders();
        self.make_links();
        self.make_suspicion();
        self.make_letters();
        for account in [0, 0, 0, 1, 1, 2, 3, 4] {
            self.add_device(account);
        }
        for thief in 0..2 {
            self.thieves.push(Thief::default());
            let at = self.rng.range(5_000, 30_000);
            self.at(at, Event::Thief { thief });
        }
        // Where one follows alone, nothing but its own lease can keep an act from being true everywhere.
        for _ in 0..self.rng.pick(&[1, 2, 3, 3]) {
            self.add_verifier();
        }
        let links = self.verifiers.len();
        self.net.links = vec![Link::default(); links];
        self.at(0, Event::Restart);
        let (admin, chaos) = (self.rng.range(5_000, 9_000), self.rng.range(3_000, 8_000));
        self.at(admin, Event::Admin);
        let guesser = self.rng.range(4_000, 30_000);
        self.at(guesser, Event::Guesser);
        self.at(chaos, Event::Chaos);
        self.at(0, Event::WatchFloor);
        self.at(10_000, Event::Forge);
        self.at(4_000, Event::Connect);
        self.at(1_000, Event::ClientKeys);
    }

    /// Until the end, or the first violation.
    pub fn run(&mut self) {
        while self.violation.is_none() {
            let Some(Queued { at, event, .. }) = self.queue.pop() else { break };
            if at > self.settings.length {
                break;
            }
            self.now = at;
            if self.is_for_server(&event) && at < self.node.paused_until {
                self.while_paused(event);
                continue;
            }
            self.events += 1;
            self.happen(event);
        }
        if self.violation.is_none() {
            self.check_end();
        }
    }

    /// The server stands still: what is for it waits. A client's connection does not wait long (no message later than half of
    /// the retry window).
    fn while_paused(&mut self, event: Event) {
        let until = self.node.paused_until;
        let is_call = matches!(&event, Event::AtServer(m) if matches!(**m, crate::net::ToServer::Call { .. }));
        if is_call && until - self.now > 100 {
            self.counts.add("messages dropped");
        } else {
            self.push(until, event);
        }
    }

    fn is_for_server(&self, event: &Event) -> bool {
        matches!(
            event,
            Event::Op { .. }
                | Event::Durable { .. }
                | Event::Visible { .. }
                | Event::Told { .. }
                | Event::ReadSnapshot { .. }
                | Event::ReadDone { .. }
                | Event::ReadDue { .. }
                | Event::House { .. }
                | Event::Upgrade { .. }
                | Event::LeaseTimeout { .. }
                | Event::Keys { .. }
                | Event::Jobs { .. }
                | Event::KeysCome { .. }
                | Event::AtServer(_)
        )
    }

    fn happen(&mut self, event: Event) {
        let life = self.node.life;
        match event {
            Event::Op { life: of, op } if of == life => self.op_goes_on(op),
            Event::Durable { life: of } if of == life => self.commit_durable(),
            Event::Visible { life: of } if of == life => self.commit_visible(),
            Event::Told { life: of, told } if of == life => self.commit_told(*told),
            Event::ReadSnapshot { life: of } if of == life => self.read_snapshot(),
            Event::ReadDone { life: of } if of == life => self.read_done(),
            Event::ReadDue { life: of, seq } if of == life => self.read_due(seq),
            Event::House { life: of } if of == life => self.keep_house(),
            Event::Upgrade { life: of, account } if of == life => self.upgrade(&account),
            Event::LeaseTimeout { life: of, ask } if of == life => self.lease_timeout(ask),
            Event::Keys { life: of } if of == life => self.tend_keys(),
            Event::Jobs { life: of } if of == life => self.work_off(),
            Event::KeysRead { life: of, client, wait } if of == life => self.keys_read(of, client, wait),
            Event::KeysCome { life: of, client, said } if of == life => self.keys_come(client, said),
            Event::Op { .. }
            | Event::KeysRead { .. }
            | Event::KeysCome { .. }
            | Event::Durable { .. }
            | Event::Visible { .. }
            | Event::Told { .. }
            | Event::ReadSnapshot { .. }
            | Event::ReadDone { .. }
            | Event::ReadDue { .. }
            | Event::House { .. }
            | Event::Upgrade { .. }
            | Event::LeaseTimeout { .. }
            | Event::Keys { .. }
            | Event::Jobs { .. } => {}
            Event::Restart => self.restart(),
            Event::AtServer(message) => self.at_server(*message),
            Event::AtClient(message) => self.at_client(*message),
            Event::AtVerifier(message) => self.at_verifier(*message),
            Event::Device { device, seq } => self.device_acts(device, seq),
            Event::DeviceTimeout { device, call } => self.device_timeout(device, call),
            Event::Thief { thief } => self.thief_acts(thief),
            Event::Admin => self.admin_acts(),
            Event::Application => self.application_acts(),
            Event::Machine => self.machine_acts(),
            Event::Provider => self.provider_acts(),
            Event::Arrive { device, begun } => self.device_arrives(device, begun),
            Event::Newcomer => self.newcomer_acts(),
            Event::NewcomerArrives { person, begun } => self.newcomer_arrives(person, begun),
            Event::NewcomerAnswers { person, ticket, yes } => self.newcomer_answers(person, ticket, yes),
            Event::Outside => self.outside_tells(),
            Event::Reader => self.reader_acts(),
            Event::Sender { sender, life } => self.sender_acts(sender, life),
            Event::Guesser => self.guesser_acts(),
            Event::AdminTimeout { call } => self.admin_timeout(call),
            Event::Tick { verifier, life, seq } => self.verifier_tick(verifier, life, seq),
            Event::Show { verifier, life } => self.verifier_show(verifier, life),
            Event::Probe { verifier } => self.probe(verifier),
            Event::ProbeToken { verifier, token } => self.probe_token(verifier, token),
            Event::Connect => self.connect(),
            Event::Look { connection, seq } => self.guard_looks(connection, seq),
            Event::Item { connection } => self.item(connection),
            Event::Inspect { connection } => self.inspect(connection),
            Event::ShowToken { connection } => self.show_token(connection),
            Event::Resume { verifier } => self.verifier_resumes(verifier),
            Event::VerifierRestart { verifier } => self.verifier_restarts(verifier),
            Event::WatchFloor => self.watch_floor(),
            Event::Forge => self.forge(),
            Event::ClientKeys => self.client_keys_act(),
            Event::Chaos => self.chaos(),
        }
    }

    /// Lets `event` happen after `delay`.
    pub fn after(&mut self, delay: i64, event: Event) {
        self.push(self.now + delay.max(0), event);
    }
    /// Lets `event` happen at `at`.
    pub fn at(&mut self, at: At, event: Event) {
        self.push(at, event);
    }
    fn push(&mut self, at: At, event: Event) {
        self.seq += 1;
        self.queue.push(Queued { at, seq: self.seq, event });
    }
    /// A number that nobody had before.
    pub fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
    /// Folds something that was seen into the hash of the run.
    pub fn note(&mut self, tag: u64, value: u64) {
        let mixed = (self.hash ^ tag.rotate_left(48) ^ (self.now as u64).rotate_left(24) ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
    }
    /// Whether the story is told.
    pub fn tells(&self) -> bool {
        self.story.is_some()
    }
    /// One more line of the story.
    pub fn tell(&mut self, line: String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            if story.len() >= STORY {
                story.pop_front();
            }
            story.push_back(format!("{:>9.3}s  {line}", now as f64 / 1000.0));
        }
    }
    /// The last events in words.
    pub fn story(&self) -> impl Iterator<Item = &str> {
        self.story.iter().flatten().map(String::as_str)
    }
    /// Whether this bug is planted.
    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

/// Adds a line to the story, when it is told.
macro_rules! tell {
    ($world:expr, $($what:tt)*) => {
        if $world.tells() {
            let line = format!($($what)*);
            $world.tell(line);
        }
    };
}
pub(crate) use tell;
