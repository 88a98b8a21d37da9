//! ID tokens (OpenID Connect Core §2): what a client is told about who signed in.
use crate::model::Account;
use alloc::string::{String, ToString as _};
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{AccessClaims, ClientId, SessionId, b64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// `typ` of ID tokens: never that of an access token, so neither is taken for the other (RFC 8725 §3.11).
pub const TYP: &str = "JWT";

/// The claims of an ID token. Times are whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdClaims {
    /// Issuer.
    pub iss: String,
    /// Who, as this client knows them.
    pub sub: String,
    /// The client.
    pub aud: String,
    /// Not accepted from then on.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// When the user proved who they are; 0, and not said, when that is not known.
    #[serde(default, skip_serializing_if = "portcullis_wire::claims::is_zero")]
    pub auth_time: i64,
    /// The request's `nonce`, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Authentication context class.
    pub acr: String,
    /// Authentication methods (RFC 8176).
    pub amr: alloc::vec::Vec<String>,
    /// The client again: who may use it (OpenID Connect Core §2).
    pub azp: ClientId,
    /// The session, for logouts (OpenID Connect Back-Channel Logout §2.1).
    pub sid: SessionId,
    /// Half of the access token's digest (OpenID Connect Core §3.1.3.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_hash: Option<String>,
    /// What the scopes `profile` and `email` open.
    #[serde(flatten)]
    pub about: About,
}

/// Claims about a user, by the scopes that open them (OpenID Connect Core §5.4).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// By `profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By `email`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// By `email`: whether it was shown that the address is theirs (see [`crate::email`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
}

/// What these scopes tell about `account`.
pub fn about(account: &Account, scope: &str) -> About {
    let has = |name| scope.split(' ').any(|one| one == name);
    let email = account.email.clone().filter(|_| has("email"));
    About {
        name: account.name.clone().filter(|_| has("profile")),
        email_verified: email.as_ref().map(|_| account.email_verified_at.is_some()),
        email,
    }
}

/// What userinfo tells (OpenID Connect Core §5.3.2). Signed, it names issuer and client, and neither times nor a nonce, so that nobody
/// takes it for an ID token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserInfo {
    /// Issuer, when it is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The client, when it is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Who, as this client knows them.
    pub sub: String,
    /// What the token's scopes open.
    #[serde(flatten)]
    pub about: About,
}

/// The ID token that goes with an access token.
pub fn claims(access: &AccessClaims, account: &Account, nonce: Option<String>) -> IdClaims {
    IdClaims {
        iss: access.iss.clone(),
        sub: access.sub.to_string(),
        aud: access.client_id.to_string(),
        exp: access.exp,
        iat: access.iat,
        auth_time: access.auth_time,
        nonce,
        acr: access.acr.clone(),
        amr: access.amr.clone(),
        azp: access.client_id,
        sid: access.sid,
        at_hash: None,
        about: about(account, &access.scope),
    }
}

/// `at_hash` (OpenID Connect Core §3.1.3.6): the left half of the token's digest, by the hash of the algorithm that signs.
pub fn at_hash(access_token: &str, algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::Es256 | Algorithm::Rs256 => b64::encode(&Sha256::digest(access_token.as_bytes())[..16]),
        // Ed25519 hashes with SHA-512 (RFC 8032 §5.1).
        Algorithm::Ed25519 => b64::encode(&Sha512::digest(access_token.as_bytes())[..32]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of OpenID Connect Core, appendix A.3.
    #[test]
    fn at_hash_is_half_a_digest() {
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(at_hash(token, Algorithm::Rs256), "77QmUPtjPfzWtF2AnpK9RQ");
        assert_eq!(at_hash(token, Algorithm::Ed25519).len(), 43);
    }
}
