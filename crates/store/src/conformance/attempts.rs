//! Budgets for guesses.
use super::{Backend, START, World, wait};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::throttle::{ACCOUNT, Attempt, BucketKey, DEVICE, MAX_NETWORKS, NETWORK, NETWORK_LIFE, Verdict};

fn attempt(account: u8, network: u8, device: Option<u8>) -> Attempt {
    let key = |kind: u8, n: u8, m: u8| BucketKey([kind, n, m, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Attempt {
        account: key(1, account, 0),
        network: key(2, account, network),
        prefix: key(3, network, 0),
        device: device.map(|device| key(4, account, device)),
        mail: false,
    }
}

impl World<'_> {
    fn take(&self, attempt: Attempt) -> Verdict {
        self.ok([Change::TakeAttempt(attempt)]).attempt.unwrap()
    }
    fn buckets(&self) -> u64 {
        wait(self.store.count_attempts()).unwrap().buckets
    }
    fn networks(&self) -> u64 {
        wait(self.store.count_attempts()).unwrap().networks
    }
}

pub(super) fn attempts_are_taken_from_the_budget(backend: &dyn Backend) {
    let w = World::new(backend);
    let checked =
        |network: u8| (0..NETWORK.burst + 5).filter(|_| w.take(attempt(1, network, None)).is_checked()).count();
    assert_eq!(checked(1) as i64, NETWORK.burst);
    assert_eq!(checked(2) as i64, NETWORK.burst);
    assert_eq!(checked(3) as i64, NETWORK.burst);
    assert_eq!(checked(4), 0, "the account's budget is used up");
    assert_eq!(w.take(attempt(2, 4, None)), Verdict::Stranger, "another's is not");
    w.set(START.plus(ACCOUNT.every));
    assert_eq!(w.take(attempt(1, 4, None)), Verdict::Stranger);
    assert_eq!(w.take(attempt(1, 4, None)), Verdict::Throttled);
    // Nothing that takes none says that it did.
    assert_eq!(w.ok([]).attempt, None);
}

pub(super) fn a_known_device_or_network_has_its_own(backend: &dyn Backend) {
    let w = World::new(backend);
    for n in 0..60 {
        w.take(attempt(1, n, None));
    }
    let (home, laptop) = (attempt(1, 100, None), attempt(1, 101, Some(1)));
    assert_eq!(w.take(home), Verdict::Throttled);
    w.ok([Change::KnowNetwork { account: home.account, network: home.network }]);
    assert_eq!(w.take(home), Verdict::Network);
    for _ in 0..DEVICE.burst {
        assert_eq!(w.take(laptop), Verdict::Device);
    }
    assert_eq!(w.take(laptop), Verdict::Throttled);
    w.ok([Change::GiveBack { attempt: laptop, verdict: Verdict::Device }]);
    assert_eq!(w.take(laptop), Verdict::Device);
    w.set(START.plus(NETWORK_LIFE));
    assert_eq!(w.take(home), Verdict::Stranger, "forgotten; and the budgets are full again");
}

pub(super) fn an_attempt_is_taken_with_the_rest_or_not_at_all(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let it = attempt(1, 1, Some(1));
    for _ in 0..DEVICE.burst * 2 {
        let steps = vec![Change::TakeAttempt(it), Change::InsertAccount(ada.clone())];
        assert!(w.commit(Changes { steps, ..Changes::default() }).is_err());
    }
    assert_eq!((w.take(it), w.buckets()), (Verdict::Device, 3));
}

pub(super) fn networks_are_bounded(backend: &dyn Backend) {
    let w = World::new(backend);
    for n in 0..20 {
        w.set(START.plus(i64::from(n)));
        let it = attempt(1, n, None);
        w.ok([Change::KnowNetwork { account: it.account, network: it.network }]);
    }
    assert_eq!(w.networks(), MAX_NETWORKS as u64);
    assert_eq!(w.take(attempt(1, 19, None)), Verdict::Network);
    assert_eq!(w.take(attempt(1, 11, None)), Verdict::Stranger);
    w.set(START.plus(NETWORK_LIFE + 19));
    w.ok([Change::PruneAttempts { keep: 100, most: 5 }]);
    assert_eq!(w.networks(), 3);
    w.ok([Change::PruneAttempts { keep: 100, most: 5 }]);
    assert_eq!(w.networks(), 0);
}

pub(super) fn buckets_are_bounded(backend: &dyn Backend) {
    let w = World::new(backend);
    for n in 0..20 {
        w.take(attempt(n, n, None));
    }
    w.take(attempt(7, 7, None)); // owes more than the others
    assert_eq!(w.buckets(), 60);
    w.ok([Change::PruneAttempts { keep: 100, most: 100 }]);
    assert_eq!(w.buckets(), 60, "none is full");
    w.set(START.plus(6_000));
    w.ok([Change::PruneAttempts { keep: 100, most: 15 }]);
    assert_eq!(w.buckets(), 45, "prefixes are full again after 6 s, all but one");
    w.ok([Change::PruneAttempts { keep: 100, most: 100 }]);
    assert_eq!(w.buckets(), 41);
    // At the limit those go that owe the least.
    w.ok([Change::PruneAttempts { keep: 2, most: 100 }]);
    assert_eq!(w.buckets(), 2);
    let left = (0..ACCOUNT.burst + 5).filter(|n| w.take(attempt(7, 50 + *n as u8, None)).is_checked()).count() as i64;
    assert_eq!(left, ACCOUNT.burst - 2, "who owed the most still does");
}

pub(super) fn budgets_are_there_after_opening_again(backend: &dyn Backend) {
    let w = World::new(backend);
    let (laptop, home) = (attempt(1, 1, Some(1)), attempt(1, 2, None));
    for _ in 0..DEVICE.burst {
        assert!(w.take(laptop).is_checked());
    }
    w.ok([Change::KnowNetwork { account: home.account, network: home.network }]);
    let Some(w) = w.reopen() else { return };
    assert_eq!(w.take(laptop), Verdict::Throttled);
    assert_eq!(w.take(home), Verdict::Network);
}
