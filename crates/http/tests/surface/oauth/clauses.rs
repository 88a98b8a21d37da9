//! Clauses of OAuth 2.1 that no other test here is about: what is left out, what is empty, what may stand in an answer.
use super::machine::{claims, refused};
use http::Method;
use portcullis_testkit::application::{REDIRECT, VERIFIER, encode, request};
use portcullis_testkit::{Application, TestServer, parameter};
use portcullis_wire::{Digest, b64};
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

fn refreshing(refresh: &Value) -> [(&'static str, &str); 2] {
    [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str().unwrap())]
}

/// §1.4.1: without a scope a client asks for all that it registered, and is told what it got.
#[tokio::test]
async fn what_is_not_said_has_its_default() {
    let (server, app, cookie) = world(json!({ "scopes": ["openid", "email", "read"] })).await;
    let place = server.authorize(&app, &cookie, &[("scope", "")]).await.expect(303).header("location").to_owned();
    let tokens = server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(200).json();
    assert_eq!(tokens["scope"], "email openid read");
    // More than one redirect URI, and no OpenID: the only one is meant.
    let plain = server.application("confidential", json!({ "scopes": ["read"], "consent": "implied" })).await;
    let place = server.authorize(&plain, &cookie, &[("scope", ""), ("redirect_uri", "")]).await.expect(303);
    assert!(place.header("location").starts_with(&format!("{REDIRECT}?code=")));
}

/// §3.1, §3.2.
#[tokio::test]
async fn a_parameter_without_a_value_was_not_sent() {
    let (server, app, cookie) = world(json!({})).await;
    let empty = "prompt=&max_age=&login_hint=&id_token_hint=&request=&request_uri=&dpop_jkt=&response_mode=&resource=&nonsense=";
    let asked = format!("{}&{empty}", request(&app, &[]));
    let call = server.client.get(format!("/oauth2/authorize?{asked}"));
    let place = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(303);
    let code = parameter(place.header("location"), "code").expect("a code");
    let form = encode(&[("grant_type", "authorization_code"), ("code", &code), ("code_verifier", VERIFIER)]);
    let form = format!("{form}&redirect_uri=&scope=&resource=&client_secret=&client_assertion=&client_assertion_type=");
    let call = server.client.post("/oauth2/token").basic((&app.id, &app.secret)).form(&form);
    let tokens = call.send().await.expect(200).json();
    let form = format!("{}&scope=&resource=", encode(&refreshing(&tokens["refresh_token"])));
    let call = server.client.post("/oauth2/token").basic((&app.id, &app.secret)).form(&form);
    assert_eq!(call.send().await.expect(200).json()["scope"], "openid read");
    for missing in ["grant_type=", "grant_type=refresh_token&refresh_token=", ""] {
        let call = server.client.post("/oauth2/token").basic((&app.id, &app.secret)).form(missing);
        assert_eq!(refused(call.send().await), "invalid_request", "{missing}");
    }
}

/// §3.2.
#[tokio::test]
async fn the_token_endpoint_takes_forms_by_post_alone() {
    let (server, app, _) = world(json!({})).await;
    let good = encode(&[("grant_type", "refresh_token"), ("refresh_token", "x")]);
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let call = server.client.call(method, format!("/oauth2/token?{good}")).basic((&app.id, &app.secret));
        let answer = call.send().await.expect_problem("method_not_allowed");
        assert_eq!(answer.header("allow"), "POST");
    }
    let body = json!({ "grant_type": "refresh_token", "refresh_token": "x" });
    let call = server.client.post("/oauth2/token").basic((&app.id, &app.secret)).json(&body);
    assert_eq!(refused(call.send().await), "invalid_request");
}

/// §3.2.3.
#[tokio::test]
async fn without_the_grant_type_there_is_no_refresh_token() {
    let (server, app, cookie) = world(json!({ "grant_types": ["authorization_code"] })).await;
    for scope in ["openid", "openid offline_access"] {
        let tokens = server.granted(&app, &cookie, scope).await;
        assert_eq!(tokens.get("refresh_token"), None, "{scope}");
    }
}

