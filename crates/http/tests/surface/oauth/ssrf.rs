//! Addresses that clients register are no way into this network: `jwks_uri` and `sector_identifier_uri`, each attack by name. What the
//! server refuses to call is never connected to, and nobody is told what it found.
use portcullis_app::{Allowed, CallLimits, Calls};
use portcullis_testkit::application::encode;
use portcullis_testkit::signer::fresh_id;
use portcullis_testkit::{Answer, Application, Idp, Names, Options, Receiver, Reply, Signer, TestServer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const A: &str = "https://a.example/cb";
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

struct World {
    server: TestServer,
    names: Arc<Names>,
    /// What stands in this network, and would say what is wanted.
    inside: Idp,
    key: Signer,
}

impl World {
    async fn new(allowed: Allowed) -> Self {
        let names = Arc::new(Names::default());
        let mut options = Options::default();
        let limits = CallLimits { connect: Duration::from_millis(400), whole: Duration::from_millis(800) };
        options.settings.outgoing = Calls { allowed, lookup: names.clone(), limits };
        let (inside, key) = (Idp::start().await, Signer::es256());
        inside.says("/sector.json", 200, &json!([A]));
        inside.says("/jwks", 200, &json!({ "keys": [key.jwk()] }));
        Self { server: TestServer::start(options).await, names, inside, key }
    }

    fn port(&self) -> &str {
        self.inside.issuer.rsplit_once(':').unwrap().1
    }

    /// Registers a client with this sector.
    async fn joins(&self, uri: &str) -> Answer {
        let admin = self.server.admin().await;
        let body = json!({
            "name": "An app", "kind": "confidential", "redirect_uris": [A], "subject_type": "pairwise",
            "sector_identifier_uri": uri,
        });
        self.server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body).send().await
    }

    /// A client whose keys are there, and what it is told when it shows an assertion.
    async fn shows_a_key(&self, uri: &str) -> Answer {
        let app = self.with_keys_at(uri).await;
        self.asks(&app).await
    }

    async fn with_keys_at(&self, uri: &str) -> Application {
        let more = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": uri });
        self.server.application("confidential", more).await
    }

    async fn asks(&self, app: &Application) -> Answer {
        let (now, issuer) = (self.server.app.now().secs(), &self.server.issuer);
        let claims = json!({ "iss": app.id, "sub": app.id, "aud": issuer, "exp": now + 60, "jti": fresh_id() });
        let assertion = self.key.sign(&json!({ "alg": self.key.alg() }), &claims);
        let pairs = [
            ("client_assertion_type", TYPE),
            ("client_assertion", &*assertion),
            ("grant_type", "refresh_token"),
            ("refresh_token", "none"),
        ];
        self.server.client.post("/oauth2/token").form(&encode(&pairs)).send().await
    }

    /// Both are refused, in words that say nothing of what is there.
    async fn refuses(&self, what: &str, sector: &str, keys: &str) {
        let joined = self.joins(sector).await;
        let told = joined.expect_problem("invalid_value").json();
        assert_eq!(told["field"], "sector_identifier_uri", "{what}");
        let asked = self.shows_a_key(keys).await.expect(503).json();
        for told in [&told, &asked] {
            silent(what, told);
        }
    }

    async fn refuses_at(&self, what: &str, base: &str) {
        self.refuses(what, &format!("{base}/sector.json"), &format!("{base}/jwks")).await;
    }

    /// Nobody has come from the server.
    fn untouched(&self) {
        assert!(self.inside.calls().is_empty(), "{:?}", self.inside.calls());
    }
}

fn silent(what: &str, told: &Value) {
    let text = told["detail"].as_str().unwrap();
    for word in ["127.0.0", "10.0.0", "169.254", "outgoing_private", "refused", "404", "302", "time", "long"] {
        assert!(!text.contains(word), "{what}: {text}");
    }
}

#[tokio::test]
async fn private_addresses_are_not_called() {
    let world = World::new(Allowed::nothing()).await;
    let port = world.port().to_owned();
    for host in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.0", "[::1]", "[fd00::1]"] {
        world.refuses_at(host, &format!("https://{host}:{port}")).await;
    }
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        world.names.leads("localhost", &[&["127.0.0.1"]]);
        world.refuses_at(host, &format!("http://{host}:{port}")).await;
    }
    world.untouched();
}

#[tokio::test]
async fn link_local_addresses_are_not_called() {
    let world = World::new(Allowed::nothing()).await;
    for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"] {
        world.refuses_at(host, &format!("https://{host}")).await;
    }
    world.names.leads("metadata.example", &[&["169.254.169.254"]]);
    world.refuses_at("a name", "https://metadata.example").await;
}

