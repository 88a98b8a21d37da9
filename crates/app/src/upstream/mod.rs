//! Signing in with an account at another provider ("continue with"), and being told of its logouts. The rules are
//! `domain::upstream`; what the provider says is looked at in `provider` and `jwt`.
//!
//! A sign-in under way is a ticket, used once, by the browser that it was begun in: that one holds a secret in a cookie, and the
//! PKCE verifier and the nonce are derived from the secret and the state. So what is stolen on the way (a code, a state) or from
//! the database is of no use in another browser, and nobody signs a browser in to an account of their own (login CSRF).
mod jwt;
mod links;
mod logout;
mod newcomer;
mod provider;

use crate::callers::cookie_text;
use crate::few::Few;
use crate::oauth::keeps_pace;
use crate::risk::{self, Look, Verdicts, Who};
use crate::settings::{UpstreamKind, UpstreamSettings};
use crate::{App, AppError, Caller, real};
use jwt::{Expected, is_true};
use logout::signed_out_meanwhile;
use portcullis_domain::account::Email;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::MacKey;
use portcullis_domain::kernel::{By, Door};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{Account, Session};
use portcullis_domain::risk::Act;
use portcullis_domain::risk::enforce::At;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::throttle::Name;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::upstream::{self, Begun, Identity, LIFE, Link, MAX_SUBJECT, UnderWay, Waiting, bounded};
use portcullis_domain::{Chance, Decision, Refused, session_limit};
use portcullis_store::CommitError;
use portcullis_wire::{ClientId, Code, Digest, SecretString, Time, b64};
use provider::{Failed, Provider, encoded};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The other providers.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    all: Vec<Arc<Provider>>,
    /// What is refused gets a line in the log, but strangers do not fill it.
    told: Few,
}

impl Upstreams {
    pub(crate) fn new(settings: &[UpstreamSettings]) -> Self {
        let all = settings.iter().map(|one| Arc::new(Provider::new(one.clone()))).collect();
        Self { all, told: Few::default() }
    }
    fn by_id(&self, id: &str) -> Option<Arc<Provider>> {
        self.all.iter().find(|provider| provider.settings.id == id).cloned()
    }
}

/// Where a browser is sent, and the secret that it holds until it comes back.
#[derive(Debug)]
pub struct Departure {
    /// The provider's authorization endpoint, with the request.
    pub url: String,
    /// For the cookie.
    pub browser: SecretString,
}

/// What a browser brings back (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, Default)]
pub struct Return {
    /// Whose sign-in it is.
    pub state: Option<String>,
    /// What is exchanged.
    pub code: Option<SecretString>,
    /// Who answers.
    pub iss: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
}

/// What came of it.
#[derive(Debug)]
pub enum Arrival {
    /// Signed in, or proved once more who they are.
    In {
        /// The cookie from now on.
        cookie: SecretString,
        /// Its session.
        session: Box<Session>,
        /// The marks of this device as a known one, when it signed in.
        device: Option<SecretString>,
    },
    /// The session that was there goes on, or its account has one link more.
    GoesOn,
    /// There is an account of this address: whoever comes must prove that it is theirs, with this.
    Prove {
        /// Names what waits.
        ticket: SecretString,
        /// The address.
        email: String,
        /// What people know the provider by.
        name: String,
    },
    /// Somebody new: they are asked whether an account is to be made for them, and answer with this.
    Ask {
        /// Names what waits.
        ticket: SecretString,
        /// Their address, if the provider has verified it.
        email: Option<String>,
        /// What they call themselves there.
        person: Option<String>,
        /// What people know the provider by.
        name: String,
    },
    /// They want no account.
    Declined,
    /// Nobody has an account, and none is made.
    NoAccount,
    /// The provider's user said no, or the provider did.
    Denied,
    /// The provider cannot be asked, or says what cannot be true; the log tells more.
    Failed,
    /// It began in another browser, too long ago, or was used before.
    Stale,
}

