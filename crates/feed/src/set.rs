//! The live entries of the log, arranged so that one look answers whether a token is revoked.
//!
//! The set is persistent: a clone shares everything, and a change copies one small shard. A writer clones, applies, and
//! publishes by an atomic swap, which the embedding crate does; readers never wait for it.
//!
//! Limits, and what happens at them: past [`PER_TARGET_LIMIT`] entries about one target (they differ in whom they spare) they
//! become one `stale` of that target; past the limit of the whole set every further entry about something new becomes `stale
//! everything` at its rev; past [`DEAD_KEYS_LIMIT`] dead keys all keys numbered below the oldest one count as dead. Each
//! refuses more than was asked for and never less; a refused live session refreshes and goes on.
use crate::Mono;
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::fmt;
use hashbrown::HashTable;
use portcullis_wire::{
    AccessClaims, AccountId, ClientId, Entry, GrantId, KeyId, Rev, SessionId, Target, Time, TokenId, Verb,
};

/// How many entries about one target are kept apart. The server, who alone knows which sessions are an account's, uses the
/// same number: it writes a `stale` of the account instead of the 65th entry about what is the account's.
pub const PER_TARGET_LIMIT: usize = 64;

/// How many entries a set keeps unless told otherwise: about 64 bytes each.
pub const DEFAULT_LIMIT: usize = 1_000_000;

/// How many dead keys are kept one by one.
pub const DEAD_KEYS_LIMIT: usize = 4096;

/// The longest time over which a `stale` may be spread, in milliseconds: no token lives longer than this anyway.
pub const MAX_SPREAD_MS: u64 = 3_600_000;

/// What the set says about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No entry matches it.
    Live,
    /// An `end` matches it; the newest such has this rev.
    Ended {
        /// Position of the newest `end` that matches.
        rev: Rev,
    },
    /// Only `stale` entries match it: refresh, then go on.
    Stale {
        /// Position of the newest `stale` that matches.
        rev: Rev,
    },
    /// The key that signed it is dead.
    KeyDead,
}

/// What a token is matched by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `jti`.
    pub token: TokenId,
    /// `from`: the tokens that it came of.
    pub from: Vec<TokenId>,
    /// `gid`.
    pub grant: Option<GrantId>,
    /// `sid`.
    pub session: SessionId,
    /// `sub`.
    pub account: AccountId,
    /// Every `act.sub`, nearest first.
    pub actors: Vec<AccountId>,
    /// `client_id`.
    pub client: ClientId,
    /// `via`: the clients that it came through before.
    pub via: Vec<ClientId>,
    /// `rev`.
    pub rev: Rev,
    /// `kid`, where it is known.
    pub key: Option<KeyId>,
}

