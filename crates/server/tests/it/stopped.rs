//! Processes that stand still (SIGSTOP): a server that nobody reaches, and a service that does not hear that somebody was
//! ended. Both may last longer than the bound, and nothing is accepted that should not be (I1, I2).
use crate::kept::{Answer, Demo, Kept, Session, insist, mono_us, sign_in, sign_up, turn, verifier};
use crate::support::{Dir, PATIENCE, Running, Server};
use portcullis_tower::wire::Code;
use portcullis_tower::{Policy, Rule, Verifier};
use rustix::process::{Signal, WaitOptions, waitpid};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const BOUND: [&str; 2] = ["--bound", "1s"];
const BOUND_US: i64 = 1_000_000;

/// A process that stands still until the value is dropped.
struct Still<'a>(&'a Running);

impl<'a> Still<'a> {
    fn stand(process: &'a Running) -> Self {
        process.signal(Signal::STOP);
        // Until the signal was taken up, some of its threads may still run.
        let status = waitpid(Some(process.id()), WaitOptions::UNTRACED).unwrap();
        assert!(status.is_some_and(|(_, status)| status.stopped()), "it does not stand still");
        Self(process)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

fn closed() -> Rule {
    Rule::default()
}
fn open() -> Rule {
    Rule { policy: Policy::Open, scopes: [].into() }
}

/// Calls until the answer is so.
async fn until(what: &str, demo: &Demo, token: &str, so: impl Fn(&Answer) -> bool) -> Answer {
    let asking = async {
        loop {
            let answer = demo.whoami(token).await;
            if so(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} never came"))
}

async fn fresh(verifier: &Verifier) {
    assert!(verifier.wait_fresh(PATIENCE).await, "not fresh without a hand: {:?}", verifier.readiness());
}

/// What a verifier accepts of these tokens, from now until it is not fresh: when the last acceptance of each was sent.
async fn last_accepted<const N: usize>(verifier: &Verifier, tokens: [&str; N]) -> [i64; N] {
    let mut last_us = [0; N];
    let judging = async {
        while verifier.is_fresh() {
            for (token, last_us) in tokens.iter().zip(&mut last_us) {
                let sent_us = mono_us();
                match verifier.verify(token, &closed()).await.map_err(|refusal| refusal.code()) {
                    Ok(_) => *last_us = sent_us,
                    // It may have heard of an end before the server stood still, and that is certain.
                    Err(Code::NotFresh | Code::TokenRevoked) => {}
                    Err(code) => panic!("refused with {code}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, judging).await.expect("the lease ends");
    last_us
}

/// How often a demo API accepted without proof, by its metrics.
async fn unproven(demo: &Demo) -> u64 {
    let mark = "portcullis_verifier_accepted_total{how=\"unproven\"} ";
    let mut stream = crate::support::open(demo.address, "GET", "/metrics", None, None).await;
    let text = crate::support::read_until(&mut stream, "no such mark").await;
    text.lines().find_map(|line| line.strip_prefix(mark)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_server_a_verifier_refuses_after_the_lease_and_comes_back_by_itself() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &BOUND).await;
    let to = server.address;
    let client = Server::verifier_client(&dir);
    let library = verifier(to, &client, "library");
    library.declare(Policy::Open);
    let (shut, lax) = (
        Demo::start(&dir, to, &client, &["--policy", "closed"]).await,
        Demo::start(&dir, to, &client, &["--policy", "open"]).await,
    );
    fresh(&library).await;
    let email = sign_up(to, "alice").await;
    let (stays, goes) = (sign_in(to, &email).await, sign_in(to, &email).await);
    for session in [&stays, &goes] {
        until("an acceptance", &shut, &session.access, |answer| answer.status == 200).await;
        until("an acceptance", &lax, &session.access, |answer| answer.status == 200).await;
    }
    let unproven_before = unproven(&lax).await;

    // Ended, answered, and before anybody need have heard of it the server stands still.
    let answered_us = end(to, &goes).await;
    let still = Still::stand(&server.process);
    let stopped_us = mono_us();
    let [last_us, last_ended_us] = last_accepted(&library, [&stays.access, &goes.access]).await;
    // What is fresh by a lease is fresh for B from when the lease was asked for: before the server stood still.
    assert!(last_us <= stopped_us + BOUND_US, "accepted {} us after the server stood still", last_us - stopped_us);
    // And by a lease that does not know an end, no longer than B from the end's answer.
    assert!(last_ended_us <= answered_us + BOUND_US, "accepted {} us after its end", last_ended_us - answered_us);
    let refusal = library.verify(&stays.access, &closed()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFresh);
    let answer: http::Response<String> = refusal.response(&http::HeaderMap::new());
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after") && !answer.headers().contains_key("www-authenticate"));
    let refused = until("not_fresh", &shut, &stays.access, |answer| answer.status == 503).await;
    assert_eq!(refused.code(), "not_fresh");
    insist_not_ready(&shut).await;
    // Under `open` the service goes on, and says how often it did not know.
    let verified = library.verify(&stays.access, &open()).await.unwrap();
    assert!(!verified.is_proven());
    until("an acceptance under open", &lax, &stays.access, |answer| answer.status == 200).await;
    let counted = wait_unproven(&lax, &stays.access, unproven_before).await;
    // Nothing changes by itself: nobody else can renew the lease.
    for _ in 0..20 {
        assert_eq!(shut.whoami(&stays.access).await.status, 503);
        assert!(library.verify(&goes.access, &closed()).await.is_err());
    }

    drop(still);
    fresh(&library).await;
    for demo in [&shut, &lax] {
        until("token_revoked", demo, &goes.access, |answer| answer.code() == "token_revoked").await;
        until("an acceptance", demo, &stays.access, |answer| answer.status == 200).await;
        insist(demo.address, "GET", "/readyz", None, None).await.must(200);
    }
    assert_eq!(refusal_of(&library, &goes).await, Code::TokenRevoked);
    let accepted = library.verify(&stays.access, &open()).await.unwrap();
    assert!(accepted.is_proven() || !library.is_fresh());
    eprintln!(
        "server stood still: last accepted {} ms after it, {counted} accepted under open and counted; back by itself",
        (last_us - stopped_us) / 1000
    );
}

/// Signs out; when that was answered.
async fn end(to: SocketAddr, session: &Session) -> i64 {
    insist(to, "DELETE", "/v1/me/sessions/current", Some(&session.access), None).await.must(200);
    mono_us()
}

async fn insist_not_ready(demo: &Demo) {
    let answer = Kept::open(demo.address).await.unwrap().call("GET", "/readyz", None, None).await.unwrap();
    assert_eq!(answer.status, 503, "ready without a lease");
}

async fn wait_unproven(demo: &Demo, token: &str, before: u64) -> u64 {
    let counting = async {
        loop {
            demo.whoami(token).await.must(200);
            let now = unproven(demo).await - before;
            if now > 0 {
                return now;
            }
        }
    };
    tokio::time::timeout(PATIENCE, counting).await.expect("an acceptance without proof is counted")
}

/// What it says once it is fresh and has heard of the end.
async fn refusal_of(verifier: &Verifier, session: &Session) -> Code {
    let asking = async {
        loop {
            match verifier.verify(&session.access, &closed()).await {
                Err(refusal) if refusal.code() != Code::NotFresh => return refusal.code(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("a verdict")
}

const ASLEEP: usize = 32;

/// Writes a call of `GET /whoami`; the system takes it even when nobody reads.
async fn send(connection: &mut TcpStream, token: &str) {
    let request = format!("GET /whoami HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
}

/// The answer to it: its status, and all of it. Its body is one flat object of JSON.
async fn answer(connection: &mut TcpStream) -> (u16, String) {
    let text = crate::support::read_until(connection, "}").await;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no HTTP: {text:?}")), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stood_still_is_counted_by_arithmetic_and_accepts_nothing_when_it_wakes() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &BOUND).await;
    let to = server.address;
    let client = Server::verifier_client(&dir);
    let library = verifier(to, &client, "library");
    let (awake, sleeper) =
        (Demo::start(&dir, to, &client, &[]).await, Demo::start(&dir, to, &client, &["--bound", "1s"]).await);
    fresh(&library).await;
    let email = sign_up(to, "alice").await;
    let (stays, goes) = (sign_in(to, &email).await, sign_in(to, &email).await);
    // Connections that the sleeper has accepted and answered on: what is sent on them waits in its sockets.
    let mut waiting = Vec::new();
    for n in 0..ASLEEP {
        let ended = n % 2 == 0;
        let token = if ended { &goes.access } else { &stays.access };
        until("an acceptance", &sleeper, token, |answer| answer.status == 200).await;
        let mut connection = TcpStream::connect(sleeper.address).await.unwrap();
        send(&mut connection, token).await;
        assert_eq!(answer(&mut connection).await.0, 200);
        waiting.push((connection, ended, token.clone()));
    }

    let still = Still::stand(&sleeper.process);
    let called_us = mono_us();
    let path = "/v1/me/sessions/current?wait=enforced";
    let ended = insist(to, "DELETE", path, Some(&goes.access), None).await.must(200);
    let answered_us = mono_us();
    let enforcement = &ended.body["enforcement"];
    let count = |name: &str| enforcement[name].as_u64().unwrap_or_else(|| panic!("{enforcement}"));
    assert_eq!(
        (ended.body["ended"].as_u64(), &enforcement["complete"]),
        (Some(1), &Value::Bool(true)),
        "{enforcement}"
    );
    // The one that stands still is among the lapsed; on a machine that is short of time others may be too.
    let (acknowledged, lapsed) = (count("acknowledged"), count("lapsed"));
    assert!(lapsed >= 1 && acknowledged + lapsed == 3 && count("pending") == 0, "{enforcement}");

    // True everywhere, says the answer. What is sent from now on must not be accepted, though the sleeper reads it only when
    // it wakes, before it has heard of anything.
    for (connection, _, token) in &mut waiting {
        send(connection, token).await;
    }
    drop(still);
    let mut asked = JoinSet::new();
    for (mut connection, ended, token) in waiting {
        asked.spawn(async move {
            let mut answers = vec![answer(&mut connection).await];
            while answers.len() < 20 {
                send(&mut connection, &token).await;
                answers.push(answer(&mut connection).await);
            }
            (ended, answers)
        });
    }
    let (mut not_fresh, mut revoked, mut accepted) = (0, 0, 0);
    while let Some(done) = asked.join_next().await {
        let (ended, answers) = done.unwrap();
        for (status, text) in answers {
            match status {
                503 if text.contains("\"not_fresh\"") => not_fresh += 1,
                401 if ended && text.contains("\"token_revoked\"") => revoked += 1,
                200 if !ended => accepted += 1,
                _ => panic!("{} was answered {text}", if ended { "who is ended" } else { "who is not" }),
            }
        }
    }
    for demo in [&awake, &sleeper] {
        until("token_revoked", demo, &goes.access, |answer| answer.code() == "token_revoked").await;
        until("an acceptance", demo, &stays.access, |answer| answer.status == 200).await;
    }
    assert_eq!(refusal_of(&library, &goes).await, Code::TokenRevoked);
    eprintln!(
        "a service stood still: enforced by arithmetic after {} ms (call {} ms, bound {} ms), {acknowledged} acknowledged, \
         {lapsed} lapsed; when it woke: {not_fresh} not_fresh, {revoked} token_revoked, {accepted} others accepted",
        count("took_ms"),
        (answered_us - called_us) / 1000,
        BOUND_US / 1000
    );
}
