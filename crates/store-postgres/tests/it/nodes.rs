//! Two nodes on one database at once.
use crate::support::{LOG, START, database, open, runtime};
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Conflict, Expect, Revoke};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::throttle::{Attempt, BucketKey, DEVICE};
use portcullis_domain::{Actor, Expect as E};
use portcullis_store::{CommitError, EventFilter, Store as _};
use portcullis_store_postgres::PostgresStore;
use portcullis_wire::{
    AccountId, Chain, ClientId, Epoch, EventId, GrantId, KeyId, Rev, SessionId, Target, TokenId, Verb,
};
use sqlx::Connection as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::task::JoinSet;

fn bits() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // The low half first in the order of ids, so that later rows do not always come later.
    u128::from(NEXT.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | 1
}

fn account(email: &str) -> Account {
    Account {
        id: AccountId::from_bits(bits()),
        email: Some(email.into()),
        name: None,
        password_hash: None,
        password_version: 1,
        email_verified_at: None,
        roles: Vec::new(),
        status: Status::Active,
        created_at: START,
        cut: Cut::default(),
        version: 1,
    }
}

fn session(account: AccountId, born: Rev) -> Session {
    Session {
        id: SessionId::from_bits(bits()),
        account,
        kind: SessionKind::App,
        client: None,
        device_name: "d".into(),
        agent: "a".into(),
        ip: None,
        created_at: START,
        auth_time: START,
        amr: Amr::default(),
        last_seen_at: START,
        absolute_expires_at: START.plus(1_000_000),
        born,
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    }
}

fn grant(session: SessionId, born: Rev) -> Grant {
    Grant {
        id: GrantId::from_bits(bits()),
        session,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        proof: None,
        born,
        network: None,
        family: Family::new([7; 32], KeyId(1), Epoch(1), START),
        ended: None,
    }
}

fn end(target: Target) -> Change {
    Change::Revoke(Revoke {
        verb: Verb::End,
        target,
        except: None,
        spread_ms: None,
        owner: None,
        reason: "a door".into(),
    })
}

fn event(session: Option<SessionId>) -> NewEvent {
    let event = NewEvent::new(EventId::from_bits(bits()), EventKind::ALL[0], &Actor::System);
    session.into_iter().fold(event, NewEvent::session)
}

async fn pair() -> [Arc<PostgresStore>; 2] {
    let url = database();
    [Arc::new(open(&url).await), Arc::new(open(&url).await)]
}

/// A sign-in: a view, then what is decided on it.
async fn sign_in(store: &PostgresStore, email: &str, limit: Option<u64>) -> Result<SessionId, CommitError> {
    let view = store.load_sign_in(email, ClientId::FIRST_PARTY).await.unwrap();
    let (account, born) = (view.account.unwrap().id, view.stamp.head);
    let row = session(account, born);
    let mut expects = vec![E::Unborn { account, client: ClientId::FIRST_PARTY, born, under: None }];
    expects.extend(limit.map(|at_most| E::LiveSessions {
        account,
        counted: portcullis_domain::changes::Counted::All,
        besides: Vec::new(),
        at_most,
    }));
    let steps = vec![Change::InsertSession(row.clone()), Change::InsertGrant(grant(row.id, born))];
    let changes = Changes { expects, steps, events: vec![event(Some(row.id))], ..Changes::default() };
    store.commit(changes).await.map(|_| row.id)
}

fn one_step(step: Change) -> Changes {
    Changes { steps: vec![step], ..Changes::default() }
}

#[test]
fn the_log_of_many_at_once_has_no_gap_and_its_chain_is_right() {
    runtime().block_on(async {
        let nodes = pair().await;
        let ada = account("ada@example.org");
        nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
        let mut all = JoinSet::new();
        for n in 0..400_usize {
            let (node, id) = (nodes[n % 2].clone(), ada.id);
            all.spawn(async move {
                let target = match n % 3 {
                    0 => Target::All,
                    1 => Target::Account(id),
                    _ => Target::Token(TokenId::from_bits(bits())),
                };
                node.commit(one_step(end(target))).await.unwrap().rev.unwrap().0
            });
        }
        let mut revs = all.join_all().await;
        revs.sort_unstable();
        assert_eq!(revs, (1..=400).collect::<Vec<_>>());
        let (stamp, entries) = nodes[1].read_live().await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.rev.0).collect::<Vec<_>>(), revs);
        assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(LOG), Chain::after));
        let cut = nodes[0].load_account(ada.id).await.unwrap().unwrap().account.cut.rev;
        let of_ada = |entry: &&portcullis_wire::Entry| entry.target == Target::Account(ada.id);
        assert_eq!(cut, entries.iter().rfind(of_ada).unwrap().rev);
    });
}

