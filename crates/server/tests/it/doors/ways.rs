//! How each door is entered: the calls that users, operators, applications and other providers make.
use super::holdings::{ADA, BYE, SESSIONS, World, clock, text};
use portcullis_domain::changes::Changes;
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::risk::{Hit, Judge, Outcome, Signals, Verdict};
use portcullis_testkit::application::encode;
use portcullis_testkit::server::PASSWORD;
use portcullis_testkit::{Answer, Application};
use portcullis_wire::b64;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

const NEW_PASSWORD: &str = "another good password";

/// A way in. The table's browser is what most of them are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The browser's own page.
    SignOut,
    /// The phone ends the browser's session.
    EndOne,
    /// The phone ends the API key.
    EndApiKey,
    /// The phone ends the application's own session.
    EndConnected,
    /// The phone ends the device's session.
    EndDevice,
    /// The phone ends all others.
    EndOthers,
    /// The phone ends everything, itself too.
    EndAll,
    /// The phone changes the password.
    PasswordChange,
    AdminEndSession,
    AdminEndAccount,
    /// Of Ada.
    Block,
    /// Of the account that the service acts as.
    BlockService,
    AdminDelete,
    DeleteOneself,
    Everyone,
    /// A refresh token of the grant comes back that was used twice over.
    Replay,
    /// One more sign-in than there may be sessions.
    SessionLimit,
    ClientDisabled,
    /// Of the client that exchanged.
    ServiceDisabled,
    /// By the client itself (RFC 7592 §2.3).
    ClientDeleted,
    Filter,
    /// By the operator, on the admin socket.
    Refound,
    CodeReplay,
    /// RFC 7009, of the refresh token.
    RevokeRefresh,
    /// RFC 7009, of the access token.
    RevokeAccess,
    /// On the page.
    Disconnect,
    DisconnectByApi,
    /// With the application's hint.
    RpLogout,
    GlobalRevocation,
    UpstreamLogout,
    LinkRemoved,
    KeyRevoked,
    /// A signal from outside, and a rule that ends everything for it.
    Signal,
    /// A signal from outside, and a rule that blocks for it.
    RuleBlocks,
    /// One more sign-in, and a rule that ends everything that was there before.
    RuleAtSignIn,
    /// The phone shows a wrong password, and a rule ends its session for it.
    RuleAtProof,
    /// The phone changes the password, and a rule ends its session instead.
    RuleAtChange,
    /// By a link in a mail, on the page.
    PasswordReset,
    /// By the link in the mail about the browser's sign-in: that session.
    NotMe,
    /// The same: and all others.
    NotMeAtAll,
    /// The application's secret; the old one counts no more.
    SecretRotated,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Entered {
    /// When it was answered, by [`clock`].
    pub at: i64,
    /// Whether the answer says that it is true everywhere.
    pub enforced: bool,
}

impl Entered {
    fn now() -> Self {
        Self { at: clock(), enforced: false }
    }
    /// Of an answer that waited until it was true everywhere.
    fn enforced(answer: &Answer) -> Self {
        let told = answer.json();
        assert_eq!(told["enforcement"]["complete"], true, "{told}");
        Self { enforced: true, ..Self::now() }
    }
}

impl Way {
    /// Goes through it.
    pub async fn enter(self, world: &mut World) -> Entered {
        match self {
            Self::SignOut | Self::Disconnect | Self::RpLogout => self.by_page(world).await,
            Self::PasswordReset | Self::NotMe | Self::NotMeAtAll => self.by_mail(world).await,
            Self::EndOne
            | Self::EndApiKey
            | Self::EndConnected
            | Self::EndDevice
            | Self::EndOthers
            | Self::EndAll
            | Self::PasswordChange
            | Self::DeleteOneself
            | Self::DisconnectByApi
            | Self::LinkRemoved
            | Self::SessionLimit
            | Self::RuleAtSignIn
            | Self::RuleAtProof
            | Self::RuleAtChange => self.by_phone(world).await,
            Self::AdminEndSession
            | Self::AdminEndAccount
            | Self::Block
            | Self::BlockService
            | Self::AdminDelete
            | Self::Everyone
            | Self::ClientDisabled
            | Self::ServiceDisabled
            | Self::Filter
            | Self::KeyRevoked
            | Self::Signal
            | Self::RuleBlocks
            | Self::SecretRotated => self.by_admin(world).await,
            Self::Refound => refound(world).await,
            Self::Replay
            | Self::ClientDeleted
            | Self::CodeReplay
            | Self::RevokeRefresh
            | Self::RevokeAccess
            | Self::GlobalRevocation
            | Self::UpstreamLogout => self.by_client(world).await,
        }
    }

