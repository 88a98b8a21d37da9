//! A database that is older than what it has said already: restored, copied back, forked, or empty. Verifiers that follow
//! throughout and ones that start anew accept no token that was ended, no superseded refresh token counts again, and the right
//! database is followed again (I10).
use crate::kept::{Session, insist, quiet_turn, refresh, serve, sign_in, sign_up, verifier};
use crate::support::{ADMIN, Dir, PATIENCE, Server, run};
use portcullis_testkit::lasting_address;
use portcullis_tower::{Rule, Verifier};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SETTINGS: [&str; 4] = ["--bound", "1s", "--access-ttl", "30m"];
const FILES: [&str; 2] = ["portcullis.db", "portcullis.db-wal"];

/// A server, people, and what a copy of its database does not know.
struct Story {
    dir: Dir,
    at: SocketAddr,
    server: Option<Server>,
    client: (String, String),
    /// Follows from before the copy was made.
    through: Verifier,
    email: String,
    /// Lives throughout.
    kept: Session,
    /// Ended after the copy was made.
    ended: Session,
    /// A refresh token that was superseded after the copy was made.
    superseded: String,
}

impl Story {
    /// Up to the moment after the copy: `copy` is called with the server stopped, or running.
    async fn tell(more: &[&str], backup: bool) -> Self {
        let (dir, at) = (Dir::new(), lasting_address());
        let all = [&SETTINGS[..], more].concat();
        let server = serve(&dir, at, &all).await;
        let client = Server::verifier_client(&dir);
        let through = verifier(at, &client, "throughout");
        let email = sign_up(at, "ada").await;
        let (kept, ended) = (sign_in(at, &email).await, sign_in(at, &email).await);
        let mut story = Self {
            superseded: kept.refresh.clone(),
            dir,
            at,
            server: Some(server),
            client,
            through,
            email,
            kept,
            ended,
        };
        story.fresh(&story.through).await;
        assert!(story.accepts(&story.through, &story.kept).await && story.accepts(&story.through, &story.ended).await);
        if backup {
            run(&story.dir.0, &["backup", "--out", "copy.db", "--data-dir", "data"])
                .must(0, "The master key is not in it");
        } else {
            story.stop().await;
            copy(&story.dir.path("data"), &story.dir.path("copy"));
            story.start(more).await;
            story.fresh(&story.through).await;
        }
        let next = Session::from(&refresh(at, &story.superseded).await.must(200));
        story.kept = Session { access: story.kept.access.clone(), ..next };
        let path = format!("/v1/me/sessions/{}?wait=enforced", story.ended.sid);
        let done = insist(at, "DELETE", &path, Some(&story.kept.access), None).await.must(200);
        assert_eq!(done.body["enforcement"]["complete"], true);
        assert!(!story.accepts(&story.through, &story.ended).await);
        // The mark is written within a second.
        let mark = story.high_water(more);
        let rev = done.body["rev"].as_u64().unwrap();
        wait_for("the mark", || {
            std::fs::read_to_string(&mark).is_ok_and(|text| text.contains(&format!("\"rev\":{rev}")))
        })
        .await;
        story
    }

    fn high_water(&self, more: &[&str]) -> PathBuf {
        let given = more.iter().position(|word| *word == "--high-water-file").map(|at| more[at + 1]);
        self.dir.path(given.unwrap_or("data/high-water.json"))
    }

    /// The copy takes the place of the database and goes on by itself, as on a machine where nobody knew better, and further than
    /// the right one; a session that it began and that lives there.
    async fn a_fork(&self) -> Session {
        copy(&self.dir.path("copy"), &self.dir.path("data"));
        std::fs::remove_file(self.dir.path("data/high-water.json")).unwrap();
        let at = lasting_address();
        let mut fork = serve(&self.dir, at, &SETTINGS).await;
        let eve = sign_up(at, "eve").await;
        for _ in 0..3 {
            let session = sign_in(at, &eve).await;
            insist(at, "DELETE", "/v1/me/sessions/current", Some(&session.access), None).await.must(200);
        }
        let living = sign_in(at, &eve).await;
        fork.process.signal(Signal::TERM);
        fork.process.ended().await;
        living
    }

