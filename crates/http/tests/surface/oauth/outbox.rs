//! Back-channel logout (OpenID Connect Back-Channel Logout 1.0): whatever ends a session tells every client that had something
//! under it, sooner or later.
use portcullis_domain::outbox::{Message, MessageState};
use portcullis_testkit::application::encode;
use portcullis_testkit::receiver::{AUTHORITY, Shown};
use portcullis_testkit::server::{PASSWORD, SignedIn};
use portcullis_testkit::{Answer, Application, Options, Receiver, Reply, TestServer};
use portcullis_wire::jws::{Compact, Jwk};
use portcullis_wire::{MessageId, b64, json as strict};
use serde_json::{Value, json};
use std::time::Duration;

struct World {
    server: TestServer,
    receiver: Receiver,
    app: Application,
    admin: SignedIn,
    people: std::cell::Cell<u32>,
}

/// Somebody with a browser session, an application under it, and another sign-in to act from.
struct Person {
    email: String,
    account: String,
    cookie: String,
    sid: String,
    tokens: Value,
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(payload).unwrap()).unwrap()
}

impl World {
    async fn new(options: Options) -> Self {
        let server = TestServer::start(options).await;
        let receiver = Receiver::start().await;
        let app = server.application("confidential", registration(&receiver)).await;
        let admin = server.admin().await;
        Self { server, receiver, app, admin, people: std::cell::Cell::new(0) }
    }

    async fn person(&self) -> Person {
        self.person_with("openid").await
    }

    async fn person_with(&self, scope: &str) -> Person {
        self.people.set(self.people.get() + 1);
        let email = format!("p{}@example.test", self.people.get());
        let account = self.server.sign_up(&email).await;
        let cookie = self.server.page_sign_in(&email).await;
        let tokens = self.server.granted(&self.app, &cookie, scope).await;
        let sid = claims(&tokens["id_token"])["sid"].as_str().unwrap().to_owned();
        Person { email, account, cookie, sid, tokens }
    }

    fn admin(&self, method: http::Method, path: &str) -> portcullis_testkit::client::Call {
        self.server.client.call(method, path).bearer(&self.admin.access)
    }

    async fn page(&self, person: &Person, path: &str, form: &str) -> Answer {
        let call = self.server.client.post(path).header("origin", &self.server.issuer).form(form);
        call.header("cookie", format!("__Host-portcullis_session={}", person.cookie)).send().await
    }

    /// The logout token of the n-th call, verified as its receiver must (§2.6).
    async fn logout_token(&self, body: &str) -> Value {
        let token = body.strip_prefix("logout_token=").expect("a logout token");
        let jwks = self.server.client.get("/.well-known/jwks.json").send().await.expect(200).json();
        let keys: Vec<Jwk> = serde_json::from_value(jwks["keys"].clone()).unwrap();
        let parts = Compact::parse(token, "logout+jwt").unwrap();
        let known = portcullis_verify::Keys::parse(&keys);
        assert_eq!(known.verifies(parts.kid, parts.alg, parts.signing_input.as_bytes(), &parts.signature), Some(true));
        let claims: Value = strict::from_slice(&parts.payload).unwrap();
        assert_eq!((claims["iss"].as_str(), claims["aud"].as_str()), (Some(&*self.server.issuer), Some(&*self.app.id)));
        assert_eq!(claims["events"], json!({ "http://schemas.openid.net/event/backchannel-logout": {} }));
        assert!(claims["jti"].as_str().is_some_and(|jti| jti.len() > 20) && claims.get("nonce").is_none());
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!((1..=120).contains(&(exp - iat)));
        claims
    }

    /// That the application is told of exactly this one next, and of nobody else.
    async fn told(&self, person: &Person, door: &str, before: usize) {
        let bodies = self.receiver.wait_for(before + 1).await;
        assert_eq!(bodies.len(), before + 1, "{door}");
        let claims = self.logout_token(&bodies[before]).await;
        assert_eq!(
            (claims["sub"].as_str(), claims["sid"].as_str()),
            (Some(&*person.account), Some(&*person.sid)),
            "{door}"
        );
    }

