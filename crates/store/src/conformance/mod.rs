//! The suite that every backend runs: what a [`Store`] promises, as cases that a wrong one fails.
//!
//! A backend's tests implement [`Backend`] and run every case of [`suite`], then [`histories::compare`] against the memory store.
//! A case panics when the backend is wrong; that is its verdict, and the only reason why this module may. Nothing here
//! depends on an async runtime: cases are plain functions that wait on the calling thread, and those about concurrency make
//! threads of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a suite of tests: a panic is its verdict")]

mod accounts;
mod apps;
mod atomicity;
mod attempts;
mod audit;
mod expectations;
mod follow;
pub mod histories;
mod lists;
mod log;
mod looks;
mod mass;
mod outbox;
mod parallel;
mod prune;
mod refound;
mod rest;
mod revocation;
mod risk;
mod sessions;
mod show;
mod upstream;

pub use show::show;

use show::looks_agree;

use crate::memory::Clock;
use crate::{CommitError, Fut, Store};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Committed, Conflict, Expect, Revoke};
use portcullis_domain::client::Profile;
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Client, ClientKind, Grant, Session, SessionKind, Status};
use portcullis_domain::{Actor, Cut};
use portcullis_wire::{
    AccountId, ClientId, Digest, Epoch, EventId, GrantId, KeyId, LogId, Millis, Rev, SessionId, Target, Time, Verb,
};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// What is kept while a thread works.
pub trait Guard {}
impl<T> Guard for T {}

/// Makes databases of one kind.
pub trait Backend: Sync {
    /// An empty database with this log and clock.
    fn make(&self, log: LogId, clock: Clock) -> Arc<dyn Store>;
    /// Closes a database and opens it again; `None` when this kind keeps nothing.
    fn reopen(&self, _store: Arc<dyn Store>, _clock: Clock) -> Option<Arc<dyn Store>> {
        None
    }
    /// Called in every thread that the suite makes; what it returns lives as long as the thread works (for a runtime's guard).
    fn enter(&self) -> Option<Box<dyn Guard + '_>> {
        None
    }
}

/// One promise.
#[derive(Clone, Copy)]
pub struct Case {
    /// In words.
    pub name: &'static str,
    /// Panics when it is broken.
    pub run: fn(&dyn Backend),
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident: $($name:ident)*;)*) => {
        /// All promises.
        pub fn suite() -> Vec<Case> {
            vec![$($(Case { name: stringify!($name), run: $module::$name },)*)*]
        }
    };
}

