//! The feed's client: streams, leases, pages, and what a bad server does to it.
use crate::server::{B, Server, Signer, soon};
use portcullis_tower::wire::{Rev, SessionId, Target};
use portcullis_tower::{Config, Reason, Rule, Verifier};
use std::time::Duration;

async fn reason(verifier: &Verifier, token: &str) -> Option<Reason> {
    verifier.verify(token, &Rule::default()).await.err().map(|refusal| refusal.reason().unwrap())
}

#[tokio::test]
async fn a_dead_stream_costs_no_lease_and_a_gap_is_closed_by_answers() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let token = server.token(1);
    server.lock().switches.silent = true; // a proxy that buffers
    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    soon("told by the answers", || verifier.readiness().applied == rev).await;
    assert_eq!(reason(&verifier, &token).await, Some(Reason::Ended { rev }));
    tokio::time::sleep(Duration::from_millis(2 * B)).await;
    assert!(verifier.is_fresh());
    assert_eq!(server.lock().seen.queries.len(), 1, "one stream, all the time");
}

#[tokio::test]
async fn a_token_that_is_faster_than_the_log_is_good_and_asks_for_a_catch_up() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    server.lock().switches.silent = true;
    let rev = server.end(Target::Session(SessionId::from_bits(9)));
    let token = server.token(1); // of that rev
    assert_eq!(server.claims(1).rev, rev);
    assert_eq!(reason(&verifier, &token).await, None);
    for _ in 0..20 {
        if verifier.readiness().applied == rev {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await; // much less than a third of the bound
    }
    assert_eq!(verifier.readiness().applied, rev);
    // but a rev that the log never reaches was never minted by this server
    let mut forged = server.claims(2);
    forged.rev = Rev(1_000_000);
    let forged = server.signer.sign(&forged);
    assert_eq!(reason(&verifier, &forged).await, None);
    tokio::time::sleep(Duration::from_millis(B)).await;
    assert_eq!(reason(&verifier, &forged).await, Some(Reason::AheadOfLog { rev: Rev(1_000_000) }));
    assert!(verifier.metrics().contains("alarming_tokens_total 1"));
}

#[tokio::test]
async fn far_behind_means_pages() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    server.lock().switches.silent = true;
    for n in 0..130 {
        server.end(Target::Session(SessionId::from_bits(n)));
    }
    soon("pulled", || verifier.readiness().applied == Rev(130)).await;
    assert!(server.lock().seen.pages >= 7);
    assert_eq!(verifier.readiness().set_entries, 130);
    soon("fresh", || verifier.is_fresh()).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_resumes_and_an_instance_that_is_gone_begins_anew() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let rev = server.end(Target::Session(SessionId::from_bits(1)));
    soon("applied", || verifier.readiness().applied == rev).await;
    server.cut_streams();
    soon("resumed", || server.lock().seen.queries.len() == 2 && verifier.readiness().connected).await;
    assert_eq!(server.lock().seen.last_event_ids[1].as_deref(), Some("0.1.mac"));
    let first = server.lock().seen.queries[1]["instance"].clone();
    server.lock().switches.gone = true;
    soon("begun anew", || server.lock().seen.queries.len() == 3).await;
    assert!(!server.lock().seen.queries[2].contains_key("instance") && first.starts_with("ins_"));
    tokio::time::sleep(Duration::from_millis(B)).await;
    assert!(verifier.is_fresh());
}

#[tokio::test]
async fn new_keys_come_by_the_feed_and_unknown_ones_fetch_nothing() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let next = Signer::new(2);
    let token = next.sign(&server.claims(1));
    let asks = server.lock().seen.asks;
    for _ in 0..50 {
        assert_eq!(reason(&verifier, &token).await, Some(Reason::UnknownKey));
    }
    assert!(server.lock().seen.asks - asks <= 1);
    let keys = vec![server.signer.jwk(), next.jwk()];
    server.lock().p.set_keys(keys);
    server.cut_streams();
    soon("the new key", || server.lock().seen.queries.len() == 2 && verifier.readiness().connected).await;
    for _ in 0..100 {
        if reason(&verifier, &token).await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the key never came");
}

#[tokio::test]
async fn garbage_never_makes_it_fresh_nor_ends_it() {
    let server = Server::start().await;
    for garbage in [
        &b"event: hello\ndata: {\"v\":1}\n\n"[..],
        b"event: hello\ndata: nonsense\n\n",
        b"\xff\xfe\n\n",
        b"event: entries\ndata: {\"entries\":[]}\n\n",
        b"",
    ] {
        server.lock().switches.garbage = Some(garbage.to_vec());
        let verifier = Verifier::start(server.config()).unwrap();
        assert!(!verifier.wait_fresh(Duration::from_millis(150)).await, "{garbage:?}");
        server.lock().switches.garbage = None;
        assert!(verifier.wait_fresh(Duration::from_secs(5)).await, "{garbage:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_addresses() {
    let server = Server::start().await;
    let verifier = Verifier::start(Config::new(&server.issuer, "api", "cli_x", "wrong")).unwrap();
    assert!(!verifier.wait_fresh(Duration::from_millis(200)).await);
    for url in ["", "id.example", "ftp://id.example", "https://u:p@id.example/", "https://", "http://x/?a=b"] {
        assert!(Verifier::start(server.config().feed_url(url)).is_err(), "{url}");
    }
    assert!(Verifier::start(Config::new("nonsense", "api", "cli_x", "s")).is_err());
    assert!(!format!("{:?}", server.config()).contains("s3cret"));
}

#[tokio::test]
async fn the_last_handle_ends_the_task() {
    let server = Server::start().await;
    let verifier = server.verifier().await;
    let other = verifier.clone();
    drop(verifier);
    assert_eq!(server.streams(), 1);
    assert!(other.is_fresh());
    drop(other);
    soon("the stream is closed", || server.streams() == 0).await;
    let asks = server.lock().seen.asks;
    tokio::time::sleep(Duration::from_millis(B)).await;
    assert_eq!(server.lock().seen.asks, asks);
}
