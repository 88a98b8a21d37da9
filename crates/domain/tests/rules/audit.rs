//! Chains of thousands of kinds, each tampered with in one way: it is always found. What is done by the rules is never taken for it.
use crate::world::Seeded;
use portcullis_domain::audit::{
    self, AuditKey, ChainRow, Checked, FARTHEST, Finding, Hidden, LEAP, MAX_FINDINGS, Page, Part, Place, Record, Seen,
    Start, Unsealed, seen,
};
use portcullis_domain::{Actor, Chance, EventKind, NewEvent};
use portcullis_wire::{AccountId, ClientId, Digest, EventId, LogId, Rev, SecretBytes, SessionId, Time};

const LOG: LogId = LogId::from_bits(7);

/// A debug build is some twenty times slower.
const CASES: u64 = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

fn below(dice: &mut Seeded, n: u64) -> usize {
    dice.below(n) as usize
}

fn record(dice: &mut Seeded, n: i64) -> Record {
    let kind = EventKind::ALL[below(dice, EventKind::ALL.len() as u64)];
    let mut event = NewEvent::new(EventId::from_bits(dice.bits()), kind, &Actor::Operator);
    let bits = dice.bits();
    event.account = (bits & 1 > 0).then(|| AccountId::from_bits(dice.bits() % 3));
    event.session = (bits & 2 > 0).then(|| SessionId::from_bits(dice.bits()));
    event.client = (bits & 4 > 0).then(|| ClientId::from_bits(dice.bits()));
    let ip = ["192.0.2.1", "2001:db8::1", "198.51.100.7"][below(dice, 3)].parse().ok();
    event.ip = ip.filter(|_| bits & 8 > 0);
    event.reason = (bits & 16 > 0).then(|| ["", "why", "„so“"][(bits >> 8) as usize % 3].into());
    let (rev, ended) = ((bits & 32 > 0).then_some(Rev(n as u64)), (bits & 64 > 0).then_some(3));
    Record { event, at: Time(n), rev, ended, seal: None }
}

/// A chain as a store keeps it.
#[derive(Debug, Clone)]
struct Kept {
    row: ChainRow,
    rows: Vec<Record>,
}

fn key() -> AuditKey {
    AuditKey(SecretBytes::new([3; 32]))
}

impl Kept {
    fn new(dice: &mut Seeded, count: i64) -> Self {
        let start = key().genesis(LOG);
        let row = ChainRow::new(SecretBytes::new([]), start);
        let mut kept = Self { row, rows: Vec::new() };
        kept.add(dice, count);
        kept
    }
    fn add(&mut self, dice: &mut Seeded, count: i64) {
        let first = self.rows.len() as i64;
        let mut new: Vec<Record> = (first..first + count).map(|n| record(dice, n)).collect();
        while !new.is_empty() {
            let some: Vec<Record> = new.drain(..new.len().min(1 + below(dice, 5))).collect();
            let done = audit::seal(&key(), LOG, self.row.head, &some, dice);
            assert_eq!(done.from, self.row.head);
            self.row.head = done.to;
            for (record, (id, seal)) in some.into_iter().zip(done.seals) {
                assert_eq!(record.event.id, id);
                self.rows.push(Record { seal: Some(seal), ..record });
            }
        }
    }
    fn prune(&mut self, most: usize) {
        let shown = &self.rows[..(most + 1).min(self.rows.len())];
        let Some(done) = audit::prune(&key(), LOG, &self.row, shown, most, Time(i64::MAX)).unwrap() else { return };
        assert_eq!(done.from, self.row.start.place);
        self.row.start = done.to;
        self.rows.retain(|row| row.seal.unwrap().place.n > done.to.place.n);
    }
    fn erase(&mut self, n: usize) {
        let Some(row) = self.rows.get_mut(n) else { return };
        (row.event.ip, row.event.reason) = (None, None);
        let seal = row.seal.as_mut().unwrap();
        [&mut seal.hides.address, &mut seal.hides.reason].into_iter().flatten().for_each(|one| one.salt = None);
    }
    /// As it is read: by place.
    fn by_place(&self) -> Vec<Record> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.seal.unwrap().place.n);
        rows
    }
    fn check(&self, known: Option<Place>) -> Vec<Finding> {
        self.checked(known, 1_000_000).findings
    }
    /// In pages of so many.
    fn checked(&self, known: Option<Place>, size: usize) -> Checked {
        let rows = self.by_place();
        let mut from: Option<Place> = None;
        let (mut findings, mut records, mut erased, mut met) = (Vec::new(), 0, 0, false);
        loop {
            let (reading, size) = (audit::reading(from, self.row.start), size + usize::from(from.is_some()));
            let after = |row: &&Record| reading.is_none_or(|place| row.seal.unwrap().place.n > place);
            let page: Vec<Record> = rows.iter().filter(after).take(size).cloned().collect();
            let last = audit::is_last(&self.row, &page, size);
            let page = Page { log: LOG, chain: &self.row, from, known, rows: &page, last };
            let out = audit::check(&key(), &page);
            let stands = from == Some(out.to) && !out.findings.is_empty();
            findings.extend(out.findings);
            (records, erased, met) = (records + out.records, erased + out.erased, met | out.known);
            from = Some(out.to);
            // Of so many at one place that a page holds no others, more is not told.
            if last || stands {
                return Checked { findings, to: out.to, records, erased, known: met };
            }
        }
    }
}

