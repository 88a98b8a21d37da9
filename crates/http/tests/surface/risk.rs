//! What rules about suspicious activity do, as programs and people see it.
use crate::one_rule::rule;
use portcullis_app::Caught;
use portcullis_domain::risk::Outcome;
use portcullis_rules::Policy;
use portcullis_testkit::application::{REDIRECT, encode};
use portcullis_testkit::client::Call;
use portcullis_testkit::mails::path_of;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Options, PostOffice, SignedIn, TestServer, parameter};
use portcullis_wire::b64;
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";

const fn block(hours: i64) -> Outcome {
    Outcome::Block { for_ms: Some(hours * 3_600_000) }
}

/// A server behind a proxy, so that networks can be told apart.
async fn world() -> TestServer {
    let server = TestServer::behind_a_proxy(Options::default()).await;
    server.sign_up(ADA).await;
    server
}

async fn asked(server: &TestServer, from: &str, password: &str) -> Answer {
    let body = json!({ "identifier": ADA, "password": password });
    server.client.from(from).post("/v1/sessions").json(&body).send().await
}

async fn refresh(server: &TestServer, from: &str, token: &str) -> Answer {
    let body = json!({ "refresh_token": token });
    server.client.from(from).post("/v1/sessions/refresh").json(&body).send().await
}

async fn admin_post(server: &TestServer, admin: &SignedIn, path: &str, body: Value) -> Answer {
    server.client.post(path).bearer(&admin.access).json(&body).send().await
}

