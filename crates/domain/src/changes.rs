//! The language in which decisions speak to a store: what must still be true, and what to write then.
//!
//! A store checks every [`Expect`] and applies every [`Change`] in one transaction, or none. A mismatch is a
//! [`Conflict`], never ignored: the caller loads a new view and decides again.
use crate::amr::Amr;
use crate::audit::{Anew, Attested, ChainRow, Pruning, Sealing};
use crate::event::NewEvent;
use crate::family::Family;
use crate::follow::FollowerStep;
use crate::mass::{Job, JobStep};
use crate::model::{Account, Client, Consent, Grant, Instance, Key, OldCookie, Session, SessionKind, Status};
use crate::outbox::{Message, NoticeStep};
use crate::retention::Retention;
use crate::throttle::{Attempt, BucketKey, Budget, Verdict};
use crate::ticket::{Ticket, TicketKind};
use crate::upstream::{Link, Origin};
use crate::webhook::Webhook;
use alloc::{string::String, vec::Vec};
use portcullis_wire::{
    AccountId, ClientId, Digest, Epoch, GrantId, InstanceId, KeyId, LinkId, Rev, RunId, SecretBytes, SessionId, Target,
    Time, Verb, WebhookId,
};

/// What to commit: all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// What must still be true.
    pub expects: Vec<Expect>,
    /// What to write, in this order.
    pub steps: Vec<Change>,
    /// What to record.
    pub events: Vec<NewEvent>,
    /// The repeated-call key under which the result is remembered.
    pub idempotency: Option<Idempotency>,
    /// Sessions unused for so long (milliseconds) are dead: not counted as ended, and no actors. `None`: not looked at.
    pub idle_ttl: Option<portcullis_wire::Millis>,
}

impl Changes {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.events.is_empty()
    }
}

/// Under what a result is remembered, so that a repeated call gets it again instead of acting twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Who called (`Actor::text`).
    pub actor: String,
    /// The `Idempotency-Key` header.
    pub key: String,
    /// Digest of method, path and body: the same key with another request is refused.
    pub request: Digest,
    /// What it makes, as text (an id), if it makes something.
    pub made: Option<String>,
}

/// Which sessions of an account an [`Expect::LiveSessions`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All.
    All,
    /// Its user's own sign-ins.
    SignIns,
    /// Its API keys.
    ApiKeys,
}

impl Counted {
    /// The kinds that are counted; `None`: all.
    pub const fn kinds(self) -> Option<&'static [SessionKind]> {
        match self {
            Self::All => None,
            Self::SignIns => Some(SessionKind::SIGN_INS),
            Self::ApiKeys => Some(&[SessionKind::ApiKey]),
        }
    }
    /// Whether a session of this kind is counted.
    pub fn counts(self, kind: SessionKind) -> bool {
        self.kinds().is_none_or(|kinds| kinds.contains(&kind))
    }
}

