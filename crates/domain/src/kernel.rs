//! The revocation kernel: the one function behind every door.
//!
//! A door is any way by which access is taken away. Whatever the door, what reaches the log, the database and the verifiers
//! comes from [`end`]: one [`crate::changes::Revoke`], one audit record, and the checks that the acting and the spared
//! session are alive in the same transaction. What an entry does to rows is the same for every store: a session or grant is
//! marked, an account, a client or the whole gets a cut; so an end is one row, however many sessions it ends.
use crate::changes::{Changes, Expect, Revoke};
use crate::event::{Actor, EventKind, NewEvent};
use crate::{Chance, Change};
use alloc::{format, vec};
use core::net::IpAddr;
use portcullis_wire::{AccountId, ClientId, EventId, GrantId, KeyId, SessionId, Target, TokenId, Verb};

/// A way by which access is taken away. `xtask tidy` and the table test of `app` see to it that each has its row in the
/// table door × credential (I8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// A user ends the session that they are using.
    SignOut,
    /// A user ends one of their sessions.
    EndOne,
    /// A user ends all sessions but the one that they are using.
    EndOthers,
    /// A user ends all their sessions.
    EndAll,
    /// A user changes their password: all sessions but the one that they are using end.
    PasswordChange,
    /// An administrator ends one session.
    AdminEndSession,
    /// An administrator ends all sessions of an account.
    AdminEndAccount,
    /// An account is blocked.
    Block,
    /// An account is deleted.
    Delete,
    /// Everyone is signed out.
    Everyone,
    /// A refresh token came back that only a copy explains.
    Replay,
    /// A sign-in beyond the limit of sessions ends the oldest.
    SessionLimit,
    /// A client is switched off.
    ClientOff,
    /// Sessions that a filter matches are ended.
    Filter,
    /// The log is founded anew after a rollback.
    Refound,
    /// An authorization code was shown a second time: what the first use gave ends (RFC 6749 §4.1.2).
    CodeReplay,
    /// A client gives up a token, or all that it got under a grant (RFC 7009).
    TokenRevoked,
    /// A user withdraws what they allowed a client: everything that it has of them ends.
    ConsentWithdrawn,
    /// A user signs out by an application's logout (OpenID Connect RP-Initiated Logout).
    RpLogout,
    /// A tool of security or identity governance ends everything of an account (draft-parecki-oauth-global-token-revocation).
    GlobalRevocation,
    /// Another provider says that somebody signed out there: the sessions that came from there end (OpenID Connect Back-Channel
    /// Logout, received).
    UpstreamLogout,
    /// A user takes a link to another provider away: the sessions that came by it end.
    LinkRemoved,
    /// A signing key is dead: whoever holds it signs nothing that is accepted any more.
    KeyRevoked,
    /// A user chooses a new password by a link in a mail: everything that they have ends.
    PasswordReset,
    /// A user says by a link in a mail that a session was not theirs: it ends, or everything.
    NotMe,
}

impl Door {
    /// Every door.
    pub const ALL: &'static [Self] = &[
        Self::SignOut,
        Self::EndOne,
        Self::EndOthers,
        Self::EndAll,
        Self::PasswordChange,
        Self::AdminEndSession,
        Self::AdminEndAccount,
        Self::Block,
        Self::Delete,
        Self::Everyone,
        Self::Replay,
        Self::SessionLimit,
        Self::ClientOff,
        Self::Filter,
        Self::Refound,
        Self::CodeReplay,
        Self::TokenRevoked,
        Self::ConsentWithdrawn,
        Self::RpLogout,
        Self::GlobalRevocation,
        Self::UpstreamLogout,
        Self::LinkRemoved,
        Self::KeyRevoked,
        Self::PasswordReset,
        Self::NotMe,
    ];

    /// The word that `session_ended {reason}` and the audit record carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignOut => "signed_out",
            Self::EndOne => "ended_by_user",
            Self::EndOthers => "others_ended",
            Self::EndAll => "all_ended",
            Self::PasswordChange => "password_changed",
            Self::AdminEndSession => "ended_by_admin",
            Self::AdminEndAccount => "all_ended_by_admin",
            Self::Block => "blocked",
            Self::Delete => "deleted",
            Self::Everyone => "everyone",
            Self::Replay => "refresh_reused",
            Self::SessionLimit => "session_limit",
            Self::ClientOff => "client_disabled",
            Self::Filter => "revoked_by_filter",
            Self::Refound => "refounded",
            Self::CodeReplay => "code_reused",
            Self::TokenRevoked => "revoked_by_client",
            Self::ConsentWithdrawn => "consent_withdrawn",
            Self::RpLogout => "signed_out_by_application",
            Self::GlobalRevocation => "revoked_globally",
            Self::UpstreamLogout => "signed_out_upstream",
            Self::LinkRemoved => "link_removed",
            Self::KeyRevoked => "key_revoked",
            Self::PasswordReset => "password_reset",
            Self::NotMe => "not_me",
        }
    }

    const fn event(self) -> EventKind {
        match self {
            Self::SignOut | Self::EndOne | Self::AdminEndSession | Self::SessionLimit => EventKind::SessionEnded,
            Self::EndOthers | Self::EndAll | Self::AdminEndAccount | Self::GlobalRevocation => EventKind::SessionsEnded,
            Self::PasswordChange => EventKind::PasswordChanged,
            Self::Block => EventKind::AccountBlocked,
            Self::Delete => EventKind::AccountDeleted,
            Self::Everyone => EventKind::EveryoneEnded,
            Self::Replay => EventKind::RefreshReused,
            Self::ClientOff => EventKind::ClientDisabled,
            Self::Filter => EventKind::SessionsRevoked,
            Self::Refound => EventKind::LogRefounded,
            Self::CodeReplay => EventKind::GrantEnded,
            Self::TokenRevoked => EventKind::TokenRevoked,
            Self::ConsentWithdrawn => EventKind::ConsentWithdrawn,
            Self::RpLogout | Self::UpstreamLogout | Self::LinkRemoved => EventKind::SessionEnded,
            Self::KeyRevoked => EventKind::KeyRevoked,
            Self::PasswordReset => EventKind::PasswordReset,
            Self::NotMe => EventKind::NotMe,
        }
    }
}