async fn kinds(server: &TestServer, admin: &SignedIn, account: &str) -> Vec<String> {
    let path = format!("/v1/admin/events?account_id={account}");
    let page = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    page["events"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn many_guesses_and_then_the_right_password() {
    let server = world().await;
    let (admin, before) = (server.admin().await, server.sign_in(ADA).await);
    rule(&server, |s| s.act == "sign_in" && s.guesses_account >= 5 && s.new_network, block(24));
    for n in 0..6 {
        asked(&server, &format!("198.51.{n}.9"), "a wrong password").await.expect(401);
    }
    // The owner, at home: nothing of it is theirs.
    let home = asked(&server, "203.0.113.77", PASSWORD).await.expect(201).json();
    // Who guessed it, elsewhere.
    let refused = asked(&server, "198.51.7.9", PASSWORD).await.expect(403).json();
    assert_eq!((&refused["code"], &refused["reason"]), (&json!("account_blocked"), &json!("it did not look like you")));
    assert!(refused["until"].as_str().unwrap().ends_with('Z'));
    for token in [&before.access, home["access_token"].as_str().unwrap()] {
        let told = server.client.get("/v1/me").bearer(token).send().await.expect(401).json();
        assert_eq!(told["code"], "token_revoked");
    }
    // With a wrong one nobody learns that it is blocked.
    asked(&server, "198.51.7.9", "a wrong password").await.expect(401);
    let kinds = kinds(&server, &admin, &before.account).await;
    assert!(kinds.contains(&"risk.decided".into()) && kinds.contains(&"account.blocked".into()), "{kinds:?}");
    admin_post(
        &server,
        &admin,
        &format!("/v1/admin/accounts/{}/unblock", before.account),
        json!({ "reason": "it was her" }),
    )
    .await
    .expect(200);
    asked(&server, "203.0.113.77", PASSWORD).await.expect(201);
}

#[tokio::test]
async fn a_session_that_is_used_from_elsewhere_ends_at_the_refresh() {
    let server = world().await;
    let (mine, other) = (server.sign_in(ADA).await, server.sign_in(ADA).await);
    rule(&server, |s| s.act == "refresh" && s.moved && s.new_network, Outcome::EndSession);
    let home = refresh(&server, "203.0.113.80", &mine.refresh).await.expect(200).json();
    let stolen = home["refresh_token"].as_str().unwrap();
    let refused = refresh(&server, "198.51.100.1", stolen).await.expect(401).json();
    assert_eq!((&refused["code"], &refused["reason"]), (&json!("session_ended"), &json!("risk_rule")));
    server.client.get("/v1/me").bearer(home["access_token"].as_str().unwrap()).send().await.expect(401);
    server.client.get("/v1/me").bearer(&other.access).send().await.expect(200);
    assert_eq!(refresh(&server, "203.0.113.80", stolen).await.expect(401).json()["code"], "session_ended");
}

fn page(server: &TestServer, path: &str, pairs: &[(&str, &str)]) -> Call {
    server.client.post(path).header("origin", &server.issuer).form(&encode(pairs))
}

#[tokio::test]
async fn whoever_is_blocked_is_shown_a_page_and_led_nowhere() {
    let server = world().await;
    rule(&server, |s| s.act == "sign_in" && s.new_network, block(2));
    let admin = server.admin().await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let account = server.sign_in(ADA).await.account;
    asked(&server, "198.51.100.1", PASSWORD).await.expect(403);
    // The browser's session has ended: a quiet request is told so, a usual one leads to the sign-in, and that is where it stops.
    let quiet = server.authorize(&app, &cookie, &[("prompt", "none")]).await.expect(303);
    let place = quiet.header("location").to_owned();
    assert!(place.starts_with(REDIRECT));
    assert_eq!(parameter(&place, "error").as_deref(), Some("login_required"));
    let usual = server.authorize(&app, &cookie, &[]).await.expect(303).header("location").to_owned();
    assert!(usual.starts_with("/sign-in?"), "{usual}");
    let back = parameter(&usual, "return_to").unwrap();
    let form = [("identifier", ADA), ("password", PASSWORD), ("return_to", &*back)];
    let shown = page(&server, "/sign-in", &form).send().await.expect(403);
    assert!(shown.set_cookies().is_empty() && shown.headers.get("location").is_none());
    let html = shown.text();
    for part in ["This account is blocked", "it did not look like you", "ends by itself", "<a href=\"/sign-in\">"] {
        assert!(html.contains(part), "{part}: {html}");
    }
    assert!(!html.contains("http-equiv") && !html.contains("<form"));
    // With a wrong password it is the usual form.
    let wrong = [("identifier", ADA), ("password", "a wrong password"), ("return_to", &*back)];
    let html = page(&server, "/sign-in", &wrong).send().await.expect(401).text();
    assert!(html.contains("is not right") && !html.contains("blocked"));
    // Without an end it says who lifts it.
    let because = json!({ "reason": "a <b>reason</b>" });
    admin_post(&server, &admin, &format!("/v1/admin/accounts/{account}/block"), because).await.expect(200);
    let html = page(&server, "/sign-in", &form).send().await.expect(403).text();
    assert!(html.contains("until an administrator") && html.contains("a &lt;b&gt;reason"), "{html}");
    admin_post(&server, &admin, &format!("/v1/admin/accounts/{account}/unblock"), json!({})).await.expect(200);
    server.app.set_judge(None);
    let answer = page(&server, "/sign-in", &form).send().await.expect(303);
    assert!(answer.header("location").starts_with("/oauth2/authorize?"));
}

#[tokio::test]
async fn signals_are_taken_from_administrators_alone() {
    let server = world().await;
    let (admin, ada) = (server.admin().await, server.sign_in(ADA).await);
    rule(&server, |s| s.act == "external" && s.fraud, Outcome::Block { for_ms: None });
    let told = json!({ "account_id": ada.account, "kind": "fraud", "detail": "the bank called" });
    let anonymous = server.client.post("/v1/admin/signals").json(&told).send().await;
    assert_eq!(anonymous.expect(401).json()["code"], "token_missing");
    let forged = server.client.post("/v1/admin/signals").bearer(&ada.access).json(&told).send().await;
    assert_eq!(forged.expect(403).json()["code"], "insufficient_scope");
    server.client.get("/v1/admin/rules").bearer(&ada.access).send().await.expect(403);
    for (wrong, field) in [
        (json!({ "account_id": ada.account, "kind": "gossip" }), "kind"),
        (json!({ "account_id": "acc_nobody", "kind": "fraud" }), "account_id"),
        (json!({ "account_id": ada.account, "kind": "fraud", "detail": "\u{7}" }), "detail"),
    ] {
        let answer = admin_post(&server, &admin, "/v1/admin/signals", wrong).await.expect(422).json();
        assert_eq!(answer["field"], field);
    }
    let member = json!({ "account_id": ada.account, "kind": "fraud", "until": "now" });
    admin_post(&server, &admin, "/v1/admin/signals", member).await.expect(400);
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
    let taken = admin_post(&server, &admin, "/v1/admin/signals", told).await.expect(200).json();
    assert_eq!((&taken["acted"], &taken["ended"]), (&json!(true), &json!(1)));
    assert!(taken["rev"].as_u64() > Some(0) && taken["enforcement"]["complete"] == true, "{taken}");
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(401);
    asked(&server, "203.0.113.77", PASSWORD).await.expect(403);
    let rules = server.client.get("/v1/admin/rules").bearer(&admin.access).send().await.expect(200).json();
    assert_eq!((&rules["version"], &rules["observed"]), (&json!("test 7"), &json!(1)));
    assert_eq!(rules["rules"][0]["name"], "a-rule");
    let kinds = kinds(&server, &admin, &ada.account).await;
    assert!(kinds.contains(&"risk.signal".into()) && kinds.contains(&"risk.decided".into()), "{kinds:?}");
}

/// It is a revoking call: it waits, and its repetition is the same call.
#[tokio::test]
async fn a_signal_is_answered_as_revoking_calls_are() {
    let server = world().await;
    let (admin, ada) = (server.admin().await, server.sign_in(ADA).await);
    let told = json!({ "account_id": ada.account, "kind": "device_lost" });
    let post = async |path: &str, key: &str, told: &Value| {
        let call = server.client.post(path).bearer(&admin.access).header("idempotency-key", key);
        call.json(told).send().await
    };
    // Nothing is done of it as long as no rule wants it.
    let nothing = json!({ "acted": false, "rev": null, "ended": null, "enforcement": null });
    assert_eq!(post("/v1/admin/signals", "zero", &told).await.expect(200).json(), nothing);
    rule(&server, |s| s.act == "external", Outcome::EndAll);
    let done = post("/v1/admin/signals?wait=enforced", "one", &told).await.expect(200).json();
    assert_eq!((&done["acted"], &done["ended"]), (&json!(true), &json!(1)));
    assert!(done["enforcement"]["complete"] == true && done["enforcement"]["bounded_by"].is_string(), "{done}");
    let since = server.sign_in(ADA).await;
    let again = post("/v1/admin/signals?wait=enforced", "one", &told).await.expect(200).json();
    assert_eq!((&again["rev"], &again["ended"]), (&done["rev"], &done["ended"]));
    server.client.get("/v1/me").bearer(&since.access).send().await.expect(200);
    let rev = done["rev"].as_u64().unwrap();
    let path = format!("/v1/admin/revocations/{rev}");
    server.client.get(path).bearer(&admin.access).send().await.expect(200);
    let other = json!({ "account_id": ada.account, "kind": "fraud" });
    assert_eq!(post("/v1/admin/signals", "one", &other).await.expect(422).json()["field"], "Idempotency-Key");
    assert_eq!(post("/v1/admin/signals?wait=now", "two", &told).await.expect(422).json()["field"], "wait");
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(payload).unwrap()).unwrap()
}

/// An application's grant has a proof of its own, that of its code. It goes with the session's, and does not come back.
#[tokio::test]
async fn an_application_that_is_asked_for_a_proof_stays_asked() {
    let server = world().await;
    let app = server.application("public", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let held = server.granted(&app, &cookie, "openid").await;
    let proof = |tokens: &Value| {
        let both = [claims(&tokens["access_token"]), claims(&tokens["id_token"])];
        both.map(|one| json!([one["auth_time"], one["amr"]]))
    };
    let before = proof(&held);
    assert_eq!(before[0][1], json!(["pwd"]));
    rule(&server, |s| s.act == "refresh" && s.moved, Outcome::StepUp);
    let renewed = async |tokens: &Value, from: &str| {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &*app.id),
            ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
        ];
        server.advance(5_000);
        server.client.from(from).post("/oauth2/token").form(&encode(&form)).send().await.expect(200).json()
    };
    let asked = renewed(&held, "198.51.100.9").await;
    let unproven = proof(&asked);
    assert!(
        unproven.iter().zip(&before).all(|(now, before)| now[0] != before[0] && now[1] != before[1]),
        "{unproven:?}"
    );
    // Nobody looks at this one.
    let next = renewed(&asked, "198.51.100.9").await;
    assert_eq!(proof(&next), unproven);
    // The person proves who they are. Whoever holds what was given before may be somebody else.
    let asked = server.authorize(&app, &cookie, &[("prompt", "login")]).await.expect(303).header("location").to_owned();
    let back = parameter(&asked, "return_to").unwrap();
    let form = [("identifier", ADA), ("password", PASSWORD), ("return_to", &*back)];
    let with = format!("__Host-portcullis_session={cookie}");
    page(&server, "/sign-in", &form).header("cookie", with).send().await.expect(303);
    assert_eq!(proof(&renewed(&next, "198.51.100.9").await), unproven);
}