    async fn messages(&self, query: &str) -> Vec<Value> {
        let call = self.admin(http::Method::GET, &format!("/v1/admin/messages{query}"));
        call.send().await.expect(200).json()["messages"].as_array().unwrap().clone()
    }

    /// The only message, once `fits`.
    async fn message(&self, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            let all = self.messages("").await;
            if let [one] = &all[..]
                && fits(one)
            {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.messages("").await);
    }
}

fn registration(receiver: &Receiver) -> Value {
    json!({ "backchannel_logout_uri": format!("{}/logout", receiver.base), "backchannel_logout_session_required": true })
}

/// Every door once, each on somebody of their own; everyone at the end.
#[tokio::test]
async fn every_door_tells() {
    let world = World::new(Options {
        config: Box::new(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]),
        ..Options::default()
    })
    .await;
    let client = &world.server.client;
    let mut told = 0;
    macro_rules! door {
        ($name:literal, $scope:literal, |$person:ident, $own:ident| $act:expr) => {{
            let $person = world.person_with($scope).await;
            let $own = world.server.sign_in(&$person.email).await;
            let _ = &$own;
            let answer: Answer = $act.await;
            assert!(answer.status.as_u16() < 400, "{}: {} {}", $name, answer.status, answer.text());
            world.told(&$person, $name, told).await;
            told += 1;
        }};
        ($name:literal, |$person:ident, $own:ident| $act:expr) => {
            door!($name, "openid", |$person, $own| $act)
        };
    }
    let session = |id: &str| format!("/v1/me/sessions/{id}");
    door!("sign-out", |p, _own| world.page(&p, "/sign-out", ""));
    door!("end one", |p, own| client.delete(session(&p.sid)).bearer(&own.access).send());
    door!("end others", |p, own| client.delete("/v1/me/sessions?except=current").bearer(&own.access).send());
    door!("end all", |_p, own| client.delete("/v1/me/sessions").bearer(&own.access).send());
    let changed = json!({ "current_password": PASSWORD, "new_password": "another good long password" });
    door!("password change", |_p, own| client.post("/v1/me/password").bearer(&own.access).json(&changed).send());
    door!("admin ends session", |p, _own| world
        .admin(http::Method::DELETE, &format!("/v1/admin/sessions/{}", p.sid))
        .send());
    door!("admin ends account", |p, _own| world
        .admin(http::Method::DELETE, &format!("/v1/admin/accounts/{}/sessions", p.account))
        .send());
    let reason = json!({ "reason": "a test" });
    door!("block", |p, _own| world
        .admin(http::Method::POST, &format!("/v1/admin/accounts/{}/block", p.account))
        .json(&reason)
        .send());
    door!("delete", |p, _own| world.admin(http::Method::DELETE, &format!("/v1/admin/accounts/{}", p.account)).send());
    door!("filter by account", |p, _own| world
        .admin(http::Method::POST, "/v1/admin/revocations")
        .json(&json!({ "filter": { "account_ids": [p.account] }, "reason": "a test" }))
        .send());
    // By a rule and a job, whose sessions are marked in commits of their own.
    door!("filter by account and age", |p, _own| world
        .admin(http::Method::POST, "/v1/admin/revocations")
        .json(&json!({
            "filter": { "account_ids": [p.account], "created_before": world.server.app.now().plus(1).to_string() },
            "reason": "a test",
        }))
        .send());
    let query = |p: &Person| encode(&[("id_token_hint", p.tokens["id_token"].as_str().unwrap())]);
    door!("RP logout", |p, _own| client
        .get(format!("/oauth2/logout?{}", query(&p)))
        .header("cookie", format!("__Host-portcullis_session={}", p.cookie))
        .send());
    // Of a grant under a session that goes on.
    let form = encode(&[("client", &world.app.id)]);
    door!("consent withdrawn", |p, _own| world.page(&p, "/account/apps/disconnect", &form));
    // A connected app's own session: the application gives it up itself.
    let basic = (&*world.app.id, &*world.app.secret);
    door!("connected app gives up", "openid offline_access", |p, _own| client
        .post("/oauth2/revoke")
        .basic(basic)
        .form(&encode(&[("token", p.tokens["refresh_token"].as_str().unwrap())]))
        .send());

    // A refresh token that comes back: theft ends the grant.
    let person = world.person().await;
    let first = person.tokens["refresh_token"].as_str().unwrap().to_owned();
    let second = world.server.refresh_for(&world.app, &first).await.expect(200).json();
    let second = second["refresh_token"].as_str().unwrap();
    world.server.refresh_for(&world.app, second).await.expect(200);
    world.server.advance(20_000);
    world.server.refresh_for(&world.app, &first).await.expect(400);
    world.told(&person, "replay", told).await;
    told += 1;

    // A code that is shown twice: what the first use gave ends.
    let email = "twice@example.test";
    let account = world.server.sign_up(email).await;
    let cookie = world.server.page_sign_in(email).await;
    let code = world.server.code(&world.app, &cookie, "openid").await;
    let tokens = world.server.redeem(&world.app, &code).await.expect(200).json();
    world.server.redeem(&world.app, &code).await.expect(400);
    let sid = claims(&tokens["id_token"])["sid"].as_str().unwrap().to_owned();
    let person = Person { email: email.into(), account, cookie, sid, tokens };
    world.told(&person, "code replay", told).await;
    told += 1;

    // What a client gives up itself under a session that goes on, it knows; and nobody is told twice.
    let person = world.person().await;
    let form = encode(&[("token", person.tokens["refresh_token"].as_str().unwrap())]);
    client.post("/oauth2/revoke").basic(basic).form(&form).send().await.expect(200);
    let call = world.admin(http::Method::POST, "/v1/admin/revocations");
    let last = world.person().await;
    let everyone = json!({ "everyone": true, "reason": "a test", "except": world.admin.sid });
    call.json(&everyone).send().await.expect(200);
    // Those who have a living grant still: the last one alone, and whose sessions went on after a grant ended have none.
    world.told(&last, "everyone", told).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.receiver.bodies().len(), told + 1, "nobody is told twice");
}

