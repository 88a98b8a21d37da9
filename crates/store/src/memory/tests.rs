use super::*;
use crate::Store;
use portcullis_domain::account::{self, Email, NewAccount};
use portcullis_domain::changes::{Change, Conflict, Expect};
use portcullis_domain::family::{Family, MacKey};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::{SessionKind, Status};
use portcullis_domain::sign_in::{SignIn, sign_in};
use portcullis_domain::{Chance, Rules};
use portcullis_wire::SecretBytes;

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

fn rules() -> Rules {
    Rules {
        issuer: "https://id.example".into(),
        audience: "https://id.example".into(),
        access_ttl: 300_000,
        longest_ttl: 300_000,
        idle_ttl: 86_400_000,
        absolute_ttl: 30 * 86_400_000,
        retry_window: 10_000,
        late_retry: 86_400_000,
        late_retry_at_home: 14 * 86_400_000,
        require_verified_email: false,
    }
}

const START: Time = Time(1_700_000_000_000);

struct World {
    db: Memory,
    chance: Counting,
    now: Time,
}

impl World {
    fn new() -> Self {
        let mut db = Memory::new(LogId::from_bits(1), START);
        let horizon = Changes { steps: vec![Change::RaiseHorizon(START.plus(400_000))], ..Changes::default() };
        db.commit(horizon, START).unwrap();
        Self { db, chance: Counting(100), now: START }
    }
    fn commit(&mut self, changes: Changes) -> Result<Committed, Conflict> {
        self.db.commit(changes, self.now).map_err(|error| match error {
            CommitError::Conflict(conflict) => conflict,
            other => panic!("{other}"),
        })
    }
    fn account(&mut self, email: &str) -> AccountId {
        let email = Email::parse(email).unwrap();
        let new = NewAccount {
            email,
            password_hash: Some("h".into()),
            name: Some("n".into()),
            roles: vec!["admin".into()],
            verified: false,
        };
        let made = account::create(&self.db.stamp(self.now), new, &By::SYSTEM, &mut self.chance);
        self.commit(made.changes).unwrap();
        made.outcome.unwrap().id
    }
    fn sign_in(&mut self, email: &str) -> Result<SessionId, Conflict> {
        let view = self.db.load_sign_in(email, ClientId::FIRST_PARTY, self.now);
        self.sign_in_by(&view)
    }
    fn sign_in_by(&mut self, view: &SignInView) -> Result<SessionId, Conflict> {
        let how = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
        let key = MacKey::new(KeyId(1), &SecretBytes::new([1; 32]));
        let made = sign_in(view, true, &how, &rules(), &key, &mut self.chance);
        self.commit(made.changes)?;
        Ok(made.outcome.unwrap().session.id)
    }
    fn end(&mut self, scope: Scope, except: Option<SessionId>) -> Result<Committed, Conflict> {
        let changes = kernel::end(Door::EndAll, scope, except, &By::SYSTEM, &mut self.chance);
        self.commit(changes)
    }
    fn dead(&self, session: SessionId) -> bool {
        self.db.load_session(session, self.now).unwrap().dead(rules().idle_ttl).is_some()
    }
}

#[test]
fn an_account_end_is_one_row_and_counts_what_lived() {
    let mut w = World::new();
    let ada = w.account("ada@example.org");
    w.account("bob@example.org");
    let bob = w.sign_in("bob@example.org").unwrap();
    let sessions: Vec<_> = (0..5).map(|_| w.sign_in("ada@example.org").unwrap()).collect();
    w.end(Scope::Session { account: ada, session: sessions[0] }, None).unwrap();
    let done = w.end(Scope::Account(ada), Some(sessions[1])).unwrap();
    assert_eq!((done.rev, done.ended), (Some(Rev(2)), Some(3)));
    assert!(w.dead(sessions[0]) && !w.dead(sessions[1]) && sessions[2..].iter().all(|s| w.dead(*s)) && !w.dead(bob));
    assert_eq!(w.db.count_live(w.now).sessions, 2);
    assert_eq!(w.db.list_sessions(ada, 10, w.now).len(), 1);
    assert_eq!(w.end(Scope::Session { account: ada, session: sessions[0] }, None), Err(Conflict::Moved));
    // a spared session that is dead cannot be revived
    assert_eq!(w.end(Scope::Account(ada), Some(sessions[2])), Err(Conflict::NotAlive(sessions[2])));
    assert_eq!(w.db.load_revocation(Rev(2)).unwrap().ended, Some(3));
}

