//! What a client registers once for all of its requests (OpenID Connect Dynamic Client Registration §2), and userinfo that is signed (OpenID
//! Connect Core §5.3.2).
use super::machine::{claims, refused};
use super::upstream::{Jar, sign_in, world as upstream_world};
use portcullis_app::Registration;
use portcullis_testkit::application::{REDIRECT, encode};
use portcullis_testkit::{Application, Options, TestServer, parameter};
use portcullis_wire::jws::{Compact, Jwk};
use portcullis_wire::{b64, json as strict};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const PASSWORD: &str = portcullis_testkit::server::PASSWORD;

async fn world(more: Value) -> (TestServer, Application, String) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = house(&server, more).await;
    let cookie = server.page_sign_in(ADA).await;
    (server, app, cookie)
}

/// An application that asks nobody.
async fn house(server: &TestServer, more: Value) -> Application {
    let mut members = json!({ "consent": "implied" });
    members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.application("confidential", members).await
}

/// Where an authorization request of this browser leads.
async fn leads(server: &TestServer, app: &Application, cookie: &str, more: &[(&str, &str)]) -> String {
    server.authorize(app, cookie, more).await.expect(303).header("location").to_owned()
}

/// `default_max_age`: as `max_age` of a request, which is what counts where it says one.
#[tokio::test]
async fn a_registered_max_age_counts_where_a_request_says_none() {
    let (server, app, cookie) = world(json!({ "default_max_age": 60 })).await;
    assert!(parameter(&leads(&server, &app, &cookie, &[]).await, "code").is_some());
    server.advance(61_000);
    let asked = leads(&server, &app, &cookie, &[]).await;
    assert!(asked.starts_with("/sign-in?again=1"), "{asked}");
    let quiet = leads(&server, &app, &cookie, &[("prompt", "none")]).await;
    assert_eq!(parameter(&quiet, "error").as_deref(), Some("login_required"));
    for (max_age, leads_back) in [("120", true), ("30", false)] {
        let place = leads(&server, &app, &cookie, &[("max_age", max_age)]).await;
        assert_eq!(parameter(&place, "code").is_some(), leads_back, "{max_age}: {place}");
    }
    // Whoever proves it anew is through, and the token says when.
    let form =
        encode(&[("identifier", ADA), ("password", PASSWORD), ("return_to", &parameter(&asked, "return_to").unwrap())]);
    let call = server.client.post("/sign-in").header("origin", &server.issuer);
    let call = call.header("cookie", format!("__Host-portcullis_session={cookie}"));
    let proven = call.form(&form).send().await.expect(303);
    let cookie = proven.cookie("__Host-portcullis_session").unwrap();
    let call = server.client.get(proven.header("location"));
    let back = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await.expect(303);
    let code = parameter(back.header("location"), "code").unwrap();
    let told = claims(&server.redeem(&app, &code).await.expect(200).json()["id_token"]);
    assert!(told["iat"].as_i64().unwrap() - told["auth_time"].as_i64().unwrap() < 60, "{told}");
    // Another application of the same browser asks for nothing.
    let other = house(&server, json!({})).await;
    server.advance(3_600_000);
    assert!(parameter(&leads(&server, &other, &cookie, &[]).await, "code").is_some());
}

/// `require_auth_time`: each ID token says when its user proved who they are, with the code and with every refresh.
#[tokio::test]
async fn auth_time_is_in_each_id_token() {
    for must in [true, false] {
        let (server, app, cookie) = world(json!({ "require_auth_time": must })).await;
        let first = server.granted(&app, &cookie, "openid").await;
        server.advance(5_000);
        let next = server.refresh_for(&app, first["refresh_token"].as_str().unwrap()).await.expect(200).json();
        let said = [&first, &next].map(|tokens| claims(&tokens["id_token"])["auth_time"].as_i64());
        assert!(said[0].is_some_and(|at| at > 0) && said[0] == said[1], "{said:?}");
    }
}