/// A sign-in beyond the limit ends the oldest session. A client that is switched off is told nothing any more.
#[tokio::test]
async fn the_session_limit_tells_and_a_client_that_is_off_hears_nothing() {
    let mut options = Options::default();
    let at_limit = portcullis_domain::session_limit::AtLimit::EndOldest;
    options.settings.policy.session_limit = Some(portcullis_domain::session_limit::SessionLimit { most: 2, at_limit });
    let world = World::new(options).await;
    let person = world.person().await;
    world.server.advance(1_000);
    for _ in 0..2 {
        world.server.sign_in(&person.email).await;
    }
    world.told(&person, "session limit", 0).await;
    world.person().await;
    let path = format!("/v1/admin/clients/{}", world.app.id);
    let call = world.admin(http::Method::PATCH, &path).json(&json!({ "disabled": true }));
    call.send().await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((world.receiver.bodies().len(), world.messages("").await.len()), (1, 1));
}

#[tokio::test]
async fn a_receiver_that_was_down_hears_of_it_later() {
    let mut world = World::new(Options::default()).await;
    world.receiver.stop().await;
    let person = world.person().await;
    world.page(&person, "/sign-out", "").await.expect(303);
    let failed = world.message(|one| one["tries"] == 1 && one["last_error"].is_string()).await;
    assert_eq!((failed["state"].as_str(), failed["client_id"].as_str()), (Some("waiting"), Some(&*world.app.id)));
    assert_eq!(
        (failed["session_id"].as_str(), failed["account_id"].as_str()),
        (Some(&*person.sid), Some(&*person.account))
    );
    assert_eq!(world.messages("?state=dead").await.len(), 0);
    assert_eq!(world.messages(&format!("?state=waiting&client_id={}", world.app.id)).await.len(), 1);
    world.admin(http::Method::GET, "/v1/admin/messages?state=lost").send().await.expect_problem("invalid_value");
    world.receiver.resume().await;
    world.server.advance(70_000);
    world.told(&person, "down", 0).await;
    let done = world.message(|one| one["state"] == "done").await;
    assert_eq!((done["tries"].as_u64(), done["last_error"].as_str()), (Some(2), None));
    assert!(done["settled_at"].is_string() && done["next_at"].is_null());
    // An administrator cannot repeat what was taken; what is not there is not found.
    let id = done["id"].as_str().unwrap();
    let retry = |id: &str| world.admin(http::Method::POST, &format!("/v1/admin/messages/{id}/retry"));
    retry(id).send().await.expect_problem("conflict");
    retry("msg_00000000000000000000000000").send().await.expect(404);
    // Nobody else may look, or try.
    let nobody = world.server.sign_in(&world.person().await.email).await;
    let path = format!("/v1/admin/messages/{id}/retry");
    world.server.client.post(&path).bearer(&nobody.access).send().await.expect(403);
    world.server.client.get("/v1/admin/messages").bearer(&nobody.access).send().await.expect(403);
}

