//! What the OpenID Foundation's conformance suite asks of a provider, where no other test here shows it: its modules are named at the
//! tests, and mapped in `docs/conformance.md`.
use super::machine::{claims, refused};
use portcullis_app::Registration;
use portcullis_testkit::application::{REDIRECT, VERIFIER, encode, request};
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Application, Options, TestServer, parameter};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

async fn world(more: Value) -> (TestServer, Application, String) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let mut members = json!({ "consent": "implied" });
    members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let app = server.application("confidential", members).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

/// The claims of the ID token that comes of a request which shows nothing to anybody.
async fn id_token(server: &TestServer, app: &Application, cookie: &str, more: &[(&str, &str)]) -> Value {
    let place = server.authorize(app, cookie, more).await.expect(303).header("location").to_owned();
    let code = parameter(&place, "code").unwrap_or_else(|| panic!("no code in {place}"));
    claims(&server.redeem(app, &code).await.expect(200).json()["id_token"])
}

async fn userinfo(server: &TestServer, tokens: &Value) -> Answer {
    server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await
}

/// `oidcc-response-type-missing`; OpenID Connect Core §3.1.2.6.
#[tokio::test]
async fn a_request_without_a_response_type_is_refused() {
    let (server, app, cookie) = world(json!({})).await;
    for more in [[("response_type", "")], [("response_type", "id_token")], [("response_type", "code id_token token")]] {
        let place = server.authorize(&app, &cookie, &more).await.expect(303).header("location").to_owned();
        let error = parameter(&place, "error").unwrap();
        let wanted = if more[0].1.is_empty() { "invalid_request" } else { "unsupported_response_type" };
        assert!(error == wanted && place.starts_with(&format!("{REDIRECT}?error=")), "{place}");
        assert_eq!(parameter(&place, "state").as_deref(), Some("a state"));
    }
}

/// `oidcc-userinfo-get`, `oidcc-userinfo-post-header`, `oidcc-userinfo-post-body` (which a provider need not take); OpenID Connect Core
/// §5.3.1, §5.3.3.
#[tokio::test]
async fn userinfo_by_get_and_by_post() {
    let (server, app, cookie) = world(json!({})).await;
    let tokens = server.granted(&app, &cookie, "openid email").await;
    let access = tokens["access_token"].as_str().unwrap();
    for call in [server.client.get("/oauth2/userinfo"), server.client.post("/oauth2/userinfo")] {
        let told = call.bearer(access).send().await.expect(200);
        assert_eq!(told.header("content-type"), "application/json");
        let told = told.json();
        assert_eq!(told["sub"], claims(&tokens["id_token"])["sub"]);
        assert_eq!(told["email"], ADA);
    }
    let body = server.client.post("/oauth2/userinfo").form(&encode(&[("access_token", access)]));
    assert!(body.send().await.expect(401).header("www-authenticate").starts_with("Bearer"));
    let dead = server.client.get("/oauth2/userinfo").bearer("x").send().await.expect(401);
    assert!(dead.header("www-authenticate").contains("error=\"invalid_token\""));
}

/// `oidcc-scope-profile`, `-email`, `-address`, `-phone`, `-all`, `oidcc-alternate-happy-flow`; OpenID Connect Core §3.1.2.1, §5.4: a scope
/// opens its claims and no others, in any order; what is not known is ignored.
#[tokio::test]
async fn scopes_open_their_claims() {
    let (server, app, cookie) = world(json!({})).await;
    let me = server.sign_in(ADA).await;
    let named = server.client.patch("/v1/me").bearer(&me.access).json(&json!({ "name": "Ada Lovelace" }));
    named.send().await.expect(200);
    for (scope, name, email) in [
        ("openid", false, false),
        ("openid profile", true, false),
        ("openid email", false, true),
        ("email profile openid", true, true),
        ("phone address email profile openid", true, true),
        ("openid address phone", false, false),
    ] {
        let tokens = server.granted(&app, &cookie, scope).await;
        let told = userinfo(&server, &tokens).await.expect(200).json();
        assert_eq!(told.get("name").is_some(), name, "{scope}: {told}");
        assert_eq!(told.get("email").is_some() && told.get("email_verified").is_some(), email, "{scope}: {told}");
        assert!(told.get("address").is_none() && told.get("phone_number").is_none(), "{told}");
        let given = tokens["scope"].as_str().unwrap();
        assert!(given.contains("openid") && !given.contains("address") && !given.contains("phone"), "{given}");
    }
}

