use crate::support::{Chance, LOG, end, entry, ses};
use portcullis_feed::publisher::{Broken, Limits, LogState, Resume};
use portcullis_feed::{Mono, Publisher};
use portcullis_wire::frame::Tail;
use portcullis_wire::jws::Jwk;
use portcullis_wire::{Chain, Entry, Epoch, KeyId, Rev, Target, Time, Verb};

fn chained(from: Chain, entries: &[Entry]) -> Chain {
    entries.iter().fold(from, Chain::after)
}

fn log(n: u64, recent: usize) -> (Publisher, Vec<Entry>) {
    let entries: Vec<Entry> = (1..=n).map(|rev| entry(&mut Chance::new(rev), rev, rev as i64)).collect();
    let mut p = Publisher::empty(LOG, Limits { recent, set: 1000 });
    p.append(&entries, chained(p.chain(), &entries), Mono(0)).unwrap();
    (p, entries)
}

#[test]
fn only_what_continues_the_chain_enters() {
    let (mut p, _) = log(5, 10);
    let before = (p.head(), p.chain(), p.set().len());
    let next = [end(6, Target::Session(ses(1)))];
    let good = chained(p.chain(), &next);
    assert_eq!(p.append(&[end(7, Target::All)], good, Mono(0)), Err(Broken::Gap { expected: Rev(6), found: Rev(7) }));
    assert_eq!(p.append(&[end(5, Target::All)], good, Mono(0)), Err(Broken::Gap { expected: Rev(6), found: Rev(5) }));
    assert_eq!(p.append(&[end(6, Target::All)], good, Mono(0)), Err(Broken::Fork { at: Rev(6) }));
    assert_eq!(p.append(&[], good, Mono(0)), Err(Broken::Fork { at: Rev(5) }));
    assert_eq!((p.head(), p.chain(), p.set().len()), before);
    assert_eq!(p.append(&next, good, Mono(0)), Ok(()));
    assert_eq!(p.head(), Rev(6));
}

#[test]
fn resume_continues_or_brings_a_snapshot() {
    let (p, entries) = log(50, 20);
    let e = p.epoch();
    for from in 0..=50u64 {
        let behind = (50 - from) as usize;
        let want = if behind <= 20 { Resume::Entries(entries[from as usize..].to_vec()) } else { Resume::Snapshot };
        assert_eq!(p.resume(e, Rev(from), 1000), want);
    }
    assert_eq!(p.resume(e, Rev(45), 4), Resume::Snapshot);
    assert_eq!(p.resume(e, Rev(51), 1000), Resume::Ahead);
    assert_eq!(p.resume(Epoch(1), Rev(0), 1000), Resume::Ahead);
    assert_eq!(p.tail(e, Rev(51), 1000), Tail::Entries(Vec::new()));
}

#[test]
fn a_link_is_held_against_what_was_appended_here_and_what_the_store_gave() {
    let (p, entries) = log(40, 30);
    let link = |rev: usize| chained(Chain::genesis(LOG), &entries[..rev]);
    let state = LogState {
        log: LOG,
        epoch: p.epoch(),
        head: p.head(),
        chain: p.chain(),
        floor: p.floor(),
        live: entries.clone(),
    };
    // One that has appended everything, and one that has read it and appends on: what lies before has no link of its own there.
    let mut again = Publisher::new(state, Limits { recent: 30, set: 1000 }, Mono(0));
    let more: Vec<Entry> = (41..=45).map(|rev| end(rev, Target::Session(ses(rev)))).collect();
    again.append(&more, chained(again.chain(), &more), Mono(0)).unwrap();
    for (p, head) in [(&p, 40), (&again, 45)] {
        for rev in head - 29..=40 {
            assert_eq!(p.agrees(Rev(rev as u64), link(rev), 100), Some(true), "{rev} of {head}");
            assert_eq!(p.agrees(Rev(rev as u64), link(rev - 1), 100), Some(false), "{rev} of {head}");
        }
        assert_eq!(p.agrees(Rev(5), link(5), 100), None, "forgotten");
        assert_eq!(p.agrees(Rev(30), link(30), 5), None, "more than may be looked at");
        assert_eq!(p.agrees(Rev(50), link(40), 100), None, "beyond");
    }
}

#[test]
fn a_restart_from_the_store_goes_on_alike() {
    let (mut p, entries) = log(30, 100);
    p.set_floor(Time(10));
    p.set_floor(Time(5)); // never back
    assert_eq!(p.floor(), Time(10));
    let state = LogState {
        log: LOG,
        epoch: p.epoch(),
        head: p.head(),
        chain: p.chain(),
        floor: p.floor(),
        live: entries.iter().filter(|e| e.until >= Time(10)).cloned().collect(),
    };
    let mut q = Publisher::new(state, Limits::default(), Mono(0));
    let plain = |p: &Publisher| p.set().live_entries();
    assert_eq!(plain(&p), plain(&q));
    assert_eq!(q.resume(q.epoch(), Rev(12), 100), p.resume(p.epoch(), Rev(12), 100));
    assert_eq!(q.resume(q.epoch(), Rev(3), 100), Resume::Snapshot);
    let next = [end(31, Target::All)];
    let chain = chained(p.chain(), &next);
    assert_eq!((p.append(&next, chain, Mono(0)), q.append(&next, chain, Mono(0))), (Ok(()), Ok(())));
    assert_eq!(plain(&p), plain(&q));
}

#[test]
fn snapshots_have_parts_and_the_keys_first() {
    let mut p = Publisher::empty(LOG, Limits::default());
    let key = |n| Jwk::es256(KeyId(n), &[4; 65]).unwrap();
    assert!(p.set_keys(vec![key(1), key(2)]));
    let parts = p.snapshot(10);
    assert_eq!((parts.len(), parts[0].parts, parts[0].keys.len()), (1, 1, 2));
    let mut entries: Vec<Entry> = (1..=25).map(|n| end(n, Target::Session(ses(n)))).collect();
    entries.push(Entry { verb: Verb::Key, ..end(26, Target::Key(KeyId(1))) });
    p.append(&entries, chained(p.chain(), &entries), Mono(0)).unwrap();
    let parts = p.snapshot(10);
    assert_eq!(parts.iter().map(|s| s.entries.len()).collect::<Vec<_>>(), [10, 10, 6]);
    assert_eq!(parts.iter().map(|s| s.keys.len()).collect::<Vec<_>>(), [1, 0, 0], "a dead key is never listed");
    assert!(parts.iter().zip(0..).all(|(s, n)| s.part == n && s.parts == 3 && s.rev == Rev(26)));
    assert!(!p.set_keys(vec![key(1), key(2)]));
}
