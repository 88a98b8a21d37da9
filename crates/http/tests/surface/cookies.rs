//! Cookies, origins, CORS.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, TestServer};
use serde_json::json;

const REFRESH: &str = "__Host-portcullis_refresh";
const FRIEND: &str = "https://app.example";

async fn server() -> TestServer {
    let options =
        Options { config: Box::new(|config| config.allowed_origins = vec![FRIEND.into()]), ..Options::default() };
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    server
}

/// Signs in with `transport: "cookie"`; the answer and the cookie.
async fn by_cookie(server: &TestServer) -> (Answer, String) {
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD, "transport": "cookie" });
    let answer =
        server.client.post("/v1/sessions").json(&body).header("origin", &server.issuer).send().await.expect(201);
    let cookie = answer.cookie(REFRESH).expect("a cookie");
    (answer, cookie)
}

fn refresh(server: &TestServer, cookie: &str) -> portcullis_testkit::client::Call {
    server.client.post("/v1/sessions/refresh").header("cookie", format!("theme=dark; {REFRESH}={cookie}"))
}

#[tokio::test]
async fn the_cookie_has_its_attributes_and_the_body_no_refresh_token() {
    let server = server().await;
    let (answer, cookie) = by_cookie(&server).await;
    let lines = answer.set_cookies();
    assert_eq!(lines.len(), 2, "this one, and the mark of a known device");
    let attributes: Vec<_> = lines[0].split("; ").skip(1).collect();
    for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert!(attributes.contains(&attribute), "{lines:?}");
    }
    assert!(attributes.iter().any(|a| a.starts_with("Max-Age=")) && !lines[0].contains("Domain"));
    let body = answer.json();
    assert!(body.get("refresh_token").is_none() && !answer.text().contains(&cookie));
    assert_eq!(body["session"]["kind"], "browser");

    let answer = refresh(&server, &cookie).header("origin", &server.issuer).send().await.expect(200);
    assert!(answer.json().get("refresh_token").is_none());
    assert_eq!(answer.cookie(REFRESH).as_deref(), Some(&*cookie), "shortly after: the same again");
    server.advance(11_000);
    let answer = refresh(&server, &cookie).header("origin", &server.issuer).send().await.expect(200);
    assert_ne!(answer.cookie(REFRESH).as_deref(), Some(&*cookie));
}

#[tokio::test]
async fn origins_that_may_and_that_may_not() {
    let server = server().await;
    let (_, cookie) = by_cookie(&server).await;
    let issuer = server.issuer.clone();
    let matrix: &[(&[(&'static str, &str)], bool)] = &[
        (&[("origin", &issuer)], true),
        (&[("origin", FRIEND)], true),
        (&[("origin", FRIEND), ("sec-fetch-site", "cross-site")], true),
        (&[("sec-fetch-site", "same-origin")], true),
        (&[], false),
        (&[("origin", "null")], false),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", "https://app.example.evil.example")], false),
        (&[("origin", "http://app.example")], false),
        (&[("origin", "https://app.example:444")], false),
        (&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], false),
        (&[("origin", FRIEND), ("origin", "https://evil.example")], false),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "same-site")], false),
        (&[("referer", &issuer)], false),
    ];
    for (headers, may) in matrix {
        let call = headers.iter().fold(refresh(&server, &cookie), |call, (name, value)| call.header(name, value));
        let answer = call.send().await;
        if *may {
            answer.expect(200);
        } else {
            assert!(answer.expect_problem("origin_refused").set_cookies().is_empty(), "{headers:?}");
        }
    }
    // Signing in needs no cookie, but a foreign page may not set one.
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD, "transport": "cookie" });
    let foreign = server.client.post("/v1/sessions").json(&body).header("origin", "https://evil.example");
    foreign.send().await.expect_problem("origin_refused");
    server.client.post("/v1/sessions").json(&body).send().await.expect(201);
    // A token in the body or in Authorization needs no origin: no browser sends those by itself.
    let ada = server.sign_in("ada@example.test").await;
    let body = json!({ "refresh_token": ada.refresh });
    let call = server.client.post("/v1/sessions/refresh").json(&body).header("origin", "https://evil.example");
    call.send().await.expect(200);
}

#[tokio::test]
async fn only_a_certain_end_clears_the_cookie() {
    let server = server().await;
    let ours = server.issuer.clone();
    // Garbage is not ours to clear: something else may have put it there, and nothing has ended.
    let odd = refresh(&server, "garbage").header("origin", &ours).send().await.expect_problem("refresh_invalid");
    assert!(odd.set_cookies().is_empty());
    let (answer, cookie) = by_cookie(&server).await;
    let access = answer.json()["access_token"].as_str().unwrap().to_owned();

    // Another session's end leaves it alone …
    let other = server.sign_in("ada@example.test").await;
    let path = format!("/v1/me/sessions/{}", other.sid);
    let call = server.client.delete(path).bearer(&access).header("cookie", format!("{REFRESH}={cookie}"));
    assert!(call.send().await.expect(200).set_cookies().is_empty());
    // … and its own end clears it, also when it is told with the refresh. (For faults see `faults`.)
    let sign_out = || {
        server.client.delete("/v1/me/sessions/current").bearer(&access).header("cookie", format!("{REFRESH}={cookie}"))
    };
    let first = sign_out().send().await.expect(200);
    assert_eq!(first.cookie(REFRESH).as_deref(), Some(""));
    assert!(first.set_cookies()[0].contains("Max-Age=0") && first.set_cookies()[0].contains("Secure"));
    assert_eq!(sign_out().send().await.expect(200).cookie(REFRESH).as_deref(), Some(""));
    let refused = refresh(&server, &cookie).header("origin", &ours).send().await.expect_problem("session_ended");
    assert_eq!(refused.cookie(REFRESH).as_deref(), Some(""));
}

#[tokio::test]
async fn preflight_and_sharing() {
    let server = server().await;
    let ask = |path: &str, origin: &str| {
        let call = server.client.call(http::Method::OPTIONS, path).header("origin", origin);
        call.header("access-control-request-method", "POST").send()
    };
    let granted = ask("/v1/sessions/refresh", FRIEND).await.expect(204);
    assert_eq!(granted.header("access-control-allow-origin"), FRIEND);
    assert_eq!(granted.header("access-control-allow-credentials"), "true");
    assert!(granted.header("access-control-allow-headers").contains("Authorization"));
    // Each method that a route has (a registration is changed by PUT, RFC 7592 §2.2).
    assert_eq!(granted.header("access-control-allow-methods"), "GET, POST, PUT, PATCH, DELETE");
    for (path, origin) in [("/v1/sessions", "https://evil.example"), ("/v1/me", "null"), ("/sign-in", FRIEND)] {
        let refused = ask(path, origin).await;
        assert_eq!(refused.status, 403);
        assert_eq!(refused.header("access-control-allow-origin"), "");
    }
    let shared = server.client.get("/v1/me").header("origin", FRIEND).send().await.expect_problem("token_missing");
    assert_eq!((shared.header("access-control-allow-origin"), shared.header("vary")), (FRIEND, "Origin"));
    let not = server.client.get("/v1/me").header("origin", "https://evil.example").send().await;
    assert_eq!((not.header("access-control-allow-origin"), not.header("vary")), ("", "Origin"));
    let page = server.client.get("/sign-in").header("origin", FRIEND).send().await.expect(200);
    assert_eq!(page.header("access-control-allow-origin"), "");
}
