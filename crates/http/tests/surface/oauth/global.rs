//! `/oauth2/global-token-revocation`: a governance tool ends everything of somebody.
use portcullis_testkit::client::Answer;
use portcullis_testkit::{Application, TestServer};
use serde_json::{Value, json};

const PATH: &str = "/oauth2/global-token-revocation";

async fn tool(server: &TestServer) -> Application {
    server.application("confidential", json!({ "global_token_revocation": true })).await
}

async fn revoke(server: &TestServer, tool: &Application, sub_id: Value) -> Answer {
    server.client.post(PATH).basic((&tool.id, &tool.secret)).json(&json!({ "sub_id": sub_id })).send().await
}

#[tokio::test]
async fn each_format_ends_everything_of_the_account_and_nothing_else() {
    let server = TestServer::usual().await;
    let tool = tool(&server).await;
    let account = server.sign_up("ada@example.test").await;
    server.sign_up("eve@example.test").await;
    let eve = server.sign_in("eve@example.test").await;
    let app = server.application("confidential", json!({})).await;
    let formats = [
        json!({ "format": "email", "email": "Ada@Example.test" }),
        json!({ "format": "opaque", "id": account }),
        json!({ "format": "iss_sub", "iss": server.issuer, "sub": account }),
    ];
    for sub_id in formats {
        let ada = server.sign_in("ada@example.test").await;
        let cookie = server.page_sign_in("ada@example.test").await;
        let granted = server.granted(&app, &cookie, "openid offline_access").await;
        let pending = server.code(&app, &cookie, "openid").await;
        let answer = revoke(&server, &tool, sub_id.clone()).await.expect(204);
        assert!(answer.text().is_empty());
        server.client.get("/v1/me").bearer(&ada.access).send().await.expect(401);
        let refresh = json!({ "refresh_token": ada.refresh });
        server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect(401);
        server.refresh_for(&app, granted["refresh_token"].as_str().unwrap()).await.expect(400);
        server.redeem(&app, &pending).await.expect(400);
        let userinfo = server.client.get("/oauth2/userinfo").bearer(granted["access_token"].as_str().unwrap());
        userinfo.send().await.expect(401);
        // Again: there is nobody signed in, and it is no error.
        revoke(&server, &tool, sub_id).await.expect(204);
    }
    server.client.get("/v1/me").bearer(&eve.access).send().await.expect(200);
    let admin = server.admin().await;
    let events = server.client.get(format!("/v1/admin/events?account_id={account}")).bearer(&admin.access).send().await;
    let event = events.expect(200).json()["events"][0].clone();
    assert_eq!((event["kind"].as_str(), event["reason"].as_str()), (Some("sessions.ended"), Some("revoked_globally")));
    assert_eq!(event["client_id"], tool.id);
}

#[tokio::test]
async fn it_answers_when_it_is_enforced() {
    let server = TestServer::usual().await;
    let tool = tool(&server).await;
    let account = server.sign_up("ada@example.test").await;
    let body = json!({ "sub_id": { "format": "opaque", "id": account } });
    let call = server.client.post(format!("{PATH}?wait=enforced")).basic((&tool.id, &tool.secret)).json(&body);
    call.send().await.expect(204);
}

#[tokio::test]
async fn only_a_client_that_is_registered_for_it_may() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let admin = server.admin().await;
    let sub_id = json!({ "format": "opaque", "id": account });
    let other = server.application("confidential", json!({})).await;
    assert_eq!(revoke(&server, &other, sub_id.clone()).await.expect(403).json()["code"], "forbidden");
    let tool = tool(&server).await;
    let guessed = Application { secret: "pcc_guessed".into(), ..tool.clone() };
    let refused = revoke(&server, &guessed, sub_id.clone()).await.expect(401);
    assert_eq!(refused.json()["error"], "invalid_client");
    assert!(refused.header("www-authenticate").starts_with("Basic"));
    let body = json!({ "sub_id": sub_id });
    server.client.post(PATH).json(&body).send().await.expect(401);
    server.client.post(PATH).bearer(&ada.access).json(&body).send().await.expect(401);
    server.client.post(PATH).bearer(&admin.access).json(&body).send().await.expect(401);
    // A tool that was switched off, or lost the permission.
    let at = format!("/v1/admin/clients/{}", tool.id);
    let patch = |body: Value| server.client.patch(&at).bearer(&admin.access).json(&body).send();
    patch(json!({ "global_token_revocation": false })).await.expect(200);
    revoke(&server, &tool, sub_id.clone()).await.expect(403);
    patch(json!({ "global_token_revocation": true })).await.expect(200);
    patch(json!({ "disabled": true })).await.expect(200);
    revoke(&server, &tool, sub_id).await.expect(401);
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
    // Nobody without a secret is registered for it.
    let public = json!({ "name": "x", "kind": "public", "redirect_uris": ["https://a.example/cb"], "global_token_revocation": true });
    let refused = server.client.post("/v1/admin/clients").bearer(&admin.access).json(&public).send().await.expect(422);
    assert_eq!(refused.json()["field"], "global_token_revocation");
}

#[tokio::test]
async fn whoever_is_not_known_is_not_found_and_what_is_no_identifier_is_malformed() {
    let server = TestServer::usual().await;
    let tool = tool(&server).await;
    let account = server.sign_up("ada@example.test").await;
    let unknown = [
        json!({ "format": "email", "email": "nobody@example.test" }),
        json!({ "format": "email", "email": "no address" }),
        json!({ "format": "opaque", "id": "acc_nobody" }),
        json!({ "format": "opaque", "id": tool.id }),
        json!({ "format": "iss_sub", "iss": "https://another.example", "sub": account }),
    ];
    for sub_id in unknown {
        assert_eq!(revoke(&server, &tool, sub_id.clone()).await.status, 404, "{sub_id}");
    }
    let malformed = [
        json!({ "format": "phone_number", "phone_number": "+12065550100" }),
        json!({ "format": "aliases", "identifiers": [{ "format": "opaque", "id": account }] }),
        json!({ "format": "opaque" }),
        json!({ "format": "opaque", "id": 5 }),
        json!({ "format": "opaque", "id": account, "email": "ada@example.test" }),
        json!({ "id": account }),
        json!(account),
        json!(null),
    ];
    for sub_id in malformed {
        assert_eq!(revoke(&server, &tool, sub_id.clone()).await.status, 400, "{sub_id}");
    }
    let call = |body: Value| server.client.post(PATH).basic((&tool.id, &tool.secret)).json(&body).send();
    // The member's name in the first drafts.
    call(json!({ "subject": { "format": "opaque", "id": account } })).await.expect(400);
    let long = json!({ "sub_id": { "format": "opaque", "id": "x".repeat(2_000_000) } });
    call(long).await.expect(413);
}
