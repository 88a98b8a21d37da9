//! `/account/apps`: what an account allowed, and how it takes that back.
use portcullis_testkit::application::encode;
use portcullis_testkit::{TestServer, parameter};
use serde_json::json;

const ADA: &str = "ada@example.test";

#[tokio::test]
async fn what_was_allowed_is_shown_and_taken_back() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let (app, other) = (
        server.application("confidential", json!({})).await,
        server.application("public", json!({ "name": "Another" })).await,
    );
    let cookie = server.page_sign_in(ADA).await;
    let second = server.page_sign_in(ADA).await;
    let jar = format!("__Host-portcullis_session={cookie}");
    let show = || server.client.get("/account/apps").header("cookie", &jar).send();
    assert!(show().await.expect(200).text().contains("You have not connected any application"));
    let grants = [
        server.granted(&app, &cookie, "openid").await,
        server.granted(&app, &second, "openid").await,
        server.granted(&app, &cookie, "openid offline_access").await,
    ];
    let waiting = server.code(&app, &cookie, "openid").await;
    let kept = server.granted(&other, &cookie, "openid").await;
    let html = show().await.expect(200).text();
    assert!(html.contains("An app") && html.contains("Another") && html.contains("while you are away"), "{html}");
    let disconnect = |client: &str, origin: &str| {
        let call = server.client.post("/account/apps/disconnect").header("origin", origin).header("cookie", &jar);
        call.form(&encode(&[("client", client)])).send()
    };
    disconnect(&app.id, "https://evil.example").await.expect(403);
    for _ in 0..2 {
        let done = disconnect(&app.id, &server.issuer).await.expect(303);
        assert_eq!(done.header("location"), "/account/apps?done=1", "twice is no error");
    }
    disconnect("cli_nothing", &server.issuer).await.expect(404);
    for tokens in &grants {
        let told = server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await;
        told.expect_problem("token_revoked");
        server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(400);
    }
    server.redeem(&app, &waiting).await.expect(400);
    // Nothing of another application, and the question comes again.
    server.client.get("/oauth2/userinfo").bearer(kept["access_token"].as_str().unwrap()).send().await.expect(200);
    let html = show().await.expect(200).text();
    assert!(!html.contains("An app") && html.contains("Another"), "{html}");
    server.authorize(&app, &cookie, &[]).await.expect(200);
    let silent = server.authorize(&app, &cookie, &[("prompt", "none")]).await.expect(303);
    assert_eq!(parameter(silent.header("location"), "error").as_deref(), Some("consent_required"));
    let again = server.granted(&app, &cookie, "openid").await;
    server.client.get("/oauth2/userinfo").bearer(again["access_token"].as_str().unwrap()).send().await.expect(200);
    // After "log out everywhere", which kills by one row, it can still be taken back.
    let phone = server.sign_in(ADA).await;
    server.client.delete("/v1/me/sessions?except=current").bearer(&phone.access).send().await.expect(200);
    let jar = format!("__Host-portcullis_session={}", server.page_sign_in(ADA).await);
    let call = server.client.post("/account/apps/disconnect").header("origin", &server.issuer).header("cookie", jar);
    call.form(&encode(&[("client", &app.id)])).send().await.expect(303);
}

#[tokio::test]
async fn the_same_by_the_api() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let phone = server.sign_in(ADA).await;
    let tokens = server.granted(&app, &cookie, "openid offline_access").await;
    let listed = server.client.get("/v1/me/apps").bearer(&phone.access).send().await.expect(200).json();
    let told = &listed["apps"][0];
    assert_eq!((told["client_id"].as_str(), told["name"].as_str()), (Some(&*app.id), Some("An app")));
    assert_eq!((told["grants"].as_u64(), told["offline"].as_bool()), (Some(1), Some(true)));
    let path = format!("/v1/me/apps/{}?wait=enforced", app.id);
    let done = server.client.delete(&*path).bearer(&phone.access).send().await.expect(200).json();
    assert_eq!(done["enforcement"]["complete"], true, "{done}");
    let told = server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await;
    told.expect_problem("token_revoked");
    server.client.delete(&*path).bearer(&phone.access).send().await.expect_problem("not_found");
    let listed = server.client.get("/v1/me/apps").bearer(&phone.access).send().await.expect(200).json();
    assert!(listed["apps"].as_array().unwrap().is_empty());
    server.client.get("/v1/me/apps").send().await.expect_problem("token_missing");
}

/// A client that signs people in again and again does not fill the database: the oldest of its grants go.
#[tokio::test]
async fn grants_of_one_client_are_limited() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let phone = server.sign_in(ADA).await;
    for scope in ["openid", "openid offline_access"] {
        let first = server.granted(&app, &cookie, scope).await;
        for _ in 0..portcullis_domain::code::MAX_GRANTS {
            server.granted(&app, &cookie, scope).await;
        }
        server.refresh_for(&app, first["refresh_token"].as_str().unwrap()).await.expect(400);
    }
    let listed = server.client.get("/v1/me/apps").bearer(&phone.access).send().await.expect(200).json();
    assert_eq!(listed["apps"][0]["grants"], 2 * portcullis_domain::code::MAX_GRANTS);
}

#[tokio::test]
async fn what_a_client_says_of_itself_is_linked_and_never_loaded() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let said = json!({
        "client_uri": "https://home.example/", "policy_uri": "https://home.example/policy?a=1&b=%3Cscript%3E",
        "tos_uri": "https://home.example/terms", "contacts": ["Ada <ada@home.example>"],
    });
    let app = server.application("confidential", said.clone()).await;
    let asked = server.authorize(&app, &cookie, &[]).await.expect(200);
    assert!(asked.header("content-security-policy").starts_with("default-src 'none'"));
    let html = asked.text().replace("&#x2f;", "/").replace("&amp;", "&");
    for link in [&said["client_uri"], &said["policy_uri"], &said["tos_uri"]] {
        assert!(html.contains(&format!("<a href=\"{}\" rel=\"noreferrer\">", link.as_str().unwrap())), "{html}");
    }
    assert!(!html.contains("src=\"https") && !html.contains("ada@home.example"), "{html}");
    let admin = server.admin().await;
    let path = format!("/v1/admin/clients/{}", app.id);
    let row = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&row["contacts"], &row["tos_uri"]), (&said["contacts"], &said["tos_uri"]));
    for (field, bad) in [
        ("policy_uri", json!("http://home.example/")),
        ("tos_uri", json!("javascript:alert(1)")),
        ("policy_uri", json!("https://home.example/\"onclick=\"x")),
        ("contacts", json!(["a\u{0}b"])),
        ("contacts", json!(vec!["a@home.example"; 17])),
        ("contacts", json!([""])),
    ] {
        let call = server.client.patch(&*path).bearer(&admin.access).json(&json!({ field: bad }));
        let told = call.send().await.expect_problem("invalid_value").json();
        assert_eq!(told["field"], field, "{bad}");
    }
}
