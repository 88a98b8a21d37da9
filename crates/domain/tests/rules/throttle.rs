//! Budgets for guesses: thousands of random histories, and what stands in the documentation by itself.
use crate::world::{Seeded, key};
use portcullis_domain::known_device::{self, Mark};
use portcullis_domain::throttle::*;
use portcullis_wire::{AccountId, KeyId, SecretString, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;

const START: Time = Time(1_800_000_000_000);

/// Buckets and networks as a store keeps them.
#[derive(Default)]
struct Kept {
    buckets: BTreeMap<BucketKey, Bucket>,
    networks: BTreeMap<(BucketKey, BucketKey), Time>,
}

impl Kept {
    fn rows(&self, attempt: &Attempt) -> [Option<Bucket>; 3] {
        attempt.keys().map(|key| self.buckets.get(&key).copied())
    }
    fn take(&mut self, attempt: &Attempt, now: Time) -> Verdict {
        let known = self.networks.get(&(attempt.account, attempt.network));
        let (verdict, rows) = take(attempt, known.is_some_and(|at| is_remembered(*at, now)), self.rows(attempt), now);
        self.buckets.extend(attempt.keys().into_iter().zip(rows));
        verdict
    }
    fn give_back(&mut self, attempt: &Attempt, verdict: Verdict, now: Time) {
        let rows = give_back(attempt, verdict, self.rows(attempt), now);
        self.buckets.extend(attempt.keys().into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?))));
    }
    fn know(&mut self, attempt: &Attempt, now: Time) {
        self.networks.insert((attempt.account, attempt.network), now);
    }
    fn prune(&mut self, now: Time) {
        self.buckets.retain(|_, bucket| bucket.full_at() > now);
    }
}

fn ip(n: u64) -> Option<IpAddr> {
    Some(IpAddr::from([10, (n >> 8) as u8, n as u8, 7]))
}

/// As [`attempt`], by numbers: the first byte of a key is the kind of bucket.
fn numbered(who: u64, from: u64, device: Option<u64>) -> Attempt {
    let name = |kind: u8, n: u64, m: u64| {
        let mut key = [kind; 16];
        (key[1], key[2]) = (n as u8, m as u8);
        BucketKey(key)
    };
    let device = device.map(|device| name(3, who, device));
    Attempt { account: name(0, who, 0), network: name(1, who, from), prefix: name(2, from, 0), device, mail: false }
}

fn attempt(who: &str, from: u64, device: Option<u128>) -> Attempt {
    Attempt::of(&key(), who, ip(from), device)
}

/// The busiest window of each length: never more than the budget of a bucket.
fn within(times: &[Time], budget: Budget, what: &str) {
    for (n, first) in times.iter().enumerate() {
        for (m, last) in times.iter().enumerate().skip(n) {
            let most = budget.most_in(last.since(*first));
            assert!(((m - n) as i64) < most, "{what}: {} in {} ms, at most {most}", m - n + 1, last.since(*first));
        }
    }
}

#[test]
fn never_more_than_the_budget_in_any_window() {
    let mut seen = BTreeMap::new();
    for seed in 0..3_000 {
        let mut dice = Seeded(seed);
        let (mut kept, mut now) = (Kept::default(), START);
        // Takes by bucket that were not given back, in the order of a clock that is never set back here.
        let mut taken: BTreeMap<BucketKey, Vec<Time>> = BTreeMap::new();
        let (people, networks) = (1 + dice.below(3), 1 + dice.below(40));
        let pace = [0, 500, 20_000, 400_000][dice.below(4) as usize];
        for _ in 0..300 {
            now = now.plus(dice.below(pace + 1) as i64);
            let device = (dice.below(4) == 0).then(|| dice.below(2));
            let it = numbered(dice.below(people), dice.below(networks), device);
            let verdict = kept.take(&it, now);
            *seen.entry(verdict).or_insert(0u64) += 1;
            let charged: &[usize] = match verdict {
                Verdict::Throttled => &[],
                Verdict::Stranger => &[0, 1, 2],
                Verdict::Network | Verdict::Device => &[1],
            };
            // One in ten knows the password.
            if verdict.is_checked() && dice.below(10) == 0 {
                kept.give_back(&it, verdict, now);
                kept.know(&it, now);
            } else {
                charged.iter().for_each(|n| taken.entry(it.keys()[*n]).or_default().push(now));
            }
            if dice.below(30) == 0 {
                kept.prune(now);
            }
            if dice.below(200) == 0 {
                // Known networks come and go.
                kept.networks.clear();
            }
        }
        for (key, times) in &taken {
            let budget = [ACCOUNT, NETWORK, PREFIX, DEVICE][usize::from(key.0[0])];
            within(times, budget, &format!("seed {seed}, {key:?}"));
        }
    }
    for verdict in [Verdict::Throttled, Verdict::Stranger, Verdict::Network, Verdict::Device] {
        assert!(seen.get(&verdict).is_some_and(|n| *n > 10_000), "{seen:?}");
    }
}