/// Behind a proxy that keeps one header and hands the other on, whoever writes that one is not at home by it.
#[tokio::test]
async fn who_hides_their_address_is_new_everywhere() {
    let server = world().await;
    let home = server.sign_in(ADA).await;
    rule(&server, |s| s.act == "refresh" && s.new_network, Outcome::EndSession);
    let shown = |token: &str| {
        let call = server.client.from("203.0.113.77").post("/v1/sessions/refresh").header("forwarded", "for=192.0.2.1");
        call.json(&json!({ "refresh_token": token }))
    };
    let next = refresh(&server, "203.0.113.77", &home.refresh).await.expect(200).json();
    let token = next["refresh_token"].as_str().unwrap();
    assert_eq!(shown(token).send().await.expect(401).json()["reason"], "risk_rule");
    let admin = server.admin().await;
    let path = format!("/v1/admin/events?account_id={}", home.account);
    let page = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    let decided = page["events"].as_array().unwrap().iter().find(|row| row["kind"] == "risk.decided").unwrap();
    assert_eq!(decided["ip"], "0.0.0.0");
}

fn built_in(server: &TestServer) {
    server.app.set_judge(Some(Box::new(Policy::built_in())));
}

async fn refresh_with(server: &TestServer, from: &str, agent: &str, token: &str) -> Answer {
    let call = server.client.from(from).post("/v1/sessions/refresh").header("user-agent", agent);
    call.json(&json!({ "refresh_token": token })).send().await
}

