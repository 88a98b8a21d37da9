//! From the authorization request to tokens, and what ends them.
use portcullis_testkit::application::{REDIRECT, VERIFIER, encode};
use portcullis_testkit::{Application, TestServer, parameter};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

async fn world() -> (TestServer, Application, String) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(payload).unwrap()).unwrap()
}

async fn userinfo(server: &TestServer, token: &Value) -> portcullis_testkit::Answer {
    server.client.get("/oauth2/userinfo").bearer(token.as_str().unwrap()).send().await
}

#[tokio::test]
async fn code_and_pkce_give_tokens_that_say_who_it_is() {
    let (server, app, cookie) = world().await;
    let page = server.authorize(&app, &cookie, &[("scope", "openid email read")]).await.expect(200);
    let html = page.text();
    assert!(
        html.contains("Allow An app?") && html.contains("See your email address") && html.contains("<code>read</code>"),
        "{html}"
    );
    assert!(
        !page.header("content-security-policy").contains("form-action"),
        "what follows is the application's affair"
    );
    let place = server.decide(&html, &cookie, "allow").await.expect(303).header("location").to_owned();
    assert!(place.starts_with(&format!("{REDIRECT}?")));
    assert_eq!(parameter(&place, "state").as_deref(), Some("a state"));
    assert_eq!(parameter(&place, "iss").as_deref(), Some(&*server.issuer));
    let code = parameter(&place, "code").unwrap();
    let answer = server.redeem(&app, &code).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    assert_eq!((tokens["token_type"].as_str(), tokens["scope"].as_str()), (Some("Bearer"), Some("email openid read")));
    let (access, id) = (claims(&tokens["access_token"]), claims(&tokens["id_token"]));
    assert_eq!((access["client_id"].as_str(), access["aud"].as_str()), (Some(&*app.id), Some(&*server.issuer)));
    assert_eq!(
        (id["aud"].as_str(), id["azp"].as_str(), id["nonce"].as_str()),
        (Some(&*app.id), Some(&*app.id), Some("a nonce"))
    );
    assert_eq!((id["sub"].as_str(), id["sid"].as_str()), (access["sub"].as_str(), access["sid"].as_str()));
    assert_eq!((id["email"].as_str(), id["email_verified"].as_bool(), id.get("name")), (Some(ADA), Some(false), None));
    let half = portcullis_wire::Digest::of(tokens["access_token"].as_str().unwrap().as_bytes()).0;
    assert_eq!(id["at_hash"].as_str(), Some(&*b64::encode(&half[..16])));
    let told = userinfo(&server, &tokens["access_token"]).await.expect(200).json();
    assert_eq!((told["sub"].clone(), told["email"].as_str()), (access["sub"].clone(), Some(ADA)));

    // It rotates, with the same rules as any; less may be asked for, more may not.
    let first = tokens["refresh_token"].as_str().unwrap();
    let next = server.refresh_for(&app, first).await.expect(200).json();
    assert_ne!(next["refresh_token"], tokens["refresh_token"]);
    assert!(claims(&next["id_token"]).get("nonce").is_none());
    let again = server.refresh_for(&app, first).await.expect(200).json();
    assert_eq!(again["refresh_token"], next["refresh_token"], "a repeated call gets the same successor");
    let refresh = next["refresh_token"].as_str().unwrap();
    let narrow = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("scope", "read")];
    let less = server.token(&app, &narrow).await.expect(200).json();
    assert_eq!((less["scope"].as_str(), less.get("id_token")), (Some("read"), None));
    let wide = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("scope", "read profile")];
    assert_eq!(server.token(&app, &wide).await.expect(400).json()["error"], "invalid_scope");

    // The second request asks nothing more.
    let silent = server.authorize(&app, &cookie, &[("scope", "openid email"), ("prompt", "none")]).await.expect(303);
    assert!(parameter(silent.header("location"), "code").is_some());
}

