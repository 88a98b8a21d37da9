//! `/v1/admin/events` with its filters and as lines, `/v1/admin/audit`.
use portcullis_testkit::TestServer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const PATH: &str = "/v1/admin/events";

async fn get(server: &TestServer, token: &str, path: &str) -> portcullis_testkit::Answer {
    server.client.get(path).bearer(token).send().await
}

async fn sealed(server: &TestServer, token: &str) -> Value {
    let begun = Instant::now();
    loop {
        let state = get(server, token, "/v1/admin/audit").await.expect(200).json();
        if state["unsealed"]["count"] == 0 && state["head"].is_string() {
            return state;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{state}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn records_by_each_filter() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let (ada, admin) = (server.sign_in("ada@example.test").await, server.admin().await);
    server.client.delete(format!("/v1/admin/sessions/{}", ada.sid)).bearer(&admin.access).send().await.expect(200);
    let all = get(&server, &admin.access, PATH).await.expect(200).json()["events"].as_array().unwrap().clone();
    let ended = all.iter().find(|event| event["kind"] == "session.ended").unwrap();
    let at = ended["at"].as_str().unwrap();
    for (asked, fits) in [
        (
            format!("session_id={}", ada.sid),
            Box::new(|e: &Value| e["session_id"] == *ada.sid) as Box<dyn Fn(&Value) -> bool>,
        ),
        (format!("actor={}", admin.account), Box::new(|e: &Value| e["actor"] == *admin.account)),
        ("actor=anonymous".into(), Box::new(|e: &Value| e["actor"] == "anonymous")),
        (format!("rev={}", ended["rev"]), Box::new(|e: &Value| e["rev"] == ended["rev"])),
        (format!("from={at}"), Box::new(|e: &Value| e["at"].as_str().unwrap() >= at)),
        (format!("until={at}"), Box::new(|e: &Value| e["at"].as_str().unwrap() < at)),
        ("client_id=cli_00000000000000000000000009".into(), Box::new(|_: &Value| false)),
        (
            format!("account_id={account}&kind=session.started"),
            Box::new(|e: &Value| e["account_id"] == *account && e["kind"] == "session.started"),
        ),
    ] {
        let path = format!("{PATH}?{asked}");
        let found = get(&server, &admin.access, &path).await.expect(200).json()["events"].clone();
        let ids = |events: &[Value]| events.iter().map(|event| event["id"].to_string()).collect::<Vec<_>>();
        let expected: Vec<Value> = all.iter().filter(|event| fits(event)).cloned().collect();
        assert_eq!(ids(found.as_array().unwrap()), ids(&expected), "{asked}");
        assert!(asked.starts_with("client_id") || !expected.is_empty(), "{asked}");
    }
    for (wrong, field) in [
        ("actor=ada", "actor"),
        ("session_id=acc_00000000000000000000000001", "session_id"),
        ("client_id=x", "client_id"),
        ("from=yesterday", "from"),
        ("until=2026-13-01T00:00:00Z", "until"),
        ("from=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("rev=-1", "rev"),
        ("format=xml", "format"),
        ("format=jsonl&limit=5", "limit"),
    ] {
        let problem =
            get(&server, &admin.access, &format!("{PATH}?{wrong}")).await.expect_problem("invalid_value").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    get(&server, &admin.access, &format!("{PATH}?ip=127.0.0.1")).await.expect_problem("malformed");
}

#[tokio::test]
async fn all_records_as_lines() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    for _ in 0..3 {
        server.sign_in("ada@example.test").await;
    }
    let lines = get(&server, &admin.access, &format!("{PATH}?format=jsonl")).await.expect(200);
    assert_eq!(lines.header("content-type"), "application/x-ndjson");
    let rows: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let listed = get(&server, &admin.access, PATH).await.expect(200).json();
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&rows), ids(listed["events"].as_array().unwrap()));
    // By header, with a filter, from a place on.
    let path = format!("{PATH}?kind=session.started");
    let call =
        server.client.get(&*path).bearer(&admin.access).header("accept", "application/x-ndjson, application/json");
    assert_eq!(call.send().await.expect(200).text().lines().count(), 4);
    let page = get(&server, &admin.access, &format!("{path}&limit=1")).await.expect(200).json();
    let rest = format!("{path}&format=jsonl&cursor={}", page["next"].as_str().unwrap());
    assert_eq!(get(&server, &admin.access, &rest).await.expect(200).text().lines().count(), 3);
    let json = server.client.get(&*path).bearer(&admin.access).header("accept", "application/x-ndjson");
    assert_eq!(json.send().await.header("content-type"), "application/x-ndjson");
}

#[tokio::test]
async fn the_chain_is_seen_and_checked() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let (ada, admin) = (server.sign_in("ada@example.test").await, server.admin().await);
    let state = sealed(&server, &admin.access).await;
    let head = state["head"].as_str().unwrap();
    assert_eq!(head.split(':').next().unwrap(), state["sealed_until"].to_string());
    let check = |query: String| {
        let (server, token) = (&server, &admin.access);
        async move { get(server, token, &format!("/v1/admin/audit/check{query}")).await }
    };
    let out = check(format!("?head={head}")).await.expect(200).json();
    assert_eq!(
        (&out["findings"], &out["complete"], &out["known"]),
        (&serde_json::json!([]), &true.into(), &true.into())
    );
    assert_eq!(out["checked"], state["sealed_until"]);
    // Each record says its place, once.
    let listed = get(&server, &admin.access, PATH).await.expect(200).json();
    let places: BTreeSet<u64> =
        listed["events"].as_array().unwrap().iter().filter_map(|e| e["place"].as_u64()).collect();
    assert_eq!(places, (1..=state["sealed_until"].as_u64().unwrap()).collect());
    // More comes after it; and what follows a place can be checked alone.
    let block = server.client.post(format!("/v1/admin/accounts/{account}/block")).bearer(&admin.access);
    block.json(&serde_json::json!({ "reason": "spam" })).send().await.expect(200);
    sealed(&server, &admin.access).await;
    let out = check(format!("?from={head}&head={head}")).await.expect(200).json();
    assert_eq!((&out["checked"], &out["known"], &out["findings"]), (&1.into(), &true.into(), &serde_json::json!([])));
    // A head that is not this chain's.
    let (n, link) = head.split_once(':').unwrap();
    let beyond = check(format!("?head={}:{link}", n.parse::<u64>().unwrap() + 50)).await.expect(200).json();
    assert_eq!(beyond["findings"][0]["kind"], "truncated");
    let other = check(format!("?head=1:{link}")).await.expect(200).json();
    assert_eq!((&other["findings"][0]["kind"], &other["findings"][0]["place"]), (&"replaced".into(), &1.into()));
    for (wrong, field) in [("?head=x", "head"), ("?from=1:x", "from"), ("?head=-1:AAAA", "head")] {
        assert_eq!(check(wrong.into()).await.expect_problem("invalid_value").json()["field"], field);
    }
    check("?to=1".into()).await.expect_problem("malformed");
    // For administrators only.
    for path in ["/v1/admin/audit", "/v1/admin/audit/check"] {
        server.client.get(path).send().await.expect_problem("token_missing");
    }
    let eve = server.sign_up("eve@example.test").await;
    let eve = (eve, server.sign_in("eve@example.test").await);
    for path in ["/v1/admin/audit", "/v1/admin/audit/check", "/v1/admin/events?format=jsonl"] {
        get(&server, &eve.1.access, path).await.expect_problem("insufficient_scope");
    }
    let _ = ada;
}
