//! Budgets for guesses, and the networks that accounts signed in from.
use super::Memory;
use crate::CommitError;
use portcullis_domain::changes::Conflict;
use portcullis_domain::throttle::{self, Attempt, Bucket, BucketKey, Budget, Verdict};
use portcullis_wire::Time;

fn rows(db: &Memory, attempt: &Attempt) -> [Option<Bucket>; 3] {
    attempt.keys().map(|key| db.buckets.get(&key).copied())
}

pub(super) fn take(db: &mut Memory, attempt: &Attempt, now: Time) -> Verdict {
    let at = db.networks.get(&(attempt.account, attempt.network));
    let remembered = at.is_some_and(|at| throttle::is_remembered(*at, now));
    let (verdict, new) = throttle::take(attempt, remembered, rows(db, attempt), now);
    attempt.keys().into_iter().zip(new).for_each(|(key, row)| db.buckets.put(key, row));
    verdict
}

pub(super) fn give_back(db: &mut Memory, attempt: &Attempt, verdict: Verdict, now: Time) {
    let new = throttle::give_back(attempt, verdict, rows(db, attempt), now);
    for (key, row) in attempt.keys().into_iter().zip(new) {
        if let Some(row) = row {
            db.buckets.put(key, row);
        }
    }
}

pub(super) fn draw(db: &mut Memory, bucket: BucketKey, budget: Budget, now: Time) -> Result<(), CommitError> {
    let drawn = throttle::draw(budget, db.buckets.get(&bucket).copied(), now);
    db.buckets.put(bucket, drawn.ok_or(CommitError::Conflict(Conflict::Moved))?);
    Ok(())
}

pub(super) fn know(db: &mut Memory, account: BucketKey, network: BucketKey, now: Time) {
    db.networks.put((account, network), now);
    let of_account = (account, BucketKey([0; 16]))..=(account, BucketKey([255; 16]));
    let known = db.networks.range(of_account).map(|((_, network), at)| (*network, *at)).collect();
    for gone in throttle::networks_to_forget(known, now) {
        db.networks.remove(&(account, gone));
    }
}

pub(super) fn prune(db: &mut Memory, keep: u64, most: u64, now: Time) {
    let mut buckets: Vec<(Time, BucketKey)> = db.buckets.rows().map(|(key, row)| (row.full_at(), *key)).collect();
    buckets.sort();
    let too_many = (buckets.len() as u64).saturating_sub(keep);
    let goes = |(n, (full_at, _)): &(usize, &(Time, BucketKey))| *full_at <= now || (*n as u64) < too_many;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    for (_, (_, key)) in buckets.iter().enumerate().take(most).filter(goes) {
        db.buckets.remove(key);
    }
    let old = |(_, at): &(&(BucketKey, BucketKey), &Time)| !throttle::is_remembered(**at, now);
    let mut old: Vec<_> = db.networks.rows().filter(old).map(|(key, at)| (*at, *key)).collect();
    old.sort();
    old.iter().take(most).for_each(|(_, key)| db.networks.remove(key));
}
