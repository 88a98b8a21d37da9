//! Views: the facts that a decision rests on, all of one database snapshot, with the head of the same snapshot (I3).
use crate::cut::Cut;
use crate::mass;
use crate::model::Consent;
use crate::model::{Account, Client, Grant, Session, SessionKind};
use crate::throttle::Bucket;
use crate::ticket::Ticket;
use alloc::{string::String, vec::Vec};
use portcullis_wire::{Chain, Epoch, LogId, Millis, Rev, Time};

/// What every view carries: where in the log its snapshot stands, and what time the database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The log.
    pub log: LogId,
    /// The log's generation.
    pub epoch: Epoch,
    /// Position of the newest entry in this snapshot.
    pub head: Rev,
    /// Chain link at `head`.
    pub chain: Chain,
    /// No token minted from this snapshot may have an `exp` beyond it.
    pub horizon: Time,
    /// F: entries whose `until` lies before it are forgotten.
    pub floor: Time,
    /// What was ended for everything.
    pub all: Cut,
    /// The newest rule of a revocation by filter that was worked off and taken away: no session that was born below it is
    /// made any more (see [`crate::mass`]).
    pub worked_off: Rev,
    /// The database's time.
    pub now: Time,
}

/// For signing in: the account of an address, if there is one.
#[derive(Debug, Clone)]
pub struct SignInView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The account.
    pub account: Option<Account>,
    /// Whether nobody has signed in to it yet, as far as is known.
    pub unused: bool,
    /// The cut of the client that signs in (the first-party one).
    pub client_cut: Cut,
}

/// For a refresh: the grant and everything above it.
#[derive(Debug, Clone)]
pub struct RefreshView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The grant.
    pub grant: Grant,
    /// Its session.
    pub session: Session,
    /// Its account.
    pub account: Account,
    /// The cut of its client.
    pub client_cut: Cut,
    /// Whether its client is switched off.
    pub client_disabled: bool,
    /// The life of the client's access tokens, when it is not the usual one, in milliseconds.
    pub access_ttl: Option<Millis>,
    /// The latest use of a refresh token of the session's own client, where the grant is another one's; `None` where it is that
    /// client's own, whose family says it.
    pub refreshed_at: Option<Time>,
    /// The rules of revocations by filter that stand.
    pub standing: mass::Rules,
}

impl RefreshView {
    /// When the session was last used, as far as is known.
    pub fn used_at(&self) -> Time {
        let family = &self.grant.family;
        let own = self.session.is_used_by(self.grant.client).then(|| family.handed_at.max(family.made_at));
        own.or(self.refreshed_at).unwrap_or(self.session.last_seen_at).max(self.session.last_seen_at)
    }
    /// Since when the session idles, whatever is done with this grant; `None` when a use of the grant is one of the session.
    pub fn idle_since(&self) -> Option<Time> {
        (!self.session.is_used_by(self.grant.client)).then(|| self.used_at())
    }
}

/// A session with its account, and when its family was last used.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The session.
    pub session: Session,
    /// Its account.
    pub account: Account,
    /// The latest use of a refresh token of its own client under it, if one was used.
    pub refreshed_at: Option<Time>,
    /// The rules of revocations by filter that stand.
    pub standing: mass::Rules,
}

/// An account by itself.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The account.
    pub account: Account,
    /// The last end of everything of the account that spared no session (see [`Cut::whole`]). What is no session's, a link in a mail,
    /// dies by that, and not by an end of all others, which any of its sessions may ask for as often as it likes.
    pub all_ended: Rev,
}

/// What is remembered of an account for the rules of risk, and buckets that they ask about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RiskView {
    /// What is remembered of it, as it was written.
    pub memory: Option<String>,
    /// How often that was written; 0: never.
    pub version: u32,
    /// The buckets, in the order in which they were asked for.
    pub buckets: Vec<Option<Bucket>>,
}

/// A client by itself.
#[derive(Debug, Clone)]
pub struct ClientView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The client.
    pub client: Client,
}

/// A session and a client that wants something of its account.
#[derive(Debug, Clone)]
pub struct AppView {
    /// The session, with the stamp of the snapshot.
    pub session: SessionView,
    /// The client.
    pub client: Client,
    /// What the session's account allowed it.
    pub consent: Option<Consent>,
}

impl AppView {
    /// The generation of the consent; 0 where there is none.
    pub fn generation(&self) -> u32 {
        self.consent.as_ref().map_or(0, |consent| consent.generation)
    }
}

/// A ticket, with what it names.
#[derive(Debug, Clone)]
pub struct TicketView {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// The ticket.
    pub ticket: Ticket,
    /// Its session and its client, when it names both and both are there.
    pub app: Option<AppView>,
}

/// A grant with its session.
#[derive(Debug, Clone)]
pub struct GrantView {
    /// The grant.
    pub grant: Grant,
    /// The session that it is under.
    pub session: Session,
}

/// Why a session is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dead {
    /// Ended by itself; the reason is the door.
    Ended {
        /// The entry.
        rev: Rev,
        /// The door.
        reason: String,
    },
    /// Ended by a cut above it.
    Cut {
        /// The entry.
        rev: Rev,
        /// `account`, `client` or `everyone`.
        above: &'static str,
    },
    /// Killed by the rule of a revocation by filter whose job has not marked it yet: services may not know of it.
    Standing {
        /// The rule's entry.
        rev: Rev,
    },
    /// Its account is blocked or deleted.
    Account,
    /// Made in an older generation.
    OldEpoch,
    /// Past its idle or absolute end.
    Expired,
}

/// Whether and why `session` is dead in this snapshot: the one rule that every way in asks.
///
/// `used_at` is when it was last used, as far as is known (`last_seen_at`, or the use of its refresh token); `idle_ttl` in
/// milliseconds.
pub fn session_dead(
    stamp: &Stamp,
    standing: &mass::Rules,
    session: &Session,
    account: &Account,
    used_at: Time,
    idle_ttl: i64,
) -> Option<Dead> {
    if let Some(ended) = &session.ended {
        return Some(Dead::Ended { rev: ended.rev, reason: ended.reason.clone() });
    }
    if session.epoch != stamp.epoch {
        return Some(Dead::OldEpoch);
    }
    for (cut, above) in [(account.cut, "account"), (stamp.all, "everyone")] {
        if cut.kills(session.born, session.id) {
            return Some(Dead::Cut { rev: cut.rev, above });
        }
    }
    if let Some(rule) = mass::killed_by(standing, session) {
        return Some(Dead::Standing { rev: rule.rev });
    }
    if !account.usable_at(stamp.now) {
        return Some(Dead::Account);
    }
    let used_at = used_at.max(session.last_seen_at);
    if stamp.now >= session.absolute_expires_at || stamp.now >= used_at.plus(idle_ttl) {
        return Some(Dead::Expired);
    }
    None
}

impl SessionView {
    /// Whether and why the session is dead.
    pub fn dead(&self, idle_ttl: i64) -> Option<Dead> {
        session_dead(&self.stamp, &self.standing, &self.session, &self.account, self.used_at(), idle_ttl)
    }
    /// When it was last used, for people: an API key counts as seen until its end (see [`crate::api_key`]).
    pub fn shown_used_at(&self) -> Time {
        match self.session.kind {
            SessionKind::ApiKey => self.refreshed_at.unwrap_or(self.session.created_at),
            _ => self.used_at(),
        }
    }
    /// When it was last used, as far as is known.
    pub fn used_at(&self) -> Time {
        self.refreshed_at.unwrap_or(self.session.last_seen_at).max(self.session.last_seen_at)
    }
}
