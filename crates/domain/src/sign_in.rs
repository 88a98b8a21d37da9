//! Signing in by password.
//!
//! The hash is always computed, also for an unknown address (against a hash that matches nothing), and "blocked" is said only
//! to who gave the right password (I15). The session is `born` at the head of the view that the password was loaded with, and
//! the commit checks that no cut above has passed since (I7): a sign-in in flight dies with "log out everywhere" or a block,
//! and no token leaves before that commit.
use crate::amr::Amr;
use crate::changes::{Changes, Expect};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::{Family, MacKey};
use crate::model::{ADMIN, Account, Grant, Session, SessionKind, Status};
use crate::view::{SignInView, Stamp};
use crate::{Chance, Change, Decision, Refused, Rules, device, issue::issue, page_cookie};
use alloc::{format, string::String, vec, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{AccessClaims, ClientId, Digest, EventId, GrantId, Rev, SecretString, SessionId, Time};

/// What the caller brought, besides the password.
#[derive(Debug, Clone)]
pub struct SignIn {
    /// What the session is.
    pub kind: SessionKind,
    /// The device name, if one was given (already clean).
    pub device_name: Option<String>,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Digest of the page cookie's secret, when a page signs in.
    pub cookie: Option<Digest>,
}

/// A session was made, or goes on.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The session.
    pub session: Session,
    /// Whose.
    pub account: Account,
    /// The claims of the access token, yet to be signed.
    pub claims: AccessClaims,
    /// The refresh token.
    pub refresh: SecretString,
    /// The number of that refresh token, and its grant: a cookie is set only while this is the current one.
    pub current: (GrantId, u64),
}

/// The scopes of `POST /v1/sessions`.
pub fn first_party_scope(account: &Account) -> &'static str {
    if account.has_role(ADMIN) { "account admin" } else { "account" }
}

/// The account that the right password opens.
fn opened<'a>(view: &'a SignInView, password_matches: bool, rules: &Rules) -> Result<&'a Account, Refused> {
    let account = view.account.as_ref().filter(|account| password_matches && account.password_hash.is_some());
    let account = account.ok_or(Refused::InvalidCredentials)?;
    // First of all: what else there is to say of the account is for its owner.
    if awaits_proof(account, rules) {
        return Err(Refused::EmailNotVerified);
    }
    entitled(account, view.stamp.now)?;
    Ok(account)
}

/// Whether nobody may sign in to this account by its password before its address is proved.
pub fn awaits_proof(account: &Account, rules: &Rules) -> bool {
    rules.require_verified_email && account.email_verified_at.is_none()
}

/// Whether whoever proved to be this account's owner may sign in.
pub(crate) fn entitled(account: &Account, now: Time) -> Result<(), Refused> {
    if let Some(block) = account.block_at(now) {
        return Err(Refused::AccountBlocked { reason: block.reason.clone(), until: block.until });
    }
    if let Status::Deleting { until, .. } = account.status {
        let reason =
            format!("it is being deleted, and will be gone at {until}; until then an administrator can restore it");
        return Err(Refused::AccountBlocked { reason, until: None });
    }
    if account.usable_at(now) { Ok(()) } else { Err(Refused::InvalidCredentials) }
}

