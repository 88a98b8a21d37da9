use crate::support::Chance;
use portcullis_feed::fleet::limit_of_client;
use portcullis_feed::fleet::{Full, Instance, Unknown};
use portcullis_feed::mono::{lengthened, shortened};
use portcullis_feed::{Fleet, Mono, Policies, Policy};
use portcullis_wire::{ClientId, InstanceId, Rev};
use std::collections::BTreeSet;

const B: i64 = 5000;

fn instance(n: u128, policy: Policy) -> Instance {
    let id = InstanceId::from_bits(n);
    Instance {
        id,
        name: format!("v{n}"),
        client: ClientId::from_bits(1),
        policies: Policies::only(policy),
        bound_ms: None,
    }
}
fn id(n: u128) -> InstanceId {
    InstanceId::from_bits(n)
}
fn fleet() -> Fleet {
    Fleet::new(B, 0, 100)
}

#[test]
fn nobody_is_complete() {
    let e = fleet().enforcement(Rev(1), Mono(10), Mono(10));
    assert!(e.complete);
    assert_eq!((e.acknowledged, e.lapsed, e.pending, e.until_expiry), (0, 0, 0, 0));
    assert_eq!(e.bounded_by_ms, 5050);
}

#[test]
fn acknowledged_or_lapsed_by_arithmetic() {
    let mut f = fleet();
    for n in 1..=3 {
        f.known(instance(n, Policy::Closed), Mono(0)).unwrap();
    }
    f.lease_granted(id(1), Mono(1000), Mono(1001)).unwrap();
    f.lease_granted(id(2), Mono(900), Mono(1001)).unwrap();
    let at = Mono(2000);
    let e = f.enforcement(Rev(7), at, Mono(2001));
    assert_eq!((e.acknowledged, e.lapsed, e.pending, e.complete), (0, 0, 2, false), "3 held no lease");
    assert_eq!(e.complete_at, Some(Mono(1000 + 5050)));
    assert_eq!(f.ack(id(1), Rev(6), Mono(2002)), Ok(true));
    assert_eq!(f.ack(id(1), Rev(8), Mono(2003)), Ok(true));
    assert_eq!(f.ack(id(1), Rev(8), Mono(2004)), Ok(false));
    let e = f.enforcement(Rev(7), at, Mono(2005));
    assert_eq!((e.acknowledged, e.pending, e.complete), (1, 1, false));
    assert_eq!(e.complete_at, Some(Mono(900 + 5050)));
    let e = f.enforcement(Rev(7), at, Mono(900 + 5050));
    assert_eq!((e.acknowledged, e.lapsed, e.pending, e.complete), (1, 1, 0, true));
}

#[test]
fn a_lease_renewed_without_applying_ends_by_the_commit() {
    let mut f = fleet();
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    for basis in [0, 1500, 3000, 4500, 6000] {
        f.lease_granted(id(1), Mono(basis), Mono(basis)).unwrap();
    }
    let e = f.enforcement(Rev(7), Mono(2000), Mono(6001));
    assert_eq!((e.pending, e.complete_at), (1, Some(Mono(2000 + 5050))));
    assert!(f.enforcement(Rev(7), Mono(2000), Mono(7050)).complete);
}

#[test]
fn a_late_acknowledgement_stays_lapsed() {
    let mut f = fleet();
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.ack(id(1), Rev(1), Mono(0)).unwrap();
    f.lease_granted(id(1), Mono(0), Mono(0)).unwrap();
    f.committed(Rev(2), Mono(100));
    f.committed(Rev(3), Mono(19_000));
    f.lease_granted(id(1), Mono(20_000), Mono(20_000)).unwrap();
    f.ack(id(1), Rev(3), Mono(20_001)).unwrap();
    // it came back with a new run of leases: at the commit of 2 the older run held
    let e = f.enforcement(Rev(2), Mono(100), Mono(20_002));
    assert!(e.complete && e.acknowledged == 0);
    let mut f = fleet();
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.ack(id(1), Rev(1), Mono(0)).unwrap();
    for basis in (0..20_000).step_by(1500) {
        f.lease_granted(id(1), Mono(basis), Mono(basis)).unwrap();
    }
    f.committed(Rev(2), Mono(100));
    f.committed(Rev(3), Mono(19_000));
    f.ack(id(1), Rev(3), Mono(20_001)).unwrap();
    let of = |rev, at| f.enforcement(Rev(rev), Mono(at), Mono(20_002));
    assert_eq!((of(2, 100).lapsed, of(2, 100).acknowledged), (1, 0));
    assert_eq!((of(3, 19_000).lapsed, of(3, 19_000).acknowledged), (0, 1));
}