#[tokio::test]
async fn a_token_of_an_application_opens_no_account() {
    let (server, app, cookie) = world().await;
    let tokens = server.granted(&app, &cookie, "openid offline_access").await;
    let token = tokens["access_token"].as_str().unwrap();
    for path in ["/v1/me", "/v1/me/sessions", "/v1/admin/accounts"] {
        server.client.get(path).bearer(token).send().await.expect_problem("insufficient_scope");
    }
    for path in ["/v1/me/sessions", "/v1/me/sessions/current", "/v1/me"] {
        server.client.delete(path).bearer(token).send().await.expect_problem("insufficient_scope");
    }
    // An ID token is no access token, and an access token no ID token.
    let id = tokens["id_token"].as_str().unwrap();
    server.client.get("/oauth2/userinfo").bearer(id).send().await.expect_problem("token_malformed");
    server.client.get("/v1/me").bearer(id).send().await.expect_problem("token_malformed");
    let hint =
        server.authorize(&app, &cookie, &[("id_token_hint", token), ("prompt", "none"), ("scope", "openid")]).await;
    let place = hint.expect(303).header("location").to_owned();
    assert_eq!(
        parameter(&place, "error").as_deref(),
        Some("login_required"),
        "what is no ID token hints at nobody known"
    );
    // The refresh token is the application's: the sign-in's own endpoint does not take it, and ends nothing.
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    server.client.post("/v1/sessions/refresh").json(&body).send().await.expect_problem("refresh_invalid");
    server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200);
}

#[tokio::test]
async fn a_code_is_used_once_and_its_second_use_ends_what_it_gave() {
    let (server, app, cookie) = world().await;
    let code = server.code(&app, &cookie, "openid read").await;
    let tokens = server.redeem(&app, &code).await.expect(200).json();
    userinfo(&server, &tokens["access_token"]).await.expect(200);
    let again = server.redeem(&app, &code).await.expect(400);
    assert_eq!(again.json()["error"], "invalid_grant");
    assert_eq!(again.header("content-type"), "application/json");
    userinfo(&server, &tokens["access_token"]).await.expect_problem("token_revoked");
    let refused = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(400);
    assert_eq!(refused.json()["error"], "invalid_grant");
    // The browser's session is not the application's to lose; and a third time writes nothing.
    server
        .client
        .get("/account/devices")
        .header("cookie", format!("__Host-portcullis_session={cookie}"))
        .send()
        .await
        .expect(200);
    let head = server.app.hub().head();
    server.redeem(&app, &code).await.expect(400);
    assert_eq!(server.app.store().stamp().await.unwrap().head, head);
}

#[tokio::test]
async fn a_code_is_its_clients_and_its_verifiers() {
    let (server, app, cookie) = world().await;
    let other = server.application("confidential", json!({})).await;
    let code = server.code(&app, &cookie, "openid").await;
    let with = |verifier: &'static str, redirect: &'static str| {
        vec![
            ("grant_type", "authorization_code"),
            ("code", ""),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ]
    };
    for (who, mut pairs) in [
        (&other, with(VERIFIER, REDIRECT)),
        (&app, with("another-verifier-that-is-long-enough-for-rfc7636", REDIRECT)),
        (&app, with("", REDIRECT)),
        (&app, with(VERIFIER, "http://127.0.0.1:9/other")),
    ] {
        pairs[1].1 = &code;
        let refused = server.token(who, &pairs).await.expect(400).json();
        assert_eq!(refused["error"], "invalid_grant", "{refused}");
    }
    // None of that has hurt it.
    server.redeem(&app, &code).await.expect(200);
    for garbage in ["", "pca_x", "garbage"] {
        let refused = server.redeem(&app, garbage).await.expect(400).json();
        assert!(["invalid_grant", "invalid_request"].contains(&refused["error"].as_str().unwrap()));
    }
    let old = server.code(&app, &cookie, "openid").await;
    server.advance(61_000);
    assert_eq!(server.redeem(&app, &old).await.expect(400).json()["error"], "invalid_grant");
}