/// `oidcc-display-page`, `-display-popup`, `-ui-locales`, `-claims-locales`, `-claims-essential`,
/// `oidcc-ensure-request-with-unknown-parameter-succeeds`, `-with-acr-values-succeeds`, `-without-nonce-succeeds-for-code-flow`,
/// `-with-valid-pkce-succeeds`, `oidcc-login-hint`; OpenID Connect Core §15.1, RFC 6749 §3.1.
#[tokio::test]
async fn what_a_provider_need_not_know_does_no_harm() {
    let (server, app, cookie) = world(json!({})).await;
    for more in [
        ("display", "page"),
        ("display", "popup"),
        ("ui_locales", "se de-AT"),
        ("claims_locales", "se"),
        ("claims", "{\"userinfo\":{\"name\":{\"essential\":true}}}"),
        ("extra", "foobar"),
        ("login_hint", "buffy@id.example"),
        ("acr_values", "1 2"),
        ("nonce", ""),
    ] {
        let told = id_token(&server, &app, &cookie, &[more]).await;
        assert_eq!(told.get("nonce").and_then(Value::as_str), (more.0 != "nonce").then_some("a nonce"), "{more:?}");
        assert_eq!(told["acr"], "1", "the one that `acr_values_supported` names");
    }
    let told = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!((&told["acr_values_supported"], &told["claims_parameter_supported"]), (&json!(["1"]), &json!(false)));
}

/// Goes through the sign-in that a request leads to, which brings another cookie; the claims of the ID token that comes of it.
async fn signed_in_again(server: &TestServer, app: &Application, cookie: &mut String, more: &[(&str, &str)]) -> Value {
    let asked = server.authorize(app, cookie, more).await.expect(303).header("location").to_owned();
    assert!(asked.starts_with("/sign-in?again=1"), "{asked}");
    let form =
        encode(&[("identifier", ADA), ("password", PASSWORD), ("return_to", &parameter(&asked, "return_to").unwrap())]);
    let with = |call: portcullis_testkit::client::Call, cookie: &str| {
        call.header("cookie", format!("__Host-portcullis_session={cookie}"))
    };
    let call = with(server.client.post("/sign-in"), cookie).header("origin", &server.issuer).form(&form);
    let signed_in = call.send().await.expect(303);
    *cookie = signed_in.cookie("__Host-portcullis_session").expect("another cookie");
    let done = with(server.client.get(signed_in.header("location")), cookie).send().await.expect(303);
    let code = parameter(done.header("location"), "code").unwrap();
    claims(&server.redeem(app, &code).await.expect(200).json()["id_token"])
}

/// `oidcc-prompt-login`, `oidcc-max-age-1`, `oidcc-max-age-10000`, `oidcc-prompt-none-logged-in`, `-not-logged-in`, `oidcc-id-token-hint`;
/// OpenID Connect Core §2 `auth_time`, §3.1.2.1, §3.1.2.3.
#[tokio::test]
async fn auth_time_says_when_somebody_proved_who_they_are() {
    let (server, app, mut cookie) = world(json!({})).await;
    let first = id_token(&server, &app, &cookie, &[("max_age", "15000")]).await;
    server.advance(2_000);
    let hint = server.granted(&app, &cookie, "openid").await["id_token"].as_str().unwrap().to_owned();
    for more in
        [vec![("max_age", "10000")], vec![("prompt", "none")], vec![("prompt", "none"), ("id_token_hint", &*hint)]]
    {
        let told = id_token(&server, &app, &cookie, &more).await;
        assert_eq!((&told["sub"], &told["auth_time"]), (&first["sub"], &first["auth_time"]), "{more:?}");
    }
    let mut last = first["auth_time"].as_i64().unwrap();
    for more in [[("max_age", "1")], [("prompt", "login")]] {
        let told = signed_in_again(&server, &app, &mut cookie, &more).await;
        assert_eq!(told["sub"], first["sub"]);
        assert!(told["auth_time"].as_i64().unwrap() > last, "{told}");
        last = told["auth_time"].as_i64().unwrap();
        server.advance(2_000);
    }
    let stranger = server.authorize(&app, "", &[("prompt", "none")]).await.expect(303);
    assert_eq!(parameter(stranger.header("location"), "error").as_deref(), Some("login_required"));
    let both = server.authorize(&app, &cookie, &[("prompt", "none login")]).await.expect(303);
    assert_eq!(parameter(both.header("location"), "error").as_deref(), Some("invalid_request"), "§3.1.2.1");
}

