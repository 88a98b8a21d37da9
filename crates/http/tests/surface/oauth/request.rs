//! Authorization requests: what is refused and where, who must sign in first, and what is asked.
use portcullis_testkit::application::{REDIRECT, encode, request};
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{TestServer, parameter};
use serde_json::json;

const ADA: &str = "ada@example.test";

#[tokio::test]
async fn no_open_redirect() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app =
        server.application("confidential", json!({ "redirect_uris": [REDIRECT, "https://app.example/cb"] })).await;
    let cookie = server.page_sign_in(ADA).await;
    for evil in [
        "https://evil.example/cb",
        "https://app.example/cb/",
        "https://app.example/cb?next=https://evil.example",
        "https://app.example/cb%2f..%2fevil",
        "https://app.example@evil.example/cb",
        "https://app.example.evil.example/cb",
        "//evil.example/cb",
        "javascript:alert(1)",
        "http://127.0.0.1.evil.example/cb",
        "http://localhost:9/cb",
    ] {
        let answer = server.authorize(&app, &cookie, &[("redirect_uri", evil)]).await.expect(400);
        assert!(
            answer.header("content-type").starts_with("text/html") && answer.header("location").is_empty(),
            "{evil}"
        );
    }
    // The port of a loopback address is the application's to choose (RFC 8252 §7.3).
    let chosen =
        server.authorize(&app, &cookie, &[("redirect_uri", "http://127.0.0.1:50123/cb"), ("prompt", "none")]).await;
    assert!(chosen.expect(303).header("location").starts_with("http://127.0.0.1:50123/cb?error=consent_required"));
    // Unknown clients, and what says where to go more than once: a page, and nothing else.
    for query in [
        "",
        "client_id=cli_nothing",
        &format!("{}&client_id=x", request(&app, &[])),
        &format!("{}&redirect_uri=https%3A%2F%2Fevil.example%2Fcb", request(&app, &[])),
    ] {
        let answer = server.client.get(format!("/oauth2/authorize?{query}")).send().await.expect(400);
        assert!(answer.header("location").is_empty(), "{query}");
    }
    // What else comes twice is the application's to hear of, at its own address.
    let query = format!("{}&state=b", request(&app, &[]));
    let answer = server.client.get(format!("/oauth2/authorize?{query}")).send().await.expect(303);
    assert!(answer.header("location").starts_with(&format!("{REDIRECT}?error=invalid_request")), "{query}");
    let verifier = server.new_client("verifier").await;
    let answer =
        server.client.get(format!("/oauth2/authorize?client_id={}&response_type=code", verifier.0)).send().await;
    assert!(answer.expect(400).header("location").is_empty());
}

#[tokio::test]
async fn what_a_client_does_wrong_is_told_to_it() {
    let server = TestServer::usual().await;
    let app = server.application("confidential", json!({})).await;
    for (more, error) in [
        (vec![("response_type", "token")], "unsupported_response_type"),
        (vec![("code_challenge", "")], "invalid_request"),
        (vec![("code_challenge_method", "plain")], "invalid_request"),
        (vec![("scope", "admin account")], "invalid_scope"),
        (vec![("resource", "https://other.example")], "invalid_target"),
        (vec![("request", "eyJ")], "request_not_supported"),
        (vec![("request_uri", "https://evil.example")], "request_uri_not_supported"),
        (vec![("prompt", "none")], "login_required"),
        (vec![("max_age", "soon")], "invalid_request"),
    ] {
        let answer = server.authorize(&app, "", &more).await.expect(303);
        let place = answer.header("location");
        assert!(place.starts_with(&format!("{REDIRECT}?")), "{place}");
        assert_eq!(parameter(place, "error").as_deref(), Some(error), "{place}");
        assert_eq!(parameter(place, "state").as_deref(), Some("a state"));
        assert_eq!(parameter(place, "iss").as_deref(), Some(&*server.issuer), "RFC 9207 §2");
        assert!(parameter(place, "code").is_none());
    }
}

async fn sign_in_for(server: &TestServer, place: &str, cookie: Option<&str>) -> portcullis_testkit::Answer {
    let back = parameter(place, "return_to").unwrap();
    let form = encode(&[("identifier", ADA), ("password", PASSWORD), ("return_to", &back)]);
    let mut call = server.client.post("/sign-in").header("origin", &server.issuer).form(&form);
    if let Some(cookie) = cookie {
        call = call.header("cookie", format!("__Host-portcullis_session={cookie}"));
    }
    call.send().await.expect(303)
}

