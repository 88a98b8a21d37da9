//! What an application, a device, a machine and a person hold before a door is entered, and what each is worth afterwards.
use super::ways::{Entered, Way};
use crate::demo_api::ready;
use crate::support::{Dir, Running, call, open, portcullis, read_until};
use portcullis_app::{Registration, UpstreamKind, UpstreamSettings};
use portcullis_domain::session_limit::{AtLimit, SessionLimit};
use portcullis_testkit::application::{REDIRECT, encode, parameter, request};
use portcullis_testkit::idp::Idp;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Application, Options, PostOffice, SignedIn, TestServer};
use portcullis_wire::{SecretString, b64};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

pub const ADA: &str = "ada@example.test";
const EVE: &str = "eve@example.test";
/// Where browsers are sent after a logout.
pub const BYE: &str = "http://127.0.0.1:9/bye";
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const INITIAL: &str = "an-initial-access-token-that-is-long-enough";
/// Ada's sessions when everything is set up: the browser's, the application's own, the device's, the key's, the phone's. And as many
/// sign-ins may live, where that is limited.
pub const SESSIONS: u32 = 5;
/// How long a service may take to hear of it: the server's bound.
const BOUND_MS: i64 = 2_000;

/// Milliseconds of a clock that only goes forward.
pub fn clock() -> i64 {
    portcullis_app::real::mono_us() / 1000
}

/// What a door does to something that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is dead, and so is what would renew it.
    Ends,
    /// The access token is dead; its holder gets a new one by what they have besides.
    Renews,
    /// It lives on: the door does not reach it.
    Lives,
}
use Fate::{Ends, Lives, Renews};

/// What is held. A new kind of credential is a new word here, and every row must say what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What the application got under the browser's session: access token and refresh token.
    pub grant: Fate,
    /// What another application got there.
    pub other_application: Fate,
    /// What the application got for itself (`offline_access`): a session of its own.
    pub connected: Fate,
    /// What the application got by a device code: a session of its own, too.
    pub device: Fate,
    /// What a service made of the grant's access token (RFC 8693).
    pub exchanged: Fate,
    /// The access token that Ada's API key was exchanged for, and the key.
    pub api_key: Fate,
    /// The access token of a service for itself, and its secret.
    pub service: Fate,
    /// Ada's other session, by the first-party API.
    pub phone: Fate,
    /// The browser's session, as the application sees it: whether its hint still gets an answer without a question.
    pub browser: Fate,
    /// An authorization code that waits.
    pub waiting_code: Fate,
    /// A device's request that nobody has answered.
    pub device_asks: Fate,
    /// A device's request that Ada has said yes to, in the browser, and that was not asked about since.
    pub device_said_yes_to: Fate,
    /// A pushed request that no browser has come with.
    pub pushed_request: Fate,
    /// A stream that was opened with the grant's access token.
    pub open_connection: Fate,
    /// A sign-in by the other provider that is under way.
    pub upstream_sign_in: Fate,
    /// Somebody else's session.
    pub bystander: Fate,
}

impl Row {
    /// The same for all.
    pub fn all(fate: Fate) -> Self {
        Self {
            grant: fate,
            other_application: fate,
            connected: fate,
            device: fate,
            exchanged: fate,
            api_key: fate,
            service: fate,
            phone: fate,
            browser: fate,
            waiting_code: fate,
            device_asks: fate,
            device_said_yes_to: fate,
            pushed_request: fate,
            open_connection: fate,
            upstream_sign_in: fate,
            bystander: fate,
        }
    }
}

/// A browser's cookies.
#[derive(Debug, Default, Clone)]
pub struct Jar(Vec<(String, String)>);

impl Jar {
    fn take(&mut self, answer: &Answer) {
        for line in answer.set_cookies() {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.0.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.0.push((name.into(), value.into()));
            }
        }
    }
    fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }
    pub fn session(&self) -> &str {
        let found = self.0.iter().find(|(name, _)| name == "__Host-portcullis_session");
        found.map_or("", |(_, value)| value)
    }
    pub async fn get(&mut self, server: &TestServer, path: &str) -> Answer {
        let answer = server.client.get(path).header("cookie", self.text()).send().await;
        self.take(&answer);
        answer
    }
    pub async fn post(&mut self, server: &TestServer, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let call = server.client.post(path).header("cookie", self.text()).header("origin", &server.issuer);
        let answer = call.form(&encode(pairs)).send().await;
        self.take(&answer);
        answer
    }
    /// Asks a device's question, and answers it with yes.
    async fn says_yes(&mut self, server: &TestServer, user_code: &str) -> Answer {
        let page = self.post(server, "/device", &[("user_code", user_code)]).await;
        if page.status != 200 {
            return page;
        }
        let html = page.text();
        let pairs = [
            ("user_code", hidden(&html, "user_code")),
            ("shown", hidden(&html, "shown")),
            ("decision", "allow".into()),
        ];
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.post(server, "/device/answer", &pairs).await
    }
}

