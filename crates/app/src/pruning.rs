//! The chore that keeps tables small: what has ended goes once nothing can ask for it any more, tickets, addresses and audit
//! records go when their time has passed, blocks lift themselves, and accounts whose grace period has passed become tombstones.
//!
//! Everything goes in small commits on a task of its own, which share the writer's transactions with everybody else's; between
//! two of them the chore sleeps. What may go is decided in `domain::retention`, under the store's lock.
use crate::admin::told;
use crate::outbox::Spread;
use crate::{App, AppError};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::mail::Template;
use portcullis_domain::model::{Client, Status};
use portcullis_domain::retention::{self, Retention};
use portcullis_domain::view::AccountView;
use portcullis_domain::{account, outbox};
use portcullis_wire::{AccountId, ClientId, SessionId};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many sessions one step looks at: a read of some milliseconds.
const LOOK_AT: u32 = 1000;
/// How many rows one commit deletes at most: some milliseconds of the writer.
const AT_ONCE: usize = 100;
/// How many such commits of tickets are in one step: they come as often as tokens are asked for, and live for minutes.
const OF_TICKETS: usize = 20;
/// How long the chore sleeps between two steps, and after it has seen everything once.
const BETWEEN_STEPS: Duration = Duration::from_millis(200);
const BETWEEN_ROUNDS: Duration = Duration::from_secs(20);
/// After how many steps the rest is looked at, when there are so many sessions that a round takes long.
const REST_EVERY: u32 = 100;
/// How many clients are looked at in one step: few of them are to go.
const CLIENTS_AT_ONCE: u32 = 100;
/// How many accounts are looked after in one step.
const DUE_AT_ONCE: u32 = 100;
/// As many that could not be seen to are passed over in a round; the next one looks at them again.
const MAX_FAILED: usize = 10_000;

/// Where a round is.
#[derive(Debug, Default)]
struct Round {
    /// After which client the next ones are looked at.
    clients: Option<ClientId>,
    /// After which account the next ones are looked at.
    accounts: Option<AccountId>,
    /// Accounts that are due and could not be seen to.
    failed: BTreeSet<AccountId>,
}

/// What one step came to.
#[derive(Debug)]
struct Step {
    /// Where the next one looks on; `None`: all sessions were seen.
    next: Option<SessionId>,
    /// What came of the rest.
    rest: Rest,
}

/// What came of the parts of the rest: none stops another.
#[derive(Debug, Default)]
struct Rest {
    /// Whether there is more to do.
    more: bool,
    /// The first that failed.
    failed: Option<AppError>,
}

