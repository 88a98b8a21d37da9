//! The chain over audit records, as it is written.
use super::apply::run;
use super::check::holds;
use super::{Act, Stop};
use crate::cells::{Id, Int};
use portcullis_domain::audit::{Anew, Attested, ChainRow, Hidden, Place, Pruning, Seal, Sealing, Start};
use portcullis_domain::changes::Conflict;
use portcullis_wire::{EventId, SecretBytes};
use rusqlite::{Params, params};

/// Runs a statement that changes one row; it has moved otherwise.
fn moves(act: &Act<'_>, sql: &str, params: impl Params) -> Result<(), Stop> {
    holds(run(act, sql, params)? == 1, Conflict::Moved)
}

pub(super) fn begin(act: &Act<'_>, row: &ChainRow) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO audit_chain (one, key, start, start_link, start_mac, head, head_link, start_old) \
         VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    let (Start { place, mac, old }, head) = (row.start, row.head);
    let old = old.map(Int);
    moves(act, SQL, params![row.key.expose(), Int(place.n), place.link.0, mac.0, Int(head.n), head.link.0, old])
}

pub(super) fn seal(act: &Act<'_>, what: &Sealing) -> Result<(), Stop> {
    const HEAD: &str = "UPDATE audit_chain SET head = ?3, head_link = ?4 WHERE head = ?1 AND head_link = ?2";
    let Place { n, link } = what.from;
    moves(act, HEAD, params![Int(n), link.0, Int(what.to.n), what.to.link.0])?;
    what.seals.iter().try_for_each(|(id, seal)| seal_one(act, *id, seal))
}

fn seal_one(act: &Act<'_>, id: EventId, seal: &Seal) -> Result<(), Stop> {
    // What was erased since it was read gets no salt.
    const SQL: &str = "UPDATE events SET place = ?2, link = ?3, ip_seal = ?4, ip_salt = iif(ip IS NULL, NULL, ?5), \
         reason_seal = ?6, reason_salt = iif(reason IS NULL, NULL, ?7) WHERE id = ?1 AND place IS NULL";
    let parts = |hidden: Option<Hidden>| (hidden.map(|one| one.commitment.0), hidden.and_then(|one| one.salt));
    let (address, reason) = (parts(seal.hides.address), parts(seal.hides.reason));
    let Place { n, link } = seal.place;
    moves(act, SQL, params![id.blob(), Int(n), link.0, address.0, address.1, reason.0, reason.1])
}

pub(super) fn prune(act: &mut Act<'_>, what: &Pruning) -> Result<(), Stop> {
    const START: &str = "UPDATE audit_chain SET start = ?3, start_link = ?4, start_mac = ?5, start_old = ?6 \
         WHERE start = ?1 AND start_link = ?2 AND head >= ?3";
    let (from, to) = (what.from, what.to);
    moves(act, START, params![Int(from.n), from.link.0, Int(to.place.n), to.place.link.0, to.mac.0, to.old.map(Int)])?;
    act.pruned += run(act, "DELETE FROM events WHERE place <= ?1", [Int(what.up_to.min(to.place.n))])? as u64;
    Ok(())
}

pub(super) fn begin_anew(act: &Act<'_>, what: &Anew) -> Result<(), Stop> {
    const SQL: &str = "UPDATE audit_chain SET key = ?3, start = ?4, start_link = ?5, start_mac = ?6, head = ?7, head_link = ?8, \
         start_old = ?9, attested = NULL, attested_place = NULL, attested_link = NULL, attested_mac = NULL \
         WHERE head = ?1 AND head_link = ?2";
    let Some(Place { n, link }) = what.from else { return begin(act, &what.row) };
    let ChainRow { key, start: Start { place, mac, old }, head, attested: _ } = &what.row;
    let (key, old) = (key.expose(), old.map(Int));
    let params = params![Int(n), link.0, key, Int(place.n), place.link.0, mac.0, Int(head.n), head.link.0, old];
    moves(act, SQL, params)
}

pub(super) fn attest(act: &Act<'_>, key: &SecretBytes, attested: &Attested) -> Result<(), Stop> {
    const SQL: &str = "UPDATE audit_chain SET attested = ?2, attested_place = ?3, attested_link = ?4, attested_mac = ?5 \
         WHERE key = ?1";
    let Attested { number, place, mac } = attested;
    moves(act, SQL, params![key.expose(), Int(*number), Int(place.n), place.link.0, mac.0])
}

pub(super) fn set_key(act: &Act<'_>, before: &SecretBytes, sealed: &SecretBytes) -> Result<(), Stop> {
    moves(act, "UPDATE audit_chain SET key = ?2 WHERE key = ?1", params![before.expose(), sealed.expose()])
}
