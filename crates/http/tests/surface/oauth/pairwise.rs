//! Names of users that one sector knows (OpenID Connect Core §8), and what says whose sector a client is of (Registration §5).
use super::machine::refused;
use http::Method;
use portcullis_app::{ClientSettings, Registration};
use portcullis_testkit::application::{VERIFIER, encode};
use portcullis_testkit::{Answer, Application, Idp, Options, Receiver, TestServer, parameter};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const BOB: &str = "bob@example.test";
const A: &str = "https://a.example/cb";
const B: &str = "https://b.example/cb";

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(payload).unwrap()).unwrap()
}

fn sub(value: &Value) -> String {
    value["sub"].as_str().unwrap().to_owned()
}

fn pairwise(uris: &[&str], more: Value) -> Value {
    let mut members = json!({ "redirect_uris": uris, "subject_type": "pairwise", "consent": "implied" });
    members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    members
}

/// Tokens for whoever the cookie is of, by a client that answers at `place`.
async fn tokens(server: &TestServer, app: &Application, cookie: &str, place: &str) -> Value {
    let answer = server.authorize(app, cookie, &[("redirect_uri", place), ("scope", "openid")]).await.expect(303);
    let code = parameter(answer.header("location"), "code").expect("a code");
    let pairs =
        [("grant_type", "authorization_code"), ("code", &*code), ("redirect_uri", place), ("code_verifier", VERIFIER)];
    server.token(app, &pairs).await.expect(200).json()
}

async fn name_at(server: &TestServer, app: &Application, cookie: &str, place: &str) -> String {
    sub(&claims(&tokens(server, app, cookie, place).await["id_token"]))
}

async fn create(server: &TestServer, members: &Value) -> Answer {
    let admin = server.admin().await;
    let mut body = json!({ "name": "An app", "kind": "confidential", "scopes": ["openid"] });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await
}

async fn patch(server: &TestServer, app: &Application, members: &Value) -> Answer {
    let admin = server.admin().await;
    let call = server.client.patch(format!("/v1/admin/clients/{}", app.id));
    call.bearer(&admin.access).json(members).send().await
}

fn field(answer: Answer) -> String {
    answer.expect_problem("invalid_value").json()["field"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_knows_its_user_by_one_name_wherever_it_looks() {
    let server = TestServer::usual().await;
    let receiver = Receiver::start().await;
    let account = server.sign_up(ADA).await;
    let cookie = server.page_sign_in(ADA).await;
    let told = json!({ "backchannel_logout_uri": format!("{}/logout", receiver.base) });
    let app = server.application("confidential", pairwise(&[A], told)).await;
    let first = tokens(&server, &app, &cookie, A).await;
    let id = claims(&first["id_token"]);
    let name = sub(&id);
    assert!(name.starts_with("sub_") && name.len() == 26, "{name}");
    // The access token has the account's id: that is what ends are matched by.
    assert_eq!(sub(&claims(&first["access_token"])), account);
    let access = first["access_token"].as_str().unwrap();
    let userinfo = server.client.get("/oauth2/userinfo").bearer(access).send().await.expect(200).json();
    assert_eq!(sub(&userinfo), name, "Core §5.3.2: the same as in the ID token");
    let asked = async |app: &Application| {
        let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret));
        sub(&call.form(&encode(&[("token", access)])).send().await.expect(200).json())
    };
    assert_eq!(asked(&app).await, name, "the client itself");
    let service = server.application("confidential", json!({})).await;
    assert_eq!(asked(&service).await, account, "a resource server, as in the token");
    let next = server.refresh_for(&app, first["refresh_token"].as_str().unwrap()).await.expect(200).json();
    assert_eq!(sub(&claims(&next["id_token"])), name);
    // A logout names it so as well.
    let own = server.sign_in(ADA).await;
    server.client.delete("/v1/me/sessions").bearer(&own.access).send().await.expect(200);
    let body = receiver.wait_for(1).await.remove(0);
    let logout = claims(&json!(body.strip_prefix("logout_token=").unwrap()));
    assert_eq!((sub(&logout), &logout["sid"]), (name, &id["sid"]));
}