fn hidden(html: &str, name: &str) -> String {
    let rest = html.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {html}"));
    rest.split('"').next().unwrap().to_owned()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The claims of a token.
pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&b64::decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Tokens of an application.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    pub id: String,
}

impl Tokens {
    fn of(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token"), id: text("id_token") }
    }
    /// Its session.
    pub fn sid(&self) -> String {
        text(&claims(&self.access)["sid"])
    }
}

/// A device's request: what it asks with, and what its user types.
#[derive(Debug)]
struct Asked {
    device_code: String,
    user_code: String,
}

/// A sign-in that has come as far as the provider.
#[derive(Debug)]
struct Away {
    jar: Jar,
    state: String,
    nonce: String,
}

/// A server, a demo API beside it, and everything that is held.
pub struct World {
    pub server: TestServer,
    pub idp: Idp,
    pub admin: SignedIn,
    pub app: Application,
    /// Where and with what a client that registered itself is managed.
    pub managed: Option<(String, String)>,
    pub service: Application,
    pub service_account: String,
    pub other: Application,
    pub ada: String,
    /// Ada's, as it is now.
    pub password: String,
    pub browser: Jar,
    pub phone: SignedIn,
    pub used_code: String,
    pub grant: Tokens,
    pub connected: Tokens,
    pub device: Tokens,
    pub key_session: String,
    key: String,
    key_token: String,
    service_token: String,
    exchanged: String,
    others: Tokens,
    bystander: SignedIn,
    waiting_code: String,
    asks: Asked,
    said_yes: Asked,
    pushed: String,
    away: Away,
    stream: TcpStream,
    api: SocketAddr,
    verifier: (String, String),
    /// Where its mails go.
    post: PostOffice,
    _demo: Running,
    _dir: Dir,
}

fn options(way: Way, idp: &Idp, post: &PostOffice) -> Options {
    let mut options = Options::default();
    if matches!(way, Way::PasswordReset | Way::NotMe | Way::NotMeAtAll) {
        options.settings.mail = Some(post.mailer.clone());
    }
    options.settings.upstreams = vec![UpstreamSettings {
        id: "idp".into(),
        name: "Another provider".into(),
        kind: UpstreamKind::Oidc,
        issuer: idp.issuer.clone(),
        client_id: "us".into(),
        client_secret: SecretString::new("a secret"),
        scopes: ["openid", "email"].map(str::to_owned).into(),
    }];
    options.settings.clients.registration = Registration::ByToken(SecretString::new(INITIAL).digest());
    if way == Way::SessionLimit {
        options.settings.policy.session_limit = Some(SessionLimit { most: SESSIONS, at_limit: AtLimit::EndOldest });
    }
    options
}

async fn demo(dir: &Dir, server: &TestServer, (id, secret): &(String, String)) -> (Running, SocketAddr) {
    let args = ["demo-api", "--issuer", &server.issuer, "--client-id", id, "--listen", "127.0.0.1:0"];
    let mut command = portcullis(&dir.0, &args);
    command.env("PORTCULLIS_CLIENT_SECRET_FILE", dir.write("client-secret", secret));
    let mut process = Running::start(command);
    let log = process.log.clone();
    let line = process.line(&log, &["address="]).await;
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let address = address.parse().unwrap();
    ready(address).await;
    (process, address)
}

/// The application: by an administrator, or by itself where it is to go away by itself.
async fn application(way: Way, server: &TestServer) -> (Application, Option<(String, String)>) {
    let grant_types = json!(["authorization_code", "refresh_token", DEVICE]);
    if way != Way::ClientDeleted {
        let more = json!({ "grant_types": grant_types, "post_logout_redirect_uris": [BYE] });
        return (server.application("confidential", more).await, None);
    }
    let body = json!({
        "client_name": "An app", "redirect_uris": [REDIRECT], "grant_types": grant_types,
        "scope": "openid offline_access read", "id_token_signed_response_alg": "ES256",
    });
    let made = server.client.post("/oauth2/register").bearer(INITIAL).json(&body).send().await.expect(201).json();
    let app = Application { id: text(&made["client_id"]), secret: text(&made["client_secret"]) };
    let path = text(&made["registration_client_uri"]).strip_prefix(&server.issuer).unwrap().to_owned();
    (app, Some((path, text(&made["registration_access_token"]))))
}