/// §3.2.4, §4.1.2.1: `%x20-21 / %x23-5B / %x5D-7E`.
#[tokio::test]
async fn error_descriptions_have_their_characters() {
    let (server, app, cookie) = world(json!({})).await;
    let fits = |text: &str| text.chars().all(|c| matches!(c, ' '..='~') && c != '"' && c != '\\');
    let hostile = "\"quoted\" \\ \u{e9}\u{a7} <b> \r\n\t\u{0} \u{1f600}";
    let mut descriptions = vec![];
    for pairs in [
        vec![("grant_type", hostile)],
        vec![("grant_type", "refresh_token"), ("refresh_token", hostile)],
        vec![("grant_type", "authorization_code"), ("code", hostile)],
        vec![("grant_type", "refresh_token"), (hostile, "a"), (hostile, "b")],
    ] {
        let answer = server.token(&app, &pairs).await.expect(400).json();
        assert!(answer["error"].as_str().is_some_and(fits));
        descriptions.push(answer["error_description"].as_str().unwrap().to_owned());
    }
    for more in [
        ("scope", hostile),
        ("prompt", hostile),
        ("resource", hostile),
        ("max_age", hostile),
        ("code_challenge", hostile),
    ] {
        let place = server.authorize(&app, &cookie, &[more]).await.expect(303).header("location").to_owned();
        descriptions.push(parameter(&place, "error_description").unwrap());
    }
    for description in descriptions {
        assert!(fits(&description) && !description.is_empty() && description.len() <= 400, "{description:?}");
    }
}

/// §4.1.2.
#[tokio::test]
async fn the_challenge_stands_in_no_answer() {
    let (server, app, cookie) = world(json!({})).await;
    let challenge = b64::encode(&Digest::of(VERIFIER.as_bytes()).0);
    let place = server.authorize(&app, &cookie, &[]).await.expect(303).header("location").to_owned();
    let tokens = server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(200);
    assert!(!place.contains(&challenge) && !tokens.text().contains(&challenge));
    let part = |name: &str| claims(&tokens.json()[name]).to_string();
    assert!(!part("access_token").contains(&challenge) && !part("id_token").contains(&challenge));
}

/// §4.2.
#[tokio::test]
async fn public_clients_do_not_act_for_themselves() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let body = json!({ "name": "An app", "kind": "public", "grant_types": ["client_credentials"] });
    let call = server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await;
    assert_eq!(call.expect_problem("invalid_value").json()["field"], "grant_types");
    let app = server.application("public", json!({})).await;
    assert_eq!(refused(server.token(&app, &[("grant_type", "client_credentials")]).await), "unauthorized_client");
}

/// §4.3.3.
#[tokio::test]
async fn a_successor_has_the_scope_of_its_grant() {
    let (server, app, cookie) = world(json!({})).await;
    let tokens = server.granted(&app, &cookie, "openid email read").await;
    let less = [&refreshing(&tokens["refresh_token"])[..], &[("scope", "read")]].concat();
    let less = server.token(&app, &less).await.expect(200).json();
    assert_eq!(less["scope"], "read");
    let all = server.token(&app, &refreshing(&less["refresh_token"])).await.expect(200).json();
    assert_eq!(all["scope"], "email openid read");
}

/// §4.3.3: 14 days, at the servers of these tests.
#[tokio::test]
async fn an_idle_grant_expires() {
    let (server, app, cookie) = world(json!({})).await;
    for scope in ["openid", "openid offline_access"] {
        let used = server.granted(&app, &cookie, scope).await;
        server.advance(13 * 86_400_000);
        let next = server.token(&app, &refreshing(&used["refresh_token"])).await.expect(200).json();
        server.advance(14 * 86_400_000 + 1000);
        assert_eq!(refused(server.token(&app, &refreshing(&next["refresh_token"])).await), "invalid_grant", "{scope}");
        // The browser's session has ended with it.
        let cookie_again = server.page_sign_in(ADA).await;
        if scope == "openid" {
            let used = server.granted(&app, &cookie_again, "openid offline_access").await;
            server.advance(14 * 86_400_000 + 1000);
            assert_eq!(refused(server.token(&app, &refreshing(&used["refresh_token"])).await), "invalid_grant");
            break;
        }
    }
}

