//! Clients that register themselves: `/oauth2/register` (RFC 7591, RFC 7592).
use super::machine::{refused, soon_refused};
use http::Method;
use portcullis_app::Registration;
use portcullis_testkit::application::{Application, REDIRECT, encode, request};
use portcullis_testkit::{Answer, Options, TestServer};
use portcullis_wire::{Code, Digest};
use serde_json::{Value, json};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const TOKEN: &str = "an-initial-access-token-that-is-long-enough";

async fn server(registration: Registration) -> TestServer {
    let mut options = Options::default();
    options.settings.clients.registration = registration;
    TestServer::behind_a_proxy(options).await
}

async fn register(server: &TestServer, body: Value) -> Answer {
    server.client.post("/oauth2/register").json(&body).send().await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The path of a client's own registration, and the token that it is managed with.
fn managed(server: &TestServer, made: &Value) -> (String, String) {
    let place = text(&made["registration_client_uri"]);
    (place.strip_prefix(&server.issuer).unwrap().to_owned(), text(&made["registration_access_token"]))
}

#[tokio::test]
async fn it_is_off_unless_switched_on() {
    let server = TestServer::usual().await;
    let told = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(told.get("registration_endpoint"), None);
    register(&server, json!({ "redirect_uris": [REDIRECT] })).await.expect_problem("not_found");
    server.client.post("/oauth2/register").form("a=b").send().await.expect_problem("not_found");
    for path in ["/oauth2/register/cli_x", "/oauth2/register/portcullis"] {
        server.client.get(path).bearer("pcr_x").send().await.expect_problem("not_found");
        server.client.delete(path).bearer("pcr_x").send().await.expect_problem("not_found");
    }
}

/// Fetch §3.2: an application in a browser registers itself from wherever it is, where registration is on.
#[tokio::test]
async fn an_application_in_a_browser_registers_itself() {
    const PAGE: &str = "https://inspector.example";
    let asks = |server: &TestServer, path: &str, method: &str| {
        let ask = server.client.call(Method::OPTIONS, path).header("origin", PAGE);
        let ask = ask.header("access-control-request-method", method);
        async move { ask.send().await }
    };
    let open = server(Registration::Open).await;
    assert_eq!(asks(&open, "/oauth2/register", "POST").await.expect(204).header("access-control-allow-origin"), "*");
    let body = json!({ "redirect_uris": [REDIRECT] });
    let made = open.client.post("/oauth2/register").header("origin", PAGE).json(&body).send().await.expect(201);
    let shared = |answer: &Answer| {
        let allowed = |name: &str| answer.header(&format!("access-control-allow-{name}")).to_owned();
        (allowed("origin"), allowed("credentials")) == ("*".to_owned(), String::new())
    };
    assert!(shared(&made));
    let (place, token) = managed(&open, &made.json());
    assert!(shared(&asks(&open, &place, "PUT").await.expect(204)));
    assert!(shared(&open.client.get(&*place).bearer(&token).header("origin", PAGE).send().await.expect(200)));
    asks(&open, "/oauth2/registers", "POST").await.expect_problem("origin_refused");
    asks(&server(Registration::Off).await, "/oauth2/register", "POST").await.expect_problem("origin_refused");
}

#[tokio::test]
async fn a_client_registers_signs_people_in_and_is_deleted() {
    let server = server(Registration::Open).await;
    server.sign_up("ada@example.test").await;
    let told = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(told["registration_endpoint"], format!("{}/oauth2/register", server.issuer));
    let answer = register(
        &server,
        json!({
            "client_name": "A stranger", "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token"],
            "scope": "openid offline_access", "contacts": ["a@example.org"], "logo_uri": "https://a.example/l.png", "consent": "implied", "application_type": "web",
        }),
    )
    .await
    .expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    let made = answer.json();
    assert_eq!(
        (made["client_name"].as_str(), made["scope"].as_str()),
        (Some("A stranger"), Some("offline_access openid"))
    );
    assert_eq!((&made["client_secret_expires_at"], &made["response_types"]), (&json!(0), &json!(["code"])));
    assert!(made["client_id_issued_at"].is_i64());
    assert_eq!(made["contacts"], json!(["a@example.org"]));
    for left_out in ["logo_uri", "consent", "registration", "deleted", "resources"] {
        assert_eq!(made.get(left_out), None, "{left_out}");
    }
    let (path, token) = managed(&server, &made);
    let read = server.client.get(&*path).bearer(&token).send().await.expect(200).json();
    assert_eq!((&read["client_id"], read.get("client_secret")), (&made["client_id"], None), "a secret is shown once");
    assert_eq!(read["registration_access_token"], token);
    assert_eq!(made["id_token_signed_response_alg"], "RS256", "OpenID Connect Dynamic Client Registration §2");
    // It works, once its key has been listed for a while, and it always asks.
    server.advance(30_000);
    let app = Application { id: text(&made["client_id"]), secret: text(&made["client_secret"]) };
    let cookie = server.page_sign_in("ada@example.test").await;
    let page = server.authorize(&app, &cookie, &[("scope", "openid offline_access")]).await.expect(200).text();
    assert!(page.contains("Allow A stranger?"));
    let tokens = server.granted(&app, &cookie, "openid offline_access").await;
    // Administrators see it, and not what it is managed with.
    let admin = server.admin().await;
    let admins = format!("/v1/admin/clients/{}", app.id);
    let row = server.client.get(&*admins).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&row["self_registered"], row.get("registration"), row.get("deleted")), (&json!(true), None, None));
    // Deleted: everything ends, nothing is found, nothing brings it back.
    server.client.delete(&*path).bearer(&token).send().await.expect(204);
    soon_refused(&server, &tokens, Code::TokenRevoked).await;
    let refresh = server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await;
    assert_eq!(refresh.expect(401).json()["error"], "invalid_client");
    for call in [server.client.get(&*path), server.client.delete(&*path)] {
        call.bearer(&token).send().await.expect_problem("token_malformed");
    }
    server.client.get(&*admins).bearer(&admin.access).send().await.expect_problem("not_found");
    let on = server.client.patch(&*admins).bearer(&admin.access).json(&json!({ "disabled": false }));
    on.send().await.expect_problem("not_found");
    let list = server.client.get("/v1/admin/clients").bearer(&admin.access).send().await.expect(200).json();
    assert!(!list.to_string().contains(&app.id));
    server.authorize(&app, &cookie, &[("scope", "openid")]).await.expect(400);
}

