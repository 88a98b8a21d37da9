//! Tokens that are taken for something else, made up, or meant for others.
use super::{ADA, claims, with_cookie};
use portcullis_app::Registration;
use portcullis_testkit::application::{REDIRECT, VERIFIER, encode};
use portcullis_testkit::{Answer, Application, Options, Receiver, Signer, TestServer, parameter, signer};
use portcullis_wire::b64;
use serde_json::{Value, json};

const EVE: &str = "eve@example.test";
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What somebody holds, or finds: each kind of token and secret that the server or a client makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Access,
    Id,
    Refresh,
    Code,
    DeviceCode,
    RequestUri,
    LogoutToken,
    OwnAccess,
    OwnRefresh,
    PageCookie,
    RegistrationToken,
    Assertion,
    Proof,
}

/// Where something of the kind is shown. Of each the last are those that use it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Introspection,
    Userinfo,
    Api,
    AuthorizeHint,
    SubjectToken,
    Registration,
    Cookie,
    PushedRequest,
    ClientAssertion,
    ProofHeader,
    RefreshGrant,
    OwnRefresh,
    CodeGrant,
    DeviceGrant,
    LogoutHint,
}

const PLACES: [Place; 15] = [
    Place::Introspection,
    Place::Userinfo,
    Place::Api,
    Place::AuthorizeHint,
    Place::SubjectToken,
    Place::Registration,
    Place::Cookie,
    Place::PushedRequest,
    Place::ClientAssertion,
    Place::ProofHeader,
    Place::RefreshGrant,
    Place::OwnRefresh,
    Place::CodeGrant,
    Place::DeviceGrant,
    Place::LogoutHint,
];

/// The whole truth of what is taken where.
fn fits(kind: Kind, place: Place) -> bool {
    match place {
        Place::Introspection => matches!(kind, Kind::Access | Kind::OwnAccess),
        Place::Userinfo => kind == Kind::Access,
        // Tokens of a sign-in are for the services of the house, which may act with them (docs/oauth-machines.md).
        Place::SubjectToken => matches!(kind, Kind::Access | Kind::OwnAccess),
        Place::Api => kind == Kind::OwnAccess,
        Place::AuthorizeHint | Place::LogoutHint => kind == Kind::Id,
        Place::Registration => kind == Kind::RegistrationToken,
        Place::Cookie => kind == Kind::PageCookie,
        Place::PushedRequest => kind == Kind::RequestUri,
        Place::ClientAssertion => kind == Kind::Assertion,
        Place::ProofHeader => kind == Kind::Proof,
        Place::RefreshGrant => kind == Kind::Refresh,
        Place::OwnRefresh => kind == Kind::OwnRefresh,
        Place::CodeGrant => kind == Kind::Code,
        Place::DeviceGrant => kind == Kind::DeviceCode,
    }
}

struct World {
    server: TestServer,
    app: Application,
    /// The client that proves who it is by its key.
    signs: Application,
    /// A client that registered itself: the path of its registration.
    registered: String,
    cookie: String,
    eve: String,
    held: Vec<(Kind, String)>,
}

/// A client's assertion.
fn assertion(server: &TestServer, app: &Application, key: &Signer) -> String {
    let now = server.app.now().secs();
    let claims = json!({
        "iss": app.id, "sub": app.id, "aud": server.issuer, "jti": signer::fresh_id(), "iat": now, "exp": now + 60,
    });
    key.sign(&json!({ "alg": key.alg(), "typ": "JWT" }), &claims)
}