/// What a decision relied on, checked again under the transaction's locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The session is alive: not ended, not cut, not past its absolute end, its account usable, with this role if one is
    /// named. For actors, and for the session that an end spares.
    Alive {
        /// The session.
        session: SessionId,
        /// A role that its account must have.
        role: Option<&'static str>,
    },
    /// No cut above kills what was born at `born`, and the account is usable: nothing is born dead.
    Unborn {
        /// The account.
        account: AccountId,
        /// The client.
        client: ClientId,
        /// The stamp of the first step.
        born: Rev,
        /// The session that it is born under: a cut that spares that one spares it too.
        under: Option<SessionId>,
    },
    /// Nothing has ended everything of the account since `born` that spared no session of it, nor everything of everybody, and the
    /// account is usable: for what is no session's (see [`crate::view::AccountView::all_ended`]).
    Unended {
        /// The account.
        account: AccountId,
        /// The stamp of the first step.
        born: Rev,
    },
    /// There are fewer webhooks than this: a Conflict (`Moved`) when not. Who commits it makes one.
    WebhooksBelow(u32),
    /// The account's row is at this version.
    AccountVersion {
        /// The account.
        account: AccountId,
        /// `Account::version`.
        version: u32,
    },
    /// The account's password is the one that was verified.
    PasswordVersion {
        /// The account.
        account: AccountId,
        /// `Account::password_version`.
        version: u32,
    },
    /// The family is where the decision saw it.
    Family {
        /// The grant.
        grant: GrantId,
        /// `Family::counter`.
        counter: u64,
        /// `Family::predecessor`.
        predecessor: Option<u64>,
    },
    /// The family's current token was handed out again just so often: a successor that takes its place must not pass by a
    /// hand-out that the decision did not see, for whoever got that token would hold a dead one, and look like a thief.
    Handouts {
        /// The grant.
        grant: GrantId,
        /// `Family::handouts`.
        handouts: u32,
    },
    /// The session has not been ended by itself.
    SessionNotEnded(SessionId),
    /// The grant has not been ended by itself: a Conflict (`Moved`) when it has, `Missing` when there is none.
    GrantNotEnded(GrantId),
    /// No more than `at_most` sessions of the account live, of those that are counted, besides these; by the rule of
    /// [`Expect::Alive`].
    LiveSessions {
        /// The account.
        account: AccountId,
        /// Which are counted.
        counted: Counted,
        /// Not counted: they end in the same changes.
        besides: Vec<SessionId>,
        /// How many others may live.
        at_most: u64,
    },
    /// No account has this address.
    EmailFree(String),
    /// There is no account at all (for the first administrator).
    NoAccounts,
    /// Fewer rules of revocations by filter stand than this.
    StandingBelow(u32),
    /// The client's row is at this version.
    ClientVersion {
        /// The client.
        client: ClientId,
        /// `Client::version`.
        version: u32,
    },
    /// No consent of this account to this client was withdrawn since.
    Consent {
        /// The account.
        account: AccountId,
        /// The client.
        client: ClientId,
        /// `Consent::generation`; 0 where there is no row.
        generation: u32,
    },
    /// The account has no other living grants of this client than these, by the rows alone, just as a store's `list_grants`
    /// counts: what a cut killed does not live. A Conflict (`Moved`) when it has. Who commits it also writes the consent, whose row is what this is counted under.
    NoOtherGrants {
        /// The account.
        account: AccountId,
        /// The client.
        client: ClientId,
        /// Those that the decision has seen.
        besides: Vec<GrantId>,
    },
}

