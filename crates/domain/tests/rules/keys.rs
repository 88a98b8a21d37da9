//! The life of keys, under clocks that are set, plans that are made twice, and revocations at any moment.
use crate::world::Seeded;
use portcullis_domain::Refused;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::By;
use portcullis_domain::keys::{self, Held, KeyRules, MAX_LISTED, Plan, Revocation, State, Wanted};
use portcullis_domain::model::{Key, KeyPurpose};
use portcullis_domain::time_rules::{FloorClock, issue_time, raise_horizon};
use portcullis_domain::view::Stamp;
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{KeyId, Rev, SecretBytes, Target, Time, Verb};
use std::collections::{BTreeMap, BTreeSet};

const BOUND: i64 = 5_050;
const DAY: i64 = 86_400_000;
const MAX_LIFE: i64 = 360_000;

/// A signed token: by which key, and until when it lives.
struct Token {
    key: KeyId,
    exp: Time,
}

struct World {
    rng: Seeded,
    keys: Vec<Key>,
    rules: KeyRules,
    mono: i64,
    offset: i64,
    horizon: Time,
    floor: Time,
    clock: FloorClock,
    published: BTreeMap<KeyId, i64>,
    tokens: Vec<Token>,
    /// Which MAC key made refresh tokens, and what F reaches when none of them comes any more.
    refreshes: Vec<(KeyId, Time)>,
    head: u64,
    dead: BTreeSet<KeyId>,
    rotations: u32,
    names: Option<KeyId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let rules = KeyRules {
            rotate_every: Some(2 * 3_600_000),
            algorithm: Algorithm::Es256,
            max_life: MAX_LIFE,
            mac_kept: DAY,
        };
        let mut world = Self {
            rng: Seeded(seed),
            keys: vec![],
            rules,
            mono: 1_000,
            offset: 1_800_000_000_000,
            horizon: Time::ZERO,
            floor: Time::ZERO,
            clock: FloorClock::default(),
            published: BTreeMap::new(),
            tokens: vec![],
            refreshes: vec![],
            head: 0,
            dead: BTreeSet::new(),
            rotations: 0,
            names: None,
        };
        world.plan(Wanted::default());
        world
    }

    /// Somebody registers a client that needs the key of names.
    fn names(&mut self) {
        let plan = keys::for_names(&self.keys, &self.stamp());
        let made = self.made(&plan);
        self.names = self.names.or(made.first().map(|key| key.id));
        let changes = plan.changes(made, &By::SYSTEM, &mut self.rng).unwrap();
        assert!(self.commit(&changes));
    }

    fn stamp(&self) -> Stamp {
        let now = Time(self.offset + self.mono);
        Stamp { now, horizon: self.horizon, floor: self.floor, ..crate::world::stamp(now) }
    }

    fn made(&self, plan: &Plan) -> Vec<Key> {
        let row = |make: &keys::Make| Key {
            id: make.id,
            purpose: make.purpose,
            public_jwk: String::new(),
            sealed: SecretBytes::new([1]),
            created_at: self.stamp().now,
            active_from: make.active_from,
            retired_at: None,
            dead: None,
        };
        plan.make.iter().map(row).collect()
    }

    fn is_published(&self, key: KeyId) -> bool {
        self.published.get(&key).is_some_and(|at| self.mono - at >= BOUND)
    }

    /// What the rule says now, as changes.
    fn planned(&mut self, wanted: Wanted) -> Changes {
        let plan = keys::plan(&self.keys, &self.stamp(), &self.rules, wanted, &|key| self.is_published(key));
        let made = self.made(&plan);
        plan.changes(made, &By::SYSTEM, &mut self.rng).unwrap()
    }

    fn plan(&mut self, wanted: Wanted) {
        let before = keys::signing(&self.keys, self.floor).map(|key| key.id);
        let changes = self.planned(wanted);
        assert!(self.commit(&changes));
        let signs = keys::signing(&self.keys, self.floor).unwrap().id;
        if before.is_some_and(|before| before != signs) {
            self.rotations += 1;
            assert!(self.is_published(signs), "{signs} signs before every fresh verifier knows it");
        }
    }

    /// As a store does it: all or nothing; `false` is a conflict.
    fn commit(&mut self, changes: &Changes) -> bool {
        let mut rows = self.keys.clone();
        let mut head = self.head;
        for step in &changes.steps {
            let find = |rows: &mut Vec<Key>, id: KeyId| rows.iter().position(|row| row.id == id).unwrap();
            match step {
                Change::InsertKey(key) if rows.iter().any(|row| row.id == key.id) => return false,
                Change::InsertKey(key) => rows.push(key.clone()),
                Change::SetKeyTimes { key, active_from, retired_at } => {
                    let at = find(&mut rows, *key);
                    (rows[at].active_from, rows[at].retired_at) = (*active_from, *retired_at);
                }
                Change::SetKeySealed { key, before, sealed } => {
                    let at = find(&mut rows, *key);
                    if rows[at].sealed.expose() != before.expose() {
                        return false;
                    }
                    rows[at].sealed = sealed.clone();
                }
                Change::Revoke(what) => {
                    assert_eq!((&what.verb, what.except), (&Verb::Key, None));
                    let Target::Key(id) = what.target else { panic!("{what:?}") };
                    let at = find(&mut rows, id);
                    if rows[at].dead.is_some() {
                        return false;
                    }
                    head += 1;
                    rows[at].dead = Some(Rev(head));
                }
                other => panic!("keys do not change {other:?}"),
            }
        }
        rows.sort_by_key(|row| row.id);
        self.dead.extend(rows.iter().filter(|row| row.dead.is_some()).map(|row| row.id));
        (self.keys, self.head) = (rows, head);
        for key in self.keys.iter().filter(|key| keys::state(key, self.floor).is_listed()) {
            self.published.entry(key.id).or_insert(self.mono);
        }
        true
    }

    fn passes(&mut self, ms: i64) {
        // F is moved every two seconds; for the long pauses here, as often as makes no difference.
        let step = (ms / 200).max(2_000);
        for _ in 0..(ms / step).max(1) {
            self.mono += step;
            let now = self.stamp().now;
            if let Some(next) = self.clock.next(self.floor, now, self.mono) {
                self.floor = next;
            }
        }
    }

    fn issues(&mut self) {
        let now = issue_time(self.stamp().now, self.floor);
        if let Some(next) = raise_horizon(self.horizon, now, MAX_LIFE) {
            self.horizon = self.horizon.max(next);
        }
        let key = keys::signing(&self.keys, self.floor).unwrap().id;
        let exp = now.plus(self.rng.below(MAX_LIFE as u64) as i64).min(self.horizon);
        self.tokens.push(Token { key, exp });
        let mac = self.keys.iter().rfind(|key| key.purpose == KeyPurpose::Mac && key.retired_at.is_none()).unwrap();
        self.refreshes.push((mac.id, now.plus(self.rules.mac_kept)));
    }

    fn revokes(&mut self) {
        let id = KeyId(self.rng.below(self.keys.len() as u64 + 2) as u32);
        let (stamp, floor) = (self.stamp(), self.floor);
        let signed = keys::signing(&self.keys, floor).map(|key| key.id);
        match (keys::revoke(&self.keys, id, &stamp, &self.rules), self.keys.iter().find(|key| key.id == id)) {
            (Err(Refused::NotFound), None) => {}
            (Err(Refused::InvalidValue { field: "id", .. }), Some(key)) => assert_eq!(key.purpose.algorithm(), None),
            (Ok(Revocation::Before(rev)), Some(key)) => assert_eq!(key.dead, Some(rev)),
            (Ok(Revocation::Now(plan)), Some(_)) => {
                let made = self.made(&plan);
                let changes =
                    plan.revoking(id, made, &By { reason: Some("leaked"), ..By::SYSTEM }, &mut self.rng).unwrap();
                assert_eq!(changes.events.len(), 1);
                assert_eq!(changes.events[0].kind, EventKind::KeyRevoked);
                assert!(changes.events[0].reason.as_deref().unwrap().starts_with(&format!("{id}: leaked")));
                assert!(self.commit(&changes));
                assert!(!self.commit(&changes), "a key dies once");
                let signs = keys::signing(&self.keys, floor).unwrap().id;
                assert_ne!(signs, id);
                assert!(
                    signed == Some(signs) || signed == Some(id),
                    "only the end of the one that signs changes which does"
                );
            }
            (answer, key) => panic!("{answer:?} for {key:?}"),
        }
    }

    fn check(&mut self) {
        let floor = self.floor;
        self.tokens.retain(|token| token.exp > floor && !self.dead.contains(&token.key));
        let of = |id: KeyId| self.keys.iter().find(|key| key.id == id).unwrap();
        for token in &self.tokens {
            let state = keys::state(of(token.key), floor);
            assert!(state.is_listed(), "a token by {} lives until {}, F is {floor}: {state:?}", token.key, token.exp);
        }
        self.refreshes.retain(|(_, until)| *until > floor);
        for (key, _) in &self.refreshes {
            let key = of(*key);
            assert!(keys::state(key, floor).is_listed() && !key.sealed.expose().is_empty(), "{} is gone", key.id);
        }
        let count = |state| {
            let is = |key: &&Key| key.purpose.algorithm().is_some() && keys::state(key, floor) == state;
            self.keys.iter().filter(is).count()
        };
        assert_eq!(count(State::Active), 1);
        assert!(count(State::Waiting) >= 1, "the next one is always there already");
        let newest = self.keys.iter().rfind(|key| key.purpose.algorithm().is_some()).unwrap();
        assert_eq!(keys::state(newest, floor), State::Waiting, "and it has the highest number");
        for key in &self.keys {
            let signs = matches!(keys::state(key, floor), State::Waiting | State::Active);
            let needed = signs || (key.purpose.algorithm().is_none() && keys::state(key, floor).is_listed());
            assert!(!needed || !key.sealed.expose().is_empty());
            assert!(key.dead.is_some() == self.dead.contains(&key.id), "dead is for good");
        }
        assert!(self.keys.windows(2).all(|pair| pair[0].id < pair[1].id));
        let names: Vec<_> = self.keys.iter().filter(|key| key.purpose == KeyPurpose::Pairwise).collect();
        let as_made = |key: &Key| Some(key.id) == self.names && keys::state(key, floor) == State::Active;
        assert_eq!(names.len(), usize::from(self.names.is_some()));
        assert!(names.iter().all(|key| as_made(key)), "users keep the names that clients know: {names:?}");
    }
}