#[test]
fn a_bucket_refills_one_by_one_and_then_is_full() {
    let mut kept = Kept::default();
    let device = attempt("ada", 1, Some(7));
    let burst = |kept: &mut Kept, now| (0..100).filter(|_| kept.take(&device, now).is_checked()).count() as i64;
    assert_eq!(burst(&mut kept, START), DEVICE.burst);
    // Asking again and again prolongs nothing.
    assert_eq!(burst(&mut kept, START.plus(DEVICE.every - 1)), 0);
    assert_eq!(burst(&mut kept, START.plus(DEVICE.every)), 1);
    assert_eq!(burst(&mut kept, START.plus(DEVICE.every * 4)), 3);
    assert_eq!(burst(&mut kept, START.plus(DEVICE.every * 1000)), DEVICE.burst, "never more than full");
    // One that was forgotten when it was full is the same as one that was kept.
    let later = START.plus(DEVICE.every * 2000);
    let mut pruned = Kept { buckets: kept.buckets.clone(), ..Kept::default() };
    pruned.prune(later);
    assert!(pruned.buckets.is_empty());
    assert_eq!(burst(&mut pruned, later), burst(&mut kept, later));
}

#[test]
fn strangers_however_many_have_one_budget_and_leave_the_owners_alone() {
    let mut kept = Kept::default();
    let (home, laptop) = (attempt("ada", 60_000, None), attempt("ada", 60_001, Some(7)));
    kept.know(&home, START);
    let mut checked = 0;
    for n in 0..50_000u64 {
        checked += i64::from(kept.take(&attempt("ada", n % 500, None), START).is_checked());
        if n % 1000 == 0 {
            for (it, as_whose) in [(&home, Verdict::Network), (&laptop, Verdict::Device)] {
                assert_eq!(kept.take(it, START), as_whose, "after {n} guesses");
                kept.give_back(it, as_whose, START);
            }
        }
    }
    assert_eq!(checked, ACCOUNT.burst);
    // Who is at a new place waits for one refill once it is over, and no longer.
    let new = attempt("ada", 50_000, None);
    assert_eq!(kept.take(&new, START.plus(ACCOUNT.every - 1)), Verdict::Throttled);
    assert_eq!(kept.take(&new, START.plus(ACCOUNT.every)), Verdict::Stranger);
}

#[test]
fn one_prefix_alone_locks_nobody_out() {
    let mut kept = Kept::default();
    for n in 0..10_000 {
        kept.take(&attempt("ada", 1, None), START.plus(n * 300));
    }
    assert_eq!(kept.take(&attempt("ada", 2, None), START.plus(10_000 * 300)), Verdict::Stranger);
    // Nor all accounts of its neighbours elsewhere; its own prefix is full for strangers, and not for who is known.
    let mut kept = Kept::default();
    let known = attempt("ada", 1, None);
    kept.know(&known, START);
    let guesses = (0..1_000).filter(|n| kept.take(&attempt(&format!("user{n}"), 1, None), START).is_checked());
    assert_eq!(guesses.count() as i64, PREFIX.burst);
    assert_eq!(kept.take(&known, START), Verdict::Network);
}