/// With the rules that are on by default, people who do nothing strange notice nothing of them.
#[tokio::test]
async fn with_the_built_in_rules_a_usual_day_is_a_usual_day() {
    let server = world().await;
    built_in(&server);
    let mut mine = server.sign_in(ADA).await;
    for from in ["203.0.113.77", "203.0.113.77", "198.51.100.4", "198.51.100.4", "203.0.113.77"] {
        server.advance(600_000);
        let next = refresh(&server, from, &mine.refresh).await.expect(200).json();
        mine.refresh = next["refresh_token"].as_str().unwrap().to_owned();
    }
    asked(&server, "198.51.100.4", PASSWORD).await.expect(201);
    refresh(&server, "203.0.113.77", &mine.refresh).await.expect(200);
}

/// The thief has the newest token, and its owner never shows an older one: no rule for refresh tokens sees it.
#[tokio::test]
async fn a_stolen_token_that_was_never_used_twice_is_ended_by_the_built_in_rules() {
    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";
    let server = world().await;
    built_in(&server);
    let body = json!({ "identifier": ADA, "password": PASSWORD });
    let call = server.client.post("/v1/sessions").header("user-agent", FIREFOX).json(&body);
    let first = call.send().await.expect(201).json();
    let account = first["session"]["account_id"].as_str().unwrap().to_owned();
    let token = |answer: &Value| answer["refresh_token"].as_str().unwrap().to_owned();
    let second = refresh_with(&server, "203.0.113.77", FIREFOX, &token(&first)).await.expect(200).json();
    server.advance(7_200_000);
    let stolen = refresh_with(&server, "198.51.100.1", "curl/8.9.1", &token(&second)).await.expect(401).json();
    assert_eq!((&stolen["code"], &stolen["reason"]), (&json!("session_ended"), &json!("risk_rule")));
    refresh_with(&server, "203.0.113.77", FIREFOX, &token(&second)).await.expect(401);
    let admin = server.admin().await;
    let kinds = kinds(&server, &admin, &account).await;
    assert!(kinds.contains(&"risk.decided".into()) && kinds.contains(&"risk.noticed".into()), "{kinds:?}");
}

