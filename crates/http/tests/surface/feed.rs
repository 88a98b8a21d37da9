//! `/v1/feed`: streams, acknowledgements, snapshot pages, and waiting until a revocation is enforced.
use portcullis_testkit::client::Event;
use portcullis_testkit::{Options, TestServer};
use serde_json::{Value, json};
use std::time::Duration;

async fn ack(
    server: &TestServer,
    client: (&str, &str),
    hello: &Value,
    applied: u64,
    position: &str,
    nonce: &str,
) -> Value {
    let body = json!({
        "instance": hello["instance"], "instance_secret": hello["instance_secret"], "epoch": hello["epoch"],
        "applied": applied, "position": position, "nonce": nonce,
    });
    server.client.post("/v1/feed/acks").basic(client).json(&body).send().await.expect(200).json()
}

#[tokio::test]
async fn a_verifier_hears_of_an_end_and_acknowledges_it() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let client = (&*id, &*secret);
    let mut feed = server.client.get("/v1/feed?name=orders-1&policy=closed&bound_ms=1500").basic(client).events().await;
    assert_eq!(feed.status, 200);
    assert_eq!(feed.headers["content-type"], "text/event-stream");
    assert_eq!(feed.headers["cache-control"], "no-store");
    assert_eq!(feed.headers["x-accel-buffering"], "no");
    let hello = feed.next_named("hello").await.data;
    assert_eq!((hello["v"].as_u64(), hello["bound_ms"].as_u64()), (Some(1), Some(2000)));
    let snapshot = feed.next_named("snapshot").await;
    assert_eq!((snapshot.data["part"].as_u64(), snapshot.data["parts"].as_u64()), (Some(0), Some(1)));
    assert_eq!(snapshot.data["keys"].as_array().unwrap().len(), 2);
    let rev = snapshot.data["rev"].as_u64().unwrap();
    let lease = ack(&server, client, &hello, rev, snapshot.id.as_deref().unwrap(), "n1").await;
    assert_eq!((lease["nonce"].as_str(), lease["head"].as_u64()), (Some("n1"), Some(rev)));
    assert!(lease["age_ms"].as_u64().is_some() && lease["horizon_floor"].is_string());

    let admin = server.admin().await;
    let list = server.client.get("/v1/admin/verifiers").bearer(&admin.access).send().await.expect(200).json();
    let seen = &list["verifiers"][0];
    assert_eq!((seen["name"].as_str(), seen["policy"].as_str()), (Some("orders-1"), Some("closed")));
    assert_eq!((seen["connected"].as_bool(), seen["leased"].as_bool()), (Some(true), Some(true)));
    assert_eq!((seen["bound_ms"].as_u64(), &seen["client_id"]), (Some(1500), &json!(id)));

    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    // Somebody waits; meanwhile the verifier hears of it, and says so at once.
    let call = server.client.delete("/v1/me/sessions?wait=enforced").bearer(&ada.access);
    let waiting = tokio::spawn(call.send());
    let entries = feed.next_named("entries").await;
    let entry = &entries.data["entries"][0];
    assert_eq!((entry["verb"].as_str(), entry["scope"].as_str()), (Some("end"), Some("account")));
    assert_eq!(entry["id"], ada.account);
    let rev = entry["rev"].as_u64().unwrap();
    let asked = feed.next_named("entries").await.data;
    assert_eq!((asked["ack"].as_bool(), asked["entries"].as_array().map(Vec::len)), (Some(true), Some(0)), "{asked}");
    ack(&server, client, &hello, rev, entries.id.as_deref().unwrap(), "n2").await;
    let ended = waiting.await.unwrap().expect(200).json();
    let enforcement = &ended["enforcement"];
    assert_eq!((ended["rev"].as_u64(), enforcement["complete"].as_bool()), (Some(rev), Some(true)), "{ended}");
    assert_eq!((enforcement["acknowledged"].as_u64(), enforcement["pending"].as_u64()), (Some(1), Some(0)), "{ended}");
    assert!(enforcement["took_ms"].as_u64().unwrap() < 1900, "{ended}");
}

#[tokio::test]
async fn a_silent_verifier_makes_waiting_end_by_arithmetic_or_by_the_time_given() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let client = (&*id, &*secret);
    let mut feed = server.client.get("/v1/feed?policy=closed,open").basic(client).events().await;
    let hello = feed.next_named("hello").await.data;
    let snapshot = feed.next_named("snapshot").await;
    ack(&server, client, &hello, snapshot.data["rev"].as_u64().unwrap(), snapshot.id.as_deref().unwrap(), "n").await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let end = |wait: &str| {
        server.client.delete(format!("/v1/me/sessions?except=current&wait=enforced{wait}")).bearer(&ada.access).send()
    };
    let short = end("&timeout_ms=50").await.expect(200).json();
    assert_eq!(
        (short["enforcement"]["complete"].as_bool(), short["enforcement"]["pending"].as_u64()),
        (Some(false), Some(1))
    );
    assert_eq!(short["enforcement"]["until_expiry"], 1);
    let long = end("").await.expect(200).json();
    assert_eq!(
        (long["enforcement"]["complete"].as_bool(), long["enforcement"]["lapsed"].as_u64()),
        (Some(true), Some(1)),
        "{long}"
    );
    assert!(long["enforcement"]["took_ms"].as_u64().unwrap() <= 2200, "{long}");
    for wrong in ["wait=now", "wait=enforced&timeout_ms=60001", "wait=enforced&timeout_ms=x"] {
        let path = format!("/v1/me/sessions?{wrong}");
        server.client.delete(path).bearer(&ada.access).send().await.expect_problem("invalid_value");
    }
}

