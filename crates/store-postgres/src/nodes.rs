//! The rows of the nodes that share the database.
use crate::cells::{Cells, Fault, Id as _, escaped};
use crate::pool::Reader;
use crate::told::{timeline, timeline_of};
use portcullis_domain::ledger::OTHERS_LIMIT;
use portcullis_store::NodeRow;
use portcullis_wire::{Epoch, NodeId};
use sqlx::query;
use std::collections::BTreeMap;

/// Writes a row, and tells the other nodes that it did.
pub(crate) async fn put(db: &Reader, row: &NodeRow) -> Result<(), Fault> {
    const SQL: &str = "WITH put AS (
            INSERT INTO nodes (id, beat, body) VALUES ($1, $2, $3)
            ON CONFLICT (id) DO UPDATE SET beat = excluded.beat, body = excluded.body
            WHERE nodes.beat <= excluded.beat
            RETURNING 1)
        SELECT pg_notify('portcullis_log', 'nodes') FROM put";
    let beat = number(row.beat)?;
    db.all(|| query(SQL).bind(row.id.blob()).bind(beat).bind(escaped(&row.body)), |_| Ok(())).await.map(drop)
}

/// All rows, by id.
pub(crate) async fn list(db: &Reader) -> Result<Vec<NodeRow>, Fault> {
    let row = |cells: &mut Cells<'_>| Ok(NodeRow { id: cells.id()?, beat: cells.number()?, body: cells.text()? });
    db.all(|| query("SELECT id, beat, body FROM nodes ORDER BY id"), row).await
}

/// Removes a row whose beat still is this one. Whether it did.
pub(crate) async fn remove(db: &Reader, id: NodeId, beat: u64) -> Result<bool, Fault> {
    let beat = number(beat)?;
    let gone = db.all(
        || query("DELETE FROM nodes WHERE id = $1 AND beat = $2 RETURNING 1").bind(id.blob()).bind(beat),
        |_| Ok(()),
    );
    Ok(!gone.await?.is_empty())
}

/// How many groups of commits are counted under this id; `None`: it has made none.
pub(crate) async fn commits(db: &Reader, by: NodeId) -> Result<Option<u64>, Fault> {
    const SQL: &str = "SELECT commits FROM committers WHERE id = $1";
    db.one(|| query(SQL).bind(by.blob()), |cells| cells.number()).await
}

/// What the database counts of the other nodes, in an epoch and on a timeline.
struct Counted {
    epoch: Epoch,
    timeline: u32,
    counts: BTreeMap<NodeId, u64>,
}

/// A small synchronous commit where a standby may take over, as the read of the log is: a primary that was deposed meanwhile gives
/// no answer.
async fn counted(db: &Reader) -> Result<Counted, Fault> {
    const SQL: &str = concat!(
        "SELECT m.epoch, ",
        timeline!(),
        ", c.id, c.commits, (SELECT CASE WHEN current_setting('synchronous_standby_names') <> '' \
         THEN pg_logical_emit_message(true, 'portcullis', '') END) FROM meta m LEFT JOIN LATERAL (SELECT id, commits FROM committers WHERE id <> $1 \
         ORDER BY id LIMIT $2) c ON true"
    );
    let (own, most) = (db.told.ledger().told.by.blob(), i64::try_from(OTHERS_LIMIT).unwrap_or(i64::MAX));
    let mut all = Counted { epoch: Epoch(0), timeline: 0, counts: BTreeMap::new() };
    let read = |cells: &mut Cells<'_>| {
        all.epoch = Epoch(cells.number()?);
        all.timeline = timeline_of(&cells.get::<String>()?)?;
        if !cells.is_null() {
            let by = cells.id()?;
            all.counts.insert(by, cells.number()?);
        }
        Ok(())
    };
    db.all(|| query(SQL).bind(own).bind(most), read).await?;
    Ok(all)
}

/// Holds what is counted of the others against what was seen of it.
pub(crate) async fn look_at_others(db: &Reader) -> Result<(), Fault> {
    let mut found = counted(db).await?;
    if db.told.doubts_others(found.epoch, &found.counts, found.timeline) {
        // A kept connection may lead to a primary from which a standby has taken over.
        db.renew();
        found = counted(db).await?;
    }
    db.told.look_at_others(found.epoch, &found.counts, found.timeline);
    Ok(())
}

fn number(beat: u64) -> Result<i64, Fault> {
    i64::try_from(beat).map_err(|_| Fault::Row(format!("the beat {beat} cannot be kept")))
}