#[test]
fn what_the_rules_do_is_no_tampering() {
    for seed in 0..300 {
        let mut dice = Seeded(seed);
        let (count, more) = (below(&mut dice, 12) as i64, below(&mut dice, 12) as i64);
        let mut kept = Kept::new(&mut dice, count);
        let known = kept.row.head;
        for _ in 0..3 {
            let n = below(&mut dice, 20);
            kept.erase(n);
        }
        kept.add(&mut dice, more);
        let size = 1 + below(&mut dice, 7);
        let out = kept.checked(Some(known), size);
        assert_eq!(
            (out.findings, out.known, out.records, out.to),
            (vec![], true, (count + more) as u64, kept.row.head)
        );
        // What is pruned up to the known place leaves it known; beyond, nothing can be told.
        let most = below(&mut dice, 12);
        kept.prune(most);
        kept.add(&mut dice, 2);
        let found = kept.checked(Some(known), size).findings;
        match kept.row.start.place.n > known.n {
            false => assert_eq!(found, [], "seed {seed}"),
            true => assert!(found.iter().all(|one| matches!(one, Finding::Forgotten { .. })) && !found.is_empty()),
        }
        assert_eq!(kept.checked(None, size).findings, []);
        // From a place that was checked before.
        let rest: Vec<Record> = kept.by_place().into_iter().filter(|row| row.seal.unwrap().place.n > known.n).collect();
        if kept.row.start.place.n <= known.n {
            let page = Page { log: LOG, chain: &kept.row, from: Some(known), known: None, rows: &rest, last: true };
            assert_eq!(audit::check(&key(), &page).findings, []);
        }
    }
}

