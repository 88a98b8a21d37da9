//! `POST /v1/accounts`.
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Options, TempDir, TestServer};
use serde_json::json;

#[tokio::test]
async fn signing_up_makes_an_account_that_can_sign_in() {
    let server = TestServer::usual().await;
    let body = json!({ "email": "Ada@Example.test", "password": PASSWORD, "name": "Ada" });
    let made = server.client.post("/v1/accounts").json(&body).send().await.expect(201).json();
    assert!(made["id"].as_str().unwrap().starts_with("acc_"));
    assert_eq!((made["email"].as_str(), made["name"].as_str()), (Some("ada@example.test"), Some("Ada")));
    assert_eq!((made["status"].as_str(), made["roles"].as_array().map(Vec::len)), (Some("active"), Some(0)));
    assert!(!made.to_string().contains("argon2") && !made.to_string().contains(PASSWORD));
    assert_eq!(server.sign_in("ADA@example.test").await.account, made["id"]);
    server.client.post("/v1/accounts").json(&body).send().await.expect_problem("email_taken");
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let server = TestServer::usual().await;
    for (body, field) in [
        (json!({ "email": "ada", "password": PASSWORD }), "email"),
        (json!({ "email": "a@b.c", "password": "short" }), "password"),
        (json!({ "email": "long@name.test", "password": "Long@name.test" }), "password"),
        (json!({ "email": "a@b.c", "password": PASSWORD, "name": " " }), "name"),
        (json!({ "email": "a@b.c", "password": PASSWORD, "name": "a\u{0007}b" }), "name"),
    ] {
        let problem = server.client.post("/v1/accounts").json(&body).send().await.expect_problem("invalid_value");
        assert_eq!(problem.json()["field"], field);
    }
}

#[tokio::test]
async fn sign_up_can_be_switched_off() {
    let mut options = Options::default();
    options.settings.sign_up = false;
    let server = TestServer::start(options).await;
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    server.client.post("/v1/accounts").json(&body).send().await.expect_problem("forbidden");
}

#[tokio::test]
async fn a_stolen_password_is_told_by_a_code_of_its_own() {
    let server = TestServer::usual().await;
    let dir = TempDir::new("breached");
    let path = dir.path().join("list.txt");
    // SHA-1 of `a stolen password`.
    std::fs::write(&path, "AD97F12E8638DC022040ADBD69778756732CAAB1:12\n").unwrap();
    server.app.set_breached(Some(portcullis_app::breached::List::open(&path).unwrap()));
    let sign_up = |password: &str| {
        let body = json!({ "email": "ada@example.test", "password": password });
        server.client.post("/v1/accounts").json(&body).send()
    };
    let refused = sign_up("a stolen password").await.expect_problem("password_breached");
    assert_eq!((refused.status.as_u16(), refused.json()["field"].as_str()), (422, Some("password")));
    sign_up("another password").await.expect(201);
}
