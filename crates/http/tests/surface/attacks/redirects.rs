//! Where a browser can be made to go.
use super::{ADA, operations, post, with_cookie};
use http::Method;
use portcullis_app::{UpstreamKind, UpstreamSettings};
use portcullis_testkit::application::{REDIRECT, encode, request};
use portcullis_testkit::idp::Idp;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Options, TestServer, parameter};
use portcullis_wire::SecretString;
use serde_json::json;

const REGISTERED: &str = "https://app.example/cb";

/// Addresses that some parser reads as one of `REGISTERED` or of the loopback address beside it, and that are none.
const TRICKS: [&str; 54] = [
    // The path.
    "https://app.example/cb/",
    "https://app.example/cb/.",
    "https://app.example/cb/../evil",
    "https://app.example/cb/%2e%2e/evil",
    "https://app.example/cb/..%2fevil",
    "https://app.example/./cb",
    "https://app.example//cb",
    "https://app.example/CB",
    "https://app.example/c%62",
    "https://app.example/cb;a=b",
    "https://app.example/cb%00",
    "https://app.example/cb%0d%0aset-cookie:%20a=b",
    // Query and fragment.
    "https://app.example/cb?",
    "https://app.example/cb?next=https://evil.example",
    "https://app.example/cb&a=b",
    "https://app.example/cb#",
    "https://app.example/cb#@evil.example",
    "https://evil.example/#https://app.example/cb",
    "https://evil.example/?https://app.example/cb",
    "https://evil.example/https://app.example/cb",
    // The user part, encoded too.
    "https://app.example@evil.example/cb",
    "https://app.example%40evil.example/cb",
    "https://app.example:x@evil.example/cb",
    "https://evil.example\\@app.example/cb",
    "https://app.example\\.evil.example/cb",
    // The host: below, beside, behind, with a dot at its end, in letters that only look alike, encoded.
    "https://www.app.example/cb",
    "https://app.example.evil.example/cb",
    "https://evilapp.example/cb",
    "https://app.example./cb",
    "https://APP.example/cb",
    "https://\u{430}pp.example/cb",
    "https://xn--pp-6kc.example/cb",
    "https://app\u{3002}example/cb",
    "https://%61pp.example/cb",
    // The port and the scheme.
    "https://app.example:443/cb",
    "https://app.example:8443/cb",
    "http://app.example/cb",
    "HTTPS://app.example/cb",
    "https:/app.example/cb",
    "https:app.example/cb",
    "//app.example/cb",
    "/cb",
    "javascript:alert(1)//https://app.example/cb",
    "data:text/html,https://app.example/cb",
    // Loopback: the port alone is free (RFC 8252 §7.3).
    "http://127.0.0.1:9/cb/",
    "http://127.0.0.1:+9/cb",
    "http://127.0.0.1:/cb",
    "http://127.0.0.1:65536/cb",
    "http://127.0.0.1:9@evil.example/cb",
    "http://127.0.0.1.evil.example:9/cb",
    "http://127.1:9/cb",
    "http://2130706433:9/cb",
    "http://localhost:9/cb",
    "http://[::1]:9/cb",
];

