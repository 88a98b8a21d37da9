//! Revocation by filter as an operator meets it: the command, and a job that kill -9 does not stop.
use crate::kept::{Kept, insist, sign_in, turn};
use crate::nodes::Node;
use crate::support::{ADMIN, Dir, PATIENCE, Server, run};
use portcullis_app::real;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::model::{Account, Session, SessionKind, Status};
use portcullis_domain::{Chance as _, Cut};
use portcullis_store::Store;
use portcullis_store_postgres::{PostgresStore, TimeSource};
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_testkit::Cluster;
use portcullis_wire::{AccountId, LogId, SessionId};
use rustix::process::Signal;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const SESSIONS: u64 = 12_000;
const ACCOUNTS: u64 = 3_000;

/// Sessions of many accounts, half of them from 10.1.0.0/16.
async fn fill(store: &impl Store) {
    let stamp = store.stamp().await.unwrap();
    let mut chance = real::RealChance;
    let mut accounts = vec![];
    let commit = async |steps: Vec<Change>| store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
    for n in 0..ACCOUNTS {
        let id = AccountId::from_bits(chance.bits());
        let account = Account {
            id,
            email: Some(format!("filled-{n}@example.org")),
            name: None,
            password_hash: None,
            password_version: 1,
            email_verified_at: None,
            roles: vec![],
            status: Status::Active,
            created_at: stamp.now,
            cut: Cut::default(),
            version: 1,
        };
        accounts.push(account);
    }
    for part in accounts.chunks(500) {
        commit(part.iter().cloned().map(Change::InsertAccount).collect()).await;
    }
    let session = |n: u64, chance: &mut real::RealChance| Session {
        id: SessionId::from_bits(chance.bits()),
        account: accounts[usize::try_from(n % ACCOUNTS).unwrap()].id,
        kind: SessionKind::App,
        client: None,
        device_name: "a device".into(),
        agent: "?/?".into(),
        ip: Some(IpAddr::from([10, u8::from(n.is_multiple_of(2)), 0, 1])),
        created_at: stamp.now,
        auth_time: stamp.now,
        amr: Amr::default(),
        last_seen_at: stamp.now,
        absolute_expires_at: stamp.now.plus(86_400_000),
        born: stamp.head,
        epoch: stamp.epoch,
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let all: Vec<_> = (0..SESSIONS).map(|n| Change::InsertSession(session(n, &mut chance))).collect();
    for part in all.chunks(500) {
        commit(part.to_vec()).await;
    }
}

#[tokio::test]
async fn a_job_goes_on_where_kill_9_left_it() {
    let dir = Dir::new();
    let mut server = Server::start(&dir).await;
    server.process.signal(Signal::TERM);
    server.process.ended().await;
    let options = OpenOptions::new(LogId::from_bits(0), Arc::new(real::wall));
    fill(&SqliteStore::open(&dir.path("data/portcullis.db"), options).unwrap()).await;
    let mut server = Server::start(&dir).await;
    let admin = server.access_token(ADMIN).await;
    let filter = json!({ "address_range": "10.1.0.0/16" });
    let body = json!({ "filter": filter, "reason": "a leaked network", "now": true });
    let mut dry = body.clone();
    dry["dry_run"] = true.into();
    let path = "/v1/admin/revocations";
    let (_, counted) = server.call("POST", path, Some(&admin), Some(dry)).await;
    assert_eq!(counted["sessions"], SESSIONS / 2, "{counted}");
    let (status, told) = server.call("POST", path, Some(&admin), Some(body)).await;
    assert_eq!(status, 202, "{told}");
    let job = format!("{path}/{}", told["job"].as_str().unwrap());
    let (mut kills, mut seen) = (0, vec![]);
    let done = loop {
        // `now` made the older token stale; the rest of the test signs in anew after each start.
        let admin = server.access_token(ADMIN).await;
        let mut last;
        loop {
            last = server.call("GET", &job, Some(&admin), None).await.1;
            let ended = last["ended"].as_u64().unwrap_or_else(|| panic!("{last}"));
            if last["state"] == "done" || ended > seen.last().copied().unwrap_or(0) + 200 {
                seen.push(ended);
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if last["state"] == "done" {
            break last;
        }
        // Dead by the rule although its row is not marked yet: nothing that matches is left to be counted.
        let dry = json!({ "filter": filter, "reason": "x", "dry_run": true });
        assert_eq!(server.call("POST", path, Some(&admin), Some(dry)).await.1["sessions"], 0);
        if kills < 6 {
            kills += 1;
            server.process.signal(Signal::KILL);
            server.process.ended().await;
            server = Server::start(&dir).await;
        }
    };
    assert!(kills > 0, "the job was done before it could be killed");
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(
        (done["ended"].as_u64(), &done["enforcement"]["complete"]),
        (Some(SESSIONS / 2), &json!(true)),
        "{done}"
    );
    server.process.signal(Signal::TERM);
    server.process.ended().await;
    // By the rows: each that matched is marked, none else is.
    let options = OpenOptions::new(LogId::from_bits(0), Arc::new(real::wall));
    let store = SqliteStore::open(&dir.path("data/portcullis.db"), options).unwrap();
    let filter = portcullis_domain::mass::Filter { network: "10.0.0.0/8".parse().ok(), ..Default::default() };
    assert_eq!(store.count_matching(&filter, None).await.unwrap().sessions, SESSIONS / 2);
    assert!(store.list_running_jobs().await.unwrap().is_empty());
}

/// Whichever of two nodes leads, it dies in the middle: both do, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_at_another_node_and_nobody_waits_to_sign_in() {
    let _turn = turn().await;
    let cluster = Cluster::durable();
    let url = cluster.database(None);
    let mut nodes = Node::started(&cluster, &url, 2, &["--bound", "2s"]).await;
    let time = TimeSource::Database(Arc::new(real::mono_us));
    let options = portcullis_store_postgres::OpenOptions::new(LogId::from_bits(0), time);
    let store = PostgresStore::open(&url, options).await.unwrap();
    fill(&store).await;
    let filter = json!({ "address_range": "10.1.0.0/16" });
    let body = json!({ "filter": filter, "reason": "a leaked network", "now": true });
    let path = "/v1/admin/revocations";
    let admin = sign_in(nodes[0].at, ADMIN.0).await.access;
    let told = insist(nodes[0].at, "POST", path, Some(&admin), Some(&body)).await.must(202);
    let job = format!("{path}/{}", told.text("job"));
    let (mut kills, mut seen, mut dies) = (0, 0, 0);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let lives = nodes[1 - dies].at;
        let admin = sign_in(lives, ADMIN.0).await.access;
        let last = insist(lives, "GET", &job, Some(&admin), None).await.must(200).body;
        let ended = last["ended"].as_u64().unwrap_or_else(|| panic!("{last}"));
        assert!(ended >= seen, "{last} after {seen}");
        if last["state"] == "done" {
            assert_eq!(ended, SESSIONS / 2, "{last}");
            break;
        }
        if kills < 4 && ended > seen {
            kills += 1;
            nodes[dies].end(Signal::KILL).await;
            // Who has just lost the other one signs people in as before.
            let body = json!({ "identifier": ADMIN.0, "password": ADMIN.1 });
            for _ in 0..3 {
                let mut way = Kept::open(lives).await.unwrap();
                way.call("POST", "/v1/sessions", None, Some(&body)).await.unwrap().must(201);
            }
            nodes[dies].start().await;
            dies = 1 - dies;
        }
        seen = ended;
        assert!(tokio::time::Instant::now() < until, "{last} {}", nodes[1 - dies].log());
    }
    assert!(kills >= 2, "the job was done before both could be killed");
    let filter = portcullis_domain::mass::Filter { network: "10.0.0.0/8".parse().ok(), ..Default::default() };
    assert_eq!(store.count_matching(&filter, None).await.unwrap().sessions, SESSIONS / 2);
    assert!(store.list_running_jobs().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_command_says_what_it_does() {
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let kept = server.access_token(ADMIN).await;
    let revoke =
        |args: &[&str]| run(&dir.0, &[&["revoke", "--data-dir", "data", "--reason", "a drill"], args].concat());
    revoke(&[]).must(2, "");
    revoke(&["--everyone", "--address-range", "10.0.0.1"]).must(2, "");
    revoke(&["--address-range", "10.0.0.1/8"]).must(1, "address_range");
    revoke(&["--address-range", "127.0.0.0/8", "--dry-run"]).must(0, "1 session of 1 account would end");
    assert_eq!(server.call("GET", "/v1/me", Some(&kept), None).await.0, 200);
    let done =
        revoke(&["--address-range", "127.0.0.0/8", "--created-before", "2100-01-01T00:00:00Z", "--wait", "--json"]);
    let done = done.must(0, "").json();
    assert_eq!((&done["ended"], &done["state"]), (&json!(1), &json!("done")), "{done}");
    assert_eq!(server.call("GET", "/v1/me", Some(&kept), None).await.1["code"], "token_revoked");
    let kept = server.access_token(ADMIN).await;
    revoke(&["--everyone", "--wait"]).must(0, "enforced everywhere");
    assert_eq!(server.call("GET", "/v1/me", Some(&kept), None).await.0, 401);
    revoke(&["--address-range", "192.0.2.0/24", "--now"]).must(0, "job_");
}
