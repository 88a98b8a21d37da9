//! What a foreign page can make a browser do, and what it can learn from it.
use super::{ADA, SESSION, claims, hidden, operations, post, with_cookie};
use http::Method;
use portcullis_testkit::TestServer;
use portcullis_testkit::application::{encode, request};
use portcullis_testkit::server::PASSWORD;
use serde_json::{Value, json};

/// RFC 9700 §4.7, OAuth 2.1 §7.12: no changing operation at all is done for a page of another origin, with whatever cookies the
/// browser sends along; a form of a page is refused before it is read.
#[tokio::test]
async fn csrf_on_every_form() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let body = json!({ "identifier": ADA, "password": PASSWORD, "transport": "cookie" });
    let call = server.client.post("/v1/sessions").json(&body).header("origin", &server.issuer);
    let refresh = call.send().await.expect(201).cookie("__Host-portcullis_refresh").unwrap();
    let phone = server.sign_in(ADA).await;
    let asked = server.authorize(&app, &cookie, &[("scope", "openid email read")]).await.expect(200).text();
    let sid = claims(&tokens["access_token"])["sid"].as_str().unwrap().to_owned();
    // Everything that a form of ours could hold, and right wherever that can be known.
    let form = encode(&[
        ("session", &sid),
        ("device_name", "hacked"),
        ("client", &app.id),
        ("request", &hidden(&asked, "request")),
        ("shown", &hidden(&asked, "shown")),
        ("decision", "allow"),
        ("identifier", ADA),
        ("password", PASSWORD),
        ("return_to", "/account/devices"),
        ("user_code", "BCDFGHJK"),
        ("ticket", "x"),
        ("link", "x"),
        ("upstream", "x"),
    ]);
    let as_json =
        json!({ "session": sid, "identifier": ADA, "password": PASSWORD, "email": "new@example.test" }).to_string();
    let standing = async || {
        let list = |path: &'static str| server.client.get(path).bearer(&phone.access).send();
        let sessions = list("/v1/me/sessions").await.expect(200).json();
        let ids: Vec<Value> =
            sessions["sessions"].as_array().unwrap().iter().map(|one| json!([one["id"], one["device_name"]])).collect();
        (server.app.store().stamp().await.unwrap().head, ids, list("/v1/me/apps").await.expect(200).json())
    };
    let before = standing().await;
    let cookies = format!("{SESSION}={cookie}; __Host-portcullis_refresh={refresh}");
    let mut forms = 0;
    for operation in operations(&server).await.iter().filter(|one| one.method != Method::GET) {
        let path = &*operation.path;
        // They do nothing by themselves: the browser comes again with GET, as it could have done at once.
        let leads_on = matches!(path, "/oauth2/authorize" | "/oauth2/logout");
        forms += u32::from(operation.is_of_a_page());
        for origin in [Some("https://evil.example"), Some("null"), Some("http://127.0.0.1:1"), None] {
            for (kind, body) in [("application/x-www-form-urlencoded", &form), ("text/plain", &as_json)] {
                let call = server.client.call(operation.method.clone(), path).header("cookie", &cookies);
                let mut call = call.text(kind, body.clone());
                if let Some(origin) = origin {
                    call = call.header("origin", origin);
                }
                let answer = call.send().await;
                let status = answer.status.as_u16();
                let what = format!("{} {path} from {origin:?} as {kind}: {status}", operation.method);
                assert!(answer.set_cookies().is_empty(), "{what}");
                if operation.is_of_a_page() {
                    assert_eq!(status, 403, "{what}");
                    assert!(answer.header("content-type").starts_with("text/html"), "{what}");
                } else if leads_on && status == 303 {
                    assert!(answer.header("location").starts_with(&format!("{path}?")), "{what}");
                } else {
                    assert!((400..500).contains(&status), "{what}");
                }
                assert_eq!(answer.header("access-control-allow-credentials"), "", "{what}");
            }
        }
    }
    assert!(forms >= 14, "{forms} forms");
    assert_eq!(standing().await, before);
}

/// RFC 9700 §4.16: nobody frames anything of ours, by the old header and the new one; the pages with a question besides.
#[tokio::test]
async fn clickjacking_of_every_page() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let mut answers = vec![];
    for operation in operations(&server).await.iter().filter(|one| one.method == Method::GET) {
        for signed_in in [true, false] {
            let call = server.client.get(&*operation.path);
            let call = if signed_in { with_cookie(call, &cookie) } else { call };
            answers.push((operation.path.clone(), call.send().await));
        }
    }
    let asked = format!("/oauth2/authorize?{}", request(&app, &[]));
    let page = with_cookie(server.client.get(&*asked), &cookie).send().await.expect(200);
    assert!(page.text().contains("Allow An app?"));
    answers.push((asked, page));
    let code = server
        .application(
            "public",
            json!({ "redirect_uris": [], "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"] }),
        )
        .await;
    let begun = server.client.post("/oauth2/device").form(&encode(&[("client_id", &code.id), ("scope", "read")]));
    let code = begun.send().await.expect(200).json()["user_code"].as_str().unwrap().to_owned();
    let page = post(&server, &cookie, "/device", &encode(&[("user_code", &code)])).await.expect(200);
    assert!(page.text().contains("An app"));
    answers.push(("/device".into(), page));
    answers.push(("/sign-in".into(), post(&server, "", "/sign-in", "identifier=a&password=b").await.expect(401)));
    let mut pages = 0;
    for (path, answer) in answers {
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe-inline") && !policy.contains("script-src"), "{path}: {policy}");
        if answer.header("content-type").starts_with("text/html") {
            pages += 1;
            assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        }
    }
    assert!(pages >= 12, "{pages} pages");
}

