//! What rules about suspicious activity do to sign-ins by another provider, to newcomers and to applications that are let in.
use super::upstream::{Jar, came_back, is_refused, sign_in, world};
use crate::one_rule::rule;
use portcullis_domain::risk::{Outcome, Signals};
use portcullis_testkit::application::encode;
use portcullis_testkit::{Answer, Idp, TestServer, parameter};
use serde_json::{Value, json};
use std::sync::Mutex;

const ADA: &str = "ada@example.test";

/// The acts that were asked about since the last time.
fn acts(asked: &Mutex<Vec<Signals>>) -> Vec<(String, String)> {
    asked.lock().unwrap().drain(..).map(|s| (s.act.into_owned(), s.what.into_owned())).collect()
}

fn act(kind: &str, what: &str) -> (String, String) {
    (kind.into(), what.into())
}

const NEVER: fn(&Signals) -> bool = |_| false;

async fn by_provider(idp: &Idp, server: &TestServer, jar: &mut Jar) -> Answer {
    sign_in(idp, server, jar, json!({})).await
}

async fn accounts(server: &TestServer) -> usize {
    let admin = server.admin().await;
    let page = server.client.get("/v1/admin/accounts?limit=100").bearer(&admin.access).send().await.expect(200).json();
    page["accounts"].as_array().unwrap().len()
}

/// The records of this kind, as `(account, reason)`.
async fn records(server: &TestServer, kind: &str) -> Vec<(Value, String)> {
    let admin = server.admin().await;
    let path = format!("/v1/admin/events?kind={kind}");
    let page = server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
    let row = |row: &Value| (row["account_id"].clone(), row["reason"].as_str().unwrap_or_default().to_owned());
    page["events"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn a_sign_in_by_another_provider_is_judged() {
    let (idp, server) = world().await;
    let asked = rule(&server, NEVER, Outcome::Notify);
    let mut jar = Jar::default();
    by_provider(&idp, &server, &mut jar).await.expect(303);
    assert_eq!(acts(&asked), [act("sign_up", ""), act("sign_in", "provider")], "somebody new");
    // The browser is known from now on, also to another provider's sign-in.
    assert!(jar.text().contains("portcullis_device="), "{}", jar.text());
    let mut known = jar.clone();
    server.client.post("/sign-out").header("cookie", jar.text()).header("origin", &server.issuer).form("").send().await;
    by_provider(&idp, &server, &mut known).await.expect(303);
    by_provider(&idp, &server, &mut Jar::default()).await.expect(303);
    let devices: Vec<_> = asked.lock().unwrap().iter().map(|s| (s.known_device, s.new_device)).collect();
    assert_eq!(devices, [(true, false), (false, true)]);
    // Refused: no session, what was there stays, and the browser is told where to go on.
    rule(&server, |s| s.what == "provider" && s.new_device, Outcome::EndSession);
    let mut other = Jar::default();
    let answer = by_provider(&idp, &server, &mut other).await;
    assert!(is_refused(&answer, "upstream-refused"), "{}", answer.header("location"));
    assert!(other.session().is_none() && known.is_in(&server).await);
    let page = server.client.get("/sign-in?notice=upstream-refused").send().await.expect(200).text();
    assert!(page.contains("looked like somebody else"), "{page}");
    let decided = records(&server, "risk.decided").await;
    assert_eq!(decided[0].1, "a-rule (end_session, policy test 7): it did not look like you");
    // All that was before ends, and this one lives.
    rule(&server, |s| s.what == "provider", Outcome::EndAll);
    by_provider(&idp, &server, &mut other).await.expect(303);
    assert!(other.is_in(&server).await && !known.is_in(&server).await);
    // Blocked: a page that leads nowhere.
    rule(&server, |s| s.what == "provider", Outcome::Block { for_ms: Some(3_600_000) });
    let shown = by_provider(&idp, &server, &mut Jar::default()).await.expect(403);
    assert!(shown.text().contains("This account is blocked") && shown.text().contains("it did not look like you"));
    assert!(shown.headers.get("location").is_none() && !other.is_in(&server).await);
    // And again without a rule.
    server.app.set_judge(None);
    let shown = by_provider(&idp, &server, &mut Jar::default()).await.expect(403);
    assert!(shown.text().contains("This account is blocked"));
}

/// Wrong passwords say nothing of somebody whom another provider knows.
#[tokio::test]
async fn guesses_at_the_password_do_not_count_against_another_provider() {
    let (idp, server) = world().await;
    by_provider(&idp, &server, &mut Jar::default()).await.expect(303);
    for _ in 0..4 {
        let body = json!({ "identifier": ADA, "password": "a wrong password" });
        server.client.post("/v1/sessions").json(&body).send().await.expect(401);
    }
    let asked = rule(&server, NEVER, Outcome::Notify);
    by_provider(&idp, &server, &mut Jar::default()).await.expect(303);
    let seen = asked.lock().unwrap().remove(0);
    assert_eq!((seen.guesses_account, seen.guesses_prefix), (0, 0));
}

#[tokio::test]
async fn somebody_new_whom_a_rule_refuses_leaves_nothing() {
    let (idp, server) = world().await;
    let before = accounts(&server).await;
    rule(&server, |s| s.act == "sign_up" && s.first, Outcome::Block { for_ms: None });
    let mut jar = Jar::default();
    let refused = by_provider(&idp, &server, &mut jar).await.expect(403).text();
    assert!(refused.contains("it did not look like you"), "{refused}");
    assert_eq!((accounts(&server).await, jar.session()), (before, None));
    let decided = records(&server, "risk.decided").await;
    assert_eq!(decided, [(Value::Null, "a-rule (block, policy test 7): it did not look like you".to_owned())]);
    // The question was answered; whoever comes again is asked again.
    server.app.set_judge(None);
    assert!(came_back(&idp, &server, &mut jar, json!({})).await.expect(200).text().contains("Make a new account?"));
}

#[tokio::test]
async fn another_provider_that_is_linked_is_a_change() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    let asked = rule(&server, NEVER, Outcome::Notify);
    let mut jar = Jar::default();
    let page = came_back(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    let ticket = super::upstream::hidden(&page, "ticket");
    let form = [("ticket", &*ticket), ("password", portcullis_testkit::server::PASSWORD)];
    jar.post(&server, "/upstream/confirm", &form).await.expect(303);
    assert_eq!(acts(&asked), [act("sign_in", ""), act("change", "factor")]);
}

async fn post(server: &TestServer, cookie: &str, path: &str, pairs: &[(&str, &str)]) -> Answer {
    let call = server.client.post(path).header("origin", &server.issuer);
    call.header("cookie", format!("__Host-portcullis_session={cookie}")).form(&encode(pairs)).send().await
}

#[tokio::test]
async fn an_application_that_is_let_in_is_a_change() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({})).await;
    let cookie = server.page_sign_in(ADA).await;
    let asked = rule(&server, NEVER, Outcome::Notify);
    server.granted(&app, &cookie, "openid").await;
    assert_eq!(acts(&asked), [act("change", "app")]);
    // What was allowed before is nothing new; more is.
    server.granted(&app, &cookie, "openid").await;
    assert_eq!(acts(&asked), []);
    server.granted(&app, &cookie, "openid read").await;
    assert_eq!(acts(&asked), [act("change", "app")]);
    // Where a rule says no, nothing is allowed, and the session has ended: its user signs in first.
    let other = server.application("confidential", json!({})).await;
    rule(&server, |s| s.what == "app", Outcome::EndSession);
    let page = server.authorize(&other, &cookie, &[("scope", "openid")]).await.expect(200).text();
    let answer = server.decide(&page, &cookie, "allow").await.expect(303);
    assert!(parameter(answer.header("location"), "code").is_none(), "{}", answer.header("location"));
    let next =
        server.client.get(answer.header("location")).header("cookie", format!("__Host-portcullis_session={cookie}"));
    assert!(next.send().await.expect(303).header("location").starts_with("/sign-in?"));
    let cookie = server.page_sign_in(ADA).await;
    let page = server.authorize(&other, &cookie, &[("scope", "openid")]).await.expect(200).text();
    assert!(page.contains("name=\"decision\""), "it is asked for anew: nothing was allowed");
}

