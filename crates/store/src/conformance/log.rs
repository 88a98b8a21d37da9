//! The log: horizon, floor, forgetting, reading in pieces.
use super::{Backend, HORIZON, World, end, revoke, wait};
use crate::EventFilter;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::EventKind;
use portcullis_wire::{Rev, Target, Time, Verb};

fn everyone(w: &World<'_>) -> Rev {
    w.end(Target::All).rev.unwrap()
}

pub(super) fn horizon_and_floor_never_fall(backend: &dyn Backend) {
    let w = World::new(backend);
    let read = || {
        let stamp = wait(w.store.stamp()).unwrap();
        (stamp.horizon, stamp.floor)
    };
    w.ok([Change::RaiseHorizon(HORIZON), Change::RaiseFloor(Time(500))]);
    w.ok([Change::RaiseHorizon(HORIZON.minus(1)), Change::RaiseFloor(Time(499))]);
    assert_eq!(read(), (HORIZON, Time(500)));
    w.ok([Change::RaiseFloor(Time(501))]);
    w.ok([Change::RaiseHorizon(HORIZON.plus(1))]);
    assert_eq!(read(), (HORIZON.plus(1), Time(501)));
}

pub(super) fn forgetting_is_a_prefix_and_is_told(backend: &dyn Backend) {
    let w = World::new(backend);
    for until in [10, 20, 20, 30] {
        w.ok([Change::RaiseHorizon(Time(until))]);
        everyone(&w);
    }
    let chain = wait(w.store.stamp()).unwrap().chain;
    let live = || wait(w.store.read_live()).unwrap().1.iter().map(|entry| entry.rev.0).collect::<Vec<_>>();
    let complete = |after| wait(w.store.read_log(Rev(after), 100)).unwrap().complete;
    w.ok([Change::RaiseFloor(Time(10))]);
    assert_eq!(live(), [1, 2, 3, 4], "an entry is kept while its until is the floor");
    assert!(complete(0));
    w.ok([Change::RaiseFloor(Time(11))]);
    assert_eq!(live(), [2, 3, 4]);
    assert_eq!([0, 1, 2, 4, 9].map(complete), [false, true, true, true, true]);
    w.ok([Change::RaiseFloor(Time(25))]);
    assert_eq!(live(), [4]);
    assert_eq!([0, 1, 2, 3, 4].map(complete), [false, false, false, true, true]);
    w.ok([Change::RaiseFloor(Time(15))]);
    assert_eq!(live(), [4]);
    // All of them, and on with a new one: its number and its link follow what was forgotten.
    w.ok([Change::RaiseFloor(Time(1000))]);
    let read = wait(w.store.read_log(Rev(0), 100)).unwrap();
    assert!(!read.complete && read.entries.is_empty() && read.stamp.head == Rev(4) && read.stamp.chain == chain);
    assert_eq!((complete(3), complete(4)), (false, true));
    assert_eq!(everyone(&w), Rev(5));
    assert_eq!(live(), [5], "the horizon lies before the floor, and nothing forgets by itself");
    let (stamp, entries) = wait(w.store.read_live()).unwrap();
    assert_eq!(stamp.chain, chain.after(&entries[0]));
    assert_eq!((complete(3), complete(4)), (false, true));
    // A floor that forgets what the same commit writes.
    w.ok([end(Target::All, None), Change::RaiseFloor(Time(1001)), end(Target::All, None)]);
    assert_eq!((live(), complete(5), complete(6)), (vec![7], false, true));
}

pub(super) fn the_log_is_read_in_pieces(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    for n in 0..10u64 {
        match n % 3 {
            0 => w.ok([end(Target::Account(ada.id), Some(ses.id))]),
            1 => w.ok([revoke(Verb::Stale, Target::Session(ses.id), None)]),
            _ => w.ok([end(Target::All, None)]),
        };
    }
    let (stamp, whole) = wait(w.store.read_live()).unwrap();
    assert_eq!(whole.len(), 10);
    for limit in [1, 3, 10, 11] {
        let (mut after, mut pieces) = (Rev::ZERO, Vec::new());
        loop {
            let piece = wait(w.store.read_log(after, limit)).unwrap();
            assert!(piece.complete && piece.stamp == stamp && piece.entries.len() <= limit as usize);
            let Some(last) = piece.entries.last() else { break };
            after = last.rev;
            pieces.extend(piece.entries);
        }
        assert_eq!(pieces, whole);
    }
    assert!(wait(w.store.read_log(Rev(3), 0)).unwrap().entries.is_empty());
    for beyond in [10, 11, u64::MAX] {
        let read = wait(w.store.read_log(Rev(beyond), 5)).unwrap();
        assert!(read.entries.is_empty() && read.complete && read.stamp.head == Rev(10));
    }
    assert!(wait(w.store.load_revocation(Rev(u64::MAX))).unwrap_or(None).is_none());
}

pub(super) fn records_outlive_entries(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    let event = w.event(EventKind::EveryoneEnded);
    w.commit(Changes { steps: vec![end(Target::All, None)], events: vec![event.clone()], ..Changes::default() })
        .unwrap();
    w.ok([Change::RaiseFloor(HORIZON.plus(1))]);
    assert!(wait(w.store.read_live()).unwrap().1.is_empty());
    assert_eq!(wait(w.store.load_revocation(Rev(1))).unwrap().unwrap().event, event);
    let filter = EventFilter { revocations: true, ..EventFilter::default() };
    assert_eq!(wait(w.store.list_events(&filter, None, 10)).unwrap().rows.len(), 1);
    assert_eq!(wait(w.store.stamp()).unwrap().all.rev, Rev(1), "the cut stays");
}
