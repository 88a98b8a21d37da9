//! What was acknowledged to this node, held against every look at the database: the rule is `domain::ledger`'s.
use crate::cells::Fault;
use portcullis_domain::ledger::{Commits, Ledger, Others};
use portcullis_wire::{Epoch, NodeId};
use std::collections::BTreeMap;
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
    /// Whose commits it lacks, when they are not this node's.
    others_lost: Option<Commits>,
    others: Others,
    /// The older timeline that the database is back on, as a new connection has shown.
    back_on: Option<u32>,
}

impl Told {
    /// By the row as it was found at the start, and what is remembered from before it.
    pub(crate) fn new(remembered: Option<Ledger>, by: NodeId, epoch: Epoch, found: Option<u64>, timeline: u32) -> Self {
        let ledger = Ledger { epoch, told: Commits { by, count: found.unwrap_or(0), timeline } };
        let ledger = remembered.map_or(ledger, |old| match old.epoch < epoch || old.told.count < ledger.told.count {
            true => ledger,
            false => old,
        });
        let told = Self {
            state: Mutex::new(State {
                ledger,
                lost: None,
                others_lost: None,
                others: Others::default(),
                back_on: None,
            }),
        };
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

    /// Whose commits are missing.
    pub(crate) fn lacks(&self) -> Option<Commits> {
        let state = self.state();
        state.lost.as_ref().map(|_| state.others_lost.unwrap_or(state.ledger.told))
    }

    /// Whether a look at the others' counts would show a loss.
    pub(crate) fn doubts_others(&self, epoch: Epoch, found: &BTreeMap<NodeId, u64>, timeline: u32) -> bool {
        let state = self.state();
        state.lost.is_none() && state.others.clone().look(epoch, timeline, found).is_err()
    }

    /// The others' counts were looked at. What is missing is kept in mind, as with [`Told::look`].
    pub(crate) fn look_at_others(&self, epoch: Epoch, found: &BTreeMap<NodeId, u64>, timeline: u32) {
        let mut state = self.state();
        let Err((by, count)) = state.others.look(epoch, timeline, found) else { return };
        let seen = Commits { by, count, timeline: state.ledger.told.timeline };
        if state.lost.is_none() {
            let what = seen.lost_of_another(found.get(&by).copied(), timeline);
            tracing::error!(%what, node = %by, "the database has lost what it had of another node");
            (state.lost, state.others_lost) = (Some(what), Some(seen));
        }
    }

    /// How often the others' counts were looked at.
    pub(crate) fn looks_at_others(&self) -> u64 {
        self.state().others.looks()
    }

    /// A read on which leases rest was made, on this timeline, beginning after so many looks.
    pub(crate) fn confirmed(&self, looks: u64, timeline: u32) {
        self.state().others.confirmed(looks, timeline);
    }

    pub(crate) fn acknowledged(&self, epoch: Epoch, count: u64) {
        let mut state = self.state();
        if epoch > state.ledger.epoch {
            (state.lost, state.others_lost) = (None, None); // it was founded anew
        }
        state.ledger.acknowledged(epoch, count);
    }

    /// Whether such a look would show a loss, or a timeline that this process has seen the end of. A connection that was made
    /// before may still lead to a primary from which a standby has taken over: only a new one tells where the name leads.
    pub(crate) fn doubts(&self, before: &Ledger, epoch: Epoch, found: Option<u64>, timeline: u32) -> bool {
        let state = self.state();
        let mut ledger = state.ledger;
        let older = timeline < ledger.told.timeline && state.back_on != Some(timeline);
        state.lost.is_none() && (older || ledger.look(before, epoch, found, timeline).is_err())
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
                    (state.lost, state.others_lost) = (None, None);
                }
                if timeline > was {
                    tracing::warn!(
                        was,
                        timeline,
                        "a standby has taken over, and has all that was acknowledged to this node"
                    );
                }
                let back_on = (timeline < was).then_some(timeline);
                if back_on.is_some() && back_on != state.back_on {
                    tracing::warn!(
                        was,
                        timeline,
                        "the database is on an older timeline, and has all that was acknowledged to this node"
                    );
                }
                state.back_on = back_on;
            }
            Err(what) if state.lost.is_none() => {
                tracing::error!(%what, "the database has lost acknowledged commits");
                state.lost = Some(what);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_new_connection_tells() {
        let told = Told::new(None, NodeId::from_bits(1), Epoch(1), Some(7), 2);
        let before = told.ledger();
        let doubts = |found, timeline| told.doubts(&before, Epoch(1), Some(found), timeline);
        assert!(!doubts(7, 2) && !doubts(8, 3));
        assert!(doubts(6, 2) && doubts(6, 3) && doubts(8, 1) && told.doubts(&before, Epoch(0), Some(7), 2));
        // The name leads there, and nothing is missing.
        told.look(&before, Epoch(1), Some(8), Some(1));
        assert!(!doubts(8, 1) && doubts(6, 1) && doubts(8, 0));
        told.look(&before, Epoch(1), Some(8), Some(2));
        assert!(doubts(8, 1));
        assert_eq!(told.lost(), None);
        // Once it is proven, it is proven.
        told.look(&before, Epoch(1), Some(6), Some(2));
        assert!(told.lost().is_some() && !doubts(6, 2));
    }
}
