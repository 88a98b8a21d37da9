//! Who a client is (RFC 6749 §2.3).
use super::refuse;
use crate::{App, AppError};
use portcullis_domain::client::{AuthMethod, GrantType};
use portcullis_domain::model::{Client, ClientKind};
use portcullis_domain::refused::OAuthError;
use portcullis_wire::{ClientId, SecretString, Time};
use std::sync::Arc;

/// How a client says who it is.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By HTTP Basic.
    Basic {
        /// The client's id.
        id: String,
        /// Its secret, form-decoded (RFC 6749 §2.3.1).
        secret: SecretString,
        /// The same as it was sent: many clients encode nothing (RFC 7617 asks for no more).
        as_sent: SecretString,
    },
    /// By `client_id` and `client_secret` in the body.
    Post(String, SecretString),
    /// By `client_id` alone: a public client, which nothing proves.
    Named(String),
    /// By an assertion (RFC 7523 §2.2).
    Assertion {
        /// `client_id`, which may be left out.
        client_id: Option<String>,
        /// `client_assertion`.
        assertion: SecretString,
        /// The path that it was sent to.
        endpoint: &'static str,
    },
}

/// A client that is there and on.
#[derive(Debug, Clone)]
pub struct Known {
    /// The client.
    pub client: Arc<Client>,
    /// Whether it proved to be that.
    pub proven: bool,
}

/// Whether this is the client's secret at `now`, or the one before it while that still counts.
pub(crate) fn has_secret(client: &Client, secret: &SecretString, now: Time) -> bool {
    let given = secret.digest();
    let old = client.old_secret.filter(|(_, until)| now < *until).map(|(digest, _)| digest);
    client.secret == Some(given) || old == Some(given)
}

impl App {
    /// The client behind `proof`, as the token, revocation and introspection endpoints ask.
    ///
    /// # Errors
    /// `invalid_client`, the same for unknown, wrong and switched off (RFC 6749 §5.2); faults.
    pub async fn known_client(&self, proof: &Proof) -> Result<Known, AppError> {
        let refused =
            || refuse(OAuthError::InvalidClient, "authenticate as a registered client that is not switched off");
        let (id, secrets) = match proof {
            Proof::Basic { id, secret, as_sent } => (id, vec![secret, as_sent]),
            Proof::Post(id, secret) => (id, vec![secret]),
            Proof::Named(id) => (id, vec![]),
            Proof::Assertion { client_id, assertion, endpoint } => {
                let client = self.asserted_client(client_id.as_deref(), assertion.expose(), endpoint).await?;
                return Ok(Known { client: Arc::new(client), proven: true });
            }
        };
        let id: ClientId = id.parse().map_err(|_| refused())?;
        let client = self.store().peek_client(id).await.map_err(|e| self.fault(e.into()))?;
        let client = client.filter(|client| !client.disabled).ok_or_else(refused)?;
        let public = client.kind == ClientKind::Public && client.id != ClientId::FIRST_PARTY;
        // Secrets have 43 characters or more: two readings of one try help nobody to guess.
        if secrets.iter().any(|secret| has_secret(&client, secret, self.now())) && by_secret(&client) {
            self.hub().client_is_on(&client);
            return Ok(Known { client, proven: true });
        }
        // A public client has no secret: one that sends a word it was never given is misconfigured, and told so.
        if secrets.is_empty() && public { Ok(Known { client, proven: false }) } else { Err(refused()) }
    }

    pub(crate) async fn client_by_text(&self, id: &str) -> Result<Option<Client>, AppError> {
        let Ok(id) = id.parse::<ClientId>() else { return Ok(None) };
        let view = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?;
        Ok(view.map(|view| view.client))
    }
}

fn by_secret(client: &Client) -> bool {
    client.profile.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt
}

impl Known {
    /// Refuses a grant type that the client is not registered for.
    pub fn must_have(&self, grant: GrantType) -> Result<(), AppError> {
        if self.client.profile.has(grant) {
            return Ok(());
        }
        Err(refuse(OAuthError::UnauthorizedClient, format!("this client is not registered for {}", grant.as_str())))
    }
}
