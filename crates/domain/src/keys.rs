//! The life of keys: waiting → active → verifying → retired, or dead at any moment (DESIGN §4.7).
//!
//! The next signing key is always there, and was published for B before it signs: verifiers that are fresh know it by then, and
//! an emergency needs no wait. A key that signs no more goes on verifying until F has passed whatever it signed. F and not
//! the clock, which may be set: tokens that F has passed are refused by every verifier, and F never goes back.
//!
//! [`plan`] and [`revoke`] say what to do; whoever asked makes the keys themselves (that is no pure matter) and commits
//! [`Plan::changes`]. Keys are never deleted and a new one has the next number, so of two plans that are made at once one is a
//! Conflict: each inserts the same number.
use crate::changes::{Change, Changes};
use crate::event::{EventKind, NewEvent};
use crate::kernel::{self, By, Door, Scope};
use crate::model::{Key, KeyPurpose};
use crate::view::Stamp;
use crate::{Chance, Refused, time_rules};
use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{EventId, KeyId, Millis, Rev, SecretBytes, Time};

/// How many signing keys, and how many MAC keys, may be listed before no more are made on schedule. Verifiers take 256.
pub const MAX_LISTED: usize = 64;

/// What is kept on the safe side of a key's last token, in milliseconds.
const MARGIN: Millis = 60_000;

/// The settings that the life of keys depends on. Spans in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct KeyRules {
    /// A key signs for so long, then the waiting one takes over; `None`: until somebody says so.
    pub rotate_every: Option<Millis>,
    /// What new signing keys sign with.
    pub algorithm: Algorithm,
    /// The longest life of an access token.
    pub max_life: Millis,
    /// For how long after its rotation a MAC key is needed: as long as a session can live, and a predecessor come late.
    pub mac_kept: Millis,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The next one: published, and signs nothing yet.
    Waiting,
    /// Signs, or makes MACs.
    Active,
    /// Signs no more; what it made is accepted.
    Verifying,
    /// Nothing that it made lives: it is listed no more.
    Retired,
    /// Revoked: dead for good, in every epoch.
    Dead,
}

impl State {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Verifying => "verifying",
            Self::Retired => "retired",
            Self::Dead => "dead",
        }
    }
    /// Whether what it made may be accepted: whether it stands in the JWKS and in the feed's list.
    pub const fn is_listed(self) -> bool {
        matches!(self, Self::Waiting | Self::Active | Self::Verifying)
    }
}

/// Where `key` is in its life when F stands at `floor`. No clock is asked: one that is set changes nothing.
pub fn state(key: &Key, floor: Time) -> State {
    match (key.dead, key.retired_at, key.active_from) {
        (Some(_), ..) => State::Dead,
        (None, Some(at), _) if at <= floor => State::Retired,
        (None, Some(_), _) => State::Verifying,
        (None, None, Some(_)) => State::Active,
        (None, None, None) => State::Waiting,
    }
}

/// What somebody asks for besides what is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Another signing key now.
    pub signing: bool,
    /// Another MAC key now.
    pub mac: bool,
}

/// A key to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Make {
    /// Its number.
    pub id: KeyId,
    /// What it is for.
    pub purpose: KeyPurpose,
    /// Since when it signs; `None`: it waits.
    pub active_from: Option<Time>,
}

/// Why a signing key that is due, or asked for, does not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The waiting key was published too short a time ago.
    NotPublished(KeyId),
    /// [`MAX_LISTED`] keys are listed already.
    TooMany,
}

