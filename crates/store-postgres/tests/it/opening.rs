//! What is refused at the start, each with what to do; and what a commit says when the database goes away.
use crate::support::{LOG, commit, database, name_of, open, options, runtime, standing};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::family::Family;
use portcullis_store::{CommitError, Store as _};
use portcullis_store_postgres::{OpenError, OpenOptions, PostgresStore, TimeSource};
use portcullis_testkit::Cluster;
use portcullis_wire::{Epoch, GrantId, KeyId, LogId, Time};
use sqlx::Connection as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

fn refused(url: &str, options: OpenOptions) -> String {
    let error = runtime().block_on(PostgresStore::open(url, options)).map(drop).unwrap_err();
    let text = format!("{error} / {error:?}");
    assert!(!text.contains("open-sesame"), "the password is shown: {text}");
    text
}

fn empty() -> (String, String) {
    let url = Cluster::shared().database(None);
    let name = name_of(&url).to_owned();
    (url, name)
}

#[test]
fn settings_that_lose_what_was_acknowledged_are_refused() {
    let (url, name) = empty();
    let operator = |sql: String| Cluster::shared().psql("postgres", &sql);
    operator(format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    assert!(refused(&url, standing()).contains("synchronous_commit is off"));
    operator(format!("ALTER DATABASE {name} SET synchronous_commit = local"));
    drop(runtime().block_on(PostgresStore::open(&url, standing())).unwrap());
    let mut strict = standing();
    strict.danger_lose_data_on_crash = false;
    assert!(refused(&url, strict).contains("fsync is off"));
}

#[test]
fn other_encodings_standbys_and_strangers_are_refused() {
    let (cluster, (url, name)) = (Cluster::shared(), empty());
    cluster.psql("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    assert!(refused(&cluster.url("latin"), standing()).contains("encoding is LATIN1"));
    cluster.psql(&name, "CREATE SCHEMA portcullis; CREATE TABLE portcullis.theirs ()");
    assert!(refused(&url, standing()).contains("another program"));
    let standby = Cluster::standby();
    assert!(refused(&standby.url("postgres"), standing()).contains("standby"));
}

#[test]
fn a_later_releases_schema_is_refused() {
    let url = database();
    Cluster::shared().psql(name_of(&url), "INSERT INTO portcullis.schema_version (done) VALUES (99)");
    assert!(refused(&url, standing()).contains("schema version 99"));
}

#[test]
fn missing_privileges_are_named() {
    let (cluster, (url, name)) = (Cluster::shared(), empty());
    cluster.psql("postgres", "CREATE ROLE poor LOGIN");
    let poor = cluster.url_as("poor", &name);
    assert!(refused(&poor, standing()).contains("permission denied for database"));
    drop(runtime().block_on(PostgresStore::open(&url, standing())).unwrap());
    assert!(refused(&poor, standing()).contains("privilege"));
    cluster.psql(
        &name,
        "GRANT USAGE ON SCHEMA portcullis TO poor; GRANT SELECT ON portcullis.schema_version, portcullis.meta TO poor",
    );
    assert!(refused(&poor, standing()).contains("SELECT, INSERT, UPDATE, DELETE on accounts"));
    cluster.psql(&name, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA portcullis TO poor");
    let store = runtime().block_on(PostgresStore::open(&poor, standing())).unwrap();
    runtime().block_on(commit(&store, vec![Change::RaiseHorizon(Time(5))])).unwrap();
}

#[test]
fn what_is_not_there_is_told_without_the_password() {
    assert!(refused("postgres://u:open-sesame@127.0.0.1:1/x", standing()).contains("cannot be reached"));
    assert!(refused("postgres://u:open-sesame@[/x", standing()).contains("does not read"));
    let gone = Cluster::shared().url("no_such_database");
    assert!(refused(&gone, standing()).contains("no_such_database"));
}

/// A start that is broken off leaves whole steps behind it, and the next goes on from there.
#[test]
fn a_migration_that_is_broken_off_is_resumed() {
    let cluster = Cluster::shared();
    let whole = "SELECT max(done), max(done) FROM portcullis.schema_version";
    let all = cluster.psql(name_of(&database()), whole);
    for n in 0..12_u64 {
        let (url, name) = empty();
        let begun = PostgresStore::open(&url, standing());
        let _ = runtime().block_on(async { tokio::time::timeout(Duration::from_millis(10 + n * 8), begun).await });
        let store = runtime().block_on(open(&url));
        runtime().block_on(commit(&store, vec![Change::RaiseHorizon(Time(5))])).unwrap();
        let done = "SELECT count(*), max(done) FROM portcullis.schema_version";
        assert_eq!(cluster.psql(&name, done), all);
    }
}

#[test]
fn nodes_that_start_at_once_found_one_log() {
    let (url, _) = empty();
    let open = |n: u128| PostgresStore::open(&url, options(LogId::from_bits(n), Arc::new(|| Time(1))));
    let stores = runtime().block_on(async { tokio::join!(open(1), open(2), open(3)) });
    let logs = [stores.0, stores.1, stores.2]
        .map(|store| runtime().block_on(async { store.unwrap().stamp().await.unwrap().log }));
    assert!(logs.iter().all(|log| *log == logs[0]), "{logs:?}");
}

#[test]
fn time_is_the_databases() {
    let mono = Arc::new(AtomicI64::new(0));
    let read = mono.clone();
    let time = TimeSource::Database(Arc::new(move || 1000 * read.load(SeqCst)));
    let mut options = OpenOptions::new(LOG, time);
    options.danger_lose_data_on_crash = true;
    runtime().block_on(async {
        let url = database();
        let store = PostgresStore::open(&url, options).await.unwrap();
        let theirs: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(&mut sqlx::PgConnection::connect(&url).await.unwrap())
            .await
            .unwrap();
        let near = |time: Time| assert!((time.0 - theirs).abs() < 5_000, "{time:?} {theirs}");
        near(store.now());
        near(store.stamp().await.unwrap().now);
        near(commit(&store, vec![]).await.unwrap().at);
        let before = store.now();
        mono.store(1_234, SeqCst);
        assert_eq!(store.now(), before.plus(1_234), "carried by the monotonic clock");
    });
}

fn lonely() -> Changes {
    let family = Family::new([7; 32], KeyId(1), Epoch(1), Time(1));
    let step = Change::SetFamily { grant: GrantId::from_bits(5), counter: 1, predecessor: None, family };
    Changes { steps: vec![step], ..Changes::default() }
}

/// A commit that waits for somebody's lock is given up and says so; one whose connection is cut has an unknown outcome.
#[test]
fn locks_and_cuts_are_told_apart() {
    runtime().block_on(async {
        let url = database();
        let store = open(&url).await;
        let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
        // Somebody holds the counter.
        sqlx::raw_sql("BEGIN; UPDATE portcullis.meta SET one = 1").execute(&mut other).await.unwrap();
        let waited = commit(&store, vec![Change::RaiseHorizon(Time(9))]).await;
        assert!(matches!(&waited, Err(CommitError::Failed(error)) if error.detail.contains("55P03")), "{waited:?}");
        let cut = tokio::spawn(async move {
            const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while sqlx::query_scalar::<_, bool>(CUT).fetch_all(&mut other).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other
        });
        let unknown = commit(&store, vec![Change::RaiseHorizon(Time(9))]).await;
        assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
        drop(cut.await.unwrap());
        assert_eq!(store.stamp().await.unwrap().horizon, Time(0));
        commit(&store, vec![Change::RaiseHorizon(Time(9))]).await.unwrap();
    });
}

/// Connections that died are made anew, and each new one is looked at: what became unsafe meanwhile is refused.
#[test]
fn new_connections_are_looked_at_again() {
    runtime().block_on(async {
        let url = database();
        let (cluster, name) = (Cluster::shared(), name_of(&url));
        let store = open(&url).await;
        let reads = || async {
            let store = &store;
            let read = || async { store.stamp().await.unwrap() };
            tokio::join!(read(), read(), read(), read(), read(), read());
        };
        reads().await;
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        );
        cluster.psql("postgres", &cut);
        reads().await;
        cluster.psql("postgres", &format!("ALTER DATABASE {name} SET synchronous_commit = off"));
        cluster.psql("postgres", &cut);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(store.stamp().await.is_err());
        let refused = commit(&store, vec![Change::RaiseHorizon(Time(9))]).await;
        assert!(matches!(&refused, Err(CommitError::Failed(why)) if why.detail.contains("synchronous_commit is off")), "{refused:?}");
    });
}

/// One act that the database cannot take fails alone.
#[test]
fn a_fault_of_one_does_not_harm_its_group() {
    runtime().block_on(async {
        let store = Arc::new(open(&database()).await);
        let event = portcullis_domain::NewEvent::new(
            portcullis_wire::EventId::from_bits(3),
            portcullis_domain::EventKind::ALL[0],
            &portcullis_domain::Actor::System,
        );
        let twin = Changes { events: vec![event], ..Changes::default() };
        store.commit(twin.clone()).await.unwrap();
        let mut all = tokio::task::JoinSet::new();
        for n in 0..40_i64 {
            let (store, twin) = (store.clone(), twin.clone());
            all.spawn(async move {
                if n % 10 == 3 {
                    assert!(matches!(store.commit(twin).await, Err(CommitError::Failed(_))));
                } else {
                    commit(&store, vec![Change::RaiseHorizon(Time(n))]).await.unwrap();
                }
            });
        }
        all.join_all().await;
        assert_eq!(store.stamp().await.unwrap().horizon, Time(39));
    });
}

/// The server is killed and everything is refused; nothing is said to be done.
#[test]
fn a_server_that_is_gone_is_a_fault() {
    runtime().block_on(async {
        let cluster = Cluster::start();
        let url = cluster.database(None);
        let store = open(&url).await;
        let first = commit(&store, vec![Change::RaiseHorizon(Time(1))]).await;
        first.unwrap();
        // At once, by the process id of the one that this test started.
        let killed = std::process::Command::new("kill").args(["-QUIT", &cluster.server().to_string()]).status();
        assert!(killed.unwrap().success());
        while store.stamp().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let gone = store.commit(lonely()).await;
        // Unknown, where the connection has not been found dead yet.
        assert!(matches!(gone, Err(CommitError::Failed(_) | CommitError::Unknown(_))), "{gone:?}");
        assert!(store.stamp().await.is_err());
        let expects = vec![Expect::NoAccounts];
        assert!(store.commit(Changes { expects, ..Changes::default() }).await.is_err());
    });
}

#[test]
fn errors_say_what_to_do() {
    for error in [
        OpenError::TooOld("14.9".into()),
        OpenError::Encoding("SQL_ASCII".into()),
        OpenError::Foreign,
        OpenError::Newer { found: 9, known: 4 },
        OpenError::NotDurable("fsync"),
        OpenError::Privileges("x".into()),
        OpenError::Unreachable("x".into()),
    ] {
        assert!(error.to_string().contains([';', ':']), "{error}");
    }
}

/// A server that hangs without a word (its machine is gone, and nothing tells so): reads give up, and go on by new connections.
#[test]
fn a_silent_server_is_given_up() {
    runtime().block_on(async {
        let url = database();
        let store = open(&url).await;
        store.stamp().await.unwrap();
        let pids =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'portcullis'";
        let pids = Cluster::shared().psql(name_of(&url), pids);
        let signal = |signal: &str| {
            let told = std::process::Command::new("kill").arg(signal).args(pids.lines()).status();
            assert!(told.unwrap().success());
        };
        signal("-STOP");
        let read = store.stamp().await;
        let again = store.stamp().await;
        signal("-CONT");
        assert!(read.unwrap_err().detail.contains("no answer"));
        again.unwrap();
    });
}

/// With a standby that must acknowledge, what leases rest on is a commit that waits for it, and so is a look at what the others
/// were told; other reads are not.
#[test]
fn where_a_standby_may_take_over_the_log_is_read_by_a_commit() {
    runtime().block_on(async {
        let cluster = Cluster::start();
        let url = cluster.database(None);
        let store = open(&url).await;
        commit(&store, vec![Change::RaiseHorizon(Time(1))]).await.unwrap();
        store.read_log(portcullis_wire::Rev::ZERO, 10).await.unwrap();
        cluster.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody_there'");
        cluster.psql("postgres", "SELECT pg_reload_conf()");
        let wanted = "SELECT current_setting('synchronous_standby_names')";
        while cluster.psql("postgres", wanted) != "nobody_there" {}
        // Until each of its connections has heard of it.
        let read = || tokio::time::timeout(Duration::from_secs(2), store.read_log(portcullis_wire::Rev::ZERO, 10));
        let mut waits = 0;
        while waits < 2 {
            waits += u32::from(!matches!(read().await, Ok(Ok(_))));
        }
        let look = tokio::time::timeout(Duration::from_secs(2), store.look_at_others());
        assert!(!matches!(look.await, Ok(Ok(()))), "nobody has acknowledged it");
        store.stamp().await.unwrap();
    });
}
