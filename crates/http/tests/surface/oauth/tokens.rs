//! `/oauth2/introspect` and `/.well-known`.
use portcullis_testkit::TestServer;
use serde_json::{Value, json};

#[tokio::test]
async fn metadata_says_only_what_is_true() {
    let server = TestServer::usual().await;
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let answer = server.client.get(path).header("origin", "https://anybody.example").send().await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("cache-control").contains("max-age"));
        let told = answer.json();
        assert_eq!(told["issuer"], server.issuer);
        assert_eq!(told["portcullis_bound_ms"], 2000);
        // Every endpoint that is named is there.
        for (member, _) in
            told.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri")
        {
            let path = told[member].as_str().unwrap().strip_prefix(&server.issuer).unwrap().to_owned();
            assert_ne!(server.client.get(path).send().await.status, 404, "{member}");
        }
    }
    let keys = server.client.get("/.well-known/jwks.json").send().await.expect(200).json();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert_eq!(
            (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
            (Some("EC"), Some("ES256"), Some("sig"))
        );
        assert!(key.get("d").is_none());
    }
}

#[tokio::test]
async fn introspection_tells_the_living_from_everything_else() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let (id, secret) = server.new_client("confidential").await;
    let ask =
        |token: &str| server.client.post("/oauth2/introspect").basic((&id, &secret)).form(&format!("token={token}"));
    let told = ask(&ada.access).send().await.expect(200).json();
    assert_eq!((told["active"].as_bool(), told["sub"].as_str()), (Some(true), Some(&*ada.account)));
    assert_eq!((told["sid"].as_str(), told["token_type"].as_str()), (Some(&*ada.sid), Some("Bearer")));
    for member in ["iss", "aud", "client_id", "exp", "iat", "jti", "scope", "rev", "epoch"] {
        assert!(told.get(member).is_some(), "{member}");
    }
    for dead in ["garbage", "", &ada.refresh, &format!("{}x", ada.access)] {
        assert_eq!(ask(dead).send().await.expect(200).json(), json!({ "active": false }));
    }
    server.client.delete("/v1/me/sessions").bearer(&ada.access).send().await.expect(200);
    assert_eq!(ask(&ada.access).send().await.expect(200).json(), json!({ "active": false }));
    // Unknown parameters are ignored (RFC 6749 §3.2), repeated ones refused.
    let unknown = server.client.post("/oauth2/introspect").basic((&id, &secret)).form("token=a&resource=b");
    assert_eq!(unknown.send().await.expect(200).json()["active"], false);
    let wrong = |body: &str| server.client.post("/oauth2/introspect").basic((&id, &secret)).form(body).send();
    assert_eq!(wrong("token=a&token=b").await.expect(400).json()["error"], "invalid_request");
    assert_eq!(wrong("tokens=a").await.expect(400).json()["error"], "invalid_request");
    let json_body = server.client.post("/oauth2/introspect").basic((&id, &secret)).json(&json!({ "token": "a" }));
    assert_eq!(json_body.send().await.expect(400).json()["error"], "invalid_request");
    let stranger =
        server.client.post("/oauth2/introspect").basic((&id, "wrong")).form("token=a").send().await.expect(401);
    assert_eq!(stranger.json()["error"], "invalid_client");
    assert!(stranger.header("www-authenticate").starts_with("Basic"));
    server.client.post("/oauth2/introspect").form("token=a").send().await.expect(401);
}

/// What an administrator takes from a client is in no token from then on, whatever was granted before.
#[tokio::test]
async fn a_scope_that_a_client_lost_is_in_no_token_any_more() {
    const THERE: &str = "https://b.example/api";
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let app = server.application("confidential", json!({ "consent": "implied", "resources": [THERE] })).await;
    let place = server.authorize(&app, &cookie, &[("scope", "openid read"), ("resource", THERE)]).await.expect(303);
    let code = portcullis_testkit::application::parameter(place.header("location"), "code").unwrap();
    let tokens = server.redeem(&app, &code).await.expect(200).json();
    assert_eq!(tokens["scope"], "openid read");
    let waiting = server.code(&app, &cookie, "openid read").await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/clients/{}", app.id);
    let patch = |body: Value| server.client.patch(&*path).bearer(&admin.access).json(&body).send();
    patch(json!({ "scopes": ["openid"] })).await.expect(200);
    let refresh = |tokens: &Value| tokens["refresh_token"].as_str().unwrap().to_owned();
    let less = server.refresh_for(&app, &refresh(&tokens)).await.expect(200).json();
    assert_eq!((less["scope"].as_str(), less["id_token"].is_string()), (Some("openid"), true));
    assert_eq!(server.redeem(&app, &waiting).await.expect(200).json()["scope"], "openid", "a code that waited, too");
    patch(json!({ "scopes": ["other"] })).await.expect(200);
    let none = server.refresh_for(&app, &refresh(&less)).await.expect(400).json();
    assert_eq!(none["error"], "invalid_scope");
    // Given back, it is there again: the grant was never less. What was refused has not used the token up for good.
    patch(json!({ "scopes": ["openid", "read"] })).await.expect(200);
    let back = server.refresh_for(&app, &refresh(&less)).await.expect(200).json();
    assert_eq!(back["scope"], "openid read");
    patch(json!({ "resources": [] })).await.expect(200);
    let none = server.refresh_for(&app, &refresh(&back)).await.expect(400).json();
    assert_eq!(none["error"], "invalid_target");
}