/// Changes something that somebody can who has the database and not the key. What it was, in words; `None`: it changed nothing.
fn tamper(kept: &mut Kept, dice: &mut Seeded) -> Option<&'static str> {
    let n = below(dice, kept.rows.len() as u64);
    let m = below(dice, kept.rows.len() as u64);
    let row = &mut kept.rows[n];
    let before = row.clone();
    let seal = row.seal.as_mut().unwrap();
    let what = match below(dice, 27) {
        0 => {
            row.event.kind = EventKind::ALL[below(dice, EventKind::ALL.len() as u64)];
            "kind"
        }
        1 => {
            row.event.actor = "anonymous".into();
            "actor"
        }
        2 => {
            row.event.account = Some(AccountId::from_bits(dice.bits()));
            "account"
        }
        3 => {
            row.event.session = None;
            "session"
        }
        4 => {
            row.event.client = None;
            "client"
        }
        5 => {
            row.event.ip = "203.0.113.9".parse().ok();
            "address"
        }
        6 => {
            row.event.reason = Some("another".into());
            "reason"
        }
        7 => {
            row.event.reason = None;
            "reason gone, its salt not"
        }
        8 => {
            row.at = row.at.plus(1);
            "time"
        }
        9 => {
            row.rev = row.rev.map_or(Some(Rev(0)), |_| None);
            "rev"
        }
        10 => {
            row.ended = row.ended.map_or(Some(0), |n| n.checked_sub(1));
            "ended"
        }
        11 => {
            row.event.id = EventId::from_bits(dice.bits());
            "id"
        }
        12 => {
            seal.place.link.0[below(dice, 32)] ^= 1;
            "link"
        }
        13 => {
            seal.hides.address = None;
            "commitment gone"
        }
        14 => {
            seal.hides.reason = Some(Hidden { commitment: Digest([1; 32]), salt: None });
            "commitment put in"
        }
        15 => {
            std::mem::swap(&mut seal.hides.address, &mut seal.hides.reason);
            "commitments changed places"
        }
        16 => {
            seal.hides.address.as_mut()?.salt = Some([0; 16]);
            "salt"
        }
        17 => {
            kept.rows.remove(n);
            "removed"
        }
        18 => {
            kept.rows.truncate(n);
            "the end removed"
        }
        19 => {
            kept.rows.drain(..=n);
            "the beginning removed"
        }
        20 => {
            // Two that changed places, and keep their links, or do not.
            let (a, b) = (kept.rows[n].seal.unwrap(), kept.rows[m].seal.unwrap());
            let (mut to_a, mut to_b) = (b, a);
            (to_a.place.n, to_b.place.n) = (b.place.n, a.place.n);
            if dice.bits() & 1 > 0 {
                (to_a.place.link, to_b.place.link) = (a.place.link, b.place.link);
                (to_a.hides, to_b.hides) = (a.hides, b.hides);
            }
            (kept.rows[n].seal, kept.rows[m].seal) = (Some(to_a), Some(to_b));
            if n == m {
                return None;
            }
            "two changed places"
        }
        21 => {
            // One put in between, and all that follow moved on; the chain's row as well.
            let mut new = record(dice, 5);
            new.seal = kept.rows[n].seal;
            for row in &mut kept.rows[n..] {
                row.seal.as_mut().unwrap().place.n += 1;
            }
            kept.row.head.n += 1;
            kept.rows.insert(n, new);
            "inserted"
        }
        22 => {
            let mut new = record(dice, 5);
            let mut seal = kept.rows[n].seal.unwrap();
            seal.place.n = if dice.bits() & 1 > 0 { 0 } else { kept.row.head.n + 1 + below(dice, 3) as u64 };
            new.seal = Some(seal);
            kept.rows.push(new);
            "put in before the beginning or beyond the end"
        }
        23 => {
            // The beginning cut off, and the start set there: without the key.
            let place = kept.rows[n].seal.unwrap().place;
            kept.rows.drain(..=n);
            kept.row.start = Start { place, ..kept.row.start };
            "a beginning cut off and signed with an old mark"
        }
        25 => {
            // Another one at a place, before or after the one that is there, as it happens to be read; or the same once more.
            let mut new = if dice.bits() & 1 > 0 { record(dice, 5) } else { kept.rows[n].clone() };
            new.seal = kept.rows[n].seal;
            kept.rows.insert(n + below(dice, 2), new);
            return Some("a second one at a place");
        }
        24 => {
            kept.row.head.link.0[0] ^= 1;
            "the row's link"
        }
        _ => {
            // One taken out, and those that follow closed up.
            kept.rows.remove(n);
            for row in &mut kept.rows[n..] {
                row.seal.as_mut().unwrap().place.n -= 1;
            }
            kept.row.head.n -= 1;
            "removed and closed up"
        }
    };
    let same = kept.rows.get(n).is_some_and(|row| *row == before);
    (!same || matches!(what, "the row's link" | "put in before the beginning or beyond the end")).then_some(what)
}

