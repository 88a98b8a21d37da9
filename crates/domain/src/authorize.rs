//! Authorization requests (RFC 6749 §4.1.1, OAuth 2.1, OpenID Connect Core §3.1.2): what one asks for, what must happen first,
//! and the code that comes of it.
//!
//! [`check`] reads a request against its client; until the redirect address is known to be the client's, nothing is sent
//! there (RFC 9700 §4.11). [`next`] says what must still happen: a sign-in, a question, or nothing. [`grant_code`] makes the code.
//! The state between these steps is the request itself, which the browser carries: it is checked again each time, and
//! holds nothing that a changed one could gain by.
use crate::amr::Amr;
use crate::changes::{Change, Changes, Expect};
use crate::client::{self, Asking, GrantType, OFFLINE, OPENID};
use crate::event::{Actor, EventKind, NewEvent};
use crate::model::{Client, ClientKind, Consent};
use crate::proof::Proof;
use crate::refused::{OAuthError, Refused};
use crate::ticket::{Ticket, TicketKind};
use crate::view::{AppView, Stamp};
use crate::{Chance, Decision, Rules, ticket};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::IpAddr;
use portcullis_wire::{ClientId, Digest, EventId, Millis, SecretString, Time, b64};
use serde::{Deserialize, Serialize};

/// How long a code may be redeemed, in milliseconds (RFC 6749 §4.1.2: at most ten minutes; RFC 9700 wants it short).
pub const CODE_LIFE: Millis = 60_000;
/// So many codes that were not redeemed may wait under one session, and so many that were are kept to tell a second use by.
/// One more, and the oldest goes: nobody who has a session fills the table with codes, and nobody who sends its browser here again
/// and again (a page can) keeps the next code from being made. What they can do is make the oldest of thirty-two fail.
pub const MAX_CODES: u32 = 32;
/// The same for those that were redeemed: each of them has made a grant.
pub const MAX_USED_CODES: u32 = 64;
/// The longest value of a parameter.
pub const MAX_VALUE: usize = 2048;

/// An authorization request as it came: by the query, by a form, or pushed before (RFC 9126).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// `response_type` (RFC 6749 §3.1.1).
    pub response_type: Option<String>,
    /// `response_mode`.
    pub response_mode: Option<String>,
    /// `redirect_uri` (RFC 6749 §3.1.2).
    pub redirect_uri: Option<String>,
    /// `scope` (RFC 6749 §3.3).
    pub scope: Option<String>,
    /// `state` (RFC 6749 §4.1.1).
    pub state: Option<String>,
    /// `nonce` (OpenID Connect Core §3.1.2.1).
    pub nonce: Option<String>,
    /// `code_challenge` (RFC 7636 §4.3).
    pub code_challenge: Option<String>,
    /// `code_challenge_method` (RFC 7636 §4.3).
    pub code_challenge_method: Option<String>,
    /// `prompt` (OpenID Connect Core §3.1.2.1).
    pub prompt: Option<String>,
    /// `max_age`, in seconds (the same).
    pub max_age: Option<String>,
    /// `login_hint` (the same).
    pub login_hint: Option<String>,
    /// `id_token_hint` (the same): whose session it should be.
    pub id_token_hint: Option<String>,
    /// `resource`, which may come several times (RFC 8707 §2).
    pub resource: Vec<String>,
    /// `dpop_jkt` (RFC 9449 §10).
    pub dpop_jkt: Option<String>,
    /// `request`, which is not supported (RFC 9101).
    pub request: Option<String>,
    /// `request_uri` of somebody else's; what was pushed here is loaded before (see [`crate::pushed`]).
    pub request_uri: Option<String>,
}

/// Why a request cannot be granted, and where to say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The error (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6).
    pub error: OAuthError,
    /// In words.
    pub detail: String,
    /// The client's address, once it is known to be that; `None`: on a page of ours, and nowhere else.
    pub redirect_uri: Option<String>,
}

