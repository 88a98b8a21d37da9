//! Where a service was shown a token reaches the server's rules, with the real verifier, and what they say comes back to it.
use crate::kept::{feed_url, quiet_turn, sign_in, sign_up};
use crate::support::{Dir, ISSUER, PATIENCE, Server};
use portcullis_tower::wire::Code;
use portcullis_tower::{Config, Rule, Verifier};
use std::time::Duration;

/// A session that is seen elsewhere ends.
pub(crate) const RULES: &str = r#"
version = "test 1"
[[rule]]
name = "seen-elsewhere"
acts = ["sighting"]
when = "signal.moved && signal.new_network && from.agent == 'curl/?'"
then = ["end_session"]
reason = "Your session's access token was used elsewhere."
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_saw_is_judged_and_comes_back_as_an_end() {
    let _turn = quiet_turn().await;
    let dir = Dir::new();
    dir.write("rules.toml", RULES);
    let server = Server::start_with(&dir, &["--risk-rules", "rules.toml", "--bound", "1s"]).await;
    let to = server.address;
    let client = Server::verifier_client(&dir);
    let config = |told| {
        let config = Config::new(ISSUER, ISSUER, &client.0, &*client.1).feed_url(feed_url(to)).name("one");
        Verifier::start(config.sightings(told)).unwrap()
    };
    let (one, silent) = (config(true), config(false));
    assert!(one.wait_fresh(PATIENCE).await && silent.wait_fresh(PATIENCE).await);
    let ada = sign_up(to, "ada").await;
    let (mine, other) = (sign_in(to, &ada).await, sign_in(to, &ada).await);
    let rule = Rule::default();
    // Seen where it was made, and by one that tells nothing: nothing comes of it.
    let seen = one.verify(&mine.access, &rule).await.unwrap();
    seen.seen_from([127, 0, 0, 1].into(), Some("curl/8.9.1"));
    silent.verify(&mine.access, &rule).await.unwrap().seen_from([198, 51, 100, 7].into(), Some("curl/8.9.1"));
    let told = async |count: u64| {
        let line = format!("portcullis_verifier_sightings_total {count}\n");
        let heard = async {
            while !one.metrics().contains(&line) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{}", one.metrics()));
    };
    told(1).await;
    assert!(one.verify(&mine.access, &rule).await.is_ok());
    assert!(silent.metrics().contains("portcullis_verifier_sightings_total 0\n"));
    // Elsewhere: the session ends, at every service, and no other one.
    seen.seen_from([198, 51, 100, 7].into(), Some("curl/8.9.1"));
    for verifier in [&one, &silent] {
        let ended = async {
            loop {
                match verifier.verify(&mine.access, &rule).await.map(drop) {
                    Err(refusal) if refusal.code() == Code::TokenRevoked => break,
                    Ok(()) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(refusal) if refusal.code() == Code::NotFresh => {
                        tokio::time::sleep(Duration::from_millis(10)).await
                    }
                    Err(refusal) => panic!("{:?}", refusal.code()),
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, ended).await;
        heard.unwrap_or_else(|_| panic!("the end reaches the service: {} {}", one.metrics(), server.process.log()));
    }
    assert!(one.wait_fresh(PATIENCE).await);
    assert!(one.verify(&other.access, &rule).await.is_ok());
}
