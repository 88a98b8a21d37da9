//! The memory store: the reference that every backend is compared with, and the simulator's disk.
//!
//! [`Memory`] is a plain value: the same calls at the same times give the same answers, on every run. It says what each
//! [`Expect`](portcullis_domain::Expect) and [`Change`](portcullis_domain::Change) means, in the fewest words that are exact
//! (`apply`); it is not made to be fast with many rows. [`MemoryStore`] puts it behind the [`Store`](crate::Store) trait.
mod apply;
mod apps;
mod attempts;
mod audit;
mod follow;
mod jobs;
mod outbox;
mod prune;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

pub use store::{Clock, MemoryStore};

use crate::{AttemptCount, CommitError, EventFilter, EventRow, LiveCount, LogRead, Page, Remembered, StoreError};
use portcullis_domain::Cut;
use portcullis_domain::audit::ChainRow;
use portcullis_domain::changes::{BoundRow, Changes, Committed};
use portcullis_domain::mass::{self, Job};
use portcullis_domain::model::{Account, Client, Consent, Grant, Instance, Key, Session};
use portcullis_domain::outbox::{Message, Notice};
use portcullis_domain::throttle::{Bucket, BucketKey};
use portcullis_domain::ticket::Ticket;
use portcullis_domain::upstream::{Link, Origin};
use portcullis_domain::view::{AccountView, ClientView, RefreshView, RiskView, SessionView, SignInView, Stamp};
use portcullis_domain::webhook::Webhook;
use portcullis_wire::{
    AccountId, Chain, ClientId, Entry, Epoch, EventId, GrantId, InstanceId, JobId, KeyId, LinkId, LogId, MessageId,
    Millis, Rev, RunId, SessionId, Time, WebhookId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use table::Table;

/// The counter's row, and what stands beside it.
#[derive(Debug, Clone, Copy)]
struct Meta {
    log: LogId,
    epoch: Epoch,
    head: Rev,
    chain: Chain,
    horizon: Time,
    floor: Time,
    all: Cut,
    /// The highest rev whose entry was forgotten. As the horizon only grows, so does `until` with rev, and what is forgotten
    /// is a prefix of the log.
    forgotten: Rev,
    bound: Option<BoundRow>,
    run: Option<RunId>,
    /// The newest rule of a revocation by filter that was worked off and taken away.
    worked_off: Rev,
    /// How many notices there were so far.
    noticed: u64,
}

/// A database as a value. See the [module](self).
#[derive(Debug, Clone)]
pub struct Memory {
    meta: Meta,
    log: Table<Rev, Entry>,
    /// Whose grants and tokens the entries of the log end.
    owners: Table<Rev, AccountId>,
    accounts: Table<AccountId, Account>,
    emails: Table<String, AccountId>,
    /// The last cut of an account that spared nobody, where a later one did.
    whole_cuts: Table<AccountId, Rev>,
    /// Nobody has signed in to these yet.
    unused: Table<AccountId, ()>,
    sessions: Table<SessionId, Session>,
    sessions_of: Table<(AccountId, SessionId), ()>,
    grants: Table<GrantId, Grant>,
    grants_of: Table<(SessionId, GrantId), ()>,
    clients: Table<ClientId, Client>,
    instances: Table<InstanceId, Instance>,
    keys: Table<KeyId, Key>,
    remembered: Table<(String, String), Remembered>,
    jobs: Table<JobId, Job>,
    consents: Table<(AccountId, ClientId), Consent>,
    tickets: Table<[u8; 32], Ticket>,
    notices: Table<u64, Notice>,
    messages: Table<MessageId, Message>,
    links: Table<LinkId, Link>,
    origins: Table<SessionId, Origin>,
    followers: Table<String, u64>,
    webhooks: Table<WebhookId, Webhook>,
    buckets: Table<BucketKey, Bucket>,
    networks: Table<(BucketKey, BucketKey), Time>,
    /// With how often each was written.
    memories: Table<AccountId, (String, u32)>,
    /// At most one.
    chain: Table<(), ChainRow>,
    /// The records about tombstones that are still to be erased, oldest first.
    erasures: Table<AccountId, Vec<EventId>>,
    /// Oldest first.
    events: Vec<EventRow>,
    event_at: BTreeMap<EventId, usize>,
}

impl Memory {
    /// A new database with this log, made at `now`: nothing in it but the first-party client.
    pub fn new(log: LogId, now: Time) -> Self {
        let meta = Meta {
            log,
            epoch: Epoch(1),
            head: Rev::ZERO,
            chain: Chain::genesis(log),
            horizon: Time::ZERO,
            floor: Time::ZERO,
            all: Cut::default(),
            forgotten: Rev::ZERO,
            bound: None,
            run: None,
            worked_off: Rev::ZERO,
            noticed: 0,
        };
        let first_party = Client::first_party(now);
        let mut clients = Table::default();
        clients.put(first_party.id, first_party);
        clients.keep();
        Self {
            meta,
            log: Table::default(),
            owners: Table::default(),
            accounts: Table::default(),
            emails: Table::default(),
            whole_cuts: Table::default(),
            unused: Table::default(),
            sessions: Table::default(),
            sessions_of: Table::default(),
            grants: Table::default(),
            grants_of: Table::default(),
            clients,
            instances: Table::default(),
            keys: Table::default(),
            remembered: Table::default(),
            jobs: Table::default(),
            consents: Table::default(),
            tickets: Table::default(),
            notices: Table::default(),
            erasures: Table::default(),
            messages: Table::default(),
            links: Table::default(),
            origins: Table::default(),
            followers: Table::default(),
            webhooks: Table::default(),
            buckets: Table::default(),
            networks: Table::default(),
            memories: Table::default(),
            chain: Table::default(),
            events: Vec::new(),
            event_at: BTreeMap::new(),
        }
    }

    /// Checks and applies, all or nothing. `now` is the database's time.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when an expectation does not hold; nothing was written then.
    pub fn commit(&mut self, changes: Changes, now: Time) -> Result<Committed, CommitError> {
        let meta = self.meta;
        let result = apply::commit(self, changes, now);
        let kept = result.is_ok();
        if !kept {
            self.meta = meta;
        }
        macro_rules! settle {
            ($($table:ident)*) => {$( if kept { self.$table.keep() } else { self.$table.take_back() } )*};
        }
        settle!(log accounts emails sessions sessions_of grants grants_of clients instances keys remembered buckets networks jobs);
        settle!(whole_cuts unused owners consents tickets notices messages links origins chain erasures memories followers webhooks);
        result
    }

    /// As [`Store::stamp`](crate::Store::stamp).
    pub fn stamp(&self, now: Time) -> Stamp {
        let Meta { log, epoch, head, chain, horizon, floor, all, worked_off, .. } = self.meta;
        Stamp { log, epoch, head, chain, horizon, floor, all, worked_off, now }
    }

    /// As [`Store::load_sign_in`](crate::Store::load_sign_in).
    pub fn load_sign_in(&self, email: &str, client: ClientId, now: Time) -> SignInView {
        let account = self.emails.get(&email.to_owned()).and_then(|id| self.accounts.get(id)).cloned();
        let client_cut = self.clients.get(&client).map(|c| c.cut).unwrap_or_default();
        let unused = account.as_ref().is_some_and(|account| self.unused.has(&account.id));
        SignInView { stamp: self.stamp(now), account, unused, client_cut }
    }

    /// As [`Store::load_refresh`](crate::Store::load_refresh).
    pub fn load_refresh(&self, grant: GrantId, now: Time) -> Option<RefreshView> {
        let grant = self.grants.get(&grant)?.clone();
        let session = self.sessions.get(&grant.session)?.clone();
        let account = self.accounts.get(&session.account)?.clone();
        let client = self.clients.get(&grant.client)?;
        Some(RefreshView {
            stamp: self.stamp(now),
            client_cut: client.cut,
            client_disabled: client.disabled,
            access_ttl: client.profile.access_ttl_s.map(|seconds| Millis::from(seconds) * 1000),
            refreshed_at: if session.is_used_by(grant.client) { None } else { self.refreshed_at(session.id) },
            standing: self.standing(),
            grant,
            session,
            account,
        })
    }

    /// As [`Store::load_session`](crate::Store::load_session).
    pub fn load_session(&self, session: SessionId, now: Time) -> Option<SessionView> {
        let session = self.sessions.get(&session)?.clone();
        let account = self.accounts.get(&session.account)?.clone();
        let refreshed_at = self.refreshed_at(session.id);
        Some(SessionView { stamp: self.stamp(now), session, account, refreshed_at, standing: self.standing() })
    }

    /// As [`Store::load_account`](crate::Store::load_account).
    pub fn load_account(&self, account: AccountId, now: Time) -> Option<AccountView> {
        let account = self.accounts.get(&account)?.clone();
        let all_ended = account.cut.whole(self.whole_cuts.get(&account.id).copied());
        Some(AccountView { stamp: self.stamp(now), account, all_ended })
    }

    /// As [`Store::list_sessions`](crate::Store::list_sessions).
    pub fn list_sessions(&self, account: AccountId, limit: u32, now: Time) -> Vec<SessionView> {
        let mut sessions: Vec<SessionView> = self
            .sessions_of(account)
            .filter(|session| self.lives(session, now))
            .filter_map(|session| self.load_session(session.id, now))
            .collect();
        sessions.sort_by_key(|view| std::cmp::Reverse((view.session.created_at, view.session.id)));
        sessions.truncate(limit as usize);
        sessions
    }

    /// As [`Store::list_accounts`](crate::Store::list_accounts).
    pub fn list_accounts(&self, prefix: Option<&str>, cursor: Option<AccountId>, limit: u32) -> Page<Account> {
        let fits = |a: &&Account| prefix.is_none_or(|p| a.email.as_deref().is_some_and(|email| email.starts_with(p)));
        page(after(&self.accounts, cursor).filter(fits).cloned(), limit)
    }

    /// As [`Store::load_client`](crate::Store::load_client).
    pub fn load_client(&self, client: ClientId, now: Time) -> Option<ClientView> {
        let client = self.clients.get(&client)?.clone();
        Some(ClientView { stamp: self.stamp(now), client })
    }

    /// As [`Store::list_clients`](crate::Store::list_clients).
    pub fn list_clients(&self, cursor: Option<ClientId>, limit: u32) -> Page<Client> {
        page(after(&self.clients, cursor).cloned(), limit)
    }

    /// As [`Store::list_instances`](crate::Store::list_instances).
    pub fn list_instances(&self) -> Vec<Instance> {
        self.instances.rows().map(|(_, instance)| instance.clone()).collect()
    }

    /// As [`Store::list_keys`](crate::Store::list_keys).
    pub fn list_keys(&self) -> Vec<Key> {
        self.keys.rows().map(|(_, key)| key.clone()).collect()
    }

    /// As [`Store::load_bound`](crate::Store::load_bound).
    pub fn load_bound(&self) -> Option<BoundRow> {
        self.meta.bound
    }

    /// As [`Store::load_run`](crate::Store::load_run).
    pub fn load_run(&self) -> Option<RunId> {
        self.meta.run
    }

    /// As [`Store::list_events`](crate::Store::list_events). A cursor that names no record gives an empty page.
    pub fn list_events(&self, filter: &EventFilter, cursor: Option<EventId>, limit: u32) -> Page<EventRow> {
        let end = cursor.map_or(self.events.len(), |id| self.event_at.get(&id).copied().unwrap_or(0));
        page(self.events[..end].iter().rev().filter(|row| filter.takes(row)).cloned(), limit)
    }

    /// As [`Store::load_revocation`](crate::Store::load_revocation).
    pub fn load_revocation(&self, rev: Rev) -> Option<EventRow> {
        self.events.iter().find(|row| row.rev == Some(rev)).cloned()
    }

    /// As [`Store::count_live`](crate::Store::count_live).
    pub fn count_live(&self, now: Time) -> LiveCount {
        let (mut sessions, mut accounts) = (0, BTreeSet::new());
        for session in self.live(now) {
            sessions += 1;
            accounts.insert(session.account);
        }
        LiveCount { sessions, accounts: accounts.len() as u64 }
    }

    /// Sessions that live by the rows alone.
    fn live(&self, now: Time) -> impl Iterator<Item = &Session> {
        let standing = self.standing();
        let live = move |session: &&Session| {
            let cut = self.accounts.get(&session.account).map(|account| account.cut).unwrap_or_default();
            session.ended.is_none()
                && !cut.kills(session.born, session.id)
                && !self.meta.all.kills(session.born, session.id)
                && mass::killed_by(&standing, session).is_none()
                && session.absolute_expires_at > now
        };
        self.sessions.rows().map(|(_, session)| session).filter(live)
    }

    /// How many ends of single sessions of an account stand in the log and are not forgotten.
    fn unforgotten_ends(&self, account: AccountId) -> u64 {
        let in_log = |s: &&Session| s.ended.as_ref().is_some_and(|ended| ended.rev > self.meta.forgotten);
        self.sessions_of(account).filter(in_log).count() as u64
    }

    fn next_rev(&self) -> Result<Rev, CommitError> {
        let at_the_end = || CommitError::Failed(StoreError::new("the log is at the end of numbers"));
        self.meta.head.next().ok_or_else(at_the_end)
    }

    fn append(&mut self, entry: Entry) {
        (self.meta.head, self.meta.chain) = (entry.rev, self.meta.chain.after(&entry));
        self.log.put(entry.rev, entry);
    }

    /// As [`Store::read_log`](crate::Store::read_log).
    pub fn read_log(&self, after: Rev, limit: u32, now: Time) -> LogRead {
        let newer = self.log.range((Excluded(after), Unbounded));
        let entries = newer.take(limit as usize).map(|(_, entry)| entry.clone()).collect();
        LogRead { stamp: self.stamp(now), entries, complete: self.meta.forgotten <= after }
    }

    /// As [`Store::read_live`](crate::Store::read_live).
    pub fn read_live(&self, now: Time) -> (Stamp, Vec<Entry>) {
        (self.stamp(now), self.log.rows().map(|(_, entry)| entry.clone()).collect())
    }

    /// As [`Store::load_remembered`](crate::Store::load_remembered).
    pub fn load_remembered(&self, actor: &str, key: &str) -> Option<Remembered> {
        self.remembered.get(&(actor.to_owned(), key.to_owned())).cloned()
    }

    /// As [`Store::count_attempts`](crate::Store::count_attempts).
    pub fn count_attempts(&self) -> AttemptCount {
        AttemptCount { buckets: self.buckets.len() as u64, networks: self.networks.len() as u64 }
    }

    /// As [`Store::load_risk`](crate::Store::load_risk).
    pub fn load_risk(&self, account: AccountId, buckets: &[BucketKey]) -> RiskView {
        let (memory, version) = self.memories.get(&account).cloned().unzip();
        let buckets = buckets.iter().map(|key| self.buckets.get(key).copied()).collect();
        RiskView { memory, version: version.unwrap_or(0), buckets }
    }

    /// Whether a session lives by the rows alone, its account's status aside.
    fn lives(&self, session: &Session, now: Time) -> bool {
        let cut = self.accounts.get(&session.account).map(|account| account.cut).unwrap_or_default();
        session.ended.is_none()
            && session.epoch == self.meta.epoch
            && !cut.kills(session.born, session.id)
            && !self.meta.all.kills(session.born, session.id)
            && session.absolute_expires_at > now
    }

    fn sessions_of(&self, account: AccountId) -> impl Iterator<Item = &Session> {
        let (first, last) = (SessionId::from_bits(0), SessionId::from_bits(u128::MAX));
        let ids = self.sessions_of.range((account, first)..=(account, last));
        ids.filter_map(|((_, id), ())| self.sessions.get(id))
    }

    /// The latest use of a refresh token of its own client under this session.
    fn refreshed_at(&self, session: SessionId) -> Option<Time> {
        let row = self.sessions.get(&session)?;
        let (first, last) = (GrantId::from_bits(0), GrantId::from_bits(u128::MAX));
        let ids = self.grants_of.range((session, first)..=(session, last));
        let grants = ids.filter_map(|((_, id), ())| self.grants.get(id)).filter(|grant| row.is_used_by(grant.client));
        grants.map(|grant| grant.family.handed_at.max(grant.family.made_at)).max()
    }

    /// Whether a session is alive by [`Expect::Alive`](portcullis_domain::Expect::Alive)'s rule, without a role.
    fn alive(&self, session: &Session, idle_ttl: Option<Millis>, now: Time) -> bool {
        mass::killed_by(&self.standing(), session).is_none() && self.alive_but_for_rules(session, idle_ttl, now)
    }

    /// The same, the rules of revocations by filter set aside.
    fn alive_but_for_rules(&self, session: &Session, idle_ttl: Option<Millis>, now: Time) -> bool {
        let Some(account) = self.accounts.get(&session.account) else { return false };
        let used_at = self.refreshed_at(session.id).unwrap_or(session.last_seen_at).max(session.last_seen_at);
        session.ended.is_none()
            && session.epoch == self.meta.epoch
            && !account.cut.kills(session.born, session.id)
            && !self.meta.all.kills(session.born, session.id)
            && account.usable_at(now)
            && session.absolute_expires_at > now
            && idle_ttl.is_none_or(|ttl| used_at.plus(ttl) > now)
    }
}

fn after<K: Ord + Copy, V>(table: &Table<K, V>, cursor: Option<K>) -> impl Iterator<Item = &V> {
    table.range((cursor.map_or(Unbounded, Excluded), Unbounded)).map(|(_, row)| row)
}

fn page<T>(mut rows: impl Iterator<Item = T>, limit: u32) -> Page<T> {
    let taken = rows.by_ref().take(limit as usize).collect();
    Page { rows: taken, more: rows.next().is_some() }
}
