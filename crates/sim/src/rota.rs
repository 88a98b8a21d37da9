//! Keys at the node: planned by `domain::keys`, published by the hub, used when `app` would use them. And a thief who has the
//! private part of a key that was revoked, and signs whatever they like with it.
use crate::disk::{About, Owner};
use crate::mutant::Mutant;
use crate::verifiers::Judged;
use crate::world::{Event, World, tell};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_domain::kernel::{By, Door, Scope};
use portcullis_domain::keys::{self, Held, KeyRules, Plan, Wanted};
use portcullis_domain::model::Key;
use portcullis_feed::Mono;
use portcullis_store::CommitError;
use portcullis_wire::jws::{Algorithm, Jwk};
use portcullis_wire::{KeyId, Rev, SecretBytes, Time, TokenId};
use std::collections::BTreeMap;

/// How often it is looked at whether something is due, in milliseconds.
const ROUND: i64 = 2_000;
/// How often a stolen key is used.
const FORGE: i64 = 900;

/// What a node knows of its keys in this life.
#[derive(Debug, Default)]
pub struct Rota {
    /// The key that signs.
    pub signs: Option<KeyId>,
    published: BTreeMap<KeyId, Mono>,
    ready: Option<KeyId>,
    emergency: Option<(KeyId, Rev)>,
    seen: Vec<(KeyId, keys::State)>,
    /// A rotation is being written.
    busy: bool,
}

/// Whatever stands on a curve is good enough here: nobody signs.
fn jwk(id: KeyId) -> Option<Jwk> {
    Jwk::es256(id, &[4; 65])
}

/// The rows of the keys that a plan asks for.
pub fn rows_of(plan: &Plan, now: Time) -> Vec<Key> {
    let row = |make: &keys::Make| Key {
        id: make.id,
        purpose: make.purpose,
        public_jwk: String::new(),
        sealed: SecretBytes::new([1]),
        created_at: now,
        active_from: make.active_from,
        retired_at: None,
        dead: None,
    };
    plan.make.iter().map(row).collect()
}

/// The public halves of what may have signed a token that lives, and of the waiting one.
pub fn listed(rows: &[Key], floor: Time, dead_too: bool) -> Vec<Jwk> {
    let listed = rows.iter().filter(|row| {
        let state = keys::state(row, floor);
        row.purpose.algorithm().is_some() && (state.is_listed() || dead_too && state == keys::State::Dead)
    });
    listed.filter_map(|row| jwk(row.id)).collect()
}

impl World {
    pub fn key_rules(&self) -> KeyRules {
        let (max_life, mac_kept) = (self.settings.rules.max_life(), self.settings.rules.absolute_ttl);
        KeyRules { rotate_every: self.settings.key_rotation, algorithm: Algorithm::Es256, max_life, mac_kept }
    }

    /// The first keys, before anybody looks.
    pub fn make_first_keys(&mut self) {
        let now = self.database.now(0);
        let stamp = self.disk.durable.stamp(now);
        let plan = keys::plan(&[], &stamp, &self.key_rules(), Wanted::default(), &|_| false);
        let changes = self.changes_of(plan, now);
        self.disk.set_up(changes, now);
    }

    fn changes_of(&mut self, plan: Plan, now: Time) -> Changes {
        let made = rows_of(&plan, now);
        plan.changes(made, &By::SYSTEM, &mut self.rng).unwrap_or_default()
    }

    /// The changes of a revocation, as an operation commits them.
    pub fn changes_of_revocation(&mut self, plan: Plan, key: KeyId, by: &By<'_>, now: Time) -> Changes {
        let made = rows_of(&plan, now);
        plan.revoking(key, made, by, &mut self.rng).unwrap_or_default()
    }

    // ---- what tokens are signed with ----

    fn publish_ms(&self) -> i64 {
        self.settings.bound + self.settings.bound / 100 + 1
    }

    fn is_published(&self, key: KeyId) -> bool {
        let since = self.node.rota.published.get(&key);
        let passed = since.is_some_and(|at| self.node_now().since(*at) >= self.publish_ms());
        passed || self.has(Mutant::KeyBeforePublished)
    }

    /// Whether every verifier that may be fresh knows the key that signs.
    pub fn may_sign(&mut self) -> bool {
        let Some(signs) = self.node.rota.signs else { return false };
        if self.node.rota.ready == Some(signs) || self.is_published(signs) {
            self.node.rota.ready = Some(signs);
            return true;
        }
        let emergency = self.node.rota.emergency.filter(|(key, _)| *key == signs);
        let confirmed = emergency.is_some_and(|(_, rev)| self.is_enforced(rev));
        if confirmed {
            self.node.rota.ready = Some(signs);
            self.counts.add("keys: used once confirmed");
        } else {
            self.counts.add("keys: too young to sign");
        }
        confirmed
    }

    // ---- rows and lists ----

    /// What verifiers are told of keys.
    pub fn listed_keys(&self) -> Vec<Jwk> {
        listed(&self.disk.visible.list_keys(), self.stamp().floor, self.has(Mutant::DeadKeyListed))
    }

