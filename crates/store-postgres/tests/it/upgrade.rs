//! A release is rolled out over nodes that run: the schema moves under the release before, which goes on with its own statements;
//! a migration that is killed leaves nothing of its step; nodes that start at once migrate once.
use crate::support::{START, name_of, open, runtime, standing};
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Revoke};
use portcullis_domain::client::Profile;
use portcullis_domain::mass::Filter;
use portcullis_domain::model::{Grant, OldCookie};
use portcullis_domain::proof::Proof;
use portcullis_store::Store as _;
use portcullis_store_postgres::PostgresStore;
use portcullis_testkit::Cluster;
use portcullis_wire::{AccountId, Chain, ClientId, Digest, GrantId, Rev, SessionId, Target, Time, Verb};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// What the release before has migrated to.
const BEFORE: &[&str] = &[
    include_str!("../../src/migrations/0001_tables.sql"),
    include_str!("../../src/migrations/0002_rules.sql"),
    include_str!("../../src/migrations/0003_commit.sql"),
    include_str!("../../src/migrations/0004_act.sql"),
    include_str!("../../src/migrations/0005_nodes.sql"),
];

/// How the release before commits, with a group that ends everything as it writes it.
const OLD_COMMIT: &str = r#"SELECT commit_group('{"now": 1700000000000, "exclusive": true,
    "locks": {"accounts": [], "sessions": [], "grants": [], "sessions_of": [], "grants_of": []},
    "acts": [{"expects": [], "alone": null, "events": [], "last": [], "idempotency": null, "idle_ttl": null,
        "steps": [{"how": "other", "do": "revoke", "row": "all", "verb": "end", "scope": "all", "id": null, "target": "*",
            "except": null, "spread_ms": null, "reason": "a door", "most": 64, "key": null}]}]}'::jsonb)::text"#;

/// How it reads the log, writes its node's row and reads the others'.
const OLD_READS: &[&str] = &[
    "SELECT m.log, m.epoch, m.head, m.chain, m.horizon, m.floor, m.cut_rev, m.cut_except, m.forgotten, m.bound_now_ms, \
     m.bound_next_ms, m.bound_next_from, l.* FROM meta m LEFT JOIN LATERAL (SELECT * FROM log e WHERE e.rev > 0 \
     ORDER BY e.rev LIMIT 100) l ON true ORDER BY l.rev",
    "INSERT INTO nodes (id, beat, body) VALUES ('\\x00000000000000000000000000000001', 1, '{}') \
     ON CONFLICT (id) DO UPDATE SET beat = nodes.beat + 1",
    "SELECT id, beat, body FROM nodes ORDER BY id",
];

/// A database as the release before leaves it, with a log of this many entries.
fn as_before(entries: usize) -> String {
    let (cluster, log) = (Cluster::shared(), crate::support::LOG);
    let url = cluster.database(None);
    let done = (1..=BEFORE.len()).map(|n| format!("({n})")).collect::<Vec<_>>().join(", ");
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (id, genesis) = (bytes(&log.bits().to_be_bytes()), bytes(&Chain::genesis(log).0));
    let sql = format!(
        "CREATE SCHEMA portcullis; SET search_path TO portcullis; \
         CREATE TABLE schema_version (done bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); {} \
         INSERT INTO schema_version (done) VALUES {done}; \
         INSERT INTO meta (one, log, epoch, head, chain, horizon, floor, cut_rev, forgotten, standing, worked_off) \
         VALUES (1, '\\x{id}', 1, 0, '\\x{genesis}', 0, 0, 0, 0, 0, 0);",
        BEFORE.join("\n"),
    );
    cluster.psql(name_of(&url), &sql);
    (0..entries).for_each(|_| old(&url, OLD_COMMIT));
    url
}

/// A statement of the release before.
fn old(url: &str, sql: &str) {
    assert!(was_done(url, sql), "a deadlock, and nobody else is there");
}

/// The same beside others: whether it was done. A deadlock is none, and the release before tries again then.
fn was_done(url: &str, sql: &str) -> bool {
    match Cluster::shared().try_psql(name_of(url), &format!("SET search_path TO portcullis; {sql}")) {
        Ok(said) => {
            assert!(!said.contains("conflict"), "{said}");
            true
        }
        Err(wrong) => {
            assert!(wrong.contains("deadlock detected"), "{sql}: {wrong}");
            false
        }
    }
}

fn version(url: &str) -> String {
    Cluster::shared().psql(name_of(url), "SELECT max(done) FROM portcullis.schema_version")
}

