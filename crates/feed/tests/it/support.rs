//! Chance from a seed, and entries made of it.
use portcullis_feed::Subject;
use portcullis_wire::{AccountId, ClientId, Entry, GrantId, KeyId, LogId, Rev, SessionId, Target, Time, TokenId, Verb};

/// xorshift64*: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub const LOG: LogId = LogId::from_bits(9);

pub fn end(rev: u64, target: Target) -> Entry {
    Entry { rev: Rev(rev), verb: Verb::End, target, except: None, spread_ms: None, until: Time(1_000_000) }
}
pub fn ses(n: u64) -> SessionId {
    SessionId::from_bits(u128::from(n) + 1)
}
pub fn acc(n: u64) -> AccountId {
    AccountId::from_bits(u128::from(n) + 1)
}

/// An entry about one of a few things, so that entries meet.
pub fn entry(c: &mut Chance, rev: u64, until: i64) -> Entry {
    let n = c.below(4);
    let bits = u128::from(n) + 1;
    let target = match c.below(12) {
        0..=3 => Target::Session(ses(n)),
        4..=6 => Target::Account(acc(n)),
        7 => Target::Client(ClientId::from_bits(bits)),
        8 => Target::Grant(GrantId::from_bits(bits)),
        9 | 10 => Target::Token(TokenId::from_bits(bits)),
        _ => Target::All,
    };
    let verb = if c.one_in(3) { Verb::Stale } else { Verb::End };
    let except = (verb == Verb::End && c.one_in(3)).then(|| ses(c.below(4)));
    let mut entry = Entry { rev: Rev(rev), verb, target, except, spread_ms: None, until: Time(until) };
    if c.one_in(40) {
        entry.verb = Verb::Key;
        entry.target = Target::Key(KeyId(c.below(3) as u32));
        entry.except = None;
    } else if c.one_in(60) {
        entry.verb = Verb::Other("melt".into());
    }
    entry
}

pub fn subject(c: &mut Chance, revs: u64) -> Subject {
    let id = |c: &mut Chance| u128::from(c.below(5)) + 1;
    Subject {
        token: TokenId::from_bits(id(c)),
        from: (0..c.below(3)).map(|_| TokenId::from_bits(id(c))).collect(),
        grant: c.one_in(2).then(|| GrantId::from_bits(id(c))),
        session: ses(c.below(5)),
        account: acc(c.below(5)),
        actors: (0..c.below(3)).map(|_| acc(c.below(5))).collect(),
        client: ClientId::from_bits(id(c)),
        via: (0..c.below(3)).map(|_| ClientId::from_bits(id(c))).collect(),
        rev: Rev(c.below(revs + 2)),
        key: c.one_in(2).then(|| KeyId(c.below(5) as u32)),
    }
}