/// What is to be done to the keys.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Keys to be made first.
    pub make: Vec<Make>,
    /// Why something that is due was left.
    pub held: Option<Held>,
    steps: Vec<Change>,
    told: Vec<(EventKind, KeyId)>,
    /// How many numbers are left out before the next ones.
    jump: u32,
    /// No number is left.
    exhausted: bool,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.make.is_empty() && self.steps.is_empty()
    }

    fn make(&mut self, keys: &[Key], purpose: KeyPurpose, active_from: Option<Time>) {
        let newest = keys.iter().map(|key| key.id.0).max().unwrap_or(0);
        let ahead = u32::try_from(self.make.len()).unwrap_or(u32::MAX);
        let next = newest.checked_add(1).and_then(|next| next.checked_add(self.jump));
        match next.and_then(|next| next.checked_add(ahead)) {
            Some(id) => self.make.push(Make { id: KeyId(id), purpose, active_from }),
            None => self.exhausted = true,
        }
    }

    fn activate(&mut self, key: &Key, now: Time) {
        self.steps.push(Change::SetKeyTimes { key: key.id, active_from: Some(now), retired_at: None });
        self.told.push((EventKind::KeyActivated, key.id));
    }

    fn retire(&mut self, key: &Key, at: Time) {
        self.steps.push(Change::SetKeyTimes { key: key.id, active_from: key.active_from, retired_at: Some(at) });
        self.told.push((EventKind::KeyRetired, key.id));
    }

    /// The private part is of no more use to anybody but thieves.
    fn forget(&mut self, key: &Key) {
        if !key.sealed.expose().is_empty() {
            let (before, sealed) = (key.sealed.clone(), SecretBytes::new([]));
            self.steps.push(Change::SetKeySealed { key: key.id, before, sealed });
        }
    }

    /// What to commit. `made` are the keys that [`Plan::make`] asks for, in its order.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when there is no number left for a new key, or when `made` are other keys.
    pub fn changes(self, made: Vec<Key>, by: &By<'_>, chance: &mut dyn Chance) -> Result<Changes, Refused> {
        if self.exhausted {
            return Err(Refused::Unavailable { detail: "no number is left for another key".into() });
        }
        if !made.iter().map(|key| (key.id, key.purpose)).eq(self.make.iter().map(|make| (make.id, make.purpose))) {
            return Err(Refused::Unavailable { detail: "other keys were made than the plan asks for".into() });
        }
        let mut event = |kind, key: KeyId| {
            NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).ip(by.ip).reason(key.to_string())
        };
        let told = self.told.iter().map(|(kind, key)| event(*kind, *key)).collect::<Vec<_>>();
        let created = made.iter().map(|key| event(EventKind::KeyCreated, key.id)).collect::<Vec<_>>();
        Ok(Changes {
            expects: by.expects().into_iter().collect(),
            // The new keys first: a plan that was overtaken fails at their numbers, before anything else is looked at.
            steps: made.into_iter().map(Change::InsertKey).chain(self.steps).collect(),
            events: told.into_iter().chain(created).collect(),
            ..Changes::default()
        })
    }
}

fn newest(keys: &[Key], floor: Time, is: impl Fn(KeyPurpose) -> bool, wanted: State) -> Option<&Key> {
    keys.iter().filter(|key| is(key.purpose) && state(key, floor) == wanted).max_by_key(|key| key.id)
}

/// Access tokens, that is; ID tokens of most clients besides.
fn signs(purpose: KeyPurpose) -> bool {
    purpose.algorithm().is_some() && !purpose.is_id_only()
}

/// The key that signs: the newest one that was told to. It does not depend on any clock.
pub fn signing(keys: &[Key], floor: Time) -> Option<&Key> {
    newest(keys, floor, signs, State::Active)
}

/// What is due now, and what is `wanted` besides. `is_published` says of a key whether every verifier that may be fresh knows it:
/// whether B (+1%) has passed since it was published, by a clock that is never set.
pub fn plan(
    keys: &[Key],
    stamp: &Stamp,
    rules: &KeyRules,
    wanted: Wanted,
    is_published: &dyn Fn(KeyId) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    plan_signing(&mut plan, keys, stamp, rules, wanted.signing, is_published);
    plan_macs(&mut plan, keys, stamp, rules, wanted.mac);
    plan_ids(&mut plan, keys, stamp, rules, is_published);
    for key in keys.iter().filter(|key| !state(key, stamp.floor).is_listed()) {
        plan.forget(key);
    }
    plan
}