/// Two with one session, of whom one is told of each new token and uses it first: its owner seems to have lost each answer, and an app
/// that was on one system is on another. Neither is a copy by the rules for refresh tokens.
#[tokio::test]
async fn who_is_always_first_and_who_is_on_another_system_are_ended_by_the_built_in_rules() {
    const MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
    const WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
    let server = world().await;
    built_in(&server);
    let body = json!({ "identifier": ADA, "password": PASSWORD });
    let call = server.client.from("203.0.113.77").post("/v1/sessions").header("user-agent", MAC).json(&body);
    let mut mine = call.send().await.expect(201).json();
    let token = |answer: &Value| answer["refresh_token"].as_str().unwrap().to_owned();
    server.advance(7_200_000);
    for round in 1..=5 {
        refresh_with(&server, "198.51.100.1", MAC, &token(&mine)).await.expect(200);
        server.advance(180_000);
        let answer = refresh_with(&server, "203.0.113.77", MAC, &token(&mine)).await;
        if round == 5 {
            let problem = answer.expect(401).json();
            assert_eq!((&problem["code"], &problem["reason"]), (&json!("session_ended"), &json!("risk_rule")));
        } else {
            mine = answer.expect(200).json();
            server.advance(90_000);
        }
    }
    let call = server.client.from("203.0.113.77").post("/v1/sessions").header("user-agent", MAC).json(&body);
    let mine = call.send().await.expect(201).json();
    server.advance(7_200_000);
    let problem = refresh_with(&server, "192.0.2.9", WINDOWS, &token(&mine)).await.expect(401).json();
    assert_eq!((&problem["code"], &problem["reason"]), (&json!("session_ended"), &json!("risk_rule")));
}

/// Nobody is there yet: a sign-up is refused alike whether its address is taken or not, and nothing is left but the record.
#[tokio::test]
async fn a_sign_up_that_a_rule_refuses_tells_nobody_which_addresses_there_are() {
    let server = world().await;
    let admin = server.admin().await;
    rule(&server, |s| s.act == "sign_up" && s.guesses_prefix >= 2, Outcome::EndSession);
    let sign_up = async |from: &str, email: &str| {
        let body = json!({ "email": email, "password": PASSWORD });
        server.client.from(from).post("/v1/accounts").json(&body).send().await
    };
    sign_up("198.51.100.1", "first@example.test").await.expect(201);
    for _ in 0..2 {
        asked(&server, "198.51.100.1", "a wrong password").await.expect(401);
    }
    for email in [ADA, "nobody@example.test"] {
        let mut refused = sign_up("198.51.100.1", email).await.expect(403).json();
        assert!(refused["detail"].as_str().unwrap().contains("it did not look like you"), "{refused}");
        refused.as_object_mut().unwrap().remove("request_id");
        assert_eq!(refused["code"], "forbidden", "{email}");
    }
    sign_up("203.0.113.1", ADA).await.expect(409);
    sign_up("203.0.113.1", "nobody@example.test").await.expect(201);
    let path = "/v1/admin/events?kind=risk.decided";
    let page = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    let rows = page["events"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["account_id"].is_null()), "{rows:?}");
}

