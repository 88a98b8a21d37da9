//! Clients that prove who they are with a key of their own (`private_key_jwt`).
use super::refuse;
use crate::{App, AppError};
use portcullis_domain::client::AuthMethod;
use portcullis_domain::model::Client;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_verify::proof;
use portcullis_wire::assertion::Assertion;
use portcullis_wire::jwk::PublicKey;
use std::sync::atomic::Ordering;

impl App {
    /// The client behind an assertion, which is used up. `named` is the request's `client_id`, if it has one; `endpoint` the path that was called.
    ///
    /// # Errors
    /// `invalid_client`, with more words for who signed it with the client's key; 503 while its keys cannot be fetched; faults.
    pub(super) async fn asserted_client(
        &self,
        named: Option<&str>,
        text: &str,
        endpoint: &str,
    ) -> Result<Client, AppError> {
        let result = self.try_asserted(named, text, endpoint).await;
        if let Err(AppError::Refused(_)) = &result {
            self.counts().proofs_refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn try_asserted(&self, named: Option<&str>, text: &str, endpoint: &str) -> Result<Client, AppError> {
        let unknown =
            || refuse(OAuthError::InvalidClient, "this is no assertion of a client that is registered for one");
        let assertion = Assertion::parse(text).ok_or_else(unknown)?;
        if named.is_some_and(|named| named != assertion.client) {
            return Err(unknown());
        }
        let client = self.client_by_text(&assertion.client).await?.filter(|client| !client.disabled);
        let client = client.ok_or_else(unknown)?;
        if !self.is_signed_by(&client, &assertion).await? {
            return Err(unknown());
        }
        // From here on it is the client itself that is told.
        let issuer = &self.settings().rules.issuer;
        let (token, called) = (format!("{issuer}/oauth2/token"), format!("{issuer}{endpoint}"));
        let wrong = |words: &str| refuse(OAuthError::InvalidClient, words);
        assertion.counts(&[issuer, &token, &called], self.now()).map_err(wrong)?;
        match self.spend(self.proof_of(&client, &assertion)).await? {
            true => Ok(client),
            false => Err(wrong("the assertion was shown before")),
        }
    }

    /// Whether one of the client's keys has signed it: those that it registered, or those at its address.
    async fn is_signed_by(&self, client: &Client, assertion: &Assertion<'_>) -> Result<bool, AppError> {
        let profile = &client.profile;
        if profile.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt {
            return Ok(false);
        }
        let input = assertion.signing_input.as_bytes();
        let signed = |keys: &[PublicKey]| {
            keys.iter()
                .filter(|key| assertion.kid.is_none() || key.kid() == assertion.kid.as_deref())
                .any(|key| proof::verifies(key, assertion.alg, input, &assertion.signature))
        };
        match &profile.jwks_uri {
            None => Ok(signed(&profile.keys())),
            Some(uri) => self.is_signed_by_keys_at(client, uri, signed).await,
        }
    }

    fn proof_of(&self, client: &Client, assertion: &Assertion<'_>) -> Ticket {
        let (epoch, head) = self.hub().at();
        Ticket {
            id: ticket::id(TicketKind::Proof, &format!("assertion:{}:{}", client.id, assertion.jti)),
            kind: TicketKind::Proof,
            account: None,
            session: None,
            client: Some(client.id),
            born: head,
            epoch,
            expires_at: assertion.exp,
            body: String::new(),
            version: 1,
            used: None,
        }
    }
}
