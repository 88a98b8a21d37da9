//! `POST /v1/feed/sightings`: where services saw access tokens; hostile until parsed, and bounded in what it does.
use crate::one_rule::{Asked, rule_about};
use portcullis_domain::amr::Amr;
use portcullis_domain::model::UNPROVEN;
use portcullis_domain::risk::{Outcome, Signals};
use portcullis_domain::{Change, Changes};
use portcullis_rules::Policy;
use portcullis_testkit::{Answer, Options, SignedIn, TestServer};
use serde_json::{Value, json};

const ADA: &str = "ada@example.test";
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";

struct World {
    server: TestServer,
    client: (String, String),
    hello: Value,
    ada: SignedIn,
    session: String,
    _feed: portcullis_testkit::Events,
}

impl World {
    /// Ada has signed in at 203.0.113.77, and a verifier follows the feed.
    async fn new() -> Self {
        let server = TestServer::behind_a_proxy(Options::default()).await;
        server.sign_up(ADA).await;
        let client = server.new_client("verifier").await;
        let mut feed = server.client.get("/v1/feed").basic((&client.0, &client.1)).events().await;
        let hello = feed.next_named("hello").await.data;
        // What signs in is remembered only where rules are asked.
        rule(&server, |_| false, Outcome::Notify);
        let ada = server.sign_in(ADA).await;
        let list = server.client.get("/v1/me/sessions").bearer(&ada.access).send().await.expect(200).json();
        let session = list["sessions"][0]["id"].as_str().unwrap().to_owned();
        Self { server, client, hello, ada, session, _feed: feed }
    }

    async fn tell(&self, sightings: Value) -> Answer {
        let (instance, secret) = (&self.hello["instance"], &self.hello["instance_secret"]);
        let body = json!({ "instance": instance, "instance_secret": secret, "sightings": sightings });
        let call = self.server.client.post("/v1/feed/sightings").basic((&self.client.0, &self.client.1));
        call.json(&body).send().await
    }

    /// The session was seen there.
    async fn seen(&self, network: &str) {
        let one = json!({ "session": self.session, "ago_ms": 10, "network": network });
        assert_eq!(self.tell(json!([one])).await.expect(200).json(), json!({ "taken": 1 }));
    }

    async fn lives(&self) -> bool {
        self.server.client.get("/v1/me").bearer(&self.ada.access).send().await.status == 200
    }

    async fn memory(&self) -> (u32, String) {
        let view = self.server.app.store().load_risk(self.ada.account.parse().unwrap(), &[]).await.unwrap();
        (view.version, view.memory.unwrap_or_default())
    }