    async fn start(&mut self, more: &[&str]) {
        self.server = Some(serve(&self.dir, self.at, &[&SETTINGS[..], more].concat()).await);
    }

    async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.process.signal(Signal::TERM);
            server.process.ended().await;
        }
    }

    async fn fresh(&self, verifier: &Verifier) {
        assert!(verifier.wait_fresh(PATIENCE).await, "no verifier becomes fresh");
    }

    /// A verifier that knows nothing yet, as after a restart of its service.
    fn restarted(&self) -> Verifier {
        verifier(self.at, &self.client, "restarted")
    }

    async fn accepts(&self, verifier: &Verifier, session: &Session) -> bool {
        verifier.verify(&session.access, &Rule::default()).await.is_ok()
    }

    /// Nobody accepts what was ended, for longer than the bound, and however often it is asked.
    async fn nobody_accepts_the_dead(&self, verifiers: &[&Verifier]) {
        for _ in 0..150 {
            for verifier in verifiers {
                assert!(!self.accepts(verifier, &self.ended).await, "a dead token was accepted again");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The state in which nothing is served.
    async fn shut(&self) {
        let readyz = || async { crate::support::call(self.at, "GET", "/readyz", None, None).await.0 };
        let until = async {
            while readyz().await != 503 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.expect("it notices");
        let login = json!({ "identifier": self.email, "password": "a good long password" });
        let token = json!({ "refresh_token": self.superseded });
        for (method, path, body) in [
            ("POST", "/v1/sessions", Some(login)),
            ("POST", "/v1/sessions/refresh", Some(token)),
            ("GET", "/v1/me", None),
        ] {
            let (status, answer) = crate::support::call(self.at, method, path, Some(&self.kept.access), body).await;
            assert_eq!((status, answer["code"].as_str()), (503, Some("unavailable")), "{method} {path}: {answer}");
        }
        let log = self.server.as_ref().unwrap().process.log();
        assert!(log.contains("ROLLED BACK") && log.contains("portcullis refound"), "{log}");
    }

    /// Everything of before is void, and one goes on with what is new.
    async fn a_new_epoch(&self, verifiers: &[&Verifier]) {
        let new = sign_in(self.at, &self.email).await;
        for token in [&self.superseded, &self.kept.refresh] {
            assert_eq!(refresh(self.at, token).await.must(401).code(), "refresh_expired");
        }
        for verifier in verifiers {
            self.fresh(verifier).await;
            wait_until("the new epoch is followed", async || self.accepts(verifier, &new).await).await;
            assert!(!self.accepts(verifier, &self.ended).await && !self.accepts(verifier, &self.kept).await);
        }
    }
}

async fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    wait_until(what, async || so()).await;
}

async fn wait_until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let until = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// The database files of a stopped server.
pub fn copy(from: &Path, to: &Path) {
    let _ = std::fs::create_dir(to);
    for name in FILES {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_plain_copy_of_an_old_file_is_noticed_at_the_start() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    copy(&story.dir.path("copy"), &story.dir.path("data"));
    story.start(&[]).await;
    story.shut().await;
    let restarted = story.restarted();
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    // It is not forgotten by another start.
    story.stop().await;
    story.start(&[]).await;
    story.shut().await;
    let refounded = run(&story.dir.0, &["refound", "--reason", "an old volume", "--data-dir", "data"]);
    refounded.must(0, "What cannot be known");
    story.a_new_epoch(&[&story.through, &restarted, &story.restarted()]).await;
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    story.stop().await;
    story.start(&[]).await;
    story.a_new_epoch(&[&story.restarted()]).await;
}

#[tokio::test]
async fn a_verifier_proves_it_where_no_mark_is_left_and_the_right_database_is_followed_again() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    copy(&story.dir.path("data"), &story.dir.path("right"));
    copy(&story.dir.path("copy"), &story.dir.path("data"));
    std::fs::remove_file(story.dir.path("data/high-water.json")).unwrap();
    story.start(&[]).await;
    story.shut().await;
    story.nobody_accepts_the_dead(&[&story.through]).await;
    let restarted = story.restarted();
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    // The right one comes back: all is as it was, by itself.
    story.stop().await;
    copy(&story.dir.path("right"), &story.dir.path("data"));
    story.start(&[]).await;
    for verifier in [&story.through, &restarted] {
        story.fresh(verifier).await;
        wait_until("the living are accepted", async || story.accepts(verifier, &story.kept).await).await;
    }
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    refresh(story.at, &story.kept.refresh).await.must(200);
}

#[tokio::test]
async fn a_backup_is_restored_and_what_it_had_forgotten_stays_dead() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], true).await;
    let dir = story.dir.0.clone();
    let restore = |args: &[&str]| run(&dir, &[&["restore", "--data-dir", "data"], args].concat());
    restore(&["copy.db"]).must(1, "in use by another server (process");
    run(&dir, &["backup", "--out", "copy.db", "--data-dir", "data"]).must(1, "exists already");
    story.stop().await;
    run(&dir, &["backup", "--out", "late.db", "--data-dir", "data"]).must(3, "Is the server running");
    // What is no backup of this database changes nothing.
    let whole = std::fs::read(dir.join("copy.db")).unwrap();
    let before = std::fs::read(dir.join("data/portcullis.db")).unwrap();
    std::fs::write(dir.join("cut.db"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.join("text.db"), "no database at all, but long enough to be looked at").unwrap();
    std::fs::write(dir.join("nothing.db"), "").unwrap();
    let mut holed = whole.clone();
    holed[4096 * 3..4096 * 4].fill(0xa5);
    std::fs::write(dir.join("holed.db"), holed).unwrap();
    for (file, words) in [
        ("cut.db", "is damaged"),
        ("text.db", "is not a database"),
        ("nothing.db", "is not a database"),
        ("holed.db", "is damaged"),
        ("missing.db", "it is no file"),
        (".", "it is no file"),
    ] {
        restore(&[file]).must(1, words);
        assert_eq!(std::fs::read(dir.join("data/portcullis.db")).unwrap(), before, "{file}");
    }
    // Nor does a sound one whose log cannot be founded anew: the old copy must never be in place as it is.
    let other_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    restore(&["copy.db", "--master-key", other_key]).must(1, "nothing was changed");
    assert_eq!(std::fs::read(dir.join("data/portcullis.db")).unwrap(), before);
    let left = std::fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("restoring")).collect();
    assert!(left.is_empty(), "{left:?}");
    let done = restore(&["copy.db", "--json"]).must(0, "").json();
    assert_eq!((done["epoch"].as_u64(), done["old_epoch"].as_u64()), (Some(2), Some(1)), "{done}");
    assert!(done["rev"].as_u64() > Some(1 << 32) && done["proven"].as_u64() >= Some(1), "{done}");
    assert!(Path::new(done["kept"][0].as_str().unwrap()).exists());
    story.start(&[]).await;
    story.a_new_epoch(&[&story.through, &story.restarted()]).await;
    story.nobody_accepts_the_dead(&[&story.through]).await;
}