/// An arrival, and where to go then.
#[derive(Debug)]
pub struct Arrived {
    /// What came of it.
    pub what: Arrival,
    /// A path of ours.
    pub return_to: Option<String>,
}

/// The browser that comes back.
#[derive(Debug)]
pub struct Visitor<'a> {
    /// The secret that it was sent away with.
    pub browser: Option<&'a SecretString>,
    /// The marks of a known device, as they came.
    pub device: Option<&'a SecretString>,
    /// Who is signed in there.
    pub present: Option<&'a Caller>,
}

/// Somebody whom a provider has sent, and the sign-in that they come by.
struct Coming<'a> {
    provider: &'a Provider,
    identity: &'a Identity,
    begun: Begun,
    fresh: bool,
    return_to: &'a str,
    browser: &'a SecretString,
    device: Option<&'a SecretString>,
    /// Whether they said that they want an account, should they have none.
    agreed: bool,
}

/// A sign-in under way, found by its state and its browser.
struct Found {
    under: UnderWay,
    begun: Begun,
    nonce: String,
    verifier: String,
}

fn secret() -> SecretString {
    SecretString::new(b64::encode(&real::RealChance.secret()))
}

/// Whether this can be one of [`secret`]'s. What waits for something else under a word and a secret is found by nothing that can.
fn is_secret(text: &str) -> bool {
    b64::decode_array::<32>(text).is_some()
}

fn digest_text(secret: &SecretString) -> String {
    b64::encode(&secret.digest().0)
}

/// Whether this is the digest of that secret; compared as digests, in constant time.
fn is_browser(kept: &str, secret: &SecretString) -> bool {
    b64::decode_array(kept).map(Digest) == Some(secret.digest())
}

/// What only this browser's sign-in with this state has.
fn derived(what: &str, browser: &SecretString, state: &str) -> String {
    b64::encode(&Digest::of(format!("portcullis upstream {what}\n{}\n{state}", browser.expose()).as_bytes()).0)
}

/// Whether a provider can be asked to have its user prove anew who they are (OpenID Connect Core §3.1.2.1: `prompt`, `max_age`).
fn can_prove(provider: &UpstreamSettings) -> bool {
    provider.kind == UpstreamKind::Oidc
}

impl App {
    /// Id and name of each provider that people may sign in with. `again`: to prove anew who they are.
    pub fn upstreams(&self, again: bool) -> Vec<(&str, &str)> {
        let able = |one: &&UpstreamSettings| !again || can_prove(one);
        self.settings().upstreams.iter().filter(able).map(|one| (one.id.as_str(), one.name.as_str())).collect()
    }

    fn callback(&self, id: &str) -> String {
        format!("{}/upstream/{id}/callback", self.settings().rules.issuer.trim_end_matches('/'))
    }