#[test]
fn after_a_restart_everybody_may_hold_a_lease() {
    let mut f = fleet();
    f.restore(instance(1, Policy::Closed), Mono(100)).unwrap();
    let e = f.enforcement(Rev(7), Mono(200), Mono(201));
    assert_eq!((e.pending, e.complete_at), (1, Some(Mono(5150))));
    f.known(instance(1, Policy::Closed), Mono(250)).unwrap();
    assert_eq!(f.enforcement(Rev(7), Mono(200), Mono(251)).pending, 1, "a new stream proves nothing");
    f.ack(id(1), Rev(7), Mono(300)).unwrap();
    assert!(f.enforcement(Rev(7), Mono(200), Mono(301)).complete);
}

#[test]
fn open_routes_are_counted_apart_and_grace_adds() {
    let mut f = Fleet::new(B, 700, 100);
    f.known(instance(1, Policy::Open), Mono(0)).unwrap();
    f.lease_granted(id(1), Mono(0), Mono(0)).unwrap();
    let e = f.enforcement(Rev(7), Mono(0), Mono(5749));
    assert_eq!((e.until_expiry, e.pending, e.bounded_by_ms), (1, 1, 5750));
    let e = f.enforcement(Rev(7), Mono(0), Mono(5750));
    assert_eq!((e.until_expiry, e.lapsed, e.complete), (1, 1, true));
}

#[test]
fn a_lower_bound_counts_after_the_old_one() {
    let mut f = fleet();
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.lease_granted(id(1), Mono(0), Mono(0)).unwrap();
    f.set_bound(1000, Mono(10));
    assert_eq!(f.enforcement(Rev(1), Mono(20), Mono(2000)).complete_at, Some(Mono(5050)));
    f.lease_granted(id(1), Mono(6000), Mono(6000)).unwrap();
    assert_eq!(f.enforcement(Rev(1), Mono(6010), Mono(6020)).complete_at, Some(Mono(7010)));
}

/// What is kept of those that are gone is judged one by one: a route under `open` keeps its own instance alone.
#[test]
fn one_open_route_keeps_nobody_elses_instance() {
    let mut f = fleet();
    for (n, policy) in [(1, Policy::Closed), (2, Policy::Open), (3, Policy::Introspect)] {
        f.known(instance(n, policy), Mono(0)).unwrap();
        f.lease_granted(id(n), Mono(0), Mono(0)).unwrap();
    }
    let longest_life_ms = 90_000;
    assert_eq!(f.prune(0, longest_life_ms, Mono(5_050)), [], "their leases may live");
    assert_eq!(f.prune(0, longest_life_ms, Mono(5_051)), [id(1), id(3)]);
    assert_eq!(f.prune(0, longest_life_ms, Mono(longest_life_ms)), []);
    assert_eq!(f.prune(0, longest_life_ms, Mono(longest_life_ms + 1)), [id(2)]);
}

