//! A fault is 503: never 401, never a cleared cookie, never a false success.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Options, TestServer};
use serde_json::json;

#[tokio::test]
async fn too_many_sign_ins_at_once_are_told_to_come_back() {
    let mut options = Options::default();
    let hashing = &mut options.settings.hashing;
    (hashing.threads, hashing.queue, hashing.memory_kib, hashing.passes) = (1, 2, 16_384, 3);
    let server = TestServer::start(options).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let body = json!({ "identifier": "nobody@example.test", "password": PASSWORD });
        calls.spawn(server.client.post("/v1/sessions").json(&body).send());
    }
    let mut overloaded = 0;
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 503 {
            answer.expect_problem("overloaded");
            overloaded += 1;
        } else {
            answer.expect_problem("invalid_credentials");
        }
    }
    assert!(overloaded > 0);
    // A refresh does not wait behind password hashes.
    server.client.get("/readyz").send().await.expect(200);
}

#[tokio::test]
async fn a_node_that_cannot_read_its_log_refuses_with_503_and_clears_nothing() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let (id, secret) = server.new_client("verifier").await;
    // The task that reads the log ends; soon this node knows nothing for certain any more.
    server.app.hub().close();
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    server.client.get("/readyz").send().await.expect_problem("unavailable");
    server.client.get("/healthz").send().await.expect(200);
    let cookie = "__Host-portcullis_refresh=pcr_x; __Host-portcullis_session=pcs_x";
    let refused = server.client.get("/v1/me").bearer(&ada.access).header("cookie", cookie).send().await;
    assert!(refused.expect_problem("unavailable").set_cookies().is_empty());
    server.client.get("/v1/feed").basic((&id, &secret)).send().await.expect_problem("unavailable");
    let introspect =
        server.client.post("/oauth2/introspect").basic((&id, &secret)).form(&format!("token={}", ada.access));
    introspect.send().await.expect_problem("unavailable");
}