/// What is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One session.
    Session {
        /// Whose.
        account: AccountId,
        /// Which.
        session: SessionId,
    },
    /// One grant.
    Grant {
        /// Whose.
        account: AccountId,
        /// Under which session.
        session: SessionId,
        /// Which.
        grant: GrantId,
    },
    /// One access token.
    Token {
        /// Whose.
        account: AccountId,
        /// Under which session.
        session: SessionId,
        /// Which.
        token: TokenId,
    },
    /// Every session of an account.
    Account(AccountId),
    /// Everything of a client.
    Client(ClientId),
    /// Whatever a signing key made.
    Key(KeyId),
    /// Everything.
    All,
}

/// Who ends, why, from where.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// Who.
    pub actor: Actor,
    /// A role that the actor must have in the act's own transaction.
    pub role: Option<&'static str>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Why, in the actor's words.
    pub reason: Option<&'a str>,
}

impl<'a> By<'a> {
    /// The server itself.
    pub const SYSTEM: By<'static> = By { actor: Actor::System, role: None, ip: None, reason: None };

    /// What must hold of the actor in the act's own transaction.
    pub fn expects(&self) -> Option<Expect> {
        self.actor.session().map(|session| Expect::Alive { session, role: self.role })
    }
}

/// How many entries about sessions of one account the log may hold at once, and how many about its grants and tokens.
pub const MAX_ENDS_PER_ACCOUNT: u64 = 64;

/// What is written into the log for the end of a session of `account`: [`entry_for`].
pub fn entry_for_session(session: SessionId, account: AccountId, unforgotten: u64) -> (Verb, Target) {
    entry_for(Target::Session(session), account, unforgotten)
}

/// What is written into the log for the end of a session, grant or token of `account`, when `unforgotten` such ends, this one
/// included, are in the log: sessions are counted by themselves, grants and tokens together. Beyond [`MAX_ENDS_PER_ACCOUNT`]
/// it is one `stale` of the account instead: what ended is refused all the same, since nothing that is older than the entry
/// counts and an ended session or grant cannot refresh, and the account's others refresh and go on (DESIGN §4.3). So nobody
/// fills every verifier's memory by signing in and out, and no application by getting and giving up.
pub fn entry_for(target: Target, account: AccountId, unforgotten: u64) -> (Verb, Target) {
    if unforgotten > MAX_ENDS_PER_ACCOUNT { (Verb::Stale, Target::Account(account)) } else { (Verb::End, target) }
}

/// Ends `scope` through `door`, sparing `except`. The changes write one entry, mark one row, and record who did it.
///
/// The spared session must be alive under the locks of the same transaction, or the commit is refused: a late "end others"
/// would revive it otherwise.
pub fn end(door: Door, scope: Scope, except: Option<SessionId>, by: &By<'_>, chance: &mut dyn Chance) -> Changes {
    let event = NewEvent::new(EventId::from_bits(chance.bits()), door.event(), &by.actor)
        .ip(by.ip)
        .reason(by.reason.unwrap_or(door.as_str()));
    let (target, event, own) = match scope {
        Scope::Session { account, session } => {
            let alive = Expect::SessionNotEnded(session);
            (Target::Session(session), event.account(account).session(session), Some(alive))
        }
        Scope::Grant { account, session, grant } => {
            let alive = Expect::GrantNotEnded(grant);
            (Target::Grant(grant), event.account(account).session(session), Some(alive))
        }
        Scope::Token { account, session, token } => {
            (Target::Token(token), event.account(account).session(session), None)
        }
        Scope::Account(account) => (Target::Account(account), event.account(account), None),
        Scope::Client(client) => (Target::Client(client), event.client(client), None),
        Scope::Key(key) => {
            let words = format!("{key}: {}", by.reason.unwrap_or(door.as_str()));
            (Target::Key(key), event.reason(words), None)
        }
        Scope::All => (Target::All, event, None),
    };
    let spared = except.map(|session| Expect::Alive { session, role: None });
    // A key is dead for good, whatever the rev of a token: a thief who has it writes any rev.
    let verb = if matches!(scope, Scope::Key(_)) { Verb::Key } else { Verb::End };
    let owner = match scope {
        Scope::Grant { account, .. } | Scope::Token { account, .. } => Some(account),
        _ => None,
    };
    let revoke = Revoke { verb, target, except, spread_ms: None, owner, reason: door.as_str().into() };
    Changes {
        expects: by.expects().into_iter().chain(own).chain(spared).collect(),
        steps: vec![Change::Revoke(revoke)],
        events: vec![event],
        ..Changes::default()
    }
}
