//! Files that cannot grow any more under a server that serves: every write answers 503 and is not done, reads and verifiers go
//! on, and with space again the server goes on without a hand. The limit is one on the size of files, set on the running
//! process: writes fail with EFBIG. That SQLite's own word for a full disk is taken in the same way is tested in `store-sqlite`.
use crate::kept::{Answer, Kept, insist, sign_in, sign_up, turn, verifier};
use crate::support::{ADMIN, Dir, ISSUER, Server, portcullis};
use portcullis_testkit::lasting_address;
use portcullis_tower::wire::Code;
use portcullis_tower::{Rule, Verifier};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// The server, deaf to the signal that comes with the limit; a full disk sends none.
async fn serve(dir: &Dir, at: SocketAddr) -> Server {
    let at = at.to_string();
    let plain = portcullis(&dir.0, &["serve", "--listen", &at, "--issuer", ISSUER, "--data-dir", "data"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    command.args(["--log-format", "json"]).current_dir(&dir.0);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
    Server::run(command).await
}

/// No file may grow beyond this; `None` takes the limit away.
fn limit(server: &Server, bytes: Option<u64>) {
    let was = prlimit(Some(server.process.id()), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    assert_eq!(was.maximum, None, "the limit can be lifted again");
}

/// One call, not repeated.
async fn once(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<serde_json::Value>,
) -> Answer {
    Kept::open(to).await.unwrap().call(method, path, token, body.as_ref()).await.unwrap()
}

async fn fresh(verifier: &Verifier) {
    let wait = async {
        while !verifier.is_fresh() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, wait).await.expect("the verifier becomes fresh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_claimed_that_is_not_on_disk_and_nobody_is_signed_out() {
    let _turn = turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server = serve(&dir, at).await;
    let client = Server::verifier_client(&dir);
    let library = verifier(at, &client, "library");
    let admin = sign_in(at, ADMIN.0).await;
    let email = sign_up(at, "alice").await;
    let (phone, laptop) = (sign_in(at, &email).await, sign_in(at, &email).await);
    fresh(&library).await;

    limit(&server, Some(4096)); // not one page more fits into the write-ahead log
    let refreshing = || Some(json!({ "refresh_token": phone.refresh }));
    let ending = format!("/v1/me/sessions/{}", laptop.sid);
    let blocking = format!("/v1/admin/accounts/{}/block", phone.account);
    for _ in 0..3 {
        for answer in [
            once(at, "POST", "/v1/sessions/refresh", None, refreshing()).await,
            once(
                at,
                "POST",
                "/v1/sessions",
                None,
                Some(json!({ "identifier": email, "password": "a good long password" })),
            )
            .await,
            once(
                at,
                "POST",
                "/v1/accounts",
                None,
                Some(json!({ "email": "b@example.org", "password": "a good long one" })),
            )
            .await,
            once(at, "DELETE", &ending, Some(&phone.access), None).await,
            once(at, "POST", &blocking, Some(&admin.access), Some(json!({ "reason": "we had to" }))).await,
        ] {
            assert_eq!((answer.status, answer.code()), (503, "unavailable"), "{}", answer.body);
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    // A balancer that took the node away would take the feed away too, and with it every verifier's lease.
    once(at, "GET", "/readyz", None, None).await.must(200);
    // What needs no write goes on, and what was not ended is not refused anywhere.
    for one in [&phone, &laptop] {
        once(at, "GET", "/v1/me", Some(&one.access), None).await.must(200);
        assert!(library.verify(&one.access, &Rule::default()).await.is_ok());
    }

    limit(&server, None);
    // Nothing of what was refused was done: the address is free, and the account is not blocked.
    sign_up(at, "b").await;
    sign_in(at, &email).await;
    insist(at, "POST", "/v1/sessions/refresh", None, refreshing().as_ref()).await.must(200);
    let done = insist(at, "DELETE", &format!("{ending}?wait=enforced"), Some(&phone.access), None).await.must(200);
    assert_eq!((&done.body["rev"], &done.body["enforcement"]["complete"]), (&json!(1), &json!(true)), "{}", done.body);
    let refusal = library.verify(&laptop.access, &Rule::default()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::TokenRevoked);
    assert!(library.verify(&phone.access, &Rule::default()).await.is_ok());

    // The file is whole.
    server.process.signal(rustix::process::Signal::KILL);
    drop(server);
    let server = serve(&dir, at).await;
    once(server.address, "GET", "/v1/me", Some(&phone.access), None).await.must(200);
    once(server.address, "GET", "/v1/me", Some(&laptop.access), None).await.must(401);
}