async fn leave(server: &TestServer) -> Away {
    let mut jar = Jar::default();
    let place = jar.get(server, "/upstream/idp").await.expect(303).header("location").to_owned();
    let value = |name: &str| parameter(&place, name).unwrap();
    Away { state: value("state"), nonce: value("nonce"), jar }
}

/// The provider says that it is Ada, and the browser comes back with that. Where nobody has her address any more she says yes to a new
/// account.
async fn come_back(server: &TestServer, idp: &Idp, away: &mut Away) -> Answer {
    let now = portcullis_app::real::wall().secs();
    let claims = json!({
        "iss": idp.issuer, "sub": "sub-1", "aud": "us", "exp": now + 60, "iat": now, "nonce": away.nonce,
        "email": ADA, "email_verified": true, "sid": "sid-1",
    });
    idp.gives(&idp.sign(&json!({ "alg": "ES256", "kid": "k1" }), &claims));
    let query = encode(&[("state", &away.state), ("code", "the-code"), ("iss", &idp.issuer)]);
    let came = away.jar.get(server, &format!("/upstream/idp/callback?{query}")).await;
    if came.status != 200 || !came.text().contains("Make a new account?") {
        return came;
    }
    let ticket = hidden(&came.text(), "ticket");
    away.jar.post(server, "/upstream/confirm/new", &[("ticket", &ticket), ("decision", "yes")]).await
}

