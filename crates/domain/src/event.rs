//! Audit records: who did what, on whom, from where, why. Written in the act's own transaction.
use alloc::{
    format,
    string::{String, ToString},
};
use core::net::IpAddr;
use portcullis_wire::{AccountId, ClientId, EventId, SessionId};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind { $($(#[$doc])* $name,)* }
        impl EventKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The word in the API and in the database.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// From that word.
            pub fn parse(text: &str) -> Option<Self> { Self::ALL.iter().copied().find(|k| k.as_str() == text) }
        }
    };
}

kinds! {
    /// An account was made.
    AccountCreated = "account.created";
    /// An account's data were changed.
    AccountChanged = "account.changed";
    /// A password was changed; all sessions but the one in which it was ended.
    PasswordChanged = "password.changed";
    /// An account was blocked.
    AccountBlocked = "account.blocked";
    /// A block was lifted.
    AccountUnblocked = "account.unblocked";
    /// An account is to be deleted: nothing can sign in, and at the end of the grace period nothing is left of it.
    AccountDeleting = "account.deleting";
    /// The deletion of an account was taken back.
    AccountRestored = "account.restored";
    /// An account was deleted.
    AccountDeleted = "account.deleted";
    /// Accounts were imported.
    AccountsImported = "accounts.imported";
    /// Accounts were exported with the hashes of their passwords.
    AccountsExported = "accounts.exported";
    /// Somebody signed in.
    SessionStarted = "session.started";
    /// Somebody proved once more who they are, in a session that goes on.
    SessionProven = "session.proven";
    /// A session was ended.
    SessionEnded = "session.ended";
    /// All sessions of an account were ended, or all but one.
    SessionsEnded = "sessions.ended";
    /// Every session was ended, or all but one.
    EveryoneEnded = "everyone.ended";
    /// Sessions that a filter matches were revoked, by a rule and a job.
    SessionsRevoked = "sessions.revoked";
    /// The log was founded anew after a rollback: everything before it is void.
    LogRefounded = "log.refounded";
    /// A job was done.
    JobFinished = "job.finished";
    /// A refresh token was presented that only a copy explains; its session or grant was ended.
    RefreshReused = "refresh.reused";
    /// A predecessor came back late: a new successor was made, the unused one is dead.
    RefreshSkipped = "refresh.skipped";
    /// Somebody made an API key; the reason is its name.
    ApiKeyCreated = "api_key.created";
    /// A client was registered.
    ClientCreated = "client.created";
    /// A client was switched off.
    ClientDisabled = "client.disabled";
    /// Somebody allowed a client to do something; the reason names the scopes.
    ConsentGiven = "consent.given";
    /// Somebody withdrew that, and everything that the client had of them has ended.
    ConsentWithdrawn = "consent.withdrawn";
    /// A client got tokens under a session.
    GrantIssued = "grant.issued";
    /// A client got access that lasts while its user is away.
    AppConnected = "app.connected";
    /// Somebody said no to a device that wanted to sign in as them.
    DeviceRefused = "device.refused";
    /// A client gave up tokens, or a grant was ended.
    GrantEnded = "grant.ended";
    /// A token was revoked.
    TokenRevoked = "token.revoked";
    /// A client was changed.
    ClientChanged = "client.changed";
    /// A client got another secret.
    SecretRotated = "client.secret_rotated";
    /// A client was switched on again.
    ClientEnabled = "client.enabled";
    /// Somebody had a message tried again; the reason names it.
    MessageRetried = "message.retried";
    /// Somebody at another provider may sign in to an account from now on.
    LinkAdded = "link.added";
    /// They may no longer.
    LinkRemoved = "link.removed";
    /// A signing or MAC key was made.
    KeyCreated = "key.created";
    /// A key that had waited signs, or makes MACs, from now on.
    KeyActivated = "key.activated";
    /// A key signs no more; it is dropped once nothing that it made lives.
    KeyRetired = "key.retired";
    /// A signing key was revoked: it is dead for good.
    KeyRevoked = "key.revoked";
    /// All stored keys were sealed anew, under another master key.
    MasterKeyRotated = "master_key.rotated";
    /// A rule of risk ended sessions, blocked, throttled, or asks for a fresh proof; the reason names the rule and the policy.
    RiskDecided = "risk.decided";
    /// A rule of risk would have the user told.
    RiskNoticed = "risk.noticed";
    /// A rule that only watches would have done something.
    RiskShadow = "risk.shadow";
    /// Rules would block more accounts than they may.
    RiskAlarm = "risk.alarm";
    /// Something about an account was told from outside; the reason says what.
    RiskSignal = "risk.signal";
    /// A new password was chosen by a link in a mail; all sessions have ended.
    PasswordReset = "password.reset";
    /// Somebody said by a link in a mail that a session was not theirs; it has ended, or all of them.
    NotMe = "session.denied";
    /// A webhook was made; the reason of these names it.
    WebhookCreated = "webhook.created";
    /// A webhook was changed.
    WebhookChanged = "webhook.changed";
    /// A webhook was switched off: by somebody, or because it said that it wants no more.
    WebhookDisabled = "webhook.disabled";
    /// A webhook was switched on.
    WebhookEnabled = "webhook.enabled";
    /// A webhook got another secret.
    WebhookSecretRotated = "webhook.secret_rotated";
    /// A webhook is told again from a place on.
    WebhookReplayed = "webhook.replayed";
    /// A webhook was deleted.
    WebhookDeleted = "webhook.deleted";
    /// Another chain of audit records began in the place of one that was broken; the reason says why, and after which place.
    AuditBegunAnew = "audit.begun_anew";
    /// The chain of audit records goes on from where it ends, whatever was seen beyond; the reason says why, and from which place.
    AuditWentOn = "audit.went_on";
    /// It was shown that an account's address is its owner's, or an administrator says so.
    EmailVerified = "email.verified";
    /// An account has another address.
    EmailChanged = "email.changed";
    /// Somebody in a session asked for another address. It counts once the link that was sent there is used.
    EmailChangeAsked = "email.change_asked";
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A signed-in account, by one of its sessions.
    Account {
        /// The account.
        account: AccountId,
        /// The session that the token names.
        session: SessionId,
    },
    /// Who can reach the admin socket.
    Operator,
    /// The server itself.
    System,
    /// Somebody who is not signed in.
    Anonymous,
}

