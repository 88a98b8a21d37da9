//! Several nodes: when they say together that an entry is enforced, nobody accepts without it, whatever each of them knows.
use portcullis_feed::cluster::{self, Report};
use portcullis_feed::fleet::{Fleet, Instance};
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
                let refs: Vec<Option<&Report>> = others.iter().map(Option::as_ref).collect();
                let said = cluster::together(rev, &own, alone, &refs, Mono(committed), Mono(now));
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