    async fn by_page(self, world: &mut World) -> Entered {
        let server = &world.server;
        match self {
            Self::SignOut => world.browser.clone().post(server, "/sign-out", &[]).await.expect(303),
            Self::Disconnect => {
                let form = [("client", world.app.id.as_str())];
                world.browser.clone().post(server, "/account/apps/disconnect", &form).await.expect(303)
            }
            _ => {
                let query = encode(&[("id_token_hint", &world.grant.id), ("post_logout_redirect_uri", BYE)]);
                let done = world.browser.clone().get(server, &format!("/oauth2/logout?{query}")).await.expect(303);
                assert!(done.header("location").starts_with(BYE));
                done
            }
        };
        Entered::now()
    }

    async fn by_mail(self, world: &mut World) -> Entered {
        let server = &world.server;
        let form = async |path: String, form: &[(&str, &str)]| {
            server.client.post(path).header("origin", &server.issuer).form(&encode(form)).send().await
        };
        if self == Self::PasswordReset {
            server.client.post("/v1/recovery").json(&json!({ "identifier": ADA })).send().await.expect(202);
            let link = world.link("Choose", "/recover/").await;
            form(link, &[("password", NEW_PASSWORD), ("again", NEW_PASSWORD)]).await.expect(200);
            world.password = NEW_PASSWORD.into();
            return Entered::now();
        }
        // The mail about the browser's sign-in; it came by another provider, about which none is sent.
        let (stamp, keys) = (server.app.store().stamp().await.unwrap(), server.app.keys());
        let (of, about) = (world.ada.parse().unwrap(), world.grant.sid().parse().unwrap());
        let mut chance = portcullis_app::real::RealChance;
        let account = server.app.store().load_account(of).await.unwrap().unwrap().account;
        let letter = Letter::of(Template::NewDevice, &account).about(about);
        let steps = mail::write(letter, &stamp, keys.mac(), &mut chance);
        server.app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
        let link = world.link("New sign-in", "/not-me/").await;
        let all: &[(&str, &str)] = if self == Self::NotMe { &[] } else { &[("all", "1")] };
        form(link, all).await.expect(303);
        Entered::now()
    }