#[test]
fn tampering_is_always_found() {
    let mut kinds = std::collections::BTreeMap::new();
    for seed in 0..CASES {
        let mut dice = Seeded(seed);
        let count = 1 + below(&mut dice, 6) as i64;
        let mut kept = Kept::new(&mut dice, count);
        let most = below(&mut dice, count as u64);
        if dice.bits() & 1 > 0 {
            kept.prune(most);
        }
        let n = below(&mut dice, 9);
        kept.erase(n);
        assert_eq!(kept.check(None), []);
        let Some(what) = tamper(&mut kept, &mut dice) else { continue };
        *kinds.entry(what).or_insert(0) += 1;
        let size = 1 + below(&mut dice, 9);
        let found = kept.checked(None, size).findings;
        // What takes the last away and sets the chain's end back is what only a known place shows.
        let cut = what == "removed and closed up"
            && kept.rows.last().map(|row| row.seal.unwrap().place) == Some(kept.row.head);
        assert!(!found.is_empty() || cut, "seed {seed}: {what} is not found in {kept:#?}");
        // Without the key nothing comes of making all of it anew.
        if seed % 16 == 0 {
            let forger = AuditKey(SecretBytes::new([4; 32]));
            let page = Page { log: LOG, chain: &kept.row, from: None, known: None, rows: &kept.by_place(), last: true };
            assert!(!audit::check(&forger, &page).findings.is_empty());
        }
    }
    assert!(kinds.len() >= 20 && kinds.values().all(|n| *n >= 10), "{kinds:?}");
}

/// The pruner signs nothing for who sets times back: neither after any tampering, nor for times alone.
#[test]
fn what_was_tampered_with_is_not_pruned_away() {
    let (mut refused, mut pruned) = (0, 0);
    for seed in 0..CASES {
        let mut dice = Seeded(seed);
        let count = 1 + below(&mut dice, 6) as i64;
        let mut kept = Kept::new(&mut dice, count);
        let most = below(&mut dice, count as u64);
        if dice.bits() & 1 > 0 {
            kept.prune(most);
        }
        if dice.bits() & 1 > 0 {
            let _ = tamper(&mut kept, &mut dice);
        }
        // Those up to here come due by their times; some of those before them may be taken away.
        let rows = kept.rows.len();
        let upto = below(&mut dice, 1 + rows as u64);
        kept.rows[..upto].iter_mut().for_each(|row| row.at = Time(-1));
        if upto > 0 && dice.bits() & 1 > 0 {
            kept.rows.drain(..below(&mut dice, upto as u64));
        }
        let before = kept.check(None);
        match audit::prune(&key(), LOG, &kept.row, &kept.by_place(), usize::MAX, Time(0)) {
            Err(finding) => {
                refused += 1;
                assert!(!before.is_empty(), "seed {seed}: {finding}");
            }
            // All of these are from after that time: what is backdated is never whole.
            Ok(what) => assert_eq!(what, None, "seed {seed}"),
        }
        // What is due by its own time goes, and takes no finding along.
        if let Ok(Some(what)) = audit::prune(&key(), LOG, &kept.row, &kept.by_place(), 1 + seed as usize % 4, Time(3)) {
            pruned += 1;
            let to = what.to.place.n;
            kept.row.start = what.to;
            kept.rows.retain(|row| row.seal.unwrap().place.n > to);
            assert_eq!(kept.check(None), before, "seed {seed}");
        }
    }
    assert!(refused > CASES / 4 && pruned > CASES / 20, "{refused} {pruned}");
}