#[tokio::test]
async fn who_is_not_signed_in_does_that_first_and_goes_on() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let answer = server.authorize(&app, "", &[("login_hint", ADA)]).await.expect(303);
    let place = answer.header("location").to_owned();
    assert!(place.starts_with("/sign-in?") && parameter(&place, "login_hint").as_deref() == Some(ADA), "{place}");
    let page = server.client.get(&*place).send().await.expect(200);
    assert!(page.text().contains(&format!("value=\"{ADA}\"")));
    assert!(
        !page.header("content-security-policy").contains("form-action"),
        "what follows is the application's affair"
    );
    let signed_in = sign_in_for(&server, &place, None).await;
    let cookie = signed_in.cookie("__Host-portcullis_session").unwrap();
    let on = signed_in.header("location").to_owned();
    assert!(on.starts_with("/oauth2/authorize?"), "{on}");
    let page =
        server.client.get(on).header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(200);
    let page = page.text();
    let denied = server.decide(&page, &cookie, "deny").await.expect(303);
    assert_eq!(parameter(denied.header("location"), "error").as_deref(), Some("access_denied"));
    let allowed = server.decide(&page, &cookie, "allow").await.expect(303);
    assert!(parameter(allowed.header("location"), "code").is_some());
}

#[tokio::test]
async fn a_client_can_ask_for_a_fresh_sign_in() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({ "consent": "implied" })).await;
    let mut cookie = server.page_sign_in(ADA).await;
    let code = |answer: &portcullis_testkit::Answer| parameter(answer.header("location"), "code");
    assert!(code(&server.authorize(&app, &cookie, &[]).await.expect(303)).is_some());
    server.advance(5_000);
    assert!(code(&server.authorize(&app, &cookie, &[("max_age", "60")]).await.expect(303)).is_some());
    for more in [[("prompt", "login")], [("max_age", "4")], [("max_age", "0")], [("prompt", "select_account")]] {
        let asked = server.authorize(&app, &cookie, &more).await.expect(303).header("location").to_owned();
        assert!(asked.starts_with("/sign-in?again=1"), "{asked}");
        // The page is shown, though somebody is signed in.
        let shown =
            server.client.get(&*asked).header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
        assert!(shown.expect(200).text().contains("Password"));
        server.advance(1_000);
        let again = sign_in_for(&server, &asked, Some(&cookie)).await;
        let on = again.header("location").to_owned();
        cookie = again.cookie("__Host-portcullis_session").expect("each proof brings another cookie");
        let done = server.client.get(on).header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
        assert!(code(&done.expect(303)).is_some(), "{more:?}");
        server.advance(5_000);
    }
    // The mark is not to be made up, and not one of another request.
    let asked = server.authorize(&app, &cookie, &[("prompt", "login")]).await.expect(303).header("location").to_owned();
    let mark = parameter(&parameter(&asked, "return_to").unwrap(), "portcullis_seen").unwrap();
    for more in [
        [("prompt", "login"), ("portcullis_seen", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), ("state", "a state")],
        [("prompt", "login"), ("portcullis_seen", &mark), ("state", "another")],
    ] {
        let answer = server.authorize(&app, &cookie, &more).await.expect(303);
        assert!(answer.header("location").starts_with("/sign-in?"), "{}", answer.header("location"));
    }
    // Proving who one is again makes no second device.
    let phone = server.sign_in(ADA).await;
    let listed = server.client.get("/v1/me/sessions").bearer(&phone.access).send().await.expect(200).json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 2, "{listed}");
}

/// OWASP ASVS 5.0 §7.2.4: whoever holds the cookie of before, by theft or by having planted it, gains nothing by a proof; and
/// whoever lost the answer to it is not signed out.
#[tokio::test]
async fn a_proof_brings_another_cookie_and_the_old_one_gains_nothing() {
    let server = TestServer::usual().await;
    let ada: portcullis_wire::AccountId = server.sign_up(ADA).await.parse().unwrap();
    let app = server.application("public", json!({ "consent": "implied" })).await;
    let first = server.page_sign_in(ADA).await;
    server.advance(60_000);
    let asks = async |cookie: &str, more: &[(&str, &str)]| {
        let answer = server.authorize(&app, cookie, more).await.expect(303);
        let place = answer.header("location").to_owned();
        (parameter(&place, "code").is_some(), parameter(&place, "error"))
    };
    let fresh = [("max_age", "30"), ("prompt", "none")];
    let quiet = [("prompt", "none")];
    let (granted, refused) = ((true, None), (false, Some("login_required".to_owned())));
    assert_eq!(asks(&first, &fresh).await, refused);
    // Twice at once, as by a double click, and once more because both answers were lost: one successor, byte for byte.
    let proof = || sign_in_for(&server, "/sign-in?return_to=%2Faccount%2Fdevices", Some(&first));
    let (one, two) = tokio::join!(proof(), proof());
    let second = one.cookie("__Host-portcullis_session").unwrap();
    assert_ne!(second, first);
    assert_eq!(two.cookie("__Host-portcullis_session").as_ref(), Some(&second));
    server.advance(5_000);
    assert_eq!(
        (asks(&first, &quiet).await, asks(&first, &fresh).await),
        (granted.clone(), refused.clone()),
        "not by it"
    );
    assert_eq!(proof().await.cookie("__Host-portcullis_session").as_ref(), Some(&second));
    // The new one is shown: the old one is taken for what is on its way, and then it is nobody's.
    assert_eq!(asks(&second, &fresh).await, granted);
    server.advance(9_000);
    assert_eq!((asks(&first, &quiet).await, asks(&first, &fresh).await), (granted.clone(), refused.clone()));
    server.advance(1_000);
    assert_eq!((asks(&first, &quiet).await, asks(&second, &fresh).await), (refused, granted));
    let page = server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={first}"));
    assert_eq!(
        page.send().await.expect(303).cookie("__Host-portcullis_session"),
        None,
        "it is not cleared: it may be replaced"
    );
    // It is the same session all the while.
    assert_eq!(server.app.store().list_sessions(ada, 9).await.unwrap().len(), 1);
    // A wrong password changes nothing.
    let form = encode(&[("identifier", ADA), ("password", "wrong"), ("return_to", "/account/devices")]);
    let call = server.client.post("/sign-in").header("origin", &server.issuer).form(&form);
    let wrong = call.header("cookie", format!("__Host-portcullis_session={second}")).send().await;
    assert_eq!((wrong.status.as_u16(), wrong.cookie("__Host-portcullis_session")), (401, None));
    assert_eq!(asks(&second, &quiet).await, (true, None));
}