async fn world() -> World {
    let mut options = Options::default();
    options.settings.clients.registration = Registration::Open;
    let server = TestServer::start(options).await;
    server.sign_up(ADA).await;
    server.sign_up(EVE).await;
    let receiver = Receiver::start().await;
    let app = json!({
        "consent": "implied", "grant_types": ["authorization_code", "refresh_token", DEVICE, EXCHANGE],
        "backchannel_logout_uri": format!("{}/logout", receiver.base), "resources": ["https://b.example/"],
    });
    let app = server.application("confidential", app).await;
    let key = Signer::es256();
    let signs = json!({ "token_endpoint_auth_method": "private_key_jwt", "jwks": { "keys": [key.jwk()] } });
    let signs = server.application("confidential", signs).await;
    // A logout token of a session that has ended.
    let gone = server.page_sign_in(ADA).await;
    server.granted(&app, &gone, "openid").await;
    with_cookie(server.client.post("/sign-out"), &gone).header("origin", &server.issuer).send().await.expect(303);
    let logout = receiver.wait_for(1).await[0].trim_start_matches("logout_token=").to_owned();
    let cookie = server.page_sign_in(ADA).await;
    let eve = server.page_sign_in(EVE).await;
    let tokens = server.granted(&app, &cookie, "openid read").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let begun = server.client.post("/oauth2/device").basic((&app.id, &app.secret)).form("scope=read");
    let begun = begun.send().await.expect(200).json();
    let answered =
        super::post(&server, &cookie, "/device", &encode(&[("user_code", &text(&begun["user_code"]))])).await.text();
    let hidden = |name: &str| super::hidden(&answered, name);
    let form = encode(&[("user_code", &hidden("user_code")), ("shown", &hidden("shown")), ("decision", "allow")]);
    super::post(&server, &cookie, "/device/answer", &form).await.expect(200);
    let pushed = server.client.post("/oauth2/par").basic((&app.id, &app.secret));
    let pushed = pushed.form(&portcullis_testkit::application::request(&app, &[])).send().await.expect(201).json();
    let own = server.sign_in(ADA).await;
    let body = json!({ "redirect_uris": [REDIRECT] });
    let made = server.client.post("/oauth2/register").json(&body).send().await.expect(201).json();
    let registered = text(&made["registration_client_uri"]).replace(&server.issuer, "");
    let nonce = server.app.dpop_nonce();
    let proof =
        key.proof("POST", &format!("{}/oauth2/token", server.issuer), server.app.now().secs(), Some(&nonce), None);
    let held = vec![
        (Kind::Access, text(&tokens["access_token"])),
        (Kind::Id, text(&tokens["id_token"])),
        (Kind::Refresh, text(&tokens["refresh_token"])),
        (Kind::Code, server.code(&app, &cookie, "openid").await),
        (Kind::DeviceCode, text(&begun["device_code"])),
        (Kind::RequestUri, text(&pushed["request_uri"])),
        (Kind::LogoutToken, logout),
        (Kind::OwnAccess, own.access),
        (Kind::OwnRefresh, own.refresh),
        (Kind::PageCookie, cookie.clone()),
        (Kind::RegistrationToken, text(&made["registration_access_token"])),
        (Kind::Assertion, assertion(&server, &signs, &key)),
        (Kind::Proof, proof),
    ];
    World { server, app, signs, registered, cookie, eve, held }
}

impl World {
    async fn by_grant(&self, pairs: &[(&str, &str)]) -> Answer {
        self.server.token(&self.app, pairs).await
    }

    /// Whether something that is shown here as if it were the right thing is taken for that.
    async fn takes(&self, place: Place, shown: &str) -> bool {
        let (server, app) = (&self.server, &self.app);
        let bearer = |path: &str| server.client.get(path).bearer(shown).send();
        match place {
            Place::Introspection => {
                let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret));
                call.form(&encode(&[("token", shown)])).send().await.expect(200).json()["active"] == true
            }
            Place::Userinfo => bearer("/oauth2/userinfo").await.status == 200,
            Place::Api => bearer("/v1/me").await.status == 200,
            Place::Registration => bearer(&self.registered).await.status == 200,
            // Of who is signed in: a hint that is none names nobody, and nobody is signed in silently by it. Of somebody else: never.
            Place::AuthorizeHint => {
                let more = [("id_token_hint", shown), ("prompt", "none")];
                let error = |place: &str| parameter(place, "error");
                let other = server.authorize(app, &self.eve, &more).await.expect(303).header("location").to_owned();
                assert_eq!(error(&other).as_deref(), Some("login_required"));
                let place = server.authorize(app, &self.cookie, &more).await.expect(303).header("location").to_owned();
                let taken = parameter(&place, "code").is_some();
                assert!(taken || error(&place).as_deref() == Some("login_required"), "{place}");
                taken
            }
            Place::LogoutHint => {
                let query = encode(&[("id_token_hint", shown)]);
                let call = with_cookie(server.client.get(format!("/oauth2/logout?{query}")), &self.cookie);
                call.send().await.expect(200).text().contains("You are signed out")
            }
            Place::SubjectToken => {
                let usual =
                    [("grant_type", EXCHANGE), ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")];
                let rest = [("subject_token", shown), ("resource", "https://b.example/")];
                self.by_grant(&[usual, rest].concat()).await.status == 200
            }
            Place::Cookie => with_cookie(server.client.get("/account/devices"), shown).send().await.status == 200,
            Place::PushedRequest => {
                let query = encode(&[("client_id", &app.id), ("request_uri", shown)]);
                let call =
                    with_cookie(server.client.get(format!("/oauth2/authorize?{query}")), &self.cookie).send().await;
                parameter(call.header("location"), "code").is_some()
            }
            Place::ClientAssertion => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let pairs = [("grant_type", "refresh_token"), ("refresh_token", "x"), ("client_id", &*self.signs.id)];
                let form =
                    encode(&[&pairs[..], &[("client_assertion_type", kind), ("client_assertion", shown)]].concat());
                server.client.post("/oauth2/token").form(&form).send().await.json()["error"] == "invalid_grant"
            }
            Place::ProofHeader => {
                let form = encode(&[("grant_type", "refresh_token"), ("refresh_token", "x")]);
                let call = server.client.post("/oauth2/token").basic((&app.id, &app.secret)).header("dpop", shown);
                call.form(&form).send().await.json()["error"] == "invalid_grant"
            }
            Place::RefreshGrant => {
                self.by_grant(&[("grant_type", "refresh_token"), ("refresh_token", shown)]).await.status == 200
            }
            Place::OwnRefresh => {
                let body = json!({ "refresh_token": shown });
                server.client.post("/v1/sessions/refresh").json(&body).send().await.status == 200
            }
            Place::CodeGrant => {
                let usual = [("grant_type", "authorization_code"), ("redirect_uri", REDIRECT)];
                self.by_grant(&[usual, [("code", shown), ("code_verifier", VERIFIER)]].concat()).await.status == 200
            }
            Place::DeviceGrant => self.by_grant(&[("grant_type", DEVICE), ("device_code", shown)]).await.status == 200,
        }
    }
}