/// Blocks and deletions after the backup are written down apart from it, and done again before anybody is served.
#[tokio::test]
async fn what_was_blocked_or_deleted_after_the_backup_is_so_again() {
    let _turn = quiet_turn().await;
    let acts = "acts.jsonl"; // beside the data directory, as on another volume
    let with = ["--acts-file", acts];
    let mut story = Story::tell(&with, true).await;
    let (dir, at) = (story.dir.0.clone(), story.at);
    let [bob, carl] = [sign_up(at, "bob").await, sign_up(at, "carl").await];
    let kim = sign_up(at, "kim").await;
    let [eve, dora] = [sign_up(at, "eve").await, sign_up(at, "dora").await];
    run(&dir, &["accounts", "block", &dora, "--reason", "early", "--data-dir", "data"]).must(0, "");
    run(&dir, &["backup", "--out", "late.db", "--data-dir", "data"]).must(0, "");
    let late = sign_up(at, "late").await;
    for (word, who) in [("block", &bob), ("block", &late), ("delete", &carl), ("unblock", &dora), ("block", &eve)] {
        let reason: &[&str] = if word == "block" { &["--reason", "a spammer"] } else { &[] };
        run(&dir, &[&["accounts", word, who, "--data-dir", "data"], reason].concat()).must(0, "");
    }
    run(&dir, &["accounts", "unblock", &eve, "--data-dir", "data"]).must(0, "");
    let next = json!({ "current_password": "a good long password", "new_password": "another long password" });
    let session = sign_in(at, &kim).await;
    insist(at, "POST", "/v1/me/password", Some(&session.access), Some(&next)).await.must(200);
    let lines = || std::fs::read_to_string(dir.join(acts)).unwrap();
    wait_for("the journal", || {
        lines().matches("\"active\"").count() == 3 && lines().contains("\"delet") && lines().contains("$argon2id$")
    })
    .await;
    // The journal's last line is cut off by the crash that made the restore necessary.
    let mut server = story.server.take().unwrap();
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    drop(server);
    let whole = lines();
    std::fs::write(dir.join("cut.jsonl"), format!("{whole}{}", "{\"v\":1,\"log")).unwrap();

    let restore = |args: &[&str]| run(&dir, &[&["restore", "late.db", "--data-dir", "data"], args].concat());
    let log = whole.split('"').find(|word| word.starts_with("log_")).unwrap();
    let other = whole.replace(log, "log_00000000000000000000000001");
    std::fs::write(dir.join("other.jsonl"), other).unwrap();
    std::fs::write(dir.join("broken.jsonl"), whole.replacen("blocked", "stopped", 1)).unwrap();
    for (file, words) in [
        ("broken.jsonl", "broken.jsonl, line "),
        ("other.jsonl", "the journal is of log_00000000000000000000000001"),
        ("missing.jsonl", "is not there"),
    ] {
        restore(&["--replay", file]).must(1, words);
        let names = std::fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().file_name());
        let moved = names.filter(|name| name.to_string_lossy().contains(".before-")).count();
        assert_eq!(moved, 0, "{file}: nothing was put in place");
    }
    let done = restore(&["--replay", "cut.jsonl", "--json"]).must(0, "").json();
    let replayed = &done["replayed"];
    assert_eq!((replayed["done"].as_u64(), replayed["complete"].as_bool()), (Some(4), Some(true)), "{done}");
    assert_eq!(
        (replayed["already"].as_u64(), replayed["unknown"].as_array().map(Vec::len)),
        (Some(1), Some(1)),
        "{done}"
    );
    story.start(&with).await;
    let status = |email: &str| {
        let body = json!({ "identifier": email, "password": "a good long password" });
        async move { insist(at, "POST", "/v1/sessions", None, Some(&body)).await }
    };
    assert_eq!(status(&bob).await.must(403).code(), "account_blocked");
    assert_eq!(status(&carl).await.must(401).code(), "invalid_credentials");
    assert_eq!(status(&kim).await.must(401).code(), "invalid_credentials");
    let body = json!({ "identifier": kim, "password": "another long password" });
    insist(at, "POST", "/v1/sessions", None, Some(&body)).await.must(201);
    status(&dora).await.must(201);
    status(&eve).await.must(201);
    story.a_new_epoch(&[&story.through, &story.restarted()]).await;
    // The journal goes on in the new epoch.
    run(&dir, &["accounts", "unblock", &bob, "--data-dir", "data"]).must(0, "");
    wait_for("the journal", || lines().lines().last().is_some_and(|line| line.contains("\"epoch\":2"))).await;
}

