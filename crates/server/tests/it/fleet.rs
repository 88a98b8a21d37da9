//! 100 verifiers in this process and 8 demo APIs, under every kind of revocation: who is ended is refused everywhere with
//! `token_revoked`, who is not stays accepted, and nobody is ever `not_fresh` (I1, I11, and "enforced" of DESIGN §2).
mod watch;

use crate::kept::{Answer, Demo, Kept, Session, insist, mono_us, refresh, sign_in, sign_up, turn, verifier};
use crate::support::{ADMIN, Dir, Server};
use portcullis_tower::Verifier;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use watch::Watch;

const VERIFIERS: usize = 100;
const DEMOS: usize = 8;
/// How many acceptances before and how many refusals after each revocation, at least.
const MANY: u64 = 1000;
/// B, as set.
const BOUND_US: i64 = 5_000_000;

/// The kinds of revocation. Those that end everybody stand at the end, for then there is no bystander.
const KINDS: [&str; 11] = [
    "sign out",
    "end one",
    "end others",
    "end all",
    "admin ends session",
    "admin ends account",
    "block",
    "delete",
    "refresh replayed",
    "everyone but me",
    "everyone",
];

/// One revocation: who is ended by it, who is not, and the call.
struct Case {
    victims: Vec<Session>,
    spared: Vec<Session>,
    admin: Session,
    method: &'static str,
    path: String,
    token: Option<String>,
    body: Option<Value>,
}

/// `PATH?wait=enforced`.
fn enforced(path: impl std::fmt::Display) -> String {
    format!("{path}?wait=enforced")
}

/// Fresh sessions for a kind: two victims where several are ended, and a bystander of another account.
async fn case(kind: &str, to: SocketAddr, bystander: &str) -> Case {
    let admin = sign_in(to, ADMIN.0).await;
    let email = sign_up(to, &kind.replace(' ', ".")).await;
    let (one, two) = (sign_in(to, &email).await, sign_in(to, &email).await);
    let mut spared = vec![sign_in(to, bystander).await, admin.clone()];
    let mut victims = vec![one.clone()];
    let mut body = None;
    let account = format!("/v1/admin/accounts/{}", one.account);
    let (method, path, token) = match kind {
        "sign out" => ("DELETE", "/v1/me/sessions/current".into(), &one),
        "end one" => ("DELETE", format!("/v1/me/sessions/{}", one.sid), &two),
        "end others" => ("DELETE", "/v1/me/sessions".into(), &two),
        "end all" => ("DELETE", "/v1/me/sessions".into(), &two),
        "admin ends session" => ("DELETE", format!("/v1/admin/sessions/{}", one.sid), &admin),
        "admin ends account" => ("DELETE", format!("{account}/sessions"), &admin),
        "block" => ("POST", format!("{account}/block"), &admin),
        "delete" => ("DELETE", account, &admin),
        "refresh replayed" => ("POST", "/v1/sessions/refresh".into(), &one),
        "everyone but me" | "everyone" => ("POST", "/v1/admin/revocations".into(), &admin),
        _ => unreachable!("{kind}"),
    };
    match kind {
        "sign out" | "end one" | "end others" | "admin ends session" => spared.push(two.clone()),
        "refresh replayed" => {
            // The successor is used, then the first token comes back: all three access tokens are of the session that ends.
            let next = Session::from(&refresh(to, &one.refresh).await.must(200));
            let newest = Session::from(&refresh(to, &next.refresh).await.must(200));
            victims.extend([next, newest]);
            spared.push(two.clone());
            body = Some(json!({ "refresh_token": one.refresh }));
        }
        "block" => body = Some(json!({ "reason": "a test" })),
        "everyone but me" => body = Some(json!({ "everyone": true, "except": admin.sid, "reason": "a test" })),
        "everyone" => body = Some(json!({ "everyone": true, "reason": "a test" })),
        _ => {}
    }
    match kind {
        "end all" | "admin ends account" | "block" | "delete" => victims.push(two.clone()),
        "everyone but me" => victims.extend([two.clone(), spared.remove(0)]),
        "everyone" => victims.extend([two.clone()].into_iter().chain(spared.drain(..))),
        _ => {}
    }
    let path = match kind {
        "end others" => format!("{}&except=current", enforced(path)),
        "refresh replayed" => path,
        _ => enforced(path),
    };
    let token = (kind != "refresh replayed").then(|| token.access.clone());
    Case { victims, spared, admin, method, path, token, body }
}