async fn end_everything(store: &PostgresStore) -> Rev {
    let what = Revoke {
        verb: Verb::End,
        target: Target::All,
        except: None,
        spread_ms: None,
        owner: None,
        reason: "another door".into(),
    };
    let changes = Changes { steps: vec![Change::Revoke(what)], ..Changes::default() };
    store.commit(changes).await.unwrap().rev.unwrap()
}

/// Its log is whole: every entry of both releases, in one chain.
async fn whole(store: &PostgresStore) -> usize {
    let (stamp, entries) = store.read_live().await.unwrap();
    let revs: Vec<u64> = entries.iter().map(|entry| entry.rev.0).collect();
    assert_eq!(revs, (1..=entries.len() as u64).collect::<Vec<_>>());
    assert_eq!(stamp.chain, entries.iter().fold(Chain::genesis(stamp.log), Chain::after));
    entries.len()
}

#[test]
fn the_release_before_goes_on_while_and_after_its_database_is_migrated() {
    let url = as_before(3);
    let (over, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let running = {
        let (url, over, commits) = (url.clone(), over.clone(), commits.clone());
        std::thread::spawn(move || {
            while !over.load(SeqCst) {
                commits.fetch_add(usize::from(was_done(&url, OLD_COMMIT)), SeqCst);
                for sql in OLD_READS {
                    was_done(&url, sql);
                }
            }
        })
    };
    let has_made = |count| commits.load(SeqCst) >= count || running.is_finished();
    while !has_made(2) {
        std::thread::yield_now();
    }
    let (store, own) = runtime().block_on(async {
        let (store, mut own) = (open(&url).await, 0);
        while own < 20 || !has_made(10) {
            end_everything(&store).await;
            own += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (store, own)
    });
    over.store(true, SeqCst);
    running.join().unwrap();
    let commits = commits.load(SeqCst);
    // And the one before may be started again: its statements are all there still.
    old(&url, OLD_COMMIT);
    assert_eq!(runtime().block_on(whole(&store)), 3 + commits + own + 1);
    assert_eq!(
        store.commits().unwrap().count,
        own as u64,
        "what the release before commits is not counted, and not missed"
    );
    assert_eq!(store.lost(), None);
}

/// The server's process at work in the migration is killed when the step's statements ran and its end is still to come.
#[test]
fn a_migration_that_is_killed_in_the_midst_of_a_step_leaves_nothing_of_it() {
    let (url, cluster) = (as_before(3), Cluster::shared());
    let before = version(&url);
    runtime().block_on(async {
        let mut other = PgConnection::connect(&url).await.unwrap();
        let mut killer = PgConnection::connect(&url).await.unwrap();
        // The step writes down last that it was done, and waits.
        sqlx::raw_sql("BEGIN; LOCK TABLE portcullis.schema_version IN SHARE MODE").execute(&mut other).await.unwrap();
        let opening = tokio::spawn({
            let url = url.clone();
            async move { PostgresStore::open(&url, standing()).await.map(drop) }
        });
        const KILL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO portcullis.schema_version%'";
        let kill = async {
            while sqlx::query_scalar::<_, bool>(KILL).fetch_all(&mut killer).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), kill).await.unwrap();
        assert!(opening.await.unwrap().is_err());
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        assert_eq!(version(&url), before);
        let there = cluster.psql(name_of(&url), "SELECT to_regclass('portcullis.committers') IS NULL");
        assert_eq!(there, "t", "nothing of the step is left");
        old(&url, OLD_COMMIT);
        let store = open(&url).await;
        end_everything(&store).await;
        assert_eq!(whole(&store).await, 5);
    });
}

/// As long as somebody's snapshot is open, an index cannot be done: who writes goes on, and a start that is killed meanwhile leaves
/// an index that counts for nothing, which the next one builds anew.
#[test]
fn indexes_are_built_beside_those_that_write() {
    const INSERT: &str = "INSERT INTO events (id, kind, actor, at) \
         SELECT decode(md5(random()::text), 'hex'), 'account.blocked', 'system', 1 FROM generate_series(1, 100)";
    const BUILDS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
         AND query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%'";
    const VALID: &str = "SELECT count(*) FILTER (WHERE indisvalid), count(*) FROM pg_index WHERE indexrelid IN \
         (to_regclass('portcullis.events_by_place'), to_regclass('portcullis.events_unsealed'), \
          to_regclass('portcullis.sessions_allowed_in'))";
    let (url, cluster) = (as_before(2), Cluster::shared());
    runtime().block_on(async {
        let mut dump = PgConnection::connect(&url).await.unwrap();
        let mut killer = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").execute(&mut dump).await.unwrap();
        let opening = || {
            let url = url.clone();
            tokio::spawn(async move { PostgresStore::open(&url, standing()).await.map(drop) })
        };
        let mut builder = async || {
            let look = async {
                loop {
                    let found = sqlx::query_scalar::<_, i32>(BUILDS).fetch_optional(&mut killer).await.unwrap();
                    if let Some(pid) = found {
                        return pid;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), look).await.unwrap()
        };
        let first = opening();
        let pid = builder().await;
        old(&url, INSERT);
        old(&url, OLD_COMMIT);
        cluster.psql(name_of(&url), &format!("SELECT pg_terminate_backend({pid})"));
        assert!(first.await.unwrap().is_err());
        assert_eq!(cluster.psql(name_of(&url), VALID), "0|1");
        let both = [opening(), opening()];
        builder().await;
        old(&url, INSERT);
        sqlx::raw_sql("ROLLBACK").execute(&mut dump).await.unwrap();
        for opened in both {
            opened.await.unwrap().unwrap();
        }
        assert_eq!(cluster.psql(name_of(&url), VALID), "3|3");
        assert_eq!(cluster.psql(name_of(&url), "SELECT count(*) FROM portcullis.events"), "200");
    });
}

/// A node of the release before reads two tables in the order that crosses the locks of a step: the step is broken off, and done
/// when that one is through.
#[test]
fn a_step_that_crosses_a_node_at_work_is_tried_again() {
    let url = as_before(2);
    runtime().block_on(async {
        let mut node = PgConnection::connect(&url).await.unwrap();
        let mut watch = PgConnection::connect(&url).await.unwrap();
        // It is the step that notices first.
        const FIRST: &str = "SET deadlock_timeout = '30s'; BEGIN; SELECT 1 FROM portcullis.grants LIMIT 1";
        sqlx::raw_sql(FIRST).execute(&mut node).await.unwrap();
        let opening = tokio::spawn({
            let url = url.clone();
            async move { PostgresStore::open(&url, standing()).await.map(drop) }
        });
        const WAITING: &str =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = async {
            while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut watch).await.unwrap() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waits).await.unwrap();
        sqlx::raw_sql("SELECT 1 FROM portcullis.sessions LIMIT 1; COMMIT").execute(&mut node).await.unwrap();
        opening.await.unwrap().unwrap();
    });
    old(&url, OLD_COMMIT);
}

#[test]
fn nodes_that_start_at_once_migrate_once() {
    let url = as_before(2);
    runtime().block_on(async {
        let open = || PostgresStore::open(&url, standing());
        let (one, two, three) = tokio::join!(open(), open(), open());
        let stores = [one.unwrap(), two.unwrap(), three.unwrap()];
        for store in &stores {
            end_everything(store).await;
        }
        assert_eq!(whole(&stores[0]).await, 5);
        assert!(stores[0].stamp().await.unwrap().now == START);
        let ids: std::collections::BTreeSet<_> = stores.iter().map(|store| store.commits().unwrap().by).collect();
        assert_eq!(ids.len(), 3, "each counts by itself");
    });
    let rows = Cluster::shared().psql(name_of(&url), "SELECT count(*), max(done) FROM portcullis.schema_version");
    assert_eq!(rows, format!("{0}|{0}", version(&url)));
}

/// A node that runs on a schema which a later release has migrated goes on; only a start is refused.
#[test]
fn a_later_release_is_told_by_its_number() {
    runtime().block_on(async {
        let url = as_before(0);
        let store = open(&url).await;
        let known: u32 = version(&url).parse().unwrap();
        let next = format!("INSERT INTO portcullis.schema_version (done) VALUES ({})", known + 1);
        Cluster::shared().psql(name_of(&url), &next);
        end_everything(&store).await;
        let refused = PostgresStore::open(&url, standing()).await.map(drop).unwrap_err().to_string();
        let words =
            format!("schema version {}, this program knows up to {known}; use the release that migrated it", known + 1);
        assert!(refused.contains(&words), "{refused}");
    });
}

/// How the release before signs somebody in at a client that it makes.
const OLD_WRITES: &str = r#"SELECT commit_group_2('{"by": "000000000000000000000000000000bb", "known": 0, "epoch": 1,
    "anew": false, "now": 1700000000000, "exclusive": true,
    "locks": {"accounts": [], "sessions": [], "grants": [], "sessions_of": [], "grants_of": []},
    "acts": [{"expects": [], "alone": null, "events": [], "last": [], "idempotency": null, "idle_ttl": null, "steps": [
        {"do": "insert_account", "id": "00000000000000000000000000000001", "email": "ada@example.org", "name": null,
            "password_hash": null, "password_version": 1, "roles": [], "status": "active", "created_at": 0, "cut_rev": 0,
            "cut_except": null, "version": 1},
        {"how": "plain", "do": "insert_client", "id": "00000000000000000000000000000002", "name": "c", "kind": "public",
            "secret": null, "disabled": false, "created_at": 0, "cut_rev": 0, "cut_except": null},
        {"do": "insert_session", "id": "00000000000000000000000000000003", "account": "00000000000000000000000000000001",
            "kind": "app", "device_name": "d", "agent": "a", "ip": null, "net": null, "created_at": 0, "auth_time": 0,
            "last_seen_at": 0, "absolute_expires_at": 1800000000000, "born": 0, "epoch": 1, "cookie": null,
            "ended_rev": null, "ended_reason": null, "ended_at": null},
        {"do": "insert_grant", "id": "00000000000000000000000000000004", "session": "00000000000000000000000000000003",
            "client": "00000000000000000000000000000002", "scope": "account", "born": 0, "ended_rev": null,
            "secret": "0000000000000000000000000000000000000000000000000000000000000000", "key": 1, "epoch": 1, "to": 1,
            "made_at": 0, "handed_at": 0, "handouts": 0, "to_predecessor": null}]}]}'::jsonb)::text"#;

