//! `/v1/me` and the own devices.
use portcullis_testkit::TestServer;
use serde_json::json;

#[tokio::test]
async fn devices_are_listed_and_ended_one_by_one() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (phone, laptop) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let list = server.client.get("/v1/me/sessions").bearer(&laptop.access).send().await.expect(200).json();
    let sessions = list["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert!(list["next"].is_null());
    for session in sessions {
        assert_eq!(session["current"], session["id"] == laptop.sid);
        for member in ["id", "device_name", "kind", "ip", "created_at", "last_seen_at"] {
            assert!(session.get(member).is_some(), "{member}");
        }
    }
    let path = format!("/v1/me/sessions/{}", phone.sid);
    let ended = server.client.delete(&*path).bearer(&laptop.access).send().await.expect(200).json();
    assert_eq!(ended["ended"], 1);
    assert!(ended["rev"].as_u64().unwrap() > 0);
    assert_eq!(ended["enforcement"]["complete"], true, "{ended}");
    assert!(ended["enforcement"]["bounded_by"].as_str().unwrap().ends_with('Z'));
    server.client.get("/v1/me").bearer(&phone.access).send().await.expect_problem("token_revoked");
    let refused =
        server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": phone.refresh })).send().await;
    assert_eq!(refused.expect_problem("session_ended").json()["reason"], "ended_by_user");
    // Repeated: nothing ends, the old rev.
    let again = server.client.delete(&*path).bearer(&laptop.access).send().await.expect(200).json();
    assert_eq!((again["ended"].as_u64(), &again["rev"]), (Some(0), &ended["rev"]));
    server.client.get("/v1/me").bearer(&laptop.access).send().await.expect(200);
}

#[tokio::test]
async fn pages_of_devices() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let mut all = vec![];
    for _ in 0..5 {
        all.push(server.sign_in("ada@example.test").await);
    }
    let (mut seen, mut path) = (vec![], "/v1/me/sessions?limit=2".to_owned());
    loop {
        let page = server.client.get(&*path).bearer(&all[0].access).send().await.expect(200).json();
        let rows = page["sessions"].as_array().unwrap();
        assert!(rows.len() <= 2);
        seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/me/sessions?limit=2&cursor={next}");
        if seen.len() == 2 {
            // The session that the cursor names ends between two pages; nothing is skipped or repeated.
            let last = format!("/v1/me/sessions/{}", seen[1]);
            server.client.delete(last).bearer(&all[0].access).send().await.expect(200);
        }
    }
    let mut expected: Vec<_> = all.iter().map(|one| one.sid.clone()).collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn others_all_and_sign_out() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    server.sign_up("bob@example.test").await;
    let (one, two, three) = (
        server.sign_in("ada@example.test").await,
        server.sign_in("ada@example.test").await,
        server.sign_in("ada@example.test").await,
    );
    let bystander = server.sign_in("bob@example.test").await;
    let client = &server.client;
    let others = client.delete("/v1/me/sessions?except=current").bearer(&one.access).send().await.expect(200).json();
    assert_eq!(others["ended"], 2);
    client.get("/v1/me").bearer(&two.access).send().await.expect_problem("token_revoked");
    client.get("/v1/me").bearer(&three.access).send().await.expect_problem("token_revoked");
    client.get("/v1/me").bearer(&one.access).send().await.expect(200);

    let all = client
        .delete("/v1/me/sessions?wait=enforced&timeout_ms=500")
        .bearer(&one.access)
        .send()
        .await
        .expect(200)
        .json();
    assert_eq!((all["ended"].as_u64(), all["enforcement"]["complete"].as_bool()), (Some(1), Some(true)));
    client.get("/v1/me").bearer(&one.access).send().await.expect_problem("token_revoked");
    // A dead session ends no others.
    client.delete("/v1/me/sessions").bearer(&one.access).send().await.expect_problem("token_revoked");

    let out = client.delete("/v1/me/sessions/current").bearer(&bystander.access).send().await.expect(200).json();
    assert_eq!(out["ended"], 1);
    let again = client.delete("/v1/me/sessions/current").bearer(&bystander.access).send().await.expect(200).json();
    assert_eq!((again["ended"].as_u64(), &again["rev"]), (Some(0), &out["rev"]));
    let by_id = format!("/v1/me/sessions/{}", bystander.sid);
    let again = client.delete(by_id).bearer(&bystander.access).send().await.expect(200).json();
    assert_eq!((again["ended"].as_u64(), &again["rev"]), (Some(0), &out["rev"]));
}

#[tokio::test]
async fn what_is_anothers_does_not_exist() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    server.sign_up("eve@example.test").await;
    let (ada, eve) = (server.sign_in("ada@example.test").await, server.sign_in("eve@example.test").await);
    for sid in [&*ada.sid, "ses_00000000000000000000000000", "ses_x", "acc_00000000000000000000000000", "%ff", "-"] {
        let path = format!("/v1/me/sessions/{sid}");
        server.client.delete(path).bearer(&eve.access).send().await.expect_problem("not_found");
    }
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
}