    async fn by_phone(self, world: &mut World) -> Entered {
        let (client, phone) = (&world.server.client, &world.phone);
        let end = async |path: String| client.delete(path).bearer(&phone.access).send().await.expect(200);
        let one = async |sid: &str| end(format!("/v1/me/sessions/{sid}?wait=enforced")).await;
        let answer = match self {
            Self::EndOne => one(&world.grant.sid()).await,
            Self::EndApiKey => one(&world.key_session).await,
            Self::EndConnected => one(&world.connected.sid()).await,
            Self::EndDevice => one(&world.device.sid()).await,
            Self::EndOthers => end("/v1/me/sessions?except=current&wait=enforced".into()).await,
            Self::EndAll => end("/v1/me/sessions?wait=enforced".into()).await,
            Self::DisconnectByApi => end(format!("/v1/me/apps/{}?wait=enforced", world.app.id)).await,
            Self::PasswordChange => {
                let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
                let call = client.post("/v1/me/password?wait=enforced").bearer(&phone.access).json(&body);
                let answer = call.send().await.expect(200);
                world.password = NEW_PASSWORD.into();
                answer
            }
            Self::DeleteOneself => {
                let call = client.delete("/v1/me?wait=enforced").bearer(&phone.access);
                call.json(&json!({ "password": PASSWORD })).send().await.expect(200)
            }
            Self::LinkRemoved => {
                let links = client.get("/v1/me/links").bearer(&phone.access).send().await.expect(200).json();
                let path = format!("/v1/me/links/{}", text(&links["links"][0]["id"]));
                client.delete(path).bearer(&phone.access).send().await.expect(204);
                return Entered::now();
            }
            Self::RuleAtSignIn => {
                world.server.app.set_judge(Some(Box::new(Says("sign_in", Outcome::EndAll))));
                // Whoever comes then is in.
                let other = world.server.sign_in(ADA).await;
                world.server.app.set_judge(None);
                client.get("/v1/me").bearer(&other.access).send().await.expect(200);
                return Entered::now();
            }
            Self::RuleAtProof | Self::RuleAtChange => {
                let (act, shown) =
                    if self == Self::RuleAtProof { ("prove", "a wrong one") } else { ("change", PASSWORD) };
                world.server.app.set_judge(Some(Box::new(Says(act, Outcome::EndSession))));
                let body = json!({ "current_password": shown, "new_password": NEW_PASSWORD });
                let refused = client.post("/v1/me/password").bearer(&phone.access).json(&body).send().await.expect(401);
                world.server.app.set_judge(None);
                assert_eq!(refused.json()["code"], "session_ended");
                // And the password is what it was.
                world.server.sign_in(ADA).await;
                return Entered::now();
            }
            _ => {
                // The limit is about sign-ins, and there are two: the browser's and the phone's.
                for _ in 0..=SESSIONS - 2 {
                    world.server.sign_in(ADA).await;
                }
                return Entered::now();
            }
        };
        Entered::enforced(&answer)
    }

    async fn by_admin(self, world: &mut World) -> Entered {
        let (client, admin) = (&world.server.client, &world.admin);
        let end = async |path: String| client.delete(path).bearer(&admin.access).send().await.expect(200);
        let post = async |path: String, body: Value| client.post(path).bearer(&admin.access).json(&body).send().await;
        let because = || json!({ "reason": "a test" });
        let answer = match self {
            Self::AdminEndSession => end(format!("/v1/admin/sessions/{}?wait=enforced", world.grant.sid())).await,
            Self::AdminEndAccount => end(format!("/v1/admin/accounts/{}/sessions?wait=enforced", world.ada)).await,
            Self::AdminDelete => end(format!("/v1/admin/accounts/{}?wait=enforced", world.ada)).await,
            Self::Block | Self::BlockService => {
                let whose = if self == Self::Block { &world.ada } else { &world.service_account };
                post(format!("/v1/admin/accounts/{whose}/block?wait=enforced"), because()).await.expect(200)
            }
            Self::Everyone => {
                let body = json!({ "everyone": true, "except": admin.sid, "reason": "a test" });
                post("/v1/admin/revocations?wait=enforced".into(), body).await.expect(200)
            }
            Self::Filter => {
                let in_an_hour = portcullis_app::real::wall().plus(3_600_000);
                let filter = json!({ "account_ids": [world.ada], "created_before": in_an_hour });
                let body = json!({ "filter": filter, "reason": "a test" });
                // Its answer comes when the job is done, and what it wrote is true.
                post("/v1/admin/revocations?wait=enforced&timeout_ms=20000".into(), body).await.expect(200)
            }
            Self::ClientDisabled | Self::ServiceDisabled => {
                let app = if self == Self::ClientDisabled { &world.app } else { &world.service };
                let call = client.patch(format!("/v1/admin/clients/{}?wait=enforced", app.id)).bearer(&admin.access);
                call.json(&json!({ "disabled": true })).send().await.expect(200)
            }
            Self::Signal | Self::RuleBlocks => {
                let does = if self == Self::Signal { Outcome::EndAll } else { Outcome::Block { for_ms: None } };
                world.server.app.set_judge(Some(Box::new(Says("external", does))));
                let body = json!({ "account_id": world.ada, "kind": "fraud" });
                let told = post("/v1/admin/signals".into(), body).await.expect(200).json();
                assert_eq!(told["acted"], true);
                world.server.app.set_judge(None);
                return Entered::now();
            }
            Self::KeyRevoked => {
                let head = b64::decode(world.grant.access.split('.').next().unwrap()).unwrap();
                let kid = text(&serde_json::from_slice::<Value>(&head).unwrap()["kid"]);
                post(format!("/v1/admin/keys/{kid}/revoke?wait=enforced"), because()).await.expect(200)
            }
            _ => {
                let made = post(format!("/v1/admin/clients/{}/secret", world.app.id), json!({})).await.expect(200);
                let new = Application { secret: text(&made.json()["client_secret"]), ..world.app.clone() };
                let old = std::mem::replace(&mut world.app, new);
                let refused = world.server.refresh_for(&old, &world.grant.refresh).await.expect(401).json();
                assert_eq!(refused["error"], "invalid_client");
                return Entered::now();
            }
        };
        Entered::enforced(&answer)
    }