/// Something to write.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new account; a Conflict when its address is taken.
    InsertAccount(Account),
    /// A new status; raises the version.
    SetStatus {
        /// The account.
        account: AccountId,
        /// The new status. `Deleted` also clears address, name, password, roles, the addresses of its sessions, and what can be
        /// erased of the audit records about it: addresses and reasons, with their salts. Its `rev`, and that of `Deleting`, is
        /// filled in by the store with the rev of the `End` in the same changes, if there is one.
        status: Status,
    },
    /// New name and roles; raises the version.
    SetProfile {
        /// The account.
        account: AccountId,
        /// The new name.
        name: Option<String>,
        /// The new roles, sorted, each once.
        roles: Vec<String>,
    },
    /// Nobody has signed in to the account yet, or somebody has; `Missing` when there is no such account. Of one that was inserted
    /// without it nobody knows, and it counts as used. A session that is inserted takes the mark away by itself.
    SetUnused {
        /// The account.
        account: AccountId,
        /// Whether nobody has.
        unused: bool,
    },
    /// A new password hash; raises `version`, and `password_version` unless it is the same password hashed anew.
    SetPassword {
        /// The account.
        account: AccountId,
        /// The PHC string.
        hash: String,
        /// Whether it is the same password under better parameters.
        rehash: bool,
    },
    /// A new session. It is born dead when the rule of a revocation by filter that stands kills it; a Conflict (`Moved`) when it
    /// was born below such a rule that stood and was worked off meanwhile (see [`crate::mass`]).
    InsertSession(Session),
    /// A new name for a device.
    RenameSession {
        /// The session.
        session: SessionId,
        /// Its new name.
        device_name: String,
    },
    /// A new grant.
    InsertGrant(Grant),
    /// The family's row from now on; a Conflict when counter or predecessor are not as expected.
    SetFamily {
        /// The grant.
        grant: GrantId,
        /// Expected counter.
        counter: u64,
        /// Expected predecessor.
        predecessor: Option<u64>,
        /// The new row.
        family: Family,
    },
    /// The current token was handed out again: `handed_at` becomes the later of both, `handouts` grows by one. A Conflict
    /// when the counter is another one.
    HandOut {
        /// The grant.
        grant: GrantId,
        /// Expected counter.
        counter: u64,
        /// When.
        at: Time,
    },
    /// Takes access away: appends one entry to the log and writes its rev where it belongs. See [`crate::kernel`]. Where others are
    /// told of it ([`crate::outbox::is_told`]), a notice is left in the same transaction; of a single session only when another
    /// client than the built-in one has a grant under it. Of sessions that a job marks, too.
    Revoke(Revoke),
    /// Sessions were seen at these times.
    Seen(Vec<(SessionId, Time)>),
    /// No token's `exp` lies beyond this, from now on. Never lowers.
    RaiseHorizon(Time),
    /// Entries whose `until` lies before this are forgotten. Never lowers.
    RaiseFloor(Time),
    /// A new client.
    InsertClient(Client),
    /// A client is switched off or on.
    SetClientDisabled {
        /// The client.
        client: ClientId,
        /// Off, or on.
        disabled: bool,
    },
    /// Another name, secret or profile of a client; everything but `disabled` and `cut` is written, `version` is raised. A
    /// Conflict (`Moved`) when the row is not at `version`.
    UpdateClient(Client),
    /// A consent, new or in place of the last one; a Conflict (`Moved`) when that has another generation (0 where there is none).
    PutConsent(Consent),
    /// A consent is withdrawn: no scopes any more, the next generation. A row is made where there is none. A Conflict
    /// (`Moved`) when the generation is another one.
    WithdrawConsent {
        /// The account.
        account: AccountId,
        /// The client.
        client: ClientId,
        /// The generation so far.
        generation: u32,
    },
    /// When and how a session's user proved who they are again.
    SetAuthTime {
        /// The session.
        session: SessionId,
        /// When.
        at: Time,
        /// By which methods.
        amr: Amr,
    },
    /// The cookie of a browser's session, and the one before it, from now on. A Conflict (`Moved`) when it is not as expected,
    /// `Missing` when there is no such session.
    SetCookie {
        /// The session.
        session: SessionId,
        /// What it was.
        before: Digest,
        /// What it is.
        cookie: Digest,
        /// The one before, as long as that is taken.
        old: Option<OldCookie>,
    },
    /// A new ticket; a Conflict (`Used`) when its id exists.
    InsertTicket(Ticket),
    /// A ticket's account, session, body and end from now on. A Conflict (`Used`) when it was used, `Moved` when it is not at
    /// `version`, which is raised.
    UpdateTicket(Ticket),
    /// A ticket is used, once. A Conflict (`Used`) when it was used before, `Missing` when there is none.
    UseTicket {
        /// Which.
        ticket: Digest,
        /// When.
        at: Time,
        /// The grant that came of it.
        grant: Option<GrantId>,
    },
    /// Deletes at most `most` tickets that ended before this time; counted.
    PruneTickets {
        /// The time.
        before: Time,
        /// How many at most.
        most: u64,
    },
    /// Deletes of the tickets of this kind under a session the oldest, by their end, beyond so many that were not used and so many
    /// that were; counted. One that somebody else is at this very moment may stay.
    CrowdOutTickets {
        /// The session.
        session: SessionId,
        /// The kind.
        kind: TicketKind,
        /// How many stay of those that were not used.
        open: u32,
        /// And of those that were.
        used: u32,
    },
    /// Deletes at most `most` grants that were ended by themselves and may go by [`crate::retention::grant_may_go`]; counted.
    PruneGrants {
        /// How many at most.
        most: u64,
    },
    /// A new message; a Conflict (`Moved`) when its id exists.
    InsertMessage(Message),
    /// Everything of a message that can change, from now on: a Conflict (`Moved`) when it is not at `version`, which is raised;
    /// `Missing` when there is none.
    UpdateMessage(Message),
    /// A notice goes on, or goes. A Conflict (`Moved`) when it is not where the step was read, or gone.
    StepNotice(NoticeStep),
    /// Deletes at most `most` messages that were taken, or given up, before these times; counted.
    PruneMessages {
        /// Taken before.
        done: Time,
        /// Given up before.
        dead: Time,
        /// How many at most.
        most: u64,
    },
    /// A new link; a Conflict (`Moved`) when whoever it names is linked already.
    InsertLink(Link),
    /// Somebody signs in by a link, in a sign-in that began at `begun`. A Conflict (`Moved`) when it is gone, or was signed out at
    /// the other provider since.
    UseLink {
        /// Which.
        link: LinkId,
        /// When the sign-in began.
        begun: Time,
        /// When.
        at: Time,
    },
    /// Whoever this is signed out at the other provider: sign-ins that began before are dead. Nothing without a link.
    SignOutLink {
        /// The provider.
        issuer: String,
        /// Who, there.
        subject: String,
        /// When.
        at: Time,
    },
    /// A link goes; a Conflict (`Missing`) when there is none, or it is another account's.
    RemoveLink {
        /// Whose.
        account: AccountId,
        /// Which.
        link: LinkId,
    },
    /// Where a session came from; a Conflict (`Missing`) when there is no such session.
    InsertOrigin(Origin),
    /// A new verifier instance; a Conflict when its id exists.
    InsertInstance(Instance),
    /// Name, policy and bound of an instance that reconnects.
    UpdateInstance(Instance),
    /// Instances that are gone for good.
    RemoveInstances(Vec<InstanceId>),
    /// A new key.
    InsertKey(Key),
    /// Since when a key signs, and when it is dropped.
    SetKeyTimes {
        /// The key.
        key: KeyId,
        /// Since when it signs.
        active_from: Option<Time>,
        /// When it is dropped from the list.
        retired_at: Option<Time>,
    },
    /// A key's private part, sealed anew, or emptied because it is of no more use. A Conflict when it is not sealed as
    /// expected: two who seal anew at once must not mix their work.
    SetKeySealed {
        /// The key.
        key: KeyId,
        /// How it was sealed.
        before: SecretBytes,
        /// How it is sealed from now on.
        sealed: SecretBytes,
    },
    /// The log begins a new epoch after this position; entries of the old one go, and no rule of a revocation by filter stands any
    /// more. A Conflict (`Moved`) unless both lie beyond what is there. See [`crate::refound`].
    Refound {
        /// The new epoch.
        epoch: Epoch,
        /// The position before its first entry.
        base: Rev,
    },
    /// A revocation by filter; the rev of its rule is that of the last entry of the same changes.
    InsertJob(Job),
    /// A revocation by filter goes on. A Conflict when it is not where the step was read.
    StepJob(JobStep),
    /// The bound B in milliseconds, as all nodes use it: `current` from now on, `next` from `at`.
    SetBound(BoundRow),
    /// The server that writes from now on; only where a database belongs to one node. See [`crate::rollback`].
    SetRun(RunId),
    /// Deletes those of these sessions, with their grants, that may go by [`crate::retention::may_go`]; counted in
    /// [`Committed::pruned`].
    PruneSessions {
        /// The sessions.
        sessions: Vec<SessionId>,
        /// For how long what is kept.
        keep: Retention,
    },
    /// Deletes the addresses of those of these sessions where [`crate::retention::address_may_go`]; counted.
    ForgetSessionAddresses {
        /// The sessions.
        sessions: Vec<SessionId>,
        /// For how long what is kept.
        keep: Retention,
    },
    /// The chain over audit records begins, with nothing in it; a Conflict (`Moved`) when it has begun. See [`crate::audit`].
    BeginChain(ChainRow),
    /// Records are sealed; a Conflict (`Moved`) when the chain does not end there any more, or one of them has a seal or is gone.
    /// What was erased since it was read gets no salt. Committed alone.
    Seal(Sealing),
    /// The beginning of the chain goes, and the records there are deleted, which are counted. A Conflict (`Moved`) when it does
    /// not begin there any more, or does not reach so far.
    PruneChain(Pruning),
    /// Another chain begins in the place of one that is broken; a Conflict (`Moved`) when that does not end there any more, or is there
    /// again. What was attested of the old one goes with it.
    BeginAnew(Anew),
    /// It is attested that the chain goes on from a place. A Conflict (`Moved`) when its key is not sealed as expected.
    Attest {
        /// How the key is sealed that it was attested under.
        key: SecretBytes,
        /// What was attested, in the place of what was before.
        attested: Attested,
    },
    /// The chain's key, sealed anew. A Conflict (`Moved`) when it is not sealed as expected.
    SetChainKey {
        /// How it was sealed.
        before: SecretBytes,
        /// How it is sealed from now on.
        sealed: SecretBytes,
    },
    /// Deletes the addresses, with their salts, of at most `most` audit records from before this time, oldest first; counted.
    ForgetEventAddresses {
        /// The time.
        before: Time,
        /// How many at most.
        most: u64,
    },
    /// Erases what can be erased (address, reason, their salts) of audit records about one tombstone: of those that were there
    /// before it became one, the next `most`, oldest first. The tombstone with the smallest id of those of which any are left.
    /// Counts the records that it looked at, and one more when it came to their end: 0 when nothing is left of any.
    EraseRecords {
        /// How many at most.
        most: u64,
    },
    /// Forgets revocations by filter that were done before this.
    ForgetJobs(Time),
    /// Forget remembered results older than this.
    ForgetIdempotency(Time),
    /// Takes an attempt to sign in from its budgets by [`crate::throttle::take`], or does not; the verdict is
    /// [`Committed::attempt`].
    TakeAttempt(Attempt),
    /// Gives back what an attempt with this verdict took, by [`crate::throttle::give_back`].
    GiveBack {
        /// The attempt.
        attempt: Attempt,
        /// As whose it was charged.
        verdict: Verdict,
    },
    /// The account signed in from this network; of its others those go that [`crate::throttle::networks_to_forget`] names.
    KnowNetwork {
        /// The account's bucket.
        account: BucketKey,
        /// The network's.
        network: BucketKey,
    },
    /// Forgets buckets: those that are full again, soonest first; then, while there are more than `keep`, those that are full
    /// the soonest. And networks that are no longer remembered. At most `most` of each.
    PruneAttempts {
        /// How many buckets may stay.
        keep: u64,
        /// How many are looked at.
        most: u64,
    },
    /// What is remembered of an account for the rules of risk, from now on. A Conflict (`Moved`) when it was not written just so
    /// often, `Missing` when there is no such account, or it is a tombstone: with an account goes what is remembered of it.
    PutMemory {
        /// The account.
        account: AccountId,
        /// How often it was written; 0: never.
        version: u32,
        /// The new text.
        memory: String,
    },
    /// From which network a grant was refreshed; `Missing` when there is no such grant.
    SetNetwork {
        /// The grant.
        grant: GrantId,
        /// The network.
        network: [u8; 8],
    },
    /// Takes one from a bucket by [`crate::throttle::draw`]; a Conflict (`Moved`) when it is empty: load it, and decide again.
    Draw {
        /// The bucket.
        bucket: BucketKey,
        /// Its size and pace.
        budget: Budget,
    },
    /// Deletes of these clients those that may go by [`crate::retention::client_may_go`]; counted.
    PruneClients {
        /// Which are looked at.
        clients: Vec<ClientId>,
        /// For how long they must have been there, in milliseconds.
        unused: portcullis_wire::Millis,
    },
    /// A follower's cursor moves, begins or goes; a Conflict (`Moved`) when it is not where the step was read. See [`crate::follow`].
    StepFollower(FollowerStep),
    /// A new webhook; a Conflict (`Moved`) when its id exists.
    InsertWebhook(Webhook),
    /// Everything of a webhook but when it was made, from now on: a Conflict (`Moved`) when it is not at `version`, which is raised;
    /// `Missing` when there is none.
    UpdateWebhook(Webhook),
    /// A webhook goes; a Conflict (`Missing`) when there is none.
    RemoveWebhook(WebhookId),
    /// Nothing is proven any more: by a session, by the cookie that it had before, where that is still taken, and by this grant of it.
    /// `Missing` when there is no such session or grant.
    Unprove {
        /// The session.
        session: SessionId,
        /// And a grant that may keep a proof of its own.
        grant: Option<GrantId>,
    },
    /// An account's address from now on, and since when it is known to be its owner's; raises the version. A Conflict (`EmailTaken`)
    /// when it is another account's.
    SetEmail {
        /// The account.
        account: AccountId,
        /// The address, normalised; none when somebody else has proved it to be theirs.
        email: Option<String>,
        /// Since when it is verified, if it is.
        verified_at: Option<Time>,
    },
}

