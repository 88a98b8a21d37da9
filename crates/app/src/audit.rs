//! The one sealer, which chains audit records after their commits; what the chain is checked by, and what it shows.
//!
//! It works on the one node that leads. Who leads may be in doubt for a while: two that both believe it make one chain all the
//! same, since a seal goes in only where the chain still ends where it was read. What has no
//! seal is read anew each time, whatever its number, so a record whose transaction came late is sealed late, and a node that dies
//! at any moment leaves a whole chain behind it. In memory is only where the chain was seen to end: a chain that does not go on from
//! there is not sealed on. That place is written to a file apart from the database, so that a node that was started anew knows it, too.
//! What it takes to let go of it is a rule (`domain::audit::seen`): something that only a server with the key can have written.
use crate::admin::Admin;
use crate::keys::MasterKey;
use crate::{Acted, App, AppError, high_water, real, rotation};
use portcullis_domain::audit::{
    self, Anew, Attested, AuditKey, ChainRow, Checked, Finding, Page, Place, Pruning, Seen, Unsealed, seen,
};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::ledger::Commits;
use portcullis_domain::view::Stamp;
use portcullis_domain::{Chance, Decision, Refused, account};
use portcullis_store::{ChainRead, CommitError, FaultKind, Store};
use portcullis_wire::{Epoch, EventId, LogId, SecretBytes, Time};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// The furthest place that this process has seen proven.
    seen: Mutex<Option<Seen>>,
    /// What of that is in the file.
    written: Mutex<Option<Seen>>,
    /// What was counted of the database's commits when the chain was last what it should be.
    counted_then: Mutex<Option<Commits>>,
    /// When it was last counted what waits.
    counted: AtomicI64,
    warned: AtomicI64,
    warned_of_misfit: AtomicI64,
}

impl Sealer {
    fn seen(&self) -> Option<Seen> {
        *locked(&self.seen)
    }
    /// It is never lowered.
    fn saw(&self, now: Seen) {
        let mut seen = locked(&self.seen);
        if seen.is_none_or(|seen| now.is_beyond(&seen)) {
            *seen = Some(now);
        }
    }
    /// The chain goes on up to there, by this process's own doing.
    fn went_on(&self, place: Place) {
        self.saw(Seen { number: self.seen().map_or(0, |seen| seen.number), place });
    }
}

/// What is behind these locks is whole after every statement, so a panic of another holder changes nothing.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    log: LogId,
    /// For the release before, which goes by it.
    epoch: Epoch,
    head: String,
    /// That of [`Seen`]; the release before wrote none.
    #[serde(default)]
    number: u64,
}

impl Kept {
    fn seen(&self, path: &Path) -> Result<Seen, String> {
        let place = self.head.parse().map_err(|why| format!("{}: head {why}", path.display()))?;
        Ok(Seen { number: self.number, place })
    }
}