#[test]
fn nothing_is_born_dead_beside_ends_on_another_node() {
    runtime().block_on(async {
        let nodes = pair().await;
        let ada = account("ada@example.org");
        nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
        let mut all = JoinSet::new();
        for n in 0..240_usize {
            let (node, id) = (nodes[n % 2].clone(), ada.id);
            all.spawn(async move {
                if n % 4 > 1 {
                    let ends = Changes { events: vec![event(None)], ..one_step(end(Target::Account(id))) };
                    node.commit(ends).await.unwrap();
                    return false;
                }
                match sign_in(&node, "ada@example.org", None).await {
                    Ok(_) => true,
                    Err(CommitError::Conflict(Conflict::BornDead)) => false,
                    Err(other) => panic!("{other}"),
                }
            });
        }
        let born = all.join_all().await.into_iter().filter(|born| *born).count();
        // Records are numbered under the counter's lock, which ends take alone and sign-ins share: their order is that of the
        // commits. No session was made after an end that its birth does not know.
        let mut records = nodes[0].list_events(&EventFilter::default(), None, 1000).await.unwrap().rows;
        records.reverse();
        let (mut cut, mut seen) = (Rev::ZERO, 0);
        for record in records {
            match (record.rev, record.event.session) {
                (Some(rev), _) => cut = rev,
                (None, Some(id)) => {
                    seen += 1;
                    let row = nodes[1].load_session(id).await.unwrap().unwrap().session;
                    assert!(row.born >= cut, "{id} was born at {:?}, after the end at {cut:?}", row.born);
                }
                (None, None) => panic!("a record of neither"),
            }
        }
        assert_eq!(seen, born);
        println!("{born} were born");
    });
}

#[test]
fn a_limit_of_sessions_holds_over_nodes() {
    runtime().block_on(async {
        let nodes = pair().await;
        let ada = account("ada@example.org");
        nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
        let mut all = JoinSet::new();
        for n in 0..60_usize {
            let node = nodes[n % 2].clone();
            all.spawn(async move { sign_in(&node, "ada@example.org", Some(4)).await });
        }
        let results = all.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
        let others = results.into_iter().filter_map(Result::err);
        others.for_each(|error| assert!(matches!(error, CommitError::Conflict(Conflict::Moved)), "{error}"));
        assert_eq!(nodes[1].list_sessions(ada.id, 100).await.unwrap().len(), 5);
    });
}

#[test]
fn one_of_many_on_two_nodes() {
    runtime().block_on(async {
        let nodes = pair().await;
        let first = |n: usize| Changes {
            expects: vec![Expect::NoAccounts],
            ..one_step(Change::InsertAccount(account(&format!("a{n}@example.org"))))
        };
        assert_eq!(winners(&nodes, 40, first).await, 1, "one first account");
        let same = |_| one_step(Change::InsertAccount(account("ada@example.org")));
        assert_eq!(winners(&nodes, 40, same).await, 1, "one account of an address");
        let session = sign_in(&nodes[0], "ada@example.org", None).await.unwrap();
        let family = Family { counter: 2, predecessor: Some(1), ..Family::new([7; 32], KeyId(1), Epoch(1), START) };
        let gra = grant(session, Rev::ZERO);
        nodes[0].commit(one_step(Change::InsertGrant(gra.clone()))).await.unwrap();
        let step = Change::SetFamily { grant: gra.id, counter: 1, predecessor: None, family };
        assert_eq!(winners(&nodes, 64, |_| one_step(step.clone())).await, 1, "one successor");
        let ends = one_step(end(Target::Session(session)));
        assert_eq!(winners(&nodes, 40, |_| ends.clone()).await, 1, "one end of a session");
        let [account, network, prefix, device] = [1, 2, 3, 4].map(|n| BucketKey([n; 16]));
        let attempt = Attempt { account, network, prefix, device: Some(device), mail: false };
        let mut all = JoinSet::new();
        for n in 0..40_usize {
            let node = nodes[n % 2].clone();
            all.spawn(async move { node.commit(one_step(Change::TakeAttempt(attempt))).await.unwrap().attempt });
        }
        let checked = all.join_all().await.into_iter().filter(|verdict| verdict.unwrap().is_checked()).count();
        assert_eq!(checked as i64, DEVICE.burst, "one budget");
    });
}

/// How many of these commits went through, on both nodes at once; all others must be conflicts.
async fn winners(nodes: &[Arc<PostgresStore>; 2], many: usize, make: impl Fn(usize) -> Changes) -> usize {
    let mut all = JoinSet::new();
    for n in 0..many {
        let (node, changes) = (nodes[n % 2].clone(), make(n));
        all.spawn(async move { node.commit(changes).await });
    }
    let results = all.join_all().await;
    let conflict = |result: &Result<_, CommitError>| matches!(result, Ok(_) | Err(CommitError::Conflict(_)));
    assert!(results.iter().all(conflict), "{results:?}");
    results.iter().filter(|result| result.is_ok()).count()
}

