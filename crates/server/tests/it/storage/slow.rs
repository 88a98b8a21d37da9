//! A disk that takes its time: callers wait for the truth, and verifiers do not wait for the disk.
use super::acts::{Acts, once};
use super::place::{Injected, serving};
use crate::kept::{Session, sign_in, turn};
use crate::support::{Dir, Server};
use portcullis_testkit::lasting_address;
use portcullis_tower::Rule;
use portcullis_tower::wire::Code;
use rustix::process::Signal;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::JoinSet;

/// Every sync takes 300 ms longer.
const SLOW: &str = "fsync,fdatasync:delay_enter=300000";
const CALLERS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_share_slow_syncs_and_verifiers_keep_their_leases() {
    let _turn = turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let mut server = Server::run(serving(&dir, at)).await;
    let mut acts = Acts::begin(at, 2).await;
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        callers.push(sign_in(at, "alice@example.org").await);
    }
    let calls_made = dir.path("calls");
    let slow = Injected::written(&server, SLOW, &calls_made).await;
    let watch = Watch::over(&acts);
    let mut calls = JoinSet::new();
    for session in callers {
        calls.spawn(async move {
            let body = json!({ "refresh_token": session.refresh });
            let answer = once(at, "POST", "/v1/sessions/refresh", None, Some(body)).await.must(200);
            let next = Session::from(&answer);
            once(at, "DELETE", "/v1/me/sessions/current", Some(&next.access), None).await.must(200);
            next
        });
    }
    let ended = calls.join_all().await;
    assert_eq!(acts.round().await, [200, 200, 200, 201], "slow is no fault");
    acts.reads_go_on().await;
    let (accepted, not_fresh) = watch.end().await;
    // On a machine that is short of time a lease may end; it comes back by itself.
    assert!(accepted > not_fresh, "{accepted} accepted, {not_fresh} not fresh");
    assert!(acts.metric("portcullis_refreshes_total").await >= CALLERS as u64);
    let made = std::fs::read_to_string(&calls_made).unwrap();
    let syncs = made.lines().filter(|line| line.contains("portcullis.db-wal>") && line.contains("sync(")).count();
    // Each by itself would have been a sync for a refresh and one for an end.
    assert!((1..CALLERS).contains(&syncs), "{syncs} syncs for {} commits", 2 * CALLERS);
    // Killed, nothing that was answered is lost.
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    drop(slow);
    drop(server);
    let server = Server::run(serving(&dir, at)).await;
    acts.agrees().await;
    for session in ended {
        let gone = once(at, "GET", "/v1/me", Some(&session.access), None).await.must(401);
        assert_eq!(gone.code(), "token_revoked");
    }
    drop(server);
}

/// A verifier that is asked all the time about somebody who lives.
struct Watch(tokio::task::JoinHandle<(u64, u64)>, Arc<AtomicBool>);

impl Watch {
    fn over(acts: &Acts) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (library, token, until) = (acts.library.clone(), acts.living.access.clone(), stop.clone());
        let watching = async move {
            let (mut accepted, mut not_fresh) = (0, 0);
            while !until.load(SeqCst) {
                match library.verify(&token, &Rule::default()).await.map_err(|refusal| refusal.code()) {
                    Ok(_) => accepted += 1,
                    Err(Code::NotFresh) => not_fresh += 1,
                    Err(code) => panic!("a living session is refused: {code}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (accepted, not_fresh)
        };
        Self(tokio::spawn(watching), stop)
    }

    /// How often it accepted, and how often it was not fresh.
    async fn end(self) -> (u64, u64) {
        self.1.store(true, SeqCst);
        self.0.await.unwrap()
    }
}