/// RFC 9700 §4.1.3, OAuth 2.1 §4.1.1: compared as text. A wrong one is told on a page of ours, by the browser's request, by a form, and by
/// the answer to a question; by a push it is told to the client.
#[tokio::test]
async fn redirect_uri_tricks() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({ "redirect_uris": [REGISTERED, REDIRECT] })).await;
    let cookie = server.page_sign_in(ADA).await;
    let good = server.authorize(&app, &cookie, &[("redirect_uri", REGISTERED)]).await.expect(200).text();
    let padded = [
        " https://app.example/cb",
        "https://app.example/cb ",
        "https://app.example/cb\n",
        "\u{feff}https://app.example/cb",
    ];
    for evil in TRICKS.iter().chain(&padded) {
        let asked = request(&app, &[("redirect_uri", evil)]);
        let shown = with_cookie(server.client.get(format!("/oauth2/authorize?{asked}")), &cookie).send().await;
        let form = encode(&[("request", &asked), ("shown", &super::hidden(&good, "shown")), ("decision", "allow")]);
        let decided = post(&server, &cookie, "/oauth2/consent", &form).await;
        for answer in [shown, decided] {
            let answer = answer.expect(400);
            assert!(answer.header("location").is_empty(), "{evil:?}");
            assert!(answer.header("content-type").starts_with("text/html"), "{evil:?}");
        }
        let pushed = server.client.post("/oauth2/par").form(&asked).send().await.expect(400).json();
        assert_eq!(pushed["error"], "invalid_request", "{evil:?}");
    }
    // Two of them, and none where there are several.
    let twice = format!("{}&redirect_uri=https%3A%2F%2Fevil.example", request(&app, &[]));
    for asked in
        [twice, request(&app, &[("redirect_uri", "")]), request(&app, &[("redirect_uri", ""), ("scope", "read")])]
    {
        let answer =
            with_cookie(server.client.get(format!("/oauth2/authorize?{asked}")), &cookie).send().await.expect(400);
        assert!(answer.header("location").is_empty(), "{asked}");
    }
    // The code goes to the address that was asked for, and is redeemed with no other.
    let place = server.decide(&good, &cookie, "allow").await.expect(303).header("location").to_owned();
    assert!(place.starts_with(&format!("{REGISTERED}?code=")), "{place}");
    assert_eq!(
        server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(400).json()["error"],
        "invalid_grant"
    );
}

/// RFC 9700 §2.6, OAuth 2.1 §2.3.1: no http but on loopback, no fragments, whole addresses, and schemes of one's own only by a domain.
#[tokio::test]
async fn redirect_uris_that_nobody_may_register() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    for (kind, evil) in [
        ("confidential", "http://app.example/cb"),
        ("confidential", "https://app.example/cb#f"),
        ("confidential", "https://*.app.example/cb"),
        ("confidential", "https://app.example@evil.example/cb"),
        ("confidential", "https://app.example\\@evil.example/cb"),
        ("confidential", "https://\u{430}pp.example/cb"),
        ("confidential", "https:///cb"),
        ("confidential", "/cb"),
        ("confidential", "//app.example/cb"),
        ("confidential", "com.example.app:/cb"),
        ("public", "app:/cb"),
        ("public", "javascript:alert(1)"),
        ("public", "data:text/html,x"),
        ("public", "file:///etc/passwd"),
        ("public", "http://0.0.0.0/cb"),
        ("public", "http://127.0.0.1.evil.example/cb"),
        ("public", "http://127.0.0.1@evil.example/cb"),
        ("public", "http://127.0.0.1:+9/cb"),
    ] {
        for list in ["redirect_uris", "post_logout_redirect_uris"] {
            let mut body = json!({ "name": "An app", "kind": kind, "redirect_uris": [REGISTERED] });
            body[list] = json!([evil]);
            let call = server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await;
            assert_eq!(call.expect_problem("invalid_value").json()["field"], list, "{evil}");
        }
    }
}

