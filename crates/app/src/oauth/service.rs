//! Tokens for clients that act for themselves (RFC 6749 §4.4), by `domain::service`.
use super::tokens::OAuthTokens;
use super::{Known, as_grant_error, refuse};
use crate::{Acted, App, AppError};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::service::{self, Asked, ServiceView};
use portcullis_domain::view::RefreshView;
use portcullis_wire::{AccessClaims, AccountId, ClientId, SessionId};

/// How many sessions of a service account are looked at; there is hardly ever more than one.
const MAX_LOOKED_AT: u32 = 16;

impl App {
    /// A token for the client itself: under its service session, of which one is made when none lives.
    ///
    /// # Errors
    /// What RFC 6749 §5.2 names; faults.
    pub async fn service_token(&self, known: &Known, asked: &Asked) -> Result<OAuthTokens, AppError> {
        if !known.proven {
            return Err(refuse(OAuthError::InvalidClient, "authenticate as a client with a secret"));
        }
        self.ensure_horizon().await?;
        let (keys, rules, id) = (self.keys(), &self.settings().rules, known.client.id);
        let acted = self
            .act(
                "",
                None,
                || self.service_view(id),
                |view, chance| service::token(view, &known.client, asked, rules, keys.mac(), chance),
            )
            .await;
        match acted.map_err(as_grant_error)? {
            Acted::Done(claims, _) | Acted::Answered(claims) => {
                self.saw(claims.sid, self.now());
                self.access_only(claims)
            }
            Acted::Before(_) => Err(AppError::Fault("a token has no repeat key".into())),
        }
    }

    async fn service_view(&self, id: ClientId) -> Result<ServiceView, AppError> {
        let no_account = || refuse(OAuthError::UnauthorizedClient, "this client has no service account");
        // The client first: everything else is read at or after its stamp.
        let client = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?.ok_or_else(no_account)?;
        let account = client.client.profile.service_account.ok_or_else(no_account)?;
        // Sessions before grants: one that is made in between is found to live at the commit, and never taken for one with
        // nothing under it.
        let live = self.live_service_sessions(account).await?;
        let held = self.held_by(account, id).await?;
        let account = self.store().load_account(account).await.map_err(|e| self.fault(e.into()))?;
        let account = account.ok_or_else(no_account)?.account;
        Ok(ServiceView { stamp: client.stamp, client: client.client, account, held, live })
    }

    /// What of the client's own can still be used.
    async fn held_by(&self, account: AccountId, client: ClientId) -> Result<Option<RefreshView>, AppError> {
        let grants = self.store().list_grants(account, Some(client), MAX_LOOKED_AT).await;
        for grant in grants.map_err(|e| self.fault(e.into()))? {
            let view = self.store().load_refresh(grant.grant.id).await.map_err(|e| self.fault(e.into()))?;
            let usable = |view: &RefreshView| !portcullis_domain::refresh::is_dead(view, &self.settings().rules);
            if let Some(view) = view.filter(usable) {
                return Ok(Some(view));
            }
        }
        Ok(None)
    }

    async fn live_service_sessions(&self, account: AccountId) -> Result<Vec<SessionId>, AppError> {
        let rows = self.store().list_sessions(account, MAX_LOOKED_AT).await.map_err(|e| self.fault(e.into()))?;
        let idle_ttl = self.settings().rules.idle_ttl;
        Ok(rows.iter().filter(|view| view.dead(idle_ttl).is_none()).map(|view| view.session.id).collect())
    }

    /// An access token by itself, without anything to get another one with.
    pub(crate) fn access_only(&self, claims: AccessClaims) -> Result<OAuthTokens, AppError> {
        let keys = self.keys();
        if !self.may_sign(&keys) {
            return Err(AppError::Overloaded); // a key was revoked this very moment; the client repeats
        }
        let signed = keys.sign(&claims).map_err(|error| self.fault(AppError::Fault(error.to_string().into())))?;
        Ok(OAuthTokens {
            access_token: signed,
            token_type: if claims.cnf.is_some() { "DPoP" } else { "Bearer" },
            expires_in: claims.exp - claims.iat,
            scope: claims.scope,
            refresh_token: None,
            id_token: None,
        })
    }
}
