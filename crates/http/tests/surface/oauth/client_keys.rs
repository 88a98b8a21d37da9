//! Keys of clients that stand at an address of their own (`jwks_uri`, RFC 7591 §2): fetched, kept, and no longer than they may be.
use portcullis_domain::client_keys::Spans;
use portcullis_testkit::application::encode;
use portcullis_testkit::signer::fresh_id;
use portcullis_testkit::{Answer, Application, Idp, Options, Signer, TestServer};
use serde_json::{Value, json};
use std::time::Duration;

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// A day in the life of a key, in a second and a half.
const QUICK: Spans = Spans { fresh: 400, meanwhile: 100, usable: 1_600, again: 150, longest_rest: 300 };

async fn server(spans: Spans) -> TestServer {
    let mut options = Options::default();
    options.settings.clients.keys = spans;
    TestServer::start(options).await
}

async fn at(server: &TestServer, place: &Idp) -> Application {
    let keys = format!("{}/jwks", place.issuer);
    let more = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": keys });
    let app = server.application("confidential", more).await;
    assert!(app.secret.is_empty());
    app
}

fn shows(place: &Idp, keys: &[(&str, &Signer)]) {
    let jwk = |(kid, key): &(&str, &Signer)| {
        let mut jwk = key.jwk();
        jwk["kid"] = (*kid).into();
        jwk
    };
    let keys: Vec<Value> = keys.iter().map(jwk).collect();
    place.says("/jwks", 200, &json!({ "keys": keys }));
}

/// What a client that is known and has nothing to ask is told: 400. Who is not known: 401; when nobody knows: 503.
async fn asks(server: &TestServer, app: &Application, kid: &str, key: &Signer) -> Answer {
    let now = server.app.now().secs();
    let claims =
        json!({ "iss": app.id, "sub": app.id, "aud": server.issuer, "exp": now + 60, "iat": now, "jti": fresh_id() });
    let assertion = key.sign(&json!({ "alg": key.alg(), "kid": kid }), &claims);
    let pairs = [
        ("client_assertion_type", TYPE),
        ("client_assertion", &*assertion),
        ("grant_type", "refresh_token"),
        ("refresh_token", "none"),
    ];
    server.client.post("/oauth2/token").form(&encode(&pairs)).send().await
}

async fn pause(ms: i64) {
    tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await;
}

#[tokio::test]
async fn keys_are_fetched_once_and_when_they_are_needed() {
    let server = server(Spans::default()).await;
    let place = Idp::start().await;
    let (key, other) = (Signer::es256(), Signer::rs256());
    shows(&place, &[("k1", &key), ("k2", &other)]);
    let app = at(&server, &place).await;
    assert!(place.calls().is_empty(), "nobody needed them yet");
    // A herd: one call, whose answer all of them get.
    place.is_late(Duration::from_millis(200));
    let (server, app, key) = (&server, &app, &key);
    let herd = (0..24).map(|_| asks(server, app, "k1", key));
    let mut told = Vec::new();
    for answer in join_all(herd).await {
        told.push(answer.status.as_u16());
    }
    assert_eq!(told, [400; 24]);
    assert_eq!(place.calls().len(), 1);
    asks(server, app, "k2", &other).await.expect(400);
    assert_eq!(place.calls().len(), 1);
    // What no key of theirs signed, or by a name that is none of theirs, however often.
    let stranger = Signer::es256();
    for _ in 0..20 {
        assert_eq!(asks(server, app, "k1", &stranger).await.expect(401).json()["error"], "invalid_client");
        asks(server, app, "k9", key).await.expect(401);
    }
    assert_eq!(place.calls().len(), 1, "garbage asks nobody within ten seconds of a fetch");
}

async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        for (one, done) in waiting.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = one.as_mut().poll(cx) {
                *done = Some(value);
            }
        }
        if waiting.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn a_client_rotates_its_keys_at_its_own_address() {
    let server = server(QUICK).await;
    let place = Idp::start().await;
    let (old, new) = (Signer::es256(), Signer::ed25519());
    shows(&place, &[("old", &old)]);
    let app = at(&server, &place).await;
    asks(&server, &app, "old", &old).await.expect(400);
    shows(&place, &[("old", &old), ("new", &new)]);
    pause(QUICK.again).await;
    asks(&server, &app, "new", &new).await.expect(400);
    asks(&server, &app, "old", &old).await.expect(400);
    // The old one is taken away: it counts no longer than the keys are fresh.
    shows(&place, &[("new", &new)]);
    pause(QUICK.fresh).await;
    asks(&server, &app, "old", &old).await.expect(401);
    asks(&server, &app, "new", &new).await.expect(400);
    // Another address is another set, at once.
    let elsewhere = Idp::start().await;
    shows(&elsewhere, &[("old", &old)]);
    let admin = server.admin().await;
    let moved = json!({ "jwks_uri": format!("{}/jwks", elsewhere.issuer) });
    let call = server.client.patch(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access);
    call.json(&moved).send().await.expect(200);
    asks(&server, &app, "old", &old).await.expect(400);
    asks(&server, &app, "new", &new).await.expect(401);
}