#[test]
fn a_client_has_a_limit_of_instances_and_leaves_places_for_others() {
    let of_client =
        |n: u128, client: u128| Instance { client: ClientId::from_bits(client), ..instance(n, Policy::Closed) };
    assert_eq!([2, 8, 10_000].map(limit_of_client), [2, 7, 8_750]);
    let mut f = Fleet::new(B, 0, 8);
    for n in 1..=7 {
        f.known(of_client(n, 1), Mono(0)).unwrap();
    }
    assert_eq!(f.known(of_client(8, 1), Mono(0)), Err(Full::Client));
    f.known(of_client(7, 1), Mono(1)).unwrap();
    f.known(of_client(8, 2), Mono(1)).unwrap();
    assert_eq!(f.known(of_client(9, 2), Mono(1)), Err(Full::Fleet));
    assert_eq!(f.prune(0, 0, Mono(6_000)).len(), 8);
    assert_eq!(f.no_room(id(8), ClientId::from_bits(1)), None, "the count goes with the instances");
    let mut f = Fleet::new(B, 0, 8).with_limit_of_client(1);
    f.restore(of_client(1, 1), Mono(0)).unwrap();
    f.restore(of_client(2, 1), Mono(0)).unwrap(); // whatever was committed counts
    assert_eq!(f.known(of_client(3, 1), Mono(0)), Err(Full::Client));
    f.known(of_client(2, 1), Mono(0)).unwrap();
}

#[test]
fn of_the_streams_of_an_instance_the_newest_go_on() {
    let mut f = fleet();
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.known(instance(2, Policy::Closed), Mono(0)).unwrap();
    let mut streams = Vec::new();
    for n in 0..6 {
        streams.push(f.stream_opened(id(1), Mono(n)).unwrap());
    }
    let other = f.stream_opened(id(2), Mono(0)).unwrap();
    let gives_way: Vec<bool> = streams.iter().map(|stream| f.gives_way(id(1), *stream)).collect();
    assert_eq!(gives_way, [true, true, false, false, false, false]);
    assert!(!f.gives_way(id(2), other) && f.gives_way(id(3), other));
}

#[test]
fn limits_and_pruning() {
    let mut f = Fleet::new(B, 0, 2);
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.known(instance(2, Policy::Closed), Mono(0)).unwrap();
    f.known(instance(2, Policy::Open), Mono(1)).unwrap();
    assert_eq!(f.known(instance(3, Policy::Closed), Mono(0)), Err(Full::Fleet));
    assert_eq!(f.lease_granted(id(3), Mono(0), Mono(0)), Err(Unknown));
    assert!(!f.may_lease(id(3), Mono(9)));
    f.stream_opened(id(1), Mono(5)).unwrap();
    assert_eq!(f.prune(1, 9_000, Mono(5051)), Vec::<InstanceId>::new(), "not sooner than the bound");
    assert_eq!(f.prune(1, 5_050, Mono(5052)), [id(2)]);
    f.stream_closed(id(1));
    assert_eq!(f.list(Mono(5052)).len(), 1);
    assert_eq!(f.prune(1, 9_000, Mono(10_100)), [id(1)]);
    assert!(f.is_empty());
}

/// Against a model of what verifiers really do: whenever the bookkeeping says complete, none accepts by an older state.
#[test]
fn complete_is_never_said_too_early() {
    let mut completes = 0;
    for seed in 0..2000 {
        let c = &mut Chance::new(seed);
        let mut f = fleet();
        let commit = 10_000 + c.below(3000) as i64;
        // (fresh until, by a lease that does not know the entry)
        let mut old_until = vec![i64::MIN; 3];
        let mut events: Vec<(i64, usize)> = (0..30).map(|_| (c.below(22_000) as i64, c.below(3) as usize)).collect();
        events.sort_unstable();
        for n in 0..3 {
            f.known(instance(n, Policy::Closed), Mono(0)).unwrap();
        }
        for (now, n) in events {
            let read = now - c.below(400) as i64;
            let asked = now - c.below(300) as i64;
            let basis = read.min(asked);
            if c.one_in(4) {
                f.known(instance(n as u128, Policy::Closed), Mono(now)).unwrap();
            }
            f.lease_granted(id(n as u128), Mono(basis), Mono(now)).unwrap();
            if read < commit {
                old_until[n] = old_until[n].max(basis + shortened(B));
            } else if c.one_in(2) {
                old_until[n] = i64::MIN; // applied, then acknowledged
                f.ack(id(n as u128), Rev(7), Mono(now)).unwrap();
            }
            let e = f.enforcement(Rev(7), Mono(commit), Mono(now));
            let first = f.first_pending(Rev(7), Mono(commit), Mono(now), &BTreeSet::new());
            assert!(first.is_none() == e.complete && first <= e.complete_at, "seed {seed} at {now}");
            if now >= commit && e.complete {
                completes += 1;
                assert!(old_until.iter().all(|until| *until <= now), "seed {seed} at {now}: {old_until:?}");
            }
            assert!(now < commit + lengthened(B) || e.complete);
        }
    }
    assert!(completes > 1000);
}