fn plan_signing(
    plan: &mut Plan,
    keys: &[Key],
    stamp: &Stamp,
    rules: &KeyRules,
    wanted: bool,
    is_published: &dyn Fn(KeyId) -> bool,
) {
    let (now, floor, purpose) = (stamp.now, stamp.floor, KeyPurpose::signing(rules.algorithm));
    let waiting = newest(keys, floor, |other| other == purpose, State::Waiting);
    let Some(active) = signing(keys, floor) else {
        // A new database, or one in which nothing can sign: that is worse than a key that is not known everywhere yet.
        match waiting {
            Some(waiting) => plan.activate(waiting, now),
            None => plan.make(keys, purpose, Some(now)),
        }
        return plan.make(keys, purpose, None);
    };
    for other in keys.iter().filter(|key| signs(key.purpose) && state(key, floor) == State::Waiting) {
        if waiting.is_none_or(|waiting| waiting.id != other.id) {
            plan.retire(other, now); // it never signed anything
            plan.forget(other);
        }
    }
    let Some(waiting) = waiting else { return plan.make(keys, purpose, None) };
    let overdue = due(active, now, rules.rotate_every);
    if !(wanted || overdue || active.purpose != purpose) {
        return;
    }
    let listed = keys.iter().filter(|key| signs(key.purpose) && state(key, floor).is_listed()).count();
    if listed >= MAX_LISTED {
        plan.held = Some(Held::TooMany);
    } else if !is_published(waiting.id) {
        plan.held = Some(Held::NotPublished(waiting.id));
    } else {
        plan.activate(waiting, now);
        plan.retire(active, last_token(stamp, rules));
        plan.forget(active);
        plan.make(keys, purpose, None);
    }
}

/// A first key for ID tokens of this algorithm, when there is none that signs. It does as soon as it has been listed for long enough: no
/// client has relied on the algorithm before, so nothing is kept waiting but the first sign-ins of this one.
pub fn first_for_id_tokens(keys: &[Key], stamp: &Stamp, purpose: KeyPurpose) -> Plan {
    let mut plan = Plan::default();
    if purpose.is_id_only() && newest(keys, stamp.floor, |other| other == purpose, State::Active).is_none() {
        plan.make(keys, purpose, Some(stamp.now));
    }
    plan
}

/// The key of pairwise subjects, when it is not there. It is made before the first client that needs it, so every backup that has the
/// client has the key, and stays for good: with another one every user would be somebody new to every client that knows them
/// by such a name. So it rotates by no schedule, and no refounding replaces it: who has it can tell names apart, and gets
/// nothing by it.
pub fn for_names(keys: &[Key], stamp: &Stamp) -> Plan {
    let mut plan = Plan::default();
    if !keys.iter().any(|key| key.purpose == KeyPurpose::Pairwise) {
        plan.make(keys, KeyPurpose::Pairwise, Some(stamp.now));
    }
    plan
}

/// Keys for ID tokens alone are made when a client asks for their algorithm, and rotate by the same schedule. The next one is made when it is
/// due, not before: who reads the JWKS asks again about a key that it does not know (OpenID Connect Core §10.1.1), so an
/// emergency costs those clients a wait of B, and nothing is signed that they could not verify.
fn plan_ids(plan: &mut Plan, keys: &[Key], stamp: &Stamp, rules: &KeyRules, is_published: &dyn Fn(KeyId) -> bool) {
    let (now, floor) = (stamp.now, stamp.floor);
    for purpose in KeyPurpose::ID_ONLY.iter().copied() {
        let is = |other| other == purpose;
        let Some(active) = newest(keys, floor, is, State::Active).filter(|key| due(key, now, rules.rotate_every))
        else {
            continue;
        };
        let listed = keys.iter().filter(|key| is(key.purpose) && state(key, floor).is_listed()).count();
        match newest(keys, floor, is, State::Waiting) {
            Some(waiting) if is_published(waiting.id) => {
                plan.activate(waiting, now);
                plan.retire(active, last_token(stamp, rules));
                plan.forget(active);
            }
            Some(_) => {}
            None if listed >= MAX_LISTED => plan.held = plan.held.or(Some(Held::TooMany)),
            None => plan.make(keys, purpose, None),
        }
    }
}

