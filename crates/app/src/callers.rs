//! Who calls: from a bearer token or a page cookie to a living session.
//!
//! The server judges its own tokens by the code that every verifier uses, and then looks at the rows besides, since it has
//! them: what is true in the database counts at once, whatever the feed's state.
use crate::high_water::Proof;
use crate::sessions::PageEntry;
use crate::{App, AppError};
use portcullis_domain::changes::Changes;
use portcullis_domain::family::Presented;
use portcullis_domain::kernel::Door;
use portcullis_domain::model::ADMIN;
use portcullis_domain::page_cookie::{self, Shown};
use portcullis_domain::proof;
use portcullis_domain::view::{Dead, SessionView, session_dead};
use portcullis_domain::{Actor, Refused};
use portcullis_verify::{Authentic, Holder};
use portcullis_wire::{AccessClaims, Code, Digest, SecretBytes, SecretString, SessionId, b64};
use std::net::IpAddr;
use std::sync::Arc;

/// Somebody who proved to hold a living session.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The session, its account, and their snapshot.
    pub view: SessionView,
    /// The scopes of the token; for a page cookie, those of the first-party client.
    pub scope: String,
    /// From where the call comes.
    pub ip: Option<IpAddr>,
    /// The secret of the page cookie that was shown, when one was.
    pub(crate) page: Option<SecretBytes>,
}

impl Caller {
    /// As an actor in audit records and expectations.
    pub fn actor(&self) -> Actor {
        Actor::Account { account: self.view.account.id, session: self.view.session.id }
    }
    /// Whether the scope is there.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|s| s == scope)
    }
}

const COOKIE_PREFIX: &str = "pcs_";

/// The text of a page cookie: the session's id and a secret of 256 bits, of which the row keeps the digest.
pub fn cookie_text(session: SessionId, secret: &[u8; 32]) -> SecretString {
    let mut bytes = session.bits().to_be_bytes().to_vec();
    bytes.extend_from_slice(secret);
    SecretString::new(format!("{COOKIE_PREFIX}{}", b64::encode(&bytes)))
}

impl App {
    /// The caller behind a bearer token.
    pub async fn caller(&self, token: Option<&str>, ip: Option<IpAddr>) -> Result<Caller, AppError> {
        let token = self.authentic(token)?;
        let claims = token.claims();
        self.not_ahead(claims).await?;
        let view = self.token_session(claims).await?;
        // The rows first: what is true in the database counts at once, and a refusal that is certain needs no freshness.
        if view.account.id != claims.sub || view.session.born > claims.rev || claims.rev > view.stamp.head {
            tracing::error!(session = %claims.sid, rev = %claims.rev, "a signed token that this log cannot have made: is a key stolen?");
            return Err(AppError::Unauthenticated(Code::TokenMalformed));
        }
        match view.dead(self.settings().rules.idle_ttl) {
            None => {}
            Some(Dead::Expired) => return Err(AppError::Unauthenticated(Code::TokenExpired)),
            Some(_) => return Err(AppError::Unauthenticated(Code::TokenRevoked)),
        }
        match self.hub().judge(&token) {
            Ok(()) => {}
            Err(Code::NotFresh) => {
                return Err(self.fault(AppError::Fault("this node's view of the log is too old".into())));
            }
            Err(code) => return Err(AppError::Unauthenticated(code)),
        }
        // An application's token opens what it was granted for, never the account itself.
        if !token.claims().has_scope("account") {
            let detail = "this takes a token of a sign-in here, with the scope account".into();
            return Err(AppError::NeedsScope { scope: "account", detail });
        }
        self.saw(view.session.id, view.stamp.now);
        Ok(Caller { view, scope: token.claims().scope.clone(), ip, page: None })
    }

