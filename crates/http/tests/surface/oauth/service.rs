//! Clients that act for themselves: `grant_type=client_credentials` (RFC 6749 §4.4).
use super::machine::{claims, judged, refused, soon_refused};
use portcullis_testkit::TestServer;
use portcullis_testkit::application::Application;
use portcullis_wire::Code;
use serde_json::{Value, json};

async fn machine(server: &TestServer, more: Value) -> Application {
    let mut body = json!({
        "redirect_uris": [], "grant_types": ["client_credentials"], "scopes": ["openid", "offline_access", "read", "write"],
        "resources": ["https://a.example/api", "https://b.example/api"],
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.application("confidential", body).await
}

async fn token(server: &TestServer, app: &Application, more: &[(&str, &str)]) -> Value {
    let pairs = [&[("grant_type", "client_credentials")], more].concat();
    server.token(app, &pairs).await.expect(200).json()
}

#[tokio::test]
async fn a_client_acts_for_itself_under_an_account_and_a_session() {
    let server = TestServer::usual().await;
    let app = machine(&server, json!({})).await;
    let admin = server.admin().await;
    let shown = server.client.get(format!("/v1/admin/clients/{}", app.id)).bearer(&admin.access).send().await;
    let account = shown.expect(200).json()["service_account"].as_str().unwrap().to_owned();
    let first = token(&server, &app, &[]).await;
    assert_eq!((first["token_type"].as_str(), first["scope"].as_str()), (Some("Bearer"), Some("read write")));
    assert_eq!((first.get("refresh_token"), first.get("id_token")), (None, None), "RFC 6749 §4.4.3");
    let told = claims(&first["access_token"]);
    assert_eq!((told["sub"].as_str(), told["client_id"].as_str()), (Some(&*account), Some(&*app.id)));
    assert_eq!((told["acr"].as_str(), &told["amr"]), (Some("0"), &json!([])));
    assert_eq!(judged(&server, &first), Ok(()));
    // The session is used again, whatever is asked for.
    let resource = ("resource", "https://a.example/api");
    let second = claims(&token(&server, &app, &[("scope", "read"), resource]).await["access_token"]);
    assert_eq!((&second["sid"], &second["gid"]), (&told["sid"], &told["gid"]));
    assert_eq!((second["scope"].as_str(), second["aud"].as_str()), (Some("read"), Some("https://a.example/api")));
    // It is seen, as what it is.
    let path = format!("/v1/admin/accounts/{account}");
    let row = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&row["service"], &row["email"], row["name"].as_str()), (&json!(true), &Value::Null, Some("An app")));
    let listed = server.client.get(format!("{path}/sessions")).bearer(&admin.access).send().await.expect(200).json();
    let listed = listed["sessions"].as_array().unwrap().clone();
    assert_eq!((listed.len(), listed[0]["kind"].as_str(), &listed[0]["id"]), (1, Some("service"), &told["sid"]));
    let list = server.client.get("/v1/admin/accounts?limit=200").bearer(&admin.access).send().await.expect(200).json();
    let services: Vec<_> = list["accounts"].as_array().unwrap().iter().filter(|row| row["service"] == true).collect();
    assert_eq!(services.len(), 1);
    let active = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret));
    let active = active.form(&format!("token={}", first["access_token"].as_str().unwrap())).send().await.expect(200);
    assert_eq!((active.json()["active"].clone(), active.json()["sub"].as_str()), (json!(true), Some(&*account)));
    // It opens no account, and nobody signs in to it.
    let token = first["access_token"].as_str().unwrap();
    server.client.get("/v1/me").bearer(token).send().await.expect_problem("insufficient_scope");
    server.client.get("/oauth2/userinfo").bearer(token).send().await.expect_problem("insufficient_scope");
    let body = json!({ "identifier": account, "password": "" });
    server.client.post("/v1/sessions").json(&body).send().await.expect_problem("invalid_credentials");
}

#[tokio::test]
async fn many_at_once_make_one_session() {
    let server = TestServer::usual().await;
    let app = machine(&server, json!({})).await;
    let calls = (0..12).map(|_| async { claims(&token(&server, &app, &[]).await["access_token"])["sid"].clone() });
    let sessions: Vec<_> = futures_util::future::join_all(calls).await;
    assert!(sessions.iter().all(|sid| *sid == sessions[0]), "{sessions:?}");
}

