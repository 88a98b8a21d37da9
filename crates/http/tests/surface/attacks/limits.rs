//! Parameters that come twice, and what is too large.
use super::{ADA, operations, post, with_cookie};
use http::Method;
use portcullis_app::Registration;
use portcullis_testkit::application::{Application, REDIRECT, VERIFIER, encode, request};
use portcullis_testkit::{Answer, Options, TestServer};
use serde_json::json;

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Every endpoint of OAuth that takes parameters, each with a request that holds all that it knows.
fn endpoints(app: &Application) -> Vec<(Method, &'static str, String)> {
    let by = [("client_id", &*app.id), ("client_secret", &*app.secret)];
    let form = |pairs: &[(&str, &str)]| encode(&[&by[..], pairs].concat());
    let asked = request(
        app,
        &[("prompt", "login"), ("max_age", "60"), ("login_hint", "x"), ("id_token_hint", "x"), ("dpop_jkt", "x")],
    );
    let asked =
        format!("{asked}&{}", encode(&[("request_uri", "urn:x"), ("response_mode", "query"), ("ui_locales", "en")]));
    let ended = encode(&[
        ("id_token_hint", "x"),
        ("client_id", &app.id),
        ("post_logout_redirect_uri", "https://app.example/"),
        ("state", "s"),
        ("logout_hint", "x"),
    ]);
    let token = |grant: &str, pairs: &[(&str, &str)]| form(&[&[("grant_type", grant)], pairs].concat());
    vec![
        (Method::GET, "/oauth2/authorize", asked.clone()),
        (Method::GET, "/oauth2/logout", ended),
        (Method::POST, "/oauth2/par", format!("{asked}&{}", encode(&by[1..]))),
        (Method::POST, "/oauth2/device", form(&[("scope", "read")])),
        (
            Method::POST,
            "/oauth2/token",
            token("authorization_code", &[("code", "x"), ("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)]),
        ),
        (Method::POST, "/oauth2/token", token("refresh_token", &[("refresh_token", "x"), ("scope", "read")])),
        (Method::POST, "/oauth2/token", token("client_credentials", &[("scope", "read")])),
        (Method::POST, "/oauth2/token", token(DEVICE, &[("device_code", "x")])),
        (
            Method::POST,
            "/oauth2/token",
            token(
                EXCHANGE,
                &[
                    ("subject_token", "x"),
                    ("subject_token_type", "x"),
                    ("requested_token_type", "x"),
                    ("audience", "x"),
                ],
            ),
        ),
        (
            Method::POST,
            "/oauth2/token",
            encode(&[("grant_type", "refresh_token"), ("client_assertion", "x"), ("client_assertion_type", "x")]),
        ),
        (Method::POST, "/oauth2/revoke", form(&[("token", "x"), ("token_type_hint", "x")])),
        (Method::POST, "/oauth2/introspect", form(&[("token", "x"), ("token_type_hint", "x")])),
    ]
}

/// Those that take no form, or are pages of ours with their own.
const OTHERS: [&str; 8] = [
    "/oauth2/authorize",
    "/oauth2/logout",
    "/oauth2/logout/confirm",
    "/oauth2/consent",
    "/oauth2/userinfo",
    "/oauth2/register",
    "/oauth2/register/x",
    "/oauth2/global-token-revocation",
];

async fn send(server: &TestServer, method: &Method, path: &str, cookie: &str, text: &str) -> Answer {
    let call = match *method {
        Method::GET => server.client.get(format!("{path}?{text}")),
        _ => server.client.post(path).form(text),
    };
    with_cookie(call, cookie).send().await
}

fn world_options() -> Options {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    options
}

async fn world() -> (TestServer, Application, String) {
    let server = TestServer::start(world_options()).await;
    server.sign_up(ADA).await;
    let more =
        json!({ "grant_types": ["authorization_code", "refresh_token", "client_credentials", DEVICE, EXCHANGE] });
    let app = server.application("confidential", more).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

/// RFC 6749 §3.1, §3.2, OAuth 2.1 §3.1, §3.2: twice is refused, whichever parameter it is and whether the two are alike; at the endpoints of
/// browsers on a page, never by a redirect, unless it is certain whose the address is. `resource` alone may come several times (RFC 8707 §2).
#[tokio::test]
async fn repeated_parameters_at_every_endpoint() {
    let (server, app, cookie) = world().await;
    let known: Vec<&str> = endpoints(&app).iter().map(|(_, path, _)| *path).chain(OTHERS).collect();
    for operation in operations(&server).await {
        let told = !operation.path.starts_with("/oauth2/") || known.contains(&&*operation.path);
        assert!(told, "{} is in no list here", operation.path);
    }
    for (method, path, text) in endpoints(&app) {
        for pair in text.split('&') {
            let name = pair.split('=').next().unwrap();
            for other in [pair.to_owned(), format!("{name}=another"), format!("{name}=")] {
                for twice in [format!("{text}&{other}"), format!("{other}&{text}")] {
                    let answer = send(&server, &method, path, &cookie, &twice).await;
                    // It is certain whose the address is: the client is told, and gets nothing else (§4.1.2.1).
                    if path == "/oauth2/authorize" && !["client_id", "redirect_uri"].contains(&name) {
                        let place = answer.expect(303).header("location").to_owned();
                        assert!(place.starts_with(&format!("{REDIRECT}?error=invalid_request&")), "{place}");
                        assert!(!place.contains("code="), "{place}");
                        continue;
                    }
                    let answer = answer.expect(400);
                    if method == Method::GET {
                        assert!(answer.header("location").is_empty(), "{path} {name}");
                        assert!(answer.header("content-type").starts_with("text/html"), "{path} {name}");
                    } else {
                        assert_eq!(answer.json()["error"], "invalid_request", "{path} {name}");
                    }
                }
            }
        }
    }
    // Once in the address and once in the body: the address is not read.
    let (method, path, text) =
        (Method::POST, "/oauth2/token?grant_type=client_credentials", "grant_type=refresh_token");
    assert_eq!(send(&server, &method, path, "", text).await.expect(401).json()["error"], "invalid_client");
    let good = format!("{}&resource=https://one.example&resource=https://one.example", request(&app, &[]));
    let answer = send(&server, &Method::GET, "/oauth2/authorize", &cookie, &good).await.expect(303);
    assert_eq!(portcullis_testkit::parameter(answer.header("location"), "error").as_deref(), Some("invalid_target"));
    // The forms of our own pages, and members of JSON.
    for path in ["/oauth2/consent", "/oauth2/logout/confirm", "/sign-in", "/device", "/account/devices/end"] {
        post(&server, &cookie, path, "request=a&request=b").await.expect(400);
    }
    let twice = r#"{"redirect_uris": ["https://a.example/"], "redirect_uris": ["https://evil.example/"]}"#;
    let twice = server.client.post("/oauth2/register").text("application/json", twice).send().await.expect(400);
    assert_eq!(twice.json()["error"], "invalid_client_metadata");
}

/// DESIGN I12: each parameter, each body, each list and each header has a limit, which is told as a refusal of the request: never as a
/// fault, and nothing is kept.
#[tokio::test]
async fn oversized_everything() {
    let (server, app, cookie) = world().await;
    let head = server.app.store().stamp().await.unwrap().head;
    let refused = |answer: &Answer, what: &str| {
        let status = answer.status.as_u16();
        assert!([400, 401, 413, 414, 431].contains(&status), "{what}: {status} {}", answer.text());
        assert!(answer.text().len() < 8000, "{what}: what was too long is not said again");
    };
    for (method, path, text) in endpoints(&app) {
        for pair in text.split('&') {
            let name = pair.split('=').next().unwrap();
            // Long values: as long as a head or a body may be at all.
            let long = "x".repeat(if method == Method::GET { 20_000 } else { 60_000 });
            let others: Vec<_> = text.split('&').filter(|other| !other.starts_with(&format!("{name}="))).collect();
            let text = format!("{}&{name}={long}", others.join("&"));
            let answer = send(&server, &method, path, &cookie, &text).await;
            // Introspection and revocation say the same of every text that is no token; what they do not know, they ignore.
            if matches!(path, "/oauth2/introspect" | "/oauth2/revoke") && !name.starts_with("client_") {
                answer.expect(200);
                continue;
            }
            refused(&answer, &format!("{path} {name}"));
            assert!(answer.header("location").len() < 300, "{path} {name}: {}", answer.header("location"));
        }
        if method == Method::POST {
            let large = format!("{text}&x={}", "x".repeat(70_000));
            send(&server, &method, path, &cookie, &large).await.expect(413);
            let many: String = (0..9_000).map(|n| format!("&p{n}=1")).collect();
            let answer = send(&server, &method, path, &cookie, &format!("{text}{many}")).await;
            assert!(answer.status.as_u16() < 500, "{path}");
        }
    }
    let many: Vec<_> = (0..200).map(|n| format!("https://r{n}.example")).collect();
    let resources: String = many.iter().map(|one| format!("&resource={one}")).collect();
    let asked = request(&app, &[]);
    refused(
        &send(&server, &Method::GET, "/oauth2/authorize", &cookie, &format!("{asked}{resources}")).await,
        "resources",
    );
    let form = encode(&[("client_id", &app.id), ("client_secret", &app.secret)]);
    refused(&send(&server, &Method::POST, "/oauth2/par", "", &format!("{asked}&{form}{resources}")).await, "resources");
    // Registrations.
    let many = vec![json!("https://a.example/"); 33];
    for body in [
        json!({ "redirect_uris": many }),
        json!({ "redirect_uris": [format!("https://a.example/{}", "x".repeat(1100))] }),
        json!({ "redirect_uris": [REDIRECT], "client_name": "x".repeat(10_000) }),
        json!({ "redirect_uris": [REDIRECT], "jwks": { "keys": vec![json!({ "kty": "EC" }); 1000] } }),
    ] {
        let answer = server.client.post("/oauth2/register").json(&body).send().await;
        refused(&answer, "a registration");
    }
    let body = json!({ "redirect_uris": [REDIRECT], "contacts": "x".repeat(70_000) });
    server.client.post("/oauth2/register").json(&body).send().await.expect(413);
    // Headers: tokens, proofs, credentials and cookies that are as long as a head may be.
    let long = "x".repeat(15_000);
    for (name, value) in [
        ("authorization", format!("Bearer {long}")),
        ("authorization", format!("DPoP {long}")),
        ("authorization", format!("Basic {long}")),
        ("dpop", long.clone()),
        ("cookie", format!("{}={long}", super::SESSION)),
    ] {
        for path in ["/oauth2/userinfo", "/v1/me"] {
            let answer = server.client.get(path).header(name, &value).send().await;
            refused(&answer, &format!("{path} {name}"));
        }
        let call = server.client.post("/oauth2/token").header(name, &value);
        refused(&call.form("grant_type=client_credentials").send().await, name);
    }
    // Our own forms; three are buttons alone, whose bodies are not read.
    let buttons = ["/sign-out", "/account/devices/end-others", "/account/devices/end-all"];
    let forms =
        |one: &&super::Operation| one.method == Method::POST && one.is_of_a_page() && !buttons.contains(&&*one.path);
    for operation in operations(&server).await.iter().filter(forms) {
        let form = format!("request={}", "x".repeat(70_000));
        let answer = post(&server, &cookie, &operation.path, &form).await;
        assert!([400, 413].contains(&answer.status.as_u16()), "{}: {}", operation.path, answer.status);
    }
    assert_eq!(server.app.store().stamp().await.unwrap().head, head);
    server.client.get("/healthz").send().await.expect(200);
}
