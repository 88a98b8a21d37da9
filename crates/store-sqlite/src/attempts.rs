//! Budgets for guesses, and the networks that accounts signed in from. What is decided about them stands in `domain::throttle`.
use crate::cells::{Fault, Id as _, Int, all, one};
use crate::reads::snapshot;
use portcullis_domain::throttle::{self, Attempt, Bucket, BucketKey, Budget, Verdict};
use portcullis_domain::view::RiskView;
use portcullis_store::AttemptCount;
use portcullis_wire::{AccountId, Time};
use rusqlite::{Connection, params};

fn row(db: &Connection, key: BucketKey) -> Result<Option<Bucket>, Fault> {
    const SQL: &str = "SELECT b.key, b.debt, b.seen_at FROM budgets b WHERE b.key = ?1";
    one(db, SQL, [key.0], |cells| {
        cells.table("budgets").get::<[u8; 16]>()?;
        Ok(Bucket { debt: cells.get()?, seen_at: cells.time()? })
    })
}

fn rows(db: &Connection, attempt: &Attempt) -> Result<[Option<Bucket>; 3], Fault> {
    let [account, second, prefix] = attempt.keys();
    Ok([row(db, account)?, row(db, second)?, row(db, prefix)?])
}

/// What is remembered of an account for the rules of risk, and these buckets.
pub(crate) fn risk(db: &Connection, account: AccountId, buckets: &[BucketKey]) -> Result<RiskView, Fault> {
    const SQL: &str = "SELECT r.account, r.memory, r.version FROM risk_memories r WHERE r.account = ?1";
    snapshot(db, |db| {
        let kept = one(db, SQL, [account.blob()], |cells| {
            cells.table("risk_memories").id::<AccountId>()?;
            Ok((cells.get()?, cells.get()?))
        })?;
        let (memory, version) = kept.unzip();
        let buckets = buckets.iter().map(|key| row(db, *key)).collect::<Result<_, _>>()?;
        Ok(RiskView { memory, version: version.unwrap_or(0), buckets })
    })
}

/// Whether there was one to be taken.
pub(crate) fn draw(db: &Connection, bucket: BucketKey, budget: Budget, now: Time) -> Result<bool, Fault> {
    let drawn = throttle::draw(budget, row(db, bucket)?, now);
    drawn.map(|row| write(db, bucket, &row)).transpose().map(|drawn| drawn.is_some())
}

fn write(db: &Connection, key: BucketKey, row: &Bucket) -> Result<(), Fault> {
    const SQL: &str = "INSERT INTO budgets (key, debt, seen_at, full_at) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (key) DO UPDATE SET debt = ?2, seen_at = ?3, full_at = ?4";
    db.prepare_cached(SQL)?.execute(params![key.0, row.debt, row.seen_at.0, row.full_at().0])?;
    Ok(())
}

/// All three rows are written whatever the verdict, so that the disk does not tell.
pub(crate) fn take(db: &Connection, attempt: &Attempt, now: Time) -> Result<Verdict, Fault> {
    const KNOWN: &str = "SELECT k.at FROM known_networks k WHERE k.account = ?1 AND k.network = ?2";
    let at = one(db, KNOWN, params![attempt.account.0, attempt.network.0], |cells| cells.time())?;
    let remembered = at.is_some_and(|at| throttle::is_remembered(at, now));
    let (verdict, new) = throttle::take(attempt, remembered, rows(db, attempt)?, now);
    for (key, row) in attempt.keys().into_iter().zip(new) {
        write(db, key, &row)?;
    }
    Ok(verdict)
}

pub(crate) fn give_back(db: &Connection, attempt: &Attempt, verdict: Verdict, now: Time) -> Result<(), Fault> {
    let new = throttle::give_back(attempt, verdict, rows(db, attempt)?, now);
    for (key, row) in attempt.keys().into_iter().zip(new) {
        if let Some(row) = row {
            write(db, key, &row)?;
        }
    }
    Ok(())
}

pub(crate) fn know(db: &Connection, account: BucketKey, network: BucketKey, now: Time) -> Result<(), Fault> {
    const SQL: &str = "INSERT INTO known_networks (account, network, at) VALUES (?1, ?2, ?3) \
         ON CONFLICT (account, network) DO UPDATE SET at = ?3";
    const OF_ACCOUNT: &str = "SELECT k.network, k.at FROM known_networks k WHERE k.account = ?1";
    const FORGET: &str = "DELETE FROM known_networks WHERE account = ?1 AND network = ?2";
    db.prepare_cached(SQL)?.execute(params![account.0, network.0, now.0])?;
    let known = all(db, OF_ACCOUNT, [account.0], |cells| Ok((BucketKey(cells.get()?), cells.time()?)))?;
    for gone in throttle::networks_to_forget(known, now) {
        db.prepare_cached(FORGET)?.execute(params![account.0, gone.0])?;
    }
    Ok(())
}

pub(crate) fn prune(db: &Connection, keep: u64, most: u64, now: Time) -> Result<(), Fault> {
    const FULL: &str = "DELETE FROM budgets WHERE key IN \
         (SELECT b.key FROM budgets b WHERE b.full_at <= ?1 ORDER BY b.full_at, b.key LIMIT ?2)";
    const SOONEST: &str = "DELETE FROM budgets WHERE key IN \
         (SELECT b.key FROM budgets b ORDER BY b.full_at, b.key LIMIT ?1)";
    const NETWORKS: &str = "DELETE FROM known_networks WHERE (account, network) IN \
         (SELECT k.account, k.network FROM known_networks k WHERE k.at <= ?1 ORDER BY k.at, k.account, k.network LIMIT ?2)";
    let most = most.min(i64::MAX.unsigned_abs());
    let gone = db.prepare_cached(FULL)?.execute(params![now.0, Int(most)])? as u64;
    let too_many = count(db)?.buckets.saturating_sub(keep).min(most.saturating_sub(gone));
    if too_many > 0 {
        db.prepare_cached(SOONEST)?.execute([Int(too_many)])?;
    }
    let forgotten = now.minus(throttle::NETWORK_LIFE);
    db.prepare_cached(NETWORKS)?.execute(params![forgotten.0, Int(most)])?;
    Ok(())
}

pub(crate) fn count(db: &Connection) -> Result<AttemptCount, Fault> {
    const SQL: &str = "SELECT (SELECT count(*) FROM budgets), (SELECT count(*) FROM known_networks)";
    let count = one(db, SQL, [], |cells| Ok(AttemptCount { buckets: cells.u64()?, networks: cells.u64()? }))?;
    Ok(count.unwrap_or_default())
}
