//! The cookie of a browser's session: another one whenever its user proves who they are again.
//!
//! Whoever holds the cookie of before, by theft or by having planted it, must not gain by that proof (session fixation; OWASP
//! ASVS 5.0 §7.2.4). So a proof puts another cookie in its place, and the old one carries the old proof for as long as it is
//! taken at all. That is needed, for the answer with the new one may be lost, and a second tab may have asked a moment before
//! (I6): the old one is taken until the new one was shown for the first time, and [`Rules::retry_window`] longer; without that,
//! until [`Rules::late_retry`] has passed. As with refresh tokens the new one is derived from the one that was shown and a key of
//! the server's, which neither the browser nor the database has: who proves twice with the same cookie gets the same successor,
//! byte for byte.
use crate::Rules;
use crate::changes::Change;
use crate::family::MacKey;
use crate::model::{OldCookie, Session, SessionKind};
use crate::proof::Proof;
use portcullis_wire::{Digest, SessionId, Time};

/// What a cookie that was shown is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The session's own.
    Current,
    /// The one before, which is still taken: its user proved who they are like this, as far as it is concerned.
    Old(Proof),
}

/// What the cookie with this digest is to a session; `None`: nothing. An API key's digest stands in the same column, and opens no page.
pub fn shown(session: &Session, digest: Digest, now: Time) -> Option<Shown> {
    if session.kind != SessionKind::Browser {
        return None;
    }
    if session.cookie == Some(digest) {
        return Some(Shown::Current);
    }
    let old = session.old_cookie.as_ref().filter(|old| old.digest == digest && now < old.until)?;
    Some(Shown::Old(old.proof.clone()))
}

/// The secret of the cookie after the one with this secret.
pub fn next_secret(key: &MacKey, session: SessionId, secret: &[u8; 32]) -> [u8; 32] {
    let (id, mut out) = (session.bits().to_be_bytes(), [0; 32]);
    out[..16].copy_from_slice(&key.tag(b"page cookie after, first half", &[&id, secret]));
    out[16..].copy_from_slice(&key.tag(b"page cookie after, second half", &[&id, secret]));
    out
}

/// What becomes of a session's cookie when its user, who has shown the one with the secret `from`, has proved who they are: `to` is
/// what they get. `None`: they get what is there already, for the same cookie was proved with before.
pub fn rotate(session: &Session, from: Digest, to: Digest, now: Time, rules: &Rules) -> Option<Change> {
    let before = session.cookie.filter(|cookie| *cookie != to)?;
    let old = OldCookie {
        digest: from,
        proof: match &session.old_cookie {
            Some(old) if old.digest == from => old.proof.clone(),
            _ => Proof::of(session),
        },
        until: now.plus(rules.late_retry.max(rules.retry_window)),
    };
    Some(Change::SetCookie { session: session.id, before, cookie: to, old: Some(old) })
}

/// What is to be written because the session's own cookie was shown: the one before is not taken for long any more.
pub fn settle(session: &Session, now: Time, rules: &Rules) -> Option<Change> {
    let until = now.plus(rules.retry_window);
    let old = session.old_cookie.clone().filter(|old| old.until > until)?;
    let cookie = session.cookie?;
    let old = Some(OldCookie { until, ..old });
    Some(Change::SetCookie { session: session.id, before: cookie, cookie, old })
}
