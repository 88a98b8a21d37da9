//! Connections that lead to a primary from which a standby has taken over, and which does not know it.
use crate::support::{START, commit, open, runtime};
use portcullis_domain::changes::Change;
use portcullis_store::Store;
use portcullis_store_postgres::PostgresStore;
use portcullis_testkit::{Cluster, proxy::Proxy};
use portcullis_wire::{GrantId, Rev};
use std::sync::Arc;

/// Many at once, so that several connections are used.
async fn reads(store: &Arc<PostgresStore>) {
    let read = |_| {
        let store = store.clone();
        tokio::spawn(async move { store.read_log(Rev(0), 10).await })
    };
    for asked in (0..12).map(read).collect::<Vec<_>>() {
        asked.await.unwrap().unwrap();
    }
    // Lookups have a connection of their own as well, from the second on.
    for _ in 0..20 {
        assert!(store.load_refresh(GrantId::from_bits(1)).await.unwrap().is_none());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn act() -> Vec<Change> {
    vec![Change::RaiseHorizon(START)]
}

/// The connection for commits is broken, so that the next goes where the name leads.
fn cut_commits(cluster: &Cluster, database: &str) {
    let cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
         WHERE datname = current_database() AND query LIKE '%commit_group_%' AND pid <> pg_backend_pid()";
    assert_eq!(cluster.psql(database, cut), "t");
}

#[test]
fn a_kept_connection_is_no_proof_of_a_loss_and_a_new_one_is() {
    runtime().block_on(async {
        let old = Cluster::start();
        let url = old.database(None);
        let name = url.rsplit('/').next().unwrap().to_owned();
        let proxy = Proxy::to(old.address()).await.unwrap();
        let store = Arc::new(open(&url.replace(&old.address().to_string(), &proxy.address.to_string())).await);
        commit(&store, act()).await.unwrap();
        reads(&store).await;
        let readers =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT m.%'";
        let lookups = readers.replace("SELECT m.%", "SELECT g.id%");
        assert_ne!(old.psql(&name, readers), "0");
        assert_ne!(old.psql(&name, &lookups), "0");
        let new = old.follower();
        new.catch_up(&old);
        new.lose_touch();
        new.promote();
        proxy.aim_at(new.address());
        // The old one still lives and answers those who are connected: nothing that it says counts.
        cut_commits(&old, &name);
        while commit(&store, act()).await.is_err() {}
        commit(&store, act()).await.unwrap();
        for _ in 0..3 {
            reads(&store).await;
        }
        assert_eq!(store.lost(), None);
        assert_eq!(store.commits().unwrap().timeline, 2);
        assert_eq!(old.psql(&name, readers), "0");
        assert_eq!(old.psql(&name, &lookups), "0");
        // Where the name really leads back, what is missing there is lost.
        proxy.aim_at(old.address());
        proxy.reset();
        reads(&store).await;
        let lost = store.lost().unwrap();
        assert!(lost.contains("is 1: an older one"), "{lost}");
    });
}

/// A node that dies with the primary takes along what it was told; another one has seen how much it was.
#[test]
fn what_only_a_dead_node_was_told_is_missed_by_another() {
    runtime().block_on(async {
        let old = Cluster::start();
        let url = old.database(None);
        let proxy = Proxy::to(old.address()).await.unwrap();
        let url = url.replace(&old.address().to_string(), &proxy.address.to_string());
        let (dies, lives) = (open(&url).await, Arc::new(open(&url).await));
        commit(&dies, act()).await.unwrap();
        commit(&lives, act()).await.unwrap();
        let looks = async |times: u32| {
            for _ in 0..times {
                lives.look_at_others().await.unwrap();
                reads(&lives).await;
            }
        };
        looks(2).await;
        let new = old.follower();
        new.catch_up(&old);
        new.lose_touch();
        for _ in 0..3 {
            commit(&dies, act()).await.unwrap();
        }
        looks(2).await;
        assert_eq!(lives.lost(), None);
        let told = dies.commits().unwrap();
        drop(dies);
        old.end();
        new.promote();
        proxy.aim_at(new.address());
        proxy.reset();
        // What it was told itself is all there.
        while lives.read_log(Rev(0), 10).await.is_err() {}
        assert_eq!(lives.lost(), None);
        while lives.look_at_others().await.is_err() {}
        let lost = lives.lost().unwrap();
        assert!(lost.contains(&format!("{} groups of commits of the node {}", told.count, told.by)), "{lost}");
        let lacks = lives.lacks().unwrap();
        assert_eq!((lacks.by, lacks.count), (told.by, told.count));
        // Only a database that has as many is the right one.
        assert!(lives.count_commits(told.by).await.unwrap().unwrap() < told.count);
    });
}