/// OpenID Connect Core §3.1.2.1: who is meant is signed in, or nobody is.
#[tokio::test]
async fn a_hint_at_somebody_else_signs_nobody_in_silently() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    server.sign_up("eve@example.test").await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let (ada, eve) = (server.page_sign_in(ADA).await, server.page_sign_in("eve@example.test").await);
    let tokens = server.granted(&app, &ada, "openid").await;
    let hint = tokens["id_token"].as_str().unwrap();
    let error = |answer: &portcullis_testkit::Answer| parameter(answer.header("location"), "error");
    let code = |answer: &portcullis_testkit::Answer| parameter(answer.header("location"), "code");
    for (cookie, hint, granted) in [(&ada, hint, true), (&eve, hint, false), (&ada, "no.id.token", false)] {
        let silent = [("id_token_hint", hint), ("prompt", "none")];
        let answer = server.authorize(&app, cookie, &silent).await.expect(303);
        let wanted = (!granted).then(|| "login_required".to_owned());
        assert_eq!((code(&answer).is_some(), error(&answer)), (granted, wanted), "{hint}");
        let shown = server.authorize(&app, cookie, &[("id_token_hint", hint)]).await.expect(303);
        assert_eq!(
            (code(&shown).is_some(), shown.header("location").starts_with("/sign-in?again=1")),
            (granted, !granted)
        );
    }
    // Asked to sign in, Eve does so as herself: the client is told, and she is not asked for ever.
    let asked =
        server.authorize(&app, &eve, &[("id_token_hint", hint)]).await.expect(303).header("location").to_owned();
    server.advance(1_000);
    let as_eve = server.page_sign_in("eve@example.test").await;
    let on = parameter(&asked, "return_to").unwrap();
    let go_on =
        |cookie: String| server.client.get(&*on).header("cookie", format!("__Host-portcullis_session={cookie}")).send();
    let told = go_on(as_eve).await.expect(303);
    assert_eq!((error(&told).as_deref(), code(&told)), (Some("login_required"), None));
    // As Ada, who is meant.
    let as_ada = sign_in_for(&server, &asked, Some(&eve)).await.cookie("__Host-portcullis_session").unwrap();
    assert!(code(&go_on(as_ada).await.expect(303)).is_some());
}

#[tokio::test]
async fn the_question_is_answered_by_whom_it_was_put_to() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    server.sign_up("eve@example.test").await;
    let app = server.application("confidential", json!({})).await;
    let (ada, eve) = (server.page_sign_in(ADA).await, server.page_sign_in("eve@example.test").await);
    let page = server.authorize(&app, &ada, &[]).await.expect(200).text();
    // Of another account: it is asked itself.
    server.decide(&page, &eve, "allow").await.expect(200);
    // By a foreign page: nothing.
    let form = encode(&[("request", &request(&app, &[])), ("decision", "allow")]);
    for origin in [Some("https://evil.example"), Some("null"), None] {
        let mut call = server
            .client
            .post("/oauth2/consent")
            .header("cookie", format!("__Host-portcullis_session={ada}"))
            .form(&form);
        if let Some(origin) = origin {
            call = call.header("origin", origin);
        }
        call.send().await.expect(403);
    }
    // The request was changed meanwhile: what was shown is not what is allowed.
    let more = page.replace("read", "read+profile");
    assert_ne!(more, page);
    server.decide(&more, &ada, "allow").await.expect(200);
    // By a form, as OpenID Connect has it: the browser comes again with its cookies.
    let posted = server.client.post("/oauth2/authorize").form(&request(&app, &[])).send().await.expect(303);
    assert!(posted.header("location").starts_with("/oauth2/authorize?"));
}