/// A request that may be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The version of the client's row that the request was checked against.
    pub version: u32,
    /// Where the answer goes.
    pub redirect_uri: String,
    /// The scopes that it may get, sorted.
    pub scope: Vec<String>,
    /// Of the client, given back as it came.
    pub state: Option<String>,
    /// For the ID token.
    pub nonce: Option<String>,
    /// The PKCE challenge, by S256.
    pub challenge: String,
    /// What the client wants to happen.
    pub prompt: Prompt,
    /// How old the sign-in may be, in milliseconds.
    pub max_age: Option<Millis>,
    /// Who will sign in, as the client thinks.
    pub login_hint: Option<String>,
    /// The ID token that says whose session it should be, not yet looked at.
    pub id_token_hint: Option<String>,
    /// For which resources; `None`: the server's audience.
    pub audience: Option<String>,
    /// The key that the tokens are to be bound to.
    pub sender: Option<Digest>,
    /// The pushed request that this came as; used up by the code.
    pub pushed: Option<Digest>,
}

/// `prompt`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prompt {
    /// Nothing may be shown.
    pub none: bool,
    /// The user must prove who they are again, or choose another account.
    pub login: bool,
    /// The user must be asked, whatever they allowed before.
    pub consent: bool,
}

/// What must happen before a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Somebody must sign in, or prove again who they are.
    SignIn,
    /// The user must be asked for these scopes, which are all that are asked for.
    Ask(Vec<String>),
    /// Nothing: the code may be made.
    Grant,
    /// The client is told this instead (it wanted nothing to be shown).
    Refuse(OAuthError),
}

/// Reads a request against its client, of which it is not even known yet whether it may use this endpoint.
///
/// # Errors
/// [`Objection`]: shown on a page of ours while the redirect address is not known to be the client's.
pub fn check(request: &Request, client: &Client, pushed: bool) -> Result<Asked, Objection> {
    let redirect_uri = redirect(request, client)?;
    let refuse =
        |error, detail: &str| Objection { error, detail: detail.to_owned(), redirect_uri: Some(redirect_uri.clone()) };
    let invalid = |detail: &str| refuse(OAuthError::InvalidRequest, detail);
    let profile = &client.profile;
    let texts = [&request.state, &request.nonce, &request.login_hint, &request.scope, &request.code_challenge];
    if texts.iter().any(|text| text.as_ref().is_some_and(|text| text.len() > MAX_VALUE)) {
        return Err(invalid(&format!("a parameter has more than {MAX_VALUE} characters")));
    }
    if !profile.has(GrantType::AuthorizationCode) {
        return Err(refuse(OAuthError::UnauthorizedClient, "this client is not registered for authorization_code"));
    }
    if profile.require_pushed_authorization_requests && !pushed {
        return Err(invalid("this client must push its requests (RFC 9126)"));
    }
    if request.request.is_some() {
        return Err(refuse(OAuthError::RequestNotSupported, "push the request instead (RFC 9126)"));
    }
    if request.request_uri.is_some() {
        let detail = if pushed {
            "a pushed request has no request_uri (RFC 9126 §2.1)"
        } else {
            "push the request here (RFC 9126)"
        };
        let error = if pushed { OAuthError::InvalidRequest } else { OAuthError::RequestUriNotSupported };
        return Err(refuse(error, detail));
    }
    match request.response_type.as_deref() {
        Some("code") => {}
        None => return Err(invalid("response_type is missing")),
        Some(_) => return Err(refuse(OAuthError::UnsupportedResponseType, "response_type must be code")),
    }
    if !matches!(request.response_mode.as_deref(), None | Some("query")) {
        return Err(invalid("response_mode must be query"));
    }
    match (request.code_challenge.as_deref(), request.code_challenge_method.as_deref()) {
        (None, _) => return Err(invalid("code_challenge is missing: PKCE is required (RFC 7636)")),
        (Some(_), Some("S256")) => {}
        (Some(_), _) => return Err(invalid("code_challenge_method must be S256")),
    }
    let challenge = request.code_challenge.clone().filter(|text| b64::decode_array::<32>(text).is_some());
    let challenge =
        challenge.ok_or_else(|| invalid("code_challenge must be the base64url of 32 bytes (RFC 7636 §4.2)"))?;
    let scope = profile.allowed_scope(request.scope.as_deref());
    if scope.is_empty() {
        return Err(refuse(OAuthError::InvalidScope, "none of these scopes is this client's"));
    }
    let audience = audience(&request.resource, client).map_err(|detail| refuse(OAuthError::InvalidTarget, detail))?;
    let sender = match &request.dpop_jkt {
        None => None,
        Some(text) => {
            let bytes = b64::decode_array::<32>(text);
            Some(Digest(bytes.ok_or_else(|| invalid("dpop_jkt must be the base64url of a SHA-256 thumbprint"))?))
        }
    };
    Ok(Asked {
        version: client.version,
        scope,
        state: request.state.clone(),
        nonce: request.nonce.clone(),
        challenge,
        prompt: prompt(request.prompt.as_deref()).map_err(invalid)?,
        max_age: max_age(request.max_age.as_deref(), profile.default_max_age).map_err(invalid)?,
        login_hint: request.login_hint.clone(),
        id_token_hint: request.id_token_hint.clone(),
        audience,
        sender,
        pushed: None,
        redirect_uri,
    })
}

