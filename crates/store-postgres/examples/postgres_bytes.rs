//! How many bytes a session takes in PostgreSQL, by table and index, and how many of its log a refresh and an end take:
//! `cargo run --release -p portcullis-store-postgres --example postgres_bytes -- 40000`.
//!
//! The rows are those of SQLite's example of that name: sign-ins as the server commits them, four sessions for each account.
//! Afterwards every session is refreshed twice, as in use, and the tables are looked at again: old versions of rows take space
//! until they are vacuumed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]
#[path = "../../store-sqlite/examples/bytes/after.rs"]
mod after;
#[path = "../../store-sqlite/examples/bytes/rows.rs"]
mod rows;

use after::{remembered, seal_all};
use portcullis_domain::changes::{Change, Changes, Revoke};
use portcullis_domain::family::Family;
use portcullis_store::Store as _;
use portcullis_store_postgres::{OpenOptions, PostgresStore, TimeSource};
use portcullis_testkit::Cluster;
use portcullis_wire::{LogId, Target, Verb};
use rows::{NOW, account, sign_in};
use std::sync::Arc;

const SIZES: &str = "SELECT relname || ' ' || pg_relation_size(oid) FROM pg_class
    WHERE relnamespace = 'portcullis'::regnamespace AND relkind IN ('r', 'i') AND pg_relation_size(oid) >= $
    ORDER BY pg_relation_size(oid) DESC";
const WAL: &str = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn";

#[tokio::main]
async fn main() {
    let sessions: u64 = std::env::args().nth(1).map_or(20_000, |text| text.parse().unwrap());
    let cluster = Cluster::start();
    let url = cluster.database(None);
    let mut options = OpenOptions::new(LogId::from_bits(1), TimeSource::Given(Arc::new(|| NOW)));
    options.danger_lose_data_on_crash = true; // nothing here outlives the measurement
    let store = Arc::new(PostgresStore::open(&url, options).await.unwrap());
    let accounts: Vec<Change> = (0..sessions.div_ceil(4)).map(account).collect();
    for part in accounts.chunks(500) {
        store.commit(Changes { steps: part.to_vec(), ..Changes::default() }).await.unwrap();
    }
    commit_all(&store, (0..sessions).map(sign_in)).await;
    commit_all(&store, (0..sessions / 4).map(remembered)).await;
    seal_all(&*store, LogId::from_bits(1)).await.unwrap();
    cluster.psql("t0", "VACUUM ANALYZE");
    show(&cluster, sessions, "after the sign-ins");

    for round in 0..2 {
        let before = wal(&cluster);
        commit_all(&store, (0..sessions).map(|n| refresh(n, round))).await;
        let each = (wal(&cluster) - before) / sessions as f64;
        println!("{each:>8.0}  bytes of the log for each refresh");
    }
    show(&cluster, sessions, "after two refreshes of each");
    cluster.psql("t0", "VACUUM");
    show(&cluster, sessions, "and after a vacuum");

    let ends = sessions.min(2_000);
    let before = wal(&cluster);
    commit_all(&store, (0..ends).map(|n| end_all(n * 7))).await;
    let each = (wal(&cluster) - before) / ends as f64;
    println!("{each:>8.0}  bytes of the log for each end of all sessions of an account");
}

async fn commit_all(store: &Arc<PostgresStore>, all: impl Iterator<Item = Changes>) {
    let mut all = all.peekable();
    while all.peek().is_some() {
        let part: Vec<_> = all
            .by_ref()
            .take(512)
            .map(|changes| {
                let store = store.clone();
                tokio::spawn(async move { store.commit(changes).await })
            })
            .collect();
        for one in part {
            one.await.unwrap().unwrap();
        }
    }
}

/// The next token of the n-th sign-in's family.
fn refresh(n: u64, round: u64) -> Changes {
    let Change::InsertGrant(row) = sign_in(n).steps.remove(1) else { unreachable!("a sign-in inserts a grant") };
    let old = Family {
        counter: row.family.counter + round,
        predecessor: if round > 0 { Some(row.family.counter + round - 1) } else { row.family.predecessor },
        ..row.family
    };
    let (counter, predecessor) = (old.counter, old.predecessor);
    let family = Family { counter: counter + 1, predecessor: Some(counter), ..old };
    let steps = vec![Change::SetFamily { grant: row.id, counter, predecessor, family }];
    Changes { steps, ..Changes::default() }
}

fn end_all(n: u64) -> Changes {
    let Change::InsertSession(row) = sign_in(n).steps.remove(0) else { unreachable!("a sign-in inserts a session") };
    let target = Target::Account(row.account);
    let what = Revoke { verb: Verb::End, target, except: None, spread_ms: None, owner: None, reason: "x".into() };
    Changes { steps: vec![Change::Revoke(what)], ..Changes::default() }
}

fn wal(cluster: &Cluster) -> f64 {
    cluster.psql("t0", WAL).parse().unwrap()
}

fn show(cluster: &Cluster, sessions: u64, when: &str) {
    println!("{sessions} sessions; bytes for each, {when}:");
    let mut all = 0;
    for line in cluster.psql("t0", &SIZES.replace('$', &sessions.to_string())).lines() {
        let (name, bytes) = line.split_once(' ').unwrap();
        let bytes = bytes.parse::<u64>().unwrap() / sessions;
        all += bytes;
        println!("{bytes:>8}  {name}");
    }
    println!("{all:>8}  all");
}
