//! Attacks on the way of an authorization, and on what comes of it.
use super::{ADA, claims, with_cookie};
use portcullis_testkit::application::{REDIRECT, VERIFIER, request};
use portcullis_testkit::{Application, Options, TestServer, parameter};
use serde_json::{Value, json};

fn redeeming<'a>(code: &'a str, verifier: &'a str) -> Vec<(&'a str, &'a str)> {
    let all =
        [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", REDIRECT), ("code_verifier", verifier)];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// RFC 9700 §4.4: a client of two servers can tell by `iss` (RFC 9207) whose answer came, whatever it is; and a code of the one that is
/// carried to the other is worth nothing there and unharmed here.
#[tokio::test]
async fn mix_up() {
    let (honest, attacker) = (TestServer::usual().await, TestServer::start(Options::default()).await);
    let mut codes = vec![];
    for server in [&honest, &attacker] {
        server.sign_up(ADA).await;
        let app = server.application("confidential", json!({ "consent": "implied" })).await;
        let cookie = server.page_sign_in(ADA).await;
        for (more, error) in [
            (vec![], None),
            (vec![("prompt", "consent"), ("max_age", "x")], Some("invalid_request")),
            (vec![("response_type", "token")], Some("unsupported_response_type")),
            (vec![("scope", "nothing")], Some("invalid_scope")),
            (vec![("code_challenge", "")], Some("invalid_request")),
            (vec![("request", "e30.e30.")], Some("request_not_supported")),
        ] {
            let place = server.authorize(&app, &cookie, &more).await.expect(303).header("location").to_owned();
            assert_eq!(parameter(&place, "error").as_deref(), error, "{place}");
            assert_eq!(parameter(&place, "iss").as_deref(), Some(&*server.issuer), "RFC 9207 §2: {place}");
            assert_eq!(place.matches("iss=").count(), 1, "{place}");
        }
        let told = server.client.get("/.well-known/oauth-authorization-server").send().await.expect(200).json();
        assert_eq!(told["authorization_response_iss_parameter_supported"], true);
        assert_eq!(told["issuer"], server.issuer);
        let code = server.code(&app, &cookie, "openid").await;
        codes.push((server, app, code));
    }
    let (_, app, code) = &codes[0];
    let (_, other, _) = &codes[1];
    // The client believes that it talks to the attacker's server, and brings the honest one's code there.
    assert_eq!(attacker.redeem(other, code).await.expect(400).json()["error"], "invalid_grant");
    assert_eq!(attacker.redeem(app, code).await.expect(401).json()["error"], "invalid_client");
    let tokens = honest.redeem(app, code).await.expect(200).json();
    assert_eq!(claims(&tokens["id_token"])["iss"], honest.issuer);
}

/// RFC 9700 §4.5: a code that was stolen and put into another transaction, or is shown by another client, gives nothing, and is still good
/// for whom it was made; the ID token names the transaction that it was made in.
#[tokio::test]
async fn authorization_code_injection() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    for kind in ["confidential", "public"] {
        let app = server.application(kind, json!({ "consent": "implied" })).await;
        let other = server.application(kind, json!({ "consent": "implied" })).await;
        let cookie = server.page_sign_in(ADA).await;
        let asked = server.authorize(&app, &cookie, &[("nonce", "the victim's"), ("scope", "openid")]).await;
        let code = parameter(asked.expect(303).header("location"), "code").unwrap();
        // The client's own transaction of the attacker's browser has another verifier.
        for (who, verifier) in [
            (&app, "the-verifier-of-the-attackers-own-transaction-0"),
            (&app, ""),
            (&app, "short"),
            (&app, &*portcullis_wire::b64::encode(&portcullis_wire::Digest::of(VERIFIER.as_bytes()).0)),
            (&other, VERIFIER),
        ] {
            let refused = server.token(who, &redeeming(&code, verifier)).await.expect(400).json();
            assert_eq!(refused["error"], "invalid_grant", "{verifier}");
        }
        let tokens = server.token(&app, &redeeming(&code, VERIFIER)).await.expect(200).json();
        assert_eq!(claims(&tokens["id_token"])["nonce"], "the victim's");
        // A replay that does not fit ends nothing (OAuth 2.1 §7.5.2) when its client proves nothing; one that fits ends everything.
        if kind == "public" {
            server.token(&app, &redeeming(&code, "another-verifier-that-is-long-enough-for-rfc7636")).await.expect(400);
            server
                .client
                .get("/oauth2/userinfo")
                .bearer(tokens["access_token"].as_str().unwrap())
                .send()
                .await
                .expect(200);
        }
        server.token(&app, &redeeming(&code, VERIFIER)).await.expect(400);
        let used = server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap());
        used.send().await.expect_problem("token_revoked");
    }
}

