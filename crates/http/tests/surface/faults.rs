//! A fault is 503: never 401, never a cleared cookie, never a false success.
use portcullis_store::faulty::Mode;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{OpenOptions, Options, TestServer};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

#[tokio::test]
async fn too_many_sign_ins_at_once_are_told_to_come_back() {
    let mut options = Options::default();
    let hashing = &mut options.settings.hashing;
    (hashing.threads, hashing.queue, hashing.memory_kib, hashing.passes) = (1, 2, 16_384, 3);
    let server = TestServer::start(options).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..30 {
        if n % 3 == 0 {
            let call = server.client.post("/sign-in").header("origin", &server.issuer);
            calls.spawn(call.form("identifier=nobody%40example.test&password=a+good+long+password").send());
            continue;
        }
        let body = json!({ "identifier": "nobody@example.test", "password": PASSWORD });
        calls.spawn(server.client.post("/v1/sessions").json(&body).send());
    }
    let (mut overloaded, mut pages) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        let page = answer.header("content-type").starts_with("text/html");
        if page && answer.status == 503 {
            assert!(answer.headers.contains_key("retry-after") && answer.text().contains("try again"));
            pages += 1;
        } else if page {
            answer.expect(401);
        } else if answer.status == 503 {
            answer.expect_problem("overloaded");
            overloaded += 1;
        } else {
            answer.expect_problem("invalid_credentials");
        }
    }
    assert!(overloaded > 0 && pages > 0);
    // A refresh does not wait behind password hashes.
    server.client.get("/readyz").send().await.expect(200);
}

#[tokio::test]
async fn a_node_that_cannot_read_its_log_refuses_with_503_and_clears_nothing() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let (id, secret) = server.new_client("verifier").await;
    // The task that reads the log ends; soon this node knows nothing for certain any more.
    server.app.hub().close();
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    server.client.get("/readyz").send().await.expect_problem("unavailable");
    server.client.get("/healthz").send().await.expect(200);
    let cookie = "__Host-portcullis_refresh=pcr_x; __Host-portcullis_session=pcs_x";
    let refused = server.client.get("/v1/me").bearer(&ada.access).header("cookie", cookie).send().await;
    assert!(refused.expect_problem("unavailable").set_cookies().is_empty());
    server.client.get("/v1/feed").basic((&id, &secret)).send().await.expect_problem("unavailable");
    let introspect =
        server.client.post("/oauth2/introspect").basic((&id, &secret)).form(&format!("token={}", ada.access));
    introspect.send().await.expect_problem("unavailable");
}

/// The database is gone for a while, in each way that it can be: everything answers 503 and nothing is taken from anybody;
/// afterwards everybody goes on with what they had.
#[tokio::test]
async fn an_outage_of_the_database_signs_nobody_out() {
    for mode in Mode::ALL {
        let server = TestServer::usual().await;
        server.sign_up("ada@example.test").await;
        let (ada, admin) = (server.sign_in("ada@example.test").await, server.admin().await);
        let (id, secret) = server.new_client("verifier").await;
        let origin = server.issuer.clone();
        let cookie_body = json!({ "identifier": "ada@example.test", "password": PASSWORD, "transport": "cookie" });
        let by_cookie = server.client.post("/v1/sessions").json(&cookie_body).send().await.expect(201);
        let refresh = format!("__Host-portcullis_refresh={}", by_cookie.cookie("__Host-portcullis_refresh").unwrap());
        let form = "identifier=ada%40example.test&password=a+good+long+password";
        let page = server.client.post("/sign-in").header("origin", &origin).form(form).send().await.expect(303);
        let page = format!("__Host-portcullis_session={}", page.cookie("__Host-portcullis_session").unwrap());

        server.store.fail_from(1, mode);
        let credentials = json!({ "identifier": "ada@example.test", "password": PASSWORD });
        let token = json!({ "refresh_token": ada.refresh });
        let block = format!("/v1/admin/accounts/{}/block", ada.account);
        let client = &server.client;
        for call in [
            client.post("/v1/sessions").json(&credentials),
            client.post("/v1/sessions/refresh").json(&token),
            client.post("/v1/sessions/refresh").header("cookie", &refresh).header("origin", &origin),
            client.get("/v1/me").bearer(&ada.access).header("cookie", &refresh),
            client.get("/v1/me/sessions").bearer(&ada.access),
            client.delete("/v1/me/sessions/current").bearer(&ada.access).header("cookie", &refresh),
            client.delete("/v1/me/sessions?except=current").bearer(&ada.access),
            client.post(&*block).bearer(&admin.access).json(&json!({ "reason": "x" })),
            client.get("/v1/admin/accounts").bearer(&admin.access),
            client.get("/v1/feed").basic((&id, &secret)),
            client.post("/oauth2/introspect").basic((&id, &secret)).form(&format!("token={}", ada.access)),
            client.get("/readyz"),
        ] {
            assert!(call.send().await.expect_problem("unavailable").set_cookies().is_empty());
        }
        for call in [
            client.get("/account/devices").header("cookie", &page),
            client.post("/account/devices/end-others").header("cookie", &page).header("origin", &origin),
            client.post("/sign-out").header("cookie", &page).header("origin", &origin),
            client.post("/sign-in").header("origin", &origin).form(form),
        ] {
            let refused = call.send().await.expect(503);
            assert!(refused.set_cookies().is_empty() && refused.headers.contains_key("retry-after"));
            assert!(refused.header("content-type").starts_with("text/html"));
        }
        server.store.never_fail();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while client.get("/readyz").send().await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline, "ready again");
        }
        client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
        client.post("/v1/sessions/refresh").json(&token).send().await.expect(200);
        client
            .post("/v1/sessions/refresh")
            .header("cookie", &refresh)
            .header("origin", &origin)
            .send()
            .await
            .expect(200);
        client.get("/account/devices").header("cookie", &page).send().await.expect(200);
    }
}

