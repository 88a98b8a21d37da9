//! Who must hear of audit records: followers of the trail, each with a cursor of its own (`domain::follow`).
//!
//! One task, at work on the one node that leads. Who leads may be in doubt for a while: two that both believe it tell everything once all
//! the same, since a cursor moves only from where it was read, in the commit that inserts what was made of the page.
use crate::admin::Admin;
use crate::{App, AppError};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::follow::{self, Follower, FollowerStep, Reading, Trail};
use portcullis_store::{CommitError, EventRow};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// How often there is a look without a record having been sealed by this process.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// After a fault, and where another node leads.
const REST: Duration = Duration::from_secs(1);

/// Tells whoever follows that records were sealed here.
#[derive(Debug)]
pub(crate) struct Sealings(watch::Sender<u64>);

impl Default for Sealings {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Sealings {
    /// The trail ends there now.
    pub(crate) fn told(&self, place: u64) {
        self.0.send_replace(place);
    }
    /// Who waits for more.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Until records were sealed here, or for so long: another node may seal.
pub(crate) async fn more(news: &mut watch::Receiver<u64>) {
    let _ = tokio::time::timeout(LOOK_AGAIN, news.changed()).await;
}

/// Who reads the trail as it grows, from a place on: an administrator's stream. Nothing is kept of it but where it is.
pub struct Tail {
    app: App,
    after: u64,
    news: watch::Receiver<u64>,
    /// One of so many at once.
    _place: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("after", &self.after).finish_non_exhaustive()
    }
}

impl Tail {
    /// The place up to which it has read.
    pub fn place(&self) -> u64 {
        self.after
    }

    /// The next records that were sealed; none when there were none for half a second.
    ///
    /// # Errors
    /// Faults of the database.
    pub async fn next(&mut self) -> Result<Vec<EventRow>, AppError> {
        let read = self.app.store().read_chain(Some(self.after), follow::AT_ONCE).await;
        let read = read.map_err(|error| self.app.fault(error.into()))?;
        let (trail, mut rows) = read.map(|read| (Trail::of(&read.chain), read.rows)).unwrap_or_default();
        match rows.last().and_then(|row| row.seal) {
            Some(seal) => self.after = seal.place.n,
            None => more(&mut self.news).await,
        }
        rows.retain(|row| row.seal.is_some_and(|seal| trail.has(seal.place.n)));
        Ok(rows)
    }
}

/// How many may read the trail as it grows, at one node.
pub(crate) const TAILS: usize = 32;

/// What a follower has before it.
#[derive(Debug)]
pub(crate) struct Before {
    /// The records, in the order of the trail.
    pub(crate) rows: Vec<EventRow>,
    /// How the cursor passes them.
    pub(crate) step: FollowerStep,
    /// Whether there may be more after them.
    pub(crate) more: bool,
}

/// Where those that follow stand, by name, and where the trail does.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) trail: Trail,
    pub(crate) followers: BTreeMap<String, u64>,
}

impl App {
    /// For ever.
    pub(crate) async fn tell_followers(self) {
        let mut news = self.inner.sealings.listen();
        loop {
            if !self.sends() {
                tokio::time::sleep(REST).await;
                continue;
            }
            match self.tell_some().await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => more(&mut news).await,
                Err(error) => {
                    tracing::warn!(%error, "those that follow the audit trail could not be told; tried again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// One page for each that follows; whether there may be more.
    pub(crate) async fn tell_some(&self) -> Result<bool, AppError> {
        let look = self.look_at_trail().await?;
        self.tell_webhooks(&look).await
    }

    async fn look_at_trail(&self) -> Result<Look, AppError> {
        let rows = self.store().list_followers().await?;
        let followers = rows.into_iter().map(|one| (one.name, one.place)).collect();
        Ok(Look { trail: self.trail().await?, followers })
    }

    /// Where the trail begins and ends; before it was begun, at nothing.
    pub(crate) async fn trail(&self) -> Result<Trail, AppError> {
        let read = self.store().read_chain(None, 0).await?;
        Ok(read.map(|read| Trail::of(&read.chain)).unwrap_or_default())
    }

    /// The trail as it grows: after this place, or from now on; and how many records after that place were pruned.
    ///
    /// # Errors
    /// `overloaded` when as many read it as may.
    pub async fn tail(&self, admin: &Admin, after: Option<u64>) -> Result<(Tail, u64), AppError> {
        let place = self.inner.tails.clone().try_acquire_owned().map_err(|_| AppError::Overloaded)?;
        let news = self.inner.sealings.listen();
        let trail = self.trail().await.map_err(|error| self.fault(error))?;
        self.still_admin(admin).await?;
        let Reading { after, missed } = after.map_or(Reading { after: trail.head, missed: 0 }, |at| trail.reading(at));
        Ok((Tail { app: self.clone(), after, news, _place: place }, missed))
    }

    /// What a follower has before it, at most `most` records; one that there is not begins at the trail's end. `None`: nothing.
    pub(crate) async fn before_follower(&self, look: &Look, name: &str, most: u32) -> Result<Option<Before>, AppError> {
        let Some(place) = look.followers.get(name) else {
            let step = FollowerStep::begin(name.to_owned(), look.trail.head);
            return Ok(Some(Before { rows: vec![], step, more: false }));
        };
        // Where the chain's row is gone, nobody is told twice of everything: another one begins after what it has left.
        if *place == look.trail.head || look.trail == Trail::default() {
            return Ok(None);
        }
        let one = Follower { name: name.to_owned(), place: *place };
        let reading = look.trail.reading(one.place);
        if reading.missed > 0 {
            tracing::warn!(
                follower = name,
                missed = reading.missed,
                "audit records were pruned before somebody was told of them"
            );
        }
        let most = most.min(follow::AT_ONCE);
        let read = self.store().read_chain(Some(reading.after), most).await?;
        let mut rows = read.map(|read| read.rows).unwrap_or_default();
        let last = rows.last().and_then(|row| row.seal).map(|seal| seal.place.n);
        let more = rows.len() == most as usize;
        rows.retain(|row| row.seal.is_some_and(|seal| look.trail.has(seal.place.n)));
        Ok(one.over(reading, last).map(|step| Before { rows, step, more }))
    }

    /// Moves the cursor, and writes what was made of what it passes; `false`: somebody else was at it, and nothing was written.
    pub(crate) async fn pass(&self, step: FollowerStep, made: Vec<Change>) -> Result<bool, AppError> {
        let tells = !made.is_empty();
        let steps = [Change::StepFollower(step)].into_iter().chain(made).collect();
        match self.store().commit(Changes { steps, ..Changes::default() }).await {
            Ok(_) => {
                if tells {
                    self.inner.outbox.wake_messages();
                }
                Ok(true)
            }
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
