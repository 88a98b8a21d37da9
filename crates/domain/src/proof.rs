//! How and when somebody proved who they are, and which tokens say so (`auth_time` and `amr`; decision 0038).
//!
//! A proof is the credential's that was given for it. A session's user may prove once more who they are; what was handed out under that
//! session before, a code, a refresh token, the page cookie, gains nothing by it, for whoever holds that may be somebody else. So a code
//! carries the proof of when it was made, and a grant keeps that of its code (OpenID Connect Core §12.2: the `auth_time` of a refreshed
//! ID token is the original authentication's).
use crate::amr::Amr;
use crate::model::{Grant, Session, UNPROVEN};
use portcullis_wire::Time;

/// A proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// When, or [`UNPROVEN`].
    pub at: Time,
    /// By which methods.
    pub amr: Amr,
}

impl Proof {
    /// Nobody knows, and nothing is said.
    pub fn unknown() -> Self {
        Self { at: UNPROVEN, amr: Amr::unknown() }
    }

    /// The last one of a session's user.
    pub fn of(session: &Session) -> Self {
        Self { at: session.auth_time, amr: session.amr.clone() }
    }
}

/// What the tokens of a grant say: never what was proven after the grant was asked for.
///
/// A grant that keeps no proof was made with its session, by one and the same proof, or by a release that did not keep them. Either way
/// the session's is the right one, unless its user has proven anew since the session began: what was before that nobody knows any more.
pub fn of_grant(session: &Session, grant: &Grant) -> Proof {
    match &grant.proof {
        Some(proof) => proof.clone(),
        None if session.auth_time > session.created_at => Proof::unknown(),
        None => Proof::of(session),
    }
}

/// Makes a session what it is to whoever has shown a credential of this proof, whatever was proven since.
pub fn as_shown(session: &mut Session, shown: Proof) {
    (session.auth_time, session.amr) = (shown.at, shown.amr);
}