struct Recovering {
    server: TestServer,
    post: PostOffice,
}

impl Recovering {
    async fn new() -> Self {
        let post = PostOffice::open().await;
        let mut options = Options::default();
        options.settings.mail = Some(post.mailer.clone());
        let server = TestServer::behind_a_proxy(options).await;
        server.sign_up(ADA).await;
        Self { server, post }
    }
    async fn ask(&self, from: &str, identifier: &str) -> Answer {
        self.server.client.from(from).post("/v1/recovery").json(&json!({ "identifier": identifier })).send().await
    }
    /// The secret of a link that is asked for now, from home. Mails of other kinds may come in between.
    async fn link(&self) -> String {
        let links = |mails: &[Caught]| -> Vec<String> {
            mails.iter().filter_map(path_of).filter(|path| path.starts_with("/recover/")).collect()
        };
        let mut seen = usize::try_from(self.post.catcher.count()).unwrap();
        let known = links(&self.post.wait_for(seen).await);
        self.ask("203.0.113.77", ADA).await.expect(202);
        loop {
            seen += 1;
            let new = links(&self.post.wait_for(seen).await).into_iter().find(|path| !known.contains(path));
            if let Some(path) = new {
                return path.rsplit('/').next().unwrap().to_owned();
            }
        }
    }
    async fn set(&self, from: &str, token: &str, password: &str) -> Answer {
        let body = json!({ "token": token, "password": password });
        self.server.client.from(from).post("/v1/recovery").json(&body).send().await
    }
}

/// Anybody may ask for a link: so a rule takes no more by that than the link, and nobody sees it.
#[tokio::test]
async fn who_asks_for_a_link_can_have_nothing_ended_by_it() {
    let world = Recovering::new().await;
    // Where she is at home is remembered, since there are rules.
    rule(&world.server, |s| s.what == "asked" && s.new_network, Outcome::Block { for_ms: None });
    let mine = world.server.sign_in(ADA).await;
    let told = world.ask("198.51.100.1", ADA).await.expect(202);
    assert_eq!(told.text(), world.ask("198.51.100.1", "nobody@example.test").await.expect(202).text());
    world.server.client.get("/v1/me").bearer(&mine.access).send().await.expect(200);
    asked(&world.server, "203.0.113.77", PASSWORD).await.expect(201);
    // The owner's own link comes, and it is the first: the other was not sent.
    let link = world.link().await;
    assert_eq!(world.post.catcher.count(), 1);
    world.set("203.0.113.77", &link, "another good password").await.expect(200);
    let admin = world.server.admin().await;
    let kinds = kinds(&world.server, &admin, &mine.account).await;
    assert!(kinds.contains(&"risk.decided".into()) && !kinds.contains(&"account.blocked".into()), "{kinds:?}");
}

