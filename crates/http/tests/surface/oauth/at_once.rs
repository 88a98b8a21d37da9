//! What was revoked is dead to whoever asks in the same breath: found by openid-client, which asked within a millisecond.
use portcullis_testkit::TestServer;
use portcullis_testkit::application::encode;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_token_is_dead_as_soon_as_its_revocation_was_answered() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let mut tokens = server.granted(&app, &cookie, "openid").await;
    let call = |path: &'static str, token: &str| {
        server.client.post(path).basic((&app.id, &app.secret)).form(&encode(&[("token", token)])).send()
    };
    // Nothing waits for the log to be read here; without the wait inside, about one in thirty was still told to live.
    // No more than an account may have entries for its tokens (domain::kernel::MAX_ENDS_PER_ACCOUNT).
    for _ in 0..60 {
        let access = tokens["access_token"].as_str().unwrap().to_owned();
        assert_eq!(call("/oauth2/introspect", &access).await.expect(200).json()["active"], true);
        call("/oauth2/revoke", &access).await.expect(200);
        let (told, userinfo) = tokio::join!(
            call("/oauth2/introspect", &access),
            server.client.get("/oauth2/userinfo").bearer(&access).send()
        );
        assert_eq!(told.expect(200).json(), json!({ "active": false }));
        userinfo.expect_problem("token_revoked");
        tokens = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
    }
}
