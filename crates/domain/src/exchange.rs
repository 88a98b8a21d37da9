//! Token exchange (RFC 8693) for delegation: a service that was called with a user's token gets one for the service that it
//! calls in turn. The new token is still about the user (`sub`), says who acts (`act`), and hangs on everything that the old
//! one hung on.
//!
//! | what ends | reaches the new token by |
//! |---|---|
//! | the user's session, or all of them | `sid`, `sub`: the same as in the old token |
//! | what the first client was granted | `gid`: the same |
//! | the account of whoever acts, or of one before | `act.sub`, every one of them |
//! | the client that it was exchanged by | `client_id` |
//! | the clients before, the first one included | `via`, every one of them |
//! | the old token by itself (RFC 7009), or one before it | `from`, every one of them |
//!
//! Its life ends with the old token's at the latest, its scopes are those that both the old token and the client have, and it is
//! for resources that the client registered. It comes without a refresh token: whoever needs another one exchanges again.
use crate::authorize::audience;
use crate::client::OFFLINE;
use crate::issue::issue;
use crate::model::{Account, Client, Grant};
use crate::refused::OAuthError;
use crate::view::RefreshView;
use crate::{Chance, Refused, Rules};
use alloc::{
    borrow::ToOwned,
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use portcullis_wire::claims::Actor;
use portcullis_wire::{AccessClaims, Digest};

/// The type of token that is taken and given (RFC 8693 §3).
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// How many may act one for the other. Each one is looked up when such a token is shown to us.
pub const MAX_ACTORS: usize = 4;

/// What is asked for besides the token itself.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `scope` (RFC 8693 §2.1).
    pub scope: Option<String>,
    /// `resource`, each time that it came, and `audience`: where the new token is to be used.
    pub targets: Vec<String>,
    /// The thumbprint of the key that was proven to be held (RFC 9449).
    pub sender: Option<Digest>,
}

/// What the rule looks at. Everything was read at or after the stamp of `subject`.
#[derive(Debug, Clone)]
pub struct ExchangeView {
    /// The grant of the token that is exchanged, with everything above it; it lives.
    pub subject: RefreshView,
    /// The client that exchanges.
    pub client: Client,
    /// Its service account.
    pub account: Account,
}

fn no(error: OAuthError, detail: impl Into<String>) -> Refused {
    Refused::OAuth { error, detail: detail.into() }
}

/// The rule. `claims` are those of the token that is exchanged, which lives; `proven` is the client's row as of the moment
/// when it proved who it is.
///
/// # Errors
/// `invalid_request` for a token that may not be exchanged by this client (RFC 8693 §2.2.2), `invalid_target`,
/// `invalid_scope`, `unauthorized_client`, `invalid_client`.
pub fn exchange(
    view: &ExchangeView,
    proven: &Client,
    claims: &AccessClaims,
    asked: &Asked,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Result<AccessClaims, Refused> {
    may_exchange(view, proven, claims, rules)?;
    let (subject, client) = (&view.subject, &view.client);
    let grant = Grant {
        client: client.id,
        scope: scope_for(client, claims, asked.scope.as_deref())?,
        audience: target(client, claims, &asked.targets, rules)?,
        sender: asked.sender,
        ..subject.grant.clone()
    };
    let ttl = client.profile.access_ttl_s.map(|seconds| i64::from(seconds) * 1000);
    // Whoever exchanges is not the one who uses the session.
    let idle_since = Some(subject.used_at());
    let new = issue(&subject.stamp, rules, &subject.account, &subject.session, &grant, ttl, idle_since, chance)?;
    let exp = new.exp.min(claims.exp);
    if exp <= new.iat {
        return Err(no(OAuthError::InvalidRequest, "subject_token expires this very moment"));
    }
    let mut via: Vec<_> = core::iter::once(claims.client_id).chain(claims.via.iter().copied()).collect();
    via.dedup();
    let from = claims.tokens().collect();
    Ok(AccessClaims {
        exp,
        act: Some(Box::new(Actor { sub: view.account.id, act: claims.act.clone() })),
        via,
        from,
        auth_time: claims.auth_time,
        acr: claims.acr.clone(),
        amr: claims.amr.clone(),
        ..new
    })
}

fn may_exchange(view: &ExchangeView, proven: &Client, claims: &AccessClaims, rules: &Rules) -> Result<(), Refused> {
    let (client, now) = (&view.client, view.subject.stamp.now);
    if client.disabled || client.cut != proven.cut || client.version != proven.version {
        return Err(no(OAuthError::InvalidClient, "this client was changed meanwhile: authenticate again"));
    }
    if !view.account.usable_at(now) {
        return Err(no(OAuthError::UnauthorizedClient, "the service account of this client is blocked or deleted"));
    }
    // A token that was meant for services which this client has nothing to do with has come here by mistake or theft.
    let own = |name: &String| {
        *name == rules.audience || client.profile.resources.contains(name) || client.id.to_string() == *name
    };
    if !claims.aud.0.iter().any(own) {
        return Err(no(OAuthError::InvalidRequest, "subject_token is not for this client: none of its audience is"));
    }
    if claims.accounts().skip(1).count() >= MAX_ACTORS {
        let detail = format!("{MAX_ACTORS} act one for the other already, and no more may");
        return Err(no(OAuthError::InvalidRequest, detail));
    }
    Ok(())
}

/// What both the token and the client have; what is asked for beyond that is an error.
fn scope_for(client: &Client, claims: &AccessClaims, asked: Option<&str>) -> Result<String, Refused> {
    let both =
        |one: &&str| *one != OFFLINE && claims.has_scope(one) && client.profile.scopes.iter().any(|known| known == one);
    let Some(asked) = asked else {
        let all: Vec<&str> = claims.scope.split(' ').filter(|one| !one.is_empty()).filter(both).collect();
        return Ok(all.join(" "));
    };
    let mut words: Vec<&str> = asked.split(' ').filter(|one| !one.is_empty()).collect();
    if let Some(beyond) = words.iter().find(|one| !both(one)) {
        let detail = format!("{beyond:?} is not both subject_token's and this client's");
        return Err(no(OAuthError::InvalidScope, detail));
    }
    words.sort_unstable();
    words.dedup();
    Ok(words.join(" "))
}

/// Where the new token is for, as a grant keeps it. The server's own audience, and nothing else than it, may be kept without
/// being registered.
fn target(
    client: &Client,
    claims: &AccessClaims,
    targets: &[String],
    rules: &Rules,
) -> Result<Option<String>, Refused> {
    let own = claims.aud.contains(&rules.audience);
    if targets.is_empty() || matches!(targets, [only] if *only == rules.audience) {
        let detail = "say by `resource` or `audience` for which of this client's resources the token is to be";
        return if own { Ok(None) } else { Err(no(OAuthError::InvalidTarget, detail.to_owned())) };
    }
    audience(targets, client).map_err(|detail| no(OAuthError::InvalidTarget, detail))
}