/// Ada's browser: signed in by the other provider, as which she has proven herself once by her password.
async fn signed_in_upstream(server: &TestServer, idp: &Idp) -> Jar {
    let mut away = leave(server).await;
    let page = come_back(server, idp, &mut away).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    away.jar.post(server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await.expect(303);
    away.jar.post(server, "/sign-out", &[]).await.expect(303);
    let mut away = leave(server).await;
    come_back(server, idp, &mut away).await.expect(303);
    away.jar
}

async fn device_begins(server: &TestServer, app: &Application) -> Asked {
    let form = encode(&[("client_id", &app.id), ("scope", "openid read")]);
    let call = server.client.post("/oauth2/device").basic((&app.id, &app.secret));
    let told = call.form(&form).send().await.expect(200).json();
    Asked { device_code: text(&told["device_code"]), user_code: text(&told["user_code"]) }
}

async fn polled(server: &TestServer, app: &Application, asked: &Asked) -> Answer {
    server.token(app, &[("grant_type", DEVICE), ("device_code", &asked.device_code)]).await
}

async fn exchanged(server: &TestServer, service: &Application, access: &str) -> Answer {
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    server.token(service, &[("grant_type", EXCHANGE), ("subject_token", access), ("subject_token_type", kind)]).await
}

/// A call that is repeated while the answer is to come again in a moment: so soon after a key is dead the next one is not confirmed.
async fn answered(call: impl AsyncFn() -> Answer) -> Answer {
    let begun = clock();
    loop {
        let answer = call().await;
        if answer.status != 503 {
            return answer;
        }
        assert!(clock() - begun < 2 * BOUND_MS, "503 for longer than 2 B: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl World {
    /// The path of the link in a mail.
    pub async fn link(&self, words: &str, beginning: &str) -> String {
        self.post.link_about(words, beginning).await
    }

    pub async fn start(way: Way) -> Self {
        let idp = Idp::start().await;
        let post = PostOffice::open().await;
        let server = TestServer::start(options(way, &idp, &post)).await;
        let dir = Dir::new();
        let verifier = server.new_client("verifier").await;
        let (demo, api) = demo(&dir, &server, &verifier).await;
        let ada = server.sign_up(ADA).await;
        server.sign_up(EVE).await;
        let admin = server.admin().await;
        let (app, managed) = application(way, &server).await;
        let other = server.application("confidential", json!({ "name": "Another app" })).await;
        let service = json!({
            "name": "A service", "redirect_uris": [], "grant_types": [EXCHANGE, "client_credentials"], "scopes": ["openid", "read"],
        });
        let service = server.application("confidential", service).await;
        let row = server.client.get(format!("/v1/admin/clients/{}", service.id)).bearer(&admin.access).send().await;
        let service_account = text(&row.expect(200).json()["service_account"]);

        // The browser first: it is the oldest of Ada's sessions.
        let mut browser = signed_in_upstream(&server, &idp).await;
        let cookie = browser.session().to_owned();
        let used_code = server.code(&app, &cookie, "openid read").await;
        let grant = Tokens::of(&server.redeem(&app, &used_code).await.expect(200).json());
        let others = Tokens::of(&server.granted(&other, &cookie, "openid").await);
        let connected = Tokens::of(&server.granted(&app, &cookie, "openid offline_access").await);
        let asked = device_begins(&server, &app).await;
        browser.says_yes(&server, &asked.user_code).await.expect(200);
        let device = Tokens::of(&polled(&server, &app, &asked).await.expect(200).json());
        let phone = server.sign_in(ADA).await;
        let made = json!({ "name": "a script", "scopes": ["read"] });
        let made = server.client.post("/v1/me/api-keys").bearer(&phone.access).json(&made).send().await;
        let made = made.expect(201).json();
        let (key, key_session) = (text(&made["key"]), text(&made["api_key"]["id"]));
        let bystander = server.sign_in(EVE).await;

        let waiting_code = server.code(&app, &cookie, "openid").await;
        let (asks, said_yes) = (device_begins(&server, &app).await, device_begins(&server, &app).await);
        browser.says_yes(&server, &said_yes.user_code).await.expect(200);
        let push = server.client.post("/oauth2/par").basic((&app.id, &app.secret)).form(&request(&app, &[]));
        let pushed = text(&push.send().await.expect(201).json()["request_uri"]);
        let away = leave(&server).await;
        let mut stream = open(api, "GET", "/stream", Some(format!("Bearer {}", grant.access)), None).await;
        read_until(&mut stream, "event: tick").await;
        let exchanged = Tokens::of(&exchanged(&server, &service, &grant.access).await.expect(200).json()).access;
        let mut world = Self {
            key_token: String::new(),
            service_token: String::new(),
            post,
            _demo: demo,
            _dir: dir,
            server,
            idp,
            admin,
            app,
            managed,
            service,
            service_account,
            other,
            ada,
            password: PASSWORD.into(),
            browser,
            phone,
            used_code,
            grant,
            connected,
            device,
            key_session,
            key,
            exchanged,
            others,
            bystander,
            waiting_code,
            asks,
            said_yes,
            pushed,
            away,
            stream,
            api,
            verifier,
        };
        world.key_token = world.by_key().await.expect("the key is good");
        world.service_token = world.by_secret().await.expect("the secret is good");
        world.everything_is_good().await;
        world
    }

    /// Nothing proves that it ended which was not good before.
    async fn everything_is_good(&self) {
        for (what, token) in self.tokens() {
            assert_eq!(self.judged(what, token).await, Lives, "{what}");
        }
        let path = format!("/v1/admin/accounts/{}/sessions", self.ada);
        let listed = self.server.client.get(path).bearer(&self.admin.access).send().await.expect(200).json();
        assert_eq!(listed["sessions"].as_array().unwrap().len(), usize::try_from(SESSIONS).unwrap(), "{listed}");
    }

    fn tokens(&self) -> [(&'static str, &str); 9] {
        [
            ("grant", &self.grant.access),
            ("other application", &self.others.access),
            ("connected", &self.connected.access),
            ("device", &self.device.access),
            ("exchanged", &self.exchanged),
            ("API key", &self.key_token),
            ("service", &self.service_token),
            ("phone", &self.phone.access),
            ("bystander", &self.bystander.access),
        ]
    }

    async fn by_key(&self) -> Option<String> {
        let answer =
            answered(async || self.server.client.post("/v1/api-keys/token").bearer(&self.key).send().await).await;
        (answer.status == 200).then(|| text(&answer.json()["access_token"]))
    }

    async fn by_secret(&self) -> Option<String> {
        let pairs = [("grant_type", "client_credentials")];
        let answer = answered(async || self.server.token(&self.service, &pairs).await).await;
        (answer.status == 200).then(|| text(&answer.json()["access_token"]))
    }

    /// What introspection, userinfo and the demo API say of an access token. They must agree.
    async fn judged(&self, what: &str, token: &str) -> Fate {
        let client = &self.server.client;
        let call = client.post("/oauth2/introspect").basic((&self.verifier.0, &self.verifier.1));
        let asked = call.form(&encode(&[("token", token)])).send().await.expect(200).json();
        let active = asked["active"].as_bool().unwrap();
        assert!(active || asked.as_object().unwrap().len() == 1, "{what}: a dead one says nothing: {asked}");
        let userinfo = client.get("/oauth2/userinfo").bearer(token).send().await;
        // Without `openid` it says whose it is to nobody; that it lives is told all the same.
        let known = match (userinfo.status.as_u16(), userinfo.json()["code"].as_str()) {
            (200, None) | (403, Some("insufficient_scope")) => true,
            (401, Some("token_revoked")) => false,
            other => panic!("{what}: userinfo says {other:?}"),
        };
        let api = call_api(self.api, token).await;
        let accepted = match (api.0, api.1["code"].as_str()) {
            (200, None) => true,
            // Of a key that is dead, or of a log that was founded anew, more is not known.
            (401, Some("token_revoked" | "token_malformed")) => false,
            other => panic!("{what}: the demo API says {other:?}"),
        };
        assert_eq!((active, known), (accepted, accepted), "{what}: introspection, userinfo and the demo API disagree");
        if accepted { Lives } else { Ends }
    }

    /// With what its holder does next, when it is dead.
    async fn with_renewal(&self, what: &str, token: &str, renewed: Option<String>) -> Fate {
        match (self.judged(what, token).await, renewed) {
            (Lives, Some(_)) => Lives,
            (Ends, None) => Ends,
            (Ends, Some(new)) => {
                assert_eq!(self.judged(what, &new).await, Lives, "{what}: renewed");
                Renews
            }
            odd => panic!("{what}: it lives, and cannot be renewed: {odd:?}"),
        }
    }

    async fn refreshed(&self, app: &Application, tokens: &Tokens) -> Option<String> {
        let answer = answered(async || self.server.refresh_for(app, &tokens.refresh).await).await;
        let told = answer.json();
        match (answer.status.as_u16(), told["error"].as_str()) {
            (200, _) => Some(text(&told["access_token"])),
            (400, Some("invalid_grant")) | (401, Some("invalid_client")) => None,
            other => panic!("a refresh says {other:?}: {told}"),
        }
    }

    async fn phone_refreshed(&self, who: &SignedIn) -> Option<String> {
        let body = json!({ "refresh_token": who.refresh });
        let call = async || self.server.client.post("/v1/sessions/refresh").json(&body).send().await;
        let answer = answered(call).await;
        (answer.status == 200).then(|| text(&answer.json()["access_token"]))
    }

    /// Waits until the demo API has applied what was entered, which may take B. Where the caller waited for that, it has.
    pub async fn follows(&self, way: Way, entered: Entered) {
        let head = self.server.app.store().stamp().await.unwrap();
        let applied = async || {
            let told = call(self.api, "GET", "/readyz", None, None).await.1;
            told["epoch"].as_u64() == Some(u64::from(head.epoch.0)) && told["applied"].as_u64() >= Some(head.head.0)
        };
        if entered.enforced {
            assert!(applied().await, "{way:?}: it was said to be enforced");
            return;
        }
        while !applied().await {
            assert!(clock() - entered.at < BOUND_MS, "{way:?}: not within B");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What everything is worth now. First what no other look changes.
    pub async fn row(mut self, way: Way) -> Row {
        for (what, token) in self.tokens() {
            self.judged(what, token).await;
        }
        let open_connection = self.connection(way).await;
        let browser = self.browser_fate().await;
        let refreshed = self.refreshed(&self.app, &self.grant).await;
        let grant = self.with_renewal("grant", &self.grant.access, refreshed).await;
        let refreshed = self.refreshed(&self.other, &self.others).await;
        let other_application = self.with_renewal("other application", &self.others.access, refreshed).await;
        let refreshed = self.refreshed(&self.app, &self.connected).await;
        let connected = self.with_renewal("connected", &self.connected.access, refreshed).await;
        let refreshed = self.refreshed(&self.app, &self.device).await;
        let device = self.with_renewal("device", &self.device.access, refreshed).await;
        let api_key = self.with_renewal("API key", &self.key_token, self.by_key().await).await;
        let service = self.with_renewal("service", &self.service_token, self.by_secret().await).await;
        let phone = self.with_renewal("phone", &self.phone.access, self.phone_refreshed(&self.phone).await).await;
        let refreshed = self.phone_refreshed(&self.bystander).await;
        let bystander = self.with_renewal("bystander", &self.bystander.access, refreshed).await;
        // Whoever has it exchanges anew while the other one lives; it has no renewal of its own.
        let exchanged = self.judged("exchanged", &self.exchanged).await;
        let waiting_code = gives_tokens(async || self.server.redeem(&self.app, &self.waiting_code).await).await;
        let device_said_yes_to = gives_tokens(async || polled(&self.server, &self.app, &self.said_yes).await).await;
        let device_asks = self.device_asks().await;
        let pushed_request = self.pushed_request().await;
        let came = come_back(&self.server, &self.idp, &mut self.away).await;
        let signed_in = came.status == 303 && !self.away.jar.session().is_empty();
        let upstream_sign_in = if signed_in { Lives } else { Ends };
        Row {
            grant,
            other_application,
            connected,
            device,
            exchanged,
            api_key,
            service,
            phone,
            browser,
            waiting_code,
            device_asks,
            device_said_yes_to,
            pushed_request,
            open_connection,
            upstream_sign_in,
            bystander,
        }
    }

    /// The stream has ended with the word that says why, or it ticks on.
    async fn connection(&mut self, way: Way) -> Fate {
        let dead = self.judged("grant", &self.grant.access).await == Ends;
        // The demo API has applied it: its guards are told in the same moment, and tick four times a second.
        let mut read = String::new();
        let begun = clock();
        while clock() - begun < 700 && !read.contains("event: ended") {
            let mut buffer = [0; 4096];
            let next = tokio::io::AsyncReadExt::read(&mut self.stream, &mut buffer);
            match tokio::time::timeout(Duration::from_millis(300), next).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(n)) => read.push_str(&String::from_utf8_lossy(&buffer[..n])),
                Err(_) => {}
            }
        }
        assert_eq!(read.contains("event: ended"), dead, "{way:?}: the connection and its token disagree: {read}");
        if dead { Ends } else { Lives }
    }

    /// An application asks without a question, with the hint that it has: whether there is somebody.
    async fn browser_fate(&self) -> Fate {
        let more = [("prompt", "none"), ("id_token_hint", self.others.id.as_str()), ("scope", "openid")];
        let place = self.server.authorize(&self.other, self.browser.session(), &more).await.expect(303);
        let place = place.header("location").to_owned();
        match (parameter(&place, "code"), parameter(&place, "error").as_deref()) {
            (Some(_), None) => Lives,
            (None, Some("login_required")) => Ends,
            other => panic!("{other:?} in {place}"),
        }
    }

    /// Whether Ada, with a browser of now, can still say yes to it, and it gets tokens.
    async fn device_asks(&self) -> Fate {
        let form = encode(&[("identifier", ADA), ("password", &self.password)]);
        let call = self.server.client.post("/sign-in").header("origin", &self.server.issuer).form(&form);
        let mut jar = Jar::default();
        jar.take(&call.send().await);
        if jar.session().is_empty() {
            return Ends; // nobody is there who could
        }
        jar.says_yes(&self.server, &self.asks.user_code).await;
        gives_tokens(async || polled(&self.server, &self.app, &self.asks).await).await
    }

    /// Whether somebody who has nothing to do with it comes through with it.
    async fn pushed_request(&self) -> Fate {
        let cookie = self.server.page_sign_in(EVE).await;
        let query = encode(&[("client_id", &self.app.id), ("request_uri", &self.pushed)]);
        let call = self.server.client.get(format!("/oauth2/authorize?{query}"));
        let answer = call.header("cookie", format!("__Host-portcullis_session={cookie}")).send().await;
        match answer.status.as_u16() {
            200 | 303 => Lives,
            400 => Ends,
            other => panic!("{other}: {}", answer.text()),
        }
    }
}

async fn gives_tokens(call: impl AsyncFn() -> Answer) -> Fate {
    let answer = answered(call).await;
    match answer.status.as_u16() {
        200 => Lives,
        400 | 401 => Ends,
        other => panic!("{other}: {}", answer.text()),
    }
}

async fn call_api(api: SocketAddr, token: &str) -> (u16, Value) {
    call(api, "GET", "/whoami", Some(token), None).await
}