/// Each way of taking access away, at each thing that OAuth gives: what is on its way dies too (I8).
#[tokio::test]
async fn every_end_reaches_codes_grants_and_applications() {
    for end in ["all", "others", "current", "block", "delete", "client", "everyone", "admin"] {
        let (server, app, cookie) = world().await;
        let admin = server.admin().await;
        let phone = server.sign_in(ADA).await;
        let online = server.granted(&app, &cookie, "openid").await;
        let offline = server.granted(&app, &cookie, "openid offline_access").await;
        let waiting = server.code(&app, &cookie, "openid").await;
        let id = &phone.account;
        let call = match end {
            "all" => server.client.delete("/v1/me/sessions").bearer(&phone.access),
            "others" => server.client.delete("/v1/me/sessions?except=current").bearer(&phone.access),
            "current" => {
                let sid = claims(&online["access_token"])["sid"].as_str().unwrap().to_owned();
                server.client.delete(format!("/v1/me/sessions/{sid}")).bearer(&phone.access)
            }
            "block" => server
                .client
                .post(format!("/v1/admin/accounts/{id}/block"))
                .bearer(&admin.access)
                .json(&json!({ "reason": "x" })),
            "delete" => server.client.delete(format!("/v1/admin/accounts/{id}")).bearer(&admin.access),
            "client" => server
                .client
                .patch(format!("/v1/admin/clients/{}", app.id))
                .bearer(&admin.access)
                .json(&json!({ "disabled": true })),
            "admin" => server.client.delete(format!("/v1/admin/accounts/{id}/sessions")).bearer(&admin.access),
            _ => server
                .client
                .post("/v1/admin/revocations")
                .bearer(&admin.access)
                .json(&json!({ "everyone": true, "reason": "x" })),
        };
        call.send().await.expect(200);
        let status = if end == "client" { 401 } else { 400 };
        let what = server.redeem(&app, &waiting).await.expect(status).json();
        assert_ne!(what["error"], "server_error", "{end}");
        userinfo(&server, &online["access_token"]).await.expect_problem("token_revoked");
        server.refresh_for(&app, online["refresh_token"].as_str().unwrap()).await.expect(status);
        // An application that keeps its access is a session of its own: the end of one browser leaves it.
        let lives = end == "current";
        let told = userinfo(&server, &offline["access_token"]).await;
        assert_eq!(told.status == 200, lives, "{end}");
        let refreshed = server.refresh_for(&app, offline["refresh_token"].as_str().unwrap()).await;
        assert_eq!(refreshed.status == 200, lives, "{end}");
    }
}

#[tokio::test]
async fn revoking_really_revokes() {
    let (server, app, cookie) = world().await;
    let public = server.application("public", json!({})).await;
    let revoke = |app: Application, token: String, hint: &'static str| {
        let server = &server;
        async move {
            let pairs = [("token", token.as_str()), ("token_type_hint", hint)];
            let call = server.client.post("/oauth2/revoke");
            match app.secret.is_empty() {
                true => call.form(&encode(&[&[("client_id", app.id.as_str())], &pairs[..]].concat())).send().await,
                false => call.basic((&app.id, &app.secret)).form(&encode(&pairs)).send().await,
            }
        }
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (app, hint) in [(&app, "access_token"), (&public, "refresh_token"), (&app, "nonsense")] {
        let (kept, lost) = (server.granted(app, &cookie, "openid").await, server.granted(app, &cookie, "openid").await);
        // An access token alone: the grant lives on, and gives others.
        revoke(app.clone(), text(&lost["access_token"]), hint).await.expect(200);
        userinfo(&server, &lost["access_token"]).await.expect_problem("token_revoked");
        let next = server.refresh_for(app, &text(&lost["refresh_token"])).await.expect(200).json();
        userinfo(&server, &next["access_token"]).await.expect(200);
        // A refresh token, the predecessor too: everything of its grant.
        revoke(app.clone(), text(&lost["refresh_token"]), hint).await.expect(200);
        userinfo(&server, &next["access_token"]).await.expect_problem("token_revoked");
        server.refresh_for(app, &text(&next["refresh_token"])).await.expect(400);
        // Nothing else.
        userinfo(&server, &kept["access_token"]).await.expect(200);
        // What is another's, dead or garbage is answered alike, and changes nothing.
        let head = server.app.store().stamp().await.unwrap().head;
        let other = if app.id == public.id {
            &*Box::leak(Box::new(server.application("public", json!({})).await))
        } else {
            &public
        };
        for token in [text(&kept["access_token"]), text(&kept["refresh_token"])] {
            revoke(other.clone(), token, hint).await.expect(200);
        }
        for token in [text(&lost["refresh_token"]), text(&lost["access_token"]), "garbage".into(), "pcr_x".into()] {
            revoke(app.clone(), token, hint).await.expect(200);
        }
        assert_eq!(server.app.store().stamp().await.unwrap().head, head);
        userinfo(&server, &kept["access_token"]).await.expect(200);
        server.refresh_for(app, &text(&kept["refresh_token"])).await.expect(200);
    }
    // Of a connected app the session ends with it.
    let offline = server.granted(&app, &cookie, "openid offline_access").await;
    revoke(app.clone(), text(&offline["refresh_token"]), "").await.expect(200);
    let phone = server.sign_in(ADA).await;
    let listed = server.client.get("/v1/me/sessions").bearer(&phone.access).send().await.expect(200).json();
    assert!(
        listed["sessions"].as_array().unwrap().iter().all(|session| session["kind"] != "connected_app"),
        "{listed}"
    );
    let wrong = server.client.post("/oauth2/revoke").basic((&app.id, "wrong")).form("token=a").send().await.expect(401);
    assert_eq!(wrong.json()["error"], "invalid_client");
}

