//! A database far away, or busy: a connection takes longer to be made than anybody waits for one.
use crate::support::{START, commit, database, open, runtime};
use portcullis_domain::changes::Change;
use portcullis_store::Store;
use portcullis_testkit::{
    Cluster,
    proxy::{Proxy, Way},
};
use portcullis_wire::{GrantId, Rev};
use std::time::Duration;

/// A connection takes five turns and more; a statement takes one.
const EACH_WAY: Duration = Duration::from_millis(350);
/// Each waits for two seconds or so.
const TRIES: usize = 20;

#[test]
fn what_takes_longer_than_a_caller_waits_is_there_for_the_next_ones() {
    runtime().block_on(async {
        let cluster = Cluster::shared();
        let proxy = Proxy::to(cluster.address()).await.unwrap();
        let url = database().replace(&cluster.address().to_string(), &proxy.address.to_string());
        let store = open(&url).await;
        commit(&store, vec![Change::RaiseHorizon(START)]).await.unwrap();
        store.read_log(Rev(0), 10).await.unwrap();
        proxy.set(Way { delay: EACH_WAY, ..Way::default() });
        proxy.reset();

        let lookup = || store.load_refresh(GrantId::from_bits(1));
        let mut refused = [0, 0];
        while store.read_log(Rev(0), 10).await.is_err() {
            refused[0] += 1;
            assert!(refused[0] < TRIES, "no connection for reading is ever made");
        }
        while commit(&store, vec![Change::RaiseHorizon(START)]).await.is_err() {
            refused[1] += 1;
            assert!(refused[1] < TRIES, "no connection for commits is ever made");
        }
        let mut lookups_refused = 0;
        while lookup().await.is_err() {
            lookups_refused += 1;
            assert!(lookups_refused < TRIES, "no connection for lookups is ever made");
        }
        assert!(refused.iter().all(|times| *times > 0), "nobody had to wait for long: {refused:?}");
        store.read_log(Rev(0), 10).await.unwrap();
        commit(&store, vec![Change::RaiseHorizon(START)]).await.unwrap();
    });
}
