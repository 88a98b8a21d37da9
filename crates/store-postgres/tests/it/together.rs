//! Refreshes that wait at the same moment are read by one statement: each gets what it asked for, and one row's damage is its own.
use crate::support::{database, name_of, open, runtime};
use portcullis_domain::changes::{Change, Changes};
use portcullis_store::{FaultKind, Store};
use portcullis_testkit::Cluster;
use portcullis_wire::GrantId;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

#[path = "../../../store-sqlite/examples/bytes/rows.rs"]
pub(crate) mod rows;

fn grant(n: u64) -> GrantId {
    match rows::sign_in(n).steps.remove(1) {
        Change::InsertGrant(row) => row.id,
        other => panic!("a sign-in inserts a grant, not {other:?}"),
    }
}

#[test]
fn each_gets_its_own() {
    runtime().block_on(async {
        let url = database();
        let store = Arc::new(open(&url).await);
        store.commit(Changes { steps: vec![rows::account(0)], ..Changes::default() }).await.unwrap();
        for n in 0..3 {
            store.commit(rows::sign_in(n)).await.unwrap();
        }
        let damaged = format!("{:032x}", grant(2).bits());
        let damage = format!("UPDATE portcullis.grants SET mac_key = -1 WHERE id = '\\x{damaged}'");
        Cluster::shared().psql(name_of(&url), &damage);
        for _ in 0..20 {
            // Others' places are taken at the same moment, twice the same one among them.
            let asked = [0, 0, 1, 2, 3].map(|n| {
                let store = store.clone();
                tokio::spawn(async move { (n, store.load_refresh(grant(n)).await) })
            });
            for one in asked {
                match one.await.unwrap() {
                    (n @ 0..=1, found) => assert_eq!(found.unwrap().unwrap().grant.id, grant(n)),
                    (2, found) => assert_eq!(found.unwrap_err().kind, FaultKind::Damaged),
                    (_, found) => assert!(found.unwrap().is_none()),
                }
            }
        }
    });
}

#[test]
fn a_connection_that_gives_no_answer_holds_up_nobody_else() {
    runtime().block_on(async {
        let url = database();
        let store = Arc::new(open(&url).await);
        store.commit(Changes { steps: vec![rows::account(0)], ..Changes::default() }).await.unwrap();
        store.commit(rows::sign_in(0)).await.unwrap();
        let ask = |many: usize| {
            let asked: Vec<_> = (0..many).map(|_| store.clone()).collect();
            asked.into_iter().map(|store| tokio::spawn(async move { store.load_refresh(grant(0)).await }))
        };
        store.load_refresh(grant(0)).await.unwrap();
        // The server's end of the only connection for reading stands still.
        let backend =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT g.id%'";
        let pid = Cluster::shared().psql(name_of(&url), backend);
        let tell = |what: &str| assert!(Command::new("kill").args([what, &pid]).status().unwrap().success());
        tell("-STOP");
        let stuck = ask(1).next().unwrap();
        sleep(Duration::from_millis(10)).await;
        let others = async {
            for _ in 0..5 {
                for asked in ask(5) {
                    assert!(asked.await.unwrap().unwrap().is_some());
                }
            }
        };
        let others = timeout(Duration::from_secs(2), others).await;
        let still = !stuck.is_finished();
        tell("-CONT");
        assert!(others.is_ok() && still, "{others:?} {still}");
        assert!(stuck.await.unwrap().unwrap().is_some());
    });
}