#[tokio::test]
async fn a_name_is_shared_within_a_sector_and_nowhere_else() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    server.sign_up(BOB).await;
    let (ada, bob) = (server.page_sign_in(ADA).await, server.page_sign_in(BOB).await);
    let place = Idp::start().await;
    let sector = format!("{}/sector.json", place.issuer);
    place.says("/sector.json", 200, &json!([A, B, "https://c.example/cb"]));
    let alone = server.application("confidential", pairwise(&[A], json!({}))).await;
    let same_host = server.application("confidential", pairwise(&["https://a.example/other"], json!({}))).await;
    let other_host = server.application("confidential", pairwise(&[B], json!({}))).await;
    let joined =
        server.application("confidential", pairwise(&[A, B], json!({ "sector_identifier_uri": sector }))).await;
    let joined_too = server.application("public", pairwise(&[B], json!({ "sector_identifier_uri": sector }))).await;
    let public = server.application("confidential", json!({ "redirect_uris": [A], "consent": "implied" })).await;
    let at_a = name_at(&server, &alone, &ada, A).await;
    assert_eq!(name_at(&server, &alone, &ada, A).await, at_a, "it stays");
    assert_ne!(name_at(&server, &alone, &bob, A).await, at_a);
    assert_eq!(name_at(&server, &same_host, &ada, "https://a.example/other").await, at_a);
    let at_b = name_at(&server, &other_host, &ada, B).await;
    let in_sector = name_at(&server, &joined, &ada, A).await;
    assert_eq!(name_at(&server, &joined, &ada, B).await, in_sector, "whichever address it came back to");
    assert_eq!(name_at(&server, &joined_too, &ada, B).await, in_sector);
    let open = name_at(&server, &public, &ada, A).await;
    assert!(open.starts_with("acc_"));
    let mut all = vec![at_a, at_b, in_sector, open];
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{all:?}");
}

#[tokio::test]
async fn a_hint_is_taken_by_the_name_that_its_client_knows() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    server.sign_up(BOB).await;
    let (ada, bob) = (server.page_sign_in(ADA).await, server.page_sign_in(BOB).await);
    let app = server.application("confidential", pairwise(&[A], json!({}))).await;
    let other = server.application("confidential", pairwise(&[B], json!({}))).await;
    let hint = |tokens: Value| tokens["id_token"].as_str().unwrap().to_owned();
    let mine = hint(tokens(&server, &app, &ada, A).await);
    let elsewhere = hint(tokens(&server, &other, &ada, B).await);
    let quiet = async |cookie: &str, hint: &str| {
        let pairs = [("redirect_uri", A), ("scope", "openid"), ("prompt", "none"), ("id_token_hint", hint)];
        let answer = server.authorize(&app, cookie, &pairs).await.expect(303);
        parameter(answer.header("location"), "error")
    };
    assert_eq!(quiet(&ada, &mine).await, None);
    assert_eq!(quiet(&bob, &mine).await.as_deref(), Some("login_required"));
    assert_eq!(quiet(&ada, &elsewhere).await.as_deref(), Some("login_required"), "a name of another sector");
    // The same hint ends the browser's session.
    let call = server.client.get(format!("/oauth2/logout?{}", encode(&[("id_token_hint", &mine)])));
    let done = call.header("cookie", format!("__Host-portcullis_session={ada}")).send().await.expect(200);
    assert_eq!(done.cookie("__Host-portcullis_session").as_deref(), Some(""));
    assert_eq!(quiet(&ada, &mine).await.as_deref(), Some("login_required"));
}

