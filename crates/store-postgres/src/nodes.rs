//! The rows of the nodes that share the database.
use crate::cells::{Cells, Fault, Id as _, escaped};
use crate::pool::Reader;
use portcullis_store::NodeRow;
use portcullis_wire::NodeId;
use sqlx::query;

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

fn number(beat: u64) -> Result<i64, Fault> {
    i64::try_from(beat).map_err(|_| Fault::Row(format!("the beat {beat} cannot be kept")))
}
