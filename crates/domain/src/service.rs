//! Clients that act for themselves (RFC 6749 §4.4).
//!
//! Such a client has a *service account*, made with its registration: without address and password, so nobody signs in to it,
//! but an account all the same. Its tokens belong to a session of kind `service` under that account, so that there is a row that
//! somebody can see and end, and so that a block covers it. A living session is used again; otherwise one is made, by the rules
//! of a sign-in. There is no refresh token (RFC 6749 §4.4.3): the secret is what a new token is asked with.
//!
//! `sub` is the service account, never the client's id: what a verifier matches against entries about accounts is what the
//! account's block and end are written about. RFC 9068 §2.2 leaves the identifier to the server; `client_id` names the client.
use crate::amr::Amr;
use crate::authorize::audience;
use crate::changes::{Change, Changes, Counted, Expect};
use crate::client::{GrantType, OFFLINE, OPENID, Profile};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::{Family, MacKey};
use crate::issue::issue;
use crate::kernel::{self, By, Door, Scope};
use crate::model::{Account, Client, Grant, Session, SessionKind, Status};
use crate::refresh::is_dead;
use crate::refused::OAuthError;
use crate::view::{RefreshView, Stamp};
use crate::{Chance, Cut, Decision, Refused, Rules, device};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::IpAddr;
use portcullis_wire::{AccessClaims, AccountId, Digest, EventId, GrantId, SessionId, Time};

/// Scopes about a person, which a client that acts for itself never gets.
const ABOUT_PEOPLE: [&str; 4] = [OPENID, "profile", "email", OFFLINE];
/// The context class of a token without a sign-in behind it (OpenID Connect Core §2 `acr`).
pub const ACR: &str = "0";

/// The account that a client with this profile acts as, when it needs one and has none yet.
pub fn account_for(name: &str, profile: &Profile, now: Time, chance: &mut dyn Chance) -> Option<Account> {
    let acts = profile.has(GrantType::ClientCredentials) || profile.has(GrantType::TokenExchange);
    (acts && profile.service_account.is_none()).then(|| Account {
        id: AccountId::from_bits(chance.bits()),
        email: None,
        name: Some(name.to_owned()),
        password_hash: None,
        password_version: 1,
        email_verified_at: None,
        roles: vec![],
        status: Status::Active,
        created_at: now,
        cut: Cut::default(),
        version: 1,
    })
}

/// What a client that acts for itself asks for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `scope` (RFC 6749 §4.4.2).
    pub scope: Option<String>,
    /// `resource`, each time that it came (RFC 8707 §2).
    pub resources: Vec<String>,
    /// The thumbprint of the key that was proven to be held (RFC 9449).
    pub sender: Option<Digest>,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// What the rule looks at. Everything was read at or after `stamp`.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// Of the snapshot that `client` was read in.
    pub stamp: Stamp,
    /// The client.
    pub client: Client,
    /// Its service account.
    pub account: Account,
    /// What it holds already, of a snapshot of its own.
    pub held: Option<RefreshView>,
    /// Sessions of the account that live, as the rows say.
    pub live: Vec<SessionId>,
}

/// The scopes that a client may have for itself. What was asked for beyond them is an error, not a smaller token: nobody looks
/// at what a machine was given.
///
/// # Errors
/// `invalid_scope` (RFC 6749 §5.2).
pub fn scope_for(profile: &Profile, asked: Option<&str>) -> Result<String, Refused> {
    let own = |scope: &&str| !ABOUT_PEOPLE.contains(scope);
    let mut scope: Vec<&str> = match asked {
        None => profile.scopes.iter().map(String::as_str).filter(own).collect(),
        Some(asked) => asked.split(' ').filter(|one| !one.is_empty()).collect(),
    };
    let has = |one: &&str| own(one) && profile.scopes.iter().any(|known| known == one);
    if let Some(beyond) = scope.iter().find(|one| !has(one)) {
        let detail = format!("{beyond:?} is no scope that this client may have for itself");
        return Err(Refused::OAuth { error: OAuthError::InvalidScope, detail });
    }
    scope.sort_unstable();
    scope.dedup();
    Ok(scope.join(" "))
}