    async fn by_client(self, world: &mut World) -> Entered {
        let (server, app) = (&world.server, &world.app);
        let revoke = async |token: &str| {
            let call = server.client.post("/oauth2/revoke").basic((&app.id, &app.secret));
            call.form(&encode(&[("token", token)])).send().await.expect(200);
        };
        match self {
            Self::RevokeRefresh => revoke(&world.grant.refresh).await,
            Self::RevokeAccess => revoke(&world.grant.access).await,
            Self::CodeReplay => {
                server.redeem(app, &world.used_code).await.expect(400);
            }
            Self::Replay => {
                let second = server.refresh_for(app, &world.grant.refresh).await.expect(200).json();
                server.refresh_for(app, &text(&second["refresh_token"])).await.expect(200);
                server.refresh_for(app, &world.grant.refresh).await.expect(400);
            }
            Self::ClientDeleted => {
                let (path, token) = world.managed.as_ref().unwrap();
                server.client.delete(&**path).bearer(token).send().await.expect(204);
            }
            Self::GlobalRevocation => {
                let tool = server.application("confidential", json!({ "global_token_revocation": true })).await;
                let body = json!({ "sub_id": { "format": "email", "email": ADA } });
                let call = server.client.post("/oauth2/global-token-revocation?wait=enforced");
                call.basic((&tool.id, &tool.secret)).json(&body).send().await.expect(204);
                return Entered { enforced: true, ..Entered::now() };
            }
            _ => {
                let now = portcullis_app::real::wall().secs();
                let claims = json!({
                    "iss": world.idp.issuer, "aud": "us", "iat": now, "exp": now + 120, "jti": "1", "sub": "sub-1",
                    "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
                });
                let token = world.idp.sign(&json!({ "alg": "ES256", "kid": "k1", "typ": "logout+jwt" }), &claims);
                let call = server.client.post("/upstream/idp/backchannel-logout");
                call.form(&encode(&[("logout_token", &token)])).send().await.expect(200);
            }
        }
        Entered::now()
    }
}

/// The operator's call, over the socket that only they reach.
async fn refound(world: &mut World) -> Entered {
    let socket = world.server.operator_socket();
    let body = json!({ "reason": "a test" }).to_string();
    let head =
        "POST /v1/admin/refound HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && answer.starts_with("HTTP/1.1 200"), "{answer}");
    Entered::now()
}

/// A rule that says this of each act of a kind.
struct Says(&'static str, Outcome);

impl Judge for Says {
    fn judge(&self, signals: &Signals) -> Verdict {
        let hit = || Hit { rule: "a-rule".into(), outcomes: vec![self.1], reason: "a test".into(), shadow: false };
        Verdict { version: "a test".into(), hits: (signals.act == self.0).then(hit).into_iter().collect() }
    }
    fn version(&self) -> &str {
        "a test"
    }
}
