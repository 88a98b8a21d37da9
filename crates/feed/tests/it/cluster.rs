//! Several nodes: when they say together that an entry is enforced, nobody accepts without it, whatever each of them knows.
use portcullis_feed::cluster::{self, Missing, Report};
use portcullis_feed::fleet::{Enforcement, Fleet, Instance, Stands};
use portcullis_feed::{Mono, Policies};
use portcullis_wire::{ClientId, InstanceId, Rev};
use std::collections::BTreeSet;

const BOUND: i64 = 1_000;
const NODES: usize = 3;
const INSTANCES: usize = 6;

struct Dice(u64);
impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }
}

fn id(n: usize) -> InstanceId {
    InstanceId::from_bits(n as u128 + 1)
}

/// A verifier as it is: what it has applied, and until when it calls itself fresh.
#[derive(Default, Clone, Copy)]
struct Truth {
    applied: u64,
    fresh_until: i64,
}

/// What may go wrong in the world of this test.
#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// Reports of an earlier position are taken for one of a later.
    OldReports,
    /// Who has said nothing is behind nobody.
    SilenceIsConsent,
    /// Confirmations of anybody for anything count.
    ConfirmsUnasked,
}

/// How often something was said to be complete before the bound, with others' help; panics (or says) when it was wrong.
fn run(seed: u64, planted: Planted) -> Result<(u32, u32), String> {
    let mut dice = Dice(seed);
    let mut fleets: Vec<Fleet> = (0..NODES).map(|_| Fleet::new(BOUND, 0, 100)).collect();
    let mut rows: Vec<Option<Report>> = vec![None; NODES];
    let mut verifiers = [Truth::default(); INSTANCES];
    let (mut now, mut head, mut committed) = (10_000_i64, 0_u64, 0_i64);
    let (mut early, mut moved) = (0, 0);
    for n in 0..INSTANCES {
        for fleet in &mut fleets {
            let policies = Policies::default();
            let instance =
                Instance { id: id(n), name: "v".into(), client: ClientId::from_bits(1), policies, bound_ms: None };
            fleet.known(instance, Mono(now)).unwrap();
        }
    }
    for _ in 0..400 {
        now += dice.below(20) as i64;
        let (n, at) = (dice.below(INSTANCES as u64) as usize, dice.below(NODES as u64) as usize);
        match dice.below(40) {
            0 => {
                (head, committed) = (head + 1, now);
                fleets.iter_mut().for_each(|fleet| fleet.committed(Rev(head), Mono(now)));
            }
            // A question arrives, the head is read, the answer arrives and is applied, or is lost.
            1..=6 => {
                fleets[at].lease_granted(id(n), Mono(now), Mono(now)).unwrap();
                if dice.below(4) > 0 {
                    verifiers[n].applied = head;
                    verifiers[n].fresh_until = now + BOUND;
                }
            }
            // What it has applied is told to whichever node.
            7..=18 => {
                fleets[at].ack(id(n), Rev(verifiers[n].applied), Mono(now)).unwrap();
            }
            19..=28 => {
                let asked = cluster::named(rows.iter().flatten(), Rev(head));
                rows[at] = Some(Report::of(&fleets[at], Rev(head), Mono(committed), Mono(now), &asked));
            }
            _ => {
                let rev = Rev(head);
                let others: Vec<Option<Report>> =
                    (0..NODES).filter(|other| *other != at).map(|other| rows[other].clone()).collect();
                let asked = cluster::named(others.iter().flatten(), rev);
                let mut own = Report::of(&fleets[at], rev, Mono(committed), Mono(now), &asked);
                let mut others = others;
                match planted {
                    Planted::Nothing => {}
                    Planted::OldReports => others.iter_mut().flatten().for_each(|report| report.rev = rev),
                    Planted::SilenceIsConsent => others.retain(Option::is_some),
                    Planted::ConfirmsUnasked => own.confirms = (0..INSTANCES).map(id).collect(),
                }
                let alone = fleets[at].enforcement(rev, Mono(committed), Mono(now));
                // However many hang on those that are silent, nothing is enforced the earlier.
                let missing = Missing { acknowledged: dice.below(3) as u32, unheard: dice.below(3) as u32 };
                let refs: Vec<Option<&Report>> = others.iter().map(Option::as_ref).collect();
                let said = cluster::together(rev, &own, alone, &refs, missing, Mono(committed), Mono(now));
                let certain = cluster::certainly_pending(rev, &mut fleets[at], &refs, Mono(committed), Mono(now));
                if planted == Planted::Nothing {
                    // Told without counting, it is the same.
                    assert_eq!(certain.is_some(), !said.complete, "seed {seed}");
                    assert!(certain.is_none_or(|ends| now < ends.0 && ends.0 <= committed + said.bounded_by_ms));
                }
                let accepts = |truth: &Truth| truth.applied < rev.0 && truth.fresh_until > now;
                if said.complete && verifiers.iter().any(accepts) {
                    return Err(format!("seed {seed}: {rev} is said to be enforced, and is not"));
                }
                let elsewhere: BTreeSet<InstanceId> = others.iter().flatten().flat_map(|r| r.behind.clone()).collect();
                let soon = said.complete && now < committed + BOUND;
                early += u32::from(soon && said.acknowledged > 0);
                moved += u32::from(soon && !elsewhere.is_empty());
                assert!(said.complete == said.complete_at.is_none());
                assert!(said.complete_at.is_none_or(|ends| ends.0 <= committed + said.bounded_by_ms));
                assert!(said.complete || now < committed + said.bounded_by_ms, "time says it in the end");
            }
        }
    }
    Ok((early, moved))
}