    /// The session behind a bearer token that may be dead already: for a repeated sign-out.
    pub async fn caller_dead_or_alive(&self, token: Option<&str>, ip: Option<IpAddr>) -> Result<Caller, AppError> {
        let token = self.authentic(token)?;
        // A revoked one is welcome here; one that is malformed, of somebody else or expired is not.
        match self.hub().judge(&token) {
            Ok(()) | Err(Code::TokenRevoked | Code::TokenStale | Code::NotFresh) => {}
            Err(code) => return Err(AppError::Unauthenticated(code)),
        }
        let claims = token.claims();
        if !claims.has_scope("account") {
            let detail = "this takes a token of a sign-in here, with the scope account".into();
            return Err(AppError::NeedsScope { scope: "account", detail });
        }
        let view = self.token_session(claims).await?;
        if view.account.id != claims.sub || claims.rev > view.stamp.head {
            return Err(AppError::Unauthenticated(Code::TokenMalformed));
        }
        Ok(Caller { view, scope: token.claims().scope.clone(), ip, page: None })
    }

    /// The caller behind a page cookie that their browser has shown: the one before it has done its duty.
    pub async fn page_caller(&self, cookie: &SecretString, ip: Option<IpAddr>) -> Result<Caller, AppError> {
        let (caller, is_current) = self.behind_cookie(cookie, ip).await?;
        if is_current {
            self.settle_cookie(&caller.view).await;
        }
        Ok(caller)
    }

    /// Who has just signed in or proven who they are. Their browser has not shown the cookie that it gets, and never will when the
    /// answer is lost: then it needs the one before.
    pub async fn page_entered(&self, entry: &PageEntry, ip: Option<IpAddr>) -> Result<Caller, AppError> {
        Ok(self.behind_cookie(&entry.cookie, ip).await?.0)
    }

    /// Whose cookie that is, and whether it is their session's present one.
    async fn behind_cookie(&self, cookie: &SecretString, ip: Option<IpAddr>) -> Result<(Caller, bool), AppError> {
        let missing = || AppError::Unauthenticated(Code::TokenMissing);
        let bytes: [u8; 48] =
            cookie.expose().strip_prefix(COOKIE_PREFIX).and_then(b64::decode_array).ok_or_else(missing)?;
        let (id, secret) = bytes.split_at(16);
        let id = SessionId::from_bits(u128::from_be_bytes(id.try_into().map_err(|_| missing())?));
        let view = self.store().load_session(id).await.map_err(|e| self.fault(e.into()))?;
        let mut view = view.ok_or_else(missing)?;
        let shown = page_cookie::shown(&view.session, Digest::of(secret), view.stamp.now).ok_or_else(missing)?;
        if let Some(dead) = view.dead(self.settings().rules.idle_ttl) {
            let reason = match dead {
                Dead::Ended { reason, .. } => reason,
                Dead::Cut { above, .. } => above.into(),
                Dead::Standing { .. } => Door::Filter.as_str().into(),
                Dead::Account => "account".into(),
                Dead::OldEpoch | Dead::Expired => "expired".into(),
            };
            return Err(Refused::SessionEnded { reason }.into());
        }
        self.saw(id, view.stamp.now);
        let is_current = match shown {
            Shown::Current => true,
            Shown::Old(old) => {
                proof::as_shown(&mut view.session, old);
                false
            }
        };
        let scope = portcullis_domain::sign_in::first_party_scope(&view.account).into();
        Ok((Caller { view, scope, ip, page: Some(SecretBytes::new(secret)) }, is_current))
    }

    /// The cookie before the one that was shown is not taken for long any more. When that cannot be written now, the next page does
    /// it; the old cookie has an end of its own besides.
    async fn settle_cookie(&self, view: &SessionView) {
        let Some(step) = page_cookie::settle(&view.session, view.stamp.now, &self.settings().rules) else { return };
        if let Err(error) = self.store().commit(Changes { steps: vec![step], ..Changes::default() }).await {
            tracing::debug!(%error, session = %view.session.id, "an old cookie was not settled; the next page does it");
        }
    }