cases! {
    accounts:
        a_new_database_is_empty_but_for_the_first_party
        whether_somebody_has_signed_in_is_kept
        an_account_comes_back_as_it_was
        every_change_of_an_account_raises_its_version
        a_deleted_account_keeps_nothing_and_frees_its_address
        one_account_per_address
        an_account_that_is_not_there_is_missing;
    sessions:
        a_session_comes_back_as_it_was
        what_is_above_a_session_or_grant_must_exist
        last_seen_only_grows
        the_list_of_an_accounts_sessions
        a_family_moves_only_from_where_it_was_seen
        a_hand_out_counts_and_never_goes_back
        extreme_values_are_kept_or_refused;
    expectations:
        who_acts_is_alive
        a_block_that_has_passed_is_none
        idle_counts_from_the_latest_use
        who_is_no_session_dies_by_the_whole
        nothing_is_born_dead
        versions_and_families_as_seen
        the_first_failed_expectation_is_told;
    revocation:
        an_end_marks_its_row
        an_end_of_an_account_counts_exactly
        an_end_counts_only_what_lived
        many_ends_of_one_account_become_one_stale
        a_cut_spares_one
        several_ends_in_one_commit
        what_has_no_row_is_only_logged
        an_account_fills_no_log_with_grants_and_tokens
        what_is_not_there_cannot_be_ended
        every_entry_carries_the_horizon_and_links_the_chain;
    log:
        horizon_and_floor_never_fall
        forgetting_is_a_prefix_and_is_told
        the_log_is_read_in_pieces
        records_outlive_entries;
    lists:
        accounts_page_by_page
        addresses_by_prefix
        clients_page_by_page
        records_newest_first;
    rest:
        clients_come_back_as_they_were
        instances_come_and_go
        nodes_have_rows_where_they_share
        keys_come_back_as_they_were
        keys_are_sealed_anew_by_one_at_a_time
        a_key_dies_once
        the_bound_is_kept
        the_run_is_kept_where_one_node_writes
        a_repeated_call_is_remembered;
    atomicity:
        a_refused_commit_leaves_nothing_behind
        nothing_is_a_commit_too
        all_is_there_after_opening_again;
    refound:
        a_new_epoch_voids_what_was_before;
    mass:
        a_rule_kills_from_its_commit_on_and_a_job_marks
        nothing_in_flight_slips_past_a_rule
        rules_are_bounded
        a_session_is_its_own_clients;
    attempts:
        attempts_are_taken_from_the_budget
        a_known_device_or_network_has_its_own
        an_attempt_is_taken_with_the_rest_or_not_at_all
        networks_are_bounded
        buckets_are_bounded
        budgets_are_there_after_opening_again;
    prune:
        a_session_goes_when_the_log_has_forgotten_it
        sessions_are_looked_at_in_pieces
        addresses_are_forgotten
        old_records_go_oldest_first
        accounts_become_due
        live_sessions_are_counted_under_the_lock
        sessions_are_counted_by_kind
        grants_that_ended_go_under_a_session_that_goes_on
        clients_that_nobody_used_go
        a_session_idles_by_its_own_clients_use
        tickets_of_a_session_are_crowded_out_oldest_first
        a_cookie_is_replaced_once;
    outbox:
        an_end_leaves_a_notice
        a_job_leaves_notices
        who_is_told_is_read_in_pages
        a_cut_tells_of_what_it_killed
        who_was_allowed_in_a_session_is_read_with_it
        a_message_is_claimed_once
        what_is_on_its_way_outlives_a_process
        messages_are_due_listed_counted_and_pruned;
    upstream:
        somebody_elsewhere_is_one_account
        a_link_is_used_until_it_goes
        sessions_are_found_by_where_they_came_from
        of_a_deleted_account_no_link_stays;
    apps:
        a_client_is_changed_from_where_it_was_seen
        a_consent_is_given_and_withdrawn
        other_grants_of_a_client_are_told
        what_an_account_has_granted_is_listed
        a_ticket_comes_back_as_it_was
        a_ticket_is_used_once
        old_tickets_go_oldest_first
        of_a_deleted_account_no_consent_or_ticket_stays
        who_proves_again_is_known_to_have
        what_is_unproven_proves_nothing
        what_is_under_a_spared_session_is_spared
        a_refused_redemption_leaves_the_ticket;
    risk:
        what_is_remembered_is_written_from_where_it_was_seen
        of_a_tombstone_nothing_is_remembered
        a_grant_remembers_its_network
        a_bucket_is_drawn_from_until_it_is_empty;
    audit:
        records_are_chained
        what_is_erased_leaves_its_commitment
        records_of_tombstones_are_erased_in_steps
        the_beginning_goes
        a_chain_is_begun_anew
        a_chain_without_a_row_begins_anew
        what_is_attested_of_a_chain_is_kept
        many_sealers_make_one_chain;
    follow:
        a_cursor_moves_with_what_it_passes
        many_who_follow_tell_once
        webhooks_are_counted_with_the_new_one
        a_webhook_comes_back_as_it_was;
    looks:
        what_changes_shows_to_whoever_looks
        who_knows_of_an_end_sees_no_life
        what_is_gone_is_not_looked_at;
    parallel:
        one_budget_for_many_at_once
        one_of_many_redeems_a_ticket
        one_of_many_shows_a_proof
        a_withdrawal_and_a_grant_never_both
        one_of_many_moves_a_family
        one_of_many_takes_an_address
        one_of_many_keeps_a_repeated_call
        revs_have_no_gap_and_no_twin
        no_head_without_its_facts;
}

/// When the databases of the suite begin.
pub(crate) const START: Time = Time(1_700_000_000_000);
pub(crate) const LOG: LogId = LogId::from_bits(77);
pub(crate) const HORIZON: Time = START.plus(400_000);

