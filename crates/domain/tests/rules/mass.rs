//! Revocation by filter: what an address range holds, whom a rule kills, what a job writes.
use crate::world::{self, Seeded};
use portcullis_domain::changes::{Change, Revoke};
use portcullis_domain::mass::{Batch, Filter, Job, MAX_ENTRIES, Network, Standing, step};
use portcullis_domain::model::Session;
use portcullis_wire::{AccountId, ClientId, JobId, Rev, SessionId, Target, Time, Verb};
use std::net::IpAddr;

#[test]
fn a_range_holds_what_its_prefix_says() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for (range, inside, outside) in [
        ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("203.0.113.128/25", "203.0.113.200", "203.0.113.127"),
        ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
        ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
        ("::/0", "2001:db8::1", "10.0.0.1"),
    ] {
        let network: Network = range.parse().unwrap();
        assert!(network.contains(ip(inside)) && !network.contains(ip(outside)), "{range}");
        assert_eq!(network.to_string().parse::<Network>(), Ok(network));
    }
    let wrong = [
        "",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "::1/127",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "x",
        "10.0.0/8",
        " 10.0.0.0",
    ];
    for text in wrong {
        assert!(text.parse::<Network>().is_err(), "{text:?}");
    }
    // Every prefix of every length, against arithmetic.
    for prefix in 0..=32u32 {
        let base = u32::MAX.checked_shl(32 - prefix).unwrap_or(0) & 0xc0a8_55aa;
        let network: Network = format!("{}/{prefix}", IpAddr::from(base.to_be_bytes())).parse().unwrap();
        for n in 0..2000u32 {
            let address = base ^ n.wrapping_mul(0x9e37_79b9);
            let inside = prefix == 0 || address >> (32 - prefix) == base >> (32 - prefix);
            assert_eq!(network.contains(IpAddr::from(address.to_be_bytes())), inside);
        }
    }
}

fn session(n: u64) -> Session {
    let view = world::view(world::START);
    Session {
        id: SessionId::from_bits(n.into()),
        account: AccountId::from_bits((n % 3).into()),
        ip: (!n.is_multiple_of(5)).then(|| IpAddr::from([10, (n % 2) as u8, 0, 1])),
        created_at: Time((n % 7) as i64),
        born: Rev(n % 11),
        ..view.session
    }
}

#[test]
fn a_rule_kills_whom_every_member_matches_and_who_was_there() {
    for bits in 0..64u64 {
        let filter = Filter {
            accounts: if bits & 1 == 0 { vec![] } else { vec![AccountId::from_bits(1), AccountId::from_bits(2)] },
            clients: if bits & 2 == 0 { vec![] } else { vec![ClientId::from_bits(9)] },
            created_before: (bits & 4 != 0).then_some(Time(4)),
            network: (bits & 8 != 0).then(|| "10.1.0.0/16".parse().unwrap()),
        };
        let rule = Standing { rev: Rev(6), filter, except: (bits & 16 != 0).then(|| SessionId::from_bits(31)) };
        for n in 0..500 {
            let s = session(n);
            let expected = n % 11 < 6
                && !(bits & 16 != 0 && n == 31)
                && (bits & 1 == 0 || n % 3 != 0)
                && bits & 2 == 0
                && (bits & 4 == 0 || n % 7 < 4)
                && (bits & 8 == 0 || (n % 5 != 0 && n % 2 == 1));
            assert_eq!(rule.kills(&s), expected, "filter {bits}, session {n}");
        }
    }
}

#[test]
fn a_job_falls_silent_before_it_writes_too_many_entries() {
    let rule = Standing { rev: Rev(1), filter: Filter::default(), except: None };
    let mut job = Job { last: Rev(1), ..Job::new(JobId::from_bits(1), rule, false, "operator".into(), "x", Time(0)) };
    let (mut stale, mut chance) = (0, Seeded(1));
    for n in 0..100u64 {
        let sessions: Vec<_> = (0..250).map(|k| SessionId::from_bits((n * 250 + k).into())).collect();
        let next = (n < 99).then(|| sessions[249]);
        let changes = step(&job, Batch { sessions, scanned: 250, next }, &mut chance);
        for change in &changes.steps {
            match change {
                Change::Revoke(Revoke { verb: Verb::Stale, target: Target::All, .. }) => stale += 1,
                Change::StepJob(step) => {
                    assert_eq!((step.from, step.to, step.log), (job.cursor, next, !step.silent));
                    job.entries += if step.log { 250 } else { 0 };
                    (job.cursor, job.silent) = (step.to, step.silent);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(changes.events.len(), usize::from(n == 99), "one record, when it is done");
    }
    assert_eq!((stale, job.entries, job.silent), (1, MAX_ENTRIES, true));
}
