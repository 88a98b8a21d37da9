//! What the feed's parts weigh with very many entries and verifiers, on this machine:
//! `cargo run --release -p portcullis-followers --example sizes`.
//!
//! Bytes are the growth of the process; times are of one call each, without locks or network.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement apart from the product: its clock is the machine's"
)]
use portcullis_feed::cluster::Report;
use portcullis_feed::fleet::{Fleet, Instance};
use portcullis_feed::publisher::{Limits, LogState, Publisher};
use portcullis_feed::{Mono, Policies, RevokedSet};
use portcullis_wire::{
    AccountId, Chain, ClientId, Entry, Epoch, InstanceId, LogId, Rev, SessionId, Target, Time, Verb,
};
use std::collections::BTreeSet;
use std::time::Instant;

const ENTRIES: u64 = 200_000;
const INSTANCES: u64 = 100_000;

fn main() {
    let mut kept = Vec::new(); // so that the second one takes memory of its own
    for (what, target) in [("accounts", account as fn(u64) -> Target), ("sessions", session)] {
        let before = resident();
        let mut set = RevokedSet::with_limit(ENTRIES as usize * 2);
        let begun = Instant::now();
        (1..=ENTRIES).for_each(|n| set.apply(&entry(n, target(n)), Mono(0)));
        let took = begun.elapsed();
        println!(
            "set        {ENTRIES} ends of {what}: {} bytes for each entry, {} ns to apply one",
            (resident() - before) / ENTRIES,
            took.as_nanos() / u128::from(ENTRIES)
        );
        kept.push(set);
    }
    let log = LogId::from_bits(1);
    let live: Vec<Entry> = (1..=ENTRIES).map(|n| entry(n, account(n))).collect();
    let state =
        LogState { log, epoch: Epoch(1), head: Rev(ENTRIES), chain: Chain::genesis(log), floor: Time::ZERO, live };
    let limits = Limits { set: ENTRIES as usize * 2, ..Limits::default() };
    let publisher = Publisher::new(state, limits, Mono(0));
    let parts = publisher.snapshot(5_000);
    let bytes: usize = parts.iter().map(|part| serde_json::to_string(part).unwrap().len()).sum();
    println!("snapshot   {} parts, {} bytes for each entry", parts.len(), bytes / ENTRIES as usize);
    let one = serde_json::to_string(&entry(ENTRIES, account(1))).unwrap();
    println!("entry      {} bytes, and some 120 for the event around it", one.len());
    fleet();
}

fn fleet() {
    let before = resident();
    let mut fleet = Fleet::new(5_000, 0, INSTANCES as usize).with_limit_of_client(INSTANCES as usize);
    for n in 0..INSTANCES {
        let (id, policies) = (InstanceId::from_bits(u128::from(n) << 64), Policies::default());
        let instance =
            Instance { id, name: "follower".into(), client: ClientId::from_bits(1), policies, bound_ms: None };
        fleet.known(instance, Mono(0)).unwrap();
        fleet.lease_granted(id, Mono(1_000), Mono(1_000)).unwrap();
        fleet.ack(id, Rev(6), Mono(1_001)).unwrap();
    }
    println!("fleet      {INSTANCES} instances: {} bytes for each", (resident() - before) / INSTANCES);
    let (rev, at, now, nobody) = (Rev(7), Mono(1_500), Mono(1_600), BTreeSet::new());
    let (mut looks, mut acks) = (0, 0);
    for n in 0..INSTANCES {
        let begun = Instant::now();
        assert!(fleet.first_pending(rev, at, now, &nobody).is_some());
        looks += begun.elapsed().as_nanos();
        let begun = Instant::now();
        fleet.ack(InstanceId::from_bits(u128::from(n) << 64), rev, now).unwrap();
        acks += begun.elapsed().as_nanos();
        if n == INSTANCES / 2 {
            let begun = Instant::now();
            let report = Report::of(&fleet, rev, at, now, &nobody);
            println!("fleet      all counted: {} us, {} pending", begun.elapsed().as_micros(), report.pending);
        }
    }
    let begun = Instant::now();
    assert!(fleet.first_pending(rev, at, now, &nobody).is_none() && fleet.enforcement(rev, at, now).complete);
    println!(
        "fleet      a look while somebody is behind: {} ns, an acknowledgement: {} ns, the last look, which counts: {} us",
        looks / u128::from(INSTANCES),
        acks / u128::from(INSTANCES),
        begun.elapsed().as_micros()
    );
}

fn entry(n: u64, target: Target) -> Entry {
    Entry { rev: Rev(n), verb: Verb::End, target, except: None, spread_ms: None, until: Time(1_800_000_000_000) }
}

fn account(n: u64) -> Target {
    Target::Account(AccountId::from_bits(spread(n)))
}

fn session(n: u64) -> Target {
    Target::Session(SessionId::from_bits(spread(n)))
}

fn spread(n: u64) -> u128 {
    u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n)
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
