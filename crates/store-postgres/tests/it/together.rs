//! Refreshes that wait at the same moment are read by one statement: each gets what it asked for, and one row's damage is its own.
use crate::support::{database, name_of, open, runtime};
use portcullis_domain::changes::{Change, Changes};
use portcullis_store::{FaultKind, Store};
use portcullis_testkit::Cluster;
use portcullis_testkit::postgres::SMALL;
use portcullis_wire::{GrantId, Rev};
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

/// How often the server has planned a lookup in this database, with whatever is planned inside of one.
fn planned(database: &str) -> usize {
    // A word of this test's own, for the others share the log.
    let mine = |line: &&str| line.contains(&format!("({database})")) && line.contains("each_id($1)");
    Cluster::shared().log().lines().filter(mine).count()
}

#[test]
fn a_lookup_is_not_planned_anew_each_time_because_a_table_was_larger_once() {
    runtime().block_on(async {
        let (url, cluster) = (database(), Cluster::shared());
        let name = name_of(&url);
        cluster.psql(name, &format!("ALTER DATABASE {name} SET log_planner_stats = on"));
        let store = open(&url).await;
        store.commit(Changes { steps: vec![rows::account(0)], ..Changes::default() }).await.unwrap();
        for n in 0..3 {
            store.commit(rows::sign_in(n)).await.unwrap();
        }
        let look = async |times| {
            for n in 0..times {
                assert!(store.load_refresh(grant(n % 3)).await.unwrap().is_some());
            }
        };
        look(5).await;
        // A plan that is made now is thought to cost what this table takes to be read.
        let grown = "DO $$ BEGIN FOR n IN 1 .. 20000 LOOP UPDATE portcullis.meta SET head = head; END LOOP; END $$";
        cluster.psql(name, grown);
        look(3).await;
        let before = planned(name);
        assert!(before > 0, "the server logs no plans");
        cluster.psql(name, "VACUUM FULL portcullis.meta");
        look(60).await;
        let again = planned(name) - before;
        assert!(again < 20, "planned {again} times for 60 lookups");
    });
}

#[test]
fn where_there_is_no_room_for_a_connection_that_keeps_its_plans_lookups_go_by_others() {
    runtime().block_on(async {
        let cluster = Arc::new(Cluster::small());
        let store = Arc::new(open(&cluster.database(None)).await);
        store.commit(Changes { steps: vec![rows::account(0)], ..Changes::default() }).await.unwrap();
        store.commit(rows::sign_in(0)).await.unwrap();
        // Connections for reading are there.
        let reads: Vec<_> = (0..12)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.read_log(Rev(0), 1).await })
            })
            .collect();
        for read in reads {
            read.await.unwrap().unwrap();
        }
        let others: Vec<_> = (0..SMALL)
            .map(|_| {
                let cluster = cluster.clone();
                std::thread::spawn(move || cluster.try_psql("postgres", "SELECT pg_sleep(100)"))
            })
            .collect();
        let one_more = || tokio::task::block_in_place(|| cluster.try_psql("postgres", "SELECT 1"));
        let full = timeout(Duration::from_secs(60), async {
            while one_more().is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(full.await.is_ok(), "there is room for everybody");
        for _ in 0..3 {
            assert!(store.load_refresh(grant(0)).await.unwrap().is_some());
        }
        assert!(one_more().is_err(), "there was room again");
        cluster.end();
        others.into_iter().for_each(|other| drop(other.join().unwrap()));
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
        // Until there is the one that keeps its plans.
        let mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT g.id%'";
        while Cluster::shared().psql(name_of(&url), mine) != "2" {
            store.load_refresh(grant(0)).await.unwrap();
        }
        store.load_refresh(grant(0)).await.unwrap();
        // The server's end of that stands still: it is the one that was used last.
        let backend =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT g.id%' \
             ORDER BY query_start DESC LIMIT 1";
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