    /// Begins a sign-in at a provider, in a browser that may have begun another one. `link`: for linking it to this caller.
    ///
    /// # Errors
    /// 404 for an unknown provider, and for one that cannot have its user prove anew (`fresh`); 503 when it cannot be reached;
    /// [`AppError::TooOften`].
    pub async fn leave_for(
        &self,
        id: &str,
        browser: Option<SecretString>,
        return_to: &str,
        fresh: bool,
        link: Option<&Caller>,
        ip: Option<IpAddr>,
    ) -> Result<Departure, AppError> {
        let provider = self.inner.upstreams.by_id(id).filter(|one| !fresh || can_prove(&one.settings));
        let provider = provider.ok_or(Refused::NotFound)?;
        // A sign-in under way is a row, and anybody may begin one.
        if link.is_none() {
            keeps_pace(&self.inner.paces.upstream, ip)?;
        }
        let _place = provider.place().ok_or(AppError::Overloaded)?;
        let metadata = provider.metadata(self.outgoing()).await.map_err(|why| self.unreachable_upstream(id, &why))?;
        let browser = browser.filter(|browser| is_secret(browser.expose())).unwrap_or_else(secret);
        let state = secret();
        let stamp = self.store().stamp().await?;
        let UpstreamSettings { issuer, client_id, scopes, kind, .. } = &provider.settings;
        let under = UnderWay {
            upstream: id.into(),
            issuer: issuer.clone(),
            browser: digest_text(&browser),
            return_to: return_to.into(),
            at: stamp.now.0,
            fresh,
            link: link.map(|caller| caller.view.session.id),
        };
        let ticket = Ticket {
            id: ticket::id(TicketKind::Upstream, state.expose()),
            kind: TicketKind::Upstream,
            account: None,
            session: None,
            client: None,
            born: stamp.head,
            epoch: stamp.epoch,
            expires_at: stamp.now.plus(LIFE),
            body: Ticket::write(&under),
            version: 1,
            used: None,
        };
        let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
        self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let challenge = b64::encode(&Digest::of(derived("pkce", &browser, state.expose()).as_bytes()).0);
        let (redirect, nonce, scope) =
            (self.callback(id), derived("nonce", &browser, state.expose()), scopes.join(" "));
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", &redirect),
            ("scope", &scope),
            ("state", state.expose()),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        if *kind == UpstreamKind::Oidc {
            pairs.push(("nonce", &nonce));
            if fresh {
                pairs.extend([("prompt", "login"), ("max_age", "0")]);
            }
        }
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let place = metadata.authorization();
        let glue = if place.contains('?') { '&' } else { '?' };
        Ok(Departure { url: format!("{place}{glue}{}", query.join("&")), browser })
    }

    /// Takes a browser back from a provider.
    ///
    /// # Errors
    /// 404 for an unknown provider; the refusals of a sign-in; faults.
    #[allow(clippy::too_many_arguments, reason = "what a browser brings")]
    pub async fn arrive_from(
        &self,
        id: &str,
        given: Return,
        request: SignIn,
        visitor: &Visitor<'_>,
    ) -> Result<Arrived, AppError> {
        let Visitor { browser, device, present } = *visitor;
        let provider = self.inner.upstreams.by_id(id).ok_or(Refused::NotFound)?;
        let found = self.take_up(&provider, browser, given.state.as_deref()).await?;
        let Some((found, browser)) = found.zip(browser) else {
            return Ok(Arrived { what: Arrival::Stale, return_to: None });
        };
        let _place = provider.place().ok_or(AppError::Overloaded)?;
        let return_to = Some(found.under.return_to.clone());
        let identity = match self.identified(&provider, &found, &given).await {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(Arrived { what: Arrival::Denied, return_to }),
            Err(why) => {
                self.tell_refusal(id, &why, "a sign-in by another provider was refused");
                return Ok(Arrived { what: Arrival::Failed, return_to });
            }
        };
        if found.under.link.is_none() {
            self.inner.paces.upstream.give_back(request.ip);
        }
        let what = match found.under.link {
            Some(session) => {
                // The browser that asked is the one that is back, and still signed in to the same account.
                let caller = present.filter(|caller| caller.view.session.id == session);
                let Some(caller) = caller else { return Ok(Arrived { what: Arrival::Stale, return_to }) };
                self.link(caller, &identity, None, request.ip).await?;
                Arrival::GoesOn
            }
            None => {
                let coming = Coming {
                    provider: &provider,
                    identity: &identity,
                    begun: found.begun,
                    fresh: found.under.fresh,
                    return_to: &found.under.return_to,
                    browser,
                    device,
                    agreed: false,
                };
                self.let_in(&coming, request, present).await?
            }
        };
        Ok(Arrived { what, return_to })
    }

