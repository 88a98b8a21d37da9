//! Applications as administrators register and keep them.
use portcullis_app::oauth::Configured;
use portcullis_domain::client::Profile;
use portcullis_domain::model::ClientKind;
use portcullis_testkit::TestServer;
use portcullis_testkit::application::{REDIRECT, encode};
use portcullis_wire::{ClientId, SecretString, b64};
use serde_json::{Value, json};

#[tokio::test]
async fn a_registration_is_checked_shown_and_changed() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let make = |body: Value| server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send();
    let made =
        make(json!({ "name": "An app", "kind": "confidential", "redirect_uris": [REDIRECT] })).await.expect(201).json();
    assert_eq!(made["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!((&made["scopes"], &made["consent"]), (&json!(["email", "openid", "profile"]), &json!("ask")));
    assert!(made["client_secret"].as_str().unwrap().len() > 43);
    for (body, code) in [
        (json!({ "name": "a", "kind": "confidential", "grant_types": ["authorization_code"] }), "invalid_value"),
        (json!({ "name": "a", "kind": "public", "redirect_uris": ["http://a.example/"] }), "invalid_value"),
        (json!({ "name": "a", "kind": "public", "redirect_uris": [REDIRECT], "access_ttl_s": 3600 }), "invalid_value"),
        (json!({ "name": "a", "kind": "public", "redirect_uris": [REDIRECT], "scopes": ["admin"] }), "invalid_value"),
        (json!({ "name": "a", "kind": "public", "redirect_uris": REDIRECT }), "malformed"),
        (json!({ "name": "a", "kind": "public", "redirect_uri": [REDIRECT] }), "malformed"),
        (
            json!({ "name": "a", "kind": "public", "redirect_uris": [REDIRECT], "service_account": "acc_x" }),
            "malformed",
        ),
        (json!({ "name": "a", "kind": "verifier", "redirect_uris": [REDIRECT] }), "invalid_value"),
    ] {
        make(body).await.expect_problem(code);
    }
    let path = format!("/v1/admin/clients/{}", made["client_id"].as_str().unwrap());
    let patch = |body: Value| server.client.patch(&*path).bearer(&admin.access).json(&body).send();
    let changed =
        patch(json!({ "name": "Renamed", "redirect_uris": ["https://b.example/cb"], "consent": "implied" })).await;
    let changed = changed.expect(200).json();
    assert_eq!(
        (changed["name"].as_str(), &changed["redirect_uris"]),
        (Some("Renamed"), &json!(["https://b.example/cb"]))
    );
    assert_eq!(patch(json!({ "consent": null })).await.expect(200).json()["consent"], "ask", "null is the default");
    assert_eq!(server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json()["name"], "Renamed");
    patch(json!({ "redirect_uris": [] })).await.expect_problem("invalid_value");
    patch(json!({ "disabled": true, "name": "b" })).await.expect_problem("malformed");
    patch(json!({ "secret": "mine" })).await.expect_problem("malformed");
    let built_in =
        server.client.patch("/v1/admin/clients/portcullis").bearer(&admin.access).json(&json!({ "name": "x" }));
    built_in.send().await.expect_problem("invalid_value");
}

/// RFC 6749 §2.3.1 has both halves of HTTP Basic form-encoded, and half of the clients that there are send them as they are. A secret
/// of somebody's own choice counts either way; what is right in neither way does not.
#[tokio::test]
async fn a_secret_counts_as_it_is_and_encoded() {
    let server = TestServer::usual().await;
    for (n, secret) in [
        "SrdoZW+UwubXpPQaxdluq99qzKIhQjuogZ+NKN17jCiX",
        "a%20b%zz=&c:d/e+f0123456789012345678901234567890",
        "%41".repeat(15).as_str(),
    ]
    .into_iter()
    .enumerate()
    {
        let id = ClientId::from_bits(900 + n as u128);
        let profile = Profile { redirect_uris: vec![REDIRECT.into()], ..Profile::default() };
        let profile = profile.checked(ClientKind::Confidential, 300).unwrap();
        let digest = Some(SecretString::new(secret).digest());
        let kind = ClientKind::Confidential;
        server
            .app
            .apply_client(&Configured { id, name: "A shop".into(), kind, profile, secret: digest })
            .await
            .unwrap();
        let by = |sent: &str| {
            let pair = b64::encode(format!("{id}:{sent}").as_bytes()).replace('-', "+").replace('_', "/");
            let call = server.client.post("/oauth2/introspect").header("authorization", format!("Basic {pair}"));
            async move { call.form("token=x").send().await }
        };
        let encoded = encode(&[("", secret)]).split_off(1);
        by(secret).await.expect(200);
        by(&encoded).await.expect(200);
        for wrong in [secret.replacen(['+', '%'], " ", 1), format!("{secret}x"), encode(&[("", &encoded)]).split_off(1)]
        {
            assert_eq!(by(&wrong).await.expect(401).json()["error"], "invalid_client", "{wrong}");
        }
        // In the body a form is a form.
        let form = |sent: &str| format!("token=x&client_id={id}&client_secret={sent}");
        server.client.post("/oauth2/introspect").form(&form(&encoded)).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_secret_is_rotated_with_overlap() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let app = server.application("confidential", json!({})).await;
    let rotate = |body: Value| {
        let path = format!("/v1/admin/clients/{}/secret", app.id);
        server.client.post(path).bearer(&admin.access).json(&body).send()
    };
    let works = |secret: String| {
        let (server, id) = (&server, app.id.clone());
        async move {
            let call = server.client.post("/oauth2/introspect").basic((&id, &secret)).form("token=x");
            call.send().await.status == 200
        }
    };
    let second = rotate(json!({ "overlap_s": 60 })).await.expect(200).json();
    let secret = |answer: &Value| answer["client_secret"].as_str().unwrap().to_owned();
    assert!(works(app.secret.clone()).await && works(secret(&second)).await);
    assert!(second["old_secret_until"].is_string());
    server.advance(60_000);
    assert!(!works(app.secret.clone()).await && works(secret(&second)).await);
    let third = rotate(json!({})).await.expect(200).json();
    assert!(!works(secret(&second)).await && works(secret(&third)).await);
    rotate(json!({ "overlap_s": 2_592_001 })).await.expect_problem("invalid_value");
    let public = server.application("public", json!({})).await;
    let path = format!("/v1/admin/clients/{}/secret", public.id);
    server.client.post(path).bearer(&admin.access).json(&json!({})).send().await.expect_problem("invalid_value");
}

#[tokio::test]
async fn who_a_client_is_is_said_in_one_way() {
    let server = TestServer::usual().await;
    let (app, public) =
        (server.application("confidential", json!({})).await, server.application("public", json!({})).await);
    let post = |body: String| server.client.post("/oauth2/token").form(&body).send();
    let error = |answer: portcullis_testkit::Answer| answer.json()["error"].as_str().unwrap().to_owned();
    let by_body =
        post(format!("client_id={}&client_secret={}&grant_type=refresh_token&refresh_token=x", app.id, app.secret));
    assert_eq!(error(by_body.await.expect(400)), "invalid_grant");
    for body in [
        format!("client_id={}&grant_type=refresh_token&refresh_token=x", app.id),
        format!("client_id={}&client_secret=wrong&grant_type=refresh_token&refresh_token=x", app.id),
        format!("client_id={}&client_secret=any&grant_type=refresh_token&refresh_token=x", public.id),
        "client_id=portcullis&grant_type=refresh_token&refresh_token=x".into(),
        "client_id=cli_nothing&grant_type=refresh_token&refresh_token=x".into(),
        "grant_type=refresh_token&refresh_token=x".into(),
    ] {
        let refused = post(body).await.expect(401);
        assert!(refused.header("www-authenticate").starts_with("Basic"));
        assert_eq!(error(refused), "invalid_client");
    }
    let twice = server.client.post("/oauth2/token").basic((&app.id, &app.secret));
    let twice = twice.form(&format!("client_id={}&client_secret={}&grant_type=refresh_token", app.id, app.secret));
    assert_eq!(error(twice.send().await.expect(400)), "invalid_request");
    let call = |body: &'static str| server.client.post("/oauth2/token").basic((&app.id, &app.secret)).form(body).send();
    assert_eq!(error(call("grant_type=password&username=a&password=b").await.expect(400)), "unsupported_grant_type");
    assert_eq!(error(call("grant_type=refresh_token&grant_type=refresh_token").await.expect(400)), "invalid_request");
    assert_eq!(error(call("").await.expect(400)), "invalid_request");
    let plain = server.application("confidential", json!({ "grant_types": ["authorization_code"] })).await;
    let refused = server.refresh_for(&plain, "x").await.expect(400);
    assert_eq!(error(refused), "unauthorized_client");
}
