//! ID tokens by the algorithm that a client registered, and tokens for some of its resources.
use portcullis_testkit::application::encode;
use portcullis_testkit::{Application, TestServer};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

fn part(token: &Value, n: usize) -> Value {
    let part = token.as_str().unwrap().split('.').nth(n).unwrap();
    serde_json::from_slice(&b64::decode(part).unwrap()).unwrap()
}

async fn jwks(server: &TestServer) -> Vec<Value> {
    let answer = server.client.get("/.well-known/jwks.json").send().await.expect(200).json();
    answer["keys"].as_array().unwrap().clone()
}

async fn client(server: &TestServer, alg: &str) -> Application {
    server.application("confidential", json!({ "id_token_signed_response_alg": alg, "consent": "implied" })).await
}

#[tokio::test]
async fn each_client_gets_id_tokens_by_its_algorithm() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let cookie = server.page_sign_in(ADA).await;
    let before = jwks(&server).await.len();
    let mut apps = vec![];
    for alg in ["ES256", "RS256", "Ed25519", "EdDSA"] {
        apps.push((alg, client(&server, alg).await));
    }
    // A second one of an algorithm brings no second key.
    client(&server, "RS256").await;
    let listed = jwks(&server).await;
    assert_eq!(listed.len(), before + 3);
    // A key that was made just now is listed by the one node that there is, and signs.
    for (alg, app) in &apps {
        let tokens = server.granted(app, &cookie, "openid").await;
        let (id, access) = (part(&tokens["id_token"], 0), part(&tokens["access_token"], 0));
        assert_eq!((id["alg"].as_str(), id["typ"].as_str()), (Some(*alg), Some("JWT")));
        let key = listed.iter().find(|key| key["kid"] == id["kid"]).unwrap();
        assert_eq!(key["alg"], *alg, "a key has one name");
        assert_eq!((access["alg"].as_str(), access["typ"].as_str()), (Some("ES256"), Some("at+jwt")));
        assert_eq!(id["kid"] == access["kid"], *alg == "ES256");
        // An ID token is no access token, and the reverse is no hint.
        let shown = server.client.get("/oauth2/userinfo").bearer(tokens["id_token"].as_str().unwrap()).send().await;
        shown.expect_problem("token_malformed");
        let hint = |token: &Value| [("id_token_hint", token.as_str().unwrap().to_owned()), ("prompt", "none".into())];
        let (good, wrong) = (hint(&tokens["id_token"]), hint(&tokens["access_token"]));
        for pairs in [&good, &wrong] {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert!(server.authorize(app, &cookie, &pairs).await.status == 303);
        }
        let next = server.refresh_for(app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
        assert_eq!(part(&next["id_token"], 0)["alg"], *alg);
    }
    let metadata = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(metadata["id_token_signing_alg_values_supported"], json!(["ES256", "RS256", "Ed25519", "EdDSA"]));
    assert_eq!(metadata["portcullis_token_signing_alg_values_supported"], json!(["ES256"]));
}

/// The keys of ID tokens are told to no verifier: an access token by one of them is none, whoever could sign it.
#[tokio::test]
async fn no_access_token_is_taken_by_a_key_of_id_tokens() {
    let server = TestServer::usual().await;
    client(&server, "RS256").await;
    let told: Vec<String> = server.app.keys().public().iter().map(|jwk| jwk.alg.name().to_owned()).collect();
    assert!(told.iter().all(|alg| alg == "ES256"), "{told:?}");
    assert!(jwks(&server).await.iter().any(|key| key["alg"] == "RS256"));
}

#[tokio::test]
async fn a_revoked_key_of_id_tokens_is_replaced() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let admin = server.admin().await;
    let app = client(&server, "Ed25519").await;
    let cookie = server.page_sign_in(ADA).await;
    server.advance(30_000);
    let tokens = server.granted(&app, &cookie, "openid").await;
    let kid = part(&tokens["id_token"], 0)["kid"].as_str().unwrap().to_owned();
    let revoke = server.client.post(format!("/v1/admin/keys/{kid}/revoke")).bearer(&admin.access);
    revoke.json(&json!({ "reason": "leaked" })).send().await.expect(200);
    assert!(jwks(&server).await.iter().all(|key| key["kid"] != kid));
    server.advance(30_000);
    let next = server.granted(&app, &cookie, "openid").await;
    assert_ne!(part(&next["id_token"], 0)["kid"].as_str(), Some(&*kid));
}

#[tokio::test]
async fn a_token_may_be_for_some_of_the_resources() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let (one, two) = ("https://one.example", "https://two.example/api");
    let more = json!({ "resources": [one, two], "consent": "implied", "access_ttl_s": 60 });
    let app = server.application("confidential", more).await;
    let cookie = server.page_sign_in(ADA).await;
    let query = format!(
        "{}&{}",
        portcullis_testkit::application::request(&app, &[]),
        encode(&[("resource", one), ("resource", two)])
    );
    let call = server.client.get(format!("/oauth2/authorize?{query}"));
    let answer = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(303);
    let code = portcullis_testkit::parameter(answer.header("location"), "code").unwrap();
    let redeeming = |resource: &'static str| {
        let usual = [("grant_type", "authorization_code"), ("redirect_uri", portcullis_testkit::application::REDIRECT)];
        let rest = [("code_verifier", portcullis_testkit::application::VERIFIER), ("resource", resource)];
        [usual, rest].concat()
    };
    let with = |pairs: Vec<(&'static str, &'static str)>| {
        let (server, app, code) = (&server, &app, code.clone());
        async move { server.token(app, &[&pairs[..], &[("code", code.as_str())]].concat()).await }
    };
    // What was not granted is refused, and the code is as it was.
    let refused = with(redeeming("https://three.example")).await.expect(400).json();
    assert_eq!(refused["error"], "invalid_target");
    let tokens = with(redeeming("https://one.example")).await.expect(200).json();
    assert_eq!(part(&tokens["access_token"], 1)["aud"], one);
    let life = tokens["expires_in"].as_i64().unwrap();
    assert!((48..=72).contains(&life), "the client's own life of tokens: {life}");
    // The grant is for both still.
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let less =
        server.token(&app, &[("grant_type", "refresh_token"), ("refresh_token", refresh), ("resource", two)]).await;
    let less = less.expect(200).json();
    assert_eq!(part(&less["access_token"], 1)["aud"], two);
    let refresh = less["refresh_token"].as_str().unwrap();
    let wrong = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("resource", "https://three.example")];
    assert_eq!(server.token(&app, &wrong).await.expect(400).json()["error"], "invalid_target");
    let all = server.refresh_for(&app, refresh).await.expect(200).json();
    assert_eq!(part(&all["access_token"], 1)["aud"], json!([one, two]));
}