#[tokio::test]
async fn a_position_resumes_and_a_strange_one_brings_a_snapshot() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let client = (&*id, &*secret);
    let mut first = server.client.get("/v1/feed").basic(client).events().await;
    let hello = first.next_named("hello").await.data;
    let position = first.next_named("snapshot").await.id.unwrap();
    drop(first);
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    server.client.delete("/v1/me/sessions").bearer(&ada.access).send().await.expect(200);

    let instance = hello["instance"].as_str().unwrap();
    let again = server.client.get(format!("/v1/feed?instance={instance}")).basic(client);
    let again = again.header("portcullis-instance-secret", hello["instance_secret"].as_str().unwrap());
    let mut again = again.header("last-event-id", &position).events().await;
    assert_eq!(again.next_named("hello").await.data["instance"], instance);
    let keys = next_data(&mut again).await; // before the entries: who has applied those knows the keys of their commits
    assert_eq!((keys.name.as_str(), keys.data["keys"].as_array().map(Vec::len)), ("keys", Some(2)));
    let entries = next_data(&mut again).await;
    assert_eq!((entries.name.as_str(), entries.data["entries"].as_array().map(Vec::len)), ("entries", Some(1)));

    // Without the secret it is somebody else; a forged position resumes nothing.
    let (rest, last) = position.split_at(position.len() - 1);
    let forged = format!("{rest}{}", if last == "x" { "y" } else { "x" });
    let other = server.client.get(format!("/v1/feed?instance={instance}")).basic(client);
    let mut other = other.header("last-event-id", forged).events().await;
    assert_ne!(other.next_named("hello").await.data["instance"], instance);
    assert_eq!(next_data(&mut other).await.name, "snapshot");

    let page = server.client.get("/v1/feed/snapshot?part=0").basic(client).send().await.expect(200).json();
    assert_eq!((page["part"].as_u64(), page["entries"].as_array().map(Vec::len)), (Some(0), Some(1)));
    server.client.get("/v1/feed/snapshot?part=9").basic(client).send().await.expect_problem("not_found");
    server.client.get("/v1/feed/snapshot?part=0&rev=999").basic(client).send().await.expect_problem("conflict");
    server.client.get("/v1/feed/snapshot?part=x").basic(client).send().await.expect_problem("invalid_value");
}

async fn next_data(feed: &mut portcullis_testkit::Events) -> Event {
    feed.next().await.expect("an event")
}

#[tokio::test]
async fn only_verifiers_by_basic_and_all_refusals_read_alike() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let (other, its_secret) = server.new_client("confidential").await;
    let mut texts = vec![];
    for client in [(&*id, "wrong"), ("cli_00000000000000000000000001", &*secret), ("nobody", ""), ("portcullis", "")] {
        let refused = server.client.get("/v1/feed").basic(client).send().await.expect_problem("invalid_credentials");
        assert!(refused.header("www-authenticate").starts_with("Basic realm=\"portcullis\""));
        texts.push(refused.json()["detail"].clone());
    }
    let bare = server.client.get("/v1/feed").send().await.expect_problem("invalid_credentials");
    texts.push(bare.json()["detail"].clone());
    texts.dedup();
    assert_eq!(texts.len(), 1);
    server.client.get("/v1/feed").basic((&other, &its_secret)).send().await.expect_problem("forbidden");
    for odd in ["Basic", "Basic !!!", "Basic YQ==", "Bearer x"] {
        server.client.get("/v1/feed").header("authorization", odd).send().await.expect_problem("invalid_credentials");
    }
    for wrong in ["policy=lax", "bound_ms=0", "bound_ms=-1", "bound_ms=x", "name=", "instance=ins_x"] {
        let path = format!("/v1/feed?{wrong}");
        let refused = server.client.get(path).basic((&id, &secret)).send().await.expect_problem("invalid_value");
        assert_eq!(refused.json()["field"], wrong.split('=').next().unwrap());
    }
    server.client.get("/v1/feed?limit=1").basic((&id, &secret)).send().await.expect_problem("malformed");
}