/// What a rule takes from the session is not given to the application that was let in by the same act.
#[tokio::test]
async fn an_application_gets_no_proof_that_a_rule_takes() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({})).await;
    let auth_time = |told: &Value| super::machine::claims(&told["access_token"])["auth_time"].as_i64().unwrap_or(0);
    let cookie = server.page_sign_in(ADA).await;
    let asked = rule(&server, |s| s.what == "app", Outcome::StepUp);
    let told = server.granted(&app, &cookie, "openid").await;
    assert_eq!((acts(&asked), auth_time(&told)), (vec![act("change", "app")], 0));
    // Nor later.
    let refresh = told["refresh_token"].as_str().unwrap();
    let told = server.refresh_for(&app, refresh).await.expect(200).json();
    assert_eq!(auth_time(&told), 0);
    // Whoever proves who they are gets it, and is not asked again: nothing new is allowed.
    let cookie = server.page_sign_in(ADA).await;
    assert!(auth_time(&server.granted(&app, &cookie, "openid").await) > 0);
}

/// Where nobody is asked, any page can send a browser to let an application in: that is nothing that somebody did.
#[tokio::test]
async fn what_nobody_was_asked_is_no_act() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let cookie = server.page_sign_in(ADA).await;
    let asked = rule(&server, |s| s.act == "change", Outcome::EndAll);
    server.granted(&app, &cookie, "openid").await;
    assert_eq!(acts(&asked), []);
}

#[tokio::test]
async fn a_device_that_is_let_in_is_a_change() {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let more = json!({ "name": "A television", "redirect_uris": [], "grant_types": [GRANT, "refresh_token"] });
    let app = server.application("public", more).await;
    for (then, status) in [(Outcome::Notify, 200), (Outcome::EndSession, 401)] {
        let cookie = server.page_sign_in(ADA).await;
        let asked = rule(&server, |s| s.what == "app", then);
        let form = encode(&[("client_id", &*app.id), ("scope", "openid read")]);
        let told = server.client.post("/oauth2/device").form(&form).send().await.expect(200).json();
        let (code, user) = (told["device_code"].as_str().unwrap(), told["user_code"].as_str().unwrap());
        let html = post(&server, &cookie, "/device", &[("user_code", user)]).await.expect(200).text();
        assert_eq!(acts(&asked), [], "nothing was allowed yet");
        let hidden = |name: &str| super::upstream::hidden(&html, name);
        let pairs = [("user_code", &*hidden("user_code")), ("shown", &*hidden("shown")), ("decision", "allow")];
        post(&server, &cookie, "/device/answer", &pairs).await.expect(status);
        assert_eq!(acts(&asked), [act("change", "app")]);
        let polled = server.token(&app, &[("grant_type", GRANT), ("device_code", code)]).await;
        if then == Outcome::Notify {
            polled.expect(200);
        } else {
            assert_eq!(polled.expect(400).json()["error"], "authorization_pending", "nobody has said yes");
        }
    }
}