/// Whether a refusal may go to this client at this address, of a request that nothing else is known of.
pub fn may_be_told(client: &Client, uri: &str) -> bool {
    let signs_in = client.kind != ClientKind::Verifier && client.id != ClientId::FIRST_PARTY && !client.disabled;
    signs_in && client.profile.may_redirect_to(uri)
}

/// The address that the answer may go to. What is wrong with it is never sent to it.
fn redirect(request: &Request, client: &Client) -> Result<String, Objection> {
    let page = |error, detail: &str| Objection { error, detail: detail.to_owned(), redirect_uri: None };
    if client.kind == ClientKind::Verifier || client.id == ClientId::FIRST_PARTY {
        return Err(page(OAuthError::UnauthorizedClient, "this client does not sign people in here"));
    }
    if client.disabled {
        return Err(page(OAuthError::UnauthorizedClient, "this client is switched off"));
    }
    match (&request.redirect_uri, client.profile.redirect_uris.as_slice()) {
        (Some(uri), _) if client.profile.may_redirect_to(uri) => Ok(uri.clone()),
        (Some(_), _) => Err(page(OAuthError::InvalidRequest, "redirect_uri is none that this client registered")),
        // OAuth 2.1 §2.3.2; OpenID Connect wants it always.
        (None, [only]) if !request.scope.as_deref().is_some_and(|scope| scope.split(' ').any(|s| s == OPENID)) => {
            Ok(only.clone())
        }
        (None, _) => Err(page(OAuthError::InvalidRequest, "redirect_uri is missing")),
    }
}

fn prompt(text: Option<&str>) -> Result<Prompt, &'static str> {
    let mut out = Prompt::default();
    for word in text.unwrap_or("").split(' ').filter(|word| !word.is_empty()) {
        match word {
            "none" => out.none = true,
            "login" | "select_account" => out.login = true,
            "consent" => out.consent = true,
            _ => return Err("prompt may be none, login, select_account or consent"),
        }
    }
    if out.none && (out.login || out.consent) {
        return Err("prompt none stands alone (OpenID Connect Core §3.1.2.1)");
    }
    Ok(out)
}

/// What the request says, or else what its client registered (OpenID Connect Dynamic Client Registration §2 `default_max_age`).
fn max_age(text: Option<&str>, usual: Option<u32>) -> Result<Option<Millis>, &'static str> {
    const MOST_S: i64 = 10 * 366 * 86_400;
    let said = text.map(|text| text.parse::<u32>().map_err(|_| "max_age must be a number of seconds")).transpose()?;
    Ok(said.or(usual).map(|seconds| i64::from(seconds).min(MOST_S) * 1000))
}

/// The resources that tokens are for, as the grant keeps them.
///
/// # Errors
/// In words (`invalid_target`, RFC 8707 §2).
pub fn audience(resources: &[String], client: &Client) -> Result<Option<String>, &'static str> {
    if resources.is_empty() {
        return Ok(None);
    }
    let mut all: Vec<&str> = resources.iter().map(String::as_str).collect();
    all.sort_unstable();
    all.dedup();
    if let Some(strange) = all.iter().find(|one| !client.profile.resources.iter().any(|known| known == *one)) {
        let malformed = client::check_resource(strange).is_err();
        return Err(if malformed {
            "resource must be an absolute URI without a fragment"
        } else {
            "this resource is not this client's"
        });
    }
    Ok(Some(all.join(" ")))
}