/// RFC 9700 §4.8: no request without a challenge gets a code, of no client, so no code can be redeemed without its verifier; `plain` is
/// none either.
#[tokio::test]
async fn pkce_downgrade() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let told = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(told["code_challenge_methods_supported"], json!(["S256"]));
    let cookie = server.page_sign_in(ADA).await;
    for kind in ["confidential", "public"] {
        let app = server.application(kind, json!({ "consent": "implied" })).await;
        for more in [
            vec![("code_challenge", ""), ("code_challenge_method", "")],
            vec![("code_challenge", "")],
            vec![("code_challenge_method", "")],
            vec![("code_challenge_method", "plain"), ("code_challenge", VERIFIER)],
            vec![("code_challenge_method", "s256")],
            vec![("code_challenge_method", "none")],
            vec![("code_challenge", "short")],
            vec![("code_challenge", VERIFIER)],
        ] {
            let place = server.authorize(&app, &cookie, &more).await.expect(303).header("location").to_owned();
            assert_eq!(parameter(&place, "error").as_deref(), Some("invalid_request"), "{kind} {more:?}");
            assert!(parameter(&place, "code").is_none() && place.starts_with(REDIRECT), "{place}");
            let push = server.client.post("/oauth2/par").form(&request(&app, &more));
            let push = if app.secret.is_empty() { push } else { push.basic((&app.id, &app.secret)) };
            assert_eq!(push.send().await.expect(400).json()["error"], "invalid_request", "{kind} {more:?}");
        }
        let code = server.code(&app, &cookie, "openid").await;
        let refused = server.token(&app, &redeeming(&code, "")).await.expect(400).json();
        assert_eq!(refused["error"], "invalid_grant");
        // The challenge itself, which stands in the address, opens nothing.
        let challenge = portcullis_wire::b64::encode(&portcullis_wire::Digest::of(VERIFIER.as_bytes()).0);
        assert_eq!(
            server.token(&app, &redeeming(&code, &challenge)).await.expect(400).json()["error"],
            "invalid_grant"
        );
        server.token(&app, &redeeming(&code, VERIFIER)).await.expect(200);
    }
}

/// RFC 9700 §4.14, OAuth 2.1 §4.3.1: a refresh token whose successor was used ends everything of its grant, for whoever shows it, and nothing
/// else of its user.
#[tokio::test]
async fn refresh_token_replay() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    for (n, kind) in ["confidential", "public"].into_iter().enumerate() {
        let app = server.application(kind, json!({})).await;
        let other = server.application(kind, json!({ "name": "Another" })).await;
        let cookie = server.page_sign_in(ADA).await;
        let first = server.granted(&app, &cookie, "openid").await;
        let kept = server.granted(&other, &cookie, "openid").await;
        let text = |value: &Value| value["refresh_token"].as_str().unwrap().to_owned();
        let userinfo = async |tokens: &Value| {
            server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await
        };
        let second = server.refresh_for(&app, &text(&first)).await.expect(200).json();
        let third = server.refresh_for(&app, &text(&second)).await.expect(200).json();
        assert!(text(&first) != text(&second) && text(&second) != text(&third));
        // By another client, or altered, it is nothing at all: only its own client's replay is a theft.
        server.refresh_for(&other, &text(&first)).await.expect(400);
        let mut altered = text(&first);
        let other_digit = if altered.as_bytes()[40] == b'A' { "B" } else { "A" };
        altered.replace_range(40..41, other_digit);
        server.refresh_for(&app, &altered).await.expect(400);
        userinfo(&third).await.expect(200);
        let replayed = server.refresh_for(&app, &text(&first)).await.expect(400).json();
        assert_eq!(replayed["error"], "invalid_grant");
        for tokens in [&first, &second, &third] {
            userinfo(tokens).await.expect_problem("token_revoked");
            server.refresh_for(&app, &text(tokens)).await.expect(400);
        }
        userinfo(&kept).await.expect(200);
        server.refresh_for(&other, &text(&kept)).await.expect(200);
        with_cookie(server.client.get("/account/devices"), &cookie).send().await.expect(200);
        let admin = server.admin().await;
        let call = server.client.get("/v1/admin/events?kind=refresh.reused").bearer(&admin.access).send().await;
        let told = call.expect(200).json()["events"].clone();
        assert_eq!(told.as_array().unwrap().len(), n + 1, "it is told to who looks: {told}");
    }
}