/// The commit of a refresh or of a sign-out is on disk, and the answer says 503: the repeated call comes to the same end.
#[tokio::test]
async fn an_unknown_outcome_is_found_out_by_repeating_the_call() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (mut unknown, mut before) = (0, 0);
    // Which operation is the commit depends on what the background reads; so each of the next few fails once.
    for n in 1..=6 {
        let ada = server.sign_in("ada@example.test").await;
        let token = json!({ "refresh_token": ada.refresh });
        let refresh = || server.client.post("/v1/sessions/refresh").json(&token).send();
        server.store.fail_at(n, Mode::After);
        let first = refresh().await;
        server.store.never_fail();
        let second = refresh().await.expect(200).json();
        let third = refresh().await.expect(200).json();
        assert_eq!(second["refresh_token"], third["refresh_token"], "one successor, whatever happened");
        match first.status.as_u16() {
            200 => assert_eq!(first.json()["refresh_token"], second["refresh_token"]),
            503 => unknown += 1,
            other => panic!("{other}"),
        }
        let access = second["access_token"].as_str().unwrap();
        let sign_out = || server.client.delete("/v1/me/sessions/current").bearer(access).send();
        server.store.fail_at(n, Mode::After);
        let first = sign_out().await;
        server.store.never_fail();
        let second = sign_out().await.expect(200).json();
        match first.status.as_u16() {
            200 => {
                assert_eq!((first.json()["rev"].clone(), second["ended"].as_u64()), (second["rev"].clone(), Some(0)))
            }
            503 => before += u32::from(second["ended"] == 0),
            other => panic!("{other}"),
        }
        server.client.get("/v1/me").bearer(access).send().await.expect_problem("token_revoked");
    }
    assert!(unknown > 0 && before > 0, "{unknown} {before}: no commit was hit");
}

/// Lets the writer go on when the test ends, however it does.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// A disk so slow that nothing comes back: as many wait as may, the others are told to come again, and reads do not wait.
#[tokio::test]
async fn a_full_queue_of_commits_is_overloaded_and_takes_nothing_in() {
    // Room for what the server does by itself while it starts, and little more.
    const QUEUE: usize = 6;
    // The writer asks for the time in each commit: there it is held.
    let held = Arc::new(AtomicBool::new(false));
    let hold = held.clone();
    let database = Box::new(move |database: &mut OpenOptions| {
        let clock = database.clock.clone();
        (database.queue, database.group) = (QUEUE, 1);
        database.clock = Arc::new(move || {
            while hold.load(SeqCst) && std::thread::current().name() == Some("db-writer") {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            clock()
        });
    });
    let options = Options { database, ..Options::default() };
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(server.sign_in("ada@example.test").await);
    }
    let end = |access: &str| server.client.delete("/v1/me/sessions/current").bearer(access).send();
    let release = Release(held.clone());
    held.store(true, SeqCst);
    let mut calls = tokio::task::JoinSet::new();
    for session in &sessions {
        let (call, access) = (end(&session.access), session.access.clone());
        calls.spawn(async move { (call.await, access) });
    }
    // Those that found a place are not answered before they are done.
    let (mut refused, mut done) = (Vec::new(), 0);
    while refused.len() < sessions.len() - QUEUE - 1 {
        let (answer, access) = calls.join_next().await.unwrap().unwrap();
        answer.expect_problem("overloaded");
        refused.push(access);
    }
    for access in &refused {
        server.client.get("/v1/me").bearer(access).send().await.expect(200);
    }
    server.client.get("/readyz").send().await.expect(200);
    let metrics = server.client.get("/metrics").send().await.expect(200).text();
    let count = metrics.lines().find_map(|line| line.strip_prefix("portcullis_faults_total{kind=\"overloaded\"} "));
    assert!(count.unwrap().parse::<usize>().unwrap() >= refused.len(), "{metrics}");
    drop(release);
    while let Some(call) = calls.join_next().await {
        let (answer, access) = call.unwrap();
        if answer.status == 503 {
            answer.expect_problem("overloaded"); // housekeeping took its place
            refused.push(access);
        } else {
            answer.expect(200);
            done += 1;
        }
    }
    assert!(done > 0, "nobody found a place");
    for access in refused {
        end(&access).await.expect(200);
    }
}
