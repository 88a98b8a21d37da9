//! The one sealer, which chains audit records after their commits; what the chain is checked by, and what it shows.
//!
//! It works on the one node that leads. Who leads may be in doubt for a while: two that both believe it make one chain all the
//! same, since a seal goes in only where the chain still ends where it was read. What has no
//! seal is read anew each time, whatever its number, so a record whose transaction came late is sealed late, and a node that dies
//! at any moment leaves a whole chain behind it. In memory is only where the chain was seen to end: a chain that does not go on from
//! there is not sealed on. That place is written to a file apart from the database, so that a node that was started anew knows it, too.
use crate::admin::Admin;
use crate::{Acted, App, AppError, high_water, real, rotation};
use portcullis_domain::audit::{self, Anew, AuditKey, ChainRow, Checked, Finding, Page, Place, Pruning, Unsealed};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::follow::Follower;
use portcullis_domain::{Chance, Decision, Refused, account};
use portcullis_store::{ChainRead, CommitError, FaultKind};
use portcullis_wire::{Epoch, EventId, LogId, Time};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two looks: with the time that a commit takes, much less than a second.
const EVERY: Duration = Duration::from_millis(200);
/// Between two full batches, so that a long backlog leaves room for others.
const BREATH: Duration = Duration::from_millis(5);
/// Between two looks whether the file lags.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// After a fault, and where another node leads.
const REST: Duration = Duration::from_secs(1);
/// Between two warnings about records that wait, in milliseconds.
const WARN_EVERY: i64 = 60_000;

/// What the sealer has seen.
#[derive(Debug, Default)]
pub(crate) struct Sealer {
    /// The furthest place that this process has read or written, and in which epoch: who founds the log anew may have an older
    /// database by right.
    seen: Mutex<Option<(Epoch, Place)>>,
    /// What of that is in the file.
    written: Mutex<Option<(Epoch, Place)>>,
    /// When it was last counted what waits.
    counted: AtomicI64,
    warned: AtomicI64,
    warned_of_misfit: AtomicI64,
}

impl Sealer {
    fn seen(&self, epoch: Epoch) -> Option<Place> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.filter(|(then, _)| *then == epoch).map(|(_, place)| place)
    }
    /// It is never lowered.
    fn saw(&self, epoch: Epoch, place: Place) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none_or(|(then, seen)| (then, seen.n) < (epoch, place.n)) {
            *seen = Some((epoch, place));
        }
    }
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    log: LogId,
    epoch: Epoch,
    head: String,
}

/// What one step of the sealer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// Nothing has no seal.
    Nothing,
    /// So many records have one now.
    Some(usize),
    /// Somebody else was at it.
    Overtaken,
}

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditState {
    /// After which place it begins; `None` before it was begun.
    pub start: Option<Place>,
    /// Where it ends.
    pub head: Option<Place>,
    /// What waits for its seal.
    pub unsealed: Unsealed,
    /// The database's time.
    pub now: Time,
}

/// A page of a check.
#[derive(Debug, Clone)]
pub struct CheckedPage {
    /// What it came to.
    pub checked: Checked,
    /// Where the chain ended when the page was read.
    pub head: Place,
    /// Whether it was the last one.
    pub last: bool,
}