#[test]
fn who_was_told_a_longer_bound_must_come_back() {
    let mut f = fleet();
    let told = |ms| Instance { bound_ms: Some(ms), ..instance(1, Policy::Closed) };
    f.known(told(B), Mono(0)).unwrap();
    assert!(f.may_lease(id(1), Mono(1)));
    f.set_bound(1000, Mono(10));
    assert!(!f.may_lease(id(1), Mono(11)) && f.must_return(id(1)), "a lease of 5 s would be counted for one");
    f.known(told(1000), Mono(20)).unwrap();
    assert!(f.may_lease(id(1), Mono(20)) && !f.must_return(id(1)));
    assert!(f.must_return(id(2)), "nobody knows it");
}

#[test]
fn the_first_pending_one_is_found_among_many_that_are_not() {
    let mut f = Fleet::new(B, 0, 2000);
    for n in 1..=1000 {
        f.known(instance(n, Policy::Closed), Mono(0)).unwrap();
        f.lease_granted(id(n), Mono(0), Mono(0)).unwrap();
    }
    let nobody = BTreeSet::new();
    let now = Mono(20_000);
    f.lease_granted(id(500), Mono(19_000), Mono(19_001)).unwrap();
    assert_eq!(f.first_pending(Rev(7), Mono(19_500), now, &nobody), Some(Mono(19_000 + 5050)));
    assert_eq!(f.first_pending(Rev(7), Mono(19_500), now, &[id(500)].into()), None, "known better elsewhere");
    f.ack(id(500), Rev(6), now).unwrap();
    assert!(f.first_pending(Rev(7), Mono(19_500), now, &nobody).is_some(), "an acknowledgement of less");
    f.ack(id(500), Rev(7), now).unwrap();
    assert_eq!(f.first_pending(Rev(7), Mono(19_500), now, &nobody), None);
    // One whose lease had ended and that was passed over gets another one.
    f.lease_granted(id(3), Mono(20_100), Mono(20_101)).unwrap();
    assert_eq!(f.first_pending(Rev(8), Mono(20_200), Mono(20_300), &[id(500)].into()), Some(Mono(20_100 + 5050)));
    let e = f.enforcement(Rev(8), Mono(20_200), Mono(20_300));
    assert_eq!((e.pending, e.complete), (2, false));
}

/// A stream may outlive the lease by the grace: who lost the lease before the commit is waited for all the same.
#[test]
fn streams_in_their_grace_count() {
    const GRACE: i64 = 30_000;
    let mut f = Fleet::new(B, GRACE, 100);
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.lease_granted(id(1), Mono(0), Mono(0)).unwrap();
    let at = Mono(7000);
    let e = f.enforcement(Rev(1), at, Mono(7001));
    assert_eq!((e.pending, e.complete_at), (1, Some(Mono(5050 + GRACE))));
    assert_eq!(f.enforcement(Rev(1), Mono(5050 + GRACE), Mono(5051 + GRACE)).pending, 0);
    // Another lease meanwhile does not make the first one forgotten.
    f.lease_granted(id(1), Mono(9000), Mono(9000)).unwrap();
    assert_eq!(f.enforcement(Rev(1), at, Mono(9001)).pending, 1);
    assert_eq!(f.all_acknowledged(Rev(1), Mono(9001)), Rev(0));
    // A longer bound counts until the streams of its leases have ended, too.
    let mut f = Fleet::new(60_000, GRACE, 100);
    f.known(instance(1, Policy::Closed), Mono(0)).unwrap();
    f.lease_granted(id(1), Mono(0), Mono(0)).unwrap();
    f.set_bound(B, Mono(0));
    assert_eq!(f.all_acknowledged(Rev(1), Mono(60_600 + GRACE - 1)), Rev(0));
    assert_eq!(f.all_acknowledged(Rev(1), Mono(60_600 + GRACE)), Rev(1));
}
