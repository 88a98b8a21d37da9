//! `/oauth2/logout`: OpenID Connect RP-Initiated Logout 1.0 and Front-Channel Logout 1.0.
use portcullis_testkit::application::encode;
use portcullis_testkit::{Answer, Application, TestServer, parameter};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const BYE: &str = "https://rp.example.test/bye";

async fn world(more: Value) -> (TestServer, Application, String, String) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let mut members = json!({ "post_logout_redirect_uris": [BYE] });
    members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let app = server.application("confidential", members).await;
    let cookie = server.page_sign_in(ADA).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let id = tokens["id_token"].as_str().unwrap().to_owned();
    (server, app, cookie, id)
}

async fn logout(server: &TestServer, cookie: &str, pairs: &[(&str, &str)]) -> Answer {
    let call = server.client.get(format!("/oauth2/logout?{}", encode(pairs)));
    let call =
        if cookie.is_empty() { call } else { call.header("cookie", format!("__Host-portcullis_session={cookie}")) };
    call.send().await
}

async fn is_signed_in(server: &TestServer, cookie: &str) -> bool {
    let call = server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={cookie}"));
    call.send().await.status == 200
}

fn hidden(page: &str, name: &str) -> String {
    let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1).expect("a hidden field");
    value.split('"').next().unwrap().replace("&amp;", "&").replace("&#x2f;", "/")
}

async fn confirm(server: &TestServer, cookie: &str, request: &str, session: &str, origin: &str) -> Answer {
    server
        .client
        .post("/oauth2/logout/confirm")
        .header("cookie", format!("__Host-portcullis_session={cookie}"))
        .header("origin", origin)
        .form(&encode(&[("request", request), ("session", session)]))
        .send()
        .await
}

#[tokio::test]
async fn a_hint_of_the_browsers_session_ends_it_at_once() {
    let (server, app, cookie, id) = world(json!({})).await;
    let pairs =
        [("id_token_hint", &*id), ("post_logout_redirect_uri", BYE), ("state", "a b&c"), ("client_id", &app.id)];
    // Expired ID tokens are taken too.
    server.advance(86_400_000);
    let answer = logout(&server, &cookie, &pairs).await.expect(303);
    assert!(answer.header("location").starts_with(&format!("{BYE}?state=")), "{}", answer.header("location"));
    assert_eq!(parameter(answer.header("location"), "state").as_deref(), Some("a b&c"));
    assert_eq!(answer.cookie("__Host-portcullis_session").as_deref(), Some(""));
    assert!(!is_signed_in(&server, &cookie).await);
    // Repeated: it has ended, and the browser goes on all the same.
    let again = logout(&server, &cookie, &pairs).await.expect(303);
    assert!(again.header("location").starts_with(BYE));
    // What came of it has ended with it.
    let admin = server.admin().await;
    let path = "/v1/admin/events?kind=session.ended";
    let events = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(events["events"][0]["reason"], "signed_out_by_application");
}

#[tokio::test]
async fn without_a_matching_hint_the_user_is_asked() {
    let (server, app, cookie, id) = world(json!({})).await;
    let other = server.page_sign_in(ADA).await;
    let forged = format!("{}AAAA", &id[..id.len() - 4]);
    for (cookie, pairs) in [
        (&cookie, vec![]),
        (&cookie, vec![("client_id", &*app.id), ("post_logout_redirect_uri", BYE)]),
        (&cookie, vec![("id_token_hint", &*forged)]),
        // Of another session of theirs.
        (&other, vec![("id_token_hint", &*id), ("post_logout_redirect_uri", BYE)]),
    ] {
        let page = logout(&server, cookie, &pairs).await.expect(200).text();
        assert!(page.contains("<h1 id=\"heading\">Sign out?</h1>"), "{page}");
        assert!(is_signed_in(&server, cookie).await);
    }
    let pairs = [("client_id", &*app.id), ("post_logout_redirect_uri", BYE), ("state", "s")];
    let asked = logout(&server, &cookie, &pairs).await;
    assert!(!asked.header("content-security-policy").contains("form-action"), "it leads on to the application");
    let page = asked.text();
    let (request, session) = (hidden(&page, "request"), hidden(&page, "session"));
    // A foreign page cannot answer for them, nor an old one about another session.
    confirm(&server, &cookie, &request, &session, "https://evil.example").await.expect(403);
    confirm(&server, &other, &request, &session, &server.issuer).await.expect(200);
    assert!(is_signed_in(&server, &cookie).await && is_signed_in(&server, &other).await);
    let done = confirm(&server, &cookie, &request, &session, &server.issuer).await.expect(303);
    assert_eq!(done.header("location"), format!("{BYE}?state=s"));
    assert!(!is_signed_in(&server, &cookie).await && is_signed_in(&server, &other).await);
}