#[test]
fn a_process_knows_where_it_saw_the_chain_end() {
    let mut dice = Seeded(3);
    let mut kept = Kept::new(&mut dice, 4);
    let seen = kept.row.head;
    let follows = |kept: &Kept| {
        let rows = kept.by_place();
        let there = rows.iter().find(|row| row.seal.unwrap().place.n >= seen.n);
        seen::follows(seen, &kept.row, there)
    };
    assert_eq!(follows(&kept), None);
    let mut shorter = kept.clone();
    shorter.rows.truncate(2);
    shorter.row.head = shorter.rows[1].seal.unwrap().place;
    assert_eq!(follows(&shorter), Some(Finding::Truncated { head: 2, known: 4 }));
    // Sealed anew up to there, and then beyond.
    shorter.add(&mut dice, 2);
    assert_eq!(follows(&shorter), Some(Finding::Replaced { known: 4 }));
    shorter.add(&mut dice, 2);
    assert_eq!(follows(&shorter), Some(Finding::Replaced { known: 4 }));
    shorter.rows.remove(3);
    assert_eq!(follows(&shorter), Some(Finding::Missing { from: 4, to: 4 }));
    // It went on, and was pruned up to there, and beyond.
    kept.add(&mut dice, 3);
    assert_eq!(follows(&kept), None);
    kept.prune(4);
    assert_eq!(follows(&kept), None);
    kept.prune(2);
    assert_eq!(follows(&kept), None);
}

/// A chain that was begun anew is whole by itself, whatever stands before it; and no start of the one kind is taken for the other.
#[test]
fn a_chain_that_was_begun_anew_is_whole_by_itself() {
    let mut dice = Seeded(9);
    let mut kept = Kept::new(&mut dice, 5);
    kept.rows[2].at = Time(99);
    assert!(!kept.check(None).is_empty());
    let broken = kept.row.head;
    let start = key().start_anew(LOG, broken.n, broken.n).unwrap();
    (kept.row.start, kept.row.head) = (start, start.place);
    assert_eq!(kept.check(None), []);
    kept.add(&mut dice, 3);
    for size in 1..9 {
        let out = kept.checked(Some(kept.row.head), size);
        assert_eq!((out.findings, out.records, out.known), (vec![], 3, true), "{size}");
    }
    // What is done to it is found as ever.
    for n in 5..8 {
        let mut other = kept.clone();
        other.rows.remove(n);
        assert!(!other.check(None).is_empty());
        let mut other = kept.clone();
        other.rows[n].event.actor = "anonymous".into();
        assert!(!other.check(None).is_empty());
    }
    let mut forged = kept.clone();
    forged.row.start = AuditKey(SecretBytes::new([4; 32])).start_anew(LOG, broken.n, broken.n).unwrap();
    assert!(forged.check(None).contains(&Finding::Start));
    // A start that pruning made takes nothing before it for an earlier chain's.
    let mut pruned = Kept::new(&mut dice, 5);
    pruned.prune(2);
    let mut late = pruned.rows[0].clone();
    late.seal.as_mut().unwrap().place.n = 1;
    pruned.rows.insert(0, late);
    assert!(matches!(pruned.check(None)[..], [Finding::Inserted { n: 1, .. }]));
}

/// Between what an earlier chain has left and the beginning no server has put a record: whoever does is found, wherever a page ends,
/// and nothing of it goes as if it were old.
#[test]
fn what_is_put_between_two_chains_is_found() {
    let mut dice = Seeded(12);
    let mut kept = Kept::new(&mut dice, 5);
    kept.rows[2].at = Time(99);
    let old = kept.row.head.n;
    let start = key().start_anew(LOG, old, old + 70).unwrap();
    assert_eq!(start.place.n, old + 70 + LEAP);
    (kept.row.start, kept.row.head) = (start, start.place);
    kept.add(&mut dice, 3);
    assert_eq!(kept.check(None), []);
    for n in [old + 1, old + 70, start.place.n - 1, start.place.n] {
        let mut forged = kept.clone();
        let mut row = forged.rows[1].clone();
        row.seal.as_mut().unwrap().place.n = n;
        let found = Finding::Inserted { n, event: row.event.id };
        forged.rows.push(row);
        for size in 1..10 {
            let mut findings = forged.checked(None, size).findings;
            findings.dedup(); // at the beginning itself it is every page's
            assert_eq!(findings, [found], "{n} {size}");
        }
        let pruned = audit::prune(&key(), LOG, &forged.row, &forged.by_place(), 100, Time(i64::MAX));
        assert_eq!(pruned, Err(found));
        // Who writes down that the old chain went so far has not the key.
        forged.row.start.old = Some(n);
        assert!(forged.check(None).contains(&Finding::Start));
        forged.row.start.old = None;
        assert!(forged.check(None).contains(&Finding::Start));
    }
    // A chain that was begun anew before that was written down begins as it did.
    assert!(key().begins(LOG, start) && key().begins(LOG, key().genesis(LOG)));
}

