//! What accounts may and how they end: the limit of sessions, the own account, deletion with grace, roles of many.
use portcullis_domain::session_limit::{AtLimit, SessionLimit};
use portcullis_testkit::TestServer;
use portcullis_testkit::server::{Options, PASSWORD};
use portcullis_wire::AccountId;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn limited(most: u32, at_limit: AtLimit) -> Options {
    let mut options = Options::default();
    options.settings.policy.session_limit = Some(SessionLimit { most, at_limit });
    options
}

async fn list(server: &TestServer, access: &str) -> Vec<Value> {
    let page = server.client.get("/v1/me/sessions?limit=200").bearer(access).send().await.expect(200).json();
    page["sessions"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_sign_ins_at_once_no_more_live_than_may_and_the_newest_stay() {
    const MOST: usize = 5;
    let server = Arc::new(TestServer::start(limited(MOST as u32, AtLimit::EndOldest)).await);
    let account: AccountId = server.sign_up("ada@example.test").await.parse().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let live = move |server: Arc<TestServer>| async move {
        let views = server.app.store().list_sessions(account, 1000).await.unwrap();
        views.into_iter().filter(|view| view.dead(i64::MAX).is_none()).map(|view| view.session).collect::<Vec<_>>()
    };
    let watch = {
        let (server, over) = (server.clone(), over.clone());
        tokio::spawn(async move {
            let mut looks = 0;
            while !over.load(Ordering::SeqCst) {
                assert!(live(server.clone()).await.len() <= MOST);
                looks += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            looks
        })
    };
    let under_way: Vec<_> = (0..64)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
                loop {
                    // Each on a connection of its own. What guesses owe is given back by those that are through.
                    let client = portcullis_testkit::Client::new(&*server.issuer);
                    let answer = client.post("/v1/sessions").json(&body).send().await;
                    if answer.status == 201 {
                        return answer.json()["session"]["id"].as_str().unwrap().to_owned();
                    }
                    assert!(matches!(answer.status.as_u16(), 401 | 503), "{}", answer.text());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    let mut all = Vec::new();
    for one in under_way {
        all.push(one.await.unwrap());
    }
    over.store(true, Ordering::SeqCst);
    assert!(watch.await.unwrap() > 0);
    let alive = live(server.clone()).await;
    assert_eq!((alive.len(), all.len()), (MOST, 64));
    let oldest = alive.iter().map(|session| session.created_at).min().unwrap();
    for id in all.iter().filter(|id| alive.iter().all(|session| session.id.to_string() != **id)) {
        let view = server.app.store().load_session(id.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(view.session.ended.unwrap().reason, "session_limit");
        assert!(view.session.created_at <= oldest, "an older one stays and a newer one went");
    }
}

#[tokio::test]
async fn at_the_limit_the_least_used_ends_or_the_sign_in_is_refused() {
    let server = TestServer::start(limited(2, AtLimit::EndOldest)).await;
    server.sign_up("ada@example.test").await;
    let first = server.sign_in("ada@example.test").await;
    server.advance(1000);
    let second = server.sign_in("ada@example.test").await;
    server.advance(1000);
    // The first is used, so that the second is the one that was not for longest.
    let refresh = json!({ "refresh_token": first.refresh });
    server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect(200);
    server.advance(1000);
    let third = server.sign_in("ada@example.test").await;
    server.client.get("/v1/me").bearer(&second.access).send().await.expect_problem("token_revoked");
    let refresh = json!({ "refresh_token": second.refresh });
    let told = server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect_problem("session_ended");
    assert_eq!(told.json()["reason"], "session_limit");
    assert_eq!(list(&server, &third.access).await.len(), 2);
    server.client.get("/v1/me").bearer(&first.access).send().await.expect(200);

    let server = TestServer::start(limited(2, AtLimit::Refuse)).await;
    server.sign_up("ada@example.test").await;
    let first = server.sign_in("ada@example.test").await;
    server.sign_in("ada@example.test").await;
    let attempt = |password: &'static str| {
        let body = json!({ "identifier": "ada@example.test", "password": password });
        server.client.post("/v1/sessions").json(&body).send()
    };
    let refused = attempt(PASSWORD).await.expect_problem("conflict").json();
    assert!(refused["detail"].as_str().unwrap().contains("2 sessions"), "{refused}");
    attempt("a wrong password").await.expect_problem("invalid_credentials");
    server.client.delete("/v1/me/sessions/current").bearer(&first.access).send().await.expect(200);
    attempt(PASSWORD).await.expect(201);
}

#[tokio::test]
async fn the_own_account_is_renamed_and_tells_what_happened_to_it() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let (ada, admin) = (server.sign_in("ada@example.test").await, server.admin().await);
    let rename = |body: Value| server.client.patch("/v1/me").bearer(&ada.access).json(&body).send();
    assert_eq!(rename(json!({ "name": "Ada" })).await.expect(200).json()["name"], "Ada");
    assert!(rename(json!({ "name": null })).await.expect(200).json()["name"].is_null());
    for (wrong, code) in [
        (json!({}), "malformed"),
        (json!({ "name": "x", "roles": ["admin"] }), "malformed"),
        (json!({ "name": " " }), "invalid_value"),
        (json!({ "name": "a\nb" }), "invalid_value"),
    ] {
        rename(wrong).await.expect_problem(code);
    }
    let path = format!("/v1/admin/accounts/{account}");
    let roles = json!({ "roles": ["editor"] });
    server.client.patch(&*path).bearer(&admin.access).json(&roles).send().await.expect(200);
    let renewed = json!({ "refresh_token": ada.refresh });
    let renewed = server.client.post("/v1/sessions/refresh").json(&renewed).send().await.expect(200).json();
    let access = renewed["access_token"].as_str().unwrap();
    let events = server.client.get("/v1/me/events?limit=2").bearer(access).send().await.expect(200).json();
    let rows = events["events"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["kind"], &rows[0]["actor"]), (&json!("account.changed"), &json!("administrator")));
    assert!(rows[0]["ip"].is_null() && rows[0]["reason"].is_null(), "{events}");
    assert_eq!((&rows[1]["actor"], rows[1]["ip"].is_string()), (&json!("you"), true));
    let next = format!("/v1/me/events?cursor={}", events["next"].as_str().unwrap());
    let rest = server.client.get(next).bearer(access).send().await.expect(200).json();
    let rest = rest["events"].as_array().unwrap();
    assert!(rest.iter().all(|row| row["kind"] != "client.created"), "only what is about this account");
    assert_eq!(rest.last().unwrap()["kind"], "account.created");
    assert!(!events.to_string().contains(&admin.account));
}

#[tokio::test]
async fn the_own_account_is_deleted_by_who_proves_to_be_its_owner() {
    let mut options = Options::default();
    options.settings.policy.step_up_max_age = 60_000;
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let delete = |access: String, body: Option<Value>| {
        let call = server.client.delete("/v1/me").bearer(&access);
        body.iter().fold(call, |call, body| call.json(body)).send()
    };
    server.advance(60_001);
    let access = ada.access;
    let told = delete(access.clone(), None).await.expect_problem("step_up_required").json();
    assert_eq!(told["max_age_s"], 60);
    delete(access.clone(), Some(json!({ "password": "wrong" }))).await.expect_problem("invalid_credentials");
    server.client.get("/v1/me").bearer(&access).send().await.expect(200);
    let gone = delete(access.clone(), Some(json!({ "password": PASSWORD }))).await.expect(200).json();
    assert_eq!(gone["ended"], 1);
    let again = delete(access.clone(), None).await.expect(200).json();
    assert_eq!((&again["rev"], again["ended"].as_u64()), (&gone["rev"], Some(0)));
    server.client.get("/v1/me").bearer(&access).send().await.expect_problem("token_revoked");
    // At once, so the address is free.
    server.sign_up("ada@example.test").await;
    // A sign-in of just now needs no password.
    let fresh = server.sign_in("ada@example.test").await;
    delete(fresh.access.clone(), None).await.expect(200);
    delete("x".into(), None).await.expect_problem("token_malformed");
}

#[tokio::test]
async fn a_deletion_with_grace_is_taken_back_or_becomes_final() {
    let mut options = Options::default();
    options.settings.policy.deletion_grace = 100_000;
    let server = TestServer::start(options).await;
    let account = server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let path = format!("/v1/admin/accounts/{account}");
    let gone = server.client.delete("/v1/me").bearer(&ada.access).send().await.expect(200).json();
    let attempt = |password: &'static str| {
        let body = json!({ "identifier": "ada@example.test", "password": password });
        server.client.post("/v1/sessions").json(&body).send()
    };
    let told = attempt(PASSWORD).await.expect_problem("account_blocked").json();
    assert!(told["reason"].as_str().unwrap().contains("gone at 2"), "{told}");
    attempt("a wrong password").await.expect_problem("invalid_credentials");
    let taken = json!({ "email": "ada@example.test", "password": PASSWORD });
    server.client.post("/v1/accounts").json(&taken).send().await.expect_problem("email_taken");
    let admin = server.admin().await;
    let seen = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&seen["status"], &seen["rev"]), (&json!("deleting"), &gone["rev"]), "{seen}");
    let again = server.client.delete(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&again["rev"], again["ended"].as_u64()), (&gone["rev"], Some(0)));
    let block = server.client.post(format!("{path}/block")).bearer(&admin.access).json(&json!({ "reason": "x" }));
    block.send().await.expect_problem("conflict");
    let unblock = || server.client.post(format!("{path}/unblock")).bearer(&admin.access).send();
    assert_eq!(unblock().await.expect(200).json()["status"], "active");
    assert_eq!(unblock().await.expect(200).json()["status"], "active");
    // Nothing came back to life, and it can be used again.
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect_problem("token_revoked");
    let refresh = json!({ "refresh_token": ada.refresh });
    server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect_problem("session_ended");
    let ada = server.sign_in("ada@example.test").await;
    server.client.delete("/v1/me").bearer(&ada.access).send().await.expect(200);
    server.advance(100_001);
    // The time has passed and nobody has looked yet: still nothing gets in.
    attempt(PASSWORD).await.expect_problem("account_blocked");
    server.app.prune_all().await.unwrap();
    attempt(PASSWORD).await.expect_problem("invalid_credentials");
    let seen = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&seen["status"], seen["email"].is_null()), (&json!("deleted"), true));
    let late = server.client.post(format!("{path}/unblock")).bearer(&admin.access).send().await;
    late.expect_problem("not_found");
    assert_ne!(server.sign_up("ada@example.test").await, account);
}