#[test]
fn whatever_happens_tokens_verify_and_the_next_key_waits() {
    let mut rotations = 0;
    for seed in 0..600 {
        let mut world = World::new(seed);
        for _ in 0..120 {
            match world.rng.below(25) {
                0..=7 => world.issues(),
                8..=11 => {
                    let ms = world.rng.below(4_000) as i64;
                    world.passes(ms);
                }
                12 | 13 => {
                    let ms = world.rng.below(3 * 3_600_000) as i64;
                    world.passes(ms);
                }
                14..=16 => world.plan(Wanted::default()),
                17 => world.plan(Wanted { signing: true, mac: world.head.is_multiple_of(2) }),
                18 => {
                    // Two at once, from the same view: one of them changes nothing.
                    let wanted = Wanted { signing: true, mac: true };
                    let (first, second) = (world.planned(wanted), world.planned(wanted));
                    assert!(world.commit(&first));
                    assert!(second.steps.is_empty() || !world.commit(&second));
                }
                19 => world.revokes(),
                20 => {
                    // The clock is set, by up to a month.
                    world.offset += world.rng.below(60 * DAY as u64) as i64 - 30 * DAY;
                }
                21 => {
                    // A restart: what is watched is forgotten, and when keys were published too.
                    world.clock = FloorClock::default();
                    world.published.values_mut().for_each(|at| *at = world.mono);
                }
                22 => {
                    world.rules.algorithm =
                        [Algorithm::Es256, Algorithm::Rs256, Algorithm::Ed25519][world.rng.below(3) as usize];
                    world.plan(Wanted::default()); // a start does it at once
                }
                23 => world.names(),
                _ => world.rules.rotate_every = [None, Some(600_000), Some(DAY)][world.rng.below(3) as usize],
            }
            world.check();
        }
        rotations += world.rotations;
    }
    assert!(rotations > 2_000, "{rotations}");
}