    /// The sign-in that a state means, once, in the browser that it was begun in.
    async fn take_up(
        &self,
        provider: &Provider,
        browser: Option<&SecretString>,
        state: Option<&str>,
    ) -> Result<Option<Found>, AppError> {
        let Some((browser, state)) = browser.zip(state.filter(|state| is_secret(state))) else { return Ok(None) };
        let id = ticket::id(TicketKind::Upstream, state);
        let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
        let Some(view) = view.filter(|view| view.ticket.is_open(view.stamp.epoch, view.stamp.now)) else {
            return Ok(None);
        };
        let Some(under) = view.ticket.read::<UnderWay>() else { return Ok(None) };
        // Each provider has an address of its own to come back to: an answer of one is never taken for another's (RFC 9700 §4.4.2).
        let fits = under.upstream == provider.settings.id && under.issuer == provider.settings.issuer;
        if !fits || !is_browser(&under.browser, browser) {
            return Ok(None);
        }
        if !self.use_ticket(id, view.stamp.now).await? {
            return Ok(None);
        }
        let begun = Begun { born: view.ticket.born, epoch: view.ticket.epoch, at: Time(under.at) };
        let (nonce, verifier) = (derived("nonce", browser, state), derived("pkce", browser, state));
        Ok(Some(Found { under, begun, nonce, verifier }))
    }