#[tokio::test]
async fn a_block_lifts_itself_and_says_so() {
    let server = TestServer::usual().await;
    let account = server.sign_up("ada@example.test").await;
    let admin = server.admin().await;
    let path = format!("/v1/admin/accounts/{account}");
    let until = server.app.now().plus(100_000).to_string();
    let block = json!({ "reason": "a pause", "until": until });
    server.client.post(format!("{path}/block")).bearer(&admin.access).json(&block).send().await.expect(200);
    server.app.prune_all().await.unwrap();
    let status = || async {
        let seen = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
        seen["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status().await, "blocked");
    server.advance(100_001);
    assert_eq!(status().await, "active", "from that moment on");
    server.app.prune_all().await.unwrap();
    server.app.prune_all().await.unwrap();
    let events = format!("/v1/admin/events?account_id={account}&kind=account.unblocked");
    let events = server.client.get(events).bearer(&admin.access).send().await.expect(200).json();
    let rows = events["events"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["actor"]), (1, &json!("system")), "{events}");
    server.sign_in("ada@example.test").await;
}

/// The limit counts sign-ins. What applications and programs hold for somebody is not counted, and never ends to make room.
#[tokio::test]
async fn a_sign_in_at_the_limit_ends_no_application_and_no_key() {
    let mut options = limited(2, AtLimit::EndOldest);
    options.settings.clients.api_key_scopes = vec!["read".into()];
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let app = server.application("confidential", json!({})).await;
    let page = server.page_sign_in("ada@example.test").await;
    let mut offline = Vec::new();
    for _ in 0..3 {
        offline.push(server.granted(&app, &page, "openid offline_access").await);
    }
    let phone = server.sign_in("ada@example.test").await;
    let mut keys = Vec::new();
    for name in ["one", "two"] {
        let body = json!({ "name": name, "scopes": ["read"] });
        let made =
            server.client.post("/v1/me/api-keys").bearer(&phone.access).json(&body).send().await.expect(201).json();
        keys.push(made["key"].as_str().unwrap().to_owned());
    }
    // Two sign-ins beside five that are none: there was room for the second, and the third ends the first.
    let shown = |cookie: &str| {
        server.client.get("/account/devices").header("cookie", format!("__Host-portcullis_session={cookie}")).send()
    };
    shown(&page).await.expect(200);
    server.advance(1_000);
    let body = json!({ "refresh_token": phone.refresh });
    server.client.post("/v1/sessions/refresh").json(&body).send().await.expect(200);
    let tablet = server.sign_in("ada@example.test").await;
    shown(&page).await.expect(303);
    server.client.get("/v1/me").bearer(&phone.access).send().await.expect(200);
    server.client.get("/v1/me").bearer(&tablet.access).send().await.expect(200);
    for tokens in offline {
        server.refresh_for(&app, tokens["refresh_token"].as_str().unwrap()).await.expect(200);
    }
    for key in keys {
        server.client.post("/v1/api-keys/token").bearer(&key).send().await.expect(200);
    }
}

#[tokio::test]
async fn roles_of_many_are_changed_at_once_and_by_two_at_once() {
    let server = TestServer::usual().await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(server.sign_up(&format!("user{n}@example.test")).await);
    }
    let user = server.sign_in("user3@example.test").await;
    let admin = server.admin().await;
    let change = |body: Value| server.client.post("/v1/admin/roles").bearer(&admin.access).json(&body).send();
    // Two at once, each about all of them: nothing that either of them asked for is lost.
    let (one, two) = tokio::join!(
        change(json!({ "account_ids": ids, "add": ["beta", "editor"], "spread_ms": 0 })),
        change(json!({ "account_ids": ids, "add": ["ops"], "reason": "a new team" })),
    );
    for done in [one, two] {
        let done = done.expect(200).json();
        assert_eq!((&done["changed"], &done["missing"]), (&json!(40), &json!([])), "{done}");
    }
    for id in &ids {
        let seen = server.client.get(format!("/v1/admin/accounts/{id}")).bearer(&admin.access).send().await.json();
        assert_eq!(seen["roles"], json!(["beta", "editor", "ops"]));
    }
    // The holder is told to refresh, is not signed out, and has the new roles.
    server.client.get("/v1/me").bearer(&user.access).send().await.expect_problem("token_stale");
    let refresh = json!({ "refresh_token": user.refresh });
    let renewed = server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect(200).json();
    let me = server.client.get("/v1/me").bearer(renewed["access_token"].as_str().unwrap()).send().await.expect(200);
    assert_eq!(me.json()["roles"], json!(["beta", "editor", "ops"]));
    // Repeated, it leaves alone who has them; what is gone is told.
    server.client.delete(format!("/v1/admin/accounts/{}", ids[0])).bearer(&admin.access).send().await.expect(200);
    let done = change(json!({ "account_ids": ids, "add": ["ops"], "remove": ["beta"] })).await.expect(200).json();
    assert_eq!((&done["changed"], &done["missing"]), (&json!(39), &json!([ids[0]])));
    let done = change(json!({ "account_ids": ids, "add": ["ops"], "remove": ["beta"] })).await.expect(200).json();
    assert_eq!((&done["changed"], &done["unchanged"], &done["rev"]), (&json!(0), &json!(39), &Value::Null));
    // Under a key it takes back nothing that was done since, and answers as it did; the key is no other call's.
    let body = json!({ "account_ids": ids, "add": ["night"] });
    let keyed = |body: &Value, key: &'static str| {
        server.client.post("/v1/admin/roles").bearer(&admin.access).header("idempotency-key", key).json(body).send()
    };
    let first = keyed(&body, "a-key").await.expect(200).json();
    assert_eq!(first["changed"], 39);
    let path = format!("/v1/admin/accounts/{}", ids[2]);
    let since = json!({ "roles": ["other"] });
    server.client.patch(&*path).bearer(&admin.access).json(&since).send().await.expect(200);
    assert_eq!(keyed(&body, "a-key").await.expect(200).json(), first);
    let roles = server.client.get(&*path).bearer(&admin.access).send().await.expect(200).json();
    assert_eq!(roles["roles"], json!(["other"]));
    let another = json!({ "account_ids": [ids[0]], "add": ["day"] });
    let refused = keyed(&another, "a-key").await.expect_problem("invalid_value");
    assert_eq!(refused.json()["field"], "Idempotency-Key");
    let two_words = server.client.post("/v1/admin/roles").bearer(&admin.access).header("idempotency-key", "a key");
    assert_eq!(two_words.json(&body).send().await.expect_problem("invalid_value").json()["field"], "Idempotency-Key");
    let too_many: Vec<_> = (0..1001).map(|_| ids[1].clone()).collect();
    for (wrong, field) in [
        (json!({ "account_ids": [], "add": ["x"] }), "account_ids"),
        (json!({ "account_ids": too_many, "add": ["x"] }), "account_ids"),
        (json!({ "account_ids": ["acc_1"], "add": ["x"] }), "account_ids"),
        (json!({ "account_ids": [ids[1]] }), "add"),
        (json!({ "account_ids": [ids[1]], "add": ["A role"] }), "roles"),
        (json!({ "account_ids": [ids[1]], "add": ["x"], "remove": ["x"] }), "remove"),
        (json!({ "account_ids": [ids[1]], "add": ["x"], "spread_ms": 3_600_001 }), "spread_ms"),
    ] {
        assert_eq!(change(wrong).await.expect_problem("invalid_value").json()["field"], field);
    }
    let mine = json!({ "account_ids": [user.account], "add": ["admin"] });
    let user = server.sign_in("user3@example.test").await;
    let call = server.client.post("/v1/admin/roles").bearer(&user.access).json(&mine);
    assert_eq!(call.send().await.status, 403);
    let path = format!("/v1/admin/accounts/{}", ids[1]);
    let patch = |body: Value| server.client.patch(&*path).bearer(&admin.access).json(&body).send();
    patch(json!({ "roles": ["a"], "spread_ms": 3_600_001 })).await.expect_problem("invalid_value");
    patch(json!({ "roles": ["a"], "spread_ms": 3_600_000 })).await.expect(200);
}