#[tokio::test]
async fn a_registration_is_changed_as_a_whole() {
    let server = server(Registration::Open).await;
    let made = register(&server, json!({ "redirect_uris": [REDIRECT], "scope": "openid" })).await.expect(201).json();
    let (path, token) = managed(&server, &made);
    let put = |body: Value| server.client.call(Method::PUT, &*path).bearer(&token).json(&body).send();
    let id = &made["client_id"];
    let next = json!({
        "client_id": id, "client_secret": made["client_secret"], "client_name": "Renamed", "scope": "openid email",
        "redirect_uris": ["https://b.example/cb"],
    });
    let changed = put(next.clone()).await.expect(200).json();
    assert_eq!(
        (changed["client_name"].as_str(), &changed["redirect_uris"], changed["scope"].as_str()),
        (Some("Renamed"), &json!(["https://b.example/cb"]), Some("email openid"))
    );
    put(next).await.expect(200);
    for (body, error) in [
        (json!({ "redirect_uris": [REDIRECT] }), "invalid_request"),
        (json!({ "client_id": "cli_other", "redirect_uris": [REDIRECT] }), "invalid_request"),
        (json!({ "client_id": id, "client_secret": "wrong", "redirect_uris": [REDIRECT] }), "invalid_request"),
        (json!({ "client_id": id, "client_id_issued_at": 1, "redirect_uris": [REDIRECT] }), "invalid_request"),
        (json!({ "client_id": id, "redirect_uris": [] }), "invalid_redirect_uri"),
        (json!({ "client_id": id, "redirect_uris": ["http://b.example/"] }), "invalid_redirect_uri"),
        (
            json!({ "client_id": id, "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" }),
            "invalid_client_metadata",
        ),
        (json!([]), "invalid_client_metadata"),
    ] {
        assert_eq!(refused(put(body.clone()).await), error, "{body}");
    }
    // What an administrator said stays.
    let admin = server.admin().await;
    let admins = format!("/v1/admin/clients/{}", id.as_str().unwrap());
    let patch = json!({ "consent": "implied", "resources": ["https://a.example/"] });
    server.client.patch(&*admins).bearer(&admin.access).json(&patch).send().await.expect(200);
    put(json!({ "client_id": id, "redirect_uris": [REDIRECT] })).await.expect(200);
    let row = server.client.get(&*admins).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&row["consent"], &row["resources"]), (&json!("implied"), &json!(["https://a.example/"])));
    // Another client's token, another client's path, and one that is off.
    let other = register(&server, json!({ "redirect_uris": [REDIRECT] })).await.expect(201).json();
    let (other_path, other_token) = managed(&server, &other);
    for (path, token) in [(&path, &other_token), (&other_path, &token), (&path, &"pcr_x".to_owned())] {
        server.client.get(&**path).bearer(token).send().await.expect_problem("token_malformed");
        server.client.delete(&**path).bearer(token).send().await.expect_problem("token_malformed");
    }
    server.client.get(&*path).send().await.expect_problem("token_missing");
    let off = server.client.patch(&*admins).bearer(&admin.access).json(&json!({ "disabled": true }));
    off.send().await.expect(200);
    server.client.get(&*path).bearer(&token).send().await.expect_problem("token_malformed");
    server.client.delete(&*path).bearer(&token).send().await.expect_problem("token_malformed");
}

