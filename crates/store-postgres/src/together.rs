//! Refreshes that wait at the same moment are looked up together: one statement, one round trip and one snapshot for all of
//! them, as their commits are one. Half of what a refresh costs the database is to set up the statement that reads it.
//!
//! Nobody waits for more to come: what is there is taken. A lookup is always begun after it was asked for.
use crate::pool::Reader;
use crate::reads;
use portcullis_domain::view::RefreshView;
use portcullis_store::{FaultKind, StoreError};
use portcullis_wire::GrantId;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// As many share one statement at most.
const AT_ONCE: usize = 64;

/// What a lookup comes to.
type Found = Result<Option<RefreshView>, StoreError>;

/// One that waits.
struct Lookup {
    grant: GrantId,
    done: oneshot::Sender<Found>,
}

/// Where lookups are asked for. Dropping it ends the task behind it.
pub(crate) struct Lookups(mpsc::Sender<Lookup>);

impl Lookups {
    /// With the task that answers; `queue` may wait at most, more are refused at once.
    pub(crate) fn new(reader: Arc<Reader>, queue: usize) -> Self {
        let (ask, waiting) = mpsc::channel(queue.max(1));
        tokio::spawn(run(reader, waiting));
        Self(ask)
    }

    /// The view of a refresh, as of a snapshot taken after this call.
    pub(crate) async fn refresh(&self, grant: GrantId) -> Found {
        let (done, found) = oneshot::channel();
        match self.0.try_send(Lookup { grant, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(StoreError::of(FaultKind::Overloaded, "overloaded: too many refreshes are waiting"));
            }
            Err(TrySendError::Closed(_)) => return Err(StoreError::new("the lookups have ended")),
        }
        found.await.unwrap_or_else(|_| Err(StoreError::new("a lookup gave no answer")))
    }
}

async fn run(reader: Arc<Reader>, mut waiting: mpsc::Receiver<Lookup>) {
    let mut some = Vec::with_capacity(AT_ONCE);
    while waiting.recv_many(&mut some, AT_ONCE).await > 0 {
        let grants: Vec<GrantId> = some.iter().map(|lookup| lookup.grant).collect();
        let mut found = reads::refreshes(&reader, &grants).await.map_err(StoreError::from);
        for Lookup { grant, done } in some.drain(..) {
            let own = match &mut found {
                // Each of several who ask for the same one gets it.
                Ok(found) => found.get(&grant).cloned().transpose(),
                Err(error) => Err(error.clone()),
            };
            let _ = done.send(own); // nobody waits any more
        }
    }
}