/// Tried again because somebody says so, and written down who did.
#[tokio::test]
async fn a_message_is_tried_again_on_request() {
    let world = World::new(Options::default()).await;
    world.receiver.reply([Reply::Status(503)]);
    let person = world.person().await;
    world.page(&person, "/sign-out", "").await.expect(303);
    let failed = world.message(|one| one["last_error"] == "answered 503").await;
    let id = failed["id"].as_str().unwrap();
    let again =
        world.admin(http::Method::POST, &format!("/v1/admin/messages/{id}/retry")).send().await.expect(200).json();
    assert_eq!((again["state"].as_str(), again["tries"].as_u64()), (Some("waiting"), Some(0)));
    world.message(|one| one["state"] == "done" && one["tries"] == 1).await;
    let events =
        world.admin(http::Method::GET, "/v1/admin/events?kind=message.retried").send().await.expect(200).json();
    assert_eq!(
        (events["events"][0]["reason"].as_str(), events["events"][0]["client_id"].as_str()),
        (Some(id), Some(&*world.app.id))
    );
}

/// 500, a redirect, no answer in time: each is tried again, and no redirect is followed.
#[tokio::test]
async fn what_is_no_success_is_tried_again() {
    // The clock is put forward further than an administrator's token lives.
    let mut options = Options::default();
    options.settings.rules.access_ttl = 900_000;
    options.settings.rules.longest_ttl = 900_000;
    let world = World::new(options).await;
    let elsewhere = Receiver::start().await;
    world.receiver.reply([Reply::Status(500), Reply::Redirect(format!("{}/", elsewhere.base)), Reply::Status(204)]);
    let person = world.person().await;
    world.page(&person, "/sign-out", "").await.expect(303);
    for (tries, error) in [(1, "answered 500"), (2, "answered 307")] {
        let failed = world.message(|one| one["tries"] == tries && one["last_error"] == error).await;
        assert_eq!(failed["state"], "waiting");
        world.server.advance(130_000);
    }
    world.message(|one| one["state"] == "done" && one["tries"] == 3).await;
    assert_eq!((world.receiver.bodies().len(), elsewhere.bodies().len()), (3, 0));
    // Each try with a token of its own, that has not expired in the queue; and a receiver sees that they say the same.
    let (mut made, mut ids) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for body in world.receiver.bodies() {
        let claims = world.logout_token(&body).await;
        made.insert(claims["iat"].as_i64());
        ids.insert(claims["jti"].to_string());
    }
    assert_eq!((made.len(), ids.len()), (3, 1));
}