/// §5.3.1, §5.3.2: the reason of a refusal; none to who showed nothing.
#[tokio::test]
async fn challenges_say_what_is_wrong() {
    let (server, app, cookie) = world(json!({})).await;
    let plain = server.granted(&app, &cookie, "read").await;
    let openid = server.granted(&app, &cookie, "openid").await;
    let dead = openid["access_token"].as_str().unwrap().to_owned();
    let revoke = server.client.post("/oauth2/revoke").basic((&app.id, &app.secret)).form(&encode(&[("token", &dead)]));
    revoke.send().await.expect(200);
    for (token, status, error) in [
        (None, 401, None),
        (Some("x"), 401, Some("invalid_token")),
        (Some(&*dead), 401, Some("invalid_token")),
        (plain["access_token"].as_str(), 403, Some("insufficient_scope")),
    ] {
        for call in [server.client.get("/oauth2/userinfo"), server.client.post("/oauth2/userinfo")] {
            let call = if let Some(token) = token { call.bearer(token) } else { call };
            let answer = call.send().await.expect(status);
            let challenge = answer.header("www-authenticate");
            // One parameter at least (RFC 6750 §3).
            assert!(challenge.starts_with("Bearer ") && challenge.contains('='), "{challenge}");
            match error {
                None => assert!(!challenge.contains("error"), "{challenge}"),
                Some(error) => assert_eq!(challenge.matches(&format!("error=\"{error}\"")).count(), 1, "{challenge}"),
            }
            assert_eq!(challenge.contains("scope=\"openid\""), status == 403, "{challenge}");
        }
    }
}

/// RFC 6750 §3.1: which scope is needed. RFC 9449 §7.1: userinfo takes tokens by two schemes, and offers both.
#[tokio::test]
async fn challenges_name_the_scope_and_the_schemes() {
    let (server, app, cookie) = world(json!({})).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let access = tokens["access_token"].as_str().unwrap();
    let ada = server.sign_in(ADA).await;
    for (path, token, scope) in [
        ("/v1/me", access, "account"),
        ("/v1/admin/accounts", access, "account"),
        ("/v1/admin/accounts", &ada.access, "admin"),
    ] {
        let refused = server.client.get(path).bearer(token).send().await.expect_problem("insufficient_scope");
        let challenge = "Bearer error=\"insufficient_scope\", error_description=\"insufficient_scope\"";
        assert_eq!(refused.header("www-authenticate"), format!("{challenge}, scope=\"{scope}\""), "{path}");
    }
    let nothing = server.client.get("/oauth2/userinfo").send().await.expect_problem("token_missing");
    let offered: Vec<_> = nothing.headers.get_all("www-authenticate").iter().map(|all| all.to_str().unwrap()).collect();
    assert_eq!(offered, ["Bearer realm=\"portcullis\"", "DPoP algs=\"ES256 RS256 Ed25519 EdDSA\""]);
}

/// §4.1.2.1, RFC 9207 §2: what is said twice is told to the client, unless it is who that is or where it waits.
#[tokio::test]
async fn a_repeated_parameter_is_told_to_the_client() {
    let (server, app, cookie) = world(json!({})).await;
    let right = request(&app, &[("state", "s1")]);
    let ask = |query: String| {
        let call = server.client.get(format!("/oauth2/authorize?{query}"));
        let call = call.header("cookie", format!("__Host-portcullis_session={cookie}"));
        async move { call.send().await }
    };
    for (more, state) in [("foo=1&foo=2", Some("s1")), ("scope=openid", Some("s1")), ("state=s1", None)] {
        let answer = ask(format!("{right}&{more}")).await.expect(303);
        let place = answer.header("location");
        assert!(place.starts_with(&format!("{REDIRECT}?")), "{place}");
        assert_eq!(parameter(place, "error").as_deref(), Some("invalid_request"), "{more}");
        assert_eq!(parameter(place, "state").as_deref(), state, "{more}");
        assert_eq!(parameter(place, "iss").as_deref(), Some(&*server.issuer));
        assert!(parameter(place, "code").is_none());
    }
    let stranger = request(&app, &[("redirect_uri", "https://evil.example/")]);
    let nobody = right.replace(&app.id, "cli_00000000000000000000000009");
    for query in [
        format!("{right}&client_id={}", app.id),
        format!("{right}&redirect_uri={}", encode(&[("", REDIRECT)]).trim_start_matches('=')),
        format!("{stranger}&foo=1&foo=2"),
        format!("{nobody}&foo=1&foo=2"),
    ] {
        let page = ask(query.clone()).await.expect(400);
        assert!(page.text().contains("twice"), "{query}: {}", page.text());
    }
}