#[test]
fn what_is_said_to_be_enforced_is() {
    let (mut early, mut moved) = (0, 0);
    for seed in 0..1_500 {
        let counts = run(seed, Planted::Nothing).unwrap();
        (early, moved) = (early + counts.0, moved + counts.1);
    }
    assert!(early > 500 && moved > 50, "{early} {moved}: too little happened");
}

#[test]
fn what_would_be_wrong_is_noticed() {
    for planted in [Planted::OldReports, Planted::SilenceIsConsent, Planted::ConfirmsUnasked] {
        assert!((0..3_000).any(|seed| run(seed, planted).is_err()));
    }
}

/// Nodes with verifiers of their own, of which some are silent when an end is asked about: everybody is in the counts, once.
#[derive(Default)]
struct Seen {
    by_word: u32,
    by_time: u32,
    came_over: u32,
}

fn counted(seed: u64, forgets: bool) -> Result<Seen, String> {
    let mut dice = Dice(seed ^ 0x51e7);
    let mut fleets: Vec<Fleet> = (0..NODES).map(|_| Fleet::new(BOUND, 0, 100)).collect();
    let (begin, committed, rev) = (Mono(10_000), Mono(10_100), Rev(1));
    let known = |n| Instance {
        id: id(n),
        name: "v".into(),
        client: ClientId::from_bits(1),
        policies: Policies::default(),
        bound_ms: None,
    };
    let homes: Vec<usize> = (0..INSTANCES).map(|_| dice.below(NODES as u64) as usize).collect();
    let silent: Vec<bool> = (0..NODES).map(|n| n > 0 && dice.below(3) == 0).collect();
    let (mut confirmed, mut came_over) = (0, 0);
    for (n, home) in homes.iter().copied().enumerate() {
        fleets[home].known(known(n), begin).unwrap();
        fleets[home].lease_granted(id(n), begin, begin).unwrap();
    }
    fleets.iter_mut().for_each(|fleet| fleet.committed(rev, committed));
    for (n, home) in homes.iter().copied().enumerate() {
        // Some have told their node in time; some of a silent node's came to another, and told that one.
        let to = if silent[home] && dice.below(2) == 0 { 0 } else { home };
        if dice.below(3) == 0 {
            continue;
        }
        if to != home {
            fleets[to].known(known(n), committed.plus(10)).unwrap();
            fleets[to].lease_granted(id(n), committed.plus(10), committed.plus(10)).unwrap();
        }
        fleets[to].ack(id(n), rev, committed.plus(20)).unwrap();
        confirmed += u32::from(!silent[to]);
        came_over += u32::from(to != home);
    }
    let now = Mono(committed.0 + 30 + dice.below(2_000) as i64);
    let nobody = BTreeSet::new();
    let reports: Vec<Option<Report>> =
        (1..NODES).map(|n| (!silent[n]).then(|| Report::of(&fleets[n], rev, committed, now, &nobody))).collect();
    let refs: Vec<Option<&Report>> = reports.iter().map(Option::as_ref).collect();
    let own = Report::of(&fleets[0], rev, committed, now, &nobody);
    let stands: Vec<Stands> =
        (0..NODES).filter(|n| !silent[*n]).flat_map(|n| fleets[n].stands(rev, committed, now)).collect();
    let rows: BTreeSet<InstanceId> = (0..INSTANCES).map(id).collect();
    let missing = if forgets { Missing::default() } else { Missing::of(&rows, &stands, rev) };
    let alone = fleets[0].enforcement(rev, committed, now);
    let said = cluster::together(rev, &own, alone, &refs, missing, committed, now);
    let over = now.0 >= committed.0 + said.bounded_by_ms;
    let all = said.acknowledged + said.lapsed + said.pending;
    if all != INSTANCES as u32 || said.acknowledged != confirmed {
        return Err(format!("seed {seed}: {confirmed} of {INSTANCES} have told a node that spoke: {said:?}"));
    }
    let spoke = cluster::all_spoke(rev, &refs);
    assert_eq!(spoke, silent.iter().all(|silent| !silent));
    assert_eq!(said.complete, over || spoke && said.pending == 0, "seed {seed}: {said:?}");
    assert!(!over || said.pending == 0, "seed {seed}: {said:?}");
    let by_word = u32::from(said.complete && said.lapsed == 0);
    Ok(Seen { by_word, by_time: u32::from(said.complete) - by_word, came_over })
}