/// Whether a key has worked for as long as it should. One from the future is of a clock that was wrong: it is due as far ahead.
fn due(key: &Key, now: Time, every: Option<Millis>) -> bool {
    let (Some(every), Some(from)) = (every, key.active_from) else { return false };
    now.since(from) >= every || from.since(now) >= every
}

/// What F must reach before nothing that was signed until now lives. No token outlives the horizon of its snapshot; one that
/// is being signed at this moment may rest on a snapshot that is a little younger than this one.
fn last_token(stamp: &Stamp, rules: &KeyRules) -> Time {
    let now = time_rules::issue_time(stamp.now, stamp.floor);
    stamp.horizon.max(now).plus(rules.max_life.saturating_add(MARGIN))
}

fn plan_macs(plan: &mut Plan, keys: &[Key], stamp: &Stamp, rules: &KeyRules, wanted: bool) {
    let (now, floor) = (stamp.now, stamp.floor);
    let is_mac = |purpose| purpose == KeyPurpose::Mac;
    let macs: Vec<&Key> = keys.iter().filter(|key| is_mac(key.purpose) && state(key, floor).is_listed()).collect();
    let Some(active) = newest(keys, floor, is_mac, State::Active) else {
        return plan.make(keys, KeyPurpose::Mac, Some(now));
    };
    if wanted || due(active, now, rules.rotate_every) {
        if macs.len() >= MAX_LISTED {
            plan.held = plan.held.or(Some(Held::TooMany));
        } else {
            // The horizon knows of every time that tokens were made at, also by a clock that was ahead for a while.
            plan.retire(active, stamp.horizon.max(time_rules::issue_time(now, floor)).plus(rules.mac_kept));
            plan.make(keys, KeyPurpose::Mac, Some(now));
        }
    }
    // Sessions may have been given longer lives since: what was replaced earlier is kept for as long as is asked for today.
    for pair in macs.windows(2) {
        let [old, next] = pair else { continue };
        let until = next.active_from.map(|replaced| replaced.plus(rules.mac_kept));
        if let (Some(at), Some(until)) = (old.retired_at, until)
            && at < until
        {
            let (key, active_from) = (old.id, old.active_from);
            plan.steps.push(Change::SetKeyTimes { key, active_from, retired_at: Some(until) });
        }
    }
}

/// How many numbers a refounding leaves out: far more keys than can have been made after a backup.
pub const REFOUND_JUMP: u32 = 1 << 16;

/// The keys of a log that is founded anew after a rollback (DESIGN §4.5): all that the database knows die or go, and new ones are
/// made. Keys made after the backup are not known here, but to verifiers, some as dead for good: so the new numbers begin far
/// beyond. The first commit of the new epoch carries this; no token of it was signed before, so nothing waits for B.
pub fn refound(keys: &[Key], stamp: &Stamp, rules: &KeyRules, chance: &mut dyn Chance) -> Plan {
    let mut plan = Plan { jump: REFOUND_JUMP, ..Plan::default() };
    for key in keys.iter().filter(|key| key.purpose != KeyPurpose::Pairwise) {
        match key.purpose.algorithm() {
            Some(_) if key.dead.is_none() => {
                plan.steps.extend(kernel::end(Door::KeyRevoked, Scope::Key(key.id), None, &By::SYSTEM, chance).steps);
            }
            Some(_) => {}
            None if state(key, stamp.floor).is_listed() => plan.retire(key, Time::ZERO), // refresh tokens are void
            None => {}
        }
        plan.forget(key);
    }
    let purpose = KeyPurpose::signing(rules.algorithm);
    plan.make(keys, purpose, Some(stamp.now));
    plan.make(keys, purpose, None);
    plan.make(keys, KeyPurpose::Mac, Some(stamp.now));
    for id_only in KeyPurpose::ID_ONLY.iter().copied() {
        if newest(keys, stamp.floor, |other| other == id_only, State::Active).is_some() {
            plan.make(keys, id_only, Some(stamp.now));
        }
    }
    plan
}

