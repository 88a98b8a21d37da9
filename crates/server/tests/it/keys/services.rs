//! Keys as services see them, with the real verifier: a dead key is refused by all from the answer on, and the key after it is
//! known to all at once; a rotation is seen by nobody.
use crate::kept::{Session, insist, quiet_turn, refresh, sign_in, sign_up, turn, verifier};
use crate::support::{ADMIN, Dir, PATIENCE, Server};
use portcullis_tower::wire::Code;
use portcullis_tower::wire::jws::Compact;
use portcullis_tower::{Rule, Verifier};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What a verifier says of a token; on a busy machine it may have lost its lease for a moment, and is asked again.
async fn verdict(verifier: &Verifier, token: &str) -> Result<(), Code> {
    loop {
        match verifier.verify(token, &Rule::default()).await {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code() == Code::NotFresh => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(refusal) => return Err(refusal.code()),
        }
    }
}

async fn fleet(server: &Server, dir: &Dir, size: usize) -> Vec<Verifier> {
    let client = Server::verifier_client(dir);
    let fleet: Vec<_> = (0..size).map(|n| verifier(server.address, &client, &format!("v{n}"))).collect();
    for one in &fleet {
        assert!(one.wait_fresh(PATIENCE).await);
    }
    fleet
}

fn kid(session: &Session) -> String {
    Compact::parse(&session.access, "at+jwt").unwrap().kid.to_string()
}

async fn revoke(to: SocketAddr, token: &str, key: &str) -> Value {
    let path = format!("/v1/admin/keys/{key}/revoke?wait=enforced&timeout_ms=30000");
    insist(to, "POST", &path, Some(token), Some(&json!({ "reason": "a test" }))).await.must(200).body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_key_is_dead_at_every_service_and_the_next_one_is_known() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    let server = Server::start(&dir).await;
    let to = server.address;
    let fleet = fleet(&server, &dir, 12).await;
    let ada = sign_up(to, "ada").await;
    let (mut admin, mut ada) = (sign_in(to, ADMIN.0).await, sign_in(to, &ada).await);
    // Five in a row: from the second on, each next key is only moments old.
    for round in 0..5 {
        let key = kid(&ada);
        let done = revoke(to, &admin.access, &key).await;
        assert_eq!((&done["ended"], &done["enforcement"]["complete"]), (&json!(0), &json!(true)), "{done}");
        for verifier in &fleet {
            for dead in [&admin, &ada] {
                assert_eq!(verdict(verifier, &dead.access).await, Err(Code::TokenRevoked), "round {round}, {key}");
            }
        }
        // What a client does then: it refreshes.
        for session in [&mut admin, &mut ada] {
            *session = Session::from(&refresh(to, &session.refresh).await.must(200));
            assert_ne!(kid(session), key);
            for verifier in &fleet {
                assert_eq!(
                    verdict(verifier, &session.access).await,
                    Ok(()),
                    "round {round}: {} is unknown",
                    kid(session)
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_rotation() {
    let _turn = turn().await;
    let dir = Dir::new();
    let server = Server::start_with(&dir, &["--bound", "1s"]).await;
    let to = server.address;
    let fleet = Arc::new(fleet(&server, &dir, 6).await);
    let ada = sign_up(to, "ada").await;
    let admin = sign_in(to, ADMIN.0).await;
    let (stop, judged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut first = sign_in(to, &ada).await;
    let traffic = {
        let (fleet, stop, judged) = (fleet.clone(), stop.clone(), judged.clone());
        tokio::spawn(async move {
            let mut tokens = vec![first.access.clone()];
            let mut keys = vec![kid(&first)];
            while !stop.load(SeqCst) {
                first = Session::from(&refresh(to, &first.refresh).await.must(200));
                keys.push(kid(&first));
                tokens.push(first.access.clone());
                // The newest everywhere; and one of before, of whichever key.
                for (n, verifier) in fleet.iter().enumerate() {
                    assert_eq!(verdict(verifier, &first.access).await, Ok(()), "{}", kid(&first));
                    let old = &tokens[(tokens.len() * n) / fleet.len()];
                    assert_eq!(verdict(verifier, old).await, Ok(()));
                    judged.fetch_add(2, SeqCst);
                }
            }
            keys.dedup();
            keys
        })
    };
    let mut rotations = 0;
    let rotate = async {
        while rotations < 4 {
            let body = json!({});
            let done = insist(to, "POST", "/v1/admin/keys/rotate", Some(&admin.access), Some(&body)).await;
            match done.status {
                200 => {
                    rotations += 1;
                    let before = judged.load(SeqCst);
                    while judged.load(SeqCst) < before + 50 && !traffic.is_finished() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                _ => assert_eq!(done.code(), "conflict", "{}", done.body),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rotate).await.unwrap();
    stop.store(true, SeqCst);
    let keys = traffic.await.unwrap();
    assert!(keys.len() >= 5, "{keys:?}");
}

#[tokio::test]
async fn services_accept_each_algorithm() {
    for (setting, signature_bytes) in [("RS256", 384), ("Ed25519", 64)] {
        let dir = Dir::new();
        let server = Server::start_with(&dir, &["--token-algorithm", setting]).await;
        let to = server.address;
        let fleet = fleet(&server, &dir, 2).await;
        let admin = sign_in(to, ADMIN.0).await;
        let compact = Compact::parse(&admin.access, "at+jwt").unwrap();
        assert_eq!((compact.alg.name(), compact.signature.len()), (setting, signature_bytes));
        for verifier in &fleet {
            assert_eq!(verdict(verifier, &admin.access).await, Ok(()), "{setting}");
        }
        let done = revoke(to, &admin.access, &kid(&admin)).await;
        assert_eq!(done["enforcement"]["complete"], true);
        let next = Session::from(&refresh(to, &admin.refresh).await.must(200));
        for verifier in &fleet {
            assert_eq!(verdict(verifier, &admin.access).await, Err(Code::TokenRevoked), "{setting}");
            assert_eq!(verdict(verifier, &next.access).await, Ok(()), "{setting}");
        }
    }
}

/// It must be taken, once this verifier is fresh; never called unknown.
pub async fn takes(verifier: &Verifier, token: &str) {
    let verdict = tokio::time::timeout(PATIENCE, verdict(verifier, token)).await;
    assert_eq!(verdict.unwrap(), Ok(()));
}

/// It must be refused once the news has come.
pub async fn refuses(verifier: &Verifier, token: &str) {
    let refused = async {
        while verdict(verifier, token).await != Err(Code::TokenRevoked) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
}
