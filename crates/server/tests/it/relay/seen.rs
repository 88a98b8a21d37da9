//! What services below a relay have seen reaches the server's rules, and what they say comes back.
use super::{Relay, all_accept, refusal};
use crate::kept::{quiet_turn, sign_in, sign_up};
use crate::sightings::RULES;
use crate::support::{Dir, ISSUER, PATIENCE, Server};
use portcullis_tower::wire::Code;
use portcullis_tower::{Config, Rule, Verifier};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_below_relays_saw_is_judged_and_comes_back_as_an_end() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    dir.write("rules.toml", RULES);
    let server = Server::start_with(&dir, &["--risk-rules", "rules.toml", "--bound", "1s"]).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let first = Relay::start(&dir, server.address, &relays, &["--name", "first"]).await;
    let second = Relay::start(&dir, first.address, &relays, &["--name", "second"]).await;
    let config =
        Config::new(ISSUER, ISSUER, &services.0, &*services.1).feed_url(format!("http://{}/v1/feed", second.address));
    let verifiers = [Verifier::start(config.name("below").sightings(true)).unwrap()];
    assert!(verifiers[0].wait_fresh(PATIENCE).await);
    let email = sign_up(server.address, "ada").await;
    let (mine, other) = (sign_in(server.address, &email).await, sign_in(server.address, &email).await);
    all_accept(&verifiers, &mine).await;
    all_accept(&verifiers, &other).await;
    let seen = verifiers[0].verify(&mine.access, &Rule::default()).await.unwrap();
    seen.seen_from([198, 51, 100, 7].into(), Some("curl/8.9.1"));
    let ended = async {
        while refusal(&verifiers[0], &mine.access).await != Some(Code::TokenRevoked) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let heard = tokio::time::timeout(PATIENCE, ended).await;
    heard
        .unwrap_or_else(|_| panic!("the end reaches the service: {} {}", verifiers[0].metrics(), server.process.log()));
    all_accept(&verifiers, &other).await;
    for relay in [&first, &second] {
        assert_eq!(super::limits::metric(relay.address, "sightings_total").await, 1);
    }
}
