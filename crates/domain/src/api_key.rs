//! API keys: what a person gives to a program of theirs, instead of a password.
//!
//! A key is a session of kind `api_key`: it stands among its owner's devices, is ended like any, and dies with all that ends a
//! session (so with a change of the password, or "log out everywhere"). The key itself opens nothing but `POST
//! /v1/api-keys/token`, which answers with an access token of minutes under that session; services see such tokens only, and
//! judge them offline like all others. The row keeps a digest of the key's 256 random bits.
//!
//! A key has an end of its own, and no idle end: a program that runs once a quarter must not find its key gone. It is counted
//! as seen until then for that (`last_seen_at`); when it was really used is told by its grant.
use crate::amr::Amr;
use crate::changes::{Change, Changes, Counted, Expect};
use crate::client::is_scope;
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::{Family, MacKey};
use crate::issue::issue;
use crate::model::{Grant, Session, SessionKind};
use crate::refresh::is_dead;
use crate::view::{RefreshView, SessionView};
use crate::{Chance, Decision, Refused, Rules, account, upstream};
use alloc::{format, string::String, vec, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{
    AccessClaims, ClientId, Code, Digest, EventId, GrantId, Millis, SecretString, SessionId, Time, b64,
};

/// What every key begins with: whoever finds one in a file knows what it is, and scanners for secrets can.
pub const PREFIX: &str = "pck_";
/// The most living keys of one account.
pub const MAX_KEYS: usize = 50;
/// How long a key lives at most, and when nothing else is said, in milliseconds: 366 days.
pub const MAX_LIFE: Millis = 366 * 86_400_000;

/// A key as it is shown, once.
pub fn text(grant: GrantId, secret: &[u8; 32]) -> SecretString {
    let mut bytes = grant.bits().to_be_bytes().to_vec();
    bytes.extend_from_slice(secret);
    SecretString::new(format!("{PREFIX}{}", b64::encode(&bytes)))
}

/// Which grant a key names, and the digest of its secret; `None` for what can be no key.
pub fn parse(text: &str) -> Option<(GrantId, Digest)> {
    let bytes: [u8; 48] = text.strip_prefix(PREFIX).and_then(b64::decode_array)?;
    let (id, secret) = bytes.split_at(16);
    let id = GrantId::from_bits(u128::from_be_bytes(id.try_into().ok()?));
    Some((id, digest(secret)))
}

/// Never the digest of a page cookie, which stands in the same column.
fn digest(secret: &[u8]) -> Digest {
    Digest::of(&[b"api key:", secret].concat())
}

/// A key as its owner wants it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it ends; `None`: after [`MAX_LIFE`].
    pub expires_at: Option<Time>,
    /// From where.
    pub ip: Option<IpAddr>,
}

/// A key that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its session.
    pub session: Session,
    /// Its scopes, separated by spaces.
    pub scope: String,
    /// The key itself, to be shown once.
    pub key: SecretString,
}

/// Makes a key. `caller` is whoever asks, `live` how their account's living sessions stand, `allowed` the scopes that keys may
/// have here, `max_age` how old the proof of who asks may be.
pub fn create(
    caller: &SessionView,
    live: &[SessionView],
    wanted: &Wanted,
    allowed: &[String],
    max_age: Millis,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Made> {
    let checked = check(caller, live, wanted, allowed, max_age);
    let (name, scope, ends) = match checked {
        Ok(checked) => checked,
        Err(refused) => return Decision::refuse(refused),
    };
    let (stamp, account, secret) = (&caller.stamp, caller.account.id, chance.secret());
    let session = Session {
        id: SessionId::from_bits(chance.bits()),
        account,
        kind: SessionKind::ApiKey,
        client: None,
        device_name: name,
        agent: String::new(),
        ip: wanted.ip,
        created_at: stamp.now,
        auth_time: caller.session.auth_time,
        amr: Amr::unknown(),
        last_seen_at: stamp.now.max(ends.minus(rules.idle_ttl)),
        absolute_expires_at: ends,
        born: stamp.head,
        epoch: stamp.epoch,
        cookie: Some(digest(&secret)),
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(chance.bits()),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: scope.clone(),
        audience: None,
        sender: None,
        agent: None,
        born: stamp.head,
        proof: None,
        network: None,
        family: Family::new(chance.secret(), key.id, stamp.epoch, stamp.now),
        ended: None,
    };
    let shown = text(grant.id, &secret);
    let actor = Actor::Account { account, session: caller.session.id };
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::ApiKeyCreated, &actor)
        .account(account)
        .session(session.id)
        .ip(wanted.ip)
        .reason(session.device_name.clone());
    let changes = Changes {
        expects: vec![
            Expect::Alive { session: caller.session.id, role: None },
            Expect::Unborn { account, client: ClientId::FIRST_PARTY, born: stamp.head, under: None },
            Expect::LiveSessions { account, counted: Counted::ApiKeys, besides: vec![], at_most: keys_of(live) as u64 },
        ],
        steps: vec![Change::InsertSession(session.clone()), Change::InsertGrant(grant)],
        events: vec![event],
        ..Changes::default()
    };
    Decision { outcome: Ok(Made { session, scope, key: shown }), changes }
}