/// RFC 9700 §4.2, §4.3, OAuth 2.1 §3.2.3: what is secret stands in no page and no cache, goes out with no referrer, and in the
/// browser's history is worth nothing any more.
#[tokio::test]
async fn nothing_leaks_by_referrer_history_or_cache() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({ "client_uri": "https://photos.example" })).await;
    let cookie = server.page_sign_in(ADA).await;
    let asked = server.authorize(&app, &cookie, &[]).await.expect(200);
    assert_eq!(asked.header("referrer-policy"), "same-origin");
    let html = asked.text();
    // Nothing of others is loaded; the one link that leads away, the client's home page, tells nobody where it was.
    for part in html.split("https://").skip(1) {
        assert!(part.starts_with("photos.example\" rel=\"noreferrer\""), "{part}");
    }
    assert!(!html.contains("http://127.0.0.1") && !html.contains("<script"), "{html}");
    let done = server.decide(&html, &cookie, "allow").await.expect(303);
    let place = done.header("location").to_owned();
    let code = portcullis_testkit::parameter(&place, "code").unwrap();
    assert_eq!((done.header("referrer-policy"), done.header("cache-control")), ("same-origin", "no-store"));
    assert!(done.text().is_empty(), "the code stands in the address and nowhere else");
    let tokens = server.redeem(&app, &code).await.expect(200);
    assert_eq!(tokens.header("cache-control"), "no-store");
    let tokens = tokens.json();
    assert!(!place.contains(tokens["access_token"].as_str().unwrap()));
    // Whoever finds the address in the history finds a used code; an access token in an address is not even read (§4.3.2).
    let access = tokens["access_token"].as_str().unwrap();
    for path in ["/oauth2/userinfo", "/v1/me"] {
        let call = server.client.get(format!("{path}?access_token={access}")).send().await;
        assert!([400, 401].contains(&call.status.as_u16()), "{path}");
        let form = server.client.post("/oauth2/userinfo").form(&encode(&[("access_token", access)])).send().await;
        form.expect_problem("token_missing");
    }
    assert_eq!(server.redeem(&app, &code).await.expect(400).json()["error"], "invalid_grant");
    // No answer that is made for somebody is kept, refusals neither.
    for operation in operations(&server).await {
        let public = operation.path.starts_with("/.well-known/") || operation.path.starts_with("/assets/");
        if operation.path.starts_with("/v1/feed") {
            continue; // a verifier's own protocol, which says `no-cache` to proxies that buffer
        }
        let call = with_cookie(server.client.call(operation.method.clone(), &*operation.path), &cookie);
        let answer = call.bearer("x").header("origin", "https://evil.example").send().await;
        let told = answer.header("cache-control");
        let referrer = answer.header("referrer-policy");
        assert_eq!(told == "no-store", !public, "{} {}: {told}", operation.method, operation.path);
        // Pages whose path is a secret send no path, not even to us; with `no-referrer` their forms would come from nowhere.
        let secret = ["/recover/", "/not-me/", "/email/"].iter().any(|page| operation.path.starts_with(page));
        let quiet = ["same-origin", "no-referrer"].contains(&referrer) || secret && referrer == "strict-origin";
        assert!(quiet, "{}: {referrer}", operation.path);
    }
}

/// RFC 9700 §2.6, OAuth 2.1 §3.1: no page of another origin reads what the authorization endpoint or a page answers.
#[tokio::test]
async fn no_sharing_of_pages_with_other_origins() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let asked = request(&app, &[]);
    for operation in
        operations(&server).await.iter().filter(|one| one.is_of_a_page() || one.path == "/oauth2/authorize")
    {
        let path = format!("{}?{asked}", operation.path);
        for origin in ["https://evil.example", "http://127.0.0.1:9", "null"] {
            let call =
                with_cookie(server.client.call(operation.method.clone(), &*path), &cookie).header("origin", origin);
            let answer = call.send().await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
            let ask = server.client.call(Method::OPTIONS, &*path).header("origin", origin);
            let ask = ask.header("access-control-request-method", operation.method.as_str()).send().await;
            assert_eq!((ask.status.as_u16(), ask.header("access-control-allow-origin")), (403, ""), "{path}");
        }
    }
}
