//! Suspicious activity: what an act says ([`Signals`]), what is remembered of an account ([`Memory`]), and what rules make of it
//! ([`Verdict`]).
//!
//! [`observe()`] is pure: a memory and something that was [`Seen`] give signals and the memory from then on. Nothing here says what is
//! to be done about a signal; that is a policy's affair, which is read and evaluated elsewhere (the crate `rules`) and comes in as a
//! [`Judge`]. [`strongest`] says which of a verdict's outcomes is carried out.
//!
//! No address is kept. Where something came from is a [`Origin`]: a MAC of the address's prefix, and what a database of places says
//! of it, if there is one.
//!
//! A refresh in the network of the one before is not observed, so that it costs nothing, unless by what is sent with it the session is
//! shown by something that what it was made with does not turn into ([`crate::turned`]). What is said here does not rely on having
//! seen it: how long a session was where it is, is not asked; only where it went. So a refresh that is observed of a session of which
//! nothing is remembered counts as a move.
mod at_home;
pub mod enforce;
mod memory;
mod observe;
mod place;
mod signals;

pub use memory::{MAX_BYTES, Memory};
pub use observe::observe;
pub use place::km_between;
pub use signals::{FIELDS, Field, Kind, Signals, Word};

use crate::refresh;
use alloc::{borrow::ToOwned as _, string::String, vec::Vec};
use portcullis_wire::{Millis, SessionId, Time};
use serde::Serialize;

/// A point on the earth, and how coarsely it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Millionths of a degree, north.
    pub lat_udeg: i32,
    /// Millionths of a degree, east.
    pub lon_udeg: i32,
    /// What is there may be as far away as this, in kilometres.
    pub radius_km: u16,
}

/// What a database of places says of an address. Each member may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// ISO 3166-1 alpha-2.
    pub country: Option<[u8; 2]>,
    /// The provider's autonomous system.
    pub asn: Option<u32>,
    /// Where.
    pub spot: Option<Spot>,
}

/// From where something came, as far as it is kept. (Not called `From`, which would hide the trait of that name.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// A keyed MAC of the address's prefix (see [`crate::throttle::prefix_of`]): tells networks apart, and nothing else.
    pub network: [u8; 8],
    /// What is known about where that is.
    pub place: Place,
}

impl Origin {
    /// The name of no network at all: of a caller of whom nobody knows where they are, and who may hide it on purpose. It is new to every
    /// account, and stays so.
    pub const NOWHERE: [u8; 8] = [0xff; 8];

    /// A network of which no place is known.
    pub const fn somewhere(network: [u8; 8]) -> Self {
        Self { network, place: Place { country: None, asn: None, spot: None } }
    }
    /// The network's name at an account: the MAC is over the account too, so that rows of two accounts cannot be put side by side.
    pub fn network_of(
        key: &crate::family::MacKey,
        account: portcullis_wire::AccountId,
        ip: core::net::IpAddr,
    ) -> [u8; 8] {
        let prefix = crate::throttle::prefix_of(Some(ip));
        let tag = key.tag(b"network of account", &[&account.bits().to_be_bytes(), &prefix]);
        let mut out = [0; 8];
        out.copy_from_slice(&tag[..8]);
        out
    }
}

/// What the rules for refresh tokens made of one that was shown ([`crate::refresh::Outcome`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshSeen {
    /// The current one; a successor was made.
    Rotated,
    /// A repetition, answered alike.
    Again,
    /// A late one, whose successor was never used.
    Skipped,
    /// A late one from another kind of device: refused.
    OtherDevice,
    /// A copy: the rules for refresh tokens have ended what it belongs to.
    Theft,
}

impl RefreshSeen {
    /// What rules are asked about of a refresh; `None`: it is an everyday one. `calm`: it came from the network that its grant was used
    /// from before, and by what it was made with or turns into ([`crate::turned`]).
    pub fn of(outcome: refresh::Outcome, calm: bool) -> Option<Self> {
        match outcome {
            refresh::Outcome::Rotate | refresh::Outcome::Again if calm => None,
            refresh::Outcome::Rotate => Some(Self::Rotated),
            refresh::Outcome::Again => Some(Self::Again),
            refresh::Outcome::Skip => Some(Self::Skipped),
            refresh::Outcome::OtherDevice => Some(Self::OtherDevice),
            refresh::Outcome::Theft => Some(Self::Theft),
            refresh::Outcome::Ahead => None,
        }
    }
}

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The password.
    Password,
    /// The e-mail address.
    Email,
    /// A second factor, or another way of proving who one is.
    Factor,
    /// An application was given access.
    App,
    /// An API key was made.
    Key,
}

/// A step of a recovery by mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The mail was asked for.
    Asked,
    /// The link was used: a new password, and all sessions have ended.
    Done,
    /// "This was not me" was said by the link in a mail.
    Denied,
}

/// What somebody outside says of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalKind {
    /// Its password is in a list of stolen ones.
    CredentialLeaked,
    /// A device was lost or stolen.
    DeviceLost,
    /// Somebody acted in its name.
    Fraud,
}