/// The enforcement of the newest revocation, once it is complete: for the call that cannot wait for it.
async fn newest_enforcement(to: SocketAddr, admin: &Session) -> Value {
    let get = async |path: &str| insist(to, "GET", path, Some(&admin.access), None).await.must(200).body;
    let newest = get("/v1/admin/revocations?limit=1").await["revocations"][0]["rev"].clone();
    loop {
        let now = get(&format!("/v1/admin/revocations/{newest}")).await["enforcement"].clone();
        if now["complete"] == true {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Times {
    called_us: i64,
    answered_us: i64,
}

/// Makes the call, over a connection that is open already.
async fn revoke(kind: &str, to: SocketAddr, case: &Case) -> (Answer, Times) {
    let mut connection = Kept::open(to).await.unwrap();
    let called_us = mono_us();
    let answer = connection.call(case.method, &case.path, case.token.as_deref(), case.body.as_ref()).await.unwrap();
    let answered_us = mono_us();
    let answer = match kind {
        "refresh replayed" => {
            let answer = answer.must(401);
            assert_eq!(answer.code(), "refresh_reused");
            answer
        }
        _ => answer.must(200),
    };
    (answer, Times { called_us, answered_us })
}

async fn play(kind: &str, to: SocketAddr, verifiers: &[Verifier], demos: &[Demo], bystander: &str) {
    let case = case(kind, to, bystander).await;
    let tokens = |of: &[Session]| of.iter().map(|session| session.access.clone()).collect();
    let watch = Watch::start(verifiers, demos, tokens(&case.victims), tokens(&case.spared));
    watch.until(kind, |seen| seen.accepted_by_all(MANY)).await;
    let (answer, times) = revoke(kind, to, &case).await;
    watch.until(kind, |seen| seen.refused_by_all(MANY) && seen.spared_since(times.answered_us)).await;
    // Who waits for it is told with the answer; a replay is found by the server itself, and asked for afterwards.
    let waited = kind != "refresh replayed";
    let enforcement = match waited {
        true => answer.body["enforcement"].clone(),
        false => newest_enforcement(to, &case.admin).await,
    };
    let seen = watch.finish(kind).await;

    let sent_last = seen.last_accepted_sent();
    let late = sent_last.iter().copied().max().unwrap() - times.answered_us;
    assert!(late <= BOUND_US, "{kind}: accepted {late} us after the answer");
    // Complete says that it is true everywhere: nothing that was sent after the answer is accepted.
    assert_eq!(enforcement["complete"], true, "{kind}: {enforcement}");
    assert!(!waited || late <= 0, "{kind}: answered as enforced, and accepted {late} us later: {enforcement}");
    let count = |name: &str| enforcement[name].as_u64().unwrap_or_else(|| panic!("{kind}: no {name}: {enforcement}"));
    let counts = ["acknowledged", "lapsed", "pending", "until_expiry"].map(count);
    assert_eq!(counts, [(VERIFIERS + DEMOS) as u64, 0, 0, 0], "{kind}: {enforcement}");

    let ms = |us: i64| format!("{:.1}", us as f64 / 1000.0);
    let from = |start: i64| {
        let mut all: Vec<i64> = sent_last.iter().map(|at| at - start).collect();
        all.sort_unstable();
        format!("{:>6} /{:>6}", ms(all[all.len() / 2]), ms(all[all.len() - 1]))
    };
    eprintln!(
        "{kind:<19} {:>3}+{:<2} {:>8} {:>8} | {} | {} | {:>7} {:>7} | {:>4} {:>4} {:>4}",
        case.victims.len(),
        case.spared.len(),
        seen.accepted(),
        seen.refused(),
        from(times.called_us),
        from(times.answered_us),
        ms(times.answered_us - times.called_us),
        count("took_ms"),
        counts[0],
        counts[1],
        counts[2],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_revocation_is_true_at_every_verifier() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let to = server.address;
    let (library, demo) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let verifiers: Vec<_> = (0..VERIFIERS).map(|n| verifier(to, &library, &format!("library {n}"))).collect();
    let starting = (0..DEMOS).map(|_| Demo::start(&dir, to, &demo, &[]));
    let demos = futures_util::future::join_all(starting).await;
    for verifier in &verifiers {
        assert!(verifier.wait_fresh(crate::support::PATIENCE).await, "{:?}", verifier.readiness());
    }
    let bystander = sign_up(to, "bystander").await;

    eprintln!("{VERIFIERS} verifiers and {DEMOS} demo APIs; times in ms, p50 / max over the {}", VERIFIERS + DEMOS);
    eprintln!(
        "{:<19} {:>6} {:>8} {:>8} | last accept after | last accept after |  answer         |      instances",
        "", "tokens", "", ""
    );
    eprintln!(
        "{:<19} {:>6} {:>8} {:>8} |   call was sent   |   answer arrived  |   after took_ms | ackd lpsd pend",
        "kind", "end+no", "accepts", "refusals"
    );
    for kind in KINDS {
        play(kind, to, &verifiers, &demos, &bystander).await;
    }
}