/// A chain begins anew wherever somebody without the key says that the old one ends, and never runs out of numbers for that.
#[test]
fn no_number_keeps_a_chain_from_beginning_anew() {
    assert_eq!(key().start_anew(LOG, 3, FARTHEST).unwrap().place.n, FARTHEST + LEAP);
    assert_eq!(key().start_anew(LOG, i64::MAX as u64 - LEAP, 0).unwrap().place.n, i64::MAX as u64);
    for n in [i64::MAX as u64 - LEAP + 1, i64::MAX as u64, u64::MAX] {
        assert_eq!((key().start_anew(LOG, n, 0), key().start_anew(LOG, 0, n)), (None, None));
    }
}

/// Only what somebody with the key has said lets go of what was seen, and each of that once.
#[test]
fn what_was_seen_is_let_go_only_by_who_has_the_key() {
    let mut dice = Seeded(5);
    let mut kept = Kept::new(&mut dice, 6);
    let older = kept.clone();
    kept.add(&mut dice, 4);
    let seen = Seen { number: 7, place: kept.row.head };
    let wrong = |kept: &Kept, seen: Seen| {
        let held = match seen::held(&key(), LOG, &kept.row, Some(seen)) {
            Ok(held) => held.unwrap(),
            Err(finding) => return (Some(finding), seen),
        };
        let rows = kept.by_place();
        let there = rows.iter().find(|row| row.seal.unwrap().place.n >= held.place.n);
        (seen::follows(held.place, &kept.row, there), held)
    };
    let truncated = (Some(Finding::Truncated { head: 6, known: 10 }), seen);
    assert_eq!((wrong(&kept, seen), wrong(&older, seen)), ((None, seen), truncated));
    let mut put_back = older.clone();
    let forged = AuditKey(SecretBytes::new([4; 32])).attest(LOG, 8, older.row.head);
    let of_another_log = key().attest(LogId::from_bits(8), 8, older.row.head);
    let good = key().attest(LOG, 8, older.row.head);
    let elsewhere = audit::Attested { place: kept.row.head, ..good };
    let later = audit::Attested { number: 9, ..good };
    for one in [forged, of_another_log, elsewhere, later, key().attest(LOG, 7, older.row.head)] {
        put_back.row.attested = Some(one);
        assert_eq!(wrong(&put_back, seen), truncated, "{one:?}");
    }
    put_back.row.attested = Some(good);
    let goes_on = Seen { number: 8, place: older.row.head };
    assert_eq!(wrong(&put_back, seen), (None, goes_on));
    // It goes on from there: what was seen since is not let go by the same words.
    put_back.add(&mut dice, 3);
    let since = Seen { number: 8, place: put_back.row.head };
    assert!(since.is_beyond(&seen) && !seen.is_beyond(&since));
    assert_eq!(wrong(&put_back, since), (None, since));
    let mut again = older.clone();
    again.row.attested = Some(good);
    assert_eq!(wrong(&again, since), (Some(Finding::Truncated { head: 6, known: 9 }), since));
    // Whoever has seen nothing holds what was attested against it.
    assert_eq!(seen::held(&key(), LOG, &again.row, None), Ok(Some(goes_on)));
    let number = |row: &ChainRow, seen, now| seen::next_number(&key(), LOG, row, seen, Time(now));
    let numbers = (number(&again.row, None, 3), number(&again.row, Some(Seen { number: 20, ..since }), 3));
    assert_eq!((numbers, number(&again.row, None, 99), number(&kept.row, None, -5)), ((9, 21), 99, 1));
    again.row.attested = Some(audit::Attested { number: u64::MAX - 1, ..good });
    assert_eq!(number(&again.row, None, 3), 3, "what nobody attested counts for nothing");
    // A beginning that lies beyond what was seen would let go of it, too.
    let mut begun = older.clone();
    begun.row.start = AuditKey(SecretBytes::new([4; 32])).start_anew(LOG, 6, 10).unwrap();
    begun.row.head = begun.row.start.place;
    assert_eq!(wrong(&begun, seen).0, Some(Finding::Start));
    begun.row.start = key().start_anew(LOG, 6, 10).unwrap();
    begun.row.head = begun.row.start.place;
    assert_eq!(wrong(&begun, seen).0, None);
}