#[tokio::test]
async fn an_empty_volume_poisons_nobody() {
    let _turn = quiet_turn().await;
    let mark = "mark.json"; // beside the data directory, as on another volume
    let mut story = Story::tell(&["--high-water-file", mark], false).await;
    story.stop().await;
    std::fs::rename(story.dir.path("data"), story.dir.path("aside")).unwrap();
    // With the mark on another volume the mistake is told at once, and nothing is made.
    let listen = story.at.to_string();
    let args = ["serve", "--listen", &listen, "--data-dir", "data", "--high-water-file", mark];
    run(&story.dir.0, &args).must(2, "Was an empty volume mounted?");
    assert!(!story.dir.path("data/portcullis.db").exists());
    // Without it an empty server comes up. Nobody follows it.
    story.start(&[]).await;
    let restarted = story.restarted();
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    let stranger = sign_in(story.at, ADMIN.0).await;
    for verifier in [&story.through, &restarted] {
        assert!(!story.accepts(verifier, &stranger).await && !story.accepts(verifier, &story.kept).await);
    }
    story.stop().await;
    std::fs::remove_dir_all(story.dir.path("data")).unwrap();
    std::fs::rename(story.dir.path("aside"), story.dir.path("data")).unwrap();
    story.start(&["--high-water-file", mark]).await;
    for verifier in [&story.through, &restarted] {
        wait_until("the living are accepted", async || story.accepts(verifier, &story.kept).await).await;
    }
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
}