/// The bound B as the database keeps it: a lower one counts only after the old one has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundRow {
    /// In force, in milliseconds.
    pub current_ms: u64,
    /// Asked for, in milliseconds.
    pub next_ms: u64,
    /// From when `next_ms` counts.
    pub next_from: Time,
}

impl BoundRow {
    /// B at `now` in milliseconds.
    pub fn at(&self, now: Time) -> u64 {
        if now >= self.next_from { self.next_ms } else { self.current_ms.max(self.next_ms) }
    }
}

/// One entry for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoke {
    /// What it does.
    pub verb: Verb,
    /// To what.
    pub target: Target,
    /// The one session that it spares; must be alive in this transaction (an [`Expect::Alive`] goes with it).
    pub except: Option<SessionId>,
    /// Over how many milliseconds a `stale` may be spread.
    pub spread_ms: Option<u64>,
    /// Whose the grant or token is that ends: of one account only so many stand in the log (see [`crate::kernel::entry_for`]).
    pub owner: Option<AccountId>,
    /// The door, in a word or two.
    pub reason: String,
}

/// What a commit made known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The rev of its entry, when it wrote one (the last one, when several).
    pub rev: Option<Rev>,
    /// How many live sessions its end ended, when it was the end of a session, grant or account.
    pub ended: Option<u64>,
    /// Whether the attempt that it took may be checked, when it took one (the last one, when several).
    pub attempt: Option<Verdict>,
    /// How many rows or addresses it deleted, of those that are counted.
    pub pruned: u64,
    /// The database's time at the commit.
    pub at: Time,
}

/// Which expectation no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The acting or spared session is not alive, or lacks the role.
    NotAlive(SessionId),
    /// It would be born dead.
    BornDead,
    /// A row has moved on: load again and decide again.
    Moved,
    /// The address has an account.
    EmailTaken,
    /// The repeated-call key has a remembered result: load it.
    Repeated,
    /// A token's or session's row does not exist.
    Missing,
    /// As many as there may be are there already.
    TooMany,
    /// A ticket was used before.
    Used,
}
