//! The one function behind every access token.
use crate::client::MAX_ACCESS_TTL_S;
use crate::model::{Account, Grant, Session, SessionKind};
use crate::proof;
use crate::sign_in::first_party_scope;
use crate::time_rules::issue_time;
use crate::view::Stamp;
use crate::{Chance, Refused, Rules};
use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec;
use portcullis_wire::claims::{Audience, Confirmation};
use portcullis_wire::{AccessClaims, ClientId, Millis, Time, TokenId};

/// The claims of an access token for `grant` under `session`, stamped with the head of the snapshot that the decision was
/// made on (I3), never with a rev that its own transaction writes. It says the proof that the grant was given for ([`crate::proof`]).
///
/// It ends after `access_ttl` ±20%, at most an hour, and never beyond the session's absolute end, its idle end, or the snapshot's horizon.
/// `idle_since` is when the session was last used; `None`: this is a use of it. `access_ttl` is the client's own, if it has one. Spread so that a fleet of clients does not come back at once, and so that no retry window is as
/// regular as a thief would need (DESIGN §4.6).
pub fn issue(
    stamp: &Stamp,
    rules: &Rules,
    account: &Account,
    session: &Session,
    grant: &Grant,
    access_ttl: Option<Millis>,
    idle_since: Option<Time>,
    chance: &mut dyn Chance,
) -> Result<AccessClaims, Refused> {
    // Never longer than what every node reckons with, whatever a client's row says.
    let access_ttl = access_ttl.unwrap_or(rules.access_ttl).min(rules.access_ttl.max(rules.longest_ttl));
    let (fifth, longest) = (access_ttl / 5, Millis::from(MAX_ACCESS_TTL_S) * 1000);
    let (least, most) = (access_ttl - fifth, (access_ttl + fifth).min(longest.max(access_ttl)));
    let span = u128::try_from(most - least + 1).unwrap_or(1).max(1);
    let life = least + Millis::try_from(chance.bits() % span).unwrap_or(0);
    let now = issue_time(stamp.now, stamp.floor);
    let own_end = session.absolute_expires_at.min(idle_since.unwrap_or(now).plus(rules.idle_ttl));
    let ends = [own_end, stamp.horizon];
    let exp = ends.iter().fold(now.plus(life), |a, b| a.min(*b)).secs();
    let iat = now.secs();
    if exp <= iat {
        return Err(if own_end <= stamp.now.plus(1000) {
            Refused::RefreshExpired
        } else {
            Refused::Unavailable { detail: "the horizon has not been raised".into() }
        });
    }
    let proof = proof::of_grant(session, grant);
    Ok(AccessClaims {
        iss: rules.issuer.clone(),
        sub: account.id,
        aud: audience(rules, grant),
        client_id: grant.client,
        exp,
        iat,
        jti: TokenId::from_bits(chance.bits()),
        scope: scope(account, session, grant),
        auth_time: proof.at.secs(),
        acr: ACR.into(),
        amr: proof.amr.methods(),
        sid: session.id,
        rev: stamp.head,
        epoch: stamp.epoch,
        gid: Some(grant.id),
        // What an account may here is no business of applications, nor of services that they call.
        roles: if grant.client == ClientId::FIRST_PARTY { account.roles.clone() } else { vec![] },
        act: None,
        via: vec![],
        from: vec![],
        cnf: grant.sender.map(Confirmation::of),
    })
}

/// The authentication context class of a sign-in (RFC 9068 §2.2.1), the only one yet.
pub const ACR: &str = "1";

fn audience(rules: &Rules, grant: &Grant) -> Audience {
    match &grant.audience {
        None => Audience(vec![rules.audience.clone()]),
        Some(resources) => Audience(resources.split(' ').map(str::to_owned).collect()),
    }
}

/// The scope to issue: for a sign-in what the account's roles allow today, for others what was granted. An API key never opens
/// the account itself.
fn scope(account: &Account, session: &Session, grant: &Grant) -> String {
    let signed_in = grant.client == ClientId::FIRST_PARTY && session.kind != SessionKind::ApiKey;
    if signed_in { first_party_scope(account).into() } else { grant.scope.clone() }
}
