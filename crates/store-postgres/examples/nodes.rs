//! Refreshes per second on one node and on two, and ends by one more caller beside them, on a cluster that syncs.
//!
//! `cargo run --release -p portcullis-store-postgres --example nodes [SECONDS]`. Ratios mean something, numbers only on the same machine.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Revoke};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_store::Store as _;
use portcullis_store_postgres::{OpenOptions, PostgresStore, TimeSource};
use portcullis_testkit::Cluster;
use portcullis_wire::{AccountId, ClientId, Epoch, GrantId, KeyId, LogId, Rev, SessionId, Target, Time, Verb};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const NOW: Time = Time(1_700_000_000_000);
/// Callers on each node, each with families of its own.
const CALLERS: u128 = 32;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let seconds = std::env::args().nth(1).map_or(3, |text| text.parse().unwrap());
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    for (nodes, ends) in [(1, false), (2, false), (1, true), (2, true)] {
        let stores: Vec<_> = opened(&url, nodes).await;
        measure(&stores, Duration::from_secs(seconds), ends).await;
    }
}

async fn opened(url: &str, nodes: usize) -> Vec<Arc<PostgresStore>> {
    let mut stores = Vec::new();
    for _ in 0..nodes {
        let options = OpenOptions::new(LogId::from_bits(1), TimeSource::Given(Arc::new(|| NOW)));
        stores.push(Arc::new(PostgresStore::open(url, options).await.unwrap()));
    }
    stores
}

async fn measure(stores: &[Arc<PostgresStore>], span: Duration, ends: bool) {
    static ROUND: AtomicU64 = AtomicU64::new(1);
    let base = u128::from(ROUND.fetch_add(1, Relaxed)) << 64;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        for caller in 0..CALLERS {
            let grant = GrantId::from_bits(base | (n as u128) << 32 | caller);
            people(store, grant).await;
            let (store, over, done) = (store.clone(), over.clone(), done.clone());
            tasks.push(tokio::spawn(async move {
                while !over.load(Relaxed) {
                    let family = store.load_refresh(grant).await.unwrap().unwrap().grant.family;
                    let (counter, predecessor) = (family.counter, family.predecessor);
                    let next = Family { counter: counter + 1, predecessor: Some(counter), ..family };
                    let step = Change::SetFamily { grant, counter, predecessor, family: next };
                    store.commit(Changes { steps: vec![step], ..Changes::default() }).await.unwrap();
                    done.fetch_add(1, Relaxed);
                }
            }));
        }
    }
    let ended = AtomicU64::new(0);
    let one_after_the_other = async {
        loop {
            let target = Target::Account(AccountId::from_bits(base));
            let what =
                Revoke { verb: Verb::End, target, except: None, spread_ms: None, owner: None, reason: "x".into() };
            let changes = Changes { steps: vec![Change::Revoke(what)], ..Changes::default() };
            if ends {
                stores[0].commit(changes).await.unwrap();
                ended.fetch_add(1, Relaxed);
            } else {
                std::future::pending::<()>().await;
            }
        }
    };
    let _ = tokio::time::timeout(span, one_after_the_other).await; // it ends by time alone
    let rate = done.load(Relaxed) as f64 / span.as_secs_f64();
    over.store(true, Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let groups: u64 = stores.iter().map(|store| store.stats().groups).sum();
    let acts: u64 = stores.iter().map(|store| store.stats().commits).sum();
    println!(
        "{} node(s): {rate:.0} refreshes/s, {:.1} commits in a group; {} ends one after the other",
        stores.len(),
        acts as f64 / groups as f64,
        ended.load(Relaxed)
    );
}

/// An account (one for all of a round), a session and a grant.
async fn people(store: &PostgresStore, grant: GrantId) {
    let account = AccountId::from_bits(grant.bits() >> 64 << 64);
    let row = Account {
        id: account,
        email: None,
        name: None,
        password_hash: None,
        password_version: 1,
        email_verified_at: None,
        roles: Vec::new(),
        status: Status::Active,
        created_at: NOW,
        cut: Cut::default(),
        version: 1,
    };
    let _ = store.commit(Changes { steps: vec![Change::InsertAccount(row)], ..Changes::default() }).await; // it may be there
    let session = Session {
        id: SessionId::from_bits(grant.bits()),
        account,
        kind: SessionKind::App,
        client: None,
        device_name: "d".into(),
        agent: "a".into(),
        ip: None,
        created_at: NOW,
        auth_time: NOW,
        amr: Amr::default(),
        last_seen_at: NOW,
        absolute_expires_at: NOW.plus(1_000_000),
        born: Rev::ZERO,
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let family = Family::new([7; 32], KeyId(1), Epoch(1), NOW);
    let row = Grant {
        id: grant,
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        proof: None,
        born: Rev::ZERO,
        network: None,
        family,
        ended: None,
    };
    let steps = vec![Change::InsertSession(session), Change::InsertGrant(row)];
    store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
}