#[test]
fn what_the_release_before_writes_has_the_defaults_of_new_columns() {
    runtime().block_on(async {
        let url = as_before(0);
        let store = open(&url).await;
        old(&url, OLD_WRITES);
        let (account, client) = (AccountId::from_bits(1), ClientId::from_bits(2));
        let view = store.load_app(SessionId::from_bits(3), client).await.unwrap().unwrap();
        assert_eq!((&view.client.profile, view.client.version, &view.consent), (&Profile::default(), 1, &None));
        assert_eq!(view.session.session.client, None);
        let view = store.load_refresh(GrantId::from_bits(4)).await.unwrap().unwrap();
        let Grant { audience, sender, agent, proof, .. } = view.grant;
        assert_eq!((audience, sender, agent, proof, view.access_ttl), (None, None, None, None, None));
        // A sign-in on a device is the built-in client's, whoever wrote it.
        for (of, matched) in [(ClientId::FIRST_PARTY, 1), (client, 0)] {
            let filter = Filter { accounts: vec![account], clients: vec![of], ..Filter::default() };
            assert_eq!(store.count_matching(&filter, None).await.unwrap().sessions, matched);
        }
    });
}

/// How the release before puts another cookie in a browser's place: it says nothing of how its user had proven who they are before.
const OLD_COOKIE: &str = r#"SELECT commit_group_7('{"by": "000000000000000000000000000000bb", "known": 0, "epoch": 1,
    "anew": false, "now": 1700000000000, "exclusive": true,
    "locks": {"accounts": [], "sessions": [], "grants": [], "sessions_of": [], "grants_of": []},
    "acts": [{"expects": [], "alone": null, "events": [], "last": [], "idempotency": null, "idle_ttl": null, "steps": [
        {"how": "plain", "do": "set_cookie", "id": "00000000000000000000000000000003",
            "before": "0101010101010101010101010101010101010101010101010101010101010101",
            "cookie": "0202020202020202020202020202020202020202020202020202020202020202",
            "old": "0101010101010101010101010101010101010101010101010101010101010101", "old_auth_time": 5, "old_until": 9}
        ]}]}'::jsonb)::text"#;

