//! The chain over audit records. What it means stands in `domain::audit`.
//!
//! Records are sealed by a statement of their own on one of the readers' connections, beside the committer, so that no act waits
//! for it. The rest of the chain changes with other acts.
use crate::cells::{Fault, Id as _};
use crate::commit::hex;
use crate::pool::Reader;
use crate::rows::{self, event_columns};
use portcullis_domain::audit::{
    Anew, Attested, COUNTED, ChainRow, Hidden, Hides, Place, Pruning, Seal, Sealing, Unsealed,
};
use portcullis_domain::changes::{Change, Conflict};
use portcullis_store::{ChainRead, CommitError, EventRow};
use serde_json::{Value, json};
use sqlx::query;

/// The chain's row beside each record, and once where there is none.
pub(crate) async fn chain(db: &Reader, after: Option<u64>, limit: u32) -> Result<Option<ChainRead>, Fault> {
    const SQL: &str = concat!(
        "SELECT c.key, c.start, c.start_link, c.start_mac, c.head, c.head_link, c.start_old, c.attested, c.attested_place, \
         c.attested_link, c.attested_mac, ",
        event_columns!(),
        " FROM audit_chain c LEFT JOIN LATERAL (SELECT r.* FROM events r WHERE r.place IS NOT NULL AND r.place > $1 \
         ORDER BY r.place LIMIT $2) e ON true ORDER BY e.place"
    );
    // No place is below the least number.
    let after = after.map_or(i64::MIN, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let make = || query(SQL).bind(after).bind(i64::from(limit));
    let read = db.all(make, |cells| {
        let chain = rows::chain(cells.table("audit_chain"))?;
        let row = if cells.is_null() { None } else { Some(rows::event(cells)?) };
        Ok((chain, row))
    });
    let mut out: Option<ChainRead> = None;
    for (chain, row) in read.await? {
        out.get_or_insert_with(|| ChainRead { chain, rows: Vec::new() }).rows.extend(row);
    }
    Ok(out)
}

pub(crate) async fn last_place(db: &Reader, up_to: u64) -> Result<Option<u64>, Fault> {
    const SQL: &str = "SELECT max(e.place) FROM events e WHERE e.place <= $1";
    let up_to = i64::try_from(up_to).unwrap_or(i64::MAX);
    Ok(db.one(|| query(SQL).bind(up_to), |cells| cells.number_if()).await?.flatten())
}

pub(crate) async fn unsealed(db: &Reader, limit: u32) -> Result<Vec<EventRow>, Fault> {
    const SQL: &str =
        concat!("SELECT ", event_columns!(), " FROM events e WHERE e.place IS NULL ORDER BY e.seq LIMIT $1");
    db.all(|| query(SQL).bind(i64::from(limit)), rows::event).await
}

pub(crate) async fn count(db: &Reader) -> Result<Unsealed, Fault> {
    const SQL: &str =
        "SELECT count(*), min(e.at) FROM (SELECT r.at FROM events r WHERE r.place IS NULL ORDER BY r.seq LIMIT $1) e";
    let counted = db
        .one(
            || query(SQL).bind(i64::from(COUNTED)),
            |cells| Ok(Unsealed { count: cells.number()?, since: cells.time_if()? }),
        )
        .await?;
    Ok(counted.unwrap_or_default())
}

/// Seals records. A conflict when the chain has moved, or one of them. Told twice it is a conflict, too.
pub(crate) async fn seal(db: &Reader, what: &Sealing) -> Result<(), CommitError> {
    let text = encode(what).to_string();
    let sealed = db.one(|| query("SELECT seal_records($1::jsonb)").bind(&text), |_| Ok(())).await;
    sealed.map(drop).map_err(|fault| match &fault {
        Fault::Sqlx(sqlx::Error::Database(error)) if error.code().as_deref() == Some("PC001") => {
            CommitError::Conflict(Conflict::Moved)
        }
        // The server reports it and lives on: it came before the commit.
        Fault::Sqlx(sqlx::Error::Database(error)) if error.code().is_some_and(|code| !code.starts_with("57P0")) => {
            CommitError::Failed(fault.into())
        }
        _ => CommitError::Unknown(fault.into()),
    })
}

/// As `seal_records` reads it.
fn encode(what: &Sealing) -> Value {
    let commitment = |hidden: Option<Hidden>| hidden.map(|one| hex(&one.commitment.0));
    let salt = |hidden: Option<Hidden>| hidden.and_then(|one| one.salt).map(|salt| hex(&salt));
    let seals = what.seals.iter().map(|(id, Seal { place, hides: Hides { address, reason } })| {
        json!({
            "id": hex(&id.blob()), "place": place.n, "link": hex(&place.link.0), "ip_seal": commitment(*address),
            "ip_salt": salt(*address), "reason_seal": commitment(*reason), "reason_salt": salt(*reason),
        })
    });
    json!({
        "from": what.from.n, "from_link": hex(&what.from.link.0), "head": what.to.n, "head_link": hex(&what.to.link.0),
        "ids": what.seals.iter().map(|(id, _)| hex(&id.blob())).collect::<Vec<_>>(), "seals": seals.collect::<Vec<_>>(),
    })
}

/// What is done when everything else of an act is written: `set_chain`.
pub(crate) fn last(what: &Change) -> Option<Value> {
    let begins = |word: &str, from: Option<Place>, row: &ChainRow| {
        let ChainRow { key, start, head, attested: _ } = row;
        json!({
            "do": word, "from": from.map(|from| from.n), "from_link": from.map(|from| hex(&from.link.0)),
            "key": hex(key.expose()), "start": start.place.n, "start_link": hex(&start.place.link.0),
            "start_mac": hex(&start.mac.0), "start_old": start.old, "head": head.n, "head_link": hex(&head.link.0),
        })
    };
    Some(match what {
        Change::BeginChain(row) | Change::BeginAnew(Anew { from: None, row }) => begins("begin_chain", None, row),
        Change::BeginAnew(Anew { from, row }) => begins("begin_anew", *from, row),
        Change::Attest { key, attested: Attested { number, place, mac } } => json!({
            "do": "attest", "key": hex(key.expose()), "number": number, "place": place.n,
            "link": hex(&place.link.0), "mac": hex(&mac.0),
        }),
        Change::PruneChain(Pruning { from, to, up_to }) => json!({
            "do": "prune_chain", "from": from.n, "from_link": hex(&from.link.0), "start": to.place.n, "up_to": up_to,
            "start_link": hex(&to.place.link.0), "start_mac": hex(&to.mac.0), "start_old": to.old,
        }),
        Change::SetChainKey { before, sealed } => json!({
            "do": "set_chain_key", "from_key": hex(before.expose()), "to_key": hex(sealed.expose()),
        }),
        _ => return None,
    })
}