/// A database with a clock that stands until it is moved.
pub(crate) struct World<'b> {
    pub(crate) backend: &'b dyn Backend,
    pub(crate) store: Arc<dyn Store>,
    clock: Arc<AtomicI64>,
    next: AtomicU64,
    /// What came: whoever looks is asked about it after each commit.
    came: Mutex<(Vec<GrantId>, Vec<ClientId>)>,
}

impl<'b> World<'b> {
    pub(crate) fn new(backend: &'b dyn Backend) -> Self {
        let clock = Arc::new(AtomicI64::new(START.0));
        let store = backend.make(LOG, clock_of(&clock));
        Self { backend, store, clock, next: AtomicU64::new(1), came: Mutex::default() }
    }
    /// With an account, a session and a grant, and the horizon raised.
    pub(crate) fn peopled(backend: &'b dyn Backend) -> (Self, Account, Session, Grant) {
        let world = Self::new(backend);
        world.ok([Change::RaiseHorizon(HORIZON)]);
        let account = world.new_account("ada@example.org");
        let (session, grant) = world.new_session(&account);
        (world, account, session, grant)
    }
    pub(crate) fn reopen(self) -> Option<Self> {
        let Self { backend, store, clock, next, came } = self;
        let store = backend.reopen(store, clock_of(&clock))?;
        Some(Self { backend, store, clock, next, came })
    }
    pub(crate) fn now(&self) -> Time {
        Time(self.clock.load(SeqCst))
    }
    pub(crate) fn set(&self, to: Time) {
        self.clock.store(to.0, SeqCst);
    }
    pub(crate) fn bits(&self) -> u128 {
        u128::from(self.next.fetch_add(1, SeqCst)) << 64 | 0xabcd
    }

    pub(crate) fn commit(&self, changes: Changes) -> Result<Committed, CommitError> {
        // Where several processes write, nothing is kept of what was looked at.
        let looks = !self.store.is_shared();
        if looks {
            self.note(&changes);
        }
        let result = wait(self.store.commit(changes));
        if looks {
            let (grants, clients) = self.came.lock().unwrap().clone();
            looks_agree(&*self.store, last(&grants), last(&clients));
        }
        result
    }
    /// Whoever looks is asked about these from now on.
    fn note(&self, changes: &Changes) {
        let mut came = self.came.lock().unwrap();
        for step in &changes.steps {
            match step {
                Change::InsertGrant(row) => came.0.push(row.id),
                Change::InsertClient(row) => came.1.push(row.id),
                _ => {}
            }
        }
    }
    /// Commits these steps, which must work.
    pub(crate) fn ok<const N: usize>(&self, steps: [Change; N]) -> Committed {
        self.commit(Changes { steps: steps.into(), ..Changes::default() }).unwrap()
    }
    /// Commits these steps, which must be a conflict.
    pub(crate) fn conflict<const N: usize>(&self, steps: [Change; N]) -> Conflict {
        conflict(self.commit(Changes { steps: steps.into(), ..Changes::default() }))
    }
    /// Whether an expectation holds.
    pub(crate) fn expects(&self, expect: Expect, idle_ttl: Option<Millis>) -> Result<(), Conflict> {
        match self.commit(Changes { expects: vec![expect], idle_ttl, ..Changes::default() }) {
            Ok(_) => Ok(()),
            other => Err(conflict(other)),
        }
    }
    pub(crate) fn alive(&self, session: SessionId) -> bool {
        self.expects(Expect::Alive { session, role: None }, None).is_ok()
    }