    /// `false` when somebody else was first.
    async fn use_ticket(&self, ticket: Digest, at: Time) -> Result<bool, AppError> {
        let steps = vec![Change::UseTicket { ticket, at, grant: None }];
        match self.store().commit(Changes { steps, ..Changes::default() }).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict(_)) => Ok(false),
            Err(error) => Err(self.fault(error.into())),
        }
    }

    /// Whom the provider sent; `None` when it, or its user, said no.
    async fn identified(&self, provider: &Provider, found: &Found, given: &Return) -> Result<Option<Identity>, Failed> {
        let outgoing = self.outgoing();
        let metadata = provider.metadata(outgoing).await?;
        if !metadata.sent(given.iss.as_deref()) {
            return Err("its answer names another issuer, or none where it promised to".into());
        }
        if given.error.is_some() {
            return Ok(None);
        }
        let code = given.code.as_ref().ok_or("its answer has no code")?;
        let redirect = self.callback(&provider.settings.id);
        let tokens = provider.exchange(outgoing, code.expose(), &redirect, &found.verifier).await?;
        if provider.settings.kind == UpstreamKind::GitHub {
            let token = tokens.access_token.ok_or("it gave no access token")?;
            return self.github_user(provider, &token).await.map(Some);
        }
        let UpstreamSettings { id, issuer, client_id, .. } = &provider.settings;
        let now = self.now().secs();
        let fresh_since = found.under.fresh.then(|| found.begun.at.secs());
        let expected = Expected { issuer, client: client_id, nonce: &found.nonce, now, fresh_since };
        let mut told = provider.id_token(outgoing, &tokens.id_token.ok_or("it gave no ID token")?, &expected).await?;
        if let (None, Some(url), Some(token)) = (&told.email, metadata.userinfo(), &tokens.access_token) {
            let more: UserInfo = provider.about(outgoing, url, token).await?;
            // §5.3.2: what is about somebody else is nobody's.
            if more.sub != told.sub {
                return Err("its userinfo is about somebody else".into());
            }
            (told.email, told.email_verified) = (more.email, more.email_verified);
            told.name = told.name.or(more.name);
        }
        let amr = told.amr();
        let email = told.email.filter(|_| is_true(told.email_verified.as_ref()));
        Ok(Some(Identity {
            upstream: id.clone(),
            issuer: issuer.clone(),
            subject: told.sub,
            sid: bounded(told.sid, MAX_SUBJECT),
            email: verified_address(email.as_deref()),
            name: clean_name(told.name),
            auth_time: found.begun.proven(told.auth_time.map(|at| Time(at.saturating_mul(1000))), found.under.fresh),
            amr,
        }))
    }

    /// GitHub speaks no OpenID Connect: its users are known by a number, which stays (their names do not), and their addresses by
    /// a list that says which are verified.
    async fn github_user(&self, provider: &Provider, token: &str) -> Result<Identity, Failed> {
        let UpstreamSettings { id, issuer, .. } = &provider.settings;
        let api =
            if issuer == "https://github.com" { "https://api.github.com".into() } else { format!("{issuer}/api/v3") };
        let user: GitHubUser = provider.about(self.outgoing(), &format!("{api}/user"), token).await?;
        let addresses: Vec<GitHubAddress> =
            provider.about(self.outgoing(), &format!("{api}/user/emails"), token).await?;
        let email = addresses.iter().find(|one| one.primary && one.verified).map(|one| one.email.as_str());
        Ok(Identity {
            upstream: id.clone(),
            issuer: issuer.clone(),
            subject: user.id.to_string(),
            sid: None,
            email: verified_address(email),
            name: clean_name(user.name.or(Some(user.login))),
            auth_time: None,
            amr: Amr::unknown(),
        })
    }

    /// Signs in by a link; without one, as `domain::upstream` says.
    async fn let_in(
        &self,
        coming: &Coming<'_>,
        mut request: SignIn,
        present: Option<&Caller>,
    ) -> Result<Arrival, AppError> {
        let Coming { identity, begun, .. } = *coming;
        let secret = real::RealChance.secret();
        request.cookie = Some(Digest::of(&secret));
        self.ensure_horizon().await?;
        if self.signed_out_since(identity, begun).await? {
            return Err(signed_out_meanwhile());
        }
        for _ in 0..crate::MAX_TRIES {
            let load = self.store().load_link(&identity.issuer, &identity.subject).await;
            let view = load.map_err(|e| self.fault(e.into()))?;
            let Some((link, account)) = &view.found else {
                match self.newcomer(coming, &request).await? {
                    Some(arrival) => return Ok(arrival),
                    None => continue, // it has an account now
                }
            };
            let own = present.filter(|caller| caller.view.account.id == account.id);
            if let Some((caller, secret)) = own.and_then(|caller| Some((caller, caller.page.as_ref()?))) {
                if !coming.fresh {
                    return Ok(Arrival::GoesOn);
                }
                let proving = self.proving(caller.view.session.id, secret, request.ip).await?;
                let (proving, cookie) = proving.ok_or(AppError::Unauthenticated(Code::TokenRevoked))?;
                let rules = &self.settings().rules;
                let look = self.look_at_arrival(account, &request, Some(&proving.session)).await?;
                let verdicts = Verdicts::default();
                let decide = |_: &(), chance: &mut dyn Chance| {
                    let base = upstream::prove_again(&view.stamp, link, &proving, identity, begun, rules, chance);
                    let Some(look) = look.as_ref().filter(|_| base.outcome.is_ok()) else { return base };
                    let (at, act) = (At::Session(proving.session.id, None), Act::Prove { ok: true });
                    look.judge(self, base, &view.stamp, account, at, act, &verdicts, chance)
                };
                let acted = self.act_once(|| async { Ok(()) }, decide).await;
                if matches!(acted, Ok(Some(())) | Err(AppError::Refused(_))) {
                    self.judged(&verdicts);
                }
                if acted?.is_some() {
                    return Ok(Arrival::In { cookie, session: Box::new(proving.session), device: None });
                }
                continue;
            }
            let name = Name::of(Some(account.id), account.email.as_deref().unwrap_or_default());
            let known = self.known_device(&name, coming.device);
            let notice = self.may_tell_of_device(account, known.is_some()).await?;
            let told = notice.as_ref();
            if let Some(session) =
                self.by_link(&view.stamp, (link, account), coming, known.is_some(), &request, told).await?
            {
                // Whoever is told of a logout writes that first and looks for sessions then; here it is the other way round. So one of
                // both sees the other, whatever the order. The cookie has not left yet.
                if self.signed_out_since(identity, begun).await? {
                    let by = By { ip: request.ip, ..By::SYSTEM };
                    self.end_session(Door::UpstreamLogout, session.id, Some(account.id), &by, "", None).await?;
                    return Err(signed_out_meanwhile());
                }
                self.counts().sign_ins.fetch_add(1, Ordering::Relaxed);
                if notice.is_some() {
                    self.mail_waits();
                }
                let device = Some(self.marks_at(&name, known, coming.device));
                let cookie = cookie_text(session.id, &secret);
                return Ok(Arrival::In { cookie, session: Box::new(session), device });
            }
        }
        Err(AppError::Overloaded)
    }

    /// The key by which the owner is told of a sign-in in a browser that is not known, of an account that was signed in to before.
    async fn may_tell_of_device(&self, account: &Account, known: bool) -> Result<Option<MacKey>, AppError> {
        if self.mailer().is_none() || known || !self.was_signed_in_to(account.id).await? {
            return Ok(None);
        }
        self.may_mail(Template::NewDevice, account.id).await
    }

    /// What there is to know of an arrival before it is judged; `present`: the session that is there already.
    async fn look_at_arrival(
        &self,
        account: &Account,
        request: &SignIn,
        present: Option<&Session>,
    ) -> Result<Option<Look>, AppError> {
        let who = Who {
            account: account.id,
            newcomer: None,
            ip: request.ip,
            own: true,
            user_agent: request.user_agent.as_deref(),
            made: present.map(|session| risk::made(session, None)),
            counted: None,
        };
        Ok(self.look(&who).await?.map(Look::without_guesses))
    }

    /// One try; `None` when rows had moved. `known_device`: the browser has signed in to this account before.
    async fn by_link(
        &self,
        stamp: &portcullis_domain::view::Stamp,
        (link, account): (&Link, &Account),
        coming: &Coming<'_>,
        known_device: bool,
        request: &SignIn,
        notice: Option<&MacKey>,
    ) -> Result<Option<Session>, AppError> {
        let Coming { identity, begun, .. } = *coming;
        let look = self.look_at_arrival(account, request, None).await?;
        let (keys, rules, limit) = (self.keys(), &self.settings().rules, self.settings().policy.session_limit);
        let live = match limit {
            Some(_) => {
                let listed = self.store().list_sessions(account.id, session_limit::MAX_LOOKED_AT).await;
                listed.map_err(|e| self.fault(e.into()))?
            }
            None => vec![],
        };
        let verdicts = Verdicts::default();
        let decide = |_: &(), chance: &mut dyn Chance| {
            let mut decision =
                upstream::sign_in(stamp, link, account, identity, begun, request, rules, keys.mac(), chance);
            if let (Ok(issued), Some(key)) = (&decision.outcome, notice) {
                let letter = Letter::of(Template::NewDevice, account).about(issued.session.id);
                decision.changes.steps.extend(mail::write(letter, stamp, key, chance));
            }
            if let Some(limit) = limit {
                decision = session_limit::apply(decision, &live, limit, rules.idle_ttl, chance);
            }
            let Some((look, session)) =
                look.as_ref().zip(decision.outcome.as_ref().ok().map(|issued| issued.session.id))
            else {
                return decision;
            };
            let act = Act::Arrive { known_device };
            let mut decision = look.judge(self, decision, stamp, account, At::SignIn(session), act, &verdicts, chance);
            if let Ok(issued) = &mut decision.outcome {
                risk::without_proof(issued, &decision.changes);
            }
            decision
        };
        let acted = self.act_once(|| async { Ok(()) }, decide).await;
        if matches!(acted, Ok(Some(_)) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        Ok(acted?.map(|issued| issued.session))
    }

    /// Somebody without a link: what to answer, or `None` when they have an account now.
    async fn newcomer(&self, coming: &Coming<'_>, request: &SignIn) -> Result<Option<Arrival>, AppError> {
        let Coming { provider, identity, begun, browser, .. } = *coming;
        if let Some(email) = &identity.email {
            let there =
                self.store().load_sign_in(email, ClientId::FIRST_PARTY).await.map_err(|e| self.fault(e.into()))?;
            if there.account.is_some() {
                let waiting = Waiting {
                    upstream: identity.upstream.clone(),
                    issuer: identity.issuer.clone(),
                    subject: identity.subject.clone(),
                    email: email.clone(),
                    browser: digest_text(browser),
                    return_to: coming.return_to.into(),
                };
                let (ticket, name) = (self.wait_for_proof(&waiting).await?, provider.settings.name.clone());
                return Ok(Some(Arrival::Prove { ticket, email: email.clone(), name }));
            }
        }
        if !self.settings().sign_up {
            return Ok(Some(Arrival::NoAccount));
        }
        if !coming.agreed {
            return self.ask_newcomer(coming).await.map(Some);
        }
        let load = || async {
            let email = identity.email.as_deref().unwrap_or_default();
            let look = self.look_at_sign_up(email, request.ip, request.user_agent.as_deref()).await?;
            Ok((self.store().stamp().await.map_err(|e| self.fault(e.into()))?, look.map(Look::without_guesses)))
        };
        let verdicts = Verdicts::default();
        let writes = match &identity.email {
            Some(email) => self.may_write_to(Template::VerifyEmail, email, request.ip).await?,
            None => false,
        };
        let key = writes.then(|| self.keys().mac().clone());
        let made = self
            .act_once(load, |(stamp, look), chance| {
                if stamp.epoch != begun.epoch {
                    let detail = "the log was founded anew while this sign-in was under way; sign in again".into();
                    return Decision::refuse(Refused::Conflict { detail });
                }
                let mut base = upstream::new_account(stamp, identity, request.ip, chance);
                let made = base.changes.steps.iter().find_map(|step| match step {
                    Change::InsertAccount(account) => Some(account.clone()),
                    _ => None,
                });
                // That the provider has verified the address is no proof of ours.
                if let (Some(account), Some(key)) = (&made, &key) {
                    let letter = Letter::of(Template::VerifyEmail, account);
                    base.changes.steps.extend(mail::write(letter, stamp, key, chance));
                }
                let Some((look, account)) = look.as_ref().zip(made) else { return base };
                look.judge(self, base, stamp, &account, At::SignUp, Act::SignUp, &verdicts, chance)
            })
            .await;
        self.mail_waits();
        if matches!(made, Ok(Some(_)) | Err(AppError::Refused(Refused::ByRule { .. }))) {
            self.judged(&verdicts);
        }
        match made {
            // Somebody took the address, or the link was made, meanwhile: it is looked at again.
            Ok(_) | Err(AppError::Refused(Refused::EmailTaken)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tell_refusal(&self, id: &str, why: &Failed, what: &'static str) {
        if let Some(left_out) = self.inner.upstreams.told.may(real::mono_us()) {
            tracing::warn!(upstream = id, why = %why.0, left_out, "{what}");
        }
    }

    fn unreachable_upstream(&self, id: &str, why: &Failed) -> AppError {
        self.tell_refusal(id, why, "another provider cannot be used");
        AppError::Bad(portcullis_wire::Code::Unavailable, "This provider cannot be reached at the moment.".into())
    }
}

/// An address that may be kept as an account's.
fn verified_address(email: Option<&str>) -> Option<String> {
    email.and_then(|email| Email::parse(email).ok()).map(|email| email.as_str().to_owned())
}

/// A name that may be shown.
fn clean_name(name: Option<String>) -> Option<String> {
    name.and_then(|name| portcullis_domain::account::check_text("name", &name).ok())
}

#[derive(Deserialize)]
struct UserInfo {
    sub: String,
    name: Option<String>,
    email: Option<String>,
    email_verified: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct GitHubUser {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct GitHubAddress {
    email: String,
    primary: bool,
    verified: bool,
}