/// The rule. `proven` is the client's row as of the moment when it proved who it is.
pub fn token(
    view: &ServiceView,
    proven: &Client,
    asked: &Asked,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<AccessClaims> {
    match checked(view, proven, asked) {
        Ok((scope, audience)) => match view.held.as_ref().filter(|held| !is_dead(held, rules)) {
            Some(held) => again(view, held, scope, audience, asked, rules, chance),
            None => anew(view, scope, audience, asked, rules, key, chance),
        },
        Err(refused) => Decision::refuse(refused),
    }
}

fn checked(view: &ServiceView, proven: &Client, asked: &Asked) -> Result<(String, Option<String>), Refused> {
    let (client, now) = (&view.client, view.stamp.now);
    // What was proven must still be what the token rests on (I3): no end of the client, no other secret since.
    if client.disabled || client.cut != proven.cut || client.version != proven.version {
        let detail = "this client was changed meanwhile: authenticate again".into();
        return Err(Refused::OAuth { error: OAuthError::InvalidClient, detail });
    }
    if !view.account.usable_at(now) {
        let detail = "the service account of this client is blocked or deleted".into();
        return Err(Refused::OAuth { error: OAuthError::UnauthorizedClient, detail });
    }
    let scope = scope_for(&client.profile, asked.scope.as_deref())?;
    let audience = audience(&asked.resources, client)
        .map_err(|detail| Refused::OAuth { error: OAuthError::InvalidTarget, detail: detail.to_string() })?;
    Ok((scope, audience))
}

/// One more token under what lives. The grant's row stays as it is: what a token is for stands in the token.
fn again(
    view: &ServiceView,
    held: &RefreshView,
    scope: String,
    audience: Option<String>,
    asked: &Asked,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Decision<AccessClaims> {
    let grant = Grant { scope, audience, sender: asked.sender, ..held.grant.clone() };
    match minted(&held.stamp, view, &held.session, &grant, rules, chance) {
        Ok(claims) => Decision::answer(claims),
        Err(refused) => Decision::refuse(refused),
    }
}

fn anew(
    view: &ServiceView,
    scope: String,
    audience: Option<String>,
    asked: &Asked,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<AccessClaims> {
    let (stamp, account, client) = (&view.stamp, view.account.id, view.client.id);
    let agent = device::family(asked.user_agent.as_deref());
    let session = Session {
        id: SessionId::from_bits(chance.bits()),
        account,
        kind: SessionKind::Service,
        client: Some(client),
        device_name: view.client.name.clone(),
        agent: agent.clone(),
        ip: asked.ip,
        created_at: stamp.now,
        auth_time: stamp.now,
        amr: Amr::unknown(),
        last_seen_at: stamp.now,
        absolute_expires_at: stamp.now.plus(rules.absolute_ttl),
        born: stamp.head,
        epoch: stamp.epoch,
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(chance.bits()),
        session: session.id,
        client,
        scope,
        audience,
        sender: asked.sender,
        agent: Some(agent),
        born: stamp.head,
        proof: None,
        network: None,
        family: Family::new(chance.secret(), key.id, stamp.epoch, stamp.now),
        ended: None,
    };
    let claims = match minted(stamp, view, &session, &grant, rules, chance) {
        Ok(claims) => claims,
        Err(refused) => return Decision::refuse(refused),
    };
    let actor = Actor::Account { account, session: session.id };
    let started = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::SessionStarted, &actor)
        .account(account)
        .session(session.id)
        .client(client)
        .ip(asked.ip);
    let mut changes = Changes {
        expects: vec![
            Expect::Unborn { account, client, born: stamp.head, under: None },
            Expect::ClientVersion { client, version: view.client.version },
            // Of two who ask at once one makes it, and the other one finds it.
            Expect::LiveSessions { account, counted: Counted::All, besides: view.live.clone(), at_most: 0 },
        ],
        ..Changes::default()
    };
    // What lives without anything under it that could be used: the new one takes its place.
    for session in &view.live {
        let end =
            kernel::end(Door::SessionLimit, Scope::Session { account, session: *session }, None, &By::SYSTEM, chance);
        changes.expects.extend(end.expects);
        changes.steps.extend(end.steps);
        changes.events.extend(end.events);
    }
    changes.steps.extend([Change::InsertSession(session), Change::InsertGrant(grant)]);
    changes.events.push(started);
    Decision { outcome: Ok(claims), changes }
}

fn minted(
    stamp: &Stamp,
    view: &ServiceView,
    session: &Session,
    grant: &Grant,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Result<AccessClaims, Refused> {
    let ttl = view.client.profile.access_ttl_s.map(|seconds| i64::from(seconds) * 1000);
    let claims = issue(stamp, rules, &view.account, session, grant, ttl, None, chance)?;
    // Nobody signed in.
    Ok(AccessClaims { acr: ACR.into(), amr: vec![], ..claims })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_for_itself_are_its_own_and_about_nobody() {
        let scopes = ["email", "openid", "read", "write"].map(ToOwned::to_owned).into();
        let profile = Profile { scopes, ..Profile::default() };
        assert_eq!(scope_for(&profile, None).unwrap(), "read write");
        assert_eq!(scope_for(&profile, Some("write read write")).unwrap(), "read write");
        assert_eq!(scope_for(&profile, Some("")).unwrap(), "");
        for beyond in ["admin", "read admin", "openid", "email read", "offline_access"] {
            assert!(scope_for(&profile, Some(beyond)).is_err(), "{beyond}");
        }
    }
}