#[test]
fn everybody_is_in_the_counts_once_also_of_nodes_that_are_silent() {
    let mut sum = Seen::default();
    for seed in 0..3_000 {
        let seen = counted(seed, false).unwrap();
        sum.by_word += seen.by_word;
        sum.by_time += seen.by_time;
        sum.came_over += seen.came_over;
    }
    assert!(sum.by_word > 100 && sum.by_time > 500 && sum.came_over > 500, "too little happened");
    assert!((0..100).any(|seed| counted(seed, true).is_err()), "a count that forgets the silent ones is not noticed");
}

#[test]
fn a_list_that_may_be_cut_short_says_nothing_of_what_comes_after_its_last_one() {
    let set = |of: &[usize]| of.iter().copied().map(id).collect::<BTreeSet<_>>();
    let left = |lists: &[&[usize]], most| {
        let mut rows = set(&[0, 1, 2, 3, 4]);
        lists.iter().for_each(|list| cluster::strike_listed(&mut rows, &set(list), most));
        rows
    };
    assert_eq!(left(&[], 2), set(&[0, 1, 2, 3, 4]));
    assert_eq!(left(&[&[1, 3]], 3), set(&[0, 2, 4]));
    assert_eq!(left(&[&[1, 3]], 2), set(&[0, 2]));
    assert_eq!(left(&[&[1, 3], &[0, 2, 4]], 9), set(&[]));
    assert_eq!(left(&[&[]], 2), set(&[0, 1, 2, 3, 4]));
}

#[test]
fn what_was_complete_stays_so() {
    let before =
        Enforcement { acknowledged: 2, lapsed: 1, pending: 3, complete_at: Some(Mono(9)), ..Default::default() };
    let after = before.still_complete();
    assert_eq!(after, Enforcement { acknowledged: 2, lapsed: 4, complete: true, ..Default::default() });
    assert_eq!(after.still_complete(), after);
}