#[test]
fn what_the_release_before_does_not_say_of_a_proof_is_not_known() {
    runtime().block_on(async {
        let url = as_before(0);
        let store = open(&url).await;
        old(&url, OLD_WRITES);
        let session = SessionId::from_bits(3);
        let [first, second] = [1, 2].map(|byte| Digest([byte; 32]));
        let cookie = format!("UPDATE portcullis.sessions SET cookie = decode('{}', 'hex')", "01".repeat(32));
        Cluster::shared().psql(name_of(&url), &cookie);
        // This release has said it of another cookie, and what that says is not left over.
        let proof = Proof { at: Time(4), amr: Amr::elsewhere(&["otp".into()]) };
        let old_cookie = Some(OldCookie { digest: second, proof, until: Time(9) });
        let step = Change::SetCookie { session, before: first, cookie: first, old: old_cookie.clone() };
        store.commit(Changes { steps: vec![step], ..Changes::default() }).await.unwrap();
        assert_eq!(store.load_session(session).await.unwrap().unwrap().session.old_cookie, old_cookie);
        old(&url, OLD_COOKIE);
        let found = store.load_session(session).await.unwrap().unwrap().session;
        let proof = Proof { at: Time(5), amr: Amr::unknown() };
        assert_eq!(found.old_cookie, Some(OldCookie { digest: first, proof, until: Time(9) }));
        assert_eq!(found.cookie, Some(second));
    });
}