#[test]
fn what_was_begun_before_an_end_is_born_dead() {
    let mut w = World::new();
    let ada = w.account("ada@example.org");
    let view = w.db.load_sign_in("ada@example.org", ClientId::FIRST_PARTY, w.now);
    w.end(Scope::Account(ada), None).unwrap();
    assert_eq!(w.sign_in_by(&view), Err(Conflict::BornDead));
    w.sign_in("ada@example.org").unwrap();
}

#[test]
fn a_refused_commit_leaves_nothing_behind() {
    let mut w = World::new();
    let ada = w.account("ada@example.org");
    let session = w.sign_in("ada@example.org").unwrap();
    let before = format!("{:?}", w.db);
    let mut changes = kernel::end(Door::Delete, Scope::Account(ada), None, &By::SYSTEM, &mut w.chance);
    changes.steps.push(Change::SetStatus { account: ada, status: Status::Deleted { at: START, rev: Rev::ZERO } });
    changes.steps.push(Change::RenameSession { session, device_name: "x".into() });
    changes.steps.push(Change::RaiseFloor(Time(i64::MAX)));
    let family = Family::new([0; 32], KeyId(1), Epoch(1), START);
    let grant = GrantId::from_bits(0);
    changes.steps.push(Change::SetFamily { grant, counter: 1, predecessor: None, family });
    assert_eq!(w.commit(changes), Err(Conflict::Missing));
    assert_eq!(format!("{:?}", w.db), before);
}

#[test]
fn deletion_frees_the_address_and_knows_its_rev() {
    let mut w = World::new();
    let ada = w.account("ada@example.org");
    let view = w.db.load_account(ada, w.now).unwrap();
    let decided = account::delete(&view, 0, &By::SYSTEM, &mut w.chance);
    let done = w.commit(decided.changes).unwrap();
    let row = w.db.load_account(ada, w.now).unwrap().account;
    assert_eq!(row.status, Status::Deleted { at: START, rev: done.rev.unwrap() });
    assert!(row.email.is_none() && row.name.is_none() && row.password_hash.is_none() && row.roles.is_empty());
    assert_ne!(w.account("ada@example.org"), ada);
}

#[test]
fn the_floor_forgets_a_prefix_and_says_so() {
    let mut w = World::new();
    for until in [10, 20, 30] {
        let raise = Changes { steps: vec![Change::RaiseHorizon(START.plus(400_000 + until))], ..Changes::default() };
        w.commit(raise).unwrap();
        w.end(Scope::All, None).unwrap();
    }
    let whole = w.db.read_live(w.now).1;
    let floor = |at: i64| Changes { steps: vec![Change::RaiseFloor(START.plus(400_000 + at))], ..Changes::default() };
    w.commit(floor(20)).unwrap();
    w.commit(floor(5)).unwrap();
    assert_eq!(w.db.stamp(w.now).floor, START.plus(400_020));
    assert!(!w.db.read_log(Rev(0), 10, w.now).complete);
    let tail = w.db.read_log(Rev(1), 1, w.now);
    assert!(tail.complete && tail.entries.len() == 1 && tail.entries[0].rev == Rev(2));
    let (stamp, live) = w.db.read_live(w.now);
    assert_eq!((stamp.head, live.len()), (Rev(3), 2));
    assert_eq!(stamp.chain, whole.iter().fold(Chain::genesis(stamp.log), Chain::after));
}

#[test]
fn the_trait_gives_the_same() {
    let store = MemoryStore::new(LogId::from_bits(1), std::sync::Arc::new(|| START));
    let mut chance = Counting(5);
    let run = async {
        let changes = kernel::end(Door::Everyone, Scope::All, None, &By::SYSTEM, &mut chance);
        let done = store.commit(changes).await.unwrap();
        assert_eq!((done.rev, done.at), (Some(Rev(1)), START));
        assert!(matches!(
            store.commit(Changes { expects: vec![Expect::NoAccounts], ..Changes::default() }).await,
            Ok(Committed { rev: None, .. })
        ));
        store.stamp().await.unwrap()
    };
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(stamp) = std::pin::pin!(run).poll(&mut context) else { panic!("it waits for nothing") };
    assert_eq!(stamp, store.content().unwrap().stamp(START));
}