/// Whom the client means by its `id_token_hint` (OpenID Connect Core §3.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hinted {
    /// It does not say.
    Nobody,
    /// Whoever is signed in.
    ThisOne,
    /// Somebody else.
    Another,
    /// Somebody whom the hint does not tell us: it is no ID token of ours (any more).
    Unknown,
}

/// The rule. `view` is of the browser's session when it has one that lives; `first_seen` is when this request first came, if it
/// can be proven that it came before: a sign-in after that is the one that it asked for; `hinted` is whom the client means.
///
/// Nobody else than who is meant is signed in silently. Where something may be shown, they are asked to sign in, once: who signs
/// in then as somebody else is not who is meant, and the client is told that (`login_required`, OpenID Connect Core §3.1.2.1).
pub fn next(asked: &Asked, view: Option<&AppView>, first_seen: Option<Time>, hinted: Hinted) -> Step {
    let quiet = asked.prompt.none;
    let sign_in = if quiet { Step::Refuse(OAuthError::LoginRequired) } else { Step::SignIn };
    let Some(view) = view else { return sign_in };
    let (session, now) = (&view.session.session, view.session.stamp.now);
    let since = first_seen.is_some_and(|first| session.auth_time >= first);
    match hinted {
        Hinted::Another => return if since { Step::Refuse(OAuthError::LoginRequired) } else { sign_in },
        Hinted::Unknown if !since => return sign_in,
        Hinted::Nobody | Hinted::ThisOne | Hinted::Unknown => {}
    }
    let too_old = asked.max_age.is_some_and(|most| now.since(session.auth_time) > most);
    let undated = view.client.profile.lacks_auth_time(session);
    if (asked.prompt.login || too_old || undated) && !since {
        return sign_in;
    }
    match (asked.prompt.consent || must_ask(view, asked), quiet) {
        (false, _) => Step::Grant,
        (true, true) => Step::Refuse(OAuthError::ConsentRequired),
        (true, false) => Step::Ask(asked.scope.clone()),
    }
}

/// Whether the user has to be asked, by what was allowed before. A public client that answers at no https address proves nothing of
/// what it is: any program on the device can send the browser here in its name and take the code at a port of its own (RFC 6749
/// §10.2, RFC 8252 §8.6), so its user is asked each time.
fn must_ask(view: &AppView, asked: &Asked) -> bool {
    if view.client.profile.consent == Asking::Implied {
        return false;
    }
    let held = view.consent.as_ref().map_or("", |consent| consent.scope.as_str());
    let is_new = |scope: &String| !held.split(' ').any(|known| known == scope);
    let nameless = view.client.kind == ClientKind::Public && !asked.redirect_uri.starts_with("https://");
    nameless || asked.scope.iter().any(is_new)
}

/// What a code carries to its redemption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeBody {
    /// Where it was sent.
    pub redirect_uri: String,
    /// The PKCE challenge.
    pub challenge: String,
    /// What was granted, separated by spaces.
    pub scope: String,
    /// For the ID token.
    pub nonce: Option<String>,
    /// For which resources.
    pub audience: Option<String>,
    /// The thumbprint of the key that must redeem it, base64url.
    pub jkt: Option<String>,
    /// The generation of the consent that it rests on.
    pub generation: u32,
    /// When the user had proven who they are, in milliseconds.
    pub auth_time: i64,
    /// By which methods.
    #[serde(default)]
    pub amr: Amr,
}

impl CodeBody {
    /// What whoever redeems it gets to say of the user, whatever they have proven since.
    pub fn proof(&self) -> Proof {
        Proof { at: Time(self.auth_time), amr: self.amr.clone() }
    }
}