#[test]
fn a_clock_that_was_set_back_gives_nothing_and_takes_nothing() {
    for back in [1, 60_000, 400 * 86_400_000] {
        let mut kept = Kept::default();
        let it = attempt("ada", 1, Some(7));
        for n in 0..DEVICE.burst {
            assert!(kept.take(&it, START.plus(n)).is_checked());
        }
        let then = START.minus(back);
        assert_eq!(kept.take(&it, then), Verdict::Throttled, "nothing is given");
        // The wait is as long as it was, counted from there.
        assert_eq!(kept.take(&it, then.plus(DEVICE.every - DEVICE.burst)), Verdict::Throttled);
        assert_eq!(kept.take(&it, then.plus(DEVICE.every)), Verdict::Device, "{back}");
    }
}

#[test]
fn keys_tell_apart_what_counts_and_nothing_else() {
    let of = |who: &str, ip: &str| Attempt::of(&key(), who, Some(ip.parse().unwrap()), None);
    let same = |a: Attempt, b: Attempt| a.keys() == b.keys();
    assert!(same(of("ada", "198.51.100.1"), of("ada", "198.51.100.255")));
    assert!(same(of("ada", "::ffff:198.51.100.1"), of("ada", "198.51.100.9")));
    assert!(!same(of("ada", "198.51.100.1"), of("ada", "198.51.101.1")));
    assert!(same(of("ada", "2001:db8:0:1::1"), of("ada", "2001:db8:0:ff:ffff::")));
    assert!(!same(of("ada", "2001:db8:0:1::1"), of("ada", "2001:db8:0:100::1")));
    let (ada, bob) = (of("ada", "198.51.100.1"), of("bob", "198.51.100.1"));
    assert!(ada.account != bob.account && ada.network != bob.network && ada.prefix == bob.prefix);
    assert_eq!(counted_as(" Ada@Example.ORG "), "ada@example.org");
    assert_eq!(counted_as(" No Address "), "no address");
}

#[test]
fn signing_up_has_budgets_of_its_own_for_each_part_of_the_network() {
    let mut kept = Kept::default();
    let up = |n: u64, from: u64| Attempt::of_sign_up(&key(), &format!("new{n}@example.org"), ip(from)).unwrap();
    let taken = (0..1000).filter(|n| kept.take(&up(*n, 1), START).is_checked()).count() as i64;
    assert_eq!(taken, PREFIX.burst);
    let day = (0..1000).filter(|n| kept.take(&up(2000 + n, 1), START.plus(60_000 + *n as i64)).is_checked()).count();
    assert_eq!(day as i64, 60_000 / PREFIX.every, "and so many more each minute");
    // Nobody elsewhere waits for that, with no address, and nobody at all who signs in.
    assert!(kept.take(&up(1, 2), START.plus(61_000)).is_checked());
    let signs_in = Attempt::of(&key(), "new1@example.org", ip(1), None);
    let signs_up = up(1, 1);
    assert!(signs_in.keys().iter().all(|bucket| !signs_up.keys().contains(bucket)));
    assert!(kept.take(&signs_in, START.plus(61_000)).is_checked());
    // One address is asked about as often as a password is guessed at, from one prefix, and that keeps nobody else from it.
    let mut kept = Kept::default();
    let again = (0..1000).filter(|_| kept.take(&up(7, 1), START).is_checked()).count() as i64;
    assert_eq!(again, NETWORK.burst);
    assert!(kept.take(&up(7, 2), START).is_checked());
    for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert!(Attempt::of_sign_up(&key(), "a@example.org", Some(own.parse().unwrap())).is_none(), "{own}");
    }
}

#[test]
fn networks_are_few_and_forgotten() {
    let known: Vec<_> = (0..12u8).map(|n| (BucketKey([n; 16]), START.plus(i64::from(n)))).collect();
    let gone = networks_to_forget(known.clone(), START.plus(20));
    let oldest: Vec<_> = (0..4u8).rev().map(|n| BucketKey([n; 16])).collect();
    assert_eq!(gone, oldest);
    assert_eq!(networks_to_forget(known, START.plus(NETWORK_LIFE + 20)).len(), 12);
}