#[tokio::test]
async fn a_longer_bound_than_the_servers_changes_nothing() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let mut feed = server.client.get("/v1/feed?bound_ms=60000").basic((&id, &secret)).events().await;
    assert_eq!(feed.status, 200, "a verifier with a bound of its own is locked out once the server's is lowered");
    assert_eq!(feed.next_named("hello").await.data["bound_ms"], 2000);
    let admin = server.admin().await;
    let list = server.client.get("/v1/admin/verifiers").bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["verifiers"][0]["bound_ms"], 2000);
}

#[tokio::test]
async fn acknowledgements_of_strangers_give_no_lease() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let (second, its_secret) = server.new_client("verifier").await;
    let mut feed = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    let hello = feed.next_named("hello").await.data;
    let body = |secret: &Value, nonce: &str, position: &str| json!({ "instance": hello["instance"], "instance_secret": secret, "epoch": 1, "applied": 0, "position": position, "nonce": nonce });
    let post = |client: (&str, &str), body: Value| server.client.post("/v1/feed/acks").basic(client).json(&body).send();
    let good = &hello["instance_secret"];
    post((&id, &secret), body(good, "n", "")).await.expect(200);
    post((&second, &its_secret), body(good, "n", "")).await.expect_problem("instance_gone");
    post((&id, &secret), body(&json!("wrong"), "n", "")).await.expect_problem("instance_gone");
    post((&id, &secret), body(good, "", "")).await.expect_problem("malformed");
    post((&id, &secret), body(good, &"n".repeat(129), "")).await.expect_problem("malformed");
    post((&id, &secret), body(good, "n", "1.0.forged")).await.expect_problem("malformed");
    post((&id, "wrong"), body(good, "n", "")).await.expect_problem("invalid_credentials");
}

#[tokio::test]
async fn what_a_relay_asks_about_others() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let (other, its_secret) = server.new_client("confidential").await;
    let mut feed = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    feed.next_named("hello").await;
    let position = feed.next_named("snapshot").await.id.unwrap();
    let known = |position: &str| {
        let asked = server.client.get("/v1/feed/known").basic((&id, &secret));
        asked.header("last-event-id", position).send()
    };
    let bare = server.client.get("/v1/feed/known").basic((&id, &secret)).send().await.expect(200).json();
    assert_eq!(bare, json!({ "client_id": id, "name": "a verifier", "position": false }));
    assert_eq!(known(&position).await.expect(200).json()["position"], true);
    let (rest, last) = position.split_at(position.len() - 1);
    let forged = format!("{rest}{}", if last == "x" { "y" } else { "x" });
    assert_eq!(known(&forged).await.expect(200).json()["position"], false);
    for client in [(&*id, "wrong"), ("cli_00000000000000000000000001", &*secret)] {
        server.client.get("/v1/feed/known").basic(client).send().await.expect_problem("invalid_credentials");
    }
    server.client.get("/v1/feed/known").basic((&other, &its_secret)).send().await.expect_problem("forbidden");
    server.client.get("/v1/feed/known?x=1").basic((&id, &secret)).send().await.expect_problem("malformed");
}

#[tokio::test]
async fn a_relay_acknowledges_less_than_it_has_applied() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let client = (&*id, &*secret);
    let mut feed = server.client.get("/v1/feed").basic(client).events().await;
    let hello = feed.next_named("hello").await.data;
    let snapshot = feed.next_named("snapshot").await;
    let (before, position) = (snapshot.data["rev"].as_u64().unwrap(), snapshot.id.unwrap());
    ack(&server, client, &hello, before, &position, "n1").await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let ended = server.client.delete("/v1/me/sessions").bearer(&ada.access).send().await.expect(200).json();
    let rev = ended["rev"].as_u64().unwrap();
    let says = async |enforced: u64| {
        let body = json!({
            "instance": hello["instance"], "instance_secret": hello["instance_secret"], "epoch": hello["epoch"],
            "applied": rev, "enforced": enforced, "position": position, "nonce": "n",
        });
        let lease = server.client.post("/v1/feed/acks").basic(client).json(&body).send().await.expect(200).json();
        assert_eq!(lease["entries"], json!([]), "entries begin where it is itself");
        let admin = server.admin().await;
        let path = format!("/v1/admin/revocations/{rev}");
        let told = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
        told["enforcement"].clone()
    };
    let told = says(before).await;
    assert_eq!((told["pending"].as_u64(), told["complete"].as_bool()), (Some(1), Some(false)), "{told}");
    // More than it has itself is no more than that.
    let told = says(rev + 5).await;
    assert_eq!((told["acknowledged"].as_u64(), told["complete"].as_bool()), (Some(1), Some(true)), "{told}");
}

#[tokio::test]
async fn a_shutdown_says_goodbye_to_feeds_first_and_does_not_wait_for_them() {
    let mut server = TestServer::start(Options::default()).await;
    let (id, secret) = server.new_client("verifier").await;
    let mut feed = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    feed.next_named("snapshot").await;
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("it ends at once");
    feed.next_named("bye").await;
    assert!(feed.next().await.is_none());
}