impl Actor {
    /// The word in audit records: an account's id, `operator`, `system` or `anonymous`.
    pub fn text(&self) -> String {
        match self {
            Self::Account { account, .. } => account.to_string(),
            Self::Operator => "operator".into(),
            Self::System => "system".into(),
            Self::Anonymous => "anonymous".into(),
        }
    }
    /// The session that acts, if one does.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Account { session, .. } => Some(*session),
            _ => None,
        }
    }
}

/// An audit record to be written. The store adds `rev`, `ended` and the time of the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// What happened.
    pub kind: EventKind,
    /// Who did it, as text.
    pub actor: String,
    /// The account that it happened to.
    pub account: Option<AccountId>,
    /// The session that it happened to.
    pub session: Option<SessionId>,
    /// The client that it happened to.
    pub client: Option<ClientId>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Why, in words.
    pub reason: Option<String>,
}

impl NewEvent {
    /// A record of `kind` by `actor`, to be filled in.
    pub fn new(id: EventId, kind: EventKind, actor: &Actor) -> Self {
        Self { id, kind, actor: actor.text(), account: None, session: None, client: None, ip: None, reason: None }
    }
    /// About this account.
    pub fn account(mut self, account: AccountId) -> Self {
        self.account = Some(account);
        self
    }
    /// About this session.
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }
    /// About this client.
    pub fn client(mut self, client: ClientId) -> Self {
        self.client = Some(client);
        self
    }
    /// From there.
    pub fn ip(mut self, ip: Option<IpAddr>) -> Self {
        self.ip = ip;
        self
    }
    /// For this reason.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
    /// For the words of a log line.
    pub fn summary(&self) -> String {
        format!("{} by {}", self.kind.as_str(), self.actor)
    }
}
