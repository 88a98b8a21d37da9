//! What a position proves that was shown: by a verifier that opens a stream or renews its lease, or by one below a relay.
//!
//! A position carries the link of the hash chain there. What came after it must lead from that link to today's: else the log has
//! another history there, and a snapshot of a fork would be taken for the right one. What this node has in memory it compares at
//! once. What is older is read from the database, by one caller at a time and [`MOST`] entries at most: of what is older still,
//! and of what is forgotten, nobody can tell, and a snapshot follows.
use super::subscription::MAX_RESUME;
use super::{Hub, Position};
use crate::AppError;
use crate::high_water::Proof;
use portcullis_store::{Store, StoreError};
use portcullis_wire::{ClientId, Time};
use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The most entries that are read to judge a position, and how many at once.
const MOST: u64 = 50_000;
const AT_ONCE: u32 = 10_000;
/// How long a caller waits for its turn to have entries read.
const TURN: Duration = Duration::from_secs(2);
/// Positions that were found right are remembered: verifiers come back together, and with the same ones.
const REMEMBERED: usize = 256;

/// Positions that are older than what is in memory.
#[derive(Debug)]
pub(super) struct History {
    turn: Semaphore,
    right: Mutex<VecDeque<Position>>,
}

impl Default for History {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), right: Mutex::default() }
    }
}

impl History {
    fn knows(&self, at: &Position) -> bool {
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(at)
    }

    fn remember(&self, at: &Position) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED {
            right.pop_front();
        }
        right.push_back(*at);
    }
}

/// Whether what was written after a position leads to where the log is; `None`: some of it is forgotten, or it is more than may
/// be read.
async fn leads_here(store: &dyn Store, at: &Position, most: u64) -> Result<Option<bool>, StoreError> {
    let (mut rev, mut chain) = (at.rev, at.chain);
    loop {
        let read = store.read_log(rev, AT_ONCE).await?;
        let too_much = read.stamp.head.0.saturating_sub(at.rev.0) > most;
        if !read.complete || too_much || read.stamp.epoch != at.epoch {
            return Ok(None);
        }
        for entry in &read.entries {
            (rev, chain) = (entry.rev, chain.after(entry));
        }
        if read.entries.is_empty() || rev >= read.stamp.head {
            return Ok(Some(chain == read.stamp.chain));
        }
    }
}

impl Hub {
    /// What a position of ours proves. One beyond what this node knows: it may only lag; a read that begins now tells. One that
    /// this log was at: whether it had the same history then.
    pub(super) async fn shown(&self, id: impl Display, at: &Position) -> Result<(), AppError> {
        if (at.epoch, at.rev) > self.at() {
            let (stamp, _) = self.read_after_now().await?;
            if (at.epoch, at.rev) > (stamp.epoch, stamp.head) {
                self.prove_by(&id, at, stamp.now);
            }
            return Ok(());
        }
        let same = match self.agrees(at, MAX_RESUME) {
            Some(same) => same,
            None if at.epoch == self.at().0 => self.led_here(at).await?,
            None => true,
        };
        if !same {
            self.prove_by(&id, at, self.inner.store.now());
        }
        match self.rolled_back() {
            Some(why) => Err(AppError::Fault(format!("rolled back: {}", why.what).into())),
            None => Ok(()),
        }
    }

    /// Whether the log comes from an old position, as far as it can be told.
    async fn led_here(&self, at: &Position) -> Result<bool, AppError> {
        let history = &self.inner.history;
        if history.knows(at) || self.head().0.saturating_sub(at.rev.0) > MOST {
            return Ok(true);
        }
        let turn = tokio::time::timeout(TURN, history.turn.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(AppError::Overloaded) };
        if history.knows(at) {
            return Ok(true);
        }
        let same = leads_here(&*self.inner.store, at, MOST).await?;
        if same == Some(true) {
            history.remember(at);
        }
        Ok(same.unwrap_or(true))
    }

    /// Whether this server made a position that a relay was shown by a verifier of this client. One that it made, and that its log
    /// does not have, is what it is here, too: the proof that the log was rolled back.
    pub async fn vouches(&self, client: ClientId, position: &str) -> Result<bool, AppError> {
        if let Some(why) = self.why_not_ready() {
            return Err(AppError::Fault(why.into()));
        }
        let Some(at) = self.parse_position(position) else { return Ok(false) };
        self.shown(format!("below a relay, of {client},"), &at).await.map(|()| true)
    }

    /// Whether the log had this link at this position, as far as this node knows by heart.
    pub(super) fn agrees(&self, at: &Position, max: usize) -> Option<bool> {
        let state = self.state();
        if at.epoch != state.publisher.epoch() {
            return None;
        }
        state.publisher.agrees(at.rev, at.chain, max)
    }

    /// A verifier shows a position that this server signed, and that the log does not have.
    pub(super) fn prove_by(&self, id: &impl Display, at: &Position, now: Time) {
        let Position { epoch, rev, chain } = *at;
        let what = format!("the verifier {id} shows the position {epoch}.{rev}, which this server signed");
        let what =
            if (epoch, rev) > self.at() { what } else { format!("{what}, and the log has another history there") };
        self.prove(Proof::by_position(what, (epoch, rev), Some(chain), now));
    }
}