/// `oidcc-codereuse-30seconds` (and `oidcc-codereuse`); RFC 6749 §4.1.2.
#[tokio::test]
async fn a_code_that_comes_again_after_30_seconds_ends_what_it_gave() {
    let (server, app, cookie) = world(json!({})).await;
    let code = server.code(&app, &cookie, "openid").await;
    let tokens = server.redeem(&app, &code).await.expect(200).json();
    server.advance(30_000);
    userinfo(&server, &tokens).await.expect(200);
    assert_eq!(refused(server.redeem(&app, &code).await), "invalid_grant");
    userinfo(&server, &tokens).await.expect_problem("token_revoked");
}

/// `oidcc-server-client-secret-post`, and that it fails by a wrong one; OpenID Connect Core §9.
#[tokio::test]
async fn a_secret_in_the_body() {
    let (server, app, cookie) = world(json!({ "token_endpoint_auth_method": "client_secret_post" })).await;
    for (secret, status) in [("wrong", 401), (&*app.secret, 200)] {
        let code = server.code(&app, &cookie, "openid").await;
        let form = encode(&[
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
            ("client_id", &app.id),
            ("client_secret", secret),
        ]);
        let answer = server.client.post("/oauth2/token").form(&form).send().await.expect(status);
        assert_eq!(answer.json().get("id_token").is_some(), status == 200);
    }
}

/// OpenID Connect Core §12.2, `oidcc-refresh-token`: the ID token of a refresh is about the same user, by the same issuer, for the same client,
/// made now; it says when they signed in, and has no nonce.
#[tokio::test]
async fn a_refreshed_id_token_is_about_the_same() {
    let (server, app, cookie) = world(json!({})).await;
    let first = server.granted(&app, &cookie, "openid").await;
    server.advance(5_000);
    let next = server.refresh_for(&app, first["refresh_token"].as_str().unwrap()).await.expect(200).json();
    let (first, next) = (claims(&first["id_token"]), claims(&next["id_token"]));
    for same in ["iss", "sub", "aud", "azp", "auth_time", "sid"] {
        assert_eq!(first[same], next[same], "{same}");
    }
    assert!(next["iat"].as_i64() > first["iat"].as_i64() && next.get("nonce").is_none(), "{next}");
}

/// What tokens say of how their user signed in: ID token, access token, introspection.
async fn proof_of(server: &TestServer, app: &Application, tokens: &Value) -> Value {
    let form = encode(&[("token", tokens["access_token"].as_str().unwrap())]);
    let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret)).form(&form);
    let asked = call.send().await.expect(200).json();
    assert_eq!(asked["active"], true);
    let told = [claims(&tokens["id_token"]), claims(&tokens["access_token"]), asked];
    let told = told.map(|from| json!([from["auth_time"], from["amr"]]));
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    told[0].clone()
}

