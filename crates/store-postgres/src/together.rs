//! Refreshes that wait at the same moment are looked up together: one statement, one round trip and one snapshot for all of
//! them, as their commits are one. Half of what a refresh costs the database is to set up the statement that reads it.
//!
//! Whom a group waits for, and how long at most, is the rule in `gather`. A lookup is always begun after it was asked for. While a statement is
//! quick the next waits for it, so that groups stay large; past one that is slow, or whose connection leads nowhere, others go.
use crate::cells::Fault;
use crate::clock::DatabaseClock;
use crate::gather::{Beat, gather};
use crate::pool::Reader;
use crate::reads;
use portcullis_domain::view::RefreshView;
use portcullis_store::{FaultKind, StoreError};
use portcullis_wire::GrantId;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// As many share one statement at most.
const AT_ONCE: usize = 64;
/// As many statements are under way at most.
const UNDER_WAY: usize = 4;
/// So long is a statement waited for before another is begun beside it.
const PATIENCE: Duration = Duration::from_millis(50);
/// Who waited so long for a statement to begin has tried again, or given up.
const LATE: Duration = Duration::from_secs(2);

/// What a lookup comes to.
type Found = Result<Option<RefreshView>, StoreError>;

/// Those that are there, each by itself.
type Several = BTreeMap<GrantId, Result<RefreshView, StoreError>>;

/// Those who ask for the same one.
type Askers = Vec<oneshot::Sender<Found>>;

/// One that waits.
struct Lookup {
    grant: GrantId,
    /// Told when the statement begins; gone when nobody waits for that any more.
    begun: oneshot::Sender<()>,
    done: oneshot::Sender<Found>,
}

/// Where lookups are asked for. Dropping it ends the task behind it.
pub(crate) struct Lookups(mpsc::Sender<Lookup>);

impl Lookups {
    /// With the task that answers; `queue` may wait at most, more are refused at once. `beat`: what is committed meanwhile.
    pub(crate) fn new(reader: Arc<Reader>, queue: usize, beat: watch::Receiver<Option<Beat>>) -> Self {
        Self::by(queue, beat, reader.clock().clone(), move |grants: Vec<GrantId>| {
            let reader = reader.clone();
            async move { reads::refreshes(&reader, &grants).await }
        })
    }

    /// The same by any statement.
    fn by<L, F>(queue: usize, beat: watch::Receiver<Option<Beat>>, clock: Arc<DatabaseClock>, look: L) -> Self
    where
        L: Fn(Vec<GrantId>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Several, Fault>> + Send + 'static,
    {
        let (ask, waiting) = mpsc::channel(queue.max(1));
        tokio::spawn(run(Arc::new(look), waiting, beat, clock));
        Self(ask)
    }

    /// The view of a refresh, as of a snapshot taken after this call.
    pub(crate) async fn refresh(&self, grant: GrantId) -> Found {
        let ((begun, begins), (done, found)) = (oneshot::channel(), oneshot::channel());
        match self.0.try_send(Lookup { grant, begun, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(overloaded("too many refreshes are waiting")),
            Err(TrySendError::Closed(_)) => return Err(StoreError::new("the lookups have ended")),
        }
        if timeout(LATE, begins).await.is_err() {
            return Err(overloaded("a refresh waited for too long"));
        }
        found.await.unwrap_or_else(|_| Err(StoreError::new("a lookup gave no answer")))
    }
}

fn overloaded(why: &str) -> StoreError {
    StoreError::of(FaultKind::Overloaded, format_args!("overloaded: {why}"))
}

/// Each batch is a task of its own: what goes wrong in one is nobody else's.
async fn run<L, F>(
    look: Arc<L>,
    mut waiting: mpsc::Receiver<Lookup>,
    mut beat: watch::Receiver<Option<Beat>>,
    clock: Arc<DatabaseClock>,
) where
    L: Fn(Vec<GrantId>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Several, Fault>> + Send + 'static,
{
    let (mut under_way, mut some) = (JoinSet::new(), Vec::with_capacity(AT_ONCE));
    loop {
        while under_way.len() >= UNDER_WAY {
            under_way.join_next().await;
        }
        if gather(&mut waiting, &mut some, AT_ONCE, &mut beat, &clock).await == 0 {
            return; // whoever could wait for an answer is gone, too
        }
        let mut batch: BTreeMap<_, Askers> = BTreeMap::new();
        for Lookup { grant, begun, done } in some.drain(..) {
            if begun.send(()).is_ok() {
                batch.entry(grant).or_default().push(done);
            } // else it was late, or its caller has hung up
        }
        if !batch.is_empty() {
            while under_way.try_join_next().is_some() {}
            under_way.spawn(answer(look.clone(), batch));
            let _ = timeout(PATIENCE, under_way.join_next()).await; // slow, or done
        }
    }
}

async fn answer<L, F>(look: Arc<L>, asked: BTreeMap<GrantId, Askers>)
where
    L: Fn(Vec<GrantId>) -> F,
    F: Future<Output = Result<Several, Fault>>,
{
    match look(asked.keys().copied().collect()).await {
        Err(fault) if asked.len() > 1 && fault.is_of_one() => {
            tracing::warn!(%fault, "refreshes that were looked up together failed, and are looked up one by one");
            one_by_one(&*look, asked).await;
        }
        found => {
            let found = found.map_err(StoreError::from);
            asked.into_iter().for_each(|(grant, askers)| tell(grant, askers, &found));
        }
    }
}

/// Until there is an error that the next would have, too.
async fn one_by_one<L, F>(look: &L, asked: BTreeMap<GrantId, Askers>)
where
    L: Fn(Vec<GrantId>) -> F,
    F: Future<Output = Result<Several, Fault>>,
{
    let mut broken = None;
    for (grant, askers) in asked {
        if askers.iter().all(oneshot::Sender::is_closed) {
            continue;
        }
        let found = match &broken {
            Some(error) => Err(StoreError::clone(error)),
            None => look(vec![grant]).await.map_err(|fault| {
                let (of_one, error) = (fault.is_of_one(), StoreError::from(fault));
                broken = (!of_one).then(|| error.clone());
                error
            }),
        };
        tell(grant, askers, &found);
    }
}

/// Each of several who ask for the same one gets it.
fn tell(grant: GrantId, askers: Askers, found: &Result<Several, StoreError>) {
    for done in askers {
        let own = match found {
            Ok(found) => found.get(&grant).cloned().transpose(),
            Err(error) => Err(error.clone()),
        };
        let _ = done.send(own); // nobody waits any more
    }
}

#[cfg(test)]
mod tests;
