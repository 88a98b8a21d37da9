//! What an event costs: reading a memory, observing, judging by the built-in policy, writing the memory. Told to do so many events and to
//! judge each so often, it does that and prints what the memories came to. `cargo xtask bench rules` looks at the clock: here is none.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]
use portcullis_domain::risk::*;
use portcullis_rules::Policy;
use portcullis_wire::{SessionId, Time};

const ACCOUNTS: usize = 20_000;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let (count, judged) = (arguments.next().unwrap_or(400_000), arguments.next().unwrap_or(1));
    let policy = Policy::built_in();
    let mut memories = vec![String::new(); ACCOUNTS];
    let mut chance = 1_u64;
    let mut below = move |n: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % n
    };
    let events: Vec<(usize, Seen)> = (0..count)
        .map(|n| {
            let account = below(ACCOUNTS as u64) as usize;
            // 100,000 a minute, most from home with a known device.
            let home = below(10) > 0;
            let spot = Spot { lat_udeg: 51_000_000 + below(9) as i32 * 1_000_000, lon_udeg: 12_000_000, radius_km: 20 };
            let place = Place {
                country: Some(if home { *b"DE" } else { *b"FR" }),
                asn: Some(64_512 + below(3) as u32),
                spot: Some(spot),
            };
            let network = (account as u64 * 16 + if home { 0 } else { below(15) }).to_be_bytes();
            let seen = Seen {
                at: Time(1_800_000_000_000 + n as i64 * 60_000 / 100_000),
                act: Act::SignIn { known_device: home, breached: false },
                session: Some(SessionId::from_bits(n as u128)),
                made: None,
                from: Some(Origin { network, place }),
                agent: "firefox/linux".into(),
                build: Default::default(),
                guesses: Guesses { account: 0, prefix: below(3) as u32 },
            };
            (account, seen)
        })
        .collect();
    let mut hits = 0;
    for (account, seen) in &events {
        let memory = Memory::read(&memories[*account]);
        let (signals, after) = observe(&memory, seen);
        for _ in 0..judged {
            hits += policy.judge(std::hint::black_box(&signals)).hits.len();
        }
        memories[*account] = after.write();
    }
    let bytes: usize = memories.iter().map(String::len).sum();
    let longest = memories.iter().map(String::len).max().unwrap();
    println!(
        "{count} sign-ins at {ACCOUNTS} accounts, each judged {judged} times by {} rules, {hits} hits",
        policy.rules().count()
    );
    println!("{} bytes per account, the longest {longest}, at most {MAX_BYTES}", bytes / ACCOUNTS);
}