impl Rest {
    fn part(&mut self, came: Result<bool, AppError>) {
        match came {
            Ok(more) => self.more |= more,
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }
}

impl App {
    /// For ever.
    pub(crate) async fn prune(self) {
        let (mut cursor, mut more_of_the_rest, mut steps) = (None, false, 0_u32);
        let mut round = Round::default();
        loop {
            steps = steps.wrapping_add(1);
            if !self.hub().leads() {
                cursor = None;
                tokio::time::sleep(BETWEEN_ROUNDS).await;
                continue;
            }
            let rest = more_of_the_rest || steps.is_multiple_of(REST_EVERY);
            let pause = match self.prune_step(cursor, rest, &mut round).await {
                Ok(Step { next, rest: Rest { more, failed } }) => {
                    (cursor, more_of_the_rest) = (next, more);
                    if let Some(error) = failed {
                        tracing::warn!(%error, "some of what is old could not be deleted; it is tried again");
                    }
                    if next.is_some() || more { BETWEEN_STEPS } else { BETWEEN_ROUNDS }
                }
                Err(error) => {
                    tracing::warn!(%error, "what is old could not be deleted; it is tried again");
                    BETWEEN_ROUNDS
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Deletes everything that may go now, without pauses. For tests and for tools that have the database to themselves.
    ///
    /// # Errors
    /// Faults of the database; what was deleted until then stays deleted.
    pub async fn prune_all(&self) -> Result<(), AppError> {
        while self.spread_some().await? == Spread::Worked {}
        self.seal_all().await?;
        let (mut cursor, mut round) = (None, Round::default());
        loop {
            let Step { next, rest } = self.prune_step(cursor, false, &mut round).await?;
            cursor = next;
            if let Some(error) = rest.failed {
                return Err(error);
            }
            if next.is_none() && !rest.more && round.clients.is_none() && round.accounts.is_none() {
                return Ok(());
            }
        }
    }

    /// Looks at some sessions; and, when they are the last ones or `rest` says so, at everything else, and on in the round.
    async fn prune_step(&self, cursor: Option<SessionId>, rest: bool, round: &mut Round) -> Result<Step, AppError> {
        let keep = self.settings().retention();
        let found = self.store().list_prunable(keep, cursor, LOOK_AT).await?;
        let behind = retention::must_wait(self.store().list_notices(1).await?.first(), self.now());
        let counts = self.counts();
        for part in found.sessions.chunks(AT_ONCE).filter(|_| !behind) {
            let gone = self.delete(Change::PruneSessions { sessions: part.to_vec(), keep }).await?;
            counts.sessions_pruned.fetch_add(gone, Ordering::Relaxed);
        }
        for part in found.addresses.chunks(AT_ONCE) {
            let gone = self.delete(Change::ForgetSessionAddresses { sessions: part.to_vec(), keep }).await?;
            counts.addresses_forgotten.fetch_add(gone, Ordering::Relaxed);
        }
        // The rest has indexes of its own.
        let mut out = Rest::default();
        if rest || found.next.is_none() {
            out.part(self.prune_events(&keep).await);
            out.part(self.forget_event_addresses(&keep).await);
            out.part(self.prune_tickets().await);
            if !behind {
                out.part(self.prune_grants().await);
            }
            out.part(self.prune_messages().await);
            out.part(self.erase_records().await);
            out.part(self.see_to_due_accounts(&mut round.failed).await);
            out.part(self.prune_clients(&mut round.clients).await);
            out.part(self.prune_unverified(&mut round.accounts).await);
        }
        Ok(Step { next: found.next, rest: out })
    }

    /// Whether there may be more.
    async fn prune_events(&self, keep: &Retention) -> Result<bool, AppError> {
        let Some(events) = keep.events else { return Ok(false) };
        let old = self.chain_to_prune(self.now().minus(events), AT_ONCE as u32).await?;
        let Some(pruning) = old else { return Ok(false) };
        let gone = self.delete(Change::PruneChain(pruning)).await?;
        self.counts().events_pruned.fetch_add(gone, Ordering::Relaxed);
        // After what an earlier chain has left comes this one.
        Ok(gone == AT_ONCE as u64 || pruning.up_to < pruning.to.place.n)
    }

    /// Whether there may be more.
    async fn forget_event_addresses(&self, keep: &Retention) -> Result<bool, AppError> {
        let (before, most) = (self.now().minus(keep.addresses), AT_ONCE as u64);
        let gone = self.delete(Change::ForgetEventAddresses { before, most }).await?;
        self.counts().addresses_forgotten.fetch_add(gone, Ordering::Relaxed);
        Ok(gone == most)
    }

    /// Whether there may be more.
    async fn prune_messages(&self) -> Result<bool, AppError> {
        let (now, most) = (self.now(), AT_ONCE as u64);
        let (done, dead) = (now.minus(outbox::KEEP_DONE), now.minus(outbox::KEEP_DEAD));
        let gone = self.delete(Change::PruneMessages { done, dead, most }).await?;
        let waiting = self.store().count_messages().await?.waiting;
        self.counts().messages_waiting.store(waiting, Ordering::Relaxed);
        Ok(gone == most)
    }

    /// Whether there may be more.
    async fn prune_tickets(&self) -> Result<bool, AppError> {
        let (before, most) = (self.now().minus(retention::TICKETS), AT_ONCE as u64);
        for _ in 0..OF_TICKETS {
            let gone = self.delete(Change::PruneTickets { before, most }).await?;
            self.counts().tickets_pruned.fetch_add(gone, Ordering::Relaxed);
            if gone < most {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Those that have ended under sessions that go on. Whether there may be more.
    async fn prune_grants(&self) -> Result<bool, AppError> {
        let most = AT_ONCE as u64;
        let gone = self.delete(Change::PruneGrants { most }).await?;
        self.counts().grants_pruned.fetch_add(gone, Ordering::Relaxed);
        Ok(gone == most)
    }

    /// Those that registered themselves and that nobody used, some at a time: the next ones are looked at in the next round.
    async fn prune_clients(&self, after: &mut Option<ClientId>) -> Result<bool, AppError> {
        let Some(unused) = self.settings().policy.registration_retention else { return Ok(false) };
        let page = self.store().list_clients(*after, CLIENTS_AT_ONCE).await?;
        *after = page.rows.last().filter(|_| page.more).map(|client| client.id);
        // What else it takes is asked under the lock.
        let may_go = |client: &&Client| retention::client_may_go(client, false, self.now(), unused);
        let clients: Vec<ClientId> = page.rows.iter().filter(may_go).map(|client| client.id).collect();
        if !clients.is_empty() {
            let gone = self.delete(Change::PruneClients { clients: clients.clone(), unused }).await?;
            clients.into_iter().for_each(|id| self.hub().forget_client(id));
            self.counts().clients_pruned.fetch_add(gone, Ordering::Relaxed);
        }
        Ok(false)
    }

    /// Those about tombstones. Whether there may be more.
    async fn erase_records(&self) -> Result<bool, AppError> {
        Ok(self.delete(Change::EraseRecords { most: AT_ONCE as u64 }).await? > 0)
    }

    /// One that cannot be seen to stops no other, however many there are of them, and is looked at again in the next round. Whether there
    /// may be more.
    async fn see_to_due_accounts(&self, failed: &mut BTreeSet<AccountId>) -> Result<bool, AppError> {
        let most = DUE_AT_ONCE.saturating_add(u32::try_from(failed.len()).unwrap_or(u32::MAX));
        let due = self.store().list_due_accounts(most).await?;
        let due: Vec<AccountId> = due.into_iter().filter(|id| !failed.contains(id)).collect();
        let more = due.len() == DUE_AT_ONCE as usize;
        let mut seen_to = false;
        for id in &due {
            let load = || async {
                self.store().load_account(*id).await?.ok_or(AppError::from(portcullis_domain::Refused::NotFound))
            };
            // Of a block that is over its owner is told; a deletion was told when it began.
            let over = |view: &AccountView| matches!(view.account.status, Status::Blocked(_));
            let notice = match load().await {
                Ok(view) if over(&view) => self.may_mail(Template::AccountUnblocked, *id).await?,
                _ => None,
            };
            let due = |view: &AccountView, chance: &mut dyn portcullis_domain::Chance| {
                let notice = notice.as_ref().filter(|_| over(view));
                told(account::due(view, chance), Template::AccountUnblocked, view, notice, chance)
            };
            match self.act("", None, load, due).await {
                Ok(_) => {
                    self.mail_waits();
                    seen_to = true;
                    self.counts().accounts_due.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(%error, account = %id, "an account is due and could not be seen to; tried again");
                    failed.insert(*id);
                }
            }
        }
        if !more || failed.len() >= MAX_FAILED {
            failed.clear();
        }
        // A tombstone leaves records to be erased.
        Ok(seen_to || more)
    }

    /// One small commit; how many rows it deleted.
    async fn delete(&self, what: Change) -> Result<u64, AppError> {
        Ok(self.store().commit(Changes { steps: vec![what], ..Changes::default() }).await?.pruned)
    }
}