/// OAuth 2.1 §7.3, RFC 6749 §10.2: whoever takes a client's name has nothing by that. A public client that answers at no https address is
/// asked for each time; a confidential one proves who it is wherever tokens are given or told of.
#[tokio::test]
async fn client_impersonation() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let cookie = server.page_sign_in(ADA).await;
    let uris = json!({ "redirect_uris": [REDIRECT, "com.example.app:/cb", "https://app.example/cb"] });
    let app = server.application("public", uris).await;
    server.granted(&app, &cookie, "openid").await;
    for (uri, silent) in [
        (REDIRECT, false),
        ("http://127.0.0.1:50123/cb", false),
        ("com.example.app:/cb", false),
        ("https://app.example/cb", true),
    ] {
        let asked = [("redirect_uri", uri), ("scope", "openid"), ("prompt", "none")];
        let place = server.authorize(&app, &cookie, &asked).await.expect(303).header("location").to_owned();
        assert_eq!(parameter(&place, "code").is_some(), silent, "{uri}: {place}");
        if !silent {
            assert_eq!(parameter(&place, "error").as_deref(), Some("consent_required"), "{uri}");
        }
        let page = server.authorize(&app, &cookie, &asked[..2]).await;
        assert_eq!(page.status == 303, silent, "{uri}");
    }
    // Of a confidential client everything asks for its secret, also what was begun rightly.
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let code = server.code(&app, &cookie, "openid").await;
    let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
    for secret in ["", "wrong"] {
        let thief = Application { id: app.id.clone(), secret: secret.into() };
        let refused = async |path: &'static str, pairs: Vec<(&str, &str)>| {
            let mut all = vec![("client_id", thief.id.as_str()), ("client_secret", secret)];
            all.extend(pairs);
            all.retain(|(_, value)| !value.is_empty());
            let call = server.client.post(path).form(&portcullis_testkit::application::encode(&all)).send().await;
            assert_eq!(call.expect(401).json()["error"], "invalid_client", "{path}");
        };
        refused("/oauth2/token", redeeming(&code, VERIFIER)).await;
        refused("/oauth2/token", vec![("grant_type", "refresh_token"), ("refresh_token", &text("refresh_token"))])
            .await;
        refused("/oauth2/revoke", vec![("token", &text("access_token"))]).await;
        refused("/oauth2/introspect", vec![("token", &text("access_token"))]).await;
        refused("/oauth2/par", vec![("response_type", "code")]).await;
        refused("/oauth2/device", vec![("scope", "openid")]).await;
    }
    server.client.get("/oauth2/userinfo").bearer(&text("access_token")).send().await.expect(200);
    server.redeem(&app, &code).await.expect(200);
}

/// RFC 9700 §4.15: no client has a say in its id or in any claim of its tokens, and a token that it got for itself is told from a person's:
/// by a subject that is nobody else's, and by saying that nobody proved who they are.
#[tokio::test]
async fn a_client_as_resource_owner() {
    let server = TestServer::usual().await;
    let ada = server.sign_up(ADA).await;
    let admin = server.admin().await;
    for (name, value) in [("client_id", &*ada), ("id", &*ada), ("sub", &*ada), ("service_account", &*ada)] {
        let mut body = json!({ "name": "A machine", "kind": "confidential", "grant_types": ["client_credentials"] });
        body[name] = value.into();
        let call = server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await;
        call.expect_problem("malformed");
    }
    let more = json!({ "name": ADA, "redirect_uris": [], "grant_types": ["client_credentials"], "scopes": ["openid", "email", "read"] });
    let machine = server.application("confidential", more).await;
    let mut told = vec![];
    for more in [vec![], vec![("sub", &*ada), ("username", ADA), ("account", &*ada)]] {
        let pairs = [vec![("grant_type", "client_credentials")], more].concat();
        told.push(server.token(&machine, &pairs).await.expect(200).json());
    }
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let cookie = server.page_sign_in(ADA).await;
    let hers = claims(&server.granted(&app, &cookie, "openid read").await["access_token"]);
    for tokens in &told {
        let own = claims(&tokens["access_token"]);
        assert!(own["sub"] != hers["sub"] && own["sub"] != own["client_id"], "{own}");
        assert_eq!((own["acr"].as_str(), &own["amr"]), (Some("0"), &json!([])));
        assert!(hers["acr"] != own["acr"] && !hers["amr"].as_array().unwrap().is_empty(), "{hers}");
        // It is nobody to whoever asks who it is.
        let access = tokens["access_token"].as_str().unwrap();
        server.client.get("/oauth2/userinfo").bearer(access).send().await.expect_problem("insufficient_scope");
        server.client.get("/v1/me").bearer(access).send().await.expect_problem("insufficient_scope");
        assert_eq!(tokens.get("id_token"), None);
    }
    assert_eq!(claims(&told[0]["access_token"])["sub"], claims(&told[1]["access_token"])["sub"]);
}