impl Subject {
    /// From a token's claims and the key that signed it.
    pub fn of(claims: &AccessClaims, key: Option<KeyId>) -> Self {
        Self {
            token: claims.jti,
            from: claims.from.clone(),
            grant: claims.gid,
            session: claims.sid,
            account: claims.sub,
            actors: claims.accounts().skip(1).collect(),
            client: claims.client_id,
            via: claims.via.clone(),
            rev: claims.rev,
            key,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Token,
    Grant,
    Session,
    Account,
    Client,
}

type Key = (Kind, u128);

/// Where an entry stands in the set: about one thing, or about everything.
enum Place {
    At(Key),
    All,
    Unknown,
}

fn place(target: &Target) -> Place {
    Place::At(match target {
        Target::Token(id) => (Kind::Token, id.bits()),
        Target::Grant(id) => (Kind::Grant, id.bits()),
        Target::Session(id) => (Kind::Session, id.bits()),
        Target::Account(id) => (Kind::Account, id.bits()),
        Target::Client(id) => (Kind::Client, id.bits()),
        Target::All => return Place::All,
        Target::Key(_) | Target::Other { .. } => return Place::Unknown,
    })
}

fn target(key: Key) -> Target {
    match key {
        (Kind::Token, bits) => Target::Token(TokenId::from_bits(bits)),
        (Kind::Grant, bits) => Target::Grant(GrantId::from_bits(bits)),
        (Kind::Session, bits) => Target::Session(SessionId::from_bits(bits)),
        (Kind::Account, bits) => Target::Account(AccountId::from_bits(bits)),
        (Kind::Client, bits) => Target::Client(ClientId::from_bits(bits)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    rev: Rev,
    until: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Effect {
    Stale,
    End,
}

#[derive(Clone, Copy, Debug)]
struct Spread {
    over_ms: u64,
    from: Mono,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    effect: Effect,
    except: Option<SessionId>,
    spread: Option<Spread>,
    mark: Mark,
}

impl Item {
    fn stale(mark: Mark) -> Self {
        Self { effect: Effect::Stale, except: None, spread: None, mark }
    }

    /// Whether every token that `other` refuses is refused by `self` at least as strongly and as early.
    fn covers(&self, other: &Self) -> bool {
        self.spread.is_none()
            && self.mark.rev >= other.mark.rev
            && self.effect >= other.effect
            && (self.except.is_none() || self.except == other.except)
    }

    fn matches(&self, rev: Rev, session: SessionId, now: Mono) -> bool {
        self.mark.rev > rev
            && self.except != Some(session)
            && self.spread.is_none_or(|s| {
                let delay = mix(session.bits()) % s.over_ms.saturating_add(1);
                now.since(s.from) >= i64::try_from(delay).unwrap_or(i64::MAX)
            })
    }

    fn entry(&self, target: Target) -> Entry {
        Entry {
            rev: self.mark.rev,
            verb: match self.effect {
                Effect::End => Verb::End,
                Effect::Stale => Verb::Stale,
            },
            target,
            except: self.except,
            spread_ms: self.spread.map(|s| s.over_ms),
            until: self.mark.until,
        }
    }
}

/// A stable spreading of ids over numbers; nothing secret rests on it.
fn mix(bits: u128) -> u64 {
    let mut x = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One plain `end` at one target, as small as it can be: nearly all that a set holds.
#[derive(Clone, Copy, Debug)]
struct Plain {
    high: u64,
    low: u64,
    mark: Mark,
    kind: Kind,
}

impl Plain {
    fn new(key: Key, mark: Mark) -> Self {
        Self { high: (key.1 >> 64) as u64, low: key.1 as u64, mark, kind: key.0 }
    }
    fn key(&self) -> Key {
        (self.kind, u128::from(self.high) << 64 | u128::from(self.low))
    }
    fn item(&self) -> Item {
        Item { effect: Effect::End, except: None, spread: None, mark: self.mark }
    }
    fn of(items: &[Item]) -> Option<Mark> {
        match items {
            [Item { effect: Effect::End, except: None, mark, .. }] => Some(*mark),
            _ => None,
        }
    }
}

/// Adds `new` to what stands at one target: keeps what covers the most, the highest rev of each kind.
fn add(items: &mut Vec<Item>, mut new: Item) {
    if let Some(old) = items.iter_mut().find(|old| old.covers(&new)) {
        old.mark.until = old.mark.until.max(new.mark.until);
        return;
    }
    if new.spread.is_some() {
        let same = |o: &Item| o.spread.is_some() && o.effect == new.effect && o.except == new.except;
        if let Some(at) = items.iter().position(same) {
            // A spread one never takes the place of an older one: that has waited already and takes effect now.
            let mut older = items.swap_remove(at);
            if older.mark.rev > new.mark.rev {
                core::mem::swap(&mut older, &mut new);
            }
            older.spread = None;
            if older.mark.rev < new.mark.rev {
                add(items, older);
            }
        }
    }
    items.retain(|old| {
        let covered = new.covers(old);
        if covered {
            new.mark.until = new.mark.until.max(old.mark.until);
        }
        !covered
    });
    items.push(new);
    if items.len() > PER_TARGET_LIMIT {
        collapse(items);
    }
}

/// Too many at one target: one `stale` that covers them all; a plain `end` stays beside it.
fn collapse(items: &mut Vec<Item>) {
    let highest = |m: Mark, i: &Item| Mark { rev: m.rev.max(i.mark.rev), until: m.until.max(i.mark.until) };
    let all = items.iter().fold(Mark { rev: Rev::ZERO, until: Time::ZERO }, highest);
    items.retain(|i| i.effect == Effect::End && i.except.is_none());
    items.push(Item::stale(all));
}

/// What stands at the targets that come here; a target stands in one of the two.
#[derive(Clone, Default, Debug)]
struct Shard {
    /// Looked into for every token, and nearly always in vain: a table answers that from one line of memory, where a tree goes down several nodes.
    plain: HashTable<Plain>,
    other: BTreeMap<Key, Vec<Item>>,
    /// Not above the lowest `until` in here.
    lowest_until: Option<Time>,
}

impl Shard {
    fn see(&self, hash: u64, key: Key, see: &mut impl FnMut(Item)) {
        if let Some(plain) = self.plain.find(hash, |plain| plain.key() == key) {
            see(plain.item());
        } else if !self.other.is_empty() {
            self.other.get(&key).into_iter().flatten().copied().for_each(see);
        }
    }

    fn has(&self, hash: u64, key: Key) -> bool {
        self.plain.find(hash, |plain| plain.key() == key).is_some() || self.other.contains_key(&key)
    }

    /// Adds to what stands at one target; says how many items stood there, and how many do now.
    fn put(&mut self, hash: u64, key: Key, item: Item) -> (usize, usize) {
        self.lowest_until = Some(self.lowest_until.map_or(item.mark.until, |t| t.min(item.mark.until)));
        let mut items = match self.plain.find_entry(hash, |plain| plain.key() == key) {
            Ok(found) => Vec::from([found.remove().0.item()]),
            Err(_) => self.other.remove(&key).unwrap_or_default(),
        };
        let before = items.len();
        add(&mut items, item);
        let after = items.len();
        match Plain::of(&items) {
            Some(mark) => {
                self.plain.insert_unique(hash, Plain::new(key, mark), |plain| hashed(plain.key()));
            }
            None => {
                self.other.insert(key, items);
            }
        }
        (before, after)
    }

    /// Removes what is below the floor; says how many entries went.
    fn forget(&mut self, floor: Time) -> usize {
        let (mut gone, mut lowest) = (0, None::<Time>);
        let mut keep = |until: Time| {
            let kept = until >= floor;
            if kept {
                lowest = Some(lowest.map_or(until, |t| t.min(until)));
            } else {
                gone += 1;
            }
            kept
        };
        self.plain.retain(|plain| keep(plain.mark.until));
        self.other.retain(|_, items| {
            items.retain(|item| keep(item.mark.until));
            !items.is_empty()
        });
        self.lowest_until = lowest;
        // What is left of several may be a plain one.
        let plain = self.other.extract_if(.., |_, items| Plain::of(items).is_some()).collect::<Vec<_>>();
        for (key, mark) in plain.into_iter().filter_map(|(key, items)| Some((key, Plain::of(&items)?))) {
            self.plain.insert_unique(hashed(key), Plain::new(key, mark), |plain| hashed(plain.key()));
        }
        // A table that was full once is as large as then: what is copied at each change is to be as small as what it holds.
        self.plain.shrink_to(self.plain.len() * 2, |plain| hashed(plain.key()));
        gone
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let plain = self.plain.iter().map(|plain| plain.item().entry(target(plain.key())));
        plain.chain(self.other.iter().flat_map(|(key, items)| items.iter().map(|item| item.entry(target(*key)))))
    }
}

const FAN: usize = 32;
type Group = [Arc<Shard>; FAN];

#[derive(Clone, Default, Debug)]
struct Dead {
    /// With the mark of the entry, until that is forgotten.
    keys: BTreeMap<KeyId, Option<Mark>>,
    /// All keys numbered below are dead.
    below: u32,
}

/// The set of what is revoked. Cheap to clone; see the [module](self).
#[derive(Clone)]
pub struct RevokedSet {
    groups: Arc<[Arc<Group>; FAN]>,
    all: Arc<Vec<Item>>,
    dead: Arc<Dead>,
    len: usize,
    limit: usize,
    overflowed: u64,
    not_understood: u64,
}

impl Default for RevokedSet {
    fn default() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }
}

impl RevokedSet {
    /// An empty set that keeps at most `limit` entries one by one.
    pub fn with_limit(limit: usize) -> Self {
        let shard = Arc::new(Shard::default());
        let group = Arc::new(core::array::from_fn(|_| shard.clone()));
        Self {
            groups: Arc::new(core::array::from_fn(|_| group.clone())),
            all: Arc::default(),
            dead: Arc::default(),
            len: 0,
            limit,
            overflowed: 0,
            not_understood: 0,
        }
    }

    /// An empty set of the same limit that still knows the dead keys: what a new snapshot is read into.
    pub fn emptied(&self) -> Self {
        let mut empty = Self::with_limit(self.limit);
        empty.dead = self.dead.clone();
        for mark in Arc::make_mut(&mut empty.dead).keys.values_mut() {
            *mark = None;
        }
        empty
    }

    /// Applies one entry. `now` is when: a `stale` with `spread_ms` takes effect for each session at its own time after it.
    pub fn apply(&mut self, entry: &Entry, now: Mono) {
        let mark = Mark { rev: entry.rev, until: entry.until };
        let effect = match (&entry.verb, &entry.target) {
            (Verb::Key, Target::Key(id)) => return self.bury(*id, Some(mark)),
            (Verb::End, _) => Effect::End,
            (Verb::Stale, _) => Effect::Stale,
            (Verb::Key | Verb::Other(_), _) => return self.stale_everything_unknown(mark),
        };
        let spread = entry
            .spread_ms
            .filter(|ms| effect == Effect::Stale && *ms > 0)
            .map(|ms| Spread { over_ms: ms.min(MAX_SPREAD_MS), from: now });
        let item = Item { effect, except: entry.except, spread, mark };
        match place(&entry.target) {
            Place::At(key) => self.put(key, item),
            Place::All => self.put_all(item),
            Place::Unknown => self.stale_everything_unknown(mark),
        }
    }

    fn stale_everything_unknown(&mut self, mark: Mark) {
        self.not_understood = self.not_understood.saturating_add(1);
        self.put_all(Item::stale(mark));
    }

    fn put_all(&mut self, item: Item) {
        let all = Arc::make_mut(&mut self.all);
        let before = all.len();
        add(all, item);
        self.len = self.len - before + all.len();
    }

    fn put(&mut self, key: Key, item: Item) {
        let hash = hashed(key);
        let (group, shard) = route(hash);
        if self.len >= self.limit && !self.groups[group][shard].has(hash, key) {
            self.overflowed = self.overflowed.saturating_add(1);
            return self.put_all(Item::stale(item.mark));
        }
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut Arc::make_mut(&mut self.groups)[group])[shard]);
        let (before, after) = shard.put(hash, key, item);
        self.len = self.len - before + after;
    }

    fn bury(&mut self, key: KeyId, mark: Option<Mark>) {
        let dead = Arc::make_mut(&mut self.dead);
        dead.keys.insert(key, mark);
        if dead.keys.len() > DEAD_KEYS_LIMIT
            && let Some((oldest, _)) = dead.keys.pop_first()
        {
            dead.below = dead.below.max(oldest.0.saturating_add(1));
        }
    }

    /// Marks a key as dead without an entry: what a verifier was told in an earlier life.
    pub fn bury_key(&mut self, key: KeyId) {
        if !self.dead.keys.contains_key(&key) {
            self.bury(key, None);
        }
    }

    /// Forgets what no living token can match any more: entries with `until` below F. Dead keys stay dead.
    pub fn forget(&mut self, floor: Time) {
        let due = |s: &Shard| s.lowest_until.is_some_and(|t| t < floor);
        for g in 0..FAN {
            if !self.groups[g].iter().any(|s| due(s)) {
                continue;
            }
            let group = Arc::make_mut(&mut Arc::make_mut(&mut self.groups)[g]);
            for shard in group.iter_mut().filter(|s| due(s)) {
                self.len -= Arc::make_mut(shard).forget(floor);
            }
        }
        if self.all.iter().any(|i| i.mark.until < floor) {
            let before = self.all.len();
            Arc::make_mut(&mut self.all).retain(|i| i.mark.until >= floor);
            self.len -= before - self.all.len();
        }
        if self.dead.keys.values().any(|m| m.is_some_and(|m| m.until < floor)) {
            for mark in Arc::make_mut(&mut self.dead).keys.values_mut() {
                *mark = mark.filter(|m| m.until >= floor);
            }
        }
    }

    /// Judges a token. `now` matters for spread `stale` entries only.
    pub fn verdict(&self, subject: &Subject, now: Mono) -> Verdict {
        let own = [
            Some((Kind::Session, subject.session.bits())),
            Some((Kind::Account, subject.account.bits())),
            Some((Kind::Token, subject.token.bits())),
            Some((Kind::Client, subject.client.bits())),
            subject.grant.map(|g| (Kind::Grant, g.bits())),
        ];
        let actors = subject.actors.iter().map(|a| (Kind::Account, a.bits()));
        let via = subject.via.iter().map(|client| (Kind::Client, client.bits()));
        let from = subject.from.iter().map(|token| (Kind::Token, token.bits()));
        let keys = own.into_iter().flatten().chain(actors).chain(via).chain(from);
        self.look(subject.key, subject.rev, subject.session, keys, now)
    }

    /// As [`RevokedSet::verdict`], by a token's claims and the key that signed it: at each request, so that nothing is copied for it.
    pub fn verdict_of(&self, claims: &AccessClaims, key: Option<KeyId>, now: Mono) -> Verdict {
        let own = [
            Some((Kind::Session, claims.sid.bits())),
            Some((Kind::Account, claims.sub.bits())),
            Some((Kind::Token, claims.jti.bits())),
            Some((Kind::Client, claims.client_id.bits())),
            claims.gid.map(|g| (Kind::Grant, g.bits())),
        ];
        let actors = claims.accounts().skip(1).map(|a| (Kind::Account, a.bits()));
        let via = claims.via.iter().map(|client| (Kind::Client, client.bits()));
        let from = claims.from.iter().map(|token| (Kind::Token, token.bits()));
        let keys = own.into_iter().flatten().chain(actors).chain(via).chain(from);
        self.look(key, claims.rev, claims.sid, keys, now)
    }

    #[inline]
    fn look(
        &self,
        key: Option<KeyId>,
        rev: Rev,
        session: SessionId,
        keys: impl Iterator<Item = Key>,
        now: Mono,
    ) -> Verdict {
        if key.is_some_and(|key| self.key_is_dead(key)) {
            return Verdict::KeyDead;
        }
        let (mut ended, mut stale) = (None, None);
        let mut see = |item: Item| {
            if item.matches(rev, session, now) {
                let newest = if item.effect == Effect::End { &mut ended } else { &mut stale };
                *newest = (*newest).max(Some(item.mark.rev));
            }
        };
        self.all.iter().copied().for_each(&mut see);
        for key in keys {
            let hash = hashed(key);
            let (group, shard) = route(hash);
            self.groups[group][shard].see(hash, key, &mut see);
        }
        match (ended, stale) {
            (Some(rev), _) => Verdict::Ended { rev },
            (None, Some(rev)) => Verdict::Stale { rev },
            (None, None) => Verdict::Live,
        }
    }

    /// Whether a signing key is dead.
    pub fn key_is_dead(&self, key: KeyId) -> bool {
        key.0 < self.dead.below || self.dead.keys.contains_key(&key)
    }

    /// The live entries by ascending rev: what a snapshot carries.
    pub fn live_entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.groups.iter().flat_map(|g| g.iter()).flat_map(|s| s.entries()).collect();
        entries.extend(self.all.iter().map(|i| i.entry(Target::All)));
        entries.extend(self.dead.keys.iter().filter_map(|(id, mark)| {
            let Mark { rev, until } = (*mark)?;
            Some(Entry { rev, verb: Verb::Key, target: Target::Key(*id), except: None, spread_ms: None, until })
        }));
        // By target too: where an entry stands in a table says nothing about it.
        entries.sort_by(|a, b| (a.rev, &a.target).cmp(&(b.rev, &b.target)));
        entries
    }

    /// The dead keys that are known one by one.
    pub fn dead_keys(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.dead.keys.keys().copied()
    }

    /// How many entries are kept, dead keys aside.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no entry is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries became `stale everything` because the set was full. More than none deserves an alarm.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// How many entries became `stale everything` because they were not understood: this verifier is older than its server.
    pub fn not_understood(&self) -> u64 {
        self.not_understood
    }
}

impl fmt::Debug for RevokedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevokedSet({} entries, {} dead keys)", self.len, self.dead.keys.len())
    }
}

fn hashed(key: Key) -> u64 {
    mix(key.1)
}

/// Where what has this hash stands. The table in a shard takes its places from the lowest bits and its tags from the highest seven, so that
/// these are of those between.
fn route(hash: u64) -> (usize, usize) {
    let bits = (hash >> 40) as usize;
    (bits % FAN, bits / FAN % FAN)
}