/// Whoever came by a provider that does not say when they proved it does so first, for a client that must be told; in the browser and
/// for a device.
#[tokio::test]
async fn who_has_no_auth_time_proves_it_for_a_client_that_needs_one() {
    let (idp, server) = upstream_world().await;
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    let cookie = jar.session().unwrap().to_owned();
    let needs = house(&server, json!({ "require_auth_time": true })).await;
    let other = house(&server, json!({})).await;
    let tokens = server.granted(&other, &cookie, "openid").await;
    assert_eq!(claims(&tokens["id_token"]).get("auth_time"), None, "nobody knows it");
    let place = leads(&server, &needs, &cookie, &[]).await;
    assert!(place.starts_with("/sign-in?again=1"), "{place}");
    let quiet = leads(&server, &needs, &cookie, &[("prompt", "none")]).await;
    assert_eq!(parameter(&quiet, "error").as_deref(), Some("login_required"));
    let device = json!({
        "name": "A television", "redirect_uris": [], "require_auth_time": true,
        "grant_types": ["urn:ietf:params:oauth:grant-type:device_code"],
    });
    let device = server.application("public", device).await;
    let form = encode(&[("client_id", &device.id), ("scope", "openid")]);
    let begun = server.client.post("/oauth2/device").form(&form).send().await.expect(200).json();
    let typed = [("user_code", begun["user_code"].as_str().unwrap())];
    let answer = jar.post(&server, "/device", &typed).await.expect(303);
    assert!(answer.header("location").starts_with("/sign-in?again=1&return_to=%2Fdevice%3Fuser_code%3D"));
    // A yes to a question that was never shown gives nothing.
    let forged = [typed[0], ("shown", "x"), ("decision", "allow")];
    assert!(jar.post(&server, "/device/answer", &forged).await.expect(303).header("location").starts_with("/sign-in"));
    // Who comes in by a provider that says it is through.
    let mut jar = Jar::default();
    let now = portcullis_app::real::wall().secs();
    sign_in(&idp, &server, &mut jar, json!({ "auth_time": now - 5 })).await.expect(303);
    let tokens = server.granted(&needs, jar.session().unwrap(), "openid").await;
    assert_eq!(claims(&tokens["id_token"])["auth_time"], now - 5);
    let page = jar.post(&server, "/device", &typed).await.expect(200).text();
    assert!(page.contains("Let A television in?"), "{page}");
}

/// `default_acr_values`: kept; there is one class, and tokens say that one, whatever a request or a registration names (OpenID Connect Core
/// §5.5.1.1: a voluntary claim).
#[tokio::test]
async fn tokens_say_the_class_that_there_is() {
    let (server, app, cookie) = world(json!({ "default_acr_values": ["urn:example:gold", "1"] })).await;
    for more in [&[][..], &[("acr_values", "urn:example:silver")]] {
        let code = parameter(&leads(&server, &app, &cookie, more).await, "code").unwrap();
        let told = claims(&server.redeem(&app, &code).await.expect(200).json()["id_token"]);
        assert_eq!(told["acr"], portcullis_domain::issue::ACR, "{more:?}");
    }
}

/// All of them by registration and administration, and what is none.
#[tokio::test]
async fn what_is_registered_is_told_again() {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    let server = TestServer::start(options).await;
    let said = json!({
        "default_max_age": 3600, "require_auth_time": true, "default_acr_values": ["1"],
        "initiate_login_uri": "https://app.example/start?x=1", "userinfo_signed_response_alg": "ES256",
    });
    let mut body = json!({ "redirect_uris": [REDIRECT] });
    body.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    let made = server.client.post("/oauth2/register").json(&body).send().await.expect(201).json();
    let path = made["registration_client_uri"].as_str().unwrap().strip_prefix(&server.issuer).unwrap().to_owned();
    let read = server.client.get(path).bearer(made["registration_access_token"].as_str().unwrap()).send().await;
    let app = server.application("confidential", said.clone()).await;
    let admin = server.admin().await;
    let at = format!("/v1/admin/clients/{}", app.id);
    let row = server.client.get(&*at).bearer(&admin.access).send().await.expect(200).json();
    for told in [made, read.expect(200).json(), row] {
        for (name, value) in said.as_object().unwrap() {
            assert_eq!(told[name], *value, "{name}");
        }
    }
    for (field, bad) in [
        ("default_acr_values", json!(["a b"])),
        ("default_acr_values", json!(vec!["a"; 9])),
        ("initiate_login_uri", json!("http://app.example/start")),
        ("initiate_login_uri", json!("javascript:alert(1)")),
        ("initiate_login_uri", json!("https://app.example/#start")),
        ("userinfo_signed_response_alg", json!("none")),
        ("userinfo_signed_response_alg", json!("HS256")),
    ] {
        let call = server.client.patch(&*at).bearer(&admin.access).json(&json!({ field: bad }));
        assert_eq!(call.send().await.expect_problem("invalid_value").json()["field"], field, "{bad}");
        let body = json!({ "redirect_uris": [REDIRECT], field: bad });
        let told = refused(server.client.post("/oauth2/register").json(&body).send().await);
        assert_eq!(told, "invalid_client_metadata", "{field} {bad}");
    }
    for (field, bad) in [("default_max_age", json!(-1)), ("require_auth_time", json!("yes"))] {
        let call = server.client.patch(&*at).bearer(&admin.access).json(&json!({ field: bad }));
        call.send().await.expect_problem("malformed");
    }
    // `null` puts one back.
    let call = server.client.patch(&*at).bearer(&admin.access).json(&json!({ "default_max_age": null }));
    assert_eq!(call.send().await.expect(200).json().get("default_max_age"), None);
}