/// What happened on an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The account was made, and its first session.
    SignUp,
    /// Somebody gave the right password. (Wrong ones are counted by [`crate::throttle`], and come as [`Guesses`].)
    SignIn {
        /// The browser showed the mark of an earlier sign-in to this account.
        known_device: bool,
        /// The password is in a list of stolen ones.
        breached: bool,
    },
    /// Somebody came by another provider, which knew them.
    Arrive {
        /// The browser showed the mark of an earlier sign-in to this account.
        known_device: bool,
    },
    /// A refresh token of a living family was shown.
    Refresh(RefreshSeen),
    /// The password was asked for once more in a session.
    Prove {
        /// Whether it was right.
        ok: bool,
    },
    /// A credential was changed in a session, or an application connected.
    Change(What),
    /// A recovery by mail.
    Recover(Step),
    /// A service saw an access token of a session.
    Sighting,
    /// Something from outside.
    External(ExternalKind),
}

/// Wrong passwords outstanding in the throttle's buckets, before this attempt: what a bucket owes, in attempts, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guesses {
    /// At this account, by strangers.
    pub account: u32,
    /// From this address prefix, at all accounts.
    pub prefix: u32,
}

/// What the rows say of how a session was made; of a grant that has a browser and system of its own, that one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// When.
    pub at: Time,
    /// With which browser and system.
    pub agent: String,
    /// When the grant's current refresh token was made, before whatever is seen; `None` where it is not about a grant.
    pub token_at: Option<Time>,
}

/// Something that happened on one account, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When, by the database's clock.
    pub at: Time,
    /// What.
    pub act: Act,
    /// In which session; for a sign-in or sign-up the one that it makes.
    pub session: Option<SessionId>,
    /// What that session's row says, where it is at hand; otherwise what is remembered of it counts, if anything is. `None` for a
    /// session that this act makes.
    pub made: Option<Made>,
    /// From where; unknown for what comes from outside.
    pub from: Option<Origin>,
    /// Browser and system ([`crate::device::family`]).
    pub agent: String,
    /// What else the User-Agent says.
    pub build: crate::device::Build,
    /// See there.
    pub guesses: Guesses,
}

/// What a rule wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing, whatever rules further down say.
    Allow,
    /// The owner is told.
    Notify,
    /// Whatever counts as being charged with a wrong password.
    Throttle,
    /// The session's user is asked to prove anew who they are.
    StepUp,
    /// The session ends; a sign-in is refused.
    EndSession,
    /// All sessions of the account end; that of a sign-in begins afterwards.
    EndAll,
    /// All sessions end and the account is blocked.
    Block {
        /// For so long; `None`: until somebody releases it.
        for_ms: Option<Millis>,
    },
}

impl Outcome {
    /// What outweighs what: the greater one.
    fn weight(self) -> (u8, Millis) {
        match self {
            Self::Allow => (0, 0),
            Self::Notify => (1, 0),
            Self::Throttle => (2, 0),
            Self::StepUp => (3, 0),
            Self::EndSession => (4, 0),
            Self::EndAll => (5, 0),
            Self::Block { for_ms } => (6, for_ms.unwrap_or(Millis::MAX)),
        }
    }
    /// Whether something living dies of it.
    pub fn ends(self) -> bool {
        self.weight() >= Self::EndSession.weight()
    }
}

/// A rule whose condition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The rule's name.
    pub rule: String,
    /// What it wants done.
    pub outcomes: Vec<Outcome>,
    /// Why, in words for people.
    pub reason: String,
    /// It is only tried: nothing is done, what would have been is recorded.
    pub shadow: bool,
}

/// What a policy says of one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The policy's version, for the audit records.
    pub version: String,
    /// The rules whose conditions hold, in the order of the file.
    pub hits: Vec<Hit>,
}

impl Verdict {
    /// No rule holds.
    pub fn nothing(version: &str) -> Self {
        Self { version: version.to_owned(), hits: Vec::new() }
    }

    /// The hits that count: no shadows, and none behind one that allows.
    pub fn counted(&self) -> impl Iterator<Item = &Hit> {
        let mut allowed = false;
        self.hits.iter().filter(|hit| !hit.shadow).take_while(move |hit| {
            let before = allowed;
            allowed |= hit.outcomes.contains(&Outcome::Allow);
            !before
        })
    }

    /// Whether the owner is told: some hit that counts says so.
    pub fn notifies(&self) -> Option<&Hit> {
        self.counted().find(|hit| hit.outcomes.contains(&Outcome::Notify))
    }
}

/// What evaluates rules.
pub trait Judge: Send + Sync {
    /// What the rules say of this. An error in a rule's evaluation is no hit.
    fn judge(&self, signals: &Signals) -> Verdict;
    /// The policy's version.
    fn version(&self) -> &str;
}

/// The strongest outcome of all hits that count, with the first hit that wants it: a block before the end of all sessions, that of one, a
/// question, the throttle, a notice. Of two blocks the longer one. `None` when nothing is to be done, also where the first hit that
/// counts allows. A notice goes beside whatever else is done ([`Verdict::notifies`]).
pub fn strongest(verdict: &Verdict) -> Option<(&Hit, Outcome)> {
    let all = verdict.counted().flat_map(|hit| hit.outcomes.iter().map(move |outcome| (hit, *outcome)));
    // `max_by_key` takes the last of equals; the first is wanted.
    let best = all.fold(None::<(&Hit, Outcome)>, |best, one| match best {
        Some(best) if best.1.weight() >= one.1.weight() => Some(best),
        _ => Some(one),
    });
    best.filter(|(_, outcome)| *outcome != Outcome::Allow)
}
