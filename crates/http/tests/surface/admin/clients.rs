//! `/v1/admin/clients` and `/v1/admin/keys`.
use portcullis_testkit::TestServer;
use serde_json::json;

#[tokio::test]
async fn a_secret_is_shown_once() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let clients = "/v1/admin/clients";
    let body = json!({ "name": "orders", "kind": "verifier" });
    let made = server.client.post(clients).bearer(&admin.access).json(&body).send().await.expect(201).json();
    let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());
    assert!(id.starts_with("cli_") && secret.len() > 40);
    let list = server.client.get(clients).bearer(&admin.access).send().await.expect(200);
    assert!(list.text().contains(id) && !list.text().contains(secret));
    let one = server.client.get(format!("{clients}/{id}")).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((one["name"].as_str(), one["kind"].as_str()), (Some("orders"), Some("verifier")));
    let once = || server.client.post(clients).bearer(&admin.access).json(&body).header("idempotency-key", "once");
    let (first, again) = (once().send().await.expect(201).json(), once().send().await.expect(201).json());
    assert_eq!(first["client_id"], again["client_id"]);
    assert!(first["client_secret"].is_string() && again.get("client_secret").is_none());
    let public = json!({ "name": "an app", "kind": "public" });
    let public = server.client.post(clients).bearer(&admin.access).json(&public).send().await.expect(201).json();
    assert!(public.get("client_secret").is_none());
    let odd = json!({ "name": "x", "kind": "secret" });
    let refused =
        server.client.post(clients).bearer(&admin.access).json(&odd).send().await.expect_problem("invalid_value");
    assert_eq!(refused.json()["field"], "kind");
    let none = format!("{clients}/cli_00000000000000000000000001");
    server.client.get(none).bearer(&admin.access).send().await.expect_problem("not_found");
}

#[tokio::test]
async fn switching_off_is_a_revocation() {
    let server = TestServer::usual().await;
    let (id, secret) = server.new_client("verifier").await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/clients/{id}");
    let set = |disabled: bool| server.client.patch(&*path).bearer(&admin.access).json(&json!({ "disabled": disabled }));
    let mut feed = server.client.get("/v1/feed").basic((&id, &secret)).events().await;
    assert_eq!(feed.status, 200);
    feed.next_named("snapshot").await;
    let off = set(true).send().await.expect(200).json();
    assert_eq!((off["disabled"].as_bool(), off["ended"].is_null()), (Some(true), true));
    assert!(off["rev"].as_u64().is_some() && off["enforcement"]["complete"].is_boolean());
    feed.next_named("bye").await;
    assert!(feed.next().await.is_none());
    server.client.get("/v1/feed").basic((&id, &secret)).send().await.expect_problem("invalid_credentials");
    let again = set(true).send().await.expect(200).json();
    assert_eq!((&again["rev"], &again["ended"]), (&off["rev"], &off["ended"]), "it was off already: the old rev");
    assert_eq!(again["enforcement"]["bounded_by"], off["enforcement"]["bounded_by"]);
    assert!(set(false).send().await.expect(200).json().get("rev").is_none(), "switching on ends nothing");
    assert_eq!(server.client.get("/v1/feed").basic((&id, &secret)).events().await.status, 200);
    let own = server.client.patch("/v1/admin/clients/portcullis").bearer(&admin.access);
    own.json(&json!({ "disabled": true })).send().await.expect_problem("invalid_value");
}

#[tokio::test]
async fn keys_are_told_without_their_private_parts() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let answer = server.client.get("/v1/admin/keys").bearer(&admin.access).send().await.expect(200);
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.iter().filter(|key| key["use"] == "sig").count(), 2);
    assert_eq!(keys.iter().filter(|key| key["use"] == "sig" && key["active"] == true).count(), 1);
    assert!(keys.iter().all(|key| key["kid"].as_str().unwrap().starts_with("key_") && key["created_at"].is_string()));
    assert!(!answer.text().contains("sealed"));
    let page = server.client.get("/v1/admin/keys?limit=1").bearer(&admin.access).send().await.expect(200).json();
    let path = format!("/v1/admin/keys?limit=1&cursor={}", page["next"].as_str().unwrap());
    let second = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_ne!(page["keys"][0]["kid"], second["keys"][0]["kid"]);
}