#[tokio::test]
async fn a_fork_is_followed_by_nobody_who_knew_the_log() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    copy(&story.dir.path("data"), &story.dir.path("right"));
    let living = story.a_fork().await;
    // Now it comes up where the verifiers look for the log.
    story.start(&[]).await;
    // The lease that the right server gave lasts for the bound, whatever stands at its address now.
    wait_until("the lease ends", async || !story.through.readiness().fresh).await;
    // The verifier shows where it was, and by the link there the server tells that its own history is another one.
    story.shut().await;
    let log = story.server.as_ref().unwrap().process.log();
    assert!(log.contains("and the log has another history there"), "{log}");
    for _ in 0..150 {
        assert!(!story.accepts(&story.through, &story.ended).await, "a dead token was accepted again");
        assert!(!story.accepts(&story.through, &living).await, "the fork was followed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    story.stop().await;
    copy(&story.dir.path("right"), &story.dir.path("data"));
    let _ = std::fs::remove_file(story.dir.path("data/high-water.json"));
    let _ = std::fs::remove_file(story.dir.path("data/high-water.rolled-back.json"));
    story.start(&[]).await;
    wait_until("the living are accepted", async || story.accepts(&story.through, &story.kept).await).await;
    story.nobody_accepts_the_dead(&[&story.through]).await;
}

#[tokio::test]
async fn a_mark_tells_a_fork_however_far_it_has_come() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    let mark = story.dir.path("data/high-water.json");
    let right = std::fs::read(&mark).unwrap();
    copy(&story.dir.path("data"), &story.dir.path("right"));
    story.a_fork().await;
    std::fs::write(&mark, &right).unwrap();
    story.start(&[]).await;
    story.shut().await;
    let log = story.server.as_ref().unwrap().process.log();
    assert!(log.contains("the log has another history at 1.1 than it had"), "{log}");
    let restarted = story.restarted();
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    // Another start does not take the fork for what was lost, though it has come further than that.
    story.stop().await;
    story.start(&[]).await;
    story.shut().await;
    assert_eq!(std::fs::read(&mark).unwrap(), right, "the mark is not the fork's now");
    // The right one comes back: all is as it was, by itself.
    story.stop().await;
    copy(&story.dir.path("right"), &story.dir.path("data"));
    story.start(&[]).await;
    for verifier in [&story.through, &restarted] {
        story.fresh(verifier).await;
        wait_until("the living are accepted", async || story.accepts(verifier, &story.kept).await).await;
    }
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
}

/// A refresh writes no entry, so the copy's log is as long as the right one's; F tells that it is older all the same.
#[tokio::test]
async fn a_copy_that_lost_nothing_but_refreshes_is_noticed_too() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    copy(&story.dir.path("data"), &story.dir.path("copy"));
    let path = story.dir.path("data/high-water.json");
    let mark = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let mark: serde_json::Value = serde_json::from_str(&text).unwrap();
        (mark["rev"].clone(), mark["floor"].clone())
    };
    let before = mark();
    story.start(&[]).await;
    story.superseded = story.kept.refresh.clone();
    story.kept = Session {
        access: story.kept.access.clone(),
        ..Session::from(&refresh(story.at, &story.superseded).await.must(200))
    };
    let next = refresh(story.at, &story.kept.refresh).await.must(200);
    story.kept = Session { access: story.kept.access.clone(), ..Session::from(&next) };
    // The copy may be a step further than the mark was then.
    for _ in 0..3 {
        let now = mark();
        wait_for("F moves", || mark() != now).await;
    }
    assert_eq!(mark().0, before.0, "no entry was written");
    story.stop().await;
    copy(&story.dir.path("data"), &story.dir.path("right"));
    copy(&story.dir.path("copy"), &story.dir.path("data"));
    story.start(&[]).await;
    story.shut().await; // also for the superseded refresh token, which is the current one in this copy
    story.stop().await;
    copy(&story.dir.path("right"), &story.dir.path("data"));
    story.start(&[]).await;
    refresh(story.at, &story.kept.refresh).await.must(200);
}