#[tokio::test]
async fn what_may_not_be_registered() {
    let server = server(Registration::Open).await;
    for (body, error) in [
        (json!({}), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["javascript:alert(1)"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["https://a.example/#f"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [REDIRECT], "grant_types": ["client_credentials"] }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "grant_types": ["password"] }), "invalid_client_metadata"),
        (json!({ "grant_types": [DEVICE], "token_endpoint_auth_method": "none" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "client_name": "Bank\u{202e}knaB" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "scope": "openid admin" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "scope": "read" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "jwks_uri": "http://10.0.0.1/" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "response_types": ["code", "token"] }), "invalid_client_metadata"),
        (json!("a string"), "invalid_client_metadata"),
    ] {
        assert_eq!(refused(register(&server, body.clone()).await), error, "{body}");
    }
    let twice = r#"{"redirect_uris": ["https://a.example/"], "redirect_uris": ["https://evil.example/"]}"#;
    let twice = server.client.post("/oauth2/register").text("application/json", twice).send().await;
    assert_eq!(refused(twice), "invalid_client_metadata");
}

#[tokio::test]
async fn by_token_only_who_has_it_and_never_without_end() {
    let server = server(Registration::ByToken(Digest::of(TOKEN.as_bytes()))).await;
    let body = json!({ "redirect_uris": [REDIRECT], "scope": "openid read" });
    register(&server, body.clone()).await.expect_problem("token_missing");
    let call = |token: &'static str| server.client.post("/oauth2/register").bearer(token).json(&body).send();
    call("wrong").await.expect_problem("token_malformed");
    let made = call(TOKEN).await.expect(201).json();
    assert_eq!(made["scope"], "openid read", "the operator trusts who has the token");
    for _ in 1..20 {
        call(TOKEN).await.expect(201);
    }
    let told = call(TOKEN).await.expect(429);
    assert_eq!((told.json()["error"].as_str(), told.header("retry-after").is_empty()), (Some("slow_down"), false));
    let (path, token) = managed(&server, &made);
    server.client.get(&*path).bearer(&token).send().await.expect(200);
}

/// In `open` mode anybody may be behind a client: its users are told, until an administrator has looked at it.
#[tokio::test]
async fn a_stranger_is_marked_and_sends_no_browser_on_without_a_click() {
    let server = server(Registration::Open).await;
    server.sign_up("ada@example.test").await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let body = json!({
        "client_name": "Portcullis Security Check", "redirect_uris": [REDIRECT], "scope": "openid",
        "post_logout_redirect_uris": [REDIRECT], "client_uri": "https://evil.example/",
    });
    let made = register(&server, body).await.expect(201).json();
    let app = Application { id: text(&made["client_id"]), secret: text(&made["client_secret"]) };
    let question = || async { server.authorize(&app, &cookie, &[("scope", "openid")]).await.expect(200).text() };
    let marked = question().await;
    assert!(marked.contains("id=\"stranger\"") && !marked.contains("evil.example"), "{marked}");
    // Errors and logouts, with nobody's click so far: a page that names where it goes.
    let wrong = request(&app, &[("response_type", "x")]);
    let silent = request(&app, &[("prompt", "none")]);
    let out = encode(&[("client_id", &app.id), ("post_logout_redirect_uri", REDIRECT)]);
    let places =
        [format!("/oauth2/authorize?{wrong}"), format!("/oauth2/authorize?{silent}"), format!("/oauth2/logout?{out}")];
    for place in &places {
        let page = server.client.get(&**place).send().await.expect(200);
        let html = page.text();
        assert!(page.header("location").is_empty() && !html.contains("http-equiv"), "{place}: {html}");
        assert!(html.contains("id=\"continue\""), "{place}: {html}");
    }
    let page = server.client.get(&*places[0]).send().await.expect(200).text();
    assert!(page.contains("Go on to 127.0.0.1?") && page.contains("error=unsupported_response_type"), "{page}");
    // Who looked at it, may say so.
    let admin = server.admin().await;
    let call = server.client.patch(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access);
    let row = call.json(&json!({ "vouched": true })).send().await.expect(200).json();
    assert_eq!((&row["vouched"], &row["self_registered"]), (&json!(true), &json!(true)));
    let unmarked = question().await;
    assert!(!unmarked.contains("id=\"stranger\"") && unmarked.contains("evil.example"), "{unmarked}");
    for place in &places {
        server.client.get(&**place).send().await.expect(303);
    }
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_others_tokens() {
    let server = server(Registration::Open).await;
    server.sign_up("ada@example.test").await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let body = json!({ "redirect_uris": [REDIRECT], "scope": "openid", "id_token_signed_response_alg": "ES256" });
    let made = register(&server, body).await.expect(201).json();
    let stranger = Application { id: text(&made["client_id"]), secret: text(&made["client_secret"]) };
    let known = server.application("confidential", json!({})).await;
    let (theirs, own) =
        (server.granted(&known, &cookie, "openid").await, server.granted(&stranger, &cookie, "openid").await);
    let ask = |by: &Application, token: &Value| {
        let call = server.client.post("/oauth2/introspect").basic((&by.id, &by.secret));
        call.form(&encode(&[("token", token["access_token"].as_str().unwrap())])).send()
    };
    assert_eq!(ask(&stranger, &theirs).await.expect(200).json(), json!({ "active": false }));
    assert_eq!(ask(&stranger, &own).await.expect(200).json()["active"], true);
    assert_eq!(ask(&known, &own).await.expect(200).json()["active"], true);
}

/// Of keys only what means something is kept: nobody stores other things here.
#[tokio::test]
async fn only_known_members_of_keys_are_kept() {
    let server = server(Registration::Open).await;
    let mut key = portcullis_testkit::Signer::es256().jwk();
    key["x5c"] = json!(["A".repeat(10_000)]);
    let body = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [key], "note": "x" },
    });
    let made = register(&server, body).await.expect(201).json();
    let kept = &made["jwks"];
    assert!(
        kept["keys"][0]["x"].is_string() && kept["keys"][0].get("x5c").is_none() && kept.get("note").is_none(),
        "{kept}"
    );
}