/// Writes down what was seen, unless the file has what is further: another process may write it, too.
fn keep(path: &Path, log: LogId, epoch: Epoch, seen: Seen) -> std::io::Result<()> {
    let there = high_water::read::<Kept>(path).ok().flatten().filter(|kept| kept.log == log);
    if there.and_then(|kept| kept.seen(path).ok()).is_some_and(|there| there.is_beyond(&seen)) {
        return Ok(());
    }
    high_water::write(path, &Kept { log, epoch, head: seen.place.to_string(), number: seen.number })
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

/// Only for who reaches the admin socket: a token that was stolen must not be able to hide what was done with it.
fn operator_says(admin: &Admin, reason: &str) -> Result<String, AppError> {
    if !admin.is_operator() {
        return Err(Refused::Forbidden.into());
    }
    Ok(account::check_text("reason", reason)?)
}

/// That this chain goes on from its end; or what is wrong with its beginning or its end, so that this cannot be said.
async fn attest(
    store: &dyn Store,
    key: &AuditKey,
    log: LogId,
    chain: &ChainRow,
    seen: Option<Seen>,
    now: Time,
) -> Result<Result<Attested, Finding>, AppError> {
    if !key.begins(log, chain.start) {
        return Ok(Err(Finding::Start));
    }
    let rows = store.read_chain(Some(seen::before_end(chain)), 2).await?.map(|read| read.rows).unwrap_or_default();
    Ok(match seen::ends(key, log, chain, &rows) {
        Some(finding) => Err(finding),
        None => Ok(key.attest(log, seen::next_number(key, log, chain, seen, now), chain.head)),
    })
}

/// What founding the log anew says of the chain: that it goes on from where it ends in this database. Nothing where there is none, or
/// one that cannot go on: then it takes another one.
pub(crate) async fn of_refounding(
    store: &dyn Store,
    master: &MasterKey,
    stamp: &Stamp,
) -> Result<Option<Change>, AppError> {
    let Some(chain) = store.read_chain(None, 0).await?.map(|read| read.chain) else { return Ok(None) };
    let Ok(key) = master.open_audit_key(&chain, stamp.log) else { return Ok(None) };
    let attested = attest(store, &key, stamp.log, &chain, None, stamp.now).await?;
    if let Err(finding) = &attested {
        tracing::warn!(%finding, "the chain of audit records is broken, and founding the log anew does not mend it");
    }
    Ok(attested.ok().map(|attested| Change::Attest { key: chain.key, attested }))
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
        let seen = kept.seen(path).map_err(fault)?;
        if kept.log == self.inner.log {
            self.inner.sealer.saw(seen);
            *locked(&self.inner.sealer.written) = Some(seen);
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
        let Some(seen) = sealer.seen().filter(|seen| Some(*seen) != *locked(&sealer.written)) else { return };
        let (at, log, epoch) = (path.clone(), self.inner.log, self.hub().at().0);
        match high_water::off_thread(move || keep(&at, log, epoch, seen)).await {
            Ok(()) => *locked(&sealer.written) = Some(seen),
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
        let chain = match self.chain_followed().await? {
            Some(chain) => chain,
            None => self.begin_chain().await?,
        };
        let what = audit::seal(&self.audit_key(&chain)?, self.inner.log, chain.head, &rows, &mut real::RealChance);
        let to = what.to;
        match self.store().commit(Changes { steps: vec![Change::Seal(what)], ..Changes::default() }).await {
            Ok(_) => {
                self.inner.sealer.went_on(to);
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
        let (sealer, log) = (&self.inner.sealer, self.inner.log);
        let seen = sealer.seen();
        let mut place = seen.map(|seen| seen.place);
        for _ in 0..crate::MAX_TRIES {
            let after = place.map(|place| place.n.saturating_sub(1));
            let Some(ChainRead { chain, rows }) = self.store().read_chain(after, u32::from(place.is_some())).await?
            else {
                let gone = |seen: Seen| Finding::Truncated { head: 0, known: seen.place.n };
                return Ok(seen.map_or(Ok(None), |seen| Err(gone(seen))));
            };
            let key = self.audit_key(&chain)?;
            let held = match seen::held(&key, log, &chain, seen) {
                Ok(held) => held,
                Err(finding) => return Ok(Err(finding)),
            };
            if held.map(|held| held.place) != place {
                // It goes on from elsewhere: what stands there is to be of one snapshot with the chain's row, too.
                place = held.map(|held| held.place);
                continue;
            }
            if let Some(finding) = held.and_then(|held| seen::follows(held.place, &chain, rows.first())) {
                return Ok(Err(finding));
            }
            if held.is_none_or(|held| held.place.n < chain.head.n) {
                let read = match chain.head.n > chain.start.place.n {
                    true => self.store().read_chain(Some(seen::before_end(&chain)), 2).await?,
                    false => None,
                };
                // Pruned, or begun anew, since: looked at again.
                if read.as_ref().is_some_and(|read| read.chain.start.place.n >= chain.head.n) {
                    continue;
                }
                let rows = read.map(|read| read.rows).unwrap_or_default();
                if let Some(finding) = seen::ends(&key, log, &chain, &rows) {
                    return Ok(Err(finding));
                }
            }
            sealer.saw(Seen { number: held.map_or(0, |held| held.number), place: chain.head });
            *locked(&sealer.counted_then) = self.store().commits();
            return Ok(Ok(Some(chain)));
        }
        Err(AppError::Overloaded)
    }

    /// Counted, and told once a minute.
    fn misfit(&self, finding: Finding) -> AppError {
        self.counts().audit_misfits.fetch_add(1, Ordering::Relaxed);
        if self.once_a_minute(&self.inner.sealer.warned_of_misfit) {
            let (was, is) = (*locked(&self.inner.sealer.counted_then), self.store().commits());
            let failover = was.zip(is).and_then(|(was, is)| was.failover(is.timeline));
            let failover = failover.as_deref().unwrap_or("no failover was seen");
            tracing::error!(%finding, failover, "the chain of audit records was tampered with, or its database replaced");
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
        let row = ChainRow::new(sealed, start);
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

    /// Another chain in the place of one that is broken, or whose row is gone, under a new key. What was sealed before is no part of
    /// it, and goes by its time. For who reaches the admin socket, with words that are on record; whoever follows the trail is told of
    /// what the old one has left, and then of what comes.
    ///
    /// # Errors
    /// Refused to others, without words, and where nothing was ever sealed; faults.
    pub async fn admin_begin_trail_anew(&self, admin: &Admin, reason: &str) -> Result<Place, AppError> {
        let reason = operator_says(admin, reason)?;
        // A key that is made under a master key which is just being replaced would never open again.
        let _turn = self.inner.rota.turn().await;
        let key = AuditKey::new(&mut real::RealChance);
        let sealed = self.inner.rota.master().seal_audit_key(&key, self.inner.log).map_err(rotation::fault)?;
        let by = admin.by(Some(&reason));
        let seen = self.inner.sealer.seen().map_or(0, |seen| seen.place.n);
        let most = audit::FARTHEST.max(seen);
        let load = || async {
            let chain = self.chain_row().await.map_err(|error| self.fault(error))?;
            let left = self.store().last_place(most).await.map_err(|error| self.fault(error.into()))?;
            if chain.is_none() && left.is_none() && seen == 0 {
                return Err(Refused::NotFound.into());
            }
            Ok((chain.map(|chain| chain.head), left.unwrap_or(0)))
        };
        let decide = |(head, left): &(Option<Place>, u64), chance: &mut dyn Chance| {
            let known = head.map_or(0, |head| head.n).min(most).max(seen);
            let Some(start) = key.start_anew(self.inner.log, *left, known) else {
                let detail = "the chain is at the end of numbers".into();
                return Decision::refuse(Refused::Unavailable { detail });
            };
            let after = head.map_or(*left, |head| head.n);
            let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AuditBegunAnew, &by.actor);
            let event = event.ip(by.ip).reason(format!("after {after}: {reason}"));
            let row = ChainRow::new(sealed.clone(), start);
            let steps = vec![Change::BeginAnew(Anew { from: *head, row })];
            Decision { outcome: Ok(start.place), changes: Changes { steps, events: vec![event], ..Changes::default() } }
        };
        match self.act("", None, load, decide).await? {
            Acted::Done(start, _) | Acted::Answered(start) => {
                self.inner.sealer.went_on(start);
                self.write_trail().await;
                Ok(start)
            }
            Acted::Before(_) => Err(AppError::Fault("a beginning has no repeat key".into())),
        }
    }

    /// The chain goes on from where it ends, whatever nodes have seen beyond that: a failover has lost the last seals, or a backup was
    /// put back. It stays the one that it is. For who reaches the admin socket, with words that are on record.
    ///
    /// # Errors
    /// Refused to others, without words, where no chain was begun, and where the chain's own beginning or end is not what a server with
    /// the key has written; faults.
    pub async fn admin_go_on_with_trail(&self, admin: &Admin, reason: &str) -> Result<Place, AppError> {
        let reason = operator_says(admin, reason)?;
        let _turn = self.inner.rota.turn().await;
        let by = admin.by(Some(&reason));
        let load = || async {
            let chain = self.chain_row().await.map_err(|error| self.fault(error))?.ok_or(Refused::NotFound)?;
            let key = self.audit_key(&chain).map_err(|error| self.fault(error))?;
            let seen = self.inner.sealer.seen();
            let attested = attest(self.store(), &key, self.inner.log, &chain, seen, self.now()).await;
            Ok((chain.key.clone(), attested.map_err(|error| self.fault(error))?))
        };
        type Loaded = (SecretBytes, Result<Attested, Finding>);
        let decide = |(key, attested): &Loaded, chance: &mut dyn Chance| match attested {
            Ok(attested) => {
                let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::AuditWentOn, &by.actor);
                let event = event.ip(by.ip).reason(format!("from {}: {reason}", attested.place.n));
                let steps = vec![Change::Attest { key: key.clone(), attested: *attested }];
                Decision {
                    outcome: Ok(*attested),
                    changes: Changes { steps, events: vec![event], ..Changes::default() },
                }
            }
            Err(finding) => {
                let detail = format!("{finding}: only another chain can go on here, by begin-anew");
                Decision::refuse(Refused::Conflict { detail })
            }
        };
        match self.act("", None, load, decide).await? {
            Acted::Done(Attested { number, place, .. }, _) | Acted::Answered(Attested { number, place, .. }) => {
                self.inner.sealer.saw(Seen { number, place });
                self.write_trail().await;
                Ok(place)
            }
            Acted::Before(_) => Err(AppError::Fault("going on has no repeat key".into())),
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
        let first = self.chain_row().await.map_err(|error| self.fault(error))?;
        let after = first.and_then(|chain| audit::reading(from, chain.start));
        let read = self.store().read_chain(after, most);
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