#[tokio::test]
async fn ipv4_in_the_clothes_of_ipv6_is_not_called() {
    let world = World::new(Allowed::nothing()).await;
    let port = world.port().to_owned();
    for host in ["[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"] {
        world.refuses_at(host, &format!("https://{host}:{port}")).await;
    }
    world.names.leads("six.example", &[&["::ffff:127.0.0.1"]]);
    world.refuses_at("a name", &format!("https://six.example:{port}")).await;
    world.untouched();
}

/// One private address among several is enough.
#[tokio::test]
async fn names_that_lead_inside_are_not_called() {
    let world = World::new(Allowed::nothing()).await;
    let port = world.port().to_owned();
    world.names.leads("inside.example", &[&["127.0.0.1"]]);
    world.names.leads("both.example", &[&["93.184.216.34", "127.0.0.1"]]);
    world.names.leads("nowhere.example", &[&[]]);
    for host in ["inside.example", "both.example", "nowhere.example"] {
        world.refuses_at(host, &format!("https://{host}:{port}")).await;
    }
    world.untouched();
}

/// A name that is allowed when it is looked at and another the next moment: what was looked at is what is connected to.
#[tokio::test]
async fn a_name_that_is_rebound_gains_nothing() {
    // Nobody listens at 127.0.0.2; it stands for a public address.
    let world = World::new(Allowed::networks(["127.0.0.2/32".parse().unwrap()])).await;
    let port = world.port().to_owned();
    let base = format!("http://localhost:{port}");
    world.names.leads("localhost", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let told = world.joins(&format!("{base}/sector.json")).await.expect_problem("invalid_value").json();
    silent("rebound", &told);
    assert_eq!(world.names.asked(), ["localhost"], "it is looked up once for a call");
    world.joins(&format!("{base}/sector.json")).await.expect_problem("invalid_value");
    world.names.leads("localhost", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let app = world.with_keys_at(&format!("{base}/jwks")).await;
    world.asks(&app).await.expect(503);
    assert_eq!(world.names.asked().len(), 3);
    world.untouched();
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let world = World::new(Allowed::loopback()).await;
    let elsewhere = Receiver::start().await;
    let inside = &world.inside.issuer;
    elsewhere.reply([Reply::Redirect(format!("{inside}/sector.json")), Reply::Redirect(format!("{inside}/jwks"))]);
    world.refuses_at("a redirect", &elsewhere.base).await;
    assert_eq!(elsewhere.bodies().len(), 2);
    world.untouched();
}

#[tokio::test]
async fn answers_that_are_too_long_are_not_read() {
    let world = World::new(Allowed::loopback()).await;
    let padding = " ".repeat(65 << 10);
    let (sector, keys) = (json!([A]), json!({ "keys": [world.key.jwk()] }));
    world.inside.says_text("/sector.json", 200, &format!("{sector}{padding}"));
    world.inside.says_text("/jwks", 200, &format!("{keys}{padding}"));
    world.refuses_at("too long", &world.inside.issuer).await;
    // Without the padding it is what is wanted.
    world.inside.says("/sector.json", 200, &sector);
    world.inside.says("/jwks", 200, &keys);
    world.joins(&format!("{}/sector.json", world.inside.issuer)).await.expect(201);
    world.shows_a_key(&format!("{}/jwks", world.inside.issuer)).await.expect(400);
}

#[tokio::test]
async fn slow_answers_are_not_waited_for() {
    let world = World::new(Allowed::loopback()).await;
    world.inside.is_late(Duration::from_secs(60));
    let began = Instant::now();
    world.refuses_at("slow", &world.inside.issuer).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_addresses_of_the_web_are_registered() {
    let world = World::new(Allowed::loopback()).await;
    let admin = world.server.admin().await;
    for bad in
        ["http://a.example/x", "file:///etc/passwd", "gopher://127.0.0.1/", "https://u:p@a.example/", "//a.example"]
    {
        for field in ["jwks_uri", "sector_identifier_uri"] {
            let mut body = json!({ "name": "An app", "kind": "confidential", "redirect_uris": [A] });
            body[field] = bad.into();
            let call = world.server.client.post("/v1/admin/clients").bearer(&admin.access).json(&body);
            let told = call.send().await.expect_problem("invalid_value").json();
            assert_eq!(told["field"], field, "{bad}");
        }
    }
}