/// A browser whose user proves who they are once more.
#[derive(Debug, Clone)]
pub struct Proving {
    /// Its session.
    pub session: Session,
    /// Digest of the secret of the cookie that it has shown.
    pub shown: Digest,
    /// Digest of the secret that it gets (see [`crate::page_cookie`]).
    pub next: Digest,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// Whoever uses a browser's session proves who they are once more: the same session goes on, with a younger `auth_time` and another
/// cookie. The caller has seen to it that the account of `view` is the session's.
pub fn prove_again(
    view: &SignInView,
    password_matches: bool,
    proving: &Proving,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let account = match opened(view, password_matches, rules) {
        Ok(account) => account,
        Err(refused) => return Decision::refuse(refused),
    };
    let (session, now, ip) = (proving.session.id, view.stamp.now, proving.ip);
    let actor = Actor::Account { account: account.id, session };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::SessionProven, &actor)
        .account(account.id)
        .session(session)
        .ip(ip);
    let changes = Changes {
        expects: vec![
            Expect::Alive { session, role: None },
            Expect::PasswordVersion { account: account.id, version: account.password_version },
        ],
        steps: proven(proving, now, now, &Amr::default(), rules),
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// What a proof at `at` writes: the younger `auth_time`, and the cookie in its place.
pub(crate) fn proven(proving: &Proving, at: Time, now: Time, amr: &Amr, rules: &Rules) -> Vec<Change> {
    let cookie = page_cookie::rotate(&proving.session, proving.shown, proving.next, now, rules);
    let proof = Change::SetAuthTime { session: proving.session.id, at, amr: amr.clone() };
    cookie.into_iter().chain([proof]).collect()
}

/// Decides a sign-in. `password_matches` is the outcome of comparing the given password with `view.account`'s hash, `false`
/// when there is none. Birth and stamp are the head of `view`, the snapshot that the hash was loaded from.
pub fn sign_in(
    view: &SignInView,
    password_matches: bool,
    request: &SignIn,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Issued> {
    let account = match opened(view, password_matches, rules) {
        Ok(account) => account,
        // Who chose the password by signing up would learn by another answer whether the address had an account before (I15).
        Err(Refused::EmailNotVerified) => return Decision::refuse(Refused::InvalidCredentials),
        Err(refused) => return Decision::refuse(refused),
    };
    let mut decision = started(&view.stamp, account, view.stamp.head, request, rules, key, chance);
    if decision.outcome.is_ok() {
        let version = account.password_version;
        decision.changes.expects.push(Expect::PasswordVersion { account: account.id, version });
    }
    decision
}

/// A session for an account whose owner has proved who they are, with the grant of the built-in client. The proof itself is the
/// caller's to expect. `born`: the head when the sign-in began.
pub(crate) fn started(
    stamp: &Stamp,
    account: &Account,
    born: Rev,
    request: &SignIn,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Issued> {
    let now = stamp.now;
    let agent = request.user_agent.as_deref();
    let session = Session {
        id: SessionId::from_bits(chance.bits()),
        account: account.id,
        kind: request.kind,
        client: None,
        device_name: request.device_name.clone().unwrap_or_else(|| device::name_from_agent(agent)),
        agent: device::family(agent),
        ip: request.ip,
        created_at: now,
        auth_time: now,
        amr: Amr::default(),
        last_seen_at: now,
        absolute_expires_at: now.plus(rules.absolute_ttl),
        born,
        epoch: stamp.epoch,
        cookie: request.cookie,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(chance.bits()),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: first_party_scope(account).into(),
        audience: None,
        sender: None,
        agent: None,
        born,
        proof: None,
        network: None,
        family: Family::new(chance.secret(), key.id, stamp.epoch, now),
        ended: None,
    };
    let claims = match issue(stamp, rules, account, &session, &grant, None, None, chance) {
        Ok(claims) => claims,
        Err(refused) => return Decision::refuse(refused),
    };
    let actor = Actor::Account { account: account.id, session: session.id };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::SessionStarted, &actor)
        .account(account.id)
        .session(session.id)
        .ip(request.ip);
    let changes = Changes {
        expects: vec![Expect::Unborn { account: account.id, client: grant.client, born, under: None }],
        steps: vec![Change::InsertSession(session.clone()), Change::InsertGrant(grant.clone())],
        events: vec![event],
        ..Changes::default()
    };
    let refresh = grant.family.current_token(key, grant.id);
    let current = (grant.id, grant.family.counter);
    Decision { outcome: Ok(Issued { session, account: account.clone(), claims, refresh, current }), changes }
}
