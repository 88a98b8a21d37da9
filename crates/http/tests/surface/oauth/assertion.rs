//! Clients that prove who they are with a key of their own (RFC 7523 §2.2, OpenID Connect Core §9).
use portcullis_testkit::application::{Application, REDIRECT, VERIFIER, encode};
use portcullis_testkit::signer::fresh_id;
use portcullis_testkit::{Answer, Signer, TestServer};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

async fn registered(server: &TestServer, keys: &[&Signer]) -> Application {
    let keys: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| {
            let mut jwk = key.jwk();
            jwk["kid"] = format!("k{n}").into();
            jwk
        })
        .collect();
    let more =
        json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": keys }, "consent": "implied" });
    let app = server.application("confidential", more).await;
    assert!(app.secret.is_empty());
    app
}

fn claims(server: &TestServer, app: &Application) -> Value {
    let now = server.app.now().secs();
    json!({ "iss": app.id, "sub": app.id, "aud": server.issuer, "exp": now + 60, "iat": now, "jti": fresh_id() })
}

fn signed(key: &Signer, claims: &Value) -> String {
    key.sign(&json!({ "alg": key.alg() }), claims)
}

async fn call(server: &TestServer, path: &str, assertion: &str, pairs: &[(&str, &str)]) -> Answer {
    let proof = [("client_assertion_type", TYPE), ("client_assertion", assertion)];
    server.client.post(path).form(&encode(&[&proof[..], pairs].concat())).send().await
}

/// Core §9, RFC 7523 §3: wherever a client proves who it is, that very endpoint is an audience, as the issuer and the token endpoint are;
/// another one is none.
#[tokio::test]
async fn each_endpoint_is_an_audience_of_its_own() {
    const ALL: [&str; 5] = ["/oauth2/token", "/oauth2/par", "/oauth2/device", "/oauth2/revoke", "/oauth2/introspect"];
    let server = TestServer::usual().await;
    let key = Signer::es256();
    let app = registered(&server, &[&key]).await;
    for path in ALL {
        let from = |aud: String| {
            let mut claims = claims(&server, &app);
            claims["aud"] = aud.into();
            signed(&key, &claims)
        };
        let at = |path: &str| from(format!("{}{path}", server.issuer));
        for right in [from(server.issuer.clone()), at("/oauth2/token"), at(path)] {
            // Whatever else is wrong with an empty call: who calls is known.
            let answer = call(&server, path, &right, &[]).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
            assert_ne!(answer.json()["error"], "invalid_client", "{path}");
        }
        for other in ALL.into_iter().filter(|other| *other != path && *other != "/oauth2/token") {
            let answer = call(&server, path, &at(other), &[]).await.expect(401);
            assert_eq!(answer.json()["error"], "invalid_client", "{path} by {other}");
        }
    }
}

/// What a client that is known and has nothing to ask is told.
async fn known(server: &TestServer, assertion: &str) -> Answer {
    call(server, "/oauth2/token", assertion, &[("grant_type", "refresh_token"), ("refresh_token", "none")]).await
}

#[tokio::test]
async fn a_client_signs_in_with_its_key() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let keys = [Signer::es256(), Signer::rs256(), Signer::ed25519()];
    let app = registered(&server, &[&keys[0], &keys[1], &keys[2]]).await;
    let cookie = server.page_sign_in(ADA).await;
    for key in &keys {
        let code = server.code(&app, &cookie, "openid read").await;
        let pairs = [
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        let tokens =
            call(&server, "/oauth2/token", &signed(key, &claims(&server, &app)), &pairs).await.expect(200).json();
        let access = tokens["access_token"].as_str().unwrap();
        // At the other endpoints too, by the token endpoint's name, and with the client's id beside it.
        let mut at_token = claims(&server, &app);
        at_token["aud"] = format!("{}/oauth2/token", server.issuer).into();
        let named = [("token", access), ("client_id", &*app.id)];
        let told = call(&server, "/oauth2/introspect", &signed(key, &at_token), &named).await.expect(200).json();
        assert_eq!(told["active"], true);
        call(&server, "/oauth2/revoke", &signed(key, &claims(&server, &app)), &[("token", access)]).await.expect(200);
    }
    let metadata = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert!(metadata["token_endpoint_auth_methods_supported"].as_array().unwrap().contains(&json!("private_key_jwt")));
    assert_eq!(
        metadata["token_endpoint_auth_signing_alg_values_supported"],
        json!(["ES256", "RS256", "Ed25519", "EdDSA"])
    );
}

#[tokio::test]
async fn replayed_assertions_are_refused() {
    let server = TestServer::usual().await;
    let key = Signer::es256();
    let app = registered(&server, &[&key]).await;
    let assertion = signed(&key, &claims(&server, &app));
    let all = tokio::join!(known(&server, &assertion), known(&server, &assertion), known(&server, &assertion));
    let statuses = [all.0.status, all.1.status, all.2.status].map(|status| status.as_u16());
    assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 2, "{statuses:?}");
    // At another endpoint as well; and one client's ids are not another's.
    call(&server, "/oauth2/revoke", &assertion, &[("token", "x")]).await.expect(401);
    let other = registered(&server, &[&key]).await;
    let (mut mine, mut theirs) = (claims(&server, &app), claims(&server, &other));
    mine["jti"] = "the same".into();
    theirs["jti"] = "the same".into();
    known(&server, &signed(&key, &mine)).await.expect(400);
    known(&server, &signed(&key, &theirs)).await.expect(400);
}

