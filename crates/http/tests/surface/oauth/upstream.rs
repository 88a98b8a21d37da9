//! "Continue with" another provider: one that a test leads, and a second server of ours, which is a real one.
use portcullis_app::{UpstreamKind, UpstreamSettings};
use portcullis_testkit::application::{encode, request};
use portcullis_testkit::idp::Idp;
use portcullis_testkit::{Answer, Application, Options, TestServer, parameter};
use portcullis_wire::{SecretString, b64};
use serde_json::{Value, json};
use std::time::Duration;

const ADA: &str = "ada@example.test";
const PASSWORD: &str = portcullis_testkit::server::PASSWORD;
/// Where somebody new answers.
pub const NEW: &str = "/upstream/confirm/new";

pub fn provider(id: &str, issuer: &str, kind: UpstreamKind) -> UpstreamSettings {
    UpstreamSettings {
        id: id.into(),
        name: format!("Provider {id}"),
        kind,
        issuer: issuer.into(),
        client_id: "us".into(),
        client_secret: SecretString::new("a secret: with & signs"),
        scopes: ["openid", "email", "profile"].map(str::to_owned).into(),
    }
}

pub async fn server_with(upstreams: Vec<UpstreamSettings>) -> TestServer {
    let mut options = Options::default();
    options.settings.upstreams = upstreams;
    TestServer::start(options).await
}

/// A provider that the test leads, and a server that knows it as `idp`.
pub async fn world() -> (Idp, TestServer) {
    let idp = Idp::start().await;
    let server = server_with(vec![provider("idp", &idp.issuer, UpstreamKind::Oidc)]).await;
    (idp, server)
}

/// A browser, as far as cookies go.
#[derive(Default, Clone)]
pub struct Jar(Vec<(String, String)>);

impl Jar {
    /// With this page cookie.
    pub fn of(session: &str) -> Self {
        Self(vec![("__Host-portcullis_session".into(), session.into())])
    }
    fn take(&mut self, answer: &Answer) {
        for line in answer.set_cookies() {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            assert!(line.contains("Secure") && line.contains("HttpOnly") && line.contains("SameSite=Lax"), "{line}");
            self.0.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.0.push((name.into(), value.into()));
            }
        }
    }
    pub fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }
    pub fn session(&self) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == "__Host-portcullis_session").map(|(_, value)| value.as_str())
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
    pub async fn is_in(&mut self, server: &TestServer) -> bool {
        self.get(server, "/account/devices").await.status == 200
    }
}

/// A sign-in that has come as far as the provider.
pub struct Away {
    pub state: String,
    pub nonce: String,
    pub challenge: String,
}

pub async fn leave(server: &TestServer, jar: &mut Jar, path: &str) -> Away {
    let answer = jar.get(server, path).await.expect(303);
    let place = answer.header("location").to_owned();
    let value = |name: &str| parameter(&place, name).unwrap_or_default();
    assert_eq!((value("response_type").as_str(), value("code_challenge_method").as_str()), ("code", "S256"));
    Away { state: value("state"), nonce: value("nonce"), challenge: value("code_challenge") }
}

pub fn now() -> i64 {
    portcullis_app::real::wall().secs()
}

/// The claims of an honest ID token.
pub fn claims(idp: &Idp, away: &Away) -> Value {
    json!({
        "iss": idp.issuer, "sub": "sub-1", "aud": "us", "exp": now() + 60, "iat": now(), "nonce": away.nonce,
        "email": ADA, "email_verified": true, "name": "Ada", "sid": "sid-1",
    })
}

pub fn header() -> Value {
    json!({ "alg": "ES256", "kid": "k1" })
}

pub async fn back(server: &TestServer, jar: &mut Jar, idp: &Idp, away: &Away) -> Answer {
    let query = encode(&[("state", &away.state), ("code", "the-code"), ("iss", &idp.issuer)]);
    jar.get(server, &format!("/upstream/idp/callback?{query}")).await
}