/// RFC 9700 §4.6, RFC 8725 §2.8, §3.11, §3.12: each kind of token and secret at each place where another one is expected. It is taken where it
/// belongs and nowhere else, and having been shown elsewhere does it no harm.
#[tokio::test]
async fn nothing_is_taken_for_something_else() {
    let world = world().await;
    for own in [false, true] {
        for place in PLACES {
            for (kind, shown) in world.held.iter().filter(|(kind, _)| fits(*kind, place) == own) {
                assert_eq!(world.takes(place, shown).await, own, "{kind:?} at {place:?}");
            }
        }
    }
}

/// RFC 9700 §2.3, §4.10.2: userinfo is a resource, too. A token that was made for another one alone is not taken there, so that whoever runs
/// that one learns no more of its users than it was told.
#[tokio::test]
async fn a_token_for_another_resource_is_refused() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let (one, ours) = ("https://one.example", server.issuer.clone());
    let app = server.application("confidential", json!({ "resources": [one, ours], "consent": "implied" })).await;
    let cookie = server.page_sign_in(ADA).await;
    for (resources, taken) in [(vec![], true), (vec![one], false), (vec![&*ours], true), (vec![one, &*ours], true)] {
        let asked: Vec<_> = resources.iter().map(|resource| ("resource", *resource)).collect();
        let place = server.authorize(&app, &cookie, &asked).await.expect(303).header("location").to_owned();
        let tokens = server.redeem(&app, &parameter(&place, "code").unwrap()).await.expect(200).json();
        let told = server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await;
        match taken {
            true => drop(told.expect(200)),
            false => drop(told.expect_problem("token_malformed")),
        }
        if resources.len() == 2 {
            let refresh = tokens["refresh_token"].as_str().unwrap();
            let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("resource", one)];
            let less = server.token(&app, &pairs).await.expect(200).json();
            let told =
                server.client.get("/oauth2/userinfo").bearer(less["access_token"].as_str().unwrap()).send().await;
            told.expect_problem("token_malformed");
        }
    }
}

/// A token with another header, and a signature that `sign` makes.
fn forged(claims: &Value, header: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| b64::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = b64::encode(&sign(&input));
    format!("{input}.{signature}")
}

