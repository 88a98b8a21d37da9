//! The chain over audit records. What it means stands in `domain::audit`.
use crate::cells::{Fault, all, one};
use crate::reads::snapshot;
use crate::rows::{self, event_columns};
use portcullis_domain::audit::{COUNTED, Unsealed};
use portcullis_store::{ChainRead, EventRow};
use rusqlite::{Connection, params};

pub(crate) fn chain(db: &Connection, after: Option<u64>, limit: u32) -> Result<Option<ChainRead>, Fault> {
    const CHAIN: &str = "SELECT c.key, c.start, c.start_link, c.start_mac, c.head, c.head_link, c.start_old, c.attested, c.attested_place, \
         c.attested_link, c.attested_mac FROM audit_chain c WHERE c.one = 1";
    const ROWS: &str = concat!(
        "SELECT ",
        event_columns!(),
        " FROM events e WHERE e.place IS NOT NULL AND e.place > ?1 ORDER BY e.place LIMIT ?2"
    );
    const FIRST: &str =
        concat!("SELECT ", event_columns!(), " FROM events e WHERE e.place IS NOT NULL ORDER BY e.place LIMIT ?1");
    snapshot(db, |db| {
        let Some(chain) = one(db, CHAIN, [], |cells| rows::chain(cells.table("audit_chain")))? else { return Ok(None) };
        let rows = match after {
            // A place that no chain of ours reaches has nothing after it.
            Some(after) => all(db, ROWS, params![i64::try_from(after).unwrap_or(i64::MAX), limit], rows::event)?,
            None => all(db, FIRST, [limit], rows::event)?,
        };
        Ok(Some(ChainRead { chain, rows }))
    })
}

pub(crate) fn last_place(db: &Connection, up_to: u64) -> Result<Option<u64>, Fault> {
    const SQL: &str = "SELECT max(e.place) FROM events e WHERE e.place <= ?1";
    let up_to = i64::try_from(up_to).unwrap_or(i64::MAX);
    Ok(one(db, SQL, [up_to], |cells| cells.u64_if())?.flatten())
}

pub(crate) fn unsealed(db: &Connection, limit: u32) -> Result<Vec<EventRow>, Fault> {
    const SQL: &str =
        concat!("SELECT ", event_columns!(), " FROM events e WHERE e.place IS NULL ORDER BY e.seq LIMIT ?1");
    all(db, SQL, [limit], rows::event)
}

pub(crate) fn count(db: &Connection) -> Result<Unsealed, Fault> {
    const SQL: &str =
        "SELECT count(*), min(e.at) FROM (SELECT r.at FROM events r WHERE r.place IS NULL ORDER BY r.seq LIMIT ?1) e";
    let counted = one(db, SQL, [COUNTED], |cells| Ok(Unsealed { count: cells.u64()?, since: cells.time_if()? }))?;
    Ok(counted.unwrap_or_default())
}