#[test]
fn another_algorithm_waits_until_it_is_known() {
    let mut world = World::new(1);
    world.rules.algorithm = Algorithm::Rs256;
    world.plan(Wanted::default());
    let states = |world: &World| {
        let signing = world.keys.iter().filter(|key| key.purpose.algorithm().is_some());
        signing.map(|key| (key.purpose, keys::state(key, world.floor))).collect::<Vec<_>>()
    };
    use {KeyPurpose::*, State::*};
    // Which waited, and signed nothing, is taken back.
    assert_eq!(states(&world), [(Es256, Active), (Es256, Verifying), (Rs256, Waiting)]);
    for _ in 0..3 {
        world.plan(Wanted::default());
    }
    assert_eq!(states(&world)[0], (Es256, Active), "not known everywhere yet");
    world.passes(BOUND + 1_000);
    world.plan(Wanted::default());
    assert_eq!(states(&world)[2..], [(Rs256, Active), (Rs256, Waiting)]);
    assert_eq!(states(&world)[0], (Es256, Verifying));
    world.passes(2 * MAX_LIFE + 3_600_000);
    world.plan(Wanted::default());
    assert_eq!(states(&world)[..2], [(Es256, Retired), (Es256, Retired)]);
}

#[test]
fn what_is_held_says_why() {
    let mut world = World::new(1);
    let held = |world: &World, wanted| {
        keys::plan(&world.keys, &world.stamp(), &world.rules, wanted, &|key| world.is_published(key)).held
    };
    let now = Wanted { signing: true, mac: false };
    assert_eq!(held(&world, now), Some(Held::NotPublished(KeyId(2))));
    assert_eq!(held(&world, Wanted { signing: false, mac: true }), None, "a MAC key is nobody's to know");
    for _ in 0..2 * MAX_LISTED {
        world.passes(BOUND + 1_000);
        world.plan(now);
        world.plan(Wanted { signing: false, mac: true });
        let listed = world.keys.iter().filter(|key| keys::state(key, world.floor).is_listed()).count();
        assert!(listed <= 2 * MAX_LISTED + 2, "{listed}");
    }
    world.passes(BOUND + 1_000);
    // At the limit an emergency works all the same.
    let signs = keys::signing(&world.keys, world.floor).unwrap().id;
    let Ok(Revocation::Now(plan)) = keys::revoke(&world.keys, signs, &world.stamp(), &world.rules) else { panic!() };
    let made = world.made(&plan);
    let changes = plan.revoking(signs, made, &By::SYSTEM, &mut world.rng).unwrap();
    assert!(world.commit(&changes));
    world.check();
}

