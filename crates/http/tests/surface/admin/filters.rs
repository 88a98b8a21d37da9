//! Revocation by filter: `POST /v1/admin/revocations {filter}`.
use portcullis_testkit::server::{PASSWORD, SignedIn};
use portcullis_testkit::{Options, TestServer};
use serde_json::{Value, json};
use std::time::Duration;

const PATH: &str = "/v1/admin/revocations";

async fn server() -> TestServer {
    let options = Options {
        config: Box::new(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]),
        ..Options::default()
    };
    TestServer::start(options).await
}

/// Access and refresh token, and session, of a sign-in from there.
async fn sign_in(server: &TestServer, who: &str, from: &str) -> (String, String, String) {
    let body = json!({ "identifier": who, "password": PASSWORD });
    let call = server.client.post("/v1/sessions").json(&body).header("x-forwarded-for", from);
    let body = call.send().await.expect(201).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&body["access_token"]), text(&body["refresh_token"]), text(&body["session"]["id"]))
}

async fn post(server: &TestServer, admin: &SignedIn, query: &str, body: Value) -> portcullis_testkit::Answer {
    server.client.post(format!("{PATH}{query}")).bearer(&admin.access).json(&body).send().await
}

async fn me(server: &TestServer, access: &str) -> u16 {
    server.client.get("/v1/me").bearer(access).send().await.status.as_u16()
}

async fn refresh(server: &TestServer, token: &str) -> portcullis_testkit::Answer {
    server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": token })).send().await
}