/// Where the chain ends is believed by the last link alone.
#[test]
fn an_end_that_was_put_there_is_none() {
    for seed in 0..200 {
        let mut dice = Seeded(seed);
        let count = below(&mut dice, 5) as i64;
        let mut kept = Kept::new(&mut dice, count);
        let most = below(&mut dice, 4);
        kept.prune(most);
        let ends = |kept: &Kept| {
            let after = seen::before_end(&kept.row);
            let rows: Vec<Record> = kept.by_place();
            let rows: Vec<Record> = rows.into_iter().filter(|row| row.seal.unwrap().place.n > after).take(2).collect();
            seen::ends(&key(), LOG, &kept.row, &rows)
        };
        assert_eq!(ends(&kept), None, "seed {seed}");
        for n in [kept.row.head.n + 1, kept.row.head.n.wrapping_sub(1).min(i64::MAX as u64), i64::MAX as u64] {
            let mut other = kept.clone();
            other.row.head.n = n;
            assert_eq!(ends(&other), Some(Finding::Head { n }), "seed {seed}");
        }
        let mut other = kept.clone();
        other.row.head.link = Digest([9; 32]);
        assert!(ends(&other).is_some());
        if let Some(last) = kept.rows.len().checked_sub(1) {
            let mut other = kept.clone();
            other.rows[last].event.actor = "somebody else".into();
            assert!(ends(&other).is_some(), "seed {seed}");
            // Also where the record, too, claims that link.
            let mut other = kept.clone();
            (other.row.head.link, other.rows[last].seal.as_mut().unwrap().place.link) =
                (Digest([9; 32]), Digest([9; 32]));
            assert!(ends(&other).is_some(), "seed {seed}");
        }
    }
}