/// The field of a page.
pub fn hidden(page: &str, name: &str) -> String {
    page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// Says yes where somebody new is asked whether they want an account; any other answer stays what it is.
pub async fn agreed(server: &TestServer, jar: &mut Jar, answer: Answer) -> Answer {
    if answer.status != 200 || !answer.text().contains("Make a new account?") {
        return answer;
    }
    let ticket = hidden(&answer.text(), "ticket");
    jar.post(server, NEW, &[("ticket", &ticket), ("decision", "yes")]).await
}

/// A whole sign-in, with these changes of the ID token's claims; whoever is new wants an account.
pub async fn sign_in(idp: &Idp, server: &TestServer, jar: &mut Jar, changes: Value) -> Answer {
    let answer = came_back(idp, server, jar, changes).await;
    agreed(server, jar, answer).await
}

/// The same as far as the provider's answer goes.
pub async fn came_back(idp: &Idp, server: &TestServer, jar: &mut Jar, changes: Value) -> Answer {
    let away = leave(server, jar, "/upstream/idp").await;
    let mut claims = claims(idp, &away);
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    idp.gives(&idp.sign(&header(), &claims));
    back(server, jar, idp, &away).await
}

pub fn is_refused(answer: &Answer, notice: &str) -> bool {
    let place = answer.header("location");
    answer.status == 303 && place.starts_with("/sign-in?") && parameter(place, "notice").as_deref() == Some(notice)
}

#[tokio::test]
async fn a_real_provider_signs_in_and_says_when_it_is_over() {
    let upstream = TestServer::usual().await;
    // Each must know the other's address: what is registered first is changed as soon as it is known.
    let app = upstream.application("confidential", json!({ "consent": "implied" })).await;
    let mut settings = provider("up", &upstream.issuer, UpstreamKind::Oidc);
    settings.client_id.clone_from(&app.id);
    settings.client_secret = SecretString::new(app.secret.clone());
    let server = server_with(vec![settings]).await;
    let admin = upstream.admin().await;
    let patch = json!({
        "redirect_uris": [format!("{}/upstream/up/callback", server.issuer)],
        "backchannel_logout_uri": format!("{}/upstream/up/backchannel-logout", server.issuer),
    });
    let at = format!("/v1/admin/clients/{}", app.id);
    upstream.client.patch(at).bearer(&admin.access).json(&patch).send().await.expect(200);
    upstream.sign_up(ADA).await;
    let there = upstream.page_sign_in(ADA).await;
    let mut jar = Jar::default();
    let answer = jar.get(&server, "/upstream/up").await.expect(303);
    let place = answer.header("location").strip_prefix(&upstream.issuer).unwrap().to_owned();
    let call = upstream.client.get(place).header("cookie", format!("__Host-portcullis_session={there}"));
    let answer = call.send().await.expect(303);
    let place = answer.header("location").strip_prefix(&server.issuer).unwrap().to_owned();
    let answer = jar.get(&server, &place).await;
    agreed(&server, &mut jar, answer).await.expect(303);
    assert!(jar.is_in(&server).await);
    // An address that the provider has not verified is no account's: this one has none.
    assert!(!jar.get(&server, "/account/links").await.text().contains(ADA));
    // A second time the answer is of no use.
    let again = jar.clone().get(&server, &place).await;
    assert!(is_refused(&again, "upstream-stale"), "{}", again.header("location"));
    // Signing out there ends what came from there.
    let call = upstream.client.post("/sign-out").header("origin", &upstream.issuer);
    call.header("cookie", format!("__Host-portcullis_session={there}")).form("").send().await.expect(303);
    for _ in 0..200 {
        if !jar.clone().is_in(&server).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the session outlives the one that it came from");
}

#[tokio::test]
async fn an_existing_account_is_linked_by_its_password_only() {
    let (idp, server) = world().await;
    let account = server.sign_up(ADA).await;
    let mut jar = Jar::default();
    let page = sign_in(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    assert!(page.contains("Is this your account?") && jar.session().is_none(), "{page}");
    let ticket = hidden(&page, "ticket");
    let wrong = jar.post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", "wrong wrong")]).await;
    assert!(wrong.expect(401).text().contains("not right"));
    // Neither in another browser, nor from another site.
    let stolen =
        Jar::default().post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await;
    assert!(is_refused(&stolen, "upstream-stale"));
    let form = encode(&[("ticket", &ticket), ("password", PASSWORD)]);
    let foreign = server.client.post("/upstream/confirm").header("cookie", jar.text());
    foreign.header("origin", "https://evil.example").form(&form).send().await.expect(403);
    let right = jar.post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await;
    assert_eq!(right.expect(303).header("location"), "/account/devices");
    assert!(jar.is_in(&server).await);
    // From now on without it, and by the subject, whatever the address is.
    let mut other = Jar::default();
    sign_in(&idp, &server, &mut other, json!({ "email": "new@example.test" })).await.expect(303);
    assert!(other.is_in(&server).await);
    let ada = server.sign_in(ADA).await;
    assert_eq!(ada.account, account);
    let links = server.client.get("/v1/me/links").bearer(&ada.access).send().await.expect(200).json();
    assert_eq!(
        (links["links"][0]["subject"].as_str(), links["links"][0]["upstream"].as_str()),
        (Some("sub-1"), Some("idp"))
    );
    // Taken away: what came by it has ended, the rest lives on.
    let at = format!("/v1/me/links/{}", links["links"][0]["id"].as_str().unwrap());
    server.client.delete(&at).bearer(&ada.access).send().await.expect(204);
    server.client.delete(&at).bearer(&ada.access).send().await.expect(404);
    assert!(!other.is_in(&server).await);
    assert!(jar.is_in(&server).await);
    server.client.get("/v1/me").bearer(&ada.access).send().await.expect(200);
}

/// Whoever is signed in already, and proves it once more to link, may never get the answer: the cookie that their browser has goes on
/// as after any proof, until the new one was shown.
#[tokio::test]
async fn an_answer_to_a_linking_that_is_lost_signs_nobody_out() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    let mut jar = Jar::of(&server.page_sign_in(ADA).await);
    let page = sign_in(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    let mut lost = jar.clone();
    let form = [("ticket", &*ticket), ("password", PASSWORD)];
    lost.post(&server, "/upstream/confirm", &form).await.expect(303);
    assert_ne!(lost.session(), jar.session(), "a proof brings another cookie");
    server.advance(3_600_000);
    assert!(jar.is_in(&server).await, "which nobody has shown");
    // Once it is shown, the one before has a moment left.
    assert!(lost.get(&server, "/account/links").await.expect(200).text().contains("data-link"));
    assert!(jar.is_in(&server).await);
    server.advance(10_000);
    assert!(!jar.is_in(&server).await && lost.is_in(&server).await);
}

#[tokio::test]
async fn an_unverified_address_opens_nothing() {
    let (idp, server) = world().await;
    let account = server.sign_up(ADA).await;
    for (n, verified) in [json!(false), json!("no"), json!(1), Value::Null].into_iter().enumerate() {
        idp.says("/userinfo", 200, &json!({ "sub": format!("s{n}"), "email": ADA, "email_verified": false }));
        let mut jar = Jar::default();
        let changes = json!({ "email_verified": verified, "sub": format!("s{n}") });
        sign_in(&idp, &server, &mut jar, changes).await.expect(303);
        // Somebody, but not Ada: an account of their own, without the address.
        assert!(jar.is_in(&server).await);
        let page = jar.get(&server, "/account/links").await.text();
        assert!(!page.contains(ADA), "{page}");
    }
    let ada = server.sign_in(ADA).await;
    assert_eq!(ada.account, account);
    let links = server.client.get("/v1/me/links").bearer(&ada.access).send().await.expect(200).json();
    assert_eq!(links["links"], json!([]));
}

#[tokio::test]
async fn id_tokens_that_are_not_for_this_sign_in_are_refused() {
    let (idp, server) = world().await;
    let wrong = [
        ("audience", json!({ "aud": "somebody else" })),
        ("audiences without azp", json!({ "aud": ["us", "others"] })),
        ("azp", json!({ "azp": "somebody else" })),
        ("issuer", json!({ "iss": "https://another.example" })),
        ("nonce replay", json!({ "nonce": "of another sign-in" })),
        ("no nonce", json!({ "nonce": null })),
        ("expired", json!({ "exp": now() - 120 })),
        ("no end", json!({ "exp": null })),
        ("old", json!({ "iat": now() - 3600 })),
        ("of the future", json!({ "iat": now() + 3600 })),
        ("logout token", json!({ "events": {} })),
        ("no subject", json!({ "sub": "" })),
        ("long subject", json!({ "sub": "x".repeat(256) })),
        ("confused types", json!({ "sub": 5 })),
    ];
    for (what, changes) in wrong {
        let mut jar = Jar::default();
        let answer = sign_in(&idp, &server, &mut jar, changes).await;
        assert!(is_refused(&answer, "upstream-failed"), "{what}: {} {}", answer.status, answer.header("location"));
        assert!(jar.session().is_none(), "{what}");
    }
    // Several audiences with the right azp are one client's.
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({ "aud": ["us", "others"], "azp": "us" })).await.expect(303);
    assert!(jar.is_in(&server).await);
}

#[tokio::test]
async fn signatures_are_by_the_issuers_keys_and_their_own_algorithm() {
    let (idp, server) = world().await;
    let stranger = Idp::start().await;
    let mut jar = Jar::default();
    let away = leave(&server, &mut jar, "/upstream/idp").await;
    let claims = claims(&idp, &away);
    let unsigned = |header: Value| {
        let part = |value: &Value| b64::encode(value.to_string().as_bytes());
        format!("{}.{}.", part(&header), part(&claims))
    };
    let own_key = json!({ "alg": "ES256", "jwk": stranger.jwk("k1") });
    let tokens = [
        ("alg none", unsigned(json!({ "alg": "none" }))),
        ("no signature", unsigned(header())),
        ("HMAC with the public key", idp.sign(&json!({ "alg": "HS256", "kid": "k1" }), &claims)),
        ("another algorithm", idp.sign(&json!({ "alg": "RS256", "kid": "k1" }), &claims)),
        ("a stranger's key", stranger.sign(&header(), &claims)),
        ("a key of its own", stranger.sign(&own_key, &claims)),
        ("an unknown key", idp.sign(&json!({ "alg": "ES256", "kid": "k9" }), &claims)),
        ("an access token", idp.sign(&json!({ "alg": "ES256", "kid": "k1", "typ": "at+jwt" }), &claims)),
        ("a logout token", idp.sign(&json!({ "alg": "ES256", "kid": "k1", "typ": "logout+jwt" }), &claims)),
        ("extensions", idp.sign(&json!({ "alg": "ES256", "kid": "k1", "crit": ["b64"] }), &claims)),
        ("garbage", "a.b.c".into()),
    ];
    for (what, token) in tokens {
        let mut jar = Jar::default();
        let away = leave(&server, &mut jar, "/upstream/idp").await;
        idp.gives(&token);
        let answer = back(&server, &mut jar, &idp, &away).await;
        assert!(is_refused(&answer, "upstream-failed") && jar.session().is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_state_counts_once_in_the_browser_that_began() {
    let (idp, server) = world().await;
    let mut victim = Jar::default();
    let mut attacker = Jar::default();
    let theirs = leave(&server, &mut attacker, "/upstream/idp").await;
    idp.gives(&idp.sign(&header(), &claims(&idp, &theirs)));
    // Login CSRF: the attacker's answer in the victim's browser, which may have begun a sign-in of its own, or not.
    let answer = back(&server, &mut victim, &idp, &theirs).await;
    assert!(is_refused(&answer, "upstream-stale") && victim.session().is_none());
    let own = leave(&server, &mut victim, "/upstream/idp").await;
    let answer = back(&server, &mut victim, &idp, &theirs).await;
    assert!(is_refused(&answer, "upstream-stale") && victim.session().is_none());
    // Code injection: a code of the attacker's sign-in with the victim's state. Its nonce, and its verifier, are others.
    let answer = back(&server, &mut victim, &idp, &own).await;
    assert!(is_refused(&answer, "upstream-failed") && victim.session().is_none());
    // Once.
    let answer = back(&server, &mut attacker, &idp, &theirs).await;
    agreed(&server, &mut attacker, answer).await.expect(303);
    assert!(attacker.is_in(&server).await);
    let mut again = attacker.clone();
    assert!(is_refused(&back(&server, &mut again, &idp, &theirs).await, "upstream-stale"));
    // Not for ever.
    let mut slow = Jar::default();
    let late = leave(&server, &mut slow, "/upstream/idp").await;
    server.advance(600_000);
    assert!(is_refused(&back(&server, &mut slow, &idp, &late).await, "upstream-stale"));
    // And what says nothing means nothing.
    for query in ["", "state=", "state=x&code=y", &format!("state={}", "x".repeat(500))] {
        let answer = slow.get(&server, &format!("/upstream/idp/callback?{query}")).await;
        assert!(is_refused(&answer, "upstream-stale"), "{query}");
    }
    slow.get(&server, "/upstream/nobody/callback?state=x").await.expect(404);
    slow.get(&server, "/upstream/nobody").await.expect(404);
}

#[tokio::test]
async fn an_answer_of_another_provider_is_not_taken() {
    let (honest, evil) = (Idp::start().await, Idp::start().await);
    let known = [("idp", &honest), ("evil", &evil)].map(|(id, idp)| provider(id, &idp.issuer, UpstreamKind::Oidc));
    let server = server_with(known.into()).await;
    let callback = |id: &str, state: &str, iss: &str| {
        let mut pairs = vec![("state", state), ("code", "the-code")];
        if !iss.is_empty() {
            pairs.push(("iss", iss));
        }
        format!("/upstream/{id}/callback?{}", encode(&pairs))
    };
    // Begun at the one, answered by the other: at the other's address, under the other's name, or under none.
    for (id, iss, notice) in [
        ("evil", &*evil.issuer, "upstream-stale"),
        ("idp", &*evil.issuer, "upstream-failed"),
        ("idp", "", "upstream-failed"),
    ] {
        let mut jar = Jar::default();
        let away = leave(&server, &mut jar, "/upstream/idp").await;
        honest.gives(&honest.sign(&header(), &claims(&honest, &away)));
        evil.gives(&honest.sign(&header(), &claims(&honest, &away)));
        let answer = jar.get(&server, &callback(id, &away.state, iss)).await;
        assert!(is_refused(&answer, notice) && jar.session().is_none(), "{id} {iss}");
    }
    assert!(!evil.calls().iter().any(|(path, ..)| path == "/token"), "no code may reach it");
    assert!(!honest.calls().iter().any(|(path, ..)| path == "/token"), "no injected code may reach it");
    // Who says no is asked again, not signed in.
    let mut jar = Jar::default();
    let away = leave(&server, &mut jar, "/upstream/idp").await;
    let query = encode(&[("state", &away.state), ("error", "access_denied"), ("iss", &honest.issuer)]);
    assert!(is_refused(&jar.get(&server, &format!("/upstream/idp/callback?{query}")).await, "upstream-denied"));
}

#[tokio::test]
async fn hostile_documents_lead_nowhere() {
    let idp = Idp::start().await;
    let answer = |changes: Value| {
        let mut metadata = idp.metadata();
        metadata.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        metadata
    };
    let begin = async |metadata: String| {
        idp.says_text("/.well-known/openid-configuration", 200, &metadata);
        let server = server_with(vec![provider("idp", &idp.issuer, UpstreamKind::Oidc)]).await;
        let mut jar = Jar::default();
        let status = server.client.get("/upstream/idp").send().await.status.as_u16();
        if status != 303 {
            return status;
        }
        let away = leave(&server, &mut jar, "/upstream/idp").await;
        idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
        let answer = back(&server, &mut jar, &idp, &away).await;
        assert!(jar.session().is_none());
        if is_refused(&answer, "upstream-failed") { 0 } else { answer.status.as_u16() }
    };
    for (what, changes, status) in [
        ("another issuer", json!({ "issuer": "https://another.example" }), 503),
        ("a script", json!({ "authorization_endpoint": "javascript:alert(1)" }), 503),
        ("in the clear", json!({ "authorization_endpoint": "http://idp.example/authorize" }), 503),
        ("no token endpoint", json!({ "token_endpoint": null }), 503),
        // SSRF: addresses that only this server could reach.
        ("keys in a private network", json!({ "jwks_uri": "https://10.0.0.1/jwks" }), 0),
        ("keys in the cloud", json!({ "jwks_uri": "http://169.254.169.254/latest/meta-data" }), 0),
        ("tokens in a private network", json!({ "token_endpoint": "http://192.168.0.1/token" }), 0),
        ("tokens by another scheme", json!({ "token_endpoint": "file:///etc/passwd" }), 0),
        ("keys by IPv6", json!({ "jwks_uri": "http://[fd00::1]/jwks" }), 0),
    ] {
        assert_eq!(begin(answer(changes).to_string()).await, status, "{what}");
    }
    let large = format!("{{\"issuer\":\"{}\",\"x\":\"{}\"}}", idp.issuer, "x".repeat(70_000));
    assert_eq!(begin(large).await, 503, "too large");
    assert_eq!(begin("[]".into()).await, 503, "no document");
    let twice = idp.metadata().to_string().replacen('{', "{\"issuer\":\"https://a.example\",", 1);
    assert_eq!(begin(twice).await, 503, "an issuer given twice");
    idp.says_text("/jwks", 200, &format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(200_000)));
    assert_eq!(begin(idp.metadata().to_string()).await, 0, "a key set that is too large");
}

#[tokio::test]
async fn a_provider_that_is_slow_holds_up_nobody_for_long() {
    let idp = Idp::start().await;
    let server = server_with(vec![provider("idp", &idp.issuer, UpstreamKind::Oidc)]).await;
    idp.is_late(Duration::from_secs(60));
    let began = portcullis_app::real::mono();
    // More than may call at once: those beyond are told so at once, and nobody waits longer than a call may last.
    let calls: Vec<_> = (0..24)
        .map(|_| {
            let client = server.client.clone();
            tokio::spawn(async move { client.get("/upstream/idp").send().await.status })
        })
        .collect();
    server.client.get("/sign-in").send().await.expect(200);
    for call in calls {
        assert_eq!(call.await.unwrap(), 503);
    }
    let took_ms = portcullis_app::real::mono().since(began);
    assert!(took_ms < 25_000, "{took_ms}");
}

#[tokio::test]
async fn blocked_accounts_stay_out_and_what_ended_meanwhile_is_dead() {
    let (idp, server) = world().await;
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    let admin = server.admin().await;
    let listed = server.client.get("/v1/admin/accounts").bearer(&admin.access).send().await.expect(200).json();
    let accounts = listed["accounts"].as_array().unwrap();
    let id = accounts.iter().find(|row| row["email"] == ADA).unwrap()["id"].as_str().unwrap().to_owned();
    let act = |path: String, body: Value| server.client.post(path).bearer(&admin.access).json(&body).send();
    // "End all" and a block while somebody is away: what they began is born below the cut.
    let mut away_jar = Jar::default();
    let away = leave(&server, &mut away_jar, "/upstream/idp").await;
    idp.gives(&idp.sign(&header(), &claims(&idp, &away)));
    server.client.delete(format!("/v1/admin/accounts/{id}/sessions")).bearer(&admin.access).send().await.expect(200);
    back(&server, &mut away_jar, &idp, &away).await.expect(409);
    assert!(away_jar.session().is_none() && !jar.is_in(&server).await);
    act(format!("/v1/admin/accounts/{id}/block"), json!({ "reason": "test" })).await.expect(200);
    let mut other = Jar::default();
    let answer = sign_in(&idp, &server, &mut other, json!({})).await.expect(403);
    assert!(answer.text().contains("blocked") && other.session().is_none());
    act(format!("/v1/admin/accounts/{id}/unblock"), json!({})).await.expect(200);
    sign_in(&idp, &server, &mut other, json!({})).await.expect(303);
    assert!(other.is_in(&server).await);
    // A governance tool knows them by the name that they have there.
    let tool = server.application("confidential", json!({ "global_token_revocation": true })).await;
    let body = json!({ "sub_id": { "format": "iss_sub", "iss": idp.issuer, "sub": "sub-1" } });
    let call = server.client.post("/oauth2/global-token-revocation").basic((&tool.id, &tool.secret)).json(&body);
    call.send().await.expect(204);
    assert!(!other.is_in(&server).await);
}

#[tokio::test]
async fn links_are_added_by_who_is_signed_in_and_the_only_way_in_stays() {
    let (idp, server) = world().await;
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    let link = |page: &str| page.split("data-link=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let only = link(&jar.get(&server, "/account/links").await.text()).unwrap();
    // No password, one link: it stays.
    jar.post(&server, "/account/links/remove", &[("link", &only)]).await.expect(409);
    // Linking begins by a form of ours only.
    let foreign = server.client.post("/account/links/add").header("cookie", jar.text());
    foreign.header("origin", "https://evil.example").form("upstream=idp").send().await.expect(403);
    let add = async |jar: &mut Jar, sub: &str, other: Option<&mut Jar>| {
        let page = jar.post(&server, "/account/links/add", &[("upstream", "idp")]).await.expect(200).text();
        let url = page.split("id=\"continue\" href=\"").nth(1).unwrap().split('"').next().unwrap();
        let url = url.replace("&amp;", "&").replace("&#x2f;", "/");
        let value = |name: &str| parameter(&url, name).unwrap();
        let away = Away { state: value("state"), nonce: value("nonce"), challenge: String::new() };
        let mut claims = claims(&idp, &away);
        claims["sub"] = sub.into();
        idp.gives(&idp.sign(&header(), &claims));
        back(&server, other.unwrap_or(jar), &idp, &away).await
    };
    let answer = add(&mut jar, "sub-2", None).await.expect(303);
    assert_eq!(answer.header("location"), "/account/links?done=back");
    let page = jar.get(&server, "/account/links").await.text();
    assert_eq!(page.matches("data-link").count(), 2);
    // Whoever it is now signs in to the same account; and to no second one.
    let mut other = Jar::default();
    sign_in(&idp, &server, &mut other, json!({ "sub": "sub-2" })).await.expect(303);
    assert_eq!(other.get(&server, "/account/links").await.text().matches("data-link").count(), 2);
    let mut eve = Jar::default();
    sign_in(&idp, &server, &mut eve, json!({ "sub": "eve", "email": "eve@example.test" })).await.expect(303);
    add(&mut eve, "sub-2", None).await.expect(409);
    // Begun by one, finished in a browser of another: nothing.
    let answer = add(&mut eve, "sub-9", Some(&mut jar.clone())).await;
    assert!(is_refused(&answer, "upstream-stale"));
    jar.post(&server, "/account/links/remove", &[("link", &only)]).await.expect(303);
    // A sign-in that is too old removes and adds nothing.
    server.advance(2 * 3_600_000);
    let answer = jar.post(&server, "/account/links/add", &[("upstream", "idp")]).await.expect(303);
    assert!(answer.header("location").starts_with("/sign-in?again=1"));
}

#[tokio::test]
async fn proving_again_is_asked_of_the_provider() {
    let (idp, server) = world().await;
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({})).await.expect(303);
    let before = jar.session().unwrap().to_owned();
    for (auth_time, holds) in [(Value::Null, false), (json!(now() - 3600), false), (json!(now()), true)] {
        let answer = jar.get(&server, "/upstream/idp?again=1&return_to=%2Faccount%2Fapps").await.expect(303);
        let place = answer.header("location").to_owned();
        let value = |name: &str| parameter(&place, name).unwrap_or_default();
        assert_eq!((value("prompt").as_str(), value("max_age").as_str()), ("login", "0"));
        let away = Away { state: value("state"), nonce: value("nonce"), challenge: String::new() };
        let mut claims = claims(&idp, &away);
        claims["auth_time"] = auth_time.clone();
        if auth_time.is_null() {
            claims.as_object_mut().unwrap().remove("auth_time");
        }
        idp.gives(&idp.sign(&header(), &claims));
        let answer = back(&server, &mut jar, &idp, &away).await;
        assert_eq!(answer.header("location") == "/account/apps", holds, "{auth_time}");
    }
    // The same session, no second device; and another cookie.
    let session = |cookie: &str| b64::decode(cookie.strip_prefix("pcs_").unwrap()).unwrap()[..16].to_vec();
    assert_eq!(session(jar.session().unwrap()), session(&before));
    assert_ne!(jar.session(), Some(&*before));
}

/// Nobody is signed in, and the application does not ask for a proof that was just made: the provider need not ask for one either,
/// and one that never does is offered.
#[tokio::test]
async fn an_application_makes_nobody_prove_anew_who_is_known_elsewhere() {
    let (idp, hub) = (Idp::start().await, Idp::start().await);
    let settings = [("idp", &idp, UpstreamKind::Oidc), ("hub", &hub, UpstreamKind::GitHub)];
    let server = server_with(settings.map(|(id, at, kind)| provider(id, &at.issuer, kind)).into()).await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    for (more, anew) in [(vec![], false), (vec![("prompt", "login")], true), (vec![("max_age", "60")], true)] {
        let mut jar = Jar::default();
        let asked = jar.get(&server, &format!("/oauth2/authorize?{}", request(&app, &more))).await.expect(303);
        let page = jar.get(&server, asked.header("location")).await.expect(200).text();
        let page = page.replace("&amp;", "&").replace("&#x2f;", "/");
        assert_eq!(page.contains("Continue with Provider hub"), !anew, "{more:?}");
        let link = page.split("href=\"/upstream/idp?").nth(1).unwrap().split('"').next().unwrap();
        let away = jar.get(&server, &format!("/upstream/idp?{link}")).await.expect(303);
        let prompt = parameter(away.header("location"), "prompt");
        assert_eq!(prompt.as_deref(), anew.then_some("login"), "{more:?}");
    }
}

fn part(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&b64::decode(part).unwrap()).unwrap()
}

/// What an application is told of how the user of this browser signed in: in the ID token, in the access token, and by
/// introspection, with the first tokens of an online and an offline grant, and with the next ones.
async fn told_methods(server: &TestServer, app: &Application, jar: &Jar) -> Value {
    let mut told = vec![];
    for scope in ["openid", "openid offline_access"] {
        let first = server.granted(app, jar.session().unwrap(), scope).await;
        let next = server.refresh_for(app, first["refresh_token"].as_str().unwrap()).await.expect(200).json();
        for tokens in [first, next] {
            let form = encode(&[("token", tokens["access_token"].as_str().unwrap())]);
            let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret)).form(&form);
            let asked = call.send().await.expect(200).json();
            assert_eq!(asked["active"], true);
            told.extend(
                [part(&tokens["id_token"]), part(&tokens["access_token"]), asked].map(|from| from["amr"].clone()),
            );
        }
    }
    assert!(told.len() == 12 && told.iter().all(|one| *one == told[0]), "{told:?}");
    told.remove(0)
}

/// What a provider named stays what the tokens that were asked for then, or with the cookie of then, say; a proof by password since is
/// no method of theirs (OpenID Connect Core §12.2).
#[tokio::test]
async fn methods_are_those_of_the_proof_that_was_there() {
    let (idp, server) = world().await;
    server.sign_up(ADA).await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let mut jar = Jar::default();
    let page = sign_in(&idp, &server, &mut jar, json!({})).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    jar.post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await.expect(303);
    // Linked: from now on they come by the provider alone.
    let mut jar = Jar::default();
    sign_in(&idp, &server, &mut jar, json!({ "amr": ["hwk"], "auth_time": now() - 60 })).await.expect(303);
    assert_eq!(told_methods(&server, &app, &jar).await, json!(["hwk"]));
    let held = server.granted(&app, jar.session().unwrap(), "openid").await;
    let old = jar.clone();
    server.advance(5_000);
    jar.post(&server, "/sign-in", &[("identifier", ADA), ("password", PASSWORD)]).await.expect(303);
    assert_ne!(jar.session(), old.session());
    assert_eq!(told_methods(&server, &app, &old).await, json!(["hwk"]), "the old cookie's own");
    assert_eq!(told_methods(&server, &app, &jar).await, json!(["pwd"]));
    let next = server.refresh_for(&app, held["refresh_token"].as_str().unwrap()).await.expect(200).json();
    assert_eq!(part(&next["access_token"])["amr"], json!(["hwk"]));
}

#[tokio::test]
async fn methods_are_those_that_the_provider_names_and_no_guess() {
    let (idp, server) = world().await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    let long = "x".repeat(33);
    for (n, (said, told)) in [
        (json!(["pwd", "otp", "mfa"]), json!(["pwd", "otp", "mfa"])),
        (json!(["hwk", "hwk"]), json!(["hwk"])),
        (Value::Null, json!([])),
        (json!([]), json!([])),
        // What is no list of names, or has one that no token should repeat, says nothing at all.
        (json!("pwd"), json!([])),
        (json!(["pwd", 1]), json!([])),
        (json!(["pwd", "<script>"]), json!([])),
        (json!([long]), json!([])),
        (json!(["a", "b", "c", "d", "e", "f", "g", "h", "i"]), json!([])),
    ]
    .into_iter()
    .enumerate()
    {
        let mut jar = Jar::default();
        let changes = json!({ "amr": said, "sub": format!("s{n}"), "email": format!("s{n}@example.test") });
        sign_in(&idp, &server, &mut jar, changes).await.expect(303);
        assert_eq!(told_methods(&server, &app, &jar).await, told, "{said}");
    }
    // Whoever gives a password here used one.
    server.sign_up("eve@example.test").await;
    let by_password = Jar::of(&server.page_sign_in("eve@example.test").await);
    assert_eq!(told_methods(&server, &app, &by_password).await, json!(["pwd"]));
}

#[tokio::test]
async fn who_proves_again_is_known_by_the_methods_of_the_last_proof() {
    let (idp, server) = world().await;
    let app = server.application("confidential", json!({ "consent": "implied" })).await;
    server.sign_up(ADA).await;
    let mut jar = Jar::default();
    let page = sign_in(&idp, &server, &mut jar, json!({ "amr": ["face"] })).await.expect(200).text();
    let ticket = hidden(&page, "ticket");
    jar.post(&server, "/upstream/confirm", &[("ticket", &ticket), ("password", PASSWORD)]).await.expect(303);
    // The link was made by a password, and that is what this session rests on.
    assert_eq!(told_methods(&server, &app, &jar).await, json!(["pwd"]));
    let answer = jar.get(&server, "/upstream/idp?again=1&return_to=%2Faccount%2Fapps").await.expect(303);
    let place = answer.header("location").to_owned();
    let value = |name: &str| parameter(&place, name).unwrap_or_default();
    let away = Away { state: value("state"), nonce: value("nonce"), challenge: String::new() };
    let mut claims = claims(&idp, &away);
    (claims["auth_time"], claims["amr"]) = (json!(now()), json!(["face"]));
    idp.gives(&idp.sign(&header(), &claims));
    assert_eq!(back(&server, &mut jar, &idp, &away).await.header("location"), "/account/apps");
    assert_eq!(told_methods(&server, &app, &jar).await, json!(["face"]));
    let again = [("identifier", ADA), ("password", PASSWORD), ("return_to", "/account/apps"), ("again", "1")];
    jar.post(&server, "/sign-in", &again).await.expect(303);
    assert_eq!(told_methods(&server, &app, &jar).await, json!(["pwd"]));
}

#[tokio::test]
async fn github_is_asked_by_its_own_api() {
    let hub = Idp::start().await;
    let server = server_with(vec![provider("github", &hub.issuer, UpstreamKind::GitHub)]).await;
    hub.says(
        "/login/oauth/access_token",
        200,
        &json!({ "access_token": "gho_x", "token_type": "bearer", "scope": "" }),
    );
    hub.says("/api/v3/user", 200, &json!({ "id": 583_231, "login": "octocat", "name": null }));
    let emails = |verified: bool| {
        json!([
            { "email": "old@example.test", "primary": false, "verified": true },
            { "email": ADA, "primary": true, "verified": verified },
        ])
    };
    let enter = async |jar: &mut Jar| {
        let away = leave(&server, jar, "/upstream/github").await;
        let query = encode(&[("state", &away.state), ("code", "c")]);
        let answer = jar.get(&server, &format!("/upstream/github/callback?{query}")).await;
        agreed(&server, jar, answer).await
    };
    hub.says("/api/v3/user/emails", 200, &emails(true));
    let mut jar = Jar::default();
    enter(&mut jar).await.expect(303);
    let page = jar.get(&server, "/account/links").await.expect(200).text();
    assert!(page.contains(ADA) && page.contains("octocat"), "{page}");
    let calls = hub.calls();
    assert!(calls.iter().any(|(path, auth, _)| path == "/api/v3/user" && auth == "Bearer gho_x"));
    // By the number, not by the name or the address.
    hub.says("/api/v3/user", 200, &json!({ "id": 7, "login": "octocat", "name": null }));
    hub.says("/api/v3/user/emails", 200, &emails(false));
    let mut other = Jar::default();
    enter(&mut other).await.expect(303);
    assert!(!other.get(&server, "/account/links").await.expect(200).text().contains(ADA));
    // A refusal comes with status 200 there.
    hub.says("/login/oauth/access_token", 200, &json!({ "error": "bad_verification_code" }));
    assert!(is_refused(&enter(&mut Jar::default()).await, "upstream-failed"));
    // It cannot be asked to have somebody prove anew who they are: it would send the browser back without a word to its user.
    let page = server.client.get("/sign-in?again=1").send().await.expect(200).text();
    assert!(!page.contains("Continue with"));
    jar.get(&server, "/upstream/github?again=1&return_to=%2Faccount%2Flinks").await.expect(404);
}

#[tokio::test]
async fn without_sign_up_only_who_is_known_comes_in() {
    let idp = Idp::start().await;
    let mut options = Options::default();
    options.settings.sign_up = false;
    options.settings.upstreams = vec![provider("idp", &idp.issuer, UpstreamKind::Oidc)];
    let server = TestServer::start(options).await;
    let answer = sign_in(&idp, &server, &mut Jar::default(), json!({})).await;
    assert!(is_refused(&answer, "upstream-nobody"));
}

#[tokio::test]
async fn nobody_leaves_without_end() {
    let idp = Idp::start().await;
    let mut options = Options::default();
    options.settings.upstreams = vec![provider("idp", &idp.issuer, UpstreamKind::Oidc)];
    let server = TestServer::behind_a_proxy(options).await;
    // Who comes back is not counted.
    for _ in 0..70 {
        sign_in(&idp, &server, &mut Jar::default(), json!({})).await.expect(303);
    }
    let mut left = 0;
    let told = loop {
        let answer = server.client.get("/upstream/idp").send().await;
        if answer.status != 303 || left == 120 {
            break answer.expect(429);
        }
        left += 1;
    };
    assert!(left >= 60, "{left}");
    assert!(!told.header("retry-after").is_empty());
}
