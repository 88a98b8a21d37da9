//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`.
use portcullis_testkit::{Options, TestServer};
use serde_json::Value;
use std::collections::BTreeSet;

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
    server.client.get("/v1/nothing").send().await.expect_problem("not_found");
    server.client.get("/healthz").send().await.expect(200);
    server.client.get("/readyz").send().await.expect(200);
    let metrics = server.client.get("/metrics").send().await.expect(200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    for line in [
        "portcullis_sign_ins_total 1",
        "portcullis_ready 1",
        "portcullis_risk_blocks_held_back_total 0",
        "portcullis_signing_keys 2",
        "portcullis_http_requests_total{method=\"GET\",route=\"/v1/me\",status=\"2xx\"} 1",
        "portcullis_http_requests_total{method=\"\",route=\"\",status=\"4xx\"} 1",
        "portcullis_http_request_seconds_count{method=\"GET\",route=\"/v1/me\"} 1",
        "# TYPE portcullis_http_request_seconds histogram",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    // The format: a comment, or a name, labels and a number.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("portcullis_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(!text.contains(&ada.account));
}

#[tokio::test]
async fn operations_can_be_kept_off_the_public_listener() {
    let options = Options { config: Box::new(|config| config.ops = false), ..Options::default() };
    let server = TestServer::start(options).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        server.client.get(path).send().await.expect_problem("not_found");
    }
    server.client.get("/openapi.json").send().await.expect(200);
}

#[tokio::test]
async fn the_openapi_document_is_whole() {
    let server = TestServer::usual().await;
    let document = server.client.get("/openapi.json").send().await.expect(200).json();
    assert_eq!(document["servers"][0]["url"], server.issuer);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut seen = 0;
    check(&document, &document, &mut seen);
    assert!(seen > 100, "{seen}");
    // It tells of every route, and of nothing else.
    let served: BTreeSet<(String, String)> = portcullis_http::routes().into_iter().collect();
    let mut told = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            told.insert((method.to_uppercase(), path.clone()));
        }
    }
    let missing: Vec<_> = served.difference(&told).collect();
    let invented: Vec<_> = told.difference(&served).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not told: {missing:?}; not served: {invented:?}");
}

/// Every reference leads somewhere; every operation has a summary and answers.
fn check(whole: &Value, part: &Value, seen: &mut u32) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(place)) = members.get("$ref") {
                assert!(whole.pointer(&place[1..]).is_some(), "{place}");
                *seen += 1;
            }
            if members.contains_key("summary") && members.contains_key("tags") {
                assert!(members["responses"].as_object().is_some_and(|answers| !answers.is_empty()), "{part}");
            }
            members.values().for_each(|member| check(whole, member, seen));
        }
        Value::Array(items) => items.iter().for_each(|item| check(whole, item, seen)),
        _ => {}
    }
}