#[tokio::test]
async fn nothing_leads_to_an_address_that_is_not_registered() {
    let (server, app, cookie, id) = world(json!({})).await;
    for evil in
        ["https://evil.example/", "https://rp.example.test/bye/", "https://rp.example.test/bye?x=1", "//evil.example"]
    {
        for pairs in [
            vec![("client_id", &*app.id), ("post_logout_redirect_uri", evil)],
            vec![("post_logout_redirect_uri", BYE)],
            vec![("client_id", "cli_nobody"), ("post_logout_redirect_uri", BYE)],
        ] {
            let page = logout(&server, "", &pairs).await.expect(200);
            assert!(page.text().contains("You are signed out") && page.header("location").is_empty());
            assert!(!page.text().contains("evil.example") && !page.text().contains("http-equiv"));
        }
    }
    // It ends all the same where the hint says so (§4): only the way on is closed.
    let pairs = [("id_token_hint", &*id), ("post_logout_redirect_uri", "https://evil.example/")];
    assert!(logout(&server, &cookie, &pairs).await.expect(200).text().contains("You are signed out"));
    assert!(!is_signed_in(&server, &cookie).await);
    // Parameters that contradict each other, or come twice, do nothing.
    let cookie = server.page_sign_in(ADA).await;
    let other = server.application("confidential", json!({})).await;
    logout(&server, &cookie, &[("id_token_hint", &id), ("client_id", &other.id)]).await.expect(400);
    logout(&server, &cookie, &[("state", "a"), ("state", "b")]).await.expect(400);
    logout(&server, &cookie, &[("state", &"a".repeat(7000))]).await.expect(400);
    assert!(is_signed_in(&server, &cookie).await);
}

/// A foreign page's form carries no `SameSite=Lax` cookie: the browser comes again by itself.
#[tokio::test]
async fn a_form_comes_again_with_get() {
    let (server, _, cookie, id) = world(json!({})).await;
    let form = encode(&[("id_token_hint", &id), ("post_logout_redirect_uri", BYE)]);
    let call = server.client.post("/oauth2/logout").header("origin", "https://rp.example.test").form(&form);
    let answer = call.send().await.expect(303);
    assert!(is_signed_in(&server, &cookie).await && answer.set_cookies().is_empty());
    let place = answer.header("location").to_owned();
    assert!(place.starts_with("/oauth2/logout?"));
    let call = server.client.get(place).header("cookie", format!("__Host-portcullis_session={cookie}"));
    assert_eq!(call.send().await.expect(303).header("location"), BYE);
    assert!(!is_signed_in(&server, &cookie).await);
}

/// A fault clears no cookie and says no success (I9).
#[tokio::test]
async fn a_fault_is_no_sign_out() {
    let (server, _, cookie, id) = world(json!({})).await;
    server.store.fail_from(1, portcullis_store::faulty::Mode::Before);
    let answer = logout(&server, &cookie, &[("id_token_hint", &id), ("post_logout_redirect_uri", BYE)]).await;
    server.store.never_fail();
    let answer = answer.expect(503);
    assert!(answer.set_cookies().is_empty() && answer.header("location").is_empty());
    assert!(is_signed_in(&server, &cookie).await);
}

#[tokio::test]
async fn frames_tell_the_other_applications() {
    let front = json!({
        "frontchannel_logout_uri": "https://front.example.test:8443/out?a=1", "frontchannel_logout_session_required": true,
    });
    let (server, app, cookie, id) = world(front).await;
    let plain = server
        .application("confidential", json!({ "frontchannel_logout_uri": "https://plain.example.test/out" }))
        .await;
    server.granted(&plain, &cookie, "openid").await;
    // One that has nothing under this session is not loaded.
    server.application("confidential", json!({ "frontchannel_logout_uri": "https://idle.example.test/out" })).await;
    let pairs = [("id_token_hint", &*id), ("post_logout_redirect_uri", BYE), ("state", "s\"><script>")];
    let page = logout(&server, &cookie, &pairs).await.expect(200);
    let csp = page.header("content-security-policy").to_owned();
    assert!(csp.contains("; frame-src https://front.example.test:8443 https://plain.example.test"), "{csp}");
    assert!(csp.contains("default-src 'none'") && !csp.contains("script-src"), "{csp}");
    assert_eq!(page.cookie("__Host-portcullis_session").as_deref(), Some(""));
    let html = page.text().replace("&amp;", "&").replace("&#x2f;", "/");
    let issuer = encode(&[("iss", &server.issuer)]);
    assert!(html.contains(&format!("src=\"https://front.example.test:8443/out?a=1&{issuer}&sid=ses_")), "{html}");
    assert!(html.contains("src=\"https://plain.example.test/out\"") && !html.contains("idle.example.test"), "{html}");
    assert!(
        html.contains("http-equiv=\"refresh\"") && html.contains(&format!("url={BYE}?state=s%22%3E%3Cscript%3E")),
        "{html}"
    );
    assert!(!html.contains("<script"), "{html}");
    assert!(!is_signed_in(&server, &cookie).await);
    // The same when somebody signs out by themselves.
    let cookie = server.page_sign_in(ADA).await;
    server.granted(&app, &cookie, "openid").await;
    let call = server.client.post("/sign-out").header("origin", &server.issuer);
    let page = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(200);
    assert!(page.text().contains("front.example.test") && !page.text().contains("http-equiv"));
    assert_eq!(page.cookie("__Host-portcullis_session").as_deref(), Some(""));
}