/// OpenID Connect Core §12.2: what was asked for before a proof says nothing of it, with the code and with every refresh, also when
/// the session's user has proven anew meanwhile; whoever holds it may not be the one who did. What is asked for after it says it.
#[tokio::test]
async fn a_later_proof_is_not_told_to_who_asked_before() {
    let (server, app, mut cookie) = world(json!({})).await;
    let before = id_token(&server, &app, &cookie, &[]).await;
    let before = json!([before["auth_time"], before["amr"]]);
    let held = server.granted(&app, &cookie, "openid").await;
    let offline = server.granted(&app, &cookie, "openid offline_access").await;
    server.advance(5_000);
    let (code, old) = (server.code(&app, &cookie, "openid").await, cookie.clone());
    let proven = signed_in_again(&server, &app, &mut cookie, &[("prompt", "login")]).await;
    assert!(proven["auth_time"].as_i64() > before[0].as_i64());
    // With the cookie before, too.
    let late = server.code(&app, &old, "openid").await;
    for tokens in [
        server.redeem(&app, &code).await.expect(200).json(),
        server.redeem(&app, &late).await.expect(200).json(),
        server.refresh_for(&app, held["refresh_token"].as_str().unwrap()).await.expect(200).json(),
        server.refresh_for(&app, offline["refresh_token"].as_str().unwrap()).await.expect(200).json(),
    ] {
        assert_eq!(proof_of(&server, &app, &tokens).await, before);
        let again = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
        assert_eq!(proof_of(&server, &app, &again).await, before);
        // Who it is has not changed.
        let told = userinfo(&server, &again).await.expect(200).json();
        assert_eq!(told["sub"], proven["sub"]);
    }
    let after = json!([proven["auth_time"], proven["amr"]]);
    let silent = server.authorize(&app, &cookie, &[("prompt", "none"), ("max_age", "60")]).await.expect(303);
    let silent = parameter(silent.header("location"), "code").unwrap();
    let tokens = server.redeem(&app, &silent).await.expect(200).json();
    assert_eq!(proof_of(&server, &app, &tokens).await, after);
    // And keeps it.
    server.advance(5_000);
    signed_in_again(&server, &app, &mut cookie, &[("prompt", "login")]).await;
    let next = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
    assert_eq!(proof_of(&server, &app, &next).await, after);
}

/// `oidcc-discovery-endpoint-verification`; OpenID Connect Discovery §3, §4.2, §4.3.
#[tokio::test]
async fn discovery_tells_what_openid_connect_asks_for() {
    let server = TestServer::usual().await;
    let answer = server.client.get("/.well-known/openid-configuration").send().await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    let told = answer.json();
    assert_eq!(told["issuer"], server.issuer);
    for endpoint in
        ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri", "end_session_endpoint"]
    {
        assert!(told[endpoint].as_str().unwrap().starts_with(&format!("{}/", server.issuer)), "{endpoint}");
        assert!(!told[endpoint].as_str().unwrap().contains('#'), "{endpoint}");
    }
    let has = |list: &str, word: &str| told[list].as_array().is_some_and(|list| list.iter().any(|one| one == word));
    assert!(has("response_types_supported", "code") && !has("response_types_supported", "token"));
    assert!(has("scopes_supported", "openid") && has("subject_types_supported", "public"));
    assert!(
        has("id_token_signing_alg_values_supported", "RS256") && !has("id_token_signing_alg_values_supported", "none")
    );
    assert!(has("grant_types_supported", "authorization_code") && has("claims_supported", "sub"));
    assert!(!has("grant_types_supported", "password") && !has("grant_types_supported", "implicit"));
    for absent in ["request_object_signing_alg_values_supported", "check_session_iframe"] {
        assert_eq!(told.get(absent), None, "what is not offered is not named");
    }
    // Without these two members a client would believe that they were supported (§3).
    assert_eq!(
        (&told["request_parameter_supported"], &told["request_uri_parameter_supported"]),
        (&json!(false), &json!(false))
    );
    // The keys: each with a name of its own, public, for signatures (Core §10.1).
    let keys = server.client.get("/.well-known/jwks.json").send().await.expect(200).json();
    let kids: std::collections::BTreeSet<_> =
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].to_string()).collect();
    assert_eq!(kids.len(), keys["keys"].as_array().unwrap().len());
}

async fn open() -> TestServer {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    server
}

async fn registered(server: &TestServer, body: Value) -> Application {
    let made = server.client.post("/oauth2/register").json(&body).send().await.expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    Application { id: text("client_id"), secret: text("client_secret") }
}

