//! What is remembered for the rules of risk.
use super::{Backend, START, World, wait};
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::model::{Grant, Status};
use portcullis_domain::throttle::{Bucket, BucketKey, Budget};
use portcullis_domain::view::RiskView;
use portcullis_wire::{AccountId, GrantId, Rev};

fn put(account: AccountId, version: u32, memory: &str) -> Change {
    Change::PutMemory { account, version, memory: memory.into() }
}

impl World<'_> {
    fn risk(&self, account: AccountId, buckets: &[BucketKey]) -> RiskView {
        wait(self.store.load_risk(account, buckets)).unwrap()
    }
    /// What is remembered, and how often it was written.
    fn memory(&self, account: AccountId) -> (Option<String>, u32) {
        let RiskView { memory, version, .. } = self.risk(account, &[]);
        (memory, version)
    }
    fn memories(&self) -> u64 {
        wait(self.store.count_rows()).unwrap().memories
    }
}

pub(super) fn what_is_remembered_is_written_from_where_it_was_seen(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    assert_eq!(w.memory(ada.id), (None, 0));
    assert_eq!(w.conflict([put(ada.id, 1, "late")]), Conflict::Moved);
    w.ok([put(ada.id, 0, "{\"v\": 1}\0")]);
    assert_eq!(w.conflict([put(ada.id, 0, "twice")]), Conflict::Moved);
    w.ok([put(ada.id, 1, "two"), put(ada.id, 2, "three")]);
    assert_eq!(w.memory(ada.id), (Some("three".into()), 3));
    // With the rest, or not at all.
    let with_the_rest = vec![put(ada.id, 3, "four"), Change::InsertAccount(ada.clone())];
    assert!(w.commit(Changes { steps: with_the_rest, ..Changes::default() }).is_err());
    let bob = w.new_account("bob@example.org");
    let long = "x".repeat(4096);
    w.ok([put(bob.id, 0, &long)]);
    assert_eq!(w.conflict([put(AccountId::from_bits(9), 0, "nobody")]), Conflict::Missing);
    assert_eq!(w.memories(), 2);
    let Some(w) = w.reopen() else { return };
    assert_eq!(w.memory(ada.id), (Some("three".into()), 3));
    assert_eq!(w.memory(bob.id), (Some(long), 1));
}

pub(super) fn of_a_tombstone_nothing_is_remembered(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    w.ok([put(ada.id, 0, "something")]);
    let deleting = Status::Deleting { at: START, until: START.plus(9), rev: Rev::ZERO };
    w.ok([Change::SetStatus { account: ada.id, status: deleting }]);
    assert_eq!(w.memory(ada.id), (Some("something".into()), 1));
    w.ok([Change::SetStatus { account: ada.id, status: Status::Deleted { at: START, rev: Rev::ZERO } }]);
    assert_eq!((w.memory(ada.id), w.memories()), ((None, 0), 0));
    assert_eq!(w.conflict([put(ada.id, 0, "again")]), Conflict::Missing);
}

pub(super) fn a_grant_remembers_its_network(backend: &dyn Backend) {
    let (w, _, _, gra) = World::peopled(backend);
    assert_eq!(w.grant(gra.id).network, None);
    let network = [1, 2, 3, 4, 5, 6, 7, 8];
    w.ok([Change::SetNetwork { grant: gra.id, network }]);
    assert_eq!(w.grant(gra.id), Grant { network: Some(network), ..gra.clone() });
    // A new state of the family leaves it as it is.
    let family = portcullis_domain::family::Family { counter: 2, predecessor: Some(1), ..gra.family.clone() };
    w.ok([Change::SetFamily { grant: gra.id, counter: 1, predecessor: None, family: family.clone() }]);
    assert_eq!(w.grant(gra.id), Grant { network: Some(network), family, ..gra });
    let nowhere = Change::SetNetwork { grant: GrantId::from_bits(9), network };
    assert_eq!(w.conflict([nowhere]), Conflict::Missing);
}

pub(super) fn a_bucket_is_drawn_from_until_it_is_empty(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let [bucket, other] = [BucketKey([7; 16]), BucketKey([8; 16])];
    let budget = Budget { burst: 3, every: 1_000 };
    let draw = || Change::Draw { bucket, budget };
    for _ in 0..3 {
        w.ok([draw()]);
    }
    assert_eq!(w.conflict([draw()]), Conflict::Moved);
    let full = Some(Bucket { debt: 3_000, seen_at: START });
    assert_eq!(w.risk(ada.id, &[other, bucket]).buckets, [None, full]);
    // What is refused is not taken, and what goes with it is not written.
    w.set(START.plus(999));
    assert_eq!(w.conflict([put(ada.id, 0, "with it"), draw()]), Conflict::Moved);
    assert_eq!(w.memory(ada.id), (None, 0));
    w.set(START.plus(1_000));
    w.ok([put(ada.id, 0, "with it"), draw()]);
    // A clock that was set back gives nothing.
    w.set(START);
    assert_eq!(w.conflict([draw()]), Conflict::Moved);
    assert_eq!(
        w.risk(AccountId::from_bits(9), &[bucket]).buckets,
        [Some(Bucket { debt: 3_000, seen_at: START.plus(1_000) })]
    );
    assert_eq!(w.risk(ada.id, &[]).memory.as_deref(), Some("with it"));
}