/// The job once it is done.
async fn done(server: &TestServer, admin: &SignedIn, job: &str) -> Value {
    loop {
        let answer = server.client.get(format!("{PATH}/{job}")).bearer(&admin.access).send().await.expect(200).json();
        if answer["state"] == "done" {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn by_address_and_by_age_whom_it_matches_and_nobody_else() {
    let server = server().await;
    for who in ["ada@example.test", "eve@example.test"] {
        server.sign_up(who).await;
    }
    let old = sign_in(&server, "ada@example.test", "203.0.113.7").await;
    let elsewhere = sign_in(&server, "ada@example.test", "198.51.100.7").await;
    let spared = sign_in(&server, "eve@example.test", "203.0.113.8").await;
    server.advance(60_000);
    let admin = server.admin().await;
    let cut = server.app.now();
    server.advance(1000);
    let young = sign_in(&server, "eve@example.test", "203.0.113.9").await;

    let filter = json!({ "created_before": cut.to_string(), "address_range": "203.0.113.0/24" });
    let body = json!({ "filter": filter, "except": spared.2, "reason": "a leaked exit" });
    let mut dry = body.clone();
    dry["dry_run"] = true.into();
    let counted = post(&server, &admin, "", dry).await.expect(200).json();
    assert_eq!(counted, json!({ "dry_run": true, "sessions": 1, "accounts": 1 }));
    assert_eq!(me(&server, &old.0).await, 200);

    let told = post(&server, &admin, "", body).await.expect(202).json();
    let job = told["job"].as_str().unwrap();
    assert!(job.starts_with("job_") && told["rev"].is_u64() && told["bounded_by"].is_string(), "{told}");
    // Dead by the rule, or by the job already: the same to whoever holds it.
    assert_eq!(refresh(&server, &old.1).await.expect_problem("session_ended").json()["reason"], "revoked_by_filter");
    server.client.get("/v1/me").bearer(&old.0).send().await.expect_problem("token_revoked");
    let after = done(&server, &admin, job).await;
    assert_eq!((&after["ended"], &after["rev"], &after["reason"]), (&json!(1), &told["rev"], &json!("a leaked exit")));
    assert_eq!((&after["filter"], &after["enforcement"]["complete"]), (&filter, &json!(true)));
    assert_eq!(refresh(&server, &old.1).await.expect_problem("session_ended").json()["reason"], "revoked_by_filter");
    for (access, token, _) in [&elsewhere, &spared, &young] {
        assert_eq!(me(&server, access).await, 200);
        refresh(&server, token).await.expect(200);
    }
    // From the same network one signs in again at once.
    let again = sign_in(&server, "ada@example.test", "203.0.113.7").await;
    assert_eq!(me(&server, &again.0).await, 200);
    let events = server.client.get("/v1/admin/events?kind=job.finished").bearer(&admin.access).send().await;
    assert_eq!(events.expect(200).json()["events"][0]["reason"], job);
}

#[tokio::test]
async fn now_makes_every_older_access_token_stale_and_the_living_go_on() {
    let server = server().await;
    server.sign_up("ada@example.test").await;
    let gone = sign_in(&server, "ada@example.test", "2001:db8:1::7").await;
    let stays = sign_in(&server, "ada@example.test", "2001:db8:2::7").await;
    let admin = server.admin().await;
    let body = json!({ "filter": { "address_range": "2001:db8:1::/48" }, "now": true, "reason": "x" });
    let told = post(&server, &admin, "?wait=enforced", body).await.expect(200).json();
    assert_eq!((&told["now"], &told["enforcement"]["complete"]), (&json!(true), &json!(true)));
    server.client.get("/v1/me").bearer(&gone.0).send().await.expect_problem("token_revoked");
    server.client.get("/v1/me").bearer(&stays.0).send().await.expect_problem("token_stale");
    refresh(&server, &gone.1).await.expect_problem("session_ended");
    let next = refresh(&server, &stays.1).await.expect(200).json();
    assert_eq!(me(&server, next["access_token"].as_str().unwrap()).await, 200);
}

#[tokio::test]
async fn accounts_alone_end_at_once_and_count_together() {
    let server = server().await;
    let ids = [server.sign_up("ada@example.test").await, server.sign_up("eve@example.test").await];
    let mut held = vec![];
    for who in ["ada@example.test", "ada@example.test", "eve@example.test"] {
        held.push(sign_in(&server, who, "203.0.113.7").await);
    }
    let admin = server.admin().await;
    let body = json!({ "filter": { "account_ids": [ids[1], ids[0], ids[0]] }, "reason": "x" });
    let once = || {
        let call = server.client.post(PATH).bearer(&admin.access).json(&body).header("idempotency-key", "k");
        call.send()
    };
    let told = once().await.expect(200).json();
    assert_eq!((&told["ended"], &told["enforcement"]["complete"]), (&json!(3), &json!(true)));
    for (access, ..) in &held {
        assert_eq!(me(&server, access).await, 401);
    }
    assert_eq!(once().await.expect(200).json()["rev"], told["rev"]);
    // What matches nobody ends nobody.
    let nobody = json!({ "filter": { "account_ids": [ids[0]], "address_range": "192.0.2.1" }, "reason": "x" });
    let key = ("idempotency-key", "n");
    let call = || server.client.post(PATH).bearer(&admin.access).json(&nobody).header(key.0, key.1).send();
    let (first, again) = (call().await.expect(202).json(), call().await.expect(202).json());
    assert_eq!(first["job"], again["job"]);
    assert_eq!(done(&server, &admin, first["job"].as_str().unwrap()).await["ended"], 0);
}

#[tokio::test]
async fn every_wrong_filter_says_what_is_wrong() {
    let server = server().await;
    let account = server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    let many: Vec<_> = (0..1001).map(|_| account.clone()).collect();
    for (filter, field) in [
        (json!({}), "filter"),
        (json!({ "account_ids": [] }), "account_ids"),
        (json!({ "account_ids": many }), "account_ids"),
        (json!({ "account_ids": ["ses_00000000000000000000000000"] }), "account_ids"),
        (json!({ "account_ids": ["acc_00000000000000000000000000"] }), "account_ids"),
        (json!({ "client_ids": ["cli_00000000000000000000000000"] }), "client_ids"),
        (json!({ "created_before": "yesterday" }), "created_before"),
        (json!({ "address_range": "10.1.2.3/8" }), "address_range"),
        (json!({ "address_range": "10.0.0.0/33" }), "address_range"),
        (json!({ "address_range": "example.org" }), "address_range"),
        (json!({ "address_range": "" }), "address_range"),
    ] {
        let answer = post(&server, &admin, "", json!({ "filter": filter, "reason": "x" })).await;
        assert_eq!(answer.expect_problem("invalid_value").json()["field"], field, "{filter}");
    }
    for body in [
        json!({ "filter": { "address": "10.0.0.1" }, "reason": "x" }),
        json!({ "filter": [], "reason": "x" }),
        json!({ "filter": { "account_ids": account }, "reason": "x" }),
        json!({ "filter": { "address_range": "10.0.0.1" } }),
    ] {
        post(&server, &admin, "", body).await.expect_problem("malformed");
    }
    let both = json!({ "everyone": true, "filter": { "address_range": "10.0.0.1" }, "reason": "x" });
    assert_eq!(post(&server, &admin, "", both).await.expect_problem("invalid_value").json()["field"], "everyone");
    let dead =
        json!({ "filter": { "address_range": "10.0.0.1" }, "except": "ses_00000000000000000000000000", "reason": "x" });
    assert_eq!(post(&server, &admin, "", dead).await.expect_problem("invalid_value").json()["field"], "except");
    let unknown = server.client.get(format!("{PATH}/job_00000000000000000000000000")).bearer(&admin.access);
    unknown.send().await.expect_problem("not_found");
}