#[tokio::test]
async fn a_failing_address_is_borne_for_a_while() {
    let server = server(QUICK).await;
    let place = Idp::start().await;
    let key = Signer::es256();
    shows(&place, &[("k1", &key)]);
    let app = at(&server, &place).await;
    asks(&server, &app, "k1", &key).await.expect(400);
    for (status, body) in [(500, "{}"), (200, "<html>"), (200, r#"{"keys":[]}"#)] {
        place.says_text("/jwks", status, body);
        pause(QUICK.fresh).await;
        asks(&server, &app, "k1", &key).await.expect(400);
    }
    assert!(place.calls().len() >= 3, "{:?}", place.calls());
    pause(QUICK.usable).await;
    let told = asks(&server, &app, "k1", &key).await.expect(503);
    assert!(!told.header("retry-after").is_empty());
    assert!(told.text().contains("jwks_uri") && !told.text().contains("127.0.0.1"), "{}", told.text());
    // It is asked less and less, and taken as it is when it is back.
    let before = place.calls().len();
    for _ in 0..20 {
        asks(&server, &app, "k1", &key).await.expect(503);
    }
    assert!(place.calls().len() <= before + 1);
    shows(&place, &[("k1", &key)]);
    pause(QUICK.longest_rest).await;
    asks(&server, &app, "k1", &key).await.expect(400);
}

/// A stolen key that was taken away, shown twice at once after a rest: while the first one has the keys fetched, the second does not
/// ride on what was there before.
#[tokio::test]
async fn a_key_that_was_taken_away_does_not_come_back_while_others_ask() {
    let spans = Spans { fresh: 1_500, usable: 60_000, ..QUICK };
    let server = server(spans).await;
    let place = Idp::start().await;
    let (old, new) = (Signer::es256(), Signer::ed25519());
    shows(&place, &[("old", &old), ("new", &new)]);
    let app = at(&server, &place).await;
    asks(&server, &app, "old", &old).await.expect(400);
    shows(&place, &[("new", &new)]);
    pause(spans.fresh + spans.meanwhile).await;
    place.is_late(Duration::from_millis(300));
    for answer in join_all((0..8).map(|_| asks(&server, &app, "old", &old))).await {
        answer.expect(401);
    }
    asks(&server, &app, "new", &new).await.expect(400);
}

#[tokio::test]
async fn a_slow_address_holds_up_its_own_client_alone() {
    let mut options = Options::default();
    options.settings.clients.keys = Spans { meanwhile: 10_000, usable: 60_000, ..QUICK };
    options.settings.outgoing.limits.whole = Duration::from_secs(3);
    let server = TestServer::start(options).await;
    let (slow, quick) = (Idp::start().await, Idp::start().await);
    let key = Signer::es256();
    shows(&slow, &[("k1", &key)]);
    shows(&quick, &[("k1", &key)]);
    let (tarpit, app) = (at(&server, &slow).await, at(&server, &quick).await);
    // Known once, then stuck: one asks, and whoever else holds a key that counts waits for nobody.
    asks(&server, &tarpit, "k1", &key).await.expect(400);
    slow.is_late(Duration::from_secs(60));
    pause(QUICK.fresh).await;
    let began = tokio::time::Instant::now();
    let stuck = async {
        asks(&server, &tarpit, "k1", &key).await.expect(400);
        began.elapsed()
    };
    let others = async {
        pause(100).await;
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let at = tokio::time::Instant::now();
            asks(&server, &app, "k1", &key).await.expect(400);
            asks(&server, &tarpit, "k1", &key).await.expect(400);
            longest = longest.max(at.elapsed());
        }
        longest
    };
    let (stuck, others) = tokio::join!(stuck, others);
    assert!(stuck >= Duration::from_secs(2), "{stuck:?}");
    assert!(others < Duration::from_secs(1), "{others:?}");
}