/// Nothing but the run tells such a fork: its log is as long as the right one's, and F has moved on there, too.
#[tokio::test]
async fn a_fork_that_lost_nothing_but_refreshes_is_noticed_by_its_run() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    story.stop().await;
    copy(&story.dir.path("data"), &story.dir.path("copy"));
    let path = story.dir.path("data/high-water.json");
    let mark = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap() };
    story.start(&[]).await;
    story.superseded = story.kept.refresh.clone();
    for _ in 0..2 {
        let next = refresh(story.at, &story.kept.refresh).await.must(200);
        story.kept = Session { access: story.kept.access.clone(), ..Session::from(&next) };
    }
    story.stop().await;
    let right = mark();
    assert!(right["runs"]["last"].is_string() && right["runs"]["next"].is_null(), "{right}");
    copy(&story.dir.path("data"), &story.dir.path("right"));
    // Elsewhere the copy is served until its F has passed the mark's. No entry is written.
    copy(&story.dir.path("copy"), &story.dir.path("data"));
    std::fs::remove_file(&path).unwrap();
    let mut fork = serve(&story.dir, lasting_address(), &SETTINGS).await;
    wait_for("F passes", || path.exists() && mark()["floor"].as_str() > right["floor"].as_str()).await;
    fork.process.signal(Signal::TERM);
    fork.process.ended().await;
    assert_eq!(mark()["rev"], right["rev"], "no entry was written");
    assert_ne!(mark()["runs"], right["runs"]);
    std::fs::write(&path, right.to_string()).unwrap();
    for _ in 0..2 {
        story.start(&[]).await;
        story.shut().await; // also for the superseded refresh token, which is the current one there
        let log = story.server.as_ref().unwrap().process.log();
        assert!(log.contains("another server has written to it since"), "{log}");
        story.stop().await;
    }
    assert_eq!(mark(), right, "the mark is not the fork's now");
    copy(&story.dir.path("right"), &story.dir.path("data"));
    story.start(&[]).await;
    story.fresh(&story.through).await;
    refresh(story.at, &story.kept.refresh).await.must(200);
    // A start after a kill takes the database for its own.
    let mut server = story.server.take().unwrap();
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    drop(server);
    story.start(&[]).await;
    story.fresh(&story.through).await;
    assert_ne!(mark()["runs"], right["runs"]);
}

/// SQLite drops what follows the first frame of its log whose checksum is wrong, without a word.
#[tokio::test]
async fn a_damaged_write_ahead_log_is_noticed_at_the_start() {
    let _turn = quiet_turn().await;
    let mut story = Story::tell(&[], false).await;
    let mut server = story.server.take().unwrap();
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    drop(server);
    copy(&story.dir.path("data"), &story.dir.path("right"));
    let log = story.dir.path("data/portcullis.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let frame = 24 + 4096;
    assert!(bytes.len() > 32 + frame, "the log holds commits");
    bytes[32 + 24 + 100] ^= 1; // in the page of the first frame
    std::fs::write(&log, &bytes).unwrap();
    story.start(&[]).await;
    story.shut().await;
    let restarted = story.restarted();
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
    story.stop().await;
    copy(&story.dir.path("right"), &story.dir.path("data"));
    story.start(&[]).await;
    wait_until("the living are accepted", async || story.accepts(&story.through, &story.kept).await).await;
    story.nobody_accepts_the_dead(&[&story.through, &restarted]).await;
}