#[test]
fn a_mark_is_of_one_device_one_account_and_one_server() {
    let text = known_device::mint(&key(), 7, &Name::of(None, "ada@example.org"), START);
    let mark = Mark::parse(text.expose()).unwrap();
    assert_eq!(mark.key(), key().id);
    assert_eq!(mark.device(&key(), "ada@example.org", START), Some(7));
    assert_eq!(mark.device(&key(), "ada@example.org", START.minus(99)), Some(7), "a clock that was set back");
    assert_eq!(mark.device(&key(), "ada@example.org", START.plus(known_device::LIFE)), None);
    assert_eq!(mark.device(&key(), "bob@example.org", START), None);
    let other = portcullis_domain::family::MacKey::new(KeyId(3), &portcullis_wire::SecretBytes::new([8u8; 32]));
    assert_eq!(mark.device(&other, "ada@example.org", START), None);
    for n in 4..text.expose().len() {
        let mut changed = text.expose().to_owned().into_bytes();
        changed[n] = if changed[n] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let device = Mark::parse(&changed).and_then(|mark| mark.device(&key(), "ada@example.org", START));
        assert_eq!(device, None, "byte {n}");
    }
    for wrong in ["", "pcd_", "pcd_AAAA", "pcs_AAAA"] {
        assert!(Mark::parse(wrong).is_none());
    }
}

#[test]
fn a_browser_keeps_the_marks_of_several_accounts() {
    let keys = [key()];
    let mut cookie: Option<SecretString> = None;
    for n in 0..6u128 {
        let who = Name::of(None, &format!("user{n}"));
        for again in 0..2 {
            let before = cookie.as_ref().and_then(|cookie| known_device::device(cookie, &keys, &who, START));
            assert_eq!(before, (again == 1).then_some(n));
            let mark = known_device::mint(&key(), n, &who, START);
            cookie = Some(known_device::renewed(cookie.as_ref(), &keys, &mark, &who, START));
        }
    }
    let cookie = cookie.unwrap();
    assert_eq!(cookie.expose().split('.').count(), known_device::MAX_MARKS);
    let known = (0..6u128)
        .filter(|n| known_device::device(&cookie, &keys, &Name::of(None, &format!("user{n}")), START) == Some(*n));
    assert_eq!(known.collect::<Vec<_>>(), [2, 3, 4, 5]);
    let garbage = SecretString::new("....pcd_x.".repeat(1000));
    assert_eq!(known_device::device(&garbage, &keys, &Name::of(None, "user1"), START), None);
}

/// The mark of an account stays when that gets another address; one of a release before is read, and replaced.
#[test]
fn a_mark_outlives_its_accounts_address() {
    let (keys, ada) = ([key()], AccountId::from_bits(7));
    let at = |address: &str| Name::of(Some(ada), address);
    let old = known_device::mint(&key(), 7, &Name::of(None, "ada@example.org"), START);
    assert_eq!(known_device::device(&old, &keys, &at("Ada@example.org"), START), Some(7));
    assert_eq!(known_device::device(&old, &keys, &at("ada@elsewhere.org"), START), None);
    let new = known_device::mint(&key(), 7, &at("ada@example.org"), START);
    let cookie = known_device::renewed(Some(&old), &keys, &new, &at("ada@example.org"), START);
    assert_eq!(cookie.expose(), new.expose(), "the old one has gone");
    assert_eq!(known_device::device(&cookie, &keys, &at("ada@elsewhere.org"), START), Some(7));
    let bob = Name::of(Some(AccountId::from_bits(8)), "ada@example.org");
    assert_eq!(known_device::device(&cookie, &keys, &bob, START), None, "whoever has that address now is another");
    // What somebody types is no account's name.
    assert_ne!(Name::of(None, at("").now()).now(), at("").now());
}