impl App {
    /// Learns from the file where this node, before it was started anew, saw the chain end. To be called before anything is sealed.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub(crate) fn recall_trail(&self) -> Result<(), AppError> {
        let Some(path) = &self.settings().audit_head_file else { return Ok(()) };
        let fault = |what: String| AppError::Fault(what.into());
        let Some(kept) = high_water::read::<Kept>(path).map_err(fault)? else { return Ok(()) };
        let place: Place = kept.head.parse().map_err(|why| fault(format!("{}: head {why}", path.display())))?;
        if kept.log == self.inner.log {
            self.inner.sealer.saw(kept.epoch, place);
            *self.inner.sealer.written.lock().unwrap_or_else(PoisonError::into_inner) = Some((kept.epoch, place));
        }
        Ok(())
    }

    /// For ever.
    pub(crate) async fn keep_trail(self) {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            self.write_trail().await;
        }
    }

    /// Brings the file up to date. What cannot be written is tried again.
    pub(crate) async fn write_trail(&self) {
        let Some(path) = self.settings().audit_head_file.clone() else { return };
        let sealer = &self.inner.sealer;
        let seen = *sealer.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let written = *sealer.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((epoch, place)) = seen.filter(|_| seen != written) else { return };
        let kept = Kept { log: self.inner.log, epoch, head: place.to_string() };
        let at = path.clone();
        match high_water::off_thread(move || high_water::write(&at, &kept)).await {
            Ok(()) => *sealer.written.lock().unwrap_or_else(PoisonError::into_inner) = seen,
            Err(error) => {
                if let Some(times) = self.flood().note(FaultKind::of_io(&error), self.now()) {
                    let path = path.display();
                    tracing::warn!(%error, times, %path, "where the audit trail ends could not be written down");
                }
            }
        }
    }

    /// For ever.
    pub(crate) async fn seal_records(self) {
        loop {
            let pause = if !self.hub().leads() || self.hub().rolled_back().is_some() {
                REST
            } else {
                match self.seal_some().await {
                    Ok(Sealed::Some(count)) if count == audit::AT_ONCE as usize => BREATH,
                    Ok(_) => EVERY,
                    Err(error) => {
                        tracing::warn!(%error, "audit records could not be sealed; tried again");
                        REST
                    }
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Seals what there is, without pauses. For tests, and for tools that have the database to themselves.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn seal_all(&self) -> Result<(), AppError> {
        while self.seal_some().await? != Sealed::Nothing {}
        Ok(())
    }

    /// Seals the oldest records that have no seal.
    pub(crate) async fn seal_some(&self) -> Result<Sealed, AppError> {
        let rows = self.store().list_unsealed(audit::AT_ONCE).await?;
        if rows.is_empty() {
            return Ok(Sealed::Nothing);
        }
        let epoch = self.hub().at().0;
        let chain = match self.chain_followed().await? {
            Some(chain) => chain,
            None => self.begin_chain().await?,
        };
        let what = audit::seal(&self.audit_key(&chain)?, self.inner.log, chain.head, &rows, &mut real::RealChance);
        let to = what.to;
        match self.store().commit(Changes { steps: vec![Change::Seal(what)], ..Changes::default() }).await {
            Ok(_) => {
                self.inner.sealer.saw(epoch, to);
                self.inner.sealings.told(to.n);
                self.counts().events_sealed.fetch_add(rows.len() as u64, Ordering::Relaxed);
                Ok(Sealed::Some(rows.len()))
            }
            Err(CommitError::Conflict(_)) => Ok(Sealed::Overtaken),
            Err(error) => Err(error.into()),
        }
    }

    /// The chain's row, if the chain still has the place where this process saw it end; else nothing may be sealed or pruned: links
    /// under the key over what somebody else made of it would make it look whole.
    async fn chain_followed(&self) -> Result<Option<ChainRow>, AppError> {
        self.followed().await?.map_err(|finding| self.misfit(finding))
    }

    async fn followed(&self) -> Result<Result<Option<ChainRow>, Finding>, AppError> {
        // In this order: what is seen after the read may be further than it.
        let epoch = self.hub().at().0;
        let Some(seen) = self.inner.sealer.seen(epoch) else {
            let row = self.chain_row().await?;
            row.iter().for_each(|row| self.inner.sealer.saw(epoch, row.head));
            return Ok(Ok(row));
        };
        let Some(ChainRead { chain, rows }) = self.store().read_chain(Some(seen.n.saturating_sub(1)), 1).await? else {
            return Ok(Err(Finding::Truncated { head: 0, known: seen.n }));
        };
        if let Some(finding) = audit::follows(seen, &chain, rows.first()) {
            return Ok(Err(finding));
        }
        self.inner.sealer.saw(epoch, chain.head);
        Ok(Ok(Some(chain)))
    }

    /// Counted, and told once a minute.
    fn misfit(&self, finding: Finding) -> AppError {
        self.counts().audit_misfits.fetch_add(1, Ordering::Relaxed);
        if self.once_a_minute(&self.inner.sealer.warned_of_misfit) {
            tracing::error!(%finding, "the chain of audit records was tampered with, or its database replaced");
        }
        AppError::Fault(format!("the chain of audit records is not what it was: {finding}").into())
    }

    fn once_a_minute(&self, last: &AtomicI64) -> bool {
        let now = self.now().0;
        let due = now.saturating_sub(last.load(Ordering::Relaxed)) >= WARN_EVERY;
        if due {
            last.store(now, Ordering::Relaxed);
        }
        due
    }

    async fn chain_row(&self) -> Result<Option<ChainRow>, AppError> {
        Ok(self.store().read_chain(None, 0).await?.map(|read| read.chain))
    }

    /// Begins the chain, under a new key.
    async fn begin_chain(&self) -> Result<ChainRow, AppError> {
        // A key that is made under a master key which is just being replaced would never open again.
        let _turn = self.inner.rota.turn().await;
        let key = AuditKey::new(&mut real::RealChance);
        let start = key.genesis(self.inner.log);
        let sealed = self.inner.rota.master().seal_audit_key(&key, self.inner.log).map_err(rotation::fault)?;
        let row = ChainRow { key: sealed, start, head: start.place };
        match self.store().commit(Changes { steps: vec![Change::BeginChain(row.clone())], ..Changes::default() }).await
        {
            Ok(_) => Ok(row),
            Err(CommitError::Conflict(_)) => {
                let row = self.chain_row().await?;
                row.ok_or_else(|| AppError::Fault("a chain that has begun is not there".into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Another chain in the place of one that is broken, under a new key. What was sealed before is no part of it, and goes by its time.
    /// For who reaches the admin socket, with words that are on record; whoever follows the trail goes on with what comes now.
    ///
    /// # Errors
    /// Refused to others, without words, and where no chain was begun; faults.
    pub async fn admin_begin_trail_anew(&self, admin: &Admin, reason: &str) -> Result<Place, AppError> {
        if !admin.is_operator() {
            return Err(Refused::Forbidden.into());
        }
        let reason = account::check_text("reason", reason)?;
        // A key that is made under a master key which is just being replaced would never open again.
        let _turn = self.inner.rota.turn().await;
        let epoch = self.hub().at().0;
        let key = AuditKey::new(&mut real::RealChance);
        let sealed = self.inner.rota.master().seal_audit_key(&key, self.inner.log).map_err(rotation::fault)?;
        let by = admin.by(Some(&reason));
        let load = || async {
            let chain = self.chain_row().await.map_err(|error| self.fault(error))?;
            let followers = self.store().list_followers().await.map_err(|error| self.fault(error.into()))?;
            Ok((chain.ok_or(Refused::NotFound)?, followers))
        };
        let decide = |(chain, followers): &(ChainRow, Vec<Follower>), chance: &mut dyn Chance| {
            let seen = self.inner.sealer.seen(epoch).map_or(0, |place| place.n);
            let start = key.start_anew(self.inner.log, chain.head.n.max(seen));
            let row = ChainRow { key: sealed.clone(), start, head: start.place };
            let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AuditBegunAnew, &by.actor);
            let event = event.ip(by.ip).reason(format!("after {}: {reason}", chain.head.n));
            let steps = followers.iter().map(|one| Change::StepFollower(one.moved(start.place.n)));
            let steps = steps.chain([Change::BeginAnew(Anew { from: chain.head, row })]).collect();
            Decision { outcome: Ok(start.place), changes: Changes { steps, events: vec![event], ..Changes::default() } }
        };
        match self.act("", None, load, decide).await? {
            Acted::Done(start, _) | Acted::Answered(start) => {
                self.inner.sealer.saw(epoch, start);
                self.write_trail().await;
                Ok(start)
            }
            Acted::Before(_) => Err(AppError::Fault("a beginning has no repeat key".into())),
        }
    }

    fn audit_key(&self, chain: &ChainRow) -> Result<AuditKey, AppError> {
        self.inner.rota.open_audit_key(chain, self.inner.log).map_err(rotation::fault)
    }

    /// What may go of the chain's beginning, of the first `most` records.
    pub(crate) async fn chain_to_prune(&self, before: Time, most: u32) -> Result<Option<Pruning>, AppError> {
        self.chain_followed().await?;
        let read = self.store().read_chain(None, most.saturating_add(1)).await?;
        let Some(ChainRead { chain, rows }) = read else { return Ok(None) };
        let what = audit::prune(&self.audit_key(&chain)?, self.inner.log, &chain, &rows, most as usize, before);
        what.map_err(|finding| self.misfit(finding))
    }

    /// Looks whether the chain goes on from where this node saw it, and counts what waits for its seal, and warns when it has waited
    /// for long: on every node, for the one that leads may be the one that is stuck.
    pub(crate) async fn watch_unsealed(&self) {
        if self.hub().rolled_back().is_none()
            && let Err(error) = self.chain_followed().await
        {
            tracing::debug!(%error, "where the chain ends");
        }
        let counted = self.store().count_unsealed().await;
        let (now, counts, sealer) = (self.now(), self.counts(), &self.inner.sealer);
        let why = match counted {
            Ok(unsealed) => {
                sealer.counted.store(now.0, Ordering::Relaxed);
                counts.events_unsealed.store(unsealed.count, Ordering::Relaxed);
                counts.events_unsealed_age_ms.store(u64::try_from(unsealed.age(now)).unwrap_or(0), Ordering::Relaxed);
                unsealed.alarm(now)
            }
            // Nobody knows what waits: for as long as that, it may have waited.
            Err(error) => {
                let since = match sealer.counted.compare_exchange(0, now.0, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => now.0,
                    Err(last) => last,
                };
                let age = u64::try_from(now.0.saturating_sub(since)).unwrap_or(0);
                counts.events_unsealed_age_ms.fetch_max(age, Ordering::Relaxed);
                Some(format!("audit records that wait to be sealed cannot be counted: {error}"))
            }
        };
        if let Some(why) = why
            && self.once_a_minute(&sealer.warned)
        {
            tracing::warn!("{why}");
        }
    }

    /// Where the chain of audit records stands.
    pub async fn admin_audit(&self, admin: &Admin) -> Result<AuditState, AppError> {
        // In this order: where nothing waits any more, the end is that of all.
        let unsealed = self.store().count_unsealed().await.map_err(|error| self.fault(error.into()))?;
        let chain = self.chain_row().await.map_err(|error| self.fault(error))?;
        self.still_admin(admin).await?;
        let (start, head) = (chain.as_ref().map(|row| row.start.place), chain.map(|row| row.head));
        Ok(AuditState { start, head, unsealed, now: self.now() })
    }

    /// Checks a page of the chain: after `from`, or from its beginning; and whether it has the place that is known from elsewhere.
    /// `None` before the chain was begun.
    pub async fn admin_check_audit(
        &self,
        admin: &Admin,
        from: Option<Place>,
        known: Option<Place>,
    ) -> Result<Option<CheckedPage>, AppError> {
        let most = audit::PAGE + u32::from(from.is_some());
        let read = self.store().read_chain(audit::reading(from), most);
        let read = read.await.map_err(|error| self.fault(error.into()))?;
        self.still_admin(admin).await?;
        let Some(ChainRead { chain, rows }) = read else { return Ok(None) };
        let key = self.audit_key(&chain).map_err(|error| self.fault(error))?;
        let last = audit::is_last(&chain, &rows, most as usize);
        let page = Page { log: self.inner.log, chain: &chain, from, known, rows: &rows, last };
        let mut checked = audit::check(&key, &page);
        // What this process has seen is one more known place.
        if from.is_none()
            && let Err(finding) = self.followed().await.map_err(|error| self.fault(error))?
            && !checked.findings.contains(&finding)
        {
            checked.findings.push(finding);
        }
        Ok(Some(CheckedPage { checked, head: chain.head, last }))
    }
}
