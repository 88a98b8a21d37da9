//! The rules: who may sign in, what a refresh token may still do, what an end ends, what an access token says.
//!
//! Every rule here is a function from a view (facts of one database snapshot, see [`view`]) and a request to a [`Decision`]:
//! an outcome *and* the changes to commit. The changes are committed whatever the outcome, since a refusal may itself change
//! something: a replayed refresh token is refused *and* ends its session. There is no I/O, clock, randomness source or async
//! here; time comes with the view (it is the database's), chance as an argument ([`Chance`]).
//!
//! Where to look: [`cut`] (what is dead), [`kernel`] (the one function behind every way of taking access away), [`mod@issue`]
//! (the one function behind every access token), [`family`] and [`refresh`] (refresh tokens), [`sign_in`], [`throttle`]
//! (how many passwords may be guessed), [`rollback`] and [`ledger`] (how lost commits are told), [`account`], [`time_rules`] (horizon and floor), [`keys`] (the life of signing and MAC
//! keys), [`session_limit`], [`authorize`], [`code`] and [`withdraw`] (what applications get, and lose), [`proof`] (what their tokens say of how somebody proved who they are), [`subject`] (by which name they know their users), [`retention`] (how long what has ended is kept), [`audit`] (how tampering with audit records shows), [`follow`] (how others hear of them), [`webhook`], [`mod@mail`] and [`recovery`] (links in mails, and what they open), [`risk`] (what is suspicious about an act). [`changes`] is the language in which decisions speak to a store.
#![no_std]
extern crate alloc;

pub mod account;
pub mod amr;
pub mod api_key;
pub mod audit;
pub mod authorize;
pub mod changes;
pub mod client;
pub mod client_hints;
pub mod client_keys;
pub mod code;
pub mod cut;
pub mod device;
pub mod device_code;
pub mod email;
pub mod event;
pub mod exchange;
pub mod family;
pub mod follow;
pub mod id_token;
pub mod import;
pub mod issue;
pub mod kernel;
pub mod keys;
pub mod known_device;
pub mod ledger;
pub mod logout;
pub mod mail;
pub mod mass;
pub mod model;
pub mod outbox;
pub mod pace;
pub mod page_cookie;
pub mod proof;
pub mod pushed;
pub mod receivers;
pub mod recovery;
pub mod refound;
pub mod refresh;
pub mod refused;
pub mod registration;
pub mod replay;
pub mod retention;
pub mod risk;
pub mod rollback;
pub mod service;
pub mod session_limit;
pub mod sign_in;
pub mod stored_hash;
pub mod subject;
pub mod throttle;
pub mod ticket;
pub mod time_rules;
pub mod turned;
pub mod upstream;
pub mod view;
pub mod webhook;
pub mod withdraw;

pub use changes::{Change, Changes, Expect};
pub use cut::Cut;
pub use event::{Actor, EventKind, NewEvent};
pub use refused::Refused;

/// Where a decision takes its randomness from. The real one is made in one file of `app`; tests and the simulator bring a
/// seeded one.
pub trait Chance {
    /// 128 random bits, for ids.
    fn bits(&mut self) -> u128;
    /// 32 random bytes, for secrets.
    fn secret(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..16].copy_from_slice(&self.bits().to_be_bytes());
        out[16..].copy_from_slice(&self.bits().to_be_bytes());
        out
    }
}

/// What a rule decides: an answer, and the changes that are committed whatever the answer.
#[derive(Debug, Clone)]
pub struct Decision<T> {
    /// What to tell the caller once the changes are committed.
    pub outcome: Result<T, Refused>,
    /// What to commit first, all or nothing.
    pub changes: Changes,
}

impl<T> Decision<T> {
    /// Refuses and changes nothing.
    pub fn refuse(why: Refused) -> Self {
        Self { outcome: Err(why), changes: Changes::default() }
    }
    /// Answers and changes nothing.
    pub fn answer(reply: T) -> Self {
        Self { outcome: Ok(reply), changes: Changes::default() }
    }
}

/// The settings that rules depend on. Spans in milliseconds.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `iss` of every token.
    pub issuer: alloc::string::String,
    /// `aud` of access tokens.
    pub audience: alloc::string::String,
    /// Life of an access token, before jitter.
    pub access_ttl: wire::Millis,
    /// The longest life that a client may have for its own, before jitter.
    pub longest_ttl: wire::Millis,
    /// A session ends when it was not used for so long.
    pub idle_ttl: wire::Millis,
    /// A session ends so long after sign-in, whatever happens.
    pub absolute_ttl: wire::Millis,
    /// How long after the last hand-out a predecessor still gets the same successor.
    pub retry_window: wire::Millis,
    /// How long a predecessor whose successor was never used may still get a new one; 0 = strict.
    pub late_retry: wire::Millis,
    /// The same from where the session was last, with nothing that speaks against it, where this is longer.
    pub late_retry_at_home: wire::Millis,
    /// Whether nobody signs in by password to an account whose address was not proved (see [`email`]).
    pub require_verified_email: bool,
}

impl Rules {
    /// What no access token outlives: the longest life that is configured and its jitter of 20%, in milliseconds. [`issue::issue`]
    /// stays below an hour besides.
    pub fn max_life(&self) -> wire::Millis {
        let longest = self.access_ttl.max(self.longest_ttl);
        longest + longest / 5
    }
}

use portcullis_wire as wire;