/// RFC 8725 §2.1, §3.1: no algorithm but the key's own, no key but ours, whatever the header says; for access tokens and for the hints that
/// ID tokens are.
#[tokio::test]
async fn algorithm_confusion() {
    let server = TestServer::usual().await;
    server.sign_up(ADA).await;
    let app = json!({ "id_token_signed_response_alg": "RS256", "consent": "implied" });
    let app = server.application("confidential", app).await;
    server.advance(30_000);
    let cookie = server.page_sign_in(ADA).await;
    let tokens = server.granted(&app, &cookie, "openid").await;
    let listed = server.client.get("/.well-known/jwks.json").send().await.expect(200);
    let keys = listed.json()["keys"].as_array().unwrap().clone();
    let mine = Signer::es256();
    for (name, typ) in [("access_token", "at+jwt"), ("id_token", "JWT")] {
        let good = tokens[name].as_str().unwrap();
        let claims = claims(&tokens[name]);
        let head: Value = serde_json::from_slice(&b64::decode(good.split('.').next().unwrap()).unwrap()).unwrap();
        let (kid, alg) = (&head["kid"], head["alg"].as_str().unwrap());
        let key = keys.iter().find(|key| key["kid"] == *kid).unwrap();
        let with = |more: Value| {
            let mut header = json!({ "alg": alg, "typ": typ, "kid": kid });
            header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            header
        };
        let signature = b64::decode(good.rsplit('.').next().unwrap()).unwrap();
        let mut wrong = vec![];
        for none in ["none", "None", "NONE", "nOnE", ""] {
            wrong.push(forged(&claims, &with(json!({ "alg": none })), |_| vec![]));
            wrong.push(forged(&claims, &with(json!({ "alg": none })), |_| signature.clone()));
        }
        // By the public key as a secret, in every form that it is published or kept in.
        let bytes = |name: &str| key[name].as_str().map(|text| b64::decode(text).unwrap()).unwrap_or_default();
        let mut point = vec![4];
        point.extend(bytes("x"));
        point.extend(bytes("y"));
        let spki = [
            &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
                0x48,
            ][..],
            &[0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00],
            &point,
        ]
        .concat();
        for secret in [
            key.to_string().into_bytes(),
            listed.body.to_vec(),
            point,
            spki,
            bytes("x"),
            bytes("n"),
            kid.as_str().unwrap().into(),
            app.secret.clone().into_bytes(),
            vec![],
        ] {
            wrong.push(forged(&claims, &with(json!({ "alg": "HS256" })), |input| signer::hmac(&secret, input)));
        }
        // Another algorithm's name on a good signature, and another key of ours for it.
        for other in ["ES256", "ES384", "ES512", "ES256K", "RS256", "RS512", "PS256", "Ed25519", "EdDSA", "es256"] {
            if other != alg {
                wrong.push(forged(&claims, &with(json!({ "alg": other })), |_| signature.clone()));
            }
            for key in keys.iter().filter(|one| one["kid"] != *kid) {
                wrong.push(forged(&claims, &with(json!({ "alg": other, "kid": key["kid"] })), |_| signature.clone()));
            }
        }
        // Keys that the token brings along or points to, and marks that must be understood.
        let jwk = mine.jwk();
        let mut sign_own = |more: Value| wrong.push(mine.sign(&with(more), &claims));
        sign_own(json!({ "alg": "ES256" }));
        sign_own(json!({ "alg": "ES256", "kid": Value::Null }));
        sign_own(json!({ "alg": "ES256", "kid": mine.jkt() }));
        sign_own(json!({ "alg": "ES256", "kid": "../../../../dev/null" }));
        sign_own(json!({ "alg": "ES256", "kid": "' OR 1=1 --" }));
        sign_own(json!({ "alg": "ES256", "jwk": jwk }));
        sign_own(json!({ "alg": "ES256", "jwk": jwk, "kid": mine.jkt() }));
        sign_own(json!({ "alg": "ES256", "jku": "https://evil.example/jwks" }));
        sign_own(json!({ "alg": "ES256", "x5u": "https://evil.example/chain" }));
        sign_own(json!({ "alg": "ES256", "x5c": ["AAAA"] }));
        sign_own(json!({ "alg": "ES256", "crit": ["b64"], "b64": false }));
        // The signature itself: none, shorter, longer, zero, and on other claims.
        for other in [
            vec![],
            vec![0; signature.len()],
            signature[..signature.len() - 1].to_vec(),
            [&signature[..], &[0]].concat(),
        ] {
            wrong.push(forged(&claims, &head, |_| other.clone()));
        }
        let mut richer = claims.clone();
        richer["scope"] = "openid account admin".into();
        wrong.push(forged(&richer, &head, |_| signature.clone()));
        wrong.push(format!("{good}."));
        wrong.push(format!("{good}.{}", b64::encode(&signature)));
        wrong.push(format!(" {good}"));
        for forged in &wrong {
            let call = server.client.get("/oauth2/userinfo").bearer(forged).send().await;
            let trimmed = forged.trim_start() == good;
            assert!(call.status == 401 || (trimmed && name == "access_token"), "{name}: {forged}");
            let call = server.client.post("/oauth2/introspect").basic((&app.id, &app.secret));
            let told = call.form(&encode(&[("token", forged)])).send().await.expect(200).json();
            assert_eq!(told, json!({ "active": false }), "{name}: {forged}");
            let hint = encode(&[("id_token_hint", forged), ("client_id", &app.id)]);
            let page =
                with_cookie(server.client.get(format!("/oauth2/logout?{hint}")), &cookie).send().await.expect(200);
            assert!(page.text().contains("Sign out?"), "{name}: {forged}");
        }
        assert!(wrong.len() > 50, "{}", wrong.len());
    }
    // The good ones are good still.
    server.client.get("/oauth2/userinfo").bearer(tokens["access_token"].as_str().unwrap()).send().await.expect(200);
    let hint = encode(&[("id_token_hint", tokens["id_token"].as_str().unwrap())]);
    let page = with_cookie(server.client.get(format!("/oauth2/logout?{hint}")), &cookie).send().await.expect(200);
    assert!(page.text().contains("You are signed out"));
}