/// Refreshes share the counter's lock, ends take it alone, and all of them lock rows of one account in different orders of
/// asking: nobody waits in a circle, and nobody starves.
#[test]
fn refreshes_and_ends_on_two_nodes_never_fail() {
    runtime().block_on(async {
        let nodes = pair().await;
        let ada = account("ada@example.org");
        nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
        let rows: Vec<Session> = (0..8).map(|_| session(ada.id, Rev::ZERO)).collect();
        let grants: Vec<Grant> = rows.iter().map(|row| grant(row.id, Rev::ZERO)).collect();
        for (row, gra) in rows.iter().zip(&grants) {
            let steps = vec![Change::InsertSession(row.clone()), Change::InsertGrant(gra.clone())];
            nodes[0].commit(Changes { steps, ..Changes::default() }).await.unwrap();
        }
        let mut all = JoinSet::new();
        for n in 0..600_usize {
            let (node, rows, grants) = (nodes[n % 2].clone(), rows.clone(), grants.clone());
            all.spawn(async move {
                let order = |k: usize| (n * 5 + k * 3) % 8;
                let hand_out = |k| Change::HandOut { grant: grants[order(k)].id, counter: 1, at: START };
                let steps = match n % 10 {
                    0 => vec![end(Target::Account(rows[0].account)), end(Target::Grant(grants[order(1)].id))],
                    1 => {
                        vec![Change::Seen(rows.iter().map(|row| (row.id, START.plus(n as i64))).collect()), hand_out(0)]
                    }
                    _ => (0..3).map(hand_out).collect(),
                };
                node.commit(Changes { steps, ..Changes::default() }).await.unwrap();
            });
        }
        all.join_all().await;
        assert_eq!(nodes.iter().map(|node| node.stats().failed_groups).sum::<u64>(), 0);
    });
}

/// Both at once, by force: they are held before the counter's lock, which both want, and let go together.
async fn together(url: &str, nodes: &[Arc<PostgresStore>; 2], both: [Changes; 2]) -> [bool; 2] {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%commit_group%'";
    let mut held = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(1349481076, 1)").execute(&mut held).await.unwrap();
    let mut watch = sqlx::PgConnection::connect(url).await.unwrap();
    let free = async {
        while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut watch).await.unwrap() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    };
    let [one, two] = both;
    let (one, two, ()) = tokio::join!(nodes[0].commit(one), nodes[1].commit(two), free);
    [one, two].map(|result| match result {
        Ok(_) => true,
        Err(CommitError::Conflict(_)) => false,
        Err(other) => panic!("{other}"),
    })
}

fn new_session(account: AccountId, born: Rev) -> (Changes, SessionId) {
    let row = session(account, born);
    let expects = vec![E::Unborn { account, client: ClientId::FIRST_PARTY, born, under: None }];
    let id = row.id;
    let steps = vec![Change::InsertSession(row)];
    (Changes { expects, steps, events: vec![event(Some(id))], ..Changes::default() }, id)
}

#[test]
fn the_last_place_is_taken_once() {
    runtime().block_on(async {
        let url = database();
        let nodes = [Arc::new(open(&url).await), Arc::new(open(&url).await)];
        for n in 0..30 {
            let ada = account(&format!("a{n}@example.org"));
            nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
            let limited = || {
                let mut changes = new_session(ada.id, Rev::ZERO).0;
                changes.expects.push(E::LiveSessions {
                    account: ada.id,
                    counted: portcullis_domain::changes::Counted::All,
                    besides: Vec::new(),
                    at_most: 0,
                });
                changes
            };
            let made = together(&url, &nodes, [limited(), limited()]).await;
            assert_ne!(made[0], made[1], "round {n}");
        }
    });
}

/// Whichever of a sign-in and an end of everything comes first: a session that was made after the end knows it.
#[test]
fn an_end_of_everything_and_a_sign_in_at_the_same_moment() {
    runtime().block_on(async {
        let url = database();
        let nodes = [Arc::new(open(&url).await), Arc::new(open(&url).await)];
        let ada = account("ada@example.org");
        nodes[0].commit(one_step(Change::InsertAccount(ada.clone()))).await.unwrap();
        let mut first = [0, 0];
        for n in 0..40 {
            let born = nodes[0].stamp().await.unwrap().head;
            let (mut sign_in, id) = new_session(ada.id, born);
            // A long one: whoever did not keep an end out would see it come in the midst of it.
            sign_in.steps.extend((0..100).map(|_| Change::InsertSession(session(ada.id, born))));
            let ends = Changes { events: vec![event(None)], ..one_step(end(Target::All)) };
            // In turn, so that either may be the first to wait.
            let order = [nodes[n % 2].clone(), nodes[1 - n % 2].clone()];
            let [made, ended] = together(&url, &order, [sign_in, ends]).await;
            assert!(ended);
            let newest = nodes[0].list_events(&EventFilter::default(), None, 1).await.unwrap().rows.remove(0);
            let sign_in_came_last = newest.event.session == Some(id);
            assert!(!(made && sign_in_came_last), "round {n}: born at {born:?} after an end");
            first[usize::from(made)] += 1;
        }
        println!("the end came first {} times, the sign-in {} times", first[0], first[1]);
        let (stamp, entries) = nodes[1].read_live().await.unwrap();
        assert_eq!(stamp.all.rev, stamp.head);
        assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(LOG), Chain::after));
    });
}