/// Makes the code. `agreed`: the user was asked for just these scopes and said yes. Without that, what was allowed before must
/// still be allowed in this view, whatever the one said that the request was looked at by: a withdrawal may lie in between.
pub fn grant_code(
    view: &AppView,
    asked: &Asked,
    agreed: bool,
    ip: Option<IpAddr>,
    chance: &mut dyn Chance,
) -> Decision<SecretString> {
    let (session, account, stamp) = (&view.session.session, &view.session.account, &view.session.stamp);
    let moved = asked.version != view.client.version;
    if moved || (!agreed && must_ask(view, asked)) {
        let detail = "what this request rested on was changed meanwhile".into();
        return Decision::refuse(Refused::OAuth { error: OAuthError::ConsentRequired, detail });
    }
    let secret = SecretString::new(format!("pca_{}", b64::encode(&chance.secret())));
    let body = CodeBody {
        redirect_uri: asked.redirect_uri.clone(),
        challenge: asked.challenge.clone(),
        scope: asked.scope.join(" "),
        nonce: asked.nonce.clone(),
        audience: asked.audience.clone(),
        jkt: asked.sender.map(|key| b64::encode(&key.0)),
        generation: view.generation(),
        auth_time: session.auth_time.0,
        amr: session.amr.clone(),
    };
    let ticket = Ticket {
        id: ticket::id(TicketKind::Code, secret.expose()),
        kind: TicketKind::Code,
        account: Some(account.id),
        session: Some(session.id),
        client: Some(view.client.id),
        born: stamp.head,
        epoch: stamp.epoch,
        expires_at: stamp.now.plus(CODE_LIFE),
        body: Ticket::write(&body),
        version: 1,
        used: None,
    };
    let (consent, event) = allow(view, &asked.scope, agreed, ip, stamp, chance);
    let room = Change::CrowdOutTickets {
        session: session.id,
        kind: TicketKind::Code,
        open: MAX_CODES - 1,
        used: MAX_USED_CODES,
    };
    let used_up = asked.pushed.map(|ticket| Change::UseTicket { ticket, at: stamp.now, grant: None });
    let changes = Changes {
        expects: vec![
            Expect::Alive { session: session.id, role: None },
            Expect::Unborn { account: account.id, client: view.client.id, born: stamp.head, under: Some(session.id) },
            Expect::ClientVersion { client: view.client.id, version: view.client.version },
            Expect::Consent { account: account.id, client: view.client.id, generation: view.generation() },
        ],
        steps: consent.into_iter().chain(used_up).chain([room, Change::InsertTicket(ticket)]).collect(),
        events: event.into_iter().collect(),
        ..Changes::default()
    };
    Decision { outcome: Ok(secret), changes }
}

/// Whether the client gets something by a code for this that it was not allowed before.
pub fn widens(view: &AppView, asked: &Asked) -> bool {
    let held = view.consent.as_ref().map_or("", |consent| consent.scope.as_str());
    asked.scope.iter().any(|scope| !held.split(' ').any(|known| known == scope))
}

/// The consent as it is to be kept, with its record, when that is another one than before.
pub(crate) fn allow(
    view: &AppView,
    scope: &[String],
    agreed: bool,
    ip: Option<IpAddr>,
    stamp: &Stamp,
    chance: &mut dyn Chance,
) -> (Option<Change>, Option<NewEvent>) {
    let (session, account) = (&view.session.session, view.session.account.id);
    let held = view.consent.as_ref().map_or("", |consent| consent.scope.as_str());
    let mut all: Vec<String> = held.split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    all.extend(scope.iter().cloned());
    all.sort();
    all.dedup();
    let all = all.join(" ");
    if all == held && !agreed {
        return (None, None);
    }
    let consent = Consent {
        account,
        client: view.client.id,
        scope: all.clone(),
        granted_at: stamp.now,
        generation: view.generation(),
    };
    let actor = Actor::Account { account, session: session.id };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::ConsentGiven, &actor)
        .account(account)
        .session(session.id)
        .client(view.client.id)
        .ip(ip)
        .reason(all);
    (Some(Change::PutConsent(consent)), Some(event))
}

/// Whether the session behind a view may be used for authorization at all.
pub fn usable(view: AppView, rules: &Rules) -> Option<AppView> {
    view.session.dead(rules.idle_ttl).is_none().then_some(view)
}

/// Whether the request lets the client keep its access while its user is away.
pub fn is_offline(scope: &str) -> bool {
    scope.split(' ').any(|one| one == OFFLINE)
}

impl From<Objection> for Refused {
    fn from(objection: Objection) -> Self {
        Self::OAuth { error: objection.error, detail: objection.detail.to_string() }
    }
}
