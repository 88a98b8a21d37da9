//! `/v1/admin/keys`: what is told, asked for and refused.
use portcullis_testkit::TestServer;
use serde_json::{Value, json};

fn state(listed: &Value, kid: &str) -> String {
    let key = listed["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap();
    key["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_revoked_and_everybody_refreshes() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let (client, secret) = server.new_client("verifier").await;
    let mut feed = server.client.get("/v1/feed").basic((&client, &secret)).events().await;
    let snapshot = feed.next_named("snapshot").await.data;
    assert_eq!(snapshot["keys"].as_array().unwrap().len(), 2);
    let revoke = |token: &str, key: &str, body: Value| {
        server.client.post(format!("/v1/admin/keys/{key}/revoke?wait=enforced")).bearer(token).json(&body)
    };
    let reason = json!({ "reason": "it was in a log" });
    let done = revoke(&admin.access, "key_1", reason.clone()).send().await.expect(200).json();
    assert_eq!((done["rev"].as_u64(), done["ended"].as_u64()), (Some(1), Some(0)));
    assert!(done["enforcement"]["took_ms"].is_u64(), "{done}");
    // The verifier hears of the next keys no later than of the end.
    let keys = feed.next_named("keys").await.data;
    let kids: Vec<&str> = keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(kids, ["key_2", "key_4"]);
    let entry = feed.next_named("entries").await.data;
    assert_eq!(
        (entry["entries"][0]["verb"].as_str(), entry["entries"][0]["id"].as_str()),
        (Some("key"), Some("key_1"))
    );
    // The administrator's own token was of that key: the session lives, and goes on under the next one.
    server.client.get("/v1/me").bearer(&admin.access).send().await.expect_problem("token_revoked");
    let body = json!({ "refresh_token": admin.refresh });
    let refreshed = loop {
        let answer = server.client.post("/v1/sessions/refresh").json(&body).send().await;
        if answer.status != 503 {
            break answer.expect(200).json();
        }
    };
    let token = refreshed["access_token"].as_str().unwrap();
    let again = revoke(token, "key_1", reason.clone()).send().await.expect(200).json();
    assert_eq!((again["rev"].as_u64(), again["ended"].as_u64()), (Some(1), Some(0)));
    let listed = server.client.get("/v1/admin/keys").bearer(token).send().await.expect(200).json();
    let states = ["key_1", "key_2", "key_3", "key_4"].map(|kid| state(&listed, kid));
    assert_eq!(states, ["dead", "active", "active", "waiting"]);
    let jwks = server.client.get("/.well-known/jwks.json").send().await.expect(200);
    assert!(!jwks.text().contains("key_1") && jwks.text().contains("key_4"));

    let mac = revoke(token, "key_3", reason.clone()).send().await.expect_problem("invalid_value");
    assert_eq!(mac.json()["field"], "id");
    revoke(token, "key_77", reason.clone()).send().await.expect_problem("not_found");
    revoke(token, "acc_1", reason.clone()).send().await.expect_problem("not_found");
    revoke(token, "key_2", json!({})).send().await.expect_problem("malformed");
    revoke(token, "key_2", json!({ "reason": "" })).send().await.expect_problem("invalid_value");
    revoke(token, "key_2", json!({ "reason": "r", "now": true })).send().await.expect_problem("malformed");
}

#[tokio::test]
async fn rotation_is_asked_for_by_kind() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let rotate = |body: Value| server.client.post("/v1/admin/keys/rotate").bearer(&admin.access).json(&body);
    let done = rotate(json!({ "use": "mac" })).send().await.expect(200).json();
    assert_eq!((state(&done, "key_3"), state(&done, "key_4")), ("verifying".into(), "active".into()));
    // The next signing key is as young as the server.
    let early = rotate(json!({ "use": "sig" })).send().await.expect_problem("conflict");
    assert!(early.json()["detail"].as_str().unwrap().contains("key_2"), "{}", early.text());
    rotate(json!({ "use": "enc" })).send().await.expect_problem("invalid_value");
    rotate(json!({ "algorithm": "none" })).send().await.expect_problem("malformed");
    // One call, once, whatever its answer came to.
    let once = || rotate(json!({ "use": "mac" })).header("idempotency-key", "k");
    once().send().await.expect(200);
    let again = once().send().await.expect(200).json();
    assert_eq!(again["keys"].as_array().unwrap().len(), 5);
    let master = json!({ "new_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" });
    let master = server.client.post("/v1/admin/keys/rotate-master").bearer(&admin.access).json(&master);
    master.send().await.expect_problem("forbidden");
}
