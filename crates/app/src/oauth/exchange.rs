//! Token exchange (RFC 8693), by `domain::exchange`; and what lives behind a token that came of it.
use super::tokens::OAuthTokens;
use super::{Known, refuse};
use crate::{App, AppError, real};
use portcullis_domain::exchange::{self, Asked, ExchangeView};
use portcullis_domain::refused::OAuthError;
use portcullis_verify::Holder;
use portcullis_wire::{AccessClaims, Code, SecretString};
use std::sync::Arc;

impl App {
    /// Exchanges a user's token for one that says who acts.
    ///
    /// # Errors
    /// What RFC 8693 §2.2.2 names; faults.
    pub async fn exchange(
        &self,
        known: &Known,
        subject_token: &SecretString,
        asked: &Asked,
    ) -> Result<OAuthTokens, AppError> {
        if !known.proven {
            return Err(refuse(OAuthError::InvalidClient, "authenticate as a client with a secret"));
        }
        self.ensure_horizon().await?;
        // It was shown to the service that exchanges it, which held its proof against the key: the key is its client's, not the service's.
        let subject =
            self.bearer(Some(subject_token.expose()), &Holder::AskedAbout).await.map_err(as_exchange_error)?;
        // Read after the token's own rows, whose stamp the new token carries.
        let gone = || refuse(OAuthError::UnauthorizedClient, "this client has no service account");
        let client = self.store().load_client(known.client.id).await.map_err(|e| self.fault(e.into()))?;
        let client = client.ok_or_else(gone)?.client;
        let account = client.profile.service_account.ok_or_else(gone)?;
        let account = self.store().load_account(account).await.map_err(|e| self.fault(e.into()))?.ok_or_else(gone)?;
        let view = ExchangeView { subject: Arc::unwrap_or_clone(subject.view), client, account: account.account };
        let (rules, chance) = (&self.settings().rules, &mut real::RealChance);
        let claims = exchange::exchange(&view, &known.client, subject.token.claims(), asked, rules, chance)?;
        if view.subject.session.is_used_by(subject.token.claims().client_id) {
            self.saw(claims.sid, self.now());
        }
        self.access_only(claims)
    }

    /// Whether those that a token came through still may act: by their rows, for what is true there counts at once. Of tokens
    /// that were not exchanged there is nothing to look at.
    pub(super) async fn hands_are_clean(&self, claims: &AccessClaims) -> Result<bool, AppError> {
        if claims.act.is_none() && claims.via.is_empty() {
            return Ok(true);
        }
        let longest = claims.via.len().max(claims.from.len()).max(claims.accounts().skip(1).count());
        if longest > exchange::MAX_ACTORS {
            return Ok(false); // we never signed such a one
        }
        for client in claims.clients().filter(|client| *client != claims.origin()) {
            let view = self.store().load_client(client).await.map_err(|e| self.fault(e.into()))?;
            if view.is_none_or(|view| view.client.disabled || view.client.cut.kills(claims.rev, claims.sid)) {
                return Ok(false);
            }
        }
        for account in claims.accounts().skip(1) {
            let view = self.store().load_account(account).await.map_err(|e| self.fault(e.into()))?;
            let acts = |account: &portcullis_domain::model::Account, now| {
                account.usable_at(now) && !account.cut.kills(claims.rev, claims.sid)
            };
            if view.is_none_or(|view| !acts(&view.account, view.stamp.now)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// RFC 8693 §2.2.2: a token that does not count is `invalid_request`. What is a fault stays one.
fn as_exchange_error(error: AppError) -> AppError {
    match error {
        AppError::Unauthenticated(Code::TokenExpired) => {
            refuse(OAuthError::InvalidRequest, "subject_token has expired")
        }
        AppError::Unauthenticated(_) | AppError::Bad(..) | AppError::NeedsScope { .. } | AppError::Refused(_) => {
            refuse(OAuthError::InvalidRequest, "subject_token is no living access token of this server")
        }
        fault => fault,
    }
}