/// `oidcc-idtoken-signature`, `oidcc-idtoken-rs256`, `oidcc-idtoken-unsigned`; OpenID Connect Dynamic Client Registration §2: RS256 unless the
/// client says otherwise, with the name of its key, and never no signature.
#[tokio::test]
async fn a_client_that_registers_itself_gets_rs256_unless_it_says_otherwise() {
    let server = open().await;
    let cookie = server.page_sign_in(ADA).await;
    let silent = registered(&server, json!({ "redirect_uris": [REDIRECT] })).await;
    let said =
        registered(&server, json!({ "redirect_uris": [REDIRECT], "id_token_signed_response_alg": "RS256" })).await;
    let other =
        registered(&server, json!({ "redirect_uris": [REDIRECT], "id_token_signed_response_alg": "ES256" })).await;
    let none = json!({ "redirect_uris": [REDIRECT], "id_token_signed_response_alg": "none" });
    assert_eq!(refused(server.client.post("/oauth2/register").json(&none).send().await), "invalid_client_metadata");
    server.advance(30_000);
    for (app, alg) in [(silent, "RS256"), (said, "RS256"), (other, "ES256")] {
        let tokens = server.granted(&app, &cookie, "openid").await;
        let head = b64::decode(tokens["id_token"].as_str().unwrap().split('.').next().unwrap()).unwrap();
        let head: Value = serde_json::from_slice(&head).unwrap();
        assert!(head["alg"] == alg && head["kid"].is_string(), "{head}");
    }
}

/// `oidcc-redirect-uri-query-OK`, `-query-mismatch`, `-query-added`, `-regfrag`, `oidcc-ensure-redirect-uri-in-authorization-request`,
/// `oidcc-ensure-registered-redirect-uri`; OpenID Connect Core §3.1.2.1, RFC 6749 §3.1.2.
#[tokio::test]
async fn redirect_uris_with_a_query() {
    let server = open().await;
    let cookie = server.page_sign_in(ADA).await;
    let (plain, query) = ("https://app.example/cb", "https://app.example/cb?foo=bar");
    let app = registered(&server, json!({ "redirect_uris": [query, REDIRECT] })).await;
    let page =
        server.authorize(&app, &cookie, &[("redirect_uri", query), ("scope", "openid")]).await.expect(200).text();
    let place = server.decide(&page, &cookie, "allow").await.expect(303).header("location").to_owned();
    assert!(place.starts_with(&format!("{query}&code=")), "it is kept: {place}");
    for wrong in [
        plain,
        "https://app.example/cb?foo=bar2",
        "https://app.example/cb?bar=foo&foo=bar",
        "https://app.example/cb?foo=bar&a=b",
        "",
    ] {
        let answer = server.authorize(&app, &cookie, &[("redirect_uri", wrong), ("scope", "openid")]).await.expect(400);
        assert!(
            answer.header("location").is_empty() && answer.header("content-type").starts_with("text/html"),
            "{wrong}"
        );
    }
    let one = registered(&server, json!({ "redirect_uris": [plain] })).await;
    server.authorize(&one, &cookie, &[("redirect_uri", query), ("scope", "openid")]).await.expect(400);
    // OpenID Connect wants it in each request, also where there is but one.
    server.authorize(&one, &cookie, &[("redirect_uri", ""), ("scope", "openid")]).await.expect(400);
    let fragment = json!({ "redirect_uris": ["https://app.example/cb#foobar"] });
    assert_eq!(refused(server.client.post("/oauth2/register").json(&fragment).send().await), "invalid_redirect_uri");
}

