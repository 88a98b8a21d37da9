//! What a process has seen of the chain, and what it takes to let it go.
//!
//! A database cannot show that it is not an older one of itself; a process that was there can. It remembers the furthest place that is
//! *proven*: the start, whose MAC it checks, or a record whose link is right. So nobody without the key brings it to remember a
//! place that the chain never had. What it has seen it holds against the chain for as long as it lives, and over its end by a file.
//!
//! Sometimes the database is an older one by right: a backup was restored and the log founded anew, or a failover has lost the last
//! seals. Then somebody with the key says so: it is [`Attested`] under the key that the chain goes on from a place. That is believed
//! once: each has a greater number than those before, and what was seen carries the number that it was seen under. Nothing else lets
//! go of what was seen, least of all an epoch or a start that whoever writes to the database can put there.
use super::{AuditKey, ChainRow, Finding, Place, Record};
use portcullis_wire::{Digest, LogId, Time};

/// That the chain goes on from a place, whatever was seen beyond it: said by a server with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attested {
    /// Greater than that of any before.
    pub number: u64,
    /// From where it goes on.
    pub place: Place,
    /// Over both, under the key.
    pub mac: Digest,
}

/// The furthest place that a process has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Up to which number it has believed what was attested.
    pub number: u64,
    /// The place.
    pub place: Place,
}

impl Seen {
    /// Whether this is further than that.
    pub fn is_beyond(&self, other: &Self) -> bool {
        (self.number, self.place.n) > (other.number, other.place.n)
    }
}

impl AuditKey {
    /// Says that the chain goes on from this place.
    pub fn attest(&self, log: LogId, number: u64, place: Place) -> Attested {
        let parts: [&[u8]; 4] =
            [&log.bits().to_be_bytes(), &number.to_be_bytes(), &place.n.to_be_bytes(), &place.link.0];
        Attested { number, place, mac: self.mac(b"audit goes on 1", &parts) }
    }

    fn attests(&self, log: LogId, one: &Attested) -> bool {
        self.attest(log, one.number, one.place) == *one
    }
}

/// The number of what is attested at `now`, by who has seen that: greater than any that is known. Times are greater than whatever was
/// counted before, also by nodes that nobody here knows of.
pub fn next_number(key: &AuditKey, log: LogId, chain: &ChainRow, seen: Option<Seen>, now: Time) -> u64 {
    let attested = chain.attested.filter(|one| key.attests(log, one)).map_or(0, |one| one.number);
    let known = attested.max(seen.map_or(0, |seen| seen.number));
    known.saturating_add(1).max(u64::try_from(now.0).unwrap_or(0))
}

/// What a process that has seen that holds against the chain: the same, or from where it goes on by what was attested since.
///
/// # Errors
/// [`Finding::Start`]: the chain's beginning was put there by somebody without the key, and nothing can be held against it.
pub fn held(key: &AuditKey, log: LogId, chain: &ChainRow, seen: Option<Seen>) -> Result<Option<Seen>, Finding> {
    if !key.begins(log, chain.start) {
        return Err(Finding::Start);
    }
    let newer = |one: &Attested| seen.is_none_or(|seen| one.number > seen.number) && key.attests(log, one);
    let attested = chain.attested.filter(newer).map(|one| Seen { number: one.number, place: one.place });
    Ok(attested.or(seen))
}

/// What a process that has seen the chain end at `seen` finds wrong with it now. `there`: what stands at that place, where the chain
/// goes beyond it. A place that was pruned since tells nothing.
pub fn follows(seen: Place, chain: &ChainRow, there: Option<&Record>) -> Option<Finding> {
    let place = match seen.n {
        n if n > chain.head.n => return Some(Finding::Truncated { head: chain.head.n, known: n }),
        n if n == chain.head.n => chain.head,
        n if n < chain.start.place.n => return None,
        n if n == chain.start.place.n => chain.start.place,
        n => match there.and_then(|record| record.seal).filter(|seal| seal.place.n == n) {
            Some(seal) => seal.place,
            None => return Some(Finding::Missing { from: n, to: n }),
        },
    };
    (place != seen).then_some(Finding::Replaced { known: seen.n })
}

/// After which place to read what [`ends`] needs: two records.
pub fn before_end(chain: &ChainRow) -> u64 {
    chain.head.n.saturating_sub(2)
}

/// What is wrong with where the chain's row says that it ends: whoever writes to the database can put any number there. `rows`: what
/// stands after [`before_end`].
pub fn ends(key: &AuditKey, log: LogId, chain: &ChainRow, rows: &[Record]) -> Option<Finding> {
    let (head, start) = (chain.head, chain.start.place);
    if head.n <= start.n {
        return (head != start).then_some(Finding::Head { n: head.n });
    }
    let at = |n: u64| rows.iter().find_map(|row| Some((row, row.seal.filter(|seal| seal.place.n == n)?)));
    let before = match head.n - 1 {
        n if n == start.n => Some(start.link),
        n => at(n).map(|(_, seal)| seal.place.link),
    };
    let proven = before.zip(at(head.n)).is_some_and(|(before, (record, seal))| {
        seal.place == head && key.link(log, head.n, &before, record, &seal.hides) == head.link
    });
    (!proven).then_some(Finding::Head { n: head.n })
}