    /// Whether the session behind a page cookie has certainly ended, so that the cookie may be cleared. A fault or a cookie
    /// of nobody is no certain end.
    pub async fn page_cookie_ended(&self, cookie: &SecretString) -> bool {
        matches!(self.page_caller(cookie, None).await, Err(AppError::Refused(refused)) if refused.is_certain_end())
    }

    /// Whether the session behind a refresh token has certainly ended, so that a cookie with it may be cleared. Looks, and
    /// uses nothing.
    pub async fn refresh_token_ended(&self, token: &SecretString) -> bool {
        let Some(presented) = Presented::parse(token) else { return false };
        let keys = self.keys();
        if !keys.mac_by_id(presented.key()).is_some_and(|key| presented.is_ours(key)) {
            return false;
        }
        let view = match self.store().load_refresh(presented.grant()).await {
            Ok(Some(view)) => view,
            Ok(None) => return false,
            Err(error) => {
                self.fault(error.into());
                return false;
            }
        };
        let (used_at, idle_ttl) = (view.used_at(), self.settings().rules.idle_ttl);
        view.grant.ended.is_some()
            || session_dead(&view.stamp, &view.standing, &view.session, &view.account, used_at, idle_ttl).is_some()
    }

    /// An access token that lives, by the rows and the log (RFC 7662 §2.2); `None` for anything else, whatever the reason.
    ///
    /// # Errors
    /// Faults: it is not known whether it lives.
    pub async fn introspect(&self, token: &str) -> Result<Option<Arc<Authentic>>, AppError> {
        match self.bearer_seen(Some(token), &Holder::AskedAbout).await {
            Ok(bearer) => Ok(Some(bearer.token)),
            Err(error @ (AppError::Fault(_) | AppError::Overloaded)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// A caller who may use the admin API: scope `admin`, and the role still held.
    pub async fn admin_caller(&self, token: Option<&str>, ip: Option<IpAddr>) -> Result<Caller, AppError> {
        let caller = self.caller(token, ip).await?;
        if !caller.has_scope("admin") {
            let detail = "the admin API takes a token with the scope admin".into();
            return Err(AppError::NeedsScope { scope: "admin", detail });
        }
        if !caller.view.account.has_role(ADMIN) {
            return Err(Refused::Forbidden.into());
        }
        Ok(caller)
    }

    pub(crate) fn authentic(&self, token: Option<&str>) -> Result<Arc<Authentic>, AppError> {
        let token = token.ok_or(AppError::Unauthenticated(Code::TokenMissing))?;
        let token = self.hub().authenticate(token).map_err(AppError::Unauthenticated)?;
        // The rows first: a key that is dead there is dead here at once. Whoever has it signs what they like, so such a token
        // proves nothing at all, not even who a repeated sign-out is from.
        if token.key().is_some_and(|key| self.keys().is_dead(key)) {
            return Err(AppError::Unauthenticated(Code::TokenRevoked));
        }
        Ok(token)
    }

    /// A token of ours that is stamped beyond the head proves that the database is older than it was (or that a signing key is
    /// stolen). Nearly always one comparison with what this node knows of the log.
    pub(crate) async fn not_ahead(&self, claims: &AccessClaims) -> Result<(), AppError> {
        if claims.rev <= self.hub().head() {
            return Ok(());
        }
        let stamp = self.store().stamp().await.map_err(|e| self.fault(e.into()))?;
        if (claims.epoch, claims.rev) > (stamp.epoch, stamp.head) {
            let what = format!(
                "a token with our signature is stamped {}.{} (or the signing key is stolen: then revoke it first)",
                claims.epoch, claims.rev
            );
            self.hub().prove(Proof::by_position(what, (claims.epoch, claims.rev), None, stamp.now));
            return Err(AppError::Fault("a token is ahead of the log".into()));
        }
        Ok(())
    }

    async fn token_session(&self, claims: &AccessClaims) -> Result<SessionView, AppError> {
        let view = self.store().load_session(claims.sid).await.map_err(|error| self.fault(error.into()))?;
        view.ok_or(AppError::Unauthenticated(Code::TokenRevoked))
    }
}