#[tokio::test]
async fn client_hints_name_the_device_and_change_nothing_else() {
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let page = server.client.get("/sign-in").send().await.expect(200);
    assert_eq!(page.header("accept-ch"), "Sec-CH-UA, Sec-CH-UA-Platform, Sec-CH-UA-Mobile, Sec-CH-UA-Model");
    let agent = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36";
    let body = json!({ "identifier": "ada@example.test", "password": PASSWORD });
    let call = server.client.post("/v1/sessions").json(&body).header("user-agent", agent);
    let call = call
        .header("sec-ch-ua", r#""Not=A?Brand";v="24", "Chromium";v="140", "Google Chrome";v="140""#)
        .header("sec-ch-ua-platform", r#""Android""#)
        .header("sec-ch-ua-mobile", "?1")
        .header("sec-ch-ua-model", r#""Pixel 9""#);
    let made = call.send().await.expect(201).json();
    assert_eq!(made["session"]["device_name"], "Chrome on Pixel 9");
    // A late retry that comes without hints is the same kind of device: it gets a successor, and is no other device.
    let refresh = json!({ "refresh_token": made["refresh_token"] });
    let again = || server.client.post("/v1/sessions/refresh").json(&refresh).header("user-agent", agent).send();
    again().await.expect(200);
    server.advance(60_000);
    again().await.expect(200);
    for (hints, name) in [("\"Chromium", "Chrome on Android"), ("x", "Chrome on Android")] {
        let call = server.client.post("/v1/sessions").json(&body).header("user-agent", agent);
        let made = call.header("sec-ch-ua", hints).header("sec-ch-ua-platform", "\"Windows\"").send().await;
        assert_eq!(made.expect(201).json()["session"]["device_name"], name);
    }
}

#[tokio::test]
async fn tables_stay_small_over_weeks_and_live_sessions_are_found_behind_dead_ones() {
    const DAY: i64 = 86_400_000;
    let mut options = Options::default();
    options.settings.rules.idle_ttl = 5 * DAY;
    options.settings.rules.absolute_ttl = 20 * DAY;
    let policy = &mut options.settings.policy;
    (policy.ended_retention, policy.event_retention, policy.address_retention) = (2 * DAY, Some(4 * DAY), DAY);
    let server = TestServer::start(options).await;
    let (store, operator) = (server.app.store(), portcullis_app::Admin::operator());
    for n in 0..4 {
        server.sign_up(&format!("user{n}@example.test")).await;
    }
    let (mut most, mut made, mut ended) = (0, 0, None);
    for day in 0..24 {
        for n in 0..4 {
            let email = format!("user{n}@example.test");
            let (one, two) = (server.sign_in(&email).await, server.sign_in(&email).await);
            made += 2;
            let refresh = json!({ "refresh_token": two.refresh });
            server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect(200);
            if n == 0 {
                server.app.admin_end_account(&operator, one.account.parse().unwrap(), None).await.unwrap();
            } else {
                server.app.admin_end_session(&operator, one.sid.parse().unwrap(), None).await.unwrap();
            }
            if day == 0 && n == 1 {
                ended = Some(one);
            }
        }
        server.advance(DAY);
        // F follows the clock slowly, as it must; a server that runs for a day has it there.
        let floor = portcullis_domain::Change::RaiseFloor(store.now().minus(10_000));
        let steps = vec![floor];
        store.commit(portcullis_domain::Changes { steps, ..Default::default() }).await.unwrap();
        server.app.prune_all().await.unwrap();
        let rows = store.count_rows().await.unwrap();
        assert_eq!(rows.sessions, rows.grants);
        // 8 sessions a day, for at most 5 idle days, 2 days after that, and the day itself; 16 records a day for 4 days and one.
        assert!(rows.sessions <= 8 * 8 && rows.events <= 18 * 5 && rows.entries <= 8, "day {day}: {rows:?}");
        most = most.max(rows.sessions);
    }
    assert!(most > 30 && made > 3 * most, "{most} of {made}");
    let counts = server.app.counts();
    assert!(counts.sessions_pruned.load(Ordering::Relaxed) > 100);
    assert!(counts.events_pruned.load(Ordering::Relaxed) > 200);
    let events = store.list_events(&portcullis_app::EventFilter::default(), None, 1000).await.unwrap().rows;
    assert!(events.len() > 20 && events.iter().all(|row| row.event.ip.is_none()));
    // Whoever comes back after all that is told that it is over, by a word that is no certain end.
    let ended = ended.unwrap();
    let refresh = json!({ "refresh_token": ended.refresh });
    server.client.post("/v1/sessions/refresh").json(&refresh).send().await.expect_problem("refresh_expired");
    let cookie = format!("__Host-portcullis_refresh={}", ended.refresh);
    let call = server.client.post("/v1/sessions/refresh").header("cookie", cookie).header("origin", &server.issuer);
    let told = call.send().await.expect_problem("refresh_expired");
    assert!(told.set_cookies().is_empty(), "what is not there proves nothing");
    let metrics = server.client.get("/metrics").send().await.expect(200).text();
    assert!(
        metrics.contains("portcullis_sessions_pruned_total") && metrics.contains("portcullis_accounts_due_total 0")
    );
}

#[tokio::test]
async fn a_repeated_sign_out_finds_its_rev_while_the_dead_token_can_come() {
    let mut options = Options::default();
    let policy = &mut options.settings.policy;
    (policy.ended_retention, policy.address_retention) = (0, 0);
    let server = TestServer::start(options).await;
    server.sign_up("ada@example.test").await;
    let ada = server.sign_in("ada@example.test").await;
    let sign_out = || server.client.delete("/v1/me/sessions/current").bearer(&ada.access).send();
    let first = sign_out().await.expect(200).json();
    for _ in 0..5 {
        server.advance(45_000);
        server.app.prune_all().await.unwrap();
        let again = sign_out().await.expect(200).json();
        assert_eq!((&again["rev"], &again["ended"]), (&first["rev"], &json!(0)));
    }
}

#[tokio::test]
async fn another_password_by_the_one_of_before_ends_all_other_sessions() {
    const NEW: &str = "another good password";
    let server = TestServer::usual().await;
    server.sign_up("ada@example.test").await;
    let (mine, other) = (server.sign_in("ada@example.test").await, server.sign_in("ada@example.test").await);
    let change = |token: &str, body: Value| server.client.post("/v1/me/password").bearer(token).json(&body).send();
    let words = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    let computed = || server.app.passwords().counts().0;
    // What is wrong changes nothing.
    for (current, new, code) in [
        ("wrong", NEW, "invalid_credentials"),
        (PASSWORD, "short", "invalid_value"),
        (PASSWORD, "Ada@example.test", "invalid_value"),
        (PASSWORD, &"x".repeat(1025), "invalid_value"),
        ("", NEW, "invalid_credentials"),
    ] {
        let told = change(&mine.access, words(current, new)).await.expect_problem(code).json();
        assert!(code != "invalid_value" || told["field"] == "new_password", "{told}");
    }
    for body in [json!({}), json!({ "new_password": NEW }), json!({ "current_password": 1, "new_password": NEW })] {
        change(&mine.access, body).await.expect_problem("malformed");
    }
    server.client.post("/v1/me/password").json(&words(PASSWORD, NEW)).send().await.expect(401);
    server.client.get("/v1/me").bearer(&other.access).send().await.expect(200);
    let before = computed();
    let call = |path: &'static str, current: &'static str| {
        let body = words(current, NEW);
        server.client.post(path).bearer(&mine.access).header("idempotency-key", "once").json(&body).send()
    };
    let first = call("/v1/me/password?wait=enforced", PASSWORD).await.expect(200).json();
    assert_eq!((&first["ended"], &first["enforcement"]["complete"]), (&json!(1), &json!(true)), "{first}");
    assert_eq!(computed() - before, 2, "the one of before, and the new one");
    let again = call("/v1/me/password?wait=enforced", PASSWORD).await.expect(200).json();
    assert_eq!(again["rev"], first["rev"]);
    server.client.get("/v1/me").bearer(&mine.access).send().await.expect(200);
    server.client.get("/v1/me").bearer(&other.access).send().await.expect_problem("token_revoked");
    let sign_in = |password: &str| {
        let body = json!({ "identifier": "ada@example.test", "password": password });
        server.client.post("/v1/sessions").json(&body).send()
    };
    sign_in(PASSWORD).await.expect_problem("invalid_credentials");
    sign_in(NEW).await.expect(201);
    let events = server.client.get("/v1/me/events").bearer(&mine.access).send().await.expect(200).json();
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "password.changed").count(), 1, "{events}");
}
