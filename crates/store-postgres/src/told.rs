//! What was acknowledged to this node, held against every look at the database: the rule is `domain::ledger`'s.
use crate::cells::Fault;
use portcullis_domain::ledger::{Commits, Ledger};
use portcullis_wire::{Epoch, NodeId};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The timeline on which the server writes. A plain role may ask; a standby has none.
macro_rules! timeline {
    () => {
        "CASE WHEN pg_is_in_recovery() THEN '00000000' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
    };
}
pub(crate) use timeline;

/// Reads what [`timeline`] gives: the first eight hexadecimal digits of a WAL file's name.
pub(crate) fn timeline_of(text: &str) -> Result<u32, Fault> {
    u32::from_str_radix(text, 16).map_err(|_| Fault::Row(format!("the timeline {text:?} is none")))
}

/// The memory of this process.
#[derive(Debug)]
pub(crate) struct Told {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    lost: Option<String>,
}

impl Told {
    /// By the row as it was found at the start, and what is remembered from before it.
    pub(crate) fn new(remembered: Option<Ledger>, by: NodeId, epoch: Epoch, found: Option<u64>, timeline: u32) -> Self {
        let ledger = Ledger { epoch, told: Commits { by, count: found.unwrap_or(0), timeline } };
        let ledger = remembered.map_or(ledger, |old| match old.epoch < epoch || old.told.count < ledger.told.count {
            true => ledger,
            false => old,
        });
        let told = Self { state: Mutex::new(State { ledger, lost: None }) };
        told.look(&ledger, epoch, found, Some(timeline));
        told
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // each change is one assignment
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.state().ledger
    }

    /// What proves that the database has lost something, until it is founded anew.
    pub(crate) fn lost(&self) -> Option<String> {
        self.state().lost.clone()
    }

    pub(crate) fn acknowledged(&self, epoch: Epoch, count: u64) {
        let mut state = self.state();
        if epoch > state.ledger.epoch {
            state.lost = None; // it was founded anew
        }
        state.ledger.acknowledged(epoch, count);
    }

    /// The database was looked at, beginning when the memory was `before`. What it has lost is kept in mind, not an error of the
    /// look: whoever asks it also asks [`Told::lost`].
    pub(crate) fn look(&self, before: &Ledger, epoch: Epoch, found: Option<u64>, timeline: Option<u32>) {
        let mut state = self.state();
        let (was, known) = (state.ledger.told.timeline, state.ledger.epoch);
        let timeline = timeline.unwrap_or(was);
        match state.ledger.look(before, epoch, found, timeline) {
            Ok(()) => {
                if epoch > known {
                    state.lost = None;
                }
                if timeline != was {
                    tracing::warn!(
                        was,
                        timeline,
                        "a standby has taken over, and has all that was acknowledged to this node"
                    );
                }
            }
            Err(what) if state.lost.is_none() => {
                tracing::error!(%what, "the database has lost acknowledged commits");
                state.lost = Some(what);
            }
            Err(_) => {}
        }
    }
}