    pub(crate) fn new_account(&self, email: &str) -> Account {
        let account = account(AccountId::from_bits(self.bits()), email);
        self.ok([Change::InsertAccount(account.clone())]);
        account
    }
    pub(crate) fn new_session(&self, account: &Account) -> (Session, Grant) {
        let born = wait(self.store.stamp()).unwrap().head;
        let session = session(SessionId::from_bits(self.bits()), account.id, self.now(), born);
        let grant = grant(GrantId::from_bits(self.bits()), session.id, self.now(), born);
        self.ok([Change::InsertSession(session.clone()), Change::InsertGrant(grant.clone())]);
        (session, grant)
    }
    /// A grant of a new client under this session.
    pub(crate) fn new_grant(&self, session: SessionId) -> GrantId {
        let client = self.new_client(ClientKind::Public).id;
        self.new_grant_of(session, client)
    }
    pub(crate) fn new_grant_of(&self, session: SessionId, client: ClientId) -> GrantId {
        let born = wait(self.store.stamp()).unwrap().head;
        let grant = Grant { client, ..grant(GrantId::from_bits(self.bits()), session, START, born) };
        self.ok([Change::InsertGrant(grant.clone())]);
        grant.id
    }
    pub(crate) fn new_client(&self, kind: ClientKind) -> Client {
        let row = client(ClientId::from_bits(self.bits()));
        let client = Client { kind, secret: Some(Digest::of(b"secret")), created_at: self.now(), ..row };
        self.ok([Change::InsertClient(client.clone())]);
        client
    }
    pub(crate) fn end(&self, target: Target) -> Committed {
        self.ok([end(target, None)])
    }
    pub(crate) fn event(&self, kind: EventKind) -> NewEvent {
        NewEvent::new(EventId::from_bits(self.bits()), kind, &Actor::System)
    }

    pub(crate) fn account(&self, id: AccountId) -> Account {
        wait(self.store.load_account(id)).unwrap().unwrap().account
    }
    pub(crate) fn session(&self, id: SessionId) -> Session {
        wait(self.store.load_session(id)).unwrap().unwrap().session
    }
    pub(crate) fn grant(&self, id: GrantId) -> Grant {
        wait(self.store.load_refresh(id)).unwrap().unwrap().grant
    }
}

/// The last few.
fn last<T>(all: &[T]) -> &[T] {
    &all[all.len().saturating_sub(40)..]
}

pub(crate) fn clock_of(clock: &Arc<AtomicI64>) -> Clock {
    let clock = clock.clone();
    Arc::new(move || Time(clock.load(SeqCst)))
}

/// A client of this id, without a secret and with nothing else that is special.
pub fn client(id: ClientId) -> Client {
    Client {
        id,
        name: "a service".into(),
        kind: ClientKind::Confidential,
        secret: None,
        old_secret: None,
        profile: Profile::default(),
        version: 1,
        disabled: false,
        created_at: START,
        cut: Cut::default(),
    }
}

pub(crate) fn account(id: AccountId, email: &str) -> Account {
    Account {
        id,
        email: Some(email.into()),
        name: Some("Ada".into()),
        password_hash: Some("$argon2id$".into()),
        password_version: 1,
        email_verified_at: None,
        roles: vec!["admin".into(), "ops".into()],
        status: Status::Active,
        created_at: START,
        cut: Cut::default(),
        version: 1,
    }
}

pub(crate) fn session(id: SessionId, account: AccountId, now: Time, born: Rev) -> Session {
    Session {
        id,
        account,
        kind: SessionKind::App,
        client: None,
        device_name: "Firefox on Linux".into(),
        agent: "Firefox/Linux".into(),
        ip: None,
        created_at: now,
        auth_time: now,
        amr: Amr::default(),
        last_seen_at: now,
        absolute_expires_at: now.plus(1_000_000),
        born,
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    }
}

pub(crate) fn grant(id: GrantId, session: SessionId, now: Time, born: Rev) -> Grant {
    Grant {
        id,
        session,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        born,
        proof: None,
        network: None,
        family: Family::new([7; 32], KeyId(1), Epoch(1), now),
        ended: None,
    }
}

pub(crate) fn end(target: Target, except: Option<SessionId>) -> Change {
    revoke(Verb::End, target, except)
}

pub(crate) fn revoke(verb: Verb, target: Target, except: Option<SessionId>) -> Change {
    Change::Revoke(Revoke { verb, target, except, spread_ms: None, owner: None, reason: "a door".into() })
}

pub(crate) fn conflict(result: Result<Committed, CommitError>) -> Conflict {
    match result {
        Err(CommitError::Conflict(conflict)) => conflict,
        other => panic!("not a conflict: {other:?}"),
    }
}

/// Waits on this thread.
pub fn wait<T>(mut future: Fut<'_, T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(out) => return out,
            Poll::Pending => thread::park(),
        }
    }
}