#[tokio::test]
async fn wrong_assertions_are_refused() {
    let server = TestServer::usual().await;
    let (key, other_key) = (Signer::es256(), Signer::es256());
    let app = registered(&server, &[&key]).await;
    let other = registered(&server, &[&other_key]).await;
    let by_secret = server.application("confidential", json!({})).await;
    let with = |name: &str, value: Value| {
        let mut claims = claims(&server, &app);
        claims[name] = value;
        signed(&key, &claims)
    };
    let head = |header: Value| key.sign(&header, &claims(&server, &app));
    let now = server.app.now().secs();
    let unsigned = signed(&key, &claims(&server, &app)).rsplit_once('.').unwrap().0.to_owned() + ".";
    for (what, assertion) in [
        ("another audience", with("aud", json!("https://other.example"))),
        ("another one besides", with("aud", json!([server.issuer, "https://other.example"]))),
        ("an end that has passed", with("exp", json!(now))),
        ("an end that is far", with("exp", json!(now + 86_400))),
        ("no end", with("exp", Value::Null)),
        ("from the future", with("nbf", json!(now + 600))),
        ("no id", with("jti", Value::Null)),
        ("another subject", with("sub", json!(other.id))),
        ("another client's key", signed(&other_key, &claims(&server, &app))),
        ("another client", signed(&key, &claims(&server, &other))),
        ("a client with a secret", signed(&key, &claims(&server, &by_secret))),
        ("alg none", head(json!({ "alg": "none" }))),
        ("HS256", head(json!({ "alg": "HS256" }))),
        ("another alg", head(json!({ "alg": "RS256" }))),
        ("another kid", head(json!({ "alg": "ES256", "kid": "k7" }))),
        ("its own key", head(json!({ "alg": "ES256", "jwk": key.jwk() }))),
        ("a DPoP proof's typ", head(json!({ "alg": "ES256", "typ": "dpop+jwt" }))),
        ("no signature", unsigned),
        ("garbage", "garbage".into()),
    ] {
        let refused = known(&server, &assertion).await.expect(401);
        assert_eq!(refused.json()["error"], "invalid_client", "{what}");
    }
    let good = || signed(&key, &claims(&server, &app));
    // One way, and the right one.
    for pairs in [vec![("client_secret", "x")], vec![("client_assertion_type", "urn:x")]] {
        let mut all = vec![("grant_type", "refresh_token"), ("refresh_token", "none"), ("client_assertion", "")];
        let assertion = good();
        all[2].1 = &assertion;
        all.extend(pairs);
        let answer = server.client.post("/oauth2/token").form(&encode(&all)).send().await.expect(400);
        assert_eq!(answer.json()["error"], "invalid_request");
    }
    let foreign = [("grant_type", "refresh_token"), ("client_id", &*other.id)];
    call(&server, "/oauth2/token", &good(), &foreign).await.expect(401);
    let named =
        server.client.post("/oauth2/token").form(&encode(&[("client_id", &*app.id), ("grant_type", "refresh_token")]));
    named.send().await.expect(401);
    // A client that is switched off.
    let admin = server.admin().await;
    let call = server.client.patch(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access);
    call.json(&json!({ "disabled": true })).send().await.expect(200);
    known(&server, &good()).await.expect(401);
}

#[tokio::test]
async fn keys_are_looked_at_when_they_are_registered() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let mut private = Signer::es256().jwk();
    private["d"] = private["x"].clone();
    let many = vec![Signer::ed25519().jwk(); 17];
    for (members, field) in [
        (json!({}), "jwks"),
        (json!({ "jwks": { "keys": [private] } }), "jwks"),
        (json!({ "jwks": { "keys": [] } }), "jwks"),
        (json!({ "jwks": { "keys": many } }), "jwks"),
        (json!({ "jwks": { "keys": [{ "kty": "oct", "k": "AAAA" }] } }), "jwks"),
        (json!({ "jwks": "x" }), "jwks"),
        (json!({ "jwks_uri": "http://a.example/jwks" }), "jwks_uri"),
        (json!({ "jwks_uri": "https://a.example/jwks", "jwks": { "keys": [Signer::ed25519().jwk()] } }), "jwks_uri"),
    ] {
        let mut body = json!({
            "name": "An app", "kind": "confidential", "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "private_key_jwt",
        });
        for (name, value) in members.as_object().unwrap() {
            body[name] = value.clone();
        }
        let call = server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await;
        assert_eq!(call.expect_problem("invalid_value").json()["field"], field, "{members}");
    }
}