#[test]
fn a_clock_from_the_future_does_not_keep_a_key_for_ever() {
    let mut world = World::new(1);
    world.passes(BOUND + 1_000);
    world.offset -= 3_650 * DAY; // it was ten years ahead
    let (before, every) = (keys::signing(&world.keys, world.floor).unwrap().id, world.rules.rotate_every.unwrap());
    assert!(every < 3_650 * DAY);
    world.plan(Wanted::default());
    assert_ne!(keys::signing(&world.keys, world.floor).unwrap().id, before);
}

/// A backup knows less than verifiers do: what they know as dead, or as listed, must never be a number of the new epoch.
#[test]
fn a_log_founded_anew_has_keys_that_nobody_knows() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..world.rng.below(30) {
            match world.rng.below(5) {
                4 => world.names(),
                0 => world.revokes(),
                1 => world.issues(),
                2 => world.passes(BOUND + 1_000),
                _ => world.plan(Wanted { signing: true, mac: true }),
            }
        }
        let backup = world.keys.clone();
        // What was lost: more keys, and more deaths.
        for _ in 0..20 {
            world.passes(BOUND + 1_000);
            world.plan(Wanted { signing: true, mac: true });
            world.revokes();
        }
        let known: BTreeSet<KeyId> = world.keys.iter().map(|key| key.id).collect();
        world.keys = backup.clone(); // in which the names are, or nobody has any
        world.dead = backup.iter().filter(|key| key.dead.is_some()).map(|key| key.id).collect();
        let (stamp, rules) = (world.stamp(), world.rules);
        let plan = keys::refound(&world.keys, &stamp, &rules, &mut world.rng);
        let made = world.made(&plan);
        assert!(made.iter().all(|key| !known.contains(&key.id)), "seed {seed}");
        let changes = plan.changes(made, &By::SYSTEM, &mut world.rng).unwrap();
        assert!(world.commit(&changes));
        world.tokens.clear(); // of an older epoch
        world.refreshes.clear();
        for key in world.keys.iter().filter(|key| key.purpose != KeyPurpose::Pairwise) {
            let gone = backup.iter().any(|old| old.id == key.id);
            assert!(!gone || (!keys::state(key, world.floor).is_listed() && key.sealed.expose().is_empty()), "{key:?}");
            assert!(!gone || key.purpose == KeyPurpose::Mac || key.dead.is_some());
        }
        world.check();
        world.plan(Wanted::default());
        world.check();
    }
}

#[test]
fn what_was_made_is_what_was_asked_for() {
    let world = World::new(1);
    let plan = || keys::plan(&[], &world.stamp(), &world.rules, Wanted::default(), &|_| true);
    let purposes: Vec<_> =
        plan().make.iter().map(|make| (make.id.0, make.purpose, make.active_from.is_some())).collect();
    assert_eq!(purposes, [(1, KeyPurpose::Es256, true), (2, KeyPurpose::Es256, false), (3, KeyPurpose::Mac, true)]);
    let wrong = |change: fn(&mut Vec<Key>)| {
        let mut made = world.made(&plan());
        change(&mut made);
        plan().changes(made, &By::SYSTEM, &mut Seeded(1)).is_err()
    };
    assert!(!wrong(|_| {}));
    assert!(wrong(|made| drop(made.pop())) && wrong(|made| made[0].id = KeyId(9)));
    assert!(wrong(|made| made[0].purpose = KeyPurpose::Mac));
    // No number is left: said, and nothing is written.
    let last = Key { id: KeyId(u32::MAX), ..world.keys[0].clone() };
    let plan = keys::plan(&[last], &world.stamp(), &world.rules, Wanted::default(), &|_| true);
    let made = world.made(&plan);
    assert!(matches!(plan.changes(made, &By::SYSTEM, &mut Seeded(1)), Err(Refused::Unavailable { .. })));
}