#[tokio::test]
async fn names_survive_every_rotation_of_keys() {
    let mut server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let cookie = server.page_sign_in(ADA).await;
    let app = server.application("confidential", pairwise(&[A], json!({}))).await;
    let name = name_at(&server, &app, &cookie, A).await;
    let admin = server.admin().await;
    let keys = async || {
        let call = server.client.get("/v1/admin/keys").bearer(&admin.access);
        call.send().await.expect(200).json()["keys"].as_array().unwrap().clone()
    };
    let of_names = keys().await.into_iter().find(|key| key["use"] == "pairwise").expect("a key for names");
    let kid = of_names["kid"].as_str().unwrap().to_owned();
    // It rotates with no other key, and cannot be revoked.
    let call = server.client.post("/v1/admin/keys/rotate").bearer(&admin.access).json(&json!({ "use": "mac" }));
    call.send().await.expect(200);
    let call = server.client.post(format!("/v1/admin/keys/{kid}/revoke")).bearer(&admin.access);
    assert_eq!(field(call.json(&json!({ "reason": "a test" })).send().await), "id");
    assert!(keys().await.contains(&of_names), "as it was");
    assert_eq!(name_at(&server, &app, &cookie, A).await, name);
    let jwks = server.client.get("/.well-known/jwks.json").send().await.expect(200).text();
    assert!(!jwks.contains(&kid), "it is nobody's to see");
    // Sealed under another master key it is the same key.
    let operator = portcullis_app::Admin::operator();
    let next = portcullis_app::keys::MasterKey::generate();
    server.app.admin_rotate_master(&operator, next).await.unwrap();
    assert_eq!(name_at(&server, &app, &cookie, A).await, name);
    server.stop().await;
}

#[tokio::test]
async fn a_client_stays_in_its_sector() {
    let server = TestServer::usual().await;
    let place = Idp::start().await;
    let sector = format!("{}/sector.json", place.issuer);
    for several in [&[A, B][..], &[A, "http://127.0.0.1/cb"]] {
        assert_eq!(field(create(&server, &pairwise(several, json!({}))).await), "sector_identifier_uri");
    }
    let tool = pairwise(&[A], json!({ "global_token_revocation": true }));
    assert_eq!(field(create(&server, &tool).await), "subject_type");
    let app = server.application("confidential", pairwise(&[A], json!({}))).await;
    for (members, wrong) in [
        (json!({ "subject_type": "public" }), "subject_type"),
        (json!({ "subject_type": null }), "subject_type"),
        (json!({ "redirect_uris": [B] }), "sector_identifier_uri"),
        (json!({ "redirect_uris": [A, B] }), "sector_identifier_uri"),
    ] {
        assert_eq!(field(patch(&server, &app, &members).await), wrong, "{members}");
    }
    patch(&server, &app, &json!({ "redirect_uris": [A, "https://a.example/two"] })).await.expect(200);
    let public = server.application("confidential", json!({})).await;
    assert_eq!(field(patch(&server, &public, &json!({ "subject_type": "pairwise" })).await), "subject_type");
    // Another address comes in when the sector lists it, and not before.
    place.says("/sector.json", 200, &json!([A]));
    let joined = server.application("confidential", pairwise(&[A], json!({ "sector_identifier_uri": sector }))).await;
    assert_eq!(place.calls().len(), 1);
    assert_eq!(field(patch(&server, &joined, &json!({ "redirect_uris": [A, B] })).await), "sector_identifier_uri");
    place.says("/sector.json", 200, &json!([A, B]));
    patch(&server, &joined, &json!({ "redirect_uris": [A, B] })).await.expect(200);
    assert_eq!(place.calls().len(), 3);
    // What changes nothing there asks nobody: the address may be down by now.
    place.says("/sector.json", 500, &json!({}));
    patch(&server, &joined, &json!({ "name": "Renamed", "consent": "ask" })).await.expect(200);
    assert_eq!(place.calls().len(), 3);
}

#[tokio::test]
async fn a_sector_must_list_who_joins_it() {
    let server = TestServer::usual().await;
    let place = Idp::start().await;
    let sector = format!("{}/sector.json", place.issuer);
    let join = async || create(&server, &pairwise(&[A], json!({ "sector_identifier_uri": sector }))).await;
    for (what, status, body) in [
        ("nothing there", 404, json!([A]).to_string()),
        ("an error", 500, json!([A]).to_string()),
        ("somebody else's addresses", 200, json!([B]).to_string()),
        ("almost the same", 200, json!([format!("{A}/")]).to_string()),
        ("an object", 200, json!({ "redirect_uris": [A] }).to_string()),
        ("no JSON", 200, "secret-of-a-machine".into()),
        ("nothing", 200, String::new()),
    ] {
        place.says_text("/sector.json", status, &body);
        let answer = join().await;
        assert!(!answer.text().contains("secret-of"), "what is there is not told on");
        assert_eq!(field(answer), "sector_identifier_uri", "{what}");
    }
    place.says("/sector.json", 200, &json!([A]));
    join().await.expect(201);
    for bad in ["http://a.example/s", "ftp://a.example/s", "https://u@a.example/s", "a.example"] {
        let members = pairwise(&[A], json!({ "sector_identifier_uri": bad }));
        assert_eq!(field(create(&server, &members).await), "sector_identifier_uri", "{bad}");
    }
}

