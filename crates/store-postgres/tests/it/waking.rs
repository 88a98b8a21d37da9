//! Notices wake whoever waits for the log, on every node, and after every silence.
use crate::support::{commit, database, name_of, open, runtime};
use portcullis_domain::changes::{Change, Revoke};
use portcullis_testkit::Cluster;
use portcullis_wire::{Target, Verb};
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

fn end() -> Change {
    let (verb, target) = (Verb::End, Target::All);
    Change::Revoke(Revoke { verb, target, except: None, spread_ms: None, owner: None, reason: "a door".into() })
}

#[test]
fn another_nodes_entry_wakes_and_so_does_a_new_connection() {
    runtime().block_on(async {
        let url = database();
        let (one, two) = (open(&url).await, open(&url).await);
        let mut woken = two.watch();
        // The first wake says that it listens.
        timeout(SOON, woken.wait_for(|wakes| *wakes > 0)).await.unwrap().unwrap();
        woken.mark_unchanged();
        commit(&one, vec![end()]).await.unwrap();
        timeout(SOON, woken.changed()).await.unwrap().unwrap();
        // What writes nothing into the log wakes nobody.
        commit(&one, vec![Change::RaiseHorizon(crate::support::START)]).await.unwrap();
        assert!(timeout(Duration::from_millis(300), woken.changed()).await.is_err());
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
        Cluster::shared().psql(name_of(&url), cut);
        timeout(SOON, woken.changed()).await.unwrap().unwrap();
        commit(&one, vec![end()]).await.unwrap();
        timeout(SOON, woken.changed()).await.unwrap().unwrap();
    });
}