/// Front-Channel §3, RP-Initiated §2: an application that keeps its access has a session of its own, and was allowed in this browser.
#[tokio::test]
async fn who_was_allowed_in_this_browser_is_signed_out_with_it() {
    let (server, _, cookie, _) = world(json!({})).await;
    let front = json!({
        "frontchannel_logout_uri": "https://keeps.example.test/out", "frontchannel_logout_session_required": true,
        "post_logout_redirect_uris": [BYE],
    });
    let keeps = server.application("confidential", front).await;
    let tokens = server.granted(&keeps, &cookie, "openid offline_access").await;
    let id = tokens["id_token"].as_str().unwrap();
    let claims: Value = serde_json::from_slice(&b64::decode(id.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let pairs = [("id_token_hint", id), ("post_logout_redirect_uri", BYE)];
    // Another browser of theirs, and somebody else's: its user is asked.
    server.sign_up("eve@example.test").await;
    for other in [server.page_sign_in(ADA).await, server.page_sign_in("eve@example.test").await] {
        assert!(logout(&server, &other, &pairs).await.expect(200).text().contains("Sign out?"));
        assert!(is_signed_in(&server, &other).await);
    }
    let page = logout(&server, &cookie, &pairs).await.expect(200);
    assert!(page.header("content-security-policy").contains("frame-src https://keeps.example.test"));
    let html = page.text().replace("&amp;", "&").replace("&#x2f;", "/");
    let sid = claims["sid"].as_str().unwrap();
    assert!(html.contains(&format!("&sid={sid}\"")) && html.contains(&format!("url={BYE}")), "{html}");
    assert!(!is_signed_in(&server, &cookie).await);
    // What it was allowed goes on (Back-Channel §2.7).
    let again = [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
    server.token(&keeps, &again).await.expect(200);
}

/// Many connected applications of one client leave out no other; an address is loaded once.
#[tokio::test]
async fn nobody_crowds_the_frames() {
    let (server, _, cookie, _) = world(json!({})).await;
    let front = |name: &str, required: bool| {
        json!({
            "frontchannel_logout_uri": format!("https://{name}.example.test/out"),
            "frontchannel_logout_session_required": required,
        })
    };
    for (name, required, times) in
        [("many", true, 33), ("more", true, 33), ("a", false, 3), ("b", false, 1), ("c", true, 1)]
    {
        let app = server.application("confidential", front(name, required)).await;
        for _ in 0..times {
            server.granted(&app, &cookie, "openid offline_access").await;
        }
        // The browser's own session is told in any case.
        server.granted(&app, &cookie, "openid").await;
    }
    let call = server.client.post("/sign-out").header("origin", &server.issuer);
    let page = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(200);
    let html = page.text().replace("&#x2f;", "/");
    let times = |what: &str| html.matches(&format!("src=\"https://{what}.example.test/out")).count();
    assert_eq!(["a", "b", "c"].map(times), [1, 1, 2], "{html}");
    assert_eq!(html.matches("<iframe").count(), 50, "{html}");
    assert_eq!((times("many"), times("more")), (23, 23));
}

#[tokio::test]
async fn the_metadata_says_what_is_true() {
    let server = TestServer::usual().await;
    let told = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(told["end_session_endpoint"], format!("{}/oauth2/logout", server.issuer));
    for name in [
        "backchannel_logout_supported",
        "backchannel_logout_session_supported",
        "frontchannel_logout_supported",
        "frontchannel_logout_session_supported",
    ] {
        assert_eq!(told[name], true, "{name}");
    }
}
