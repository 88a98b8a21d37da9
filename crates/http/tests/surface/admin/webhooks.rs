//! `/v1/admin/webhooks`: audit records as signed calls (Standard Webhooks 1.0), to receivers that behave and to others.
use http::Method;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::outbox::Message;
use portcullis_domain::webhook;
use portcullis_testkit::receiver::Request;
use portcullis_testkit::server::SignedIn;
use portcullis_testkit::{Answer, Options, Receiver, Reply, TestServer};
use portcullis_wire::{SecretBytes, Time, WebhookId, b64};
use serde_json::{Value, json};
use std::time::Duration;

const PATH: &str = "/v1/admin/webhooks";

struct World {
    server: TestServer,
    receiver: Receiver,
    admin: SignedIn,
}

impl World {
    async fn new(mut options: Options) -> Self {
        // The clock is put forward further than an administrator's token usually lives.
        options.settings.rules.access_ttl = 3_000_000;
        options.settings.rules.longest_ttl = 3_000_000;
        let server = TestServer::start(options).await;
        let admin = server.admin().await;
        Self { server, receiver: Receiver::start().await, admin }
    }

    async fn usual() -> Self {
        Self::new(Options::default()).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let call = self.server.client.call(method, path).bearer(&self.admin.access);
        match body {
            Some(body) => call.json(body).send().await,
            None => call.send().await,
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.expect(200).json()
    }

    async fn patch(&self, hook: &Hook, body: &Value) -> Value {
        self.call(Method::PATCH, &hook.path(""), Some(body)).await.expect(200).json()
    }

    async fn hook_at(&self, url: &str, events: &[&str]) -> Hook {
        // What was before has its place already, and is told to nobody who comes later.
        self.server.app.seal_all().await.unwrap();
        let made = self.call(Method::POST, PATH, Some(&json!({ "url": url, "events": events }))).await.expect(201);
        let (body, place) = (made.json(), made.header("location").to_owned());
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        assert_eq!(place, format!("{PATH}/{}", text("id")));
        Hook { id: text("id"), secret: text("secret") }
    }

    async fn hook(&self, events: &[&str]) -> Hook {
        self.hook_at(&format!("{}/hook?x=1", self.receiver.base), events).await
    }

    async fn messages(&self, hook: &Hook, query: &str) -> Vec<Value> {
        self.get(&hook.path(&format!("/messages{query}"))).await["messages"].as_array().unwrap().clone()
    }

    /// The newest message, once `fits`.
    async fn message(&self, hook: &Hook, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            if let Some(one) = self.messages(hook, "").await.first().filter(|one| fits(one)) {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", self.messages(hook, "").await);
    }

    /// All messages, once so many are there and done.
    async fn all_done(&self, hook: &Hook, count: usize) -> Vec<Value> {
        for _ in 0..1000 {
            let done = self.messages(hook, "?state=done").await;
            if done.len() >= count {
                assert_eq!(self.messages(hook, "").await.len(), count);
                return done;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?}", self.messages(hook, "").await);
    }

    /// What came, once it is so much; each signed with this secret.
    async fn told(&self, count: usize, secret: &str) -> Vec<Value> {
        self.receiver.wait_for(count).await;
        let all = self.receiver.requests();
        all.iter().map(|one| verified(one, secret)).collect()
    }
}

struct Hook {
    id: String,
    secret: String,
}

impl Hook {
    fn path(&self, rest: &str) -> String {
        format!("{PATH}/{}{rest}", self.id)
    }
}

fn key(secret: &str) -> SecretBytes {
    let text = secret.strip_prefix("whsec_").unwrap();
    let bytes = b64::decode(&text.trim_end_matches('=').replace('+', "-").replace('/', "_")).unwrap();
    assert_eq!(bytes.len(), 32);
    SecretBytes::new(bytes)
}

/// Whether one of the signatures of a call is by this secret, as a receiver looks.
fn is_signed(request: &Request, secret: &str) -> bool {
    let sent_at = Time::from_secs(request.header("webhook-timestamp").parse().unwrap());
    let wanted = webhook::signatures(&[key(secret)], request.header("webhook-id"), sent_at, &request.body);
    request.header("webhook-signature").split(' ').any(|one| one == wanted)
}

fn verified(request: &Request, secret: &str) -> Value {
    assert!(is_signed(request, secret), "{request:?}");
    assert!(request.head.starts_with("POST /hook?x=1 HTTP/1.1"), "{}", request.head);
    assert_eq!(request.header("content-type"), "application/json");
    let body: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    if body["type"] != webhook::TEST {
        assert_eq!(body["data"]["id"], request.header("webhook-id"));
        assert_eq!((&body["data"]["kind"], &body["data"]["at"]), (&body["type"], &body["timestamp"]));
    }
    body
}

#[tokio::test]
async fn records_are_told_and_signed() {
    let world = World::usual().await;
    let hook = world.hook(&["account.*", "session.ended"]).await;
    let account = world.server.sign_up("ada@example.test").await;
    let ada = world.server.sign_in("ada@example.test").await;
    world.call(Method::DELETE, &format!("/v1/admin/sessions/{}", ada.sid), None).await.expect(200);
    // Calls may come in another order than their records have.
    let mut told = world.told(2, &hook.secret).await;
    told.sort_by_key(|one| one["data"]["place"].as_u64());
    let kinds: Vec<&str> = told.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["account.created", "session.ended"], "what it did not ask for it is not told of");
    assert_eq!(told[0]["data"]["account_id"], *account);
    // As everybody else is shown it.
    let listed = world.get("/v1/admin/events?kind=session.ended").await["events"][0].clone();
    assert_eq!(told[1]["data"], listed);
    let done = world.all_done(&hook, 2).await;
    let about = done.iter().find(|one| one["event_id"] == listed["id"]).expect("a message about that record");
    assert_eq!((&about["kind"], &about["webhook_id"]), (&json!("webhook"), &json!(hook.id)));
    assert_eq!(about["client_id"], Value::Null);
    let shown = world.get(&hook.path("")).await;
    assert!(shown["place"].as_u64().unwrap() >= listed["place"].as_u64().unwrap(), "{shown}");
    assert_eq!((&shown["waiting"], &shown["enabled"]), (&json!(0), &json!(true)));
    // Its secret is shown once, and a repeated call makes no second one.
    let all = world.get(PATH).await;
    assert!(all["webhooks"].as_array().unwrap().len() == 1 && !all.to_string().contains("whsec_"), "{all}");
    let body = json!({ "url": "https://a.example/", "events": ["*"], "enabled": false });
    let again =
        || world.server.client.post(PATH).bearer(&world.admin.access).header("idempotency-key", "k").json(&body);
    let (one, two) = (again().send().await.expect(201).json(), again().send().await.expect(201).json());
    assert!(one["id"] == two["id"] && one["secret"].is_string() && two.get("secret").is_none(), "{two}");
}

#[tokio::test]
async fn it_is_tried_changed_and_deleted() {
    let world = World::usual().await;
    let hook = world.hook(&["account.created"]).await;
    let sent = world.call(Method::POST, &hook.path("/test"), None).await.expect(202).json();
    let told = world.told(1, &hook.secret).await;
    assert_eq!((&told[0]["type"], &told[0]["data"]["webhook_id"]), (&json!("webhook.test"), &json!(hook.id)));
    assert_eq!(world.receiver.requests()[0].header("webhook-id"), sent["id"]);
    let off = world.patch(&hook, &json!({ "enabled": false, "description": "the desk" })).await;
    assert_eq!((&off["enabled"], &off["description"]), (&json!(false), &json!("the desk")));
    world.call(Method::POST, &hook.path("/test"), None).await.expect_problem("conflict");
    // While it is off nothing is called; afterwards it is told of what it was not told.
    world.server.sign_up("ada@example.test").await;
    world.server.app.seal_all().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(world.receiver.requests().len(), 1);
    assert!(world.get(&hook.path("")).await["behind"].as_u64().unwrap() > 0);
    let on = world.patch(&hook, &json!({ "enabled": true, "description": null })).await;
    assert_eq!((&on["enabled"], &on["description"]), (&json!(true), &Value::Null));
    assert_eq!(world.told(2, &hook.secret).await[1]["type"], "account.created");
    // Its acts are recorded, and name it.
    let events = world.get("/v1/admin/events?limit=200").await;
    let of_it = events["events"].as_array().unwrap().iter().filter(|one| one["reason"] == *hook.id);
    let kinds: Vec<_> = of_it.map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["webhook.enabled", "webhook.disabled", "webhook.created"]);
    world.call(Method::DELETE, &hook.path(""), None).await.expect(204);
    for (method, rest) in [("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/messages"), ("POST", "/secret")] {
        world.call(method.parse().unwrap(), &hook.path(rest), None).await.expect(404);
    }
    world.server.sign_up("bob@example.test").await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(world.receiver.requests().len(), 2);
}

#[tokio::test]
async fn what_is_asked_for_must_be_right() {
    let world = World::usual().await;
    for (body, field) in [
        (json!({ "url": "http://a.example/", "events": ["*"] }), "url"),
        (json!({ "url": "https://u@a.example/", "events": ["*"] }), "url"),
        (json!({ "url": "https://a.example/", "events": [] }), "events"),
        (json!({ "url": "https://a.example/", "events": ["account"] }), "events"),
        (json!({ "url": "https://a.example/", "events": ["*"], "description": "" }), "description"),
    ] {
        let problem = world.call(Method::POST, PATH, Some(&body)).await.expect_problem("invalid_value").json();
        assert_eq!(problem["field"], field, "{body}");
    }
    let unknown = json!({ "url": "https://a.example/", "events": ["*"], "secret": "whsec_x" });
    world.call(Method::POST, PATH, Some(&unknown)).await.expect_problem("malformed");
    let hook = world.hook(&["*"]).await;
    for (path, body, field) in [
        ("", json!({ "url": "https://a.example/#x" }), "url"),
        ("/replay", json!({ "after": -1 }), "after"),
        ("/replay", json!({ "after": "yesterday" }), "after"),
        ("/secret", json!({ "overlap_s": 999_999_999 }), "overlap_s"),
    ] {
        let method = if path.is_empty() { Method::PATCH } else { Method::POST };
        let problem = world.call(method, &hook.path(path), Some(&body)).await.expect_problem("invalid_value").json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let problem = world.call(Method::GET, &hook.path("/messages?state=lost"), None).await;
    problem.expect_problem("invalid_value");
}

#[tokio::test]
async fn an_old_secret_signs_beside_the_new_one_for_a_while() {
    let world = World::usual().await;
    let hook = world.hook(&["account.created"]).await;
    let rotate = |overlap| {
        let body = json!({ "overlap_s": overlap });
        let world = &world;
        let path = hook.path("/secret");
        async move { world.call(Method::POST, &path, Some(&body)).await }
    };
    let made = rotate(60).await.expect(200).json();
    let second = made["secret"].as_str().unwrap();
    assert!(second != hook.secret && made["old_secret_until"].is_string());
    world.server.sign_up("a@example.test").await;
    world.told(1, &hook.secret).await;
    world.told(1, second).await;
    // Who lost the answer asks again: the secret that a receiver still checks by must not be lost with it.
    rotate(60).await.expect_problem("conflict");
    world.server.advance(61_000);
    world.server.sign_up("b@example.test").await;
    world.receiver.wait_for(2).await;
    let last = world.receiver.requests().pop().unwrap();
    assert!(is_signed(&last, second) && !is_signed(&last, &hook.secret));
    let third = rotate(0).await.expect(200).json();
    world.server.sign_up("c@example.test").await;
    world.receiver.wait_for(3).await;
    let last = world.receiver.requests().pop().unwrap();
    assert!(is_signed(&last, third["secret"].as_str().unwrap()) && !is_signed(&last, second));
}

/// 500, a redirect, one that asks for time: each is tried again with the same id, and no redirect is followed.
#[tokio::test]
async fn what_is_no_success_is_tried_again() {
    let world = World::usual().await;
    let elsewhere = Receiver::start().await;
    let busy = Reply::With(429, "Retry-After: 1800");
    world.receiver.reply([
        Reply::Status(500),
        Reply::Redirect(format!("{}/", elsewhere.base)),
        busy,
        Reply::Status(204),
    ]);
    let hook = world.hook(&["account.created"]).await;
    world.server.sign_up("ada@example.test").await;
    for (tries, error) in [(1, "answered 500"), (2, "answered 307; redirects are not followed")] {
        world.message(&hook, |one| one["tries"] == tries && one["last_error"] == error).await;
        world.server.advance(130_000);
    }
    let waits = world.message(&hook, |one| one["last_error"] == "answered 429").await;
    let next: Time = waits["next_at"].as_str().unwrap().parse().unwrap();
    let wait = next.since(world.server.app.now());
    assert!((1_700_000..=1_800_000).contains(&wait), "{wait}");
    world.server.advance(1_900_000);
    world.message(&hook, |one| one["state"] == "done" && one["tries"] == 4).await;
    world.told(4, &hook.secret).await;
    let calls = world.receiver.requests();
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    let times: std::collections::BTreeSet<_> =
        calls.iter().map(|one| one.header("webhook-timestamp").to_owned()).collect();
    assert_eq!((ids.len(), times.len(), elsewhere.requests().len()), (1, 4, 0));
}

#[tokio::test]
async fn one_that_wants_no_more_is_switched_off() {
    let world = World::usual().await;
    let hook = world.hook(&["account.created"]).await;
    world.receiver.reply([Reply::Status(410)]);
    world.server.sign_up("ada@example.test").await;
    let dead = world.message(&hook, |one| one["state"] == "dead").await;
    assert!(dead["last_error"].as_str().unwrap().contains("410"), "{dead}");
    let shown = world.get(&hook.path("")).await;
    assert_eq!(
        (&shown["enabled"], &shown["disabled_why"]),
        (&json!(false), &json!("it answered 410: it wants no more"))
    );
    let record = world.get("/v1/admin/events?kind=webhook.disabled").await["events"][0].clone();
    assert!(record["actor"] == "system" && record["reason"].as_str().unwrap().starts_with(&hook.id), "{record}");
    // It is seen among the dead, and tried again once somebody has switched it on and says so.
    assert_eq!(world.messages(&hook, "?state=dead").await.len(), 1);
    let on = world.patch(&hook, &json!({ "enabled": true })).await;
    assert_eq!(on["disabled_why"], Value::Null);
    let retry = format!("/v1/admin/messages/{}/retry", dead["id"].as_str().unwrap());
    world.call(Method::POST, &retry, None).await.expect(200);
    world.message(&hook, |one| one["state"] == "done").await;
    assert_eq!(world.receiver.requests().len(), 2);
}

/// One that is dead and one that is slow, beside one that is quick: that one is told at once.
#[tokio::test]
async fn dead_and_slow_ones_hold_up_nobody() {
    let world = World::usual().await;
    let (mut dead, slow) = (Receiver::start().await, Receiver::start().await);
    dead.stop().await;
    slow.slow(Duration::from_secs(4));
    world.hook_at(&format!("{}/", dead.base), &["*"]).await;
    world.hook_at(&format!("{}/", slow.base), &["*"]).await;
    let quick = world.hook(&["account.created"]).await;
    for n in 0..20 {
        world.server.sign_up(&format!("p{n}@example.test")).await;
    }
    let begun = tokio::time::Instant::now();
    world.told(20, &quick.secret).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(slow.most_at_once() <= 4);
}

/// As many messages wait for one as may, and not one more, however many ask at once.
#[tokio::test]
async fn a_test_is_one_of_those_that_may_wait() {
    let mut world = World::usual().await;
    let hook = world.hook(&["account.created"]).await;
    world.receiver.stop().await;
    let id: WebhookId = hook.id.parse().unwrap();
    let now = world.server.app.now();
    let steps = (1..webhook::MOST_WAITING).map(|_| {
        let message = webhook::message(id, None, now, &mut portcullis_app::real::RealChance);
        Change::InsertMessage(Message { next_at: now.plus(3_600_000), give_up_at: now.plus(7_200_000), ..message })
    });
    let changes = Changes { steps: steps.collect(), ..Changes::default() };
    world.server.app.store().commit(changes).await.unwrap();
    let path = hook.path("/test");
    let answers = futures_util::future::join_all((0..6).map(|_| world.call(Method::POST, &path, None))).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(202), count(409)), (1, 5), "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    let shown = world.get(&hook.path("")).await;
    assert_eq!(shown["waiting"], webhook::MOST_WAITING);
    let refused = world.call(Method::POST, &path, None).await.expect_problem("conflict").json();
    assert!(refused["detail"].as_str().unwrap().contains("1000 messages wait"), "{refused}");
}

#[tokio::test]
async fn private_addresses_are_not_called() {
    let mut options = Options::default();
    options.settings.outgoing = portcullis_app::Allowed::nothing().into();
    let world = World::new(options).await;
    let hook = world.hook(&["account.created"]).await;
    world.server.sign_up("ada@example.test").await;
    let failed = world.message(&hook, |one| one["last_error"].is_string()).await;
    assert!(failed["last_error"].as_str().unwrap().contains("no public address"), "{failed}");
    assert_eq!(world.receiver.requests().len(), 0);
}

/// Told again from a place or a time on: the same records, by the same ids.
#[tokio::test]
async fn it_is_told_again() {
    let world = World::usual().await;
    let hook = world.hook(&["account.created"]).await;
    let mut at = Time(0);
    for n in 0..4 {
        if n == 2 {
            world.server.advance(60_000);
            at = world.server.app.now();
        }
        world.server.sign_up(&format!("p{n}@example.test")).await;
    }
    // Calls may come in another order than the records have.
    let mut told = world.told(4, &hook.secret).await;
    told.sort_by_key(|one| one["data"]["place"].as_u64());
    let first: Vec<String> = told.iter().map(|one| one["data"]["id"].as_str().unwrap().to_owned()).collect();
    let ids = |from: usize| -> Vec<String> {
        world.receiver.requests()[from..].iter().map(|one| one.header("webhook-id").to_owned()).collect()
    };
    let replay = |after: Value| {
        let (world, path) = (&world, hook.path("/replay"));
        async move { world.call(Method::POST, &path, Some(&json!({ "after": after }))).await.expect(202).json() }
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let place = told[0]["data"]["place"].clone();
    assert_eq!(replay(place.clone()).await["place"], place);
    world.told(7, &hook.secret).await;
    assert_eq!(sorted(ids(4)), sorted(first[1..].to_vec()));
    replay(json!(at.to_string())).await;
    world.told(9, &hook.secret).await;
    assert_eq!(sorted(ids(7)), sorted(first[2..].to_vec()), "from that time on");
    // Beyond the end is the end.
    let end = replay(json!(1_000_000)).await;
    assert_eq!(end["behind"], 0);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(world.receiver.requests().len(), 9);
    let recorded = world.get("/v1/admin/events?kind=webhook.replayed").await;
    assert_eq!(recorded["events"].as_array().unwrap().len(), 3);
}

/// What is sent is the record as it is when it is sent: of somebody who was deleted meanwhile no address and no reason.
#[tokio::test]
async fn what_was_erased_is_not_sent() {
    let mut world = World::usual().await;
    world.receiver.stop().await;
    let hook = world.hook(&["session.started", "account.blocked"]).await;
    let account = world.server.sign_up("ada@example.test").await;
    world.server.sign_in("ada@example.test").await;
    let body = json!({ "reason": "owes us money" });
    world.call(Method::POST, &format!("/v1/admin/accounts/{account}/block"), Some(&body)).await.expect(200);
    world.message(&hook, |one| one["tries"].as_u64() > Some(0)).await;
    for _ in 0..500 {
        if world.messages(&hook, "").await.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = world.get("/v1/admin/events?kind=session.started&limit=1").await["events"][0].clone();
    assert!(before["ip"].is_string(), "{before}");
    world.call(Method::DELETE, &format!("/v1/admin/accounts/{account}"), None).await.expect(200);
    world.server.app.prune_all().await.unwrap();
    world.receiver.resume().await;
    world.server.advance(200_000);
    let told = world.told(2, &hook.secret).await;
    for one in &told {
        assert_eq!((&one["data"]["ip"], &one["data"]["reason"]), (&Value::Null, &Value::Null), "{one}");
        assert_eq!(one["data"]["account_id"], *account);
    }
    let messages = world.get("/v1/admin/messages").await.to_string();
    assert!(!messages.contains("owes us") && !messages.contains("127.0.0.1\""), "{messages}");
}