/// What nobody uses does not stay for ever; what somebody allowed once, or an administrator has looked at, does.
#[tokio::test]
async fn a_registration_that_nobody_uses_goes() {
    const DAY: i64 = 86_400_000;
    let server = server(Registration::Open).await;
    server.sign_up("ada@example.test").await;
    let cookie = server.page_sign_in("ada@example.test").await;
    let mut made = vec![];
    for name in ["unused", "looked at", "used", "deleted"] {
        let body = json!({ "redirect_uris": [REDIRECT], "client_name": name, "scope": "openid" });
        made.push(register(&server, body).await.expect(201).json());
    }
    let admin = server.admin().await;
    let id = |n: usize| text(&made[n]["client_id"]);
    let vouch = server.client.patch(format!("/v1/admin/clients/{}", id(1))).bearer(&admin.access);
    vouch.json(&json!({ "vouched": true })).send().await.expect(200);
    server.advance(30_000);
    let app = Application { id: id(2), secret: text(&made[2]["client_secret"]) };
    let tokens = server.granted(&app, &cookie, "openid").await;
    // Also when that was taken back.
    assert!(tokens["access_token"].is_string());
    let disconnect = server.client.post("/account/apps/disconnect").header("origin", &server.issuer);
    let disconnect = disconnect.header("cookie", format!("__Host-portcullis_session={cookie}"));
    disconnect.form(&encode(&[("client", &app.id)])).send().await.expect(303);
    let (path, token) = managed(&server, &made[3]);
    server.client.delete(path).bearer(&token).send().await.expect(204);
    let there = async || {
        server.app.prune_all().await.unwrap();
        let mut there = vec![];
        for one in &made {
            let id = text(&one["client_id"]).parse().unwrap();
            there.push(server.app.store().load_client(id).await.unwrap().is_some());
        }
        there
    };
    server.advance(30 * DAY - 60_000);
    assert_eq!(there().await, [true; 4]);
    server.advance(60_000);
    assert_eq!(there().await, [false, true, true, false]);
    // It is one that nobody knows.
    let (path, token) = managed(&server, &made[0]);
    server.client.get(&*path).bearer(&token).send().await.expect_problem("token_malformed");
    let gone = Application { id: id(0), secret: text(&made[0]["client_secret"]) };
    server.authorize(&gone, &cookie, &[]).await.expect(400);
    let refused = server.token(&gone, &[("grant_type", "authorization_code"), ("code", "x")]).await;
    assert_eq!(refused.expect(401).json()["error"], "invalid_client");
    let (path, token) = managed(&server, &made[2]);
    server.client.get(path).bearer(&token).send().await.expect(200);
    let metrics = server.client.get("/metrics").send().await.expect(200).text();
    assert!(metrics.contains("portcullis_clients_pruned_total 2"), "{metrics}");
}

#[tokio::test]
async fn registrations_stay_for_ever_where_that_is_said() {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    options.settings.policy.registration_retention = None;
    let server = TestServer::start(options).await;
    let made = register(&server, json!({ "redirect_uris": [REDIRECT] })).await.expect(201).json();
    server.advance(1000 * 86_400_000);
    server.app.prune_all().await.unwrap();
    let (path, token) = managed(&server, &made);
    server.client.get(path).bearer(&token).send().await.expect(200);
}