/// §7.12: `state` comes back as it was sent, and says nothing to anybody on the way.
#[tokio::test]
async fn what_comes_back_is_encoded() {
    let (server, app, cookie) = world(json!({})).await;
    for state in [
        "\"><script>alert(1)</script>",
        "a&code=stolen&iss=https://evil.example",
        "a#fragment?query=1",
        "a\r\nset-cookie: a=b",
        "100%25 \u{e9} \u{1f600} +plus",
        "' OR 1=1 --",
    ] {
        for more in [vec![("state", state)], vec![("state", state), ("prompt", "bad")]] {
            let answer = server.authorize(&app, &cookie, &more).await.expect(303);
            let place = answer.header("location").to_owned();
            assert_eq!(parameter(&place, "state").as_deref(), Some(state));
            assert!(place.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'<' && b != b'"'), "{place}");
            assert_eq!((place.matches("code=").count() <= 1, place.matches("iss=").count()), (true, 1), "{place}");
            assert!(answer.set_cookies().is_empty());
        }
        // Through the sign-in page, too.
        let away = server.authorize(&app, "", &[("state", state)]).await.expect(303).header("location").to_owned();
        let page = server.client.get(&*away).send().await.expect(200).text();
        assert!(!page.contains("<script"), "{state}");
        let back = parameter(&away, "return_to").unwrap();
        assert_eq!(parameter(&back, "state").as_deref(), Some(state));
    }
}

/// §10.2.
#[tokio::test]
async fn the_address_may_be_left_out_of_the_redemption() {
    let (server, app, cookie) = world(json!({})).await;
    let code = server.code(&app, &cookie, "openid").await;
    let without = [("grant_type", "authorization_code"), ("code", &*code), ("code_verifier", VERIFIER)];
    let wrong = [&without[..], &[("redirect_uri", "http://127.0.0.1:9/other")]].concat();
    assert_eq!(refused(server.token(&app, &wrong).await), "invalid_grant");
    server.token(&app, &without).await.expect(200);
}

/// RFC 9700 §2.6: where clients call by themselves, those in browsers may, from wherever they are and never with cookies.
#[tokio::test]
async fn applications_in_browsers_call_from_other_origins() {
    let (server, app, _) = world(json!({})).await;
    for path in ["/oauth2/token", "/oauth2/revoke", "/oauth2/userinfo", "/oauth2/par", "/oauth2/device"] {
        let ask = server.client.call(Method::OPTIONS, path).header("origin", "https://spa.example");
        let ask = ask.header("access-control-request-method", "POST").send().await.expect(204);
        assert_eq!(
            (ask.header("access-control-allow-origin"), ask.header("access-control-allow-credentials")),
            ("*", "")
        );
        assert!(ask.header("access-control-allow-headers").contains("DPoP"));
        let call =
            server.client.post(path).header("origin", "https://spa.example").form(&encode(&[("client_id", &app.id)]));
        let answer = call.send().await;
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert!(answer.header("access-control-expose-headers").contains("DPoP-Nonce"), "{path}");
    }
}

/// OpenID Connect Core §3.1.2.1 `prompt`, §3.1.2.4: also of an application of the house, and of who has allowed it before.
#[tokio::test]
async fn prompt_consent_asks_each_time() {
    for consent in ["ask", "implied"] {
        let (server, app, cookie) = world(json!({ "consent": consent })).await;
        server.granted(&app, &cookie, "openid").await;
        for _ in 0..2 {
            let asked = [("scope", "openid"), ("prompt", "consent")];
            let page = server.authorize(&app, &cookie, &asked).await.expect(200).text();
            assert!(page.contains("Allow An app?"), "{consent}");
            server.decide(&page, &cookie, "allow").await.expect(303);
        }
        let silent = server.authorize(&app, &cookie, &[("scope", "openid")]).await.expect(303);
        assert!(parameter(silent.header("location"), "code").is_some(), "{consent}");
    }
}

/// OpenID Connect Core §11: what outlives the session is a question of its own, also for who has allowed everything else.
#[tokio::test]
async fn access_while_away_is_asked_for_in_words() {
    let (server, app, cookie) = world(json!({ "consent": "ask" })).await;
    server.granted(&app, &cookie, "openid email read").await;
    let asked = [("scope", "openid offline_access")];
    let quiet = server.authorize(&app, &cookie, &[asked[0], ("prompt", "none")]).await.expect(303);
    assert_eq!(parameter(quiet.header("location"), "error").as_deref(), Some("consent_required"));
    let page = server.authorize(&app, &cookie, &asked).await.expect(200).text();
    assert!(page.contains("Keep this access while you are away"), "{page}");
    let place = server.decide(&page, &cookie, "allow").await.expect(303).header("location").to_owned();
    let tokens = server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(200).json();
    let out = server.client.post("/sign-out").header("origin", &server.issuer);
    out.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(303);
    server.token(&app, &refreshing(&tokens["refresh_token"])).await.expect(200);
}