#[tokio::test]
async fn a_reset_is_judged_before_it_is_done() {
    let world = Recovering::new().await;
    let server = &world.server;
    // Refused: the password is what it was, and the link works elsewhere.
    rule(server, |s| s.what == "done" && s.new_network, Outcome::EndSession);
    asked(server, "203.0.113.77", PASSWORD).await.expect(201);
    let link = world.link().await;
    let refused = world.set("198.51.100.1", &link, "the password of a thief").await.expect(403).json();
    assert_eq!(refused["code"], "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("it did not look like you"));
    let mine = asked(server, "203.0.113.77", PASSWORD).await.expect(201).json();
    // All that there is ends by a reset, whether a rule says it or not.
    rule(server, |s| s.what == "done", Outcome::EndAll);
    world.set("203.0.113.77", &link, "another good password").await.expect(200);
    server.client.get("/v1/me").bearer(mine["access_token"].as_str().unwrap()).send().await.expect(401);
    asked(server, "203.0.113.77", "another good password").await.expect(201);
    // Blocked: it is not done, and who holds the link is told why.
    let link = world.link().await;
    rule(server, |s| s.what == "done" && s.resets_done >= 2, block(24));
    let refused = world.set("203.0.113.77", &link, "a third password").await.expect(403).json();
    assert_eq!((&refused["code"], &refused["reason"]), (&json!("account_blocked"), &json!("it did not look like you")));
    asked(server, "203.0.113.77", "another good password").await.expect(403);
    asked(server, "203.0.113.77", "a third password").await.expect(401);
}

/// With the built-in rules whoever has lost a password gets a new one, also far from home; three times a day, from new countries
/// too, only where places are known.
#[tokio::test]
async fn with_the_built_in_rules_a_reset_is_told_and_done() {
    let world = Recovering::new().await;
    built_in(&world.server);
    let account = world.server.sign_in(ADA).await.account;
    let link = world.link().await;
    world.set("198.51.100.1", &link, "another good password").await.expect(200);
    asked(&world.server, "198.51.100.1", "another good password").await.expect(201);
    let admin = world.server.admin().await;
    let page = format!("/v1/admin/events?account_id={account}&kind=risk.noticed");
    let rows = world.server.client.get(page).bearer(&admin.access).send().await.expect(200).json();
    let told: Vec<_> = rows["events"].as_array().unwrap().iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert!(told.iter().any(|reason| reason.starts_with("recovered ")), "{told:?}");
}

/// "This was not me" is an act like others: the rule says what happens besides.
#[tokio::test]
async fn this_was_not_me_is_judged() {
    let world = Recovering::new().await;
    let server = &world.server;
    asked(server, "203.0.113.77", PASSWORD).await.expect(201);
    let before = usize::try_from(world.post.catcher.count()).unwrap();
    asked(server, "198.51.100.1", PASSWORD).await.expect(201);
    let mails = world.post.wait_for(before + 1).await;
    let path = path_of(mails.last().unwrap()).unwrap();
    assert!(path.starts_with("/not-me/"), "{path}");
    let mine = asked(server, "203.0.113.77", PASSWORD).await.expect(201).json();
    rule(server, |s| s.act == "recover" && s.what == "denied", Outcome::EndAll);
    page(server, &path, &[]).send().await.expect(303);
    server.client.get("/v1/me").bearer(mine["access_token"].as_str().unwrap()).send().await.expect(401);
    let rules = server.app.risk_counts();
    // Said once more, it is said: nothing is judged.
    page(server, &path, &[]).send().await.expect(303);
    assert_eq!(server.app.risk_counts(), rules);
}

/// Whoever has taken an account over makes an API key to stay.
#[tokio::test]
async fn an_api_key_that_is_made_is_judged() {
    let server = world().await;
    let phone = server.sign_in(ADA).await;
    let make = || server.client.post("/v1/me/api-keys").bearer(&phone.access).json(&json!({ "name": "ci" }));
    let keys = async |by: &str| {
        let listed = server.client.get("/v1/me/api-keys").bearer(by).send().await.expect(200).json();
        listed["api_keys"].as_array().unwrap().len()
    };
    let asked = rule(&server, |_| false, Outcome::Notify);
    let made = make().send().await.expect(201).json();
    let seen: Vec<_> = asked.lock().unwrap().drain(..).map(|s| (s.act.into_owned(), s.what.into_owned())).collect();
    assert_eq!(seen, [("change".to_owned(), "key".to_owned())]);
    // What it is exchanged for is a program's business.
    server.client.post("/v1/api-keys/token").bearer(made["key"].as_str().unwrap()).send().await.expect(200);
    assert!(asked.lock().unwrap().is_empty());
    rule(&server, |s| s.what == "key", Outcome::EndSession);
    assert_eq!(make().send().await.expect(401).json()["code"], "session_ended");
    server.app.set_judge(None);
    let next = server.sign_in(ADA).await;
    assert_eq!(keys(&next.access).await, 1);
}