/// A revocation by filter that was worked off between a code and its redemption: what the code would found a session on is not
/// known any more, and its client hears so at once (RFC 6749 §5.2), instead of asking until the code expires.
#[tokio::test]
async fn a_code_from_before_a_filter_that_was_worked_off_is_refused_at_once() {
    let (server, app, cookie) = world().await;
    let admin = server.admin().await;
    let offline = server.code(&app, &cookie, "openid offline_access").await;
    let online = server.code(&app, &cookie, "openid").await;
    let body = json!({ "filter": { "address_range": "203.0.113.0/24" }, "reason": "a bad network" });
    let told = server.client.post("/v1/admin/revocations").bearer(&admin.access).json(&body).send().await;
    let job = format!("/v1/admin/revocations/{}", told.expect(202).json()["job"].as_str().unwrap());
    while server.client.get(&*job).bearer(&admin.access).send().await.expect(200).json()["state"] != "done" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for _ in 0..2 {
        let refused = server.redeem(&app, &offline).await.expect(400).json();
        assert_eq!(refused["error"], "invalid_grant", "{refused}");
    }
    // What goes under the browser's session, which lives, and what is asked for since, have nothing to do with it.
    server.redeem(&app, &online).await.expect(200);
    server.granted(&app, &cookie, "openid offline_access").await;
}

/// An application that refreshes under a browser's session is not the person at the browser (decision 0034).
#[tokio::test]
async fn an_applications_refreshes_do_not_keep_the_browser_signed_in() {
    const HOUR: i64 = 3_600_000;
    let mut options = portcullis_testkit::Options::default();
    options.settings.rules.idle_ttl = 10 * HOUR;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let mut online = server.granted(&app, &cookie, "openid").await;
    let mut offline = server.granted(&app, &cookie, "openid offline_access").await;
    for _ in 0..9 {
        server.advance(HOUR);
        for tokens in [&mut online, &mut offline] {
            *tokens = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200).json();
        }
    }
    server.advance(HOUR + 60_000);
    let page = server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={cookie}"));
    page.send().await.expect(303); // to the sign-in page
    let refused = server.refresh_for(&app, online["refresh_token"].as_str().unwrap()).await.expect(400);
    assert_eq!(refused.json()["error"], "invalid_grant");
    // What it holds of its own goes on.
    server.refresh_for(&app, offline["refresh_token"].as_str().unwrap()).await.expect(200);
}

/// Whoever sends a browser here again and again fills no table, and keeps nobody from the next code.
#[tokio::test]
async fn codes_that_nobody_redeems_are_few() {
    use portcullis_domain::authorize::{MAX_CODES, MAX_USED_CODES};
    let (server, app, cookie) = world().await;
    let first = server.code(&app, &cookie, "openid").await;
    let kept = server.granted(&app, &cookie, "openid").await;
    for _ in 0..MAX_CODES + 20 {
        server.code(&app, &cookie, "openid").await;
    }
    let rows = async || server.app.store().count_rows().await.unwrap().tickets;
    assert_eq!(rows().await, u64::from(MAX_CODES) + 1, "and the one that was used");
    assert_eq!(server.redeem(&app, &first).await.expect(400).json()["error"], "invalid_grant");
    let last = server.granted(&app, &cookie, "openid").await;
    userinfo(&server, &last["access_token"]).await.expect(200);
    userinfo(&server, &kept["access_token"]).await.expect(200);
    for _ in 0..MAX_USED_CODES + 5 {
        server.granted(&app, &cookie, "openid").await;
    }
    assert!(rows().await <= u64::from(MAX_CODES + MAX_USED_CODES) + 1);
}