    /// Reads the keys; verifiers are told before anything is signed with a new one.
    pub fn load_keys(&mut self) {
        let floor = self.stamp().floor;
        let rows = self.disk.visible.list_keys();
        let seen: Vec<_> = rows.iter().map(|row| (row.id, keys::state(row, floor))).collect();
        if self.node.rota.seen == seen {
            return;
        }
        if seen.iter().any(|(_, state)| *state == keys::State::Retired) {
            self.counts.add("keys: retired");
        }
        let listed = self.listed_keys();
        let now = self.node_now();
        let Some(signs) = keys::signing(&rows, floor).map(|key| key.id) else {
            return self.violate("I11", "no key is there to sign with".into());
        };
        let before = self.node.rota.signs.replace(signs);
        if before != Some(signs) {
            tell!(self, "server: {signs} signs from now on");
        }
        let died = |key: KeyId| rows.iter().any(|row| row.id == key && row.dead.is_some());
        if before.is_some_and(|before| before != signs && died(before)) {
            let rev = rows.iter().filter_map(|row| row.dead).max().unwrap_or_default();
            self.node.rota.emergency = Some((signs, rev));
        } else if before.is_some_and(|before| before != signs) {
            self.counts.add("keys: rotated");
        }
        for key in &listed {
            self.node.rota.published.entry(key.kid).or_insert(now);
        }
        self.node.rota.seen = seen;
        self.publish_keys(listed);
    }

    /// At a start: the key that signs was published long enough by an earlier life, unless an entry about a key is in the log.
    pub fn keys_at_start(&mut self) {
        self.node.rota = Rota::default();
        self.load_keys();
        let head = self.stamp().head;
        let Some(hub) = self.node.hub.as_ref() else { return };
        let about_keys = hub.publisher.set().dead_keys().next().is_some();
        let rota = &mut self.node.rota;
        match rota.signs {
            Some(signs) if about_keys => rota.emergency = Some((signs, head)),
            signs => rota.ready = signs,
        }
    }

    // ---- the task ----

    pub fn tend_keys(&mut self) {
        let life = self.node.life;
        self.after(ROUND, Event::Keys { life });
        self.load_keys();
        self.rotate_keys(Wanted::default());
    }

    /// Writes what is due, and what an administrator asked for besides.
    pub fn rotate_keys(&mut self, wanted: Wanted) {
        if self.node.rota.busy || self.disk_is_stalled() {
            return;
        }
        let (stamp, rows) = (self.stamp(), self.disk.visible.list_keys());
        let plan = keys::plan(&rows, &stamp, &self.key_rules(), wanted, &|key| self.is_published(key));
        if matches!(plan.held, Some(Held::NotPublished(_))) {
            self.counts.add("keys: not published yet");
        }
        if plan.is_empty() {
            return;
        }
        let mut changes = self.changes_of(plan, stamp.now);
        if self.has(Mutant::KeyRetiredEarly) {
            for step in &mut changes.steps {
                if let Change::SetKeyTimes { retired_at: Some(at), .. } = step {
                    *at = stamp.now;
                }
            }
        }
        self.node.rota.busy = true;
        self.submit(Owner::Keys, changes, About::default());
    }

    fn disk_is_stalled(&self) -> bool {
        self.now < self.disk.stalled_until
    }

    pub fn keys_written(&mut self, result: &Result<Committed, CommitError>) {
        self.node.rota.busy = false;
        if matches!(result, Err(CommitError::Conflict(_))) {
            self.counts.add("keys: two plans at once");
        }
        self.load_keys();
    }

    // ---- a stolen key ----

    /// Somebody signs with a key that is dead, or will be: a token of a real session, with whatever rev and life they like.
    pub fn forge(&mut self) {
        let pause = self.rng.range(FORGE / 3, FORGE);
        self.after(pause, Event::Forge);
        let deaths = self.truth.acts.iter().filter(|act| act.door == Door::KeyRevoked);
        let deaths: Vec<(KeyId, Rev)> = deaths
            .filter_map(|act| match act.scope {
                Scope::Key(key) => Some((key, act.rev)),
                _ => None,
            })
            .collect();
        if deaths.is_empty() || self.truth.tokens.is_empty() {
            return;
        }
        let (key, rev) = self.rng.pick(&deaths);
        let back = self.rng.index(10.min(self.truth.tokens.len()));
        let mut claims = self.truth.tokens[self.truth.tokens.len() - 1 - back].claims.clone();
        let verifier = self.rng.index(self.verifiers.len());
        if self.verifiers[verifier].suspended.is_some() {
            return;
        }
        claims.jti = TokenId::from_bits(self.rng.bits());
        claims.rev = self.rng.pick(&[rev, self.truth.head(), Rev(self.truth.head().0 + 1_000)]);
        let issued = self.database.now(self.now).secs();
        (claims.iat, claims.exp) = (issued, issued + self.settings.rules.access_ttl / 1000);
        let judged = self.judge_signed(verifier, claims, key);
        self.counts.add("forgeries judged");
        if !matches!(judged, Judged::Accepted) {
            return;
        }
        let (bound, now) = (self.settings.bound, self.now);
        let act = self.truth.acts.iter().find(|act| act.scope == Scope::Key(key));
        let late = act
            .is_some_and(|act| act.acked.is_some_and(|at| now > at + bound) || act.enforced.is_some_and(|at| now > at));
        if late {
            self.violate("I1", format!("verifier {verifier} accepts what a thief signed with {key}, dead since {rev}"));
        }
    }
}