/// What revoking a key comes to.
#[derive(Debug, Clone)]
pub enum Revocation {
    /// It is dead already, by this entry.
    Before(Rev),
    /// It dies: this is to be done besides.
    Now(Plan),
}

/// What to do when the signing key `id` becomes dead: when it signs, the waiting one takes over at once; whichever of the two it
/// is, a new one waits from now on.
///
/// # Errors
/// [`Refused::NotFound`]; [`Refused::InvalidValue`] for a key that signs nothing.
pub fn revoke(keys: &[Key], id: KeyId, stamp: &Stamp, rules: &KeyRules) -> Result<Revocation, Refused> {
    let key = keys.iter().find(|key| key.id == id).ok_or(Refused::NotFound)?;
    if key.purpose == KeyPurpose::Mac {
        let detail = format!(
            "{id} makes refresh tokens, and by itself makes none: that takes a secret of each session's from the database \
             besides. When both may have been copied, sign everyone out (POST /v1/admin/revocations {{\"everyone\": true}}) and \
             rotate (POST /v1/admin/keys/rotate)"
        );
        return Err(Refused::InvalidValue { field: "id", detail });
    }
    if key.purpose == KeyPurpose::Pairwise {
        let detail = format!(
            "{id} names users to clients and opens nothing: with another one nobody would be known there any more"
        );
        return Err(Refused::InvalidValue { field: "id", detail });
    }
    if let Some(rev) = key.dead {
        return Ok(Revocation::Before(rev));
    }
    let (mut plan, purpose) = (Plan::default(), KeyPurpose::signing(rules.algorithm));
    plan.forget(key);
    match state(key, stamp.floor) {
        State::Active if signing(keys, stamp.floor).is_some_and(|active| active.id == id) => {
            // The wanted algorithm first; but any key that is known everywhere is better than one that is not.
            let same = newest(keys, stamp.floor, |other| other == purpose, State::Waiting);
            match same.or_else(|| newest(keys, stamp.floor, signs, State::Waiting)) {
                Some(waiting) => plan.activate(waiting, stamp.now),
                None => plan.make(keys, purpose, Some(stamp.now)),
            }
            plan.make(keys, purpose, None);
        }
        // The same as at its first making: its clients wait until the new one has been listed for long enough.
        State::Active if key.purpose.is_id_only() => plan.make(keys, key.purpose, Some(stamp.now)),
        State::Waiting if !key.purpose.is_id_only() => plan.make(keys, purpose, None),
        State::Waiting | State::Active | State::Verifying | State::Retired | State::Dead => {}
    }
    Ok(Revocation::Now(plan))
}

impl Plan {
    /// The changes of a revocation: the entry of the log, the end of the key, and what takes its place, all in one.
    ///
    /// # Errors
    /// As [`Plan::changes`].
    pub fn revoking(self, id: KeyId, made: Vec<Key>, by: &By<'_>, chance: &mut dyn Chance) -> Result<Changes, Refused> {
        let told = self.told.iter().map(|(kind, key)| format!("; {kind} {key}", kind = kind.as_str()));
        let created = self.make.iter().map(|make| format!("; {} {}", EventKind::KeyCreated.as_str(), make.id));
        let words: String = told.chain(created).collect();
        let mut entry = kernel::end(Door::KeyRevoked, Scope::Key(id), None, by, chance);
        // One act, one record: each record of this commit would count as a revocation of its own.
        for event in &mut entry.events {
            event.reason.get_or_insert_default().push_str(&words);
        }
        let mut changes = self.changes(made, by, chance)?;
        changes.steps.extend(entry.steps);
        changes.events = entry.events;
        Ok(changes)
    }
}