#[tokio::test]
async fn a_slow_receiver_is_cut_off_and_holds_nobody_up() {
    let world = World::new(Options::default()).await;
    world.receiver.reply([Reply::Late(Duration::from_secs(60))]);
    let slow = world.person().await;
    world.page(&slow, "/sign-out", "").await.expect(303);
    world.receiver.wait_for(1).await;
    // Another application meanwhile.
    let quick = Receiver::start().await;
    let app = world.server.application("confidential", registration(&quick)).await;
    let cookie = world.server.page_sign_in(&slow.email).await;
    world.server.granted(&app, &cookie, "openid").await;
    let other = Person { cookie, ..world.person().await };
    world.page(&other, "/sign-out", "").await.expect(303);
    quick.wait_for(1).await;
    let failed = |one: &Value| one["last_error"] == "no answer in time";
    for _ in 0..3000 {
        if world.messages(&format!("?client_id={}", world.app.id)).await.iter().any(failed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", world.messages("").await);
}

/// What is tried for a day and not taken is given up; whoever looks after the server can have it tried again.
#[tokio::test]
async fn what_is_given_up_can_be_tried_again() {
    let mut world = World::new(Options::default()).await;
    world.receiver.stop().await;
    let person = world.person().await;
    world.page(&person, "/sign-out", "").await.expect(303);
    let id = world.message(|one| one["tries"] == 1 && one["last_error"].is_string()).await;
    let id = id["id"].as_str().unwrap().parse().unwrap();
    // No token outlives that, so the rest is seen from inside.
    world.server.advance(25 * 3_600_000);
    let app = world.server.app.clone();
    let dead = until(&app, id, MessageState::Dead).await;
    assert!(dead.settled_at.is_some() && dead.last_error.is_some());
    world.receiver.resume().await;
    let again = app.admin_retry_message(&portcullis_app::Admin::operator(), id).await.unwrap();
    assert_eq!((again.state, again.tries), (MessageState::Waiting, 0));
    // The client is left alone for a while after failures; then it comes.
    world.server.advance(61_000);
    world.receiver.wait_for(1).await;
    assert_eq!(until(&app, id, MessageState::Done).await.tries, 1);
}

async fn until(app: &portcullis_app::App, id: MessageId, state: MessageState) -> Message {
    for _ in 0..3000 {
        let row = app.store().load_message(id).await.unwrap().unwrap();
        if row.state == state {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not become {state:?}");
}

/// Back-Channel §2.3, §2.7: an application that keeps its access is told of the end of the browser's session in which it was allowed, by
/// the `sid` of its own ID tokens, and its access goes on. Of the end of everything it is told once.
#[tokio::test]
async fn an_application_that_keeps_its_access_hears_of_the_sign_out() {
    let world = World::new(Options::default()).await;
    let person = world.person_with("openid offline_access").await;
    world.page(&person, "/sign-out", "").await;
    world.told(&person, "signed out", 0).await;
    let again = [("grant_type", "refresh_token"), ("refresh_token", person.tokens["refresh_token"].as_str().unwrap())];
    world.server.token(&world.app, &again).await.expect(200);
    // Another browser of theirs is none that it was allowed in.
    let other = world.server.page_sign_in(&person.email).await;
    let other = Person {
        cookie: other,
        email: person.email.clone(),
        account: person.account.clone(),
        sid: String::new(),
        tokens: Value::Null,
    };
    world.page(&other, "/sign-out", "").await;
    let own = world.server.sign_in(&person.email).await;
    world.server.client.delete("/v1/me/sessions").bearer(&own.access).send().await.expect(200);
    world.told(&person, "everything", 1).await;
    let person = world.person_with("openid offline_access").await;
    let own = world.server.sign_in(&person.email).await;
    world.server.client.delete("/v1/me/sessions").bearer(&own.access).send().await.expect(200);
    world.told(&person, "everything at once", 2).await;
    // It has given up its own session before: it knows.
    let person = world.person_with("openid offline_access").await;
    let token = encode(&[("token", person.tokens["refresh_token"].as_str().unwrap())]);
    let call = world.server.client.post("/oauth2/revoke").basic((&world.app.id, &world.app.secret)).form(&token);
    call.send().await.expect(200);
    world.told(&person, "given up", 3).await;
    world.page(&person, "/sign-out", "").await;
    let last = world.person().await;
    world.page(&last, "/sign-out", "").await;
    world.told(&last, "after all that", 4).await;
}

/// A node that died between claim and answer: nobody else sends it until the claim lapses, and then somebody does.
#[tokio::test]
async fn a_dead_nodes_claim_lapses() {
    let world = World::new(Options::default()).await;
    let person = world.person().await;
    // Another node has claimed it, and is gone.
    let session = person.sid.parse().unwrap();
    let view = world.server.app.store().load_session(session).await.unwrap().unwrap();
    let client = world.app.id.parse().unwrap();
    let now = world.server.app.now();
    let (account, chance) = (view.session.account, &mut portcullis_app::real::RealChance);
    let fresh = portcullis_domain::outbox::logout(client, account, session, now, chance);
    let claimed = portcullis_domain::outbox::Message { version: 1, ..fresh.claimed(now) };
    let changes = portcullis_domain::Changes {
        steps: vec![portcullis_domain::Change::InsertMessage(claimed)],
        ..Default::default()
    };
    world.server.app.store().commit(changes).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.receiver.bodies().len(), 0, "it is claimed");
    world.server.advance(portcullis_domain::outbox::CLAIM + 1_000);
    world.told(&person, "claim", 0).await;
    world.message(|one| one["state"] == "done" && one["tries"] == 2).await;
}

/// Hundreds at once: all are told, few at a time.
#[tokio::test]
async fn many_are_told_few_at_a_time() {
    const SESSIONS: usize = 120;
    let world = World::new(Options::default()).await;
    let person = world.person().await;
    for _ in 1..SESSIONS {
        let cookie = world.server.page_sign_in(&person.email).await;
        world.server.granted(&world.app, &cookie, "openid").await;
    }
    world.receiver.slow(Duration::from_millis(20));
    let everyone = json!({ "everyone": true, "reason": "a test", "except": world.admin.sid });
    world.admin(http::Method::POST, "/v1/admin/revocations").json(&everyone).send().await.expect(200);
    let bodies = world.receiver.wait_for(SESSIONS).await;
    let sids: std::collections::BTreeSet<String> = bodies
        .iter()
        .map(|body| claims(&Value::from(body.trim_start_matches("logout_token=")))["sid"].to_string())
        .collect();
    assert_eq!((bodies.len(), sids.len()), (SESSIONS, SESSIONS));
    assert!((1..=4).contains(&world.receiver.most_at_once()), "{}", world.receiver.most_at_once());
    let metrics = world.server.client.get("/metrics").send().await.expect(200).text();
    assert!(metrics.contains("portcullis_messages_sent_total 1"), "{metrics}");
}

/// By HTTPS: a private authority counts when it is named. What is wrong with a certificate is told to administrators, and nothing
/// was said to whoever showed it.
#[tokio::test]
async fn a_certificate_must_hold_and_a_private_authority_is_named() {
    let trusting = portcullis_app::Authorities::from_pem(AUTHORITY).unwrap();
    let untold = portcullis_app::Authorities::none();
    for (authorities, shown, why) in [
        (&trusting, Shown::Right, None),
        (&trusting, Shown::WrongName, Some("its certificate was refused: it is for another host")),
        (&trusting, Shown::Expired, Some("its certificate was refused: it has expired")),
        (&trusting, Shown::Unknown, Some("its certificate was refused: nobody that is trusted issued it")),
        (&untold, Shown::Right, Some("its certificate was refused: nobody that is trusted issued it")),
    ] {
        let mut options = Options::default();
        options.settings.outgoing_ca = authorities.clone();
        let world = World::new(options).await;
        let receiver = Receiver::start_tls(shown).await;
        let patch = json!({ "backchannel_logout_uri": format!("{}/logout", receiver.base) });
        let at = format!("/v1/admin/clients/{}", world.app.id);
        world.admin(http::Method::PATCH, &at).json(&patch).send().await.expect(200);
        let person = world.person().await;
        world.page(&person, "/sign-out", "").await.expect(303);
        let message = world.message(|one| one["state"] == "done" || one["last_error"].is_string()).await;
        match why {
            None => {
                assert_eq!(message["state"], "done", "{message}");
                let claims = world.logout_token(&receiver.bodies()[0]).await;
                assert_eq!(claims["sid"], person.sid);
            }
            Some(why) => {
                let said = message["last_error"].as_str().unwrap();
                assert!(message["state"] == "waiting" && said.starts_with(why), "{shown:?}: {message}");
                assert_eq!(receiver.bodies().len(), 0, "{shown:?}");
            }
        }
    }
}

/// An address that is not public is not called, whatever is registered.
#[tokio::test]
async fn private_addresses_are_not_called() {
    let mut options = Options::default();
    options.settings.outgoing = portcullis_app::Allowed::nothing().into();
    let world = World::new(options).await;
    let person = world.person().await;
    world.page(&person, "/sign-out", "").await.expect(303);
    let refused = world.message(|one| one["last_error"].is_string()).await;
    assert!(refused["last_error"].as_str().unwrap().contains("127.0.0.1 is no public address"), "{refused}");
    assert_eq!(world.receiver.bodies().len(), 0);
}

/// One receiver that is down, and more messages for it than may wait: everybody else goes on hearing of what ends, and what waits is
/// given up when its time is over, tried or not.
#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_nobody() {
    const PEOPLE: usize = 8;
    let mut options = Options::default();
    options.settings.queues = portcullis_domain::receivers::QueueLimits { each: 2, all: 1_000, held_up: 60_000 };
    let mut world = World::new(options).await;
    let quick = Receiver::start().await;
    let healthy = world.server.application("confidential", registration(&quick)).await;
    world.receiver.stop().await;
    let mut people = vec![];
    for _ in 0..PEOPLE {
        let person = world.person().await;
        world.server.granted(&healthy, &person.cookie, "openid").await;
        people.push(person);
    }
    // One by one: twice as many as usual may wait.
    for (n, person) in people.iter().take(6).enumerate() {
        world.page(person, "/sign-out", "").await.expect(303);
        quick.wait_for(n + 1).await;
    }
    let of = |state: &str| format!("?client_id={}&state={state}", world.app.id);
    assert_eq!(world.messages(&of("waiting")).await.len(), 4);
    let dead = world.messages(&of("dead")).await;
    assert_eq!(dead.len(), 2);
    assert!(dead.iter().all(|one| one["last_error"] == "too many were waiting for this client" && one["tries"] == 0));
    // Of many at once: nobody waits longer than a minute for a client that takes nothing.
    let everyone = json!({ "everyone": true, "reason": "a test", "except": world.admin.sid });
    world.admin(http::Method::POST, "/v1/admin/revocations").json(&everyone).send().await.expect(200);
    world.server.advance(61_000);
    quick.wait_for(PEOPLE).await;
    assert_eq!((world.messages(&of("waiting")).await.len(), world.messages(&of("dead")).await.len()), (4, 4));
    // A day later nothing of it waits, although no more than a few can have been tried.
    world.server.advance(25 * 3_600_000);
    let (store, client) = (world.server.app.store(), world.app.id.parse().unwrap());
    for _ in 0..3000 {
        if store.read_queue(client).await.unwrap().waiting == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", store.read_queue(client).await.unwrap());
}

/// Receivers that answer just in time, each with a backlog: who is quick does not wait behind them.
#[tokio::test]
async fn slow_receivers_that_answer_hold_up_nobody() {
    const SLOW: usize = 6;
    let world = World::new(Options::default()).await;
    let (mut slow, mut apps) = (vec![], vec![]);
    for _ in 0..SLOW {
        let receiver = Receiver::start().await;
        receiver.slow(Duration::from_millis(4_000));
        apps.push(world.server.application("confidential", registration(&receiver)).await);
        slow.push(receiver);
    }
    let sign_in = |email: String| {
        let (world, apps) = (&world, &apps);
        async move {
            let cookie = world.server.page_sign_in(&email).await;
            for app in apps {
                world.server.granted(app, &cookie, "openid").await;
            }
        }
    };
    let person = world.person().await;
    for _ in 0..4 {
        sign_in(person.email.clone()).await;
    }
    let everyone = json!({ "everyone": true, "reason": "a test", "except": world.admin.sid });
    world.admin(http::Method::POST, "/v1/admin/revocations").json(&everyone).send().await.expect(200);
    for receiver in &slow[..1] {
        receiver.wait_for(1).await;
    }
    let before = world.receiver.wait_for(1).await.len();
    // By now each of them is known to be slow; their backlogs are older than what comes.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let told = async {
        for n in 0..3 {
            let late = world.person().await;
            world.page(&late, "/sign-out", "").await.expect(303);
            world.receiver.wait_for(before + n + 1).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("who is quick does not wait");
    let at_once: usize = slow.iter().map(Receiver::most_at_once).max().unwrap();
    assert_eq!(at_once, 1, "one call to each that is slow");
}
