//! API keys: made once, listed among the devices, exchanged for tokens, ended like any session.
use portcullis_testkit::{Answer, Options, SignedIn, TestServer};
use portcullis_wire::{Code, b64};
use serde_json::{Value, json};
use std::time::Duration;

const ADA: &str = "ada@example.test";

async fn world() -> (TestServer, SignedIn) {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let ada = server.sign_in(ADA).await;
    (server, ada)
}

async fn create(server: &TestServer, by: &SignedIn, body: Value) -> Answer {
    server.client.post("/v1/me/api-keys").bearer(&by.access).json(&body).send().await
}

async fn exchange(server: &TestServer, key: &str) -> Answer {
    server.client.post("/v1/api-keys/token").bearer(key).send().await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn judged(server: &TestServer, token: &str) -> Result<(), Code> {
    let authentic = server.app.hub().authenticate(token)?;
    server.app.hub().judge_for_any(&authentic, &portcullis_verify::Holder::Bearer)
}

#[tokio::test]
async fn a_key_is_shown_once_and_exchanged_for_tokens() {
    let (server, ada) = world().await;
    let made = create(&server, &ada, json!({ "name": "a script", "scopes": ["write", "read", "read"] })).await;
    let made = made.expect(201).json();
    let (key, id) = (text(&made["key"]), text(&made["api_key"]["id"]));
    assert!(key.starts_with("pck_") && b64::decode(&key[4..]).unwrap().len() == 48);
    assert_eq!(
        (&made["api_key"]["scopes"], &made["api_key"]["last_used_at"]),
        (&json!(["read", "write"]), &Value::Null)
    );
    let answer = exchange(&server, &key).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let told = answer.json();
    assert_eq!((told["token_type"].as_str(), told["scope"].as_str()), (Some("Bearer"), Some("read write")));
    let token = text(&told["access_token"]);
    let body = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&b64::decode(body).unwrap()).unwrap();
    assert_eq!((claims["sub"].as_str(), claims["sid"].as_str()), (Some(&*ada.account), Some(&*id)));
    assert_eq!((claims["acr"].as_str(), &claims["amr"]), (Some("0"), &json!([])));
    assert_eq!(judged(&server, &token), Ok(()));
    // It is in both lists; the key itself is in none.
    let listed = server.client.get("/v1/me/api-keys").bearer(&ada.access).send().await.expect(200);
    assert!(!listed.text().contains(&key[10..]));
    assert!(listed.json()["api_keys"][0]["last_used_at"].is_string());
    let devices = server.client.get("/v1/me/sessions").bearer(&ada.access).send().await.expect(200).json();
    let row = devices["sessions"].as_array().unwrap().iter().find(|row| row["id"] == *id).unwrap().clone();
    assert_eq!((row["kind"].as_str(), row["device_name"].as_str()), (Some("api_key"), Some("a script")));
    let seen: portcullis_wire::Time = serde_json::from_value(row["last_seen_at"].clone()).unwrap();
    assert!(seen <= server.app.now(), "{seen}");
    let cookie = server.page_sign_in(ADA).await;
    let page = server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={cookie}"));
    let html = page.send().await.expect(200).text();
    assert!(html.contains("API key") && html.contains("a script"));
    // It opens nothing by itself, and its tokens do not open the account.
    for path in ["/v1/me", "/v1/me/api-keys", "/v1/admin/accounts"] {
        server.client.get(path).bearer(&key).send().await.expect_problem("token_malformed");
        server.client.get(path).bearer(&token).send().await.expect_problem("insufficient_scope");
    }
    let again = json!({ "name": "another" });
    server.client.post("/v1/me/api-keys").bearer(&token).json(&again).send().await.expect_problem("insufficient_scope");
    // Nor is it a page's cookie, whatever it is dressed as.
    for disguise in [key.clone(), key.replacen("pck_", "pcs_", 1)] {
        let call =
            server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={disguise}"));
        call.send().await.expect(303);
    }
}

#[tokio::test]
async fn what_keys_may_not() {
    let (server, ada) = world().await;
    for body in [
        json!({ "name": " " }),
        json!({ "name": "x".repeat(201) }),
        json!({ "name": "a", "scopes": ["admin"] }),
        json!({ "name": "a", "scopes": ["account"] }),
        json!({ "name": "a", "scopes": ["unknown"] }),
        json!({ "name": "a", "scopes": ["read write"] }),
        json!({ "name": "a", "expires_at": "2001-01-01T00:00:00.000Z" }),
        json!({ "name": "a", "expires_at": "2999-01-01T00:00:00.000Z" }),
    ] {
        create(&server, &ada, body).await.expect_problem("invalid_value");
    }
    for body in
        [json!({}), json!({ "name": 1 }), json!({ "name": "a", "expires_at": "soon" }), json!({ "name": "a", "x": 1 })]
    {
        create(&server, &ada, body).await.expect_problem("malformed");
    }
    server.client.post("/v1/me/api-keys").json(&json!({ "name": "a" })).send().await.expect_problem("token_missing");
}