    async fn kinds(&self) -> Vec<String> {
        let admin = self.server.admin().await;
        let path = format!("/v1/admin/events?account_id={}", self.ada.account);
        let page = self.server.client.get(path).bearer(&admin.access).send().await.expect(200).json();
        page["events"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn rule(server: &TestServer, when: fn(&Signals) -> bool, then: Outcome) -> Asked {
    rule_about(server, "sighting", when, then)
}

#[tokio::test]
async fn a_token_that_is_used_from_two_networks_at_once_is_a_signal() {
    let world = World::new().await;
    let asked = rule(&world.server, |s| s.at_once && s.new_network, Outcome::Notify);
    let before = world.memory().await;
    // At home, where it was made: nothing is remembered.
    world.seen("203.0.113.0").await;
    assert_eq!(world.memory().await, before);
    // A phone that goes elsewhere and stays there.
    world.seen("198.51.100.0").await;
    world.seen("198.51.100.0").await;
    assert!(asked.lock().unwrap().iter().all(|s| !s.at_once));
    // Home again: it comes back. Elsewhere again: it is in both.
    world.seen("203.0.113.0").await;
    assert!(!world.kinds().await.contains(&"risk.noticed".to_owned()));
    world.seen("198.51.100.0").await;
    assert!(asked.lock().unwrap().last().unwrap().at_once);
    // Told once, however often it is seen.
    for _ in 0..3 {
        world.seen("203.0.113.0").await;
        world.seen("198.51.100.0").await;
    }
    let told = world.kinds().await.iter().filter(|kind| *kind == "risk.noticed").count();
    assert!((1..=2).contains(&told), "an hour may have begun in between: {told}");
    assert!(world.lives().await);
    // What was seen teaches nothing: there it is still new.
    assert!(asked.lock().unwrap().iter().filter(|s| s.moved).all(|s| s.new_network));
    // And it does not last.
    let asked = rule(&world.server, |_| false, Outcome::Notify);
    world.server.advance(601_000);
    world.seen("198.51.100.0").await;
    assert!(!asked.lock().unwrap()[0].at_once);
}

/// What a verifier makes up about sessions that there are ends nothing by the built-in rules, and what it makes up about others is nothing.
#[tokio::test]
async fn forged_sightings_end_nothing() {
    let world = World::new().await;
    world.server.app.set_judge(Some(Box::new(Policy::built_in())));
    let before = world.memory().await;
    let forged = |session: &str, n: usize| {
        let network = ["198.51.100.0", "192.0.2.0", "2001:db8:1::", "203.0.113.0"][n % 4];
        json!({ "session": session, "ago_ms": n, "network": network, "agent": if n.is_multiple_of(2) { "curl/8.9" } else { AGENT } })
    };
    for _ in 0..2 {
        let all: Vec<Value> = (0..64).map(|n| forged(&world.session, n)).collect();
        world.tell(json!(all)).await.expect(200);
    }
    assert!(world.lives().await);
    let refreshed =
        world.server.client.post("/v1/sessions/refresh").json(&json!({ "refresh_token": world.ada.refresh }));
    refreshed.send().await.expect(200);
    let kinds = world.kinds().await;
    assert!(!kinds.iter().any(|kind| kind == "session.ended" || kind == "account.blocked"), "{kinds:?}");
    // There is an end to it: so many of one session a minute, which take nothing from others', and so many of one client.
    let taken = async |session: &dyn Fn(usize) -> String| {
        let mut taken = 0;
        for call in 0..12 {
            let all: Vec<Value> = (0..64).map(|n| forged(&session(call * 64 + n), n)).collect();
            taken += world.tell(json!(all)).await.expect(200).json()["taken"].as_u64().unwrap();
        }
        taken
    };
    let of_one = taken(&|_| world.session.clone()).await;
    assert!(of_one <= 24, "a minute may have begun in between: {of_one}");
    let of_all = taken(&|n| portcullis_wire::SessionId::from_bits(n as u128).to_string()).await;
    assert!((500..=768).contains(&of_all), "{of_all}");
    // Of a session that is none, or has ended, nothing is remembered.
    let after = world.memory().await;
    assert!(after.1.len() < before.1.len() + 200, "{} {}", before.1, after.1);
    world.server.client.delete("/v1/me/sessions").bearer(&world.ada.access).send().await.expect(200);
    world.server.advance(61_000);
    let after = world.memory().await;
    let nobodys = portcullis_wire::SessionId::from_bits(7).to_string();
    world.tell(json!([forged(&world.session, 1), forged(&nobodys, 1)])).await.expect(200);
    assert_eq!(world.memory().await, after);
}

#[tokio::test]
async fn what_is_no_sighting_is_refused() {
    let world = World::new().await;
    let good = json!({ "session": world.session, "ago_ms": 0, "network": "198.51.100.0" });
    let with = |name: &str, value: Value| {
        let mut one = good.clone();
        one[name] = value;
        json!([one])
    };
    for (sightings, words) in [
        (with("network", json!("198.51.100.1")), "24 bits"),
        (with("network", json!("2001:db8:0:1::")), "56"),
        (with("network", json!("::ffff:198.51.100.0")), "24 bits"),
        (with("network", json!("here")), "no address"),
        (with("agent", json!("x".repeat(201))), "agent"),
        (with("agent", json!("a\nb")), "agent"),
        (json!(vec![good.clone(); 65]), "at most 64"),
    ] {
        let answer = world.tell(sightings.clone()).await.expect(400).json();
        assert!(answer["detail"].as_str().unwrap().contains(words), "{sightings}: {answer}");
    }
    for wrong in [
        with("session", json!("ses_nobody")),
        with("ago_ms", json!(-1)),
        with("account", json!("ada")),
        json!("none"),
        json!([{ "session": world.session }]),
    ] {
        world.tell(wrong).await.expect(400);
    }
    // What is old is left out.
    assert_eq!(world.tell(with("ago_ms", json!(u64::MAX))).await.expect(200).json(), json!({ "taken": 0 }));
    assert_eq!(world.tell(json!([])).await.expect(200).json(), json!({ "taken": 0 }));
    // Only an instance of one's own speaks, with its secret.
    let other = world.server.new_client("verifier").await;
    let body = |secret: &Value| json!({ "instance": world.hello["instance"], "instance_secret": secret, "sightings": [good.clone()] });
    let call = |client: (&str, &str), secret: &Value| {
        world.server.client.post("/v1/feed/sightings").basic(client).json(&body(secret)).send()
    };
    let own = (&*world.client.0, &*world.client.1);
    for answer in [call((&other.0, &other.1), &world.hello["instance_secret"]).await, call(own, &json!("x")).await] {
        assert_eq!(answer.expect(409).json()["code"], "instance_gone");
    }
    let machine = world.server.new_client("confidential").await;
    call((&machine.0, &machine.1), &world.hello["instance_secret"]).await.expect(403);
    call((own.0, "wrong"), &world.hello["instance_secret"]).await.expect(401);
    // Without rules nothing is looked at.
    world.server.app.set_judge(None);
    assert_eq!(world.tell(json!([good])).await.expect(200).json(), json!({ "taken": 0 }));
}

/// An operator's own rule may do more; then it is done as at any act in a session.
#[tokio::test]
async fn a_rule_of_an_operators_own_may_end_the_session() {
    let world = World::new().await;
    rule(&world.server, |s| s.at_once && s.new_network, Outcome::EndSession);
    for network in ["198.51.100.0", "203.0.113.0", "198.51.100.0"] {
        world.seen(network).await;
    }
    assert!(!world.lives().await);
    assert!(world.kinds().await.contains(&"risk.decided".to_owned()));
}

/// A rule that asks for a fresh proof asks once an hour, of the session and of all that was given out in it: whoever tells the same again
/// and again takes no proof that was made since.
#[tokio::test]
async fn a_fresh_proof_is_asked_for_once() {
    let world = World::new().await;
    rule(&world.server, |s| s.moved, Outcome::StepUp);
    let store = world.server.app.store();
    let session: portcullis_wire::SessionId = world.session.parse().unwrap();
    let proven = async || store.load_session(session).await.unwrap().unwrap().session.auth_time;
    let grants = async || {
        let all = store.list_grants(world.ada.account.parse().unwrap(), None, 100).await.unwrap();
        let of = all.into_iter().filter(|one| one.session.id == session);
        of.map(|one| one.grant.proof.map(|proof| proof.at)).collect::<Vec<_>>()
    };
    assert_ne!(proven().await, UNPROVEN);
    assert_eq!(grants().await, [None]);
    world.seen("198.51.100.0").await;
    assert_eq!((proven().await, grants().await), (UNPROVEN, vec![Some(UNPROVEN)]));
    let asked = async || world.kinds().await.iter().filter(|kind| *kind == "risk.decided").count();
    assert_eq!(asked().await, 1);
    // Ada proves who she is, and it is told again.
    let at = portcullis_wire::Time(1_800_000_000_000);
    let step = Change::SetAuthTime { session, at, amr: Amr::default() };
    store.commit(Changes { steps: vec![step], ..Changes::default() }).await.unwrap();
    for _ in 0..3 {
        world.seen("198.51.100.0").await;
        world.seen("203.0.113.0").await;
    }
    let times = asked().await;
    assert!((1..=2).contains(&times), "an hour may have begun in between: {times}");
    assert!(times == 2 || proven().await == at);
    assert!(world.lives().await);
}