/// OpenID Connect Core §4: a link of ours begins a sign-in at the application, which is told who sends; nobody is sent to a stranger's.
#[tokio::test]
async fn connected_apps_are_begun_from_here() {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    let cookie = server.page_sign_in(ADA).await;
    let app = server.application("confidential", json!({ "initiate_login_uri": "https://app.example/start" })).await;
    let body = json!({
        "redirect_uris": [REDIRECT], "client_name": "A stranger", "initiate_login_uri": "https://stranger.example/start",
    });
    let made = server.client.post("/oauth2/register").json(&body).send().await.expect(201).json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    let stranger = Application { id: text("client_id"), secret: text("client_secret") };
    server.advance(30_000);
    for app in [&app, &stranger] {
        server.granted(app, &cookie, "openid").await;
    }
    let call = server.client.get("/account/apps").header("cookie", format!("__Host-portcullis_session={cookie}"));
    let html = call.send().await.expect(200).text().replace("&#x2f;", "/").replace("&amp;", "&");
    let link =
        format!("<a href=\"https://app.example/start?{}\" rel=\"noreferrer\">", encode(&[("iss", &server.issuer)]));
    assert!(html.contains(&link), "{link} in {html}");
    assert!(html.contains("A stranger") && !html.contains("stranger.example"), "{html}");
}

/// `oidcc-userinfo-rs256`; OpenID Connect Core §5.3.2: by the algorithm that the client registered, by a key of ours, for that client.
#[tokio::test]
async fn userinfo_is_signed_for_who_wants_it() {
    let (server, plain, cookie) = world(json!({})).await;
    let metadata = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    let all = json!(["ES256", "RS256", "Ed25519", "EdDSA"]);
    assert_eq!(metadata["userinfo_signing_alg_values_supported"], all);
    let mut apps = vec![];
    for alg in ["ES256", "RS256", "Ed25519", "EdDSA"] {
        apps.push((alg, house(&server, json!({ "userinfo_signed_response_alg": alg })).await));
    }
    let pairwise = house(&server, json!({ "userinfo_signed_response_alg": "ES256", "subject_type": "pairwise" })).await;
    apps.push(("ES256", pairwise));
    // Keys that were made just now are listed for a while first.
    server.advance(30_000);
    let jwks = server.client.get("/.well-known/jwks.json").send().await.expect(200).json();
    let keys: Vec<Jwk> = serde_json::from_value(jwks["keys"].clone()).unwrap();
    for (alg, app) in &apps {
        let tokens = server.granted(app, &cookie, "openid email").await;
        let ask = |method: http::Method, token: &Value| {
            server.client.call(method, "/oauth2/userinfo").bearer(token.as_str().unwrap()).send()
        };
        for method in [http::Method::GET, http::Method::POST] {
            let answer = ask(method, &tokens["access_token"]).await.expect(200);
            assert_eq!(
                (answer.header("content-type"), answer.header("cache-control")),
                ("application/jwt", "no-store")
            );
            let token = answer.text();
            let parts = Compact::parse(&token, "JWT").unwrap();
            let known = portcullis_verify::Keys::parse(&keys);
            let good = known.verifies(parts.kid, parts.alg, parts.signing_input.as_bytes(), &parts.signature);
            assert_eq!(good, Some(true), "{alg}");
            let head = b64::decode(token.split('.').next().unwrap()).unwrap();
            assert_eq!(strict::from_slice::<Value>(&head).unwrap()["alg"], *alg);
            let told: Value = strict::from_slice(&parts.payload).unwrap();
            let id = claims(&tokens["id_token"]);
            assert_eq!((&told["iss"], &told["aud"], &told["sub"]), (&id["iss"], &id["aud"], &id["sub"]));
            assert_eq!((&told["email"], told.get("exp"), told.get("nonce")), (&json!(ADA), None, None));
            // It is neither a token nor a hint.
            ask(http::Method::GET, &json!(token)).await.expect_problem("token_malformed");
            let hint = [("id_token_hint", &*token), ("prompt", "none")];
            let place = leads(&server, app, &cookie, &hint).await;
            assert_eq!(parameter(&place, "error").as_deref(), Some("login_required"), "{place}");
        }
        ask(http::Method::GET, &json!("x")).await.expect_problem("token_malformed");
    }
    // Who registered none gets JSON, without issuer and client.
    let tokens = server.granted(&plain, &cookie, "openid email").await;
    let call = server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap());
    let answer = call.send().await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    let told = answer.json();
    assert_eq!((&told["email"], told.get("iss"), told.get("aud")), (&json!(ADA), None, None));
}