#[tokio::test]
async fn what_is_not_its_own_is_refused() {
    let server = TestServer::usual().await;
    let app = machine(&server, json!({})).await;
    let ask = |more: &'static [(&'static str, &'static str)]| {
        let pairs = [&[("grant_type", "client_credentials")], more].concat();
        let (server, app) = (&server, &app);
        async move { server.token(app, &pairs).await }
    };
    for beyond in ["admin", "read admin", "openid", "offline_access", "read offline_access", "profile", "account"] {
        let pairs = [("grant_type", "client_credentials"), ("scope", beyond)];
        assert_eq!(refused(server.token(&app, &pairs).await), "invalid_scope", "{beyond}");
    }
    assert_eq!(refused(ask(&[("resource", "https://c.example/api")]).await), "invalid_target");
    assert_eq!(refused(ask(&[("resource", "not a uri")]).await), "invalid_target");
    let both = ask(&[("resource", "https://a.example/api"), ("resource", "https://b.example/api")]).await;
    let both = claims(&both.expect(200).json()["access_token"]);
    assert_eq!(both["aud"], json!(["https://a.example/api", "https://b.example/api"]));
    // A client without that grant type, a wrong secret, and one that only gives its name.
    let other = server.application("confidential", json!({})).await;
    assert_eq!(refused(server.token(&other, &[("grant_type", "client_credentials")]).await), "unauthorized_client");
    for secret in ["wrong", ""] {
        let thief = Application { id: app.id.clone(), secret: secret.into() };
        let answer = server.token(&thief, &[("grant_type", "client_credentials")]).await.expect(401);
        assert_eq!(answer.json()["error"], "invalid_client");
    }
}

#[tokio::test]
async fn each_end_ends_it_and_only_an_ended_session_is_made_anew() {
    let server = TestServer::usual().await;
    let app = machine(&server, json!({})).await;
    let admin = server.admin().await;
    let ask = || server.token(&app, &[("grant_type", "client_credentials")]);
    // The session ends: its tokens are dead, the next request makes another one.
    let first = token(&server, &app, &[]).await;
    let (sid, account) = {
        let told = claims(&first["access_token"]);
        (told["sid"].as_str().unwrap().to_owned(), told["sub"].as_str().unwrap().to_owned())
    };
    server.client.delete(format!("/v1/admin/sessions/{sid}")).bearer(&admin.access).send().await.expect(200);
    soon_refused(&server, &first, Code::TokenRevoked).await;
    let second = token(&server, &app, &[]).await;
    assert_ne!(claims(&second["access_token"])["sid"], sid);
    assert_eq!(judged(&server, &second), Ok(()));
    // All of the account's, the same.
    let path = format!("/v1/admin/accounts/{account}");
    server.client.delete(format!("{path}/sessions")).bearer(&admin.access).send().await.expect(200);
    soon_refused(&server, &second, Code::TokenRevoked).await;
    let third = token(&server, &app, &[]).await;
    // The account is blocked: nothing lives, and nothing new comes.
    let block = server.client.post(format!("{path}/block")).bearer(&admin.access).json(&json!({ "reason": "leaked" }));
    block.send().await.expect(200);
    soon_refused(&server, &third, Code::TokenRevoked).await;
    assert_eq!(refused(ask().await), "unauthorized_client");
    let lift = server.client.post(format!("{path}/unblock")).bearer(&admin.access).json(&json!({}));
    lift.send().await.expect(200);
    soon_refused(&server, &third, Code::TokenRevoked).await;
    let fourth = token(&server, &app, &[]).await;
    // The client is off: no session is left in the list; and on again it makes a new one.
    let client = format!("/v1/admin/clients/{}", app.id);
    let switch =
        |off: bool| server.client.patch(&*client).bearer(&admin.access).json(&json!({ "disabled": off })).send();
    let off = switch(true).await.expect(200).json();
    assert!(off["rev"].is_u64() && off["ended"].is_null(), "{off}");
    soon_refused(&server, &fourth, Code::TokenRevoked).await;
    assert_eq!(ask().await.expect(401).json()["error"], "invalid_client");
    let listed = server.client.get(format!("{path}/sessions")).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(listed["sessions"], json!([]));
    switch(false).await.expect(200);
    soon_refused(&server, &fourth, Code::TokenRevoked).await;
    assert_eq!(judged(&server, &token(&server, &app, &[]).await), Ok(()));
    // The account is deleted: never again.
    server.client.delete(&*path).bearer(&admin.access).send().await.expect(200);
    assert_eq!(refused(ask().await), "unauthorized_client");
}

#[tokio::test]
async fn a_grant_type_that_comes_later_brings_the_account() {
    let server = TestServer::usual().await;
    let app = server.application("confidential", json!({})).await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/clients/{}", app.id);
    let patch = |body: Value| server.client.patch(&*path).bearer(&admin.access).json(&body).send();
    let changed = patch(json!({ "grant_types": ["client_credentials"], "redirect_uris": [] })).await.expect(200).json();
    let account = changed["service_account"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token(&server, &app, &[]).await["access_token"])["sub"], account);
    let again = patch(json!({ "name": "Another name" })).await.expect(200).json();
    assert_eq!(again["service_account"], account, "it keeps the one it has");
    patch(json!({ "service_account": null })).await.expect_problem("malformed");
}