/// `oidcc-rp-initiated-logout`, `-no-state`, `-no-params`, `-only-state`, `-no-post-logout-redirect-uri`, `-no-id-token-hint`,
/// `-query-added-to-post-logout-redirect-uri`, `-bad-post-logout-redirect-uri`: where the browser ends, and that nobody is signed in afterwards.
#[tokio::test]
async fn after_a_logout_nobody_is_signed_in() {
    let bye = "https://rp.example.test/bye";
    let (server, app, _) = world(json!({ "post_logout_redirect_uris": [bye] })).await;
    for (hinted, pairs, leads) in [
        (true, vec![("post_logout_redirect_uri", bye), ("state", "s")], Some("https://rp.example.test/bye?state=s")),
        (true, vec![("post_logout_redirect_uri", bye)], Some(bye)),
        (true, vec![("state", "s")], None),
        (true, vec![("post_logout_redirect_uri", "https://rp.example.test/bye?foo=bar")], None),
        (true, vec![("post_logout_redirect_uri", "https://evil.example/")], None),
        (false, vec![], None),
        (false, vec![("state", "s")], None),
        (false, vec![("post_logout_redirect_uri", bye), ("state", "s")], None),
    ] {
        let cookie = server.page_sign_in(ADA).await;
        let tokens = server.granted(&app, &cookie, "openid").await;
        let mut pairs = pairs;
        let id = tokens["id_token"].as_str().unwrap();
        if hinted {
            pairs.push(("id_token_hint", id));
        }
        let silently = async || {
            let place =
                server.authorize(&app, &cookie, &[("prompt", "none")]).await.expect(303).header("location").to_owned();
            parameter(&place, "code").is_some()
        };
        assert!(silently().await);
        let with = |call: portcullis_testkit::client::Call| {
            call.header("cookie", format!("__Host-portcullis_session={cookie}"))
        };
        let mut answer = with(server.client.get(format!("/oauth2/logout?{}", encode(&pairs)))).send().await;
        if !hinted {
            // Anybody could have sent the browser here: its user is asked, and nothing has ended yet (RP-Initiated Logout §2).
            assert!(silently().await);
            let page = answer.expect(200).text();
            let hidden = |name: &str| {
                let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap().split('"').next().unwrap();
                value.replace("&amp;", "&").replace("&#x2f;", "/")
            };
            let form = encode(&[("request", &hidden("request")), ("session", &hidden("session"))]);
            let call = with(server.client.post("/oauth2/logout/confirm")).header("origin", &server.issuer);
            answer = call.form(&form).send().await;
        }
        match leads {
            Some(place) => assert_eq!(answer.expect(303).header("location"), place),
            None => assert!(answer.expect(200).text().contains("You are signed out"), "{pairs:?}"),
        }
        assert!(!silently().await, "{pairs:?}");
        userinfo(&server, &tokens).await.expect_problem("token_revoked");
    }
}

/// `oidcc-ensure-post-request-succeeds`, `oidcc-unsigned-request-object-supported-correctly-or-rejected-as-unsupported`,
/// `oidcc-request-uri-unsigned-supported-correctly-or-rejected-as-unsupported`, `oidcc-ensure-request-object-with-redirect-uri`; OpenID
/// Connect Core §3.1.2.1, §6.
#[tokio::test]
async fn requests_by_post_and_request_objects() {
    let (server, app, cookie) = world(json!({})).await;
    let asked = request(&app, &[]);
    let posted = server
        .client
        .post("/oauth2/authorize")
        .form(&asked)
        .header("origin", "https://rp.example")
        .send()
        .await
        .expect(303);
    let place = posted.header("location").to_owned();
    let call = server.client.get(place).header("cookie", format!("__Host-portcullis_session={cookie}"));
    assert!(parameter(call.send().await.expect(303).header("location"), "code").is_some());
    let part = |value: Value| b64::encode(value.to_string().as_bytes());
    let object = format!(
        "{}.{}.",
        part(json!({ "alg": "none" })),
        part(json!({ "client_id": app.id, "redirect_uri": "https://evil.example/cb", "response_type": "code" }))
    );
    for (more, error) in [
        ([("request", &*object)], "request_not_supported"),
        ([("request_uri", "https://rp.example/object.jwt")], "request_uri_not_supported"),
    ] {
        let place = server.authorize(&app, &cookie, &more).await.expect(303).header("location").to_owned();
        assert!(place.starts_with(REDIRECT), "what an object says counts for nothing: {place}");
        assert_eq!(parameter(&place, "error").as_deref(), Some(error));
    }
}