/// Somebody locks our rows in another order than ours. PostgreSQL gives up one of both; when that is a group, it is tried again.
#[test]
fn a_deadlock_with_a_stranger_is_tried_again() {
    runtime().block_on(async {
        let url = database();
        let store = open(&url).await;
        let ada = account("ada@example.org");
        let row = session(ada.id, Rev::ZERO);
        let gra = grant(row.id, Rev::ZERO);
        let steps =
            vec![Change::InsertAccount(ada.clone()), Change::InsertSession(row), Change::InsertGrant(gra.clone())];
        store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
        let mut stranger = sqlx::PgConnection::connect(&url).await.unwrap();
        // Whose patience is the longer, so that the group is the one that is given up.
        const FIRST: &str = "SET deadlock_timeout = '30s'; BEGIN; SELECT 1 FROM portcullis.grants FOR UPDATE";
        sqlx::raw_sql(FIRST).execute(&mut stranger).await.unwrap();
        let steps = vec![
            Change::InsertSession(session(ada.id, Rev::ZERO)),
            Change::HandOut { grant: gra.id, counter: 1, at: START },
        ];
        let ours = store.commit(Changes { steps, ..Changes::default() });
        let theirs = async {
            let mut watch = sqlx::PgConnection::connect(&url).await.unwrap();
            const WAITING: &str = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut watch).await.unwrap() == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            const SECOND: &str = "SELECT 1 FROM portcullis.accounts FOR UPDATE; COMMIT";
            sqlx::raw_sql(SECOND).execute(&mut stranger).await.unwrap();
        };
        let (ours, ()) = tokio::join!(ours, theirs);
        ours.unwrap();
        assert_eq!(store.stats().failed_groups, 0);
        assert_eq!(store.list_sessions(ada.id, 10).await.unwrap().len(), 2);
    });
}

/// The server crashes under two nodes that work: what was acknowledged is there, the log has no gap, and both go on.
#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    runtime().block_on(async {
        let cluster = portcullis_testkit::Cluster::durable();
        let url = cluster.database(None);
        let nodes = [Arc::new(open(&url).await), Arc::new(open(&url).await)];
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut all = JoinSet::new();
        for n in 0..8_usize {
            let (node, over) = (nodes[n % 2].clone(), over.clone());
            all.spawn(async move {
                let (mut acknowledged, mut lost) = (Vec::new(), 0);
                while !over.load(Relaxed) {
                    match node.commit(one_step(end(Target::Token(TokenId::from_bits(bits()))))).await {
                        Ok(done) => acknowledged.push(done.rev.unwrap().0),
                        Err(CommitError::Conflict(conflict)) => panic!("{conflict:?}"),
                        Err(_) => lost += 1,
                    }
                }
                (acknowledged, lost)
            });
        }
        let pause = || tokio::time::sleep(std::time::Duration::from_millis(400));
        pause().await;
        tokio::task::block_in_place(|| cluster.crash());
        let at_the_crash = nodes[0].stamp().await.unwrap().head.0;
        pause().await;
        over.store(true, Relaxed);
        let results = all.join_all().await;
        let lost: usize = results.iter().map(|(_, lost)| lost).sum();
        let mut revs: Vec<u64> = results.into_iter().flat_map(|(acknowledged, _)| acknowledged).collect();
        revs.sort_unstable();
        assert!(revs.windows(2).all(|pair| pair[0] < pair[1]), "no twin");
        let (stamp, entries) = nodes[1].read_live().await.unwrap();
        let there: Vec<u64> = entries.iter().map(|entry| entry.rev.0).collect();
        assert_eq!(there, (1..=stamp.head.0).collect::<Vec<_>>());
        assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(LOG), Chain::after));
        assert!(revs.iter().all(|rev| *rev <= stamp.head.0) && lost > 0 && stamp.head.0 > at_the_crash);
        println!("{} acknowledged, {lost} refused or unknown, {} in the log", revs.len(), stamp.head.0);
    });
}
