//! `/v1/admin/accounts`.
use portcullis_testkit::TestServer;
use portcullis_testkit::server::PASSWORD;
use serde_json::json;

#[tokio::test]
async fn accounts_are_made_listed_and_changed() {
    let server = TestServer::usual().await;
    let admin = server.admin().await;
    let accounts = "/v1/admin/accounts";
    for n in 0..5 {
        let body = json!({ "email": format!("user{n}@example.test"), "name": format!("User {n}") });
        let made = server.client.post(accounts).bearer(&admin.access).json(&body).send().await.expect(201);
        assert_eq!(made.header("location"), format!("{accounts}/{}", made.json()["id"].as_str().unwrap()));
    }
    let (mut found, mut path) = (0, format!("{accounts}?email=USER&limit=2"));
    loop {
        let page = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
        found += page["accounts"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{accounts}?email=USER&limit=2&cursor={next}");
    }
    assert_eq!(found, 5);
    let body = json!({ "email": "user0@example.test" });
    server.client.post(accounts).bearer(&admin.access).json(&body).send().await.expect_problem("email_taken");
    let body = json!({ "email": "x@example.test", "roles": ["No Such"] });
    let refused = server.client.post(accounts).bearer(&admin.access).json(&body).send().await;
    assert_eq!(refused.expect_problem("invalid_value").json()["field"], "roles");

    let repeated = json!({ "email": "once@example.test" });
    let once = || server.client.post(accounts).bearer(&admin.access).json(&repeated).header("idempotency-key", "once");
    let (first, second) = (once().send().await.expect(201).json(), once().send().await.expect(201).json());
    assert_eq!(first["id"], second["id"]);

    let path = format!("{accounts}/{}", first["id"].as_str().unwrap());
    let named = server.client.patch(&*path).bearer(&admin.access).json(&json!({ "name": "Once" })).send().await;
    assert_eq!(named.expect(200).json()["name"], "Once");
    let kept = server.client.patch(&*path).bearer(&admin.access).json(&json!({})).send().await.expect(200).json();
    assert_eq!(kept["name"], "Once");
    let bare = server.client.patch(&*path).bearer(&admin.access).json(&json!({ "name": null })).send().await;
    assert!(bare.expect(200).json()["name"].is_null());
}

#[tokio::test]
async fn a_block_ends_everything_and_its_lifting_revives_nothing() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let (one, two) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let admin = server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let block = || server.client.post(format!("{path}/block")).bearer(&admin.access);
    block().json(&json!({ "reason": "" })).send().await.expect_problem("invalid_value");
    let past = json!({ "reason": "x", "until": "2001-01-01T00:00:00Z" });
    assert_eq!(block().json(&past).send().await.expect_problem("invalid_value").json()["field"], "until");
    let odd = json!({ "reason": "x", "until": "tomorrow" });
    assert_eq!(block().json(&odd).send().await.expect_problem("invalid_value").json()["field"], "until");

    let told = block().json(&json!({ "reason": "a stolen phone", "until": "2999-01-01T00:00:00Z" })).send().await;
    assert_eq!(told.expect(200).json()["ended"], 2);
    for dead in [&one, &two] {
        server.client.get("/v1/me").bearer(&dead.access).send().await.expect_problem("token_revoked");
    }
    let seen = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((seen["status"].as_str(), seen["block"]["reason"].as_str()), (Some("blocked"), Some("a stolen phone")));
    assert_eq!(seen["block"]["actor"], admin.account);
    let unblock = server.client.post(format!("{path}/unblock")).bearer(&admin.access);
    assert_eq!(unblock.send().await.expect(200).json()["status"], "active");
    server.client.get("/v1/me").bearer(&one.access).send().await.expect_problem("token_revoked");
    let refresh = json!({ "refresh_token": one.refresh });
    server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect_problem("session_ended");
    server.sign_in("ada@example.test").await;
    // Oneself is not blocked by a slip.
    let own = server.client.post(format!("/v1/admin/accounts/{}/block", admin.account)).bearer(&admin.access);
    own.json(&json!({ "reason": "oops" })).send().await.expect_problem("invalid_value");
}

#[tokio::test]
async fn sessions_of_an_account_are_listed_and_ended() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let (one, two) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let admin = server.admin().await;
    let path = format!("/v1/admin/accounts/{account}/sessions");
    let list = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
    let single = format!("/v1/admin/sessions/{}", one.sid);
    let ended = server.client.delete(&*single).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(ended["ended"], 1);
    let again = server.client.delete(&*single).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((again["ended"].as_u64(), &again["rev"]), (Some(0), &ended["rev"]));
    server.client.get("/v1/me").bearer(&two.access).send().await.expect(200);
    let all = server.client.delete(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(all["ended"], 1);
    server.client.get("/v1/me").bearer(&two.access).send().await.expect_problem("token_revoked");
}

#[tokio::test]
async fn a_deleted_account_leaves_a_tombstone_and_a_free_address() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let gone = server.client.delete(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(gone["ended"], 1);
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect_problem("token_revoked");
    let again = server.client.delete(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((again["ended"].as_u64(), &again["rev"]), (Some(0), &gone["rev"]));
    let tombstone = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((tombstone["status"].as_str(), tombstone["email"].is_null()), (Some("deleted"), true));
    let block = server.client.post(format!("{path}/block")).bearer(&admin.access).json(&json!({ "reason": "x" }));
    block.send().await.expect_problem("not_found");
    assert_ne!(server.sign_up("ada@example.test").await, account);
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
    server.client.post("/v1/sessions").json(&body).send().await.expect(201);
    for unknown in ["acc_00000000000000000000000000", "acc_", "everyone"] {
        let path = format!("/v1/admin/accounts/{unknown}");
        server.client.get(&*path).bearer(&admin.access).send().await.expect_problem("not_found");
        server.client.delete(&*path).bearer(&admin.access).send().await.expect_problem("not_found");
    }
}
