//! Keys that come, and keys that die.
use crate::server::{Server, Signer, soon};
use portcullis_tower::wire::{KeyId, Target, Verb};
use portcullis_tower::{Reason, Rule};
use std::time::Duration;
use tokio::time::timeout;

/// A verified signature is remembered; that its key died meanwhile counts all the same, for requests and for open connections.
#[tokio::test]
async fn a_dead_key_ends_what_it_signed() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    let rule = Rule::default();
    let guard = verifier.verify(&token, &rule).await.unwrap().guard();
    assert!(verifier.verify(&token, &rule).await.is_ok());
    let rev = server.commit(Verb::Key, Target::Key(KeyId(1)));
    soon("applied", || verifier.readiness().applied == rev).await;
    assert_eq!(timeout(Duration::from_secs(5), guard.ended()).await, Ok(Reason::KeyDead));
    for token in [token, server.token(2)] {
        let refusal = verifier.verify(&token, &rule).await.unwrap_err();
        assert_eq!((refusal.reason(), refusal.code().as_str()), (Some(Reason::KeyDead), "token_revoked"));
    }
}

/// A proxy that holds the stream up costs no keys: they come with the lease.
#[tokio::test]
async fn a_new_key_comes_with_the_lease() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    server.lock().switches.silent = true;
    let next = Signer::new(2);
    let token = next.sign(&server.claims(1));
    let rule = Rule::default();
    assert!(verifier.verify(&token, &rule).await.is_err());
    let keys = vec![server.signer.jwk(), next.jwk()];
    server.lock().p.set_keys(keys);
    let mut known = false;
    for _ in 0..1_000 {
        known = verifier.verify(&token, &rule).await.is_ok();
        if known {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(known, "a lease without the keys");
}