#[test]
fn what_was_done_is_said() {
    let mut dice = Seeded(1);
    let whole = Kept::new(&mut dice, 9);
    let id = |n: usize| whole.rows[n].event.id;
    // Removed: which.
    let mut kept = whole.clone();
    kept.rows.drain(3..5);
    assert_eq!(kept.check(None), [Finding::Missing { from: 4, to: 5 }]);
    // Changed: which.
    let mut kept = whole.clone();
    kept.rows[2].event.actor = "nobody".into();
    assert_eq!(kept.check(None), [Finding::Changed { n: 3, event: id(2) }]);
    // Two whose contents changed places.
    let mut kept = whole.clone();
    let (a, b) = (kept.rows[5].clone(), kept.rows[6].clone());
    let with = |row: &Record, hides: &Record, place: Place| Record {
        seal: Some(audit::Seal { place, hides: hides.seal.unwrap().hides }),
        ..row.clone()
    };
    kept.rows[5] = with(&b, &b, a.seal.unwrap().place);
    kept.rows[6] = with(&a, &a, b.seal.unwrap().place);
    let moved = [Finding::Moved { n: 6, event: id(6), own: 7 }, Finding::Moved { n: 7, event: id(5), own: 6 }];
    assert_eq!(kept.check(None), moved);
    // A part of one.
    let mut kept = whole.clone();
    let n = kept.rows.iter().position(|row| row.event.ip.is_some()).unwrap();
    kept.rows[n].event.ip = "203.0.113.9".parse().ok();
    assert_eq!(kept.check(None), [Finding::Part { n: n as u64 + 1, event: id(n), part: Part::Address }]);
    // An end that was cut off, by whoever sets the row back as well; an older database; one that went on otherwise.
    let mut kept = whole.clone();
    kept.rows.truncate(6);
    kept.row.head = kept.rows[5].seal.unwrap().place;
    assert_eq!(kept.check(None), []);
    assert_eq!(kept.check(Some(whole.row.head)), [Finding::Truncated { head: 6, known: 9 }]);
    kept.add(&mut dice, 5);
    assert_eq!(kept.check(None), []);
    assert_eq!(kept.check(Some(whole.row.head)), [Finding::Replaced { known: 9 }]);
    // The chain of another log is another one.
    let page =
        Page { log: LogId::from_bits(8), chain: &whole.row, from: None, known: None, rows: &whole.rows, last: true };
    assert!(audit::check(&key(), &page).findings.contains(&Finding::Start));
    // Many: so many are named.
    let mut kept = Kept::new(&mut dice, 300);
    kept.rows.iter_mut().for_each(|row| row.at = Time(0).minus(1));
    assert_eq!(kept.check(None).len(), MAX_FINDINGS);
    for finding in [Finding::Start, Finding::Head { n: 1 }, moved[0]] {
        assert!(!finding.to_string().is_empty() && !finding.as_str().is_empty());
    }
}

#[test]
fn nothing_is_guessed_from_what_is_left_of_an_address() {
    let mut dice = Seeded(5);
    let mut kept = Kept::new(&mut dice, 40);
    let with: Vec<usize> = (0..40).filter(|n| kept.rows[*n].event.ip.is_some()).collect();
    let commitment = |kept: &Kept, n: usize| kept.rows[n].seal.unwrap().hides.address.unwrap().commitment;
    // The same address never leaves the same commitment, and the salt is what it takes to try one.
    for pair in with.windows(2) {
        assert_ne!(commitment(&kept, pair[0]), commitment(&kept, pair[1]));
    }
    let n = with[0];
    let before = kept.rows[n].seal.unwrap().hides.address.unwrap();
    kept.erase(n);
    let after = kept.rows[n].seal.unwrap().hides.address.unwrap();
    assert_eq!((after.commitment, after.salt, before.salt.is_some()), (before.commitment, None, true));
    assert_eq!((kept.check(None), kept.checked(None, 9).erased), (vec![], 1));
    // Put back by guessing, it is found all the same.
    kept.rows[n].event.ip = "192.0.2.1".parse().ok();
    assert_eq!(kept.check(None).len(), 1);
}

#[test]
fn places_are_written_and_read() {
    let place = key().genesis(LOG).place;
    let text = Place { n: 412, ..place }.to_string();
    assert_eq!(text.parse(), Ok(Place { n: 412, ..place }));
    for wrong in [
        "",
        ":",
        "1",
        "1:",
        "1:AA",
        "-1:A",
        "+1:x",
        "1:2:3",
        &format!("{}0", text),
        &text.replace("412", "18446744073709551616"),
        &text.replace("412", "9223372036854775808"),
        &text.replace("412", "+4"),
    ] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
}

#[test]
fn what_waits_for_long_is_told_of() {
    let waits = Unsealed { count: 2, since: Some(Time(1_000)) };
    assert_eq!((waits.age(Time(1_500)), waits.alarm(Time(1_500))), (500, None));
    assert_eq!(waits.age(Time(0)), 0, "a clock that was set back");
    let words = waits.alarm(Time(1_000 + audit::LATE)).unwrap();
    assert!(words.contains("2 audit records") && words.contains("10000 ms"));
    assert_eq!(Unsealed::default().alarm(Time(i64::MAX)), None);
}
