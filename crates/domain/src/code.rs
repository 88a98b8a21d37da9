//! Redeeming an authorization code (RFC 6749 §4.1.3, OAuth 2.1 §4.1.3).
//!
//! A code is redeemed once, by the client that it was made for, with the verifier of its challenge, while everything that it
//! rests on still lives: session, account, client and consent, all expected again in the commit. Shown a second time it ends
//! what the first use gave (RFC 6749 §4.1.2).
use crate::authorize::{CodeBody, is_offline};
use crate::changes::{Change, Changes, Expect};
use crate::client::{GrantType, OPENID};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::{Family, MacKey};
use crate::id_token::{self, IdClaims};
use crate::issue::issue;
use crate::kernel::{self, By, Door, Scope};
use crate::model::{Grant, Session, SessionKind};
use crate::refused::OAuthError;
use crate::sign_in::Issued;
use crate::ticket::{TicketKind, Used};
use crate::view::{AppView, GrantView, TicketView};
use crate::{Chance, Decision, Refused, Rules, device};
use alloc::{string::String, vec, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{ClientId, Digest, EventId, GrantId, SessionId, b64};

/// How a code is presented.
#[derive(Debug, Clone)]
pub struct Redeem {
    /// By whom.
    pub client: ClientId,
    /// Whether that client proved who it is.
    pub proven: bool,
    /// `redirect_uri`; OAuth 2.1 has none here.
    pub redirect_uri: Option<String>,
    /// `code_verifier` (RFC 7636 §4.5).
    pub verifier: Option<String>,
    /// The thumbprint of the key that was proven to be held.
    pub sender: Option<Digest>,
    /// The User-Agent header.
    pub user_agent: Option<String>,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// What a grant gives.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Tokens and what they belong to.
    pub issued: Issued,
    /// The claims of the ID token, yet to be signed, when one is due.
    pub id: Option<IdClaims>,
    /// Whether the client gets the refresh token.
    pub with_refresh: bool,
}

fn no(detail: &str) -> Refused {
    Refused::OAuth { error: OAuthError::InvalidGrant, detail: detail.into() }
}

/// As many grants of one client may live under one session, and as many sessions of its own may it have of one account. One more,
/// and the oldest ends: a client that signs people in again and again fills neither the database nor anybody's memory.
pub const MAX_GRANTS: usize = 32;

/// The rule. `view` is of the ticket that the code names, `given` what an earlier use gave, if that lives: its session and whose
/// that is; `others` the client's living grants of the same account, newest first.
pub fn redeem(
    view: &TicketView,
    given: Option<&Session>,
    others: &[GrantView],
    presented: &Redeem,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Granted> {
    let (ticket, stamp) = (&view.ticket, &view.stamp);
    // Of another client's code nothing is said and nothing ends: who shows it is the one that must not have it.
    if ticket.kind != TicketKind::Code || ticket.client != Some(presented.client) {
        return Decision::refuse(no("this is no code of this client, or it was forgotten"));
    }
    let Some(body) = ticket.read::<CodeBody>() else { return Decision::refuse(no("this code cannot be read")) };
    if let Some(used) = ticket.used {
        // A public client's name proves nothing, so its verifier must: a used code stands in histories and logs.
        return match presented.proven || fits(&body, presented).is_ok() {
            true => again(used, given, presented, chance),
            false => Decision::refuse(no("this code was used before")),
        };
    }
    if let Err(refused) = fits(&body, presented) {
        return Decision::refuse(refused);
    }
    let Some(app) = view.app.as_ref().filter(|_| ticket.is_open(stamp.epoch, stamp.now)) else {
        return Decision::refuse(no("this code has expired"));
    };
    if let Some(refused) = why_dead(view, app, &body, rules) {
        return Decision::refuse(refused);
    }
    give(view, app, &body, is_offline(&body.scope), others, presented, rules, key, chance)
}

/// What a ticket gives once nothing stands against it: tokens under the session above, or under one of the client's `own`.
/// `others` are the client's living grants of the same account.
#[allow(clippy::too_many_arguments, reason = "the facts of one decision, named one by one")]
pub(crate) fn give(
    view: &TicketView,
    app: &AppView,
    body: &CodeBody,
    own: bool,
    others: &[GrantView],
    presented: &Redeem,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Granted> {
    // What was made meanwhile cannot be told from what a rule should have killed that stands no more (see `mass`): a session of
    // the client's own is made of a code from after that, and nothing but a new code helps.
    if own && view.ticket.born < view.stamp.worked_off {
        return Decision::refuse(no("access was taken away since this was asked for: ask again"));
    }
    let made = make(view, app, body, own, presented, key, chance);
    let granted = match tokens(app, body, made, rules, key, chance) {
        Ok(granted) => granted,
        Err(refused) => return Decision::refuse(refused),
    };
    let mut changes = keep(view, app, body, presented, &granted, chance);
    for scope in crowded_out(app, granted.made.session.is_some(), others) {
        let by = By { ip: presented.ip, ..By::SYSTEM };
        let end = kernel::end(Door::SessionLimit, scope, None, &by, chance);
        changes.expects.extend(end.expects);
        changes.steps.extend(end.steps);
        changes.events.extend(end.events);
    }
    Decision { outcome: Ok(granted.granted), changes }
}

/// What ends so that one more has room: at most two at a time, for the limit is no promise, and what came over it goes soon.
fn crowded_out(app: &AppView, offline: bool, others: &[GrantView]) -> Vec<Scope> {
    let account = app.session.account.id;
    let alike = others.iter().filter(|view| match offline {
        true => view.session.client == Some(app.client.id),
        false => view.session.id == app.session.session.id,
    });
    let mut alike: Vec<&GrantView> = alike.collect();
    alike.sort_by_key(|view| core::cmp::Reverse(view.grant.family.made_at));
    let over = alike.into_iter().skip(MAX_GRANTS - 1).rev().take(2);
    over.map(|view| match offline {
        true => Scope::Session { account, session: view.session.id },
        false => Scope::Grant { account, session: view.session.id, grant: view.grant.id },
    })
    .collect()
}

/// Whether the code is shown as it was asked for.
fn fits(body: &CodeBody, presented: &Redeem) -> Result<(), Refused> {
    // Who sends the address means it (RFC 6749 §4.1.3); OAuth 2.1 relies on PKCE, which is always there.
    if presented.redirect_uri.as_ref().is_some_and(|uri| *uri != body.redirect_uri) {
        return Err(no("redirect_uri is not the one that the code was sent to"));
    }
    let verifier = presented.verifier.as_deref().unwrap_or("");
    let well_made = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let hashed = Digest::of(verifier.as_bytes());
    if !well_made || b64::decode_array::<32>(&body.challenge).map(Digest) != Some(hashed) {
        return Err(no("code_verifier is not the one of the request's code_challenge (RFC 7636 §4.6)"));
    }
    let wanted = body.jkt.as_deref().and_then(b64::decode_array::<32>).map(Digest);
    if wanted.is_some() && wanted != presented.sender {
        return Err(no("the code is bound to another key (RFC 9449 §10)"));
    }
    Ok(())
}

pub(crate) fn why_dead(view: &TicketView, app: &AppView, body: &CodeBody, rules: &Rules) -> Option<Refused> {
    let (ticket, session) = (&view.ticket, &app.session.session);
    let cuts = [app.session.account.cut, view.stamp.all, app.client.cut];
    if app.session.dead(rules.idle_ttl).is_some() || cuts.iter().any(|cut| cut.kills(ticket.born, session.id)) {
        return Some(no("the session that this code belongs to has ended"));
    }
    if app.client.disabled || app.generation() != body.generation {
        return Some(no("what this code rests on was withdrawn"));
    }
    None
}

/// A code that was used before. Who holds it a second time may be a thief, or the one that was robbed (RFC 6749 §4.1.2).
fn again(used: Used, given: Option<&Session>, presented: &Redeem, chance: &mut dyn Chance) -> Decision<Granted> {
    let refused = no("this code was used before: what it gave has ended");
    let (Some(grant), Some(session)) = (used.grant, given) else { return Decision::refuse(refused) };
    let account = session.account;
    let scope = match session.client == Some(presented.client) {
        true => Scope::Session { account, session: session.id },
        false => Scope::Grant { account, session: session.id, grant },
    };
    let by = By { ip: presented.ip, ..By::SYSTEM };
    Decision { outcome: Err(refused), changes: kernel::end(Door::CodeReplay, scope, None, &by, chance) }
}

/// What is new in the database: the grant, and for an application that keeps its access a session of its own.
struct Made {
    session: Option<Session>,
    grant: Grant,
}

fn make(
    view: &TicketView,
    app: &AppView,
    body: &CodeBody,
    own: bool,
    presented: &Redeem,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Made {
    let (above, now) = (&app.session.session, view.stamp.now);
    let (agent, proof) = (device::family(presented.user_agent.as_deref()), body.proof());
    let session = own.then(|| Session {
        id: SessionId::from_bits(chance.bits()),
        account: above.account,
        kind: SessionKind::Connected,
        client: Some(app.client.id),
        device_name: app.client.name.clone(),
        agent: agent.clone(),
        ip: presented.ip,
        created_at: now,
        auth_time: proof.at,
        amr: proof.amr.clone(),
        last_seen_at: now,
        absolute_expires_at: now,
        born: view.ticket.born,
        epoch: view.stamp.epoch,
        cookie: None,
        old_cookie: None,
        // A device is no part of the browser at which its code was typed.
        allowed_in: (view.ticket.kind == TicketKind::Code).then_some(above.id),
        ended: None,
    });
    let grant = Grant {
        id: GrantId::from_bits(chance.bits()),
        session: session.as_ref().map_or(above.id, |session| session.id),
        client: app.client.id,
        scope: body.scope.clone(),
        audience: body.audience.clone(),
        sender: presented.sender,
        agent: Some(agent),
        born: view.ticket.born,
        proof: Some(proof),
        network: None,
        family: Family::new(chance.secret(), key.id, view.stamp.epoch, now),
        ended: None,
    };
    Made { session, grant }
}

struct Ready {
    granted: Granted,
    made: Made,
}

fn tokens(
    app: &AppView,
    body: &CodeBody,
    mut made: Made,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Result<Ready, Refused> {
    let (stamp, account) = (&app.session.stamp, &app.session.account);
    if let Some(session) = &mut made.session {
        session.absolute_expires_at = stamp.now.plus(rules.absolute_ttl);
    }
    let session = made.session.as_ref().unwrap_or(&app.session.session);
    let ttl = app.client.profile.access_ttl_s.map(|seconds| i64::from(seconds) * 1000);
    let idle_since = (!session.is_used_by(made.grant.client)).then(|| app.session.used_at());
    let claims = issue(stamp, rules, account, session, &made.grant, ttl, idle_since, chance)?;
    let openid = body.scope.split(' ').any(|one| one == OPENID);
    let id = openid.then(|| id_token::claims(&claims, account, body.nonce.clone()));
    let refresh = made.grant.family.current_token(key, made.grant.id);
    let current = (made.grant.id, made.grant.family.counter);
    let issued = Issued { session: session.clone(), account: account.clone(), claims, refresh, current };
    let with_refresh = app.client.profile.has(GrantType::RefreshToken);
    Ok(Ready { granted: Granted { issued, id, with_refresh }, made })
}

fn keep(
    view: &TicketView,
    app: &AppView,
    body: &CodeBody,
    presented: &Redeem,
    ready: &Ready,
    chance: &mut dyn Chance,
) -> Changes {
    let (ticket, above, made) = (&view.ticket, &app.session.session, &ready.made);
    let (account, client) = (above.account, app.client.id);
    let actor = Actor::Account { account, session: above.id };
    let kind = if made.session.is_some() { EventKind::AppConnected } else { EventKind::GrantIssued };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &actor)
        .account(account)
        .session(made.grant.session)
        .client(client)
        .ip(presented.ip);
    // A session of its own is spared by no cut; what is under the browser's is spared with it.
    let under = made.session.is_none().then_some(above.id);
    let session = made.session.clone().map(Change::InsertSession);
    let used = Change::UseTicket { ticket: ticket.id, at: view.stamp.now, grant: Some(made.grant.id) };
    Changes {
        expects: vec![
            Expect::Alive { session: above.id, role: None },
            Expect::Unborn { account, client, born: ticket.born, under },
            Expect::Consent { account, client, generation: body.generation },
        ],
        steps: session.into_iter().chain([Change::InsertGrant(made.grant.clone()), used]).collect(),
        events: vec![event],
        ..Changes::default()
    }
}
