//! `/v1/admin/revocations`, `/v1/admin/events`.
use portcullis_testkit::TestServer;
use serde_json::json;

#[tokio::test]
async fn everyone_out_by_one_entry() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let admin = server.admin().await;
    let path = "/v1/admin/revocations";
    let post = |body: serde_json::Value| server.client.post(path).bearer(&admin.access).json(&body).send();
    let dry = post(json!({ "everyone": true, "reason": "a drill", "dry_run": true })).await.expect(200).json();
    assert_eq!(dry, json!({ "dry_run": true, "sessions": 2, "accounts": 2 }));
    let dry = post(json!({ "everyone": true, "except": admin.sid, "reason": "a drill", "dry_run": true })).await;
    assert_eq!(dry.expect(200).json(), json!({ "dry_run": true, "sessions": 1, "accounts": 1 }));
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);

    for (body, field) in [
        (json!({ "everyone": false, "reason": "x" }), "everyone"),
        (json!({ "reason": "x" }), "everyone"),
        (json!({ "everyone": true, "reason": " " }), "reason"),
        (json!({ "everyone": true, "reason": "x", "except": "me" }), "except"),
        (json!({ "everyone": true, "reason": "x", "except": "ses_00000000000000000000000000" }), "except"),
    ] {
        assert_eq!(post(body).await.expect_problem("invalid_value").json()["field"], field);
    }

    let spared = post(json!({ "everyone": true, "except": admin.sid, "reason": "a leak" })).await.expect(200).json();
    assert!(spared["ended"].is_null());
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect_problem("token_revoked");
    let rev = spared["rev"].as_u64().unwrap();
    let told = server.client.get(format!("{path}/{rev}")).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((told["rev"].as_u64(), told["reason"].as_str()), (Some(rev), Some("a leak")));
    assert_eq!((told["kind"].as_str(), told["actor"].as_str()), (Some("everyone.ended"), Some(&*admin.account)));
    assert_eq!(told["enforcement"]["complete"], true);
    let list = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["revocations"][0]["rev"], rev);
    for unknown in ["999999", "0", "x", "-1"] {
        server.client.get(format!("{path}/{unknown}")).bearer(&admin.access).send().await.expect_problem("not_found");
    }
    // Without `except` the caller goes too; a repeated call is answered all the same.
    let all = json!({ "everyone": true, "reason": "all" });
    let once = || server.client.post(path).bearer(&admin.access).json(&all).header("idempotency-key", "all").send();
    let (first, again) = (once().await.expect(200).json(), once().await.expect(200).json());
    assert_eq!(first["rev"], again["rev"]);
    post(all.clone()).await.expect_problem("token_revoked");
}

#[tokio::test]
async fn each_act_is_recorded_with_who_and_why() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    let block = server.client.post(format!("/v1/admin/accounts/{account}/block")).bearer(&admin.access);
    let blocked = block.json(&json!({ "reason": "spam" })).send().await.expect(200).json();
    let unblock = server.client.post(format!("/v1/admin/accounts/{account}/unblock")).bearer(&admin.access);
    unblock.json(&json!({ "reason": "a mistake" })).send().await.expect(200);
    let events = format!("/v1/admin/events?account_id={account}");
    let list = server.client.get(&*events).bearer(&admin.access).send().await.expect(200).json();
    let kinds: Vec<_> =
        list["events"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["account.unblocked", "account.blocked", "account.created"]);
    let of_block = &list["events"][1];
    assert_eq!((of_block["rev"].as_u64(), of_block["reason"].as_str()), (blocked["rev"].as_u64(), Some("spam")));
    assert_eq!((of_block["actor"].as_str(), of_block["ip"].as_str()), (Some(&*admin.account), Some("127.0.0.1")));
    let kind = format!("{events}&kind=account.blocked");
    let list = server.client.get(kind).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(list["events"].as_array().unwrap().len(), 1);
    let page = server.client.get(format!("{events}&limit=1")).bearer(&admin.access).send().await.expect(200).json();
    let next = format!("{events}&limit=1&cursor={}", page["next"].as_str().unwrap());
    let second = server.client.get(next).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(second["events"][0]["kind"], "account.blocked");
    for wrong in ["kind=nothing", "account_id=ada", "cursor=!", "limit=0"] {
        let path = format!("/v1/admin/events?{wrong}");
        server.client.get(path).bearer(&admin.access).send().await.expect_problem("invalid_value");
    }
}