#[tokio::test]
async fn a_repeat_key_gives_the_first_result_and_guards_against_another_request() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (one, _two) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let others = |key: &'static str| {
        server.client.delete("/v1/me/sessions?except=current").bearer(&one.access).header("idempotency-key", key)
    };
    let first = others("k1").send().await.expect(200).json();
    let again = others("k1").send().await.expect(200).json();
    assert_eq!((&first["rev"], &first["ended"]), (&again["rev"], &again["ended"]));
    let anew = others("k2").send().await.expect(200).json();
    assert!(anew["rev"].as_u64() > first["rev"].as_u64());
    let all = server.client.delete("/v1/me/sessions").bearer(&one.access).header("idempotency-key", "k1");
    assert_eq!(all.send().await.expect_problem("invalid_value").json()["field"], "Idempotency-Key");
    for wrong in ["", "a b", "é"] {
        let call = server.client.delete("/v1/me/sessions").bearer(&one.access).header("idempotency-key", wrong);
        call.send().await.expect_problem("invalid_value");
    }
    server.client.get("/v1/me").bearer(&one.access).send().await.expect(200);
}

#[tokio::test]
async fn bearer_tokens_are_judged_with_exact_words() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let missing = server.client.get("/v1/me").send().await.expect_problem("token_missing");
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"portcullis\"");
    for token in ["garbage", "a.b.c", &ada.refresh, &"x".repeat(9000)] {
        let refused = server.client.get("/v1/me").bearer(token).send().await.expect_problem("token_malformed");
        let challenge = "Bearer error=\"invalid_token\", error_description=\"token_malformed\"";
        assert_eq!(refused.header("www-authenticate"), challenge);
    }
    // The scheme's name is not case-sensitive (RFC 9110 §11.1); Basic is no bearer.
    let lower = format!("bearer {}", ada.access);
    server.client.get("/v1/me").header("authorization", lower).send().await.expect(200);
    server.client.get("/v1/me").basic(("a", "b")).send().await.expect_problem("token_missing");
    server.advance(400_000);
    // This node learns the database's time with its next read of the log.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let expired = server.client.get("/v1/me").bearer(&ada.access).send().await.expect_problem("token_expired");
    assert!(expired.header("www-authenticate").contains("token_expired"));
}

#[tokio::test]
async fn changed_roles_make_a_token_stale_until_it_is_refreshed() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (ada, admin) = (server.sign_in("ada@example.test").await, server.admin().await);
    let path = format!("/v1/admin/accounts/{}", ada.account);
    let patch = server.client.patch(path).bearer(&admin.access).json(&json!({ "roles": ["support"] }));
    patch.send().await.expect(200);
    // A stale entry counts once this node has read it, some milliseconds after its commit.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
    while server.client.get("/v1/me").bearer(&ada.access).send().await.status == 200 {
        assert!(tokio::time::Instant::now() < deadline, "never stale");
    }
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect_problem("token_stale");
    let again = server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": ada.refresh })).send().await;
    let token = again.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    let me = server.client.get("/v1/me").bearer(&token).send().await.expect(200).json();
    assert_eq!(me["roles"], json!(["support"]));
}

#[tokio::test]
async fn a_device_gets_another_name() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    server.sign_up("eve@example.test").await;
    let (ada, other) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let eve = server.sign_in("eve@example.test").await;
    let path = format!("/v1/me/sessions/{}", other.sid);
    let rename = |token: &str, name: &str| {
        server.client.patch(&*path).bearer(token).json(&json!({ "device_name": name })).send()
    };
    let named = rename(&ada.access, " Kitchen\u{202e} tablet ").await.expect(200).json();
    assert_eq!((named["device_name"].as_str(), named["current"].as_bool()), (Some("Kitchen tablet"), Some(false)));
    assert_eq!(rename(&ada.access, " \u{200b}").await.expect_problem("invalid_value").json()["field"], "device_name");
    rename(&eve.access, "mine").await.expect_problem("not_found");
    server.client.delete(&*path).bearer(&ada.access).send().await.expect(200);
    rename(&ada.access, "gone").await.expect_problem("not_found");
}

/// The answer of an "end all" is lost; asked again with the same key and the token that it has killed, it is told.
#[tokio::test]
async fn the_end_of_all_is_repeated_with_the_dead_token() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (ada, other) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let end = |token: &str, key: &'static str| {
        server.client.delete("/v1/me/sessions").bearer(token).header("idempotency-key", key).send()
    };
    let first = end(&ada.access, "k").await.expect(200).json();
    let again = end(&ada.access, "k").await.expect(200).json();
    assert_eq!((&first["rev"], first["ended"].as_u64()), (&again["rev"], Some(2)));
    assert_eq!(again["ended"], 2);
    // Another key is another call, and a dead session makes none.
    end(&ada.access, "other").await.expect_problem("token_revoked");
    end(&other.access, "other").await.expect_problem("token_revoked");
}