/// RFC 9700 §4.11: no page leads a browser to an address that stands in a parameter, signed in or not, by GET or by a form.
#[tokio::test]
async fn open_redirects_of_every_page() {
    let idp = Idp::start().await;
    let mut options = Options::default();
    options.settings.upstreams = vec![UpstreamSettings {
        id: "idp".into(),
        name: "Another".into(),
        kind: UpstreamKind::Oidc,
        issuer: idp.issuer.clone(),
        client_id: "us".into(),
        client_secret: SecretString::new("a secret"),
        scopes: vec!["openid".into()],
    }];
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    let ours = |place: &str| {
        let bytes = place.as_bytes();
        bytes.first() == Some(&b'/')
            && !matches!(bytes.get(1), Some(b'/' | b'\\'))
            && place.bytes().all(|b| b.is_ascii_graphic())
    };
    let evils = [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "https:evil.example",
        "javascript:alert('evil')",
        "/ok\r\nLocation: https://evil.example",
    ];
    let names =
        ["return_to", "next", "url", "redirect_uri", "post_logout_redirect_uri", "request", "target_link_uri", "state"];
    let mut redirects = 0;
    for operation in
        operations(&server).await.iter().filter(|one| one.is_of_a_page() || one.path.starts_with("/oauth2/"))
    {
        let path = operation.path.replace("/upstream/x", "/upstream/idp");
        for evil in evils {
            let pairs: Vec<_> =
                names.iter().map(|name| (*name, evil)).chain([("identifier", ADA), ("password", PASSWORD)]).collect();
            let form = encode(&pairs);
            for signed_in in [true, false] {
                let call = server
                    .client
                    .call(operation.method.clone(), format!("{path}?{form}"))
                    .header("origin", &server.issuer);
                let call = if operation.method == Method::GET { call } else { call.form(&form) };
                // Some of these sign out: each has a session of its own.
                let call = if signed_in { with_cookie(call, &server.page_sign_in(ADA).await) } else { call };
                let answer = call.send().await;
                let place = answer.header("location");
                if place.is_empty() {
                    continue;
                }
                redirects += 1;
                let leaves = path == "/upstream/idp" && place.starts_with(&format!("{}/authorize?", idp.issuer));
                assert!(ours(place) || leaves, "{} {path} with {evil:?} leads to {place}", operation.method);
                // What leads back here again may say where from, and that is looked at again.
                let comes_again = place.starts_with("/oauth2/");
                assert!(
                    comes_again || !place.contains("evil"),
                    "{} {path} with {evil:?} leads to {place}",
                    operation.method
                );
            }
        }
    }
    assert!(redirects > 100, "{redirects}");
    // At the way back from another provider: where to was kept here, and a made-up state leads nowhere.
    for evil in evils {
        let begun =
            server.client.get(format!("/upstream/idp?{}", encode(&[("return_to", evil)]))).send().await.expect(303);
        let state = parameter(begun.header("location"), "state").unwrap();
        let browser = begun.set_cookies()[0].split(';').next().unwrap().to_owned();
        for state in [state.as_str(), evil] {
            let query = encode(&[("state", state), ("error", "access_denied"), ("iss", &idp.issuer)]);
            let call = server.client.get(format!("/upstream/idp/callback?{query}")).header("cookie", &browser);
            let place = call.send().await.expect(303).header("location").to_owned();
            assert!(place.starts_with("/sign-in?") && !place.contains("evil"), "{place}");
        }
    }
}

/// RFC 9700 §4.12, OAuth 2.1 §7.5.3: whatever a form held, a redirect is a 303, which no browser repeats the form to.
#[tokio::test]
async fn no_redirect_sends_credentials_on() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("public", json!({})).await;
    let place = server.authorize(&app, "", &[]).await.expect(303).header("location").to_owned();
    let back = parameter(&place, "return_to").unwrap();
    let form = encode(&[("identifier", ADA), ("password", PASSWORD), ("return_to", &back)]);
    let signed_in =
        server.client.post("/sign-in").header("origin", &server.issuer).form(&form).send().await.expect(303);
    let cookie = signed_in.cookie(super::SESSION).unwrap();
    let page = with_cookie(server.client.get(signed_in.header("location")), &cookie).send().await.expect(200).text();
    let mut answers =
        vec![signed_in, server.decide(&page, &cookie, "deny").await, server.decide(&page, &cookie, "allow").await];
    // Every other form, with whatever it may want.
    let form = format!("{form}&session=x&client=x&user_code=x&decision=allow&state=s");
    for operation in operations(&server).await.iter().filter(|one| one.method == Method::POST) {
        let cookie = server.page_sign_in(ADA).await;
        answers.push(post(&server, &cookie, &operation.path, &form).await);
    }
    let redirects: Vec<_> = answers.iter().filter(|answer| answer.status.is_redirection()).collect();
    assert!(redirects.len() >= 8, "{}", redirects.len());
    for answer in redirects {
        assert_eq!(answer.status, 303, "{}", answer.header("location"));
        // Nor does it stand in the address; `/oauth2/…` takes a form as it came, and a password is none of its parameters.
        let place = answer.header("location");
        assert!(!place.contains(&encode(&[("password", PASSWORD)])) || place.starts_with("/oauth2/"), "{place}");
    }
}
