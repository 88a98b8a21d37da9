//! For a moment the address of the server leads to another one, which went on from a copy of its database: a fork.
use super::{BOUND, Relay, all_accept, all_fresh, below, refusal};
use crate::kept::{insist, quiet_turn, serve, sign_in, sign_up};
use crate::rollback::copy;
use crate::support::{Dir, PATIENCE, Server};
use portcullis_testkit::lasting_address;
use portcullis_testkit::proxy::Proxy;
use portcullis_tower::Policy;
use portcullis_tower::wire::Code;
use rustix::process::Signal;
use std::time::Duration;

/// Entries go down before the server has named them, for an end must not wait. When they turn out to be a fork's, the verifiers
/// below leave it with the relay, and follow the right log again; nobody is started anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifiers_leave_a_fork_that_their_relay_handed_on() {
    let _turn = quiet_turn().await;
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let (at, wrong) = (lasting_address(), lasting_address());
    let mut server = serve(&dir, at, &BOUND).await;
    let (relays, services) = (Server::verifier_client(&dir), Server::verifier_client(&dir));
    let way = Proxy::to(at).await.unwrap();
    let relay = Relay::start(&dir, way.address, &relays, &[]).await;
    let verifiers = [below(relay.address, &services, 0)];
    all_fresh(&verifiers).await;
    let email = sign_up(at, "alice").await;
    let (stays, goes) = (sign_in(at, &email).await, sign_in(at, &email).await);
    server.process.signal(Signal::TERM);
    server.process.ended().await;
    copy(&dir.path("data"), &elsewhere.path("data"));
    std::fs::copy(dir.path("data/master.key"), elsewhere.path("data/master.key")).unwrap();
    let _server = serve(&dir, at, &BOUND).await;
    let _fork = serve(&elsewhere, wrong, &BOUND).await;
    all_accept(&verifiers, &stays).await;
    all_accept(&verifiers, &goes).await;
    tokio::time::sleep(Duration::from_millis(500)).await; // until it is asked again and again on one connection

    // The next stream comes from the fork; questions go on to where they went.
    way.aim_at(wrong);
    verifiers[0].declare(Policy::Open);
    let streams = async |more: &str| {
        while !relay.process.log().contains(more) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let connected = async {
        while super::limits::metric(relay.address, "upstream_streams_total").await < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("the stream is opened again");
    let path = "/v1/me/sessions/current";
    insist(wrong, "DELETE", path, Some(&stays.access), None).await.must(200);
    let handed_on = async {
        while refusal(&verifiers[0], &stays.access).await != Some(Code::TokenRevoked) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, handed_on).await.expect("the fork is handed on");
    tokio::time::sleep(Duration::from_millis(400)).await; // until it has acknowledged that
    way.aim_at(at);
    insist(at, "DELETE", path, Some(&goes.access), None).await.must(200);
    tokio::time::timeout(PATIENCE, streams("trouble=fork")).await.expect("the relay notices");
    all_fresh(&verifiers).await;
    all_accept(&verifiers, &stays).await;
    assert_eq!(refusal(&verifiers[0], &goes.access).await, Some(Code::TokenRevoked));
    let (status, ready) = relay.readiness().await;
    assert_eq!(status, 200, "{ready}");
}