#[tokio::test]
async fn whoever_signed_in_long_ago_proves_who_they_are_first() {
    let mut options = Options::default();
    options.settings.policy.step_up_max_age = 1_000;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    let ada = server.sign_in(ADA).await;
    server.advance(2_000);
    let told = create(&server, &ada, json!({ "name": "a" })).await.expect_problem("step_up_required").json();
    assert_eq!(told["max_age_s"], 1);
}

#[tokio::test]
async fn wrong_keys_read_alike() {
    let (server, ada) = world().await;
    let key = text(&create(&server, &ada, json!({ "name": "a" })).await.expect(201).json()["key"]);
    let mut bytes = b64::decode(&key[4..]).unwrap();
    bytes[47] ^= 1;
    let secret = format!("pck_{}", b64::encode(&bytes));
    bytes[0] ^= 1;
    let unknown = format!("pck_{}", b64::encode(&bytes));
    let told = |answer: Answer| {
        let mut told = answer.expect_problem("token_malformed").json();
        told["request_id"] = Value::Null;
        told
    };
    let usual = told(exchange(&server, &unknown).await);
    assert_eq!(told(exchange(&server, &secret).await), usual);
    for wrong in ["pck_", "x", &ada.access, &ada.refresh, &key[..60]] {
        assert_eq!(told(exchange(&server, wrong).await), usual, "{wrong}");
    }
    server.client.post("/v1/api-keys/token").send().await.expect_problem("token_missing");
    // A grant that is no key's, with the digest of nothing.
    let claims = b64::decode(ada.access.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let grant: portcullis_wire::GrantId = claims["gid"].as_str().unwrap().parse().unwrap();
    let forged = format!("pck_{}", b64::encode(&[&grant.bits().to_be_bytes()[..], &[0; 32]].concat()));
    assert_eq!(told(exchange(&server, &forged).await), usual);
}

#[tokio::test]
async fn a_key_lives_until_its_end_however_seldom_it_is_used() {
    let (server, ada) = world().await;
    let day = 86_400_000;
    let ends = server.app.now().plus(60 * day);
    let short =
        text(&create(&server, &ada, json!({ "name": "a", "expires_at": ends })).await.expect(201).json()["key"]);
    let long = text(&create(&server, &ada, json!({ "name": "b" })).await.expect(201).json()["key"]);
    server.advance(59 * day); // far beyond idle_ttl
    exchange(&server, &short).await.expect(200);
    server.advance(day);
    exchange(&server, &short).await.expect_problem("token_expired");
    server.advance(305 * day);
    exchange(&server, &long).await.expect(200);
    server.advance(2 * day);
    exchange(&server, &long).await.expect_problem("token_expired");
    // No token outlives its key.
    let (server, ada) = world().await;
    let ends = server.app.now().plus(20_000);
    let brief =
        text(&create(&server, &ada, json!({ "name": "c", "expires_at": ends })).await.expect(201).json()["key"]);
    assert!(exchange(&server, &brief).await.expect(200).json()["expires_in"].as_i64().unwrap() <= 20);
}

#[tokio::test]
async fn every_end_of_a_session_ends_a_key() {
    let (server, _) = world().await;
    let admin = server.admin().await;
    for round in 0..5 {
        let ada = server.sign_in(ADA).await;
        let made = create(&server, &ada, json!({ "name": "a" })).await.expect(201).json();
        let (key, id) = (text(&made["key"]), text(&made["api_key"]["id"]));
        let token = text(&exchange(&server, &key).await.expect(200).json()["access_token"]);
        let end = |path: String, by: &SignedIn| server.client.delete(path).bearer(&by.access).send();
        let account = format!("/v1/admin/accounts/{}", ada.account);
        let post = |path: String, body: Value| server.client.post(path).bearer(&admin.access).json(&body).send();
        match round {
            0 => end(format!("/v1/me/sessions/{id}"), &ada).await,
            1 => end("/v1/me/sessions?except=current".into(), &ada).await,
            2 => end(format!("/v1/admin/sessions/{id}"), &admin).await,
            3 => {
                let body = json!({ "everyone": true, "except": admin.sid, "reason": "a" });
                post("/v1/admin/revocations".into(), body).await
            }
            _ => {
                post(format!("{account}/block"), json!({ "reason": "a" })).await.expect(200);
                post(format!("{account}/unblock"), json!({})).await
            }
        }
        .expect(200);
        exchange(&server, &key).await.expect_problem("token_revoked");
        for _ in 0..200 {
            if judged(&server, &token).is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(judged(&server, &token), Err(Code::TokenRevoked), "round {round}");
    }
}

#[tokio::test]
async fn there_are_never_many_and_a_repeated_call_makes_one() {
    let (server, ada) = world().await;
    let body = json!({ "name": "once" });
    let call =
        || server.client.post("/v1/me/api-keys").bearer(&ada.access).json(&body).header("idempotency-key", "k").send();
    let (first, again) = (call().await.expect(201).json(), call().await.expect(201).json());
    assert_eq!((&first["api_key"]["id"], again.get("key")), (&again["api_key"]["id"], None), "shown once");
    let calls = (0..60).map(|_| create(&server, &ada, json!({ "name": "many" })));
    let told = futures_util::future::join_all(calls).await;
    assert_eq!(told.iter().filter(|told| told.status == 201).count(), 49);
    create(&server, &ada, body.clone()).await.expect_problem("conflict");
}
