//! The claims of an access token (RFC 9068 §2.2), plus what makes it revocable: `sid`, `rev`, `epoch`, `gid`.
use crate::{AccountId, ClientId, Digest, Epoch, GrantId, Rev, SessionId, Time, TokenId, b64};
use alloc::{boxed::Box, string::String, vec, vec::Vec};
use core::fmt;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The claims of an access token. Times are whole seconds (RFC 7519 §2 NumericDate).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Issuer (RFC 7519 §4.1.1).
    pub iss: String,
    /// The account. Never pairwise in access tokens.
    pub sub: AccountId,
    /// Audience (RFC 7519 §4.1.3): one name or several.
    pub aud: Audience,
    /// The client that the token was issued to (RFC 8693 §4.3).
    pub client_id: ClientId,
    /// Not accepted at or after this second.
    pub exp: i64,
    /// Second of issue, by the database's clock.
    pub iat: i64,
    /// The token's own id.
    pub jti: TokenId,
    /// Scopes, separated by single spaces (RFC 6749 §3.3).
    pub scope: String,
    /// Second at which the user authenticated (RFC 9068 §2.2.1); 0, and not said, when that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub auth_time: i64,
    /// Authentication context class (RFC 9068 §2.2.1).
    pub acr: String,
    /// Authentication methods (RFC 8176).
    pub amr: Vec<String>,
    /// The session under which the token was issued.
    pub sid: SessionId,
    /// The log position of the snapshot that the token was minted from.
    pub rev: Rev,
    /// The log's generation.
    pub epoch: Epoch,
    /// The grant, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<GrantId>,
    /// Roles of the account (RFC 9068 §2.2.3.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Who acts for the subject (RFC 8693 §4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
    /// The clients through whose hands it came, by exchange (RFC 8693), nearest first; the last one is whose grant it is. An end
    /// of each of them ends it, as one of `client_id` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<ClientId>,
    /// The tokens that it came of, by exchange, nearest first. The revocation of each of them (RFC 7009) ends it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<TokenId>,
    /// The key that whoever shows the token must prove to hold (RFC 9449 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// Whether a time is none.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
pub fn is_zero(time: &i64) -> bool {
    *time == 0
}

/// A key that a token is bound to (RFC 7800 §3.1, RFC 9449 §6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Its thumbprint (RFC 7638) by SHA-256, base64url.
    pub jkt: String,
}

impl Confirmation {
    /// Of the key with this thumbprint.
    pub fn of(thumbprint: Digest) -> Self {
        Self { jkt: b64::encode(&thumbprint.0) }
    }
}

/// An actor and the actor before it (RFC 8693 §4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The account that acts.
    pub sub: AccountId,
    /// The one that it acts for in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Actor>>,
}

/// `aud`: a string or an array of strings (RFC 7519 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience(pub Vec<String>);

impl Audience {
    /// Whether `name` is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }
}

impl Serialize for Audience {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => s.serialize_str(one),
            several => several.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Audience;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: Error>(self, one: &str) -> Result<Audience, E> {
                Ok(Audience(vec![one.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Audience, A::Error> {
                let mut several = Vec::new();
                while let Some(one) = all.next_element()? {
                    several.push(one);
                }
                Ok(Audience(several))
            }
        }
        d.deserialize_any(OneOrSeveral)
    }
}

impl AccessClaims {
    /// `exp` as a time.
    pub fn expires_at(&self) -> Time {
        Time::from_secs(self.exp)
    }
    /// Whether the token has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|s| s == scope)
    }
    /// The client that it was issued to and every one that it came through, nearest first.
    pub fn clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        core::iter::once(self.client_id).chain(self.via.iter().copied())
    }
    /// The token's own id and those of the tokens that it came of, nearest first.
    pub fn tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        core::iter::once(self.jti).chain(self.from.iter().copied())
    }
    /// The client that was granted what it is about.
    pub fn origin(&self) -> ClientId {
        self.via.last().copied().unwrap_or(self.client_id)
    }
    /// The subject and every actor, nearest first.
    pub fn accounts(&self) -> impl Iterator<Item = AccountId> + '_ {
        let mut next = self.act.as_deref();
        core::iter::once(self.sub).chain(core::iter::from_fn(move || {
            let actor = next?;
            next = actor.act.as_deref();
            Some(actor.sub)
        }))
    }
}