fn keys_of(live: &[SessionView]) -> usize {
    live.iter().filter(|view| Counted::ApiKeys.counts(view.session.kind)).count()
}

fn check(
    caller: &SessionView,
    live: &[SessionView],
    wanted: &Wanted,
    allowed: &[String],
    max_age: Millis,
) -> Result<(String, String, Time), Refused> {
    let now = caller.stamp.now;
    let name = account::check_text("name", &wanted.name)?;
    let bad = |field, detail: String| Refused::InvalidValue { field, detail };
    let mut scopes = wanted.scopes.clone();
    if let Some(strange) = scopes.iter().find(|scope| !is_scope(scope) || !allowed.contains(scope)) {
        let all = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
        return Err(bad("scopes", format!("{strange:?} is none that keys may have here (`api_key_scopes`: {all})")));
    }
    scopes.sort();
    scopes.dedup();
    let longest = now.plus(MAX_LIFE);
    let ends = wanted.expires_at.unwrap_or(longest);
    if ends <= now || ends > longest {
        return Err(bad("expires_at", format!("must lie ahead, by {} days at most", MAX_LIFE / 86_400_000)));
    }
    if now.since(upstream::proven_at(&caller.account, &caller.session)) > max_age {
        return Err(Refused::StepUpRequired { max_age_s: max_age.div_euclid(1000) });
    }
    if keys_of(live) >= MAX_KEYS {
        let detail =
            format!("this account has {MAX_KEYS} API keys already, and may have no more; end one of them first");
        return Err(Refused::Conflict { detail });
    }
    Ok((name, scopes.join(" "), ends))
}

/// A token for a key. `secret` is the digest of what was shown; `view` is of the grant that it names.
///
/// # Errors
/// The code of a 401, the same for an unknown key and a wrong one.
pub fn token(
    view: &RefreshView,
    secret: Digest,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Result<Decision<AccessClaims>, Code> {
    let (session, grant, now) = (&view.session, &view.grant, view.stamp.now);
    if session.kind != SessionKind::ApiKey || session.cookie != Some(secret) {
        return Err(Code::TokenMalformed);
    }
    if is_dead(view, rules) {
        let expired = session.ended.is_none() && now >= session.absolute_expires_at;
        return Err(if expired { Code::TokenExpired } else { Code::TokenRevoked });
    }
    let claims = match issue(&view.stamp, rules, &view.account, session, grant, view.access_ttl, None, chance) {
        Ok(claims) => AccessClaims { acr: crate::service::ACR.into(), amr: vec![], ..claims },
        Err(refused) => return Ok(Decision::refuse(refused)),
    };
    // When it was last used, for its owner.
    let used = Change::HandOut { grant: grant.id, counter: grant.family.counter, at: now };
    Ok(Decision { outcome: Ok(claims), changes: Changes { steps: vec![used], ..Changes::default() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_there_and_back() {
        let (grant, secret) = (GrantId::from_bits(7), [9; 32]);
        let key = text(grant, &secret);
        assert_eq!(parse(key.expose()), Some((grant, digest(&secret))));
        assert_ne!(digest(&secret), Digest::of(&secret), "no page cookie's");
        let long = format!("{}A", key.expose());
        for wrong in ["", PREFIX, &key.expose()[4..], &key.expose()[..50], &long, "pcs_AAAA"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
