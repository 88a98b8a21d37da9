//! The chain over audit records. What it means stands in `domain::audit`.
use super::Memory;
use super::apply::require;
use super::prune::OfEvents;
use crate::rows::ChainRead;
use crate::{CommitError, EventRow};
use portcullis_domain::audit::{Anew, Attested, COUNTED, ChainRow, Pruning, Sealing, Unsealed};
use portcullis_domain::changes::Conflict;
use portcullis_wire::SecretBytes;

impl Memory {
    fn chain(&self) -> Option<&ChainRow> {
        self.chain.get(&())
    }

    /// As [`Store::read_chain`](crate::Store::read_chain).
    pub fn read_chain(&self, after: Option<u64>, limit: u32) -> Option<ChainRead> {
        let chain = self.chain()?.clone();
        let place = |row: &EventRow| row.seal.map(|seal| seal.place.n);
        let follows = |row: &&EventRow| place(row).is_some_and(|n| after.is_none_or(|after| n > after));
        let mut rows: Vec<&EventRow> = self.events.iter().filter(follows).collect();
        rows.sort_by_key(|row| place(row));
        rows.truncate(limit as usize);
        Some(ChainRead { chain, rows: rows.into_iter().cloned().collect() })
    }

    /// As [`Store::last_place`](crate::Store::last_place).
    pub fn last_place(&self, up_to: u64) -> Option<u64> {
        self.events.iter().filter_map(|row| Some(row.seal?.place.n)).filter(|n| *n <= up_to).max()
    }

    fn unsealed(&self) -> impl Iterator<Item = &EventRow> {
        self.events.iter().filter(|row| row.seal.is_none())
    }

    /// As [`Store::list_unsealed`](crate::Store::list_unsealed).
    pub fn list_unsealed(&self, limit: u32) -> Vec<EventRow> {
        self.unsealed().take(limit as usize).cloned().collect()
    }

    /// As [`Store::count_unsealed`](crate::Store::count_unsealed).
    pub fn count_unsealed(&self) -> Unsealed {
        let first = || self.unsealed().take(COUNTED as usize);
        Unsealed { count: first().count() as u64, since: first().map(|row| row.at).min() }
    }

    /// The audit records as they are kept, to be tampered with: what somebody can do who has the database and not the key.
    pub fn tamper(&mut self) -> &mut Vec<EventRow> {
        &mut self.events
    }

    /// Puts another row in the place of the chain's, or none: as above.
    pub fn tamper_chain(&mut self, row: Option<ChainRow>) {
        self.chain = Default::default();
        row.into_iter().for_each(|row| self.chain.put((), row));
    }
}

pub(super) fn begin(db: &mut Memory, chain: ChainRow) -> Result<(), CommitError> {
    require(db.chain().is_none(), Conflict::Moved)?;
    db.chain.put((), chain);
    Ok(())
}

fn expected(db: &Memory, holds: impl FnOnce(&ChainRow) -> bool) -> Result<ChainRow, CommitError> {
    db.chain().filter(|chain| holds(chain)).cloned().ok_or(CommitError::Conflict(Conflict::Moved))
}

pub(super) fn seal(db: &mut Memory, what: Sealing) -> Result<OfEvents, CommitError> {
    let chain = expected(db, |chain| chain.head == what.from)?;
    for (id, _) in &what.seals {
        let row = db.event_at.get(id).and_then(|at| db.events.get(*at));
        require(row.is_some_and(|row| row.seal.is_none()), Conflict::Moved)?;
    }
    db.chain.put((), ChainRow { head: what.to, ..chain });
    Ok(OfEvents::Seal(what.seals))
}

pub(super) fn prune(db: &mut Memory, what: &Pruning) -> Result<OfEvents, CommitError> {
    let to = what.to.place.n;
    let chain = expected(db, |chain| chain.start.place == what.from && to <= chain.head.n)?;
    db.chain.put((), ChainRow { start: what.to, ..chain });
    Ok(OfEvents::Delete { up_to: what.up_to.min(to) })
}

pub(super) fn begin_anew(db: &mut Memory, what: Anew) -> Result<(), CommitError> {
    require(db.chain().map(|chain| chain.head) == what.from, Conflict::Moved)?;
    db.chain.put((), what.row);
    Ok(())
}

pub(super) fn attest(db: &mut Memory, key: &SecretBytes, attested: Attested) -> Result<(), CommitError> {
    let chain = expected(db, |chain| chain.key.expose() == key.expose())?;
    db.chain.put((), ChainRow { attested: Some(attested), ..chain });
    Ok(())
}

pub(super) fn set_key(db: &mut Memory, before: &SecretBytes, sealed: SecretBytes) -> Result<(), CommitError> {
    let chain = expected(db, |chain| chain.key.expose() == before.expose())?;
    db.chain.put((), ChainRow { key: sealed, ..chain });
    Ok(())
}