#[tokio::test]
async fn strangers_register_pairwise_too() {
    let mut options = Options::default();
    options.settings.clients = ClientSettings { registration: Registration::Open, ..options.settings.clients };
    let server = TestServer::start(options).await;
    let place = Idp::start().await;
    let sector = format!("{}/sector.json", place.issuer);
    place.says("/sector.json", 200, &json!([A]));
    let metadata = server.client.get("/.well-known/openid-configuration").send().await.expect(200).json();
    assert_eq!(metadata["subject_types_supported"], json!(["public", "pairwise"]));
    let register = async |body: &Value| server.client.post("/oauth2/register").json(body).send().await;
    let good = json!({ "redirect_uris": [A], "subject_type": "pairwise", "sector_identifier_uri": sector });
    let made = register(&good).await.expect(201).json();
    assert_eq!((&made["subject_type"], &made["sector_identifier_uri"]), (&good["subject_type"], &json!(sector)));
    for bad in [
        json!({ "redirect_uris": [A, B], "subject_type": "pairwise" }),
        json!({ "redirect_uris": [A, B], "subject_type": "pairwise", "sector_identifier_uri": sector }),
        json!({ "redirect_uris": [A], "sector_identifier_uri": format!("{}/nothing", place.issuer) }),
        json!({ "redirect_uris": [A], "subject_type": "transient" }),
    ] {
        assert_eq!(refused(register(&bad).await), "invalid_client_metadata", "{bad}");
    }
    // It cannot change by which names it knows its users.
    let path = made["registration_client_uri"].as_str().unwrap().strip_prefix(&server.issuer).unwrap().to_owned();
    let token = made["registration_access_token"].as_str().unwrap().to_owned();
    let put = async |mut body: Value| {
        body["client_id"] = made["client_id"].clone();
        server.client.call(Method::PUT, &*path).bearer(&token).json(&body).send().await
    };
    let before = place.calls().len();
    put(good.clone()).await.expect(200);
    assert_eq!(place.calls().len(), before, "nothing changed");
    for bad in [
        json!({ "redirect_uris": [A] }),
        json!({ "redirect_uris": [A], "subject_type": "pairwise" }),
        json!({ "redirect_uris": [A, B], "subject_type": "pairwise", "sector_identifier_uri": sector }),
    ] {
        assert_eq!(refused(put(bad.clone()).await), "invalid_client_metadata", "{bad}");
    }
    place.says("/sector.json", 200, &json!([A, B]));
    put(json!({ "redirect_uris": [A, B], "subject_type": "pairwise", "sector_identifier_uri": sector }))
        .await
        .expect(200);
}

/// A client of the configuration whose sector was looked at when it was made: a later start calls nobody.
#[tokio::test]
async fn a_start_asks_no_sector_that_was_looked_at() {
    use portcullis_app::oauth::{Applied, Configured};
    let server = TestServer::usual().await;
    let place = Idp::start().await;
    let profile = pairwise(&[A], json!({ "sector_identifier_uri": format!("{}/sector.json", place.issuer) }));
    let wanted = |profile: &Value| Configured {
        id: "cli_00000000000000000000000009".parse().unwrap(),
        name: "Configured".into(),
        kind: portcullis_domain::model::ClientKind::Public,
        profile: serde_json::from_value(profile.clone()).unwrap(),
        secret: None,
    };
    assert!(server.app.apply_client(&wanted(&profile)).await.is_err(), "nothing is there");
    place.says("/sector.json", 200, &json!([A]));
    assert_eq!(server.app.apply_client(&wanted(&profile)).await.unwrap(), Applied::Made);
    place.says("/sector.json", 404, &json!({}));
    assert_eq!(server.app.apply_client(&wanted(&profile)).await.unwrap(), Applied::Same);
    let mut public = profile;
    public["subject_type"] = "public".into();
    assert!(server.app.apply_client(&wanted(&public)).await.is_err(), "every user would get another name");
}
