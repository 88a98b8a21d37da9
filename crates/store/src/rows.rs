//! What lists and reads return besides the views of `domain`.
use portcullis_domain::audit::ChainRow;
pub use portcullis_domain::audit::Record as EventRow;
use portcullis_domain::outbox::MessageState;
use portcullis_domain::view::{RefreshView, Stamp};
use portcullis_wire::{AccountId, ClientId, Digest, Entry, NodeId, Rev, SessionId, Time};
use std::sync::Arc;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// A grant with everything above it, perhaps as of an earlier read.
#[derive(Debug, Clone)]
pub struct Peeked {
    /// The rows, with the stamp of when they were read.
    pub view: Arc<RefreshView>,
    /// The database's time now.
    pub now: Time,
    /// Position of the newest entry now.
    pub head: Rev,
}

impl Peeked {
    /// What was read just now.
    pub fn now(view: RefreshView) -> Self {
        Self { now: view.stamp.now, head: view.stamp.head, view: Arc::new(view) }
    }

    /// Without what only acts need and nobody else is to have: the family's secret, the password's hash, cookies.
    pub fn lean(mut view: RefreshView) -> RefreshView {
        view.grant.family.secret = [0; 32];
        view.account.password_hash = None;
        (view.session.cookie, view.session.old_cookie) = (None, None);
        view
    }
}

/// How much lives, by the rows alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveCount {
    /// Sessions that were not ended, are under no cut, and are not past their absolute end.
    pub sessions: u64,
    /// Accounts that have such a session.
    pub accounts: u64,
}

/// How many rows budgets for guesses take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptCount {
    /// Buckets.
    pub buckets: u64,
    /// Networks that accounts signed in from.
    pub networks: u64,
}

/// What a look at some sessions found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prunable {
    /// May be deleted.
    pub sessions: Vec<SessionId>,
    /// May lose their address.
    pub addresses: Vec<SessionId>,
    /// Where to look on; `None` at the end.
    pub next: Option<SessionId>,
}

/// How many rows the tables have that grow with use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCount {
    /// Accounts, tombstones too.
    pub accounts: u64,
    /// Sessions.
    pub sessions: u64,
    /// Grants.
    pub grants: u64,
    /// Audit records.
    pub events: u64,
    /// Entries of the log that are not forgotten.
    pub entries: u64,
    /// Results under repeated-call keys.
    pub remembered: u64,
    /// Verifier instances.
    pub instances: u64,
    /// Tickets.
    pub tickets: u64,
    /// Consents.
    pub consents: u64,
    /// Accounts of which something is remembered for the rules of risk.
    pub memories: u64,
}

/// What is to be sent, of some clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// One message of each at most.
    pub messages: Vec<portcullis_domain::outbox::Message>,
    /// The last client looked at; `None` when there are no more after it.
    pub next: Option<ClientId>,
}

/// How much is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageCount {
    /// Ends of which nobody, or not everybody, has a message yet.
    pub notices: u64,
    /// Messages that wait to be sent.
    pub waiting: u64,
    /// Messages that were given up and are still kept.
    pub dead: u64,
}

/// Which messages are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageFilter {
    /// Only in this state.
    pub state: Option<MessageState>,
    /// Only for this client.
    pub client: Option<ClientId>,
}

/// Which audit records are asked for.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only about this account.
    pub account: Option<AccountId>,
    /// Only of this kind (the word).
    pub kind: Option<String>,
    /// Only acts that wrote an entry.
    pub revocations: bool,
    /// Only about this session.
    pub session: Option<SessionId>,
    /// Only about this client.
    pub client: Option<ClientId>,
    /// Only by this actor (`Actor::text`).
    pub actor: Option<String>,
    /// Only from this time on.
    pub from: Option<Time>,
    /// Only from before this time.
    pub until: Option<Time>,
    /// Only of the act that wrote this entry.
    pub rev: Option<Rev>,
}

impl EventFilter {
    /// Whether a record is asked for.
    pub fn takes(&self, row: &EventRow) -> bool {
        let Self { account, kind, revocations, session, client, actor, from, until, rev } = self;
        let event = &row.event;
        account.is_none_or(|account| event.account == Some(account))
            && kind.as_deref().is_none_or(|kind| event.kind.as_str() == kind)
            && (!revocations || row.rev.is_some())
            && session.is_none_or(|session| event.session == Some(session))
            && client.is_none_or(|client| event.client == Some(client))
            && actor.as_deref().is_none_or(|actor| event.actor == actor)
            && from.is_none_or(|from| row.at >= from)
            && until.is_none_or(|until| row.at < until)
            && rev.is_none_or(|rev| row.rev == Some(rev))
    }
}

/// A piece of the chain over audit records, with its row of the same snapshot.
#[derive(Debug, Clone)]
pub struct ChainRead {
    /// The row.
    pub chain: ChainRow,
    /// Sealed records, by place.
    pub rows: Vec<EventRow>,
}

/// A piece of the log.
#[derive(Debug, Clone)]
pub struct LogRead {
    /// Where the log stood.
    pub stamp: Stamp,
    /// Entries in order, without a gap, starting right after the asked position when `complete`.
    pub entries: Vec<Entry>,
    /// Whether nothing after the asked position was forgotten.
    pub complete: bool,
}

/// The result of an act under a repeated-call key.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Digest of the request that made it.
    pub request: Digest,
    /// The entry that it wrote.
    pub rev: Option<Rev>,
    /// How many live sessions it ended.
    pub ended: Option<u64>,
    /// What it made, as text (an id).
    pub made: Option<String>,
    /// When it was committed.
    pub at: Time,
}

/// A server node's row, where several nodes share a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// The node, for as long as its process lives.
    pub id: NodeId,
    /// Grows with every write: whoever sees it stand still sees a node that is dead, stuck or cut off. No clock is in it.
    pub beat: u64,
    /// What the node says; the store does not read it.
    pub body: String,
}
