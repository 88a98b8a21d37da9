//! Clients that register themselves (RFC 7591, RFC 7592), by `domain::registration`.
use super::sector::Vetted;
use super::{keeps_pace, new_secret, refuse};
use crate::admin::client_off;
use crate::{Acted, App, AppError, Registration, real};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::kernel::By;
use portcullis_domain::model::Client;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::registration::{self, Metadata, as_registration_error, is_managed_with};
use portcullis_domain::{Chance, Decision, Refused, subject};
use portcullis_wire::{ClientId, Code, EventId, SecretString, b64};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// A client that registered itself.
#[derive(Debug)]
pub struct SelfRegistered {
    /// The client.
    pub client: Client,
    /// Its secret, when it was just made.
    pub secret: Option<SecretString>,
    /// What it is managed with.
    pub token: SecretString,
}

impl App {
    /// Whether clients may register themselves.
    pub fn registers_clients(&self) -> bool {
        !matches!(self.settings().clients.registration, Registration::Off)
    }

    /// Whether whoever shows this may register; and whether they are somebody whom the operator gave a token.
    fn may_register(&self, token: Option<&str>, ip: Option<IpAddr>) -> Result<bool, AppError> {
        let trusted = match (&self.settings().clients.registration, token) {
            (Registration::Off, _) => return Err(Refused::NotFound.into()),
            (Registration::Open, _) => false,
            (Registration::ByToken(_), None) => return Err(AppError::Unauthenticated(Code::TokenMissing)),
            (Registration::ByToken(kept), Some(token)) => {
                if *kept != SecretString::new(token).digest() {
                    return Err(AppError::Unauthenticated(Code::TokenMalformed));
                }
                true
            }
        };
        self.take_registration(ip)?;
        Ok(trusted)
    }

    /// A place in the paces: all together, and each prefix by itself.
    fn take_registration(&self, ip: Option<IpAddr>) -> Result<(), AppError> {
        keeps_pace(&self.inner.paces.registrations, ip)
    }

    /// Registers a client (RFC 7591 §3).
    ///
    /// # Errors
    /// 404 when nobody may; 401 without the initial access token where one is needed; `invalid_redirect_uri`,
    /// `invalid_client_metadata`; [`AppError::TooOften`].
    pub async fn register_client(
        &self,
        token: Option<&str>,
        members: Map<String, Value>,
        ip: Option<IpAddr>,
    ) -> Result<SelfRegistered, AppError> {
        let trusted = self.may_register(token, ip)?;
        let Metadata { name, kind, profile } = registration::read(members, trusted)?;
        let mut profile = self.checked_profile(kind, profile, None).map_err(in_words)?;
        self.vet_sector(&profile, None, !trusted).await.map_err(in_words)?;
        self.ensure_key_of_names(&profile).await?;
        self.ensure_id_key(&profile).await?;
        let secret = kind.has_secret(profile.token_endpoint_auth_method).then(new_secret);
        let token = SecretString::new(format!("pcr_{}", b64::encode(&real::RealChance.secret())));
        profile.registration = Some(b64::encode(&token.digest().0));
        let client = Client::new(
            ClientId::from_bits(real::RealChance.bits()),
            name,
            kind,
            secret.as_ref().map(SecretString::digest),
            profile,
            self.store().now(),
        );
        let decide = |(): &(), chance: &mut dyn Chance| {
            let steps = vec![Change::InsertClient(client.clone())];
            let events = vec![own_event(EventKind::ClientCreated, client.id, ip, chance)];
            Decision { outcome: Ok(()), changes: Changes { steps, events, ..Changes::default() } }
        };
        self.act("", None, || async { Ok(()) }, decide).await?;
        Ok(SelfRegistered { client, secret, token })
    }

    /// A client that registered itself, by the token that it is managed with (RFC 7592 §2.1).
    ///
    /// # Errors
    /// 404 when nobody may register; 401 for a wrong token, and for a client that is not there, off or deleted.
    pub async fn own_registration(&self, id: &str, token: Option<&str>) -> Result<SelfRegistered, AppError> {
        if !self.registers_clients() {
            return Err(Refused::NotFound.into());
        }
        let token = SecretString::new(token.ok_or(AppError::Unauthenticated(Code::TokenMissing))?);
        let client = self.client_by_text(id).await?.filter(|client| is_managed_with(client, token.digest()));
        let client = client.ok_or(AppError::Unauthenticated(Code::TokenMalformed))?;
        Ok(SelfRegistered { client, secret: None, token })
    }

    /// Registers everything of it anew (RFC 7592 §2.2).
    ///
    /// # Errors
    /// As [`App::own_registration`] and [`App::register_client`].
    pub async fn change_own_registration(
        &self,
        id: &str,
        token: Option<&str>,
        members: &Map<String, Value>,
        ip: Option<IpAddr>,
    ) -> Result<SelfRegistered, AppError> {
        let next_of = |client: &Client| {
            let has = |secret: &str| client.secret == Some(SecretString::new(secret).digest());
            let read = registration::read_update(members.clone(), client, has)?;
            let profile = self.checked_profile(read.kind, read.profile, Some(client)).map_err(in_words)?;
            Ok::<_, AppError>(Client { name: read.name, profile, ..client.clone() })
        };
        let before = self.own_registration(id, token).await?.client;
        let vetted = self.vet_own_sector(&next_of(&before)?, &before, ip).await?;
        let load = || async {
            let before = self.own_registration(id, token).await?.client;
            let next = next_of(&before)?;
            vetted.must_be_of(&before.profile, &next.profile)?;
            Ok((next, before))
        };
        let decide = |(next, before): &(Client, Client), chance: &mut dyn Chance| {
            if next == before {
                return Decision::answer(());
            }
            let steps = vec![Change::UpdateClient(next.clone())];
            let events = vec![own_event(EventKind::ClientChanged, next.id, ip, chance)];
            Decision { outcome: Ok(()), changes: Changes { steps, events, ..Changes::default() } }
        };
        if let Acted::Before(_) = self.act("", None, load, decide).await? {
            return Err(AppError::Fault("a change without a repeat key was done before".into()));
        }
        self.own_registration(id, token).await
    }

    /// Looks at the sector of who changes itself, at the pace of registrations: whoever may change may have us call.
    async fn vet_own_sector(&self, next: &Client, before: &Client, ip: Option<IpAddr>) -> Result<Vetted, AppError> {
        if subject::must_vet(Some(&before.profile), &next.profile) {
            self.take_registration(ip)?;
        }
        self.vet_sector(&next.profile, Some(&before.profile), before.profile.is_stranger()).await.map_err(in_words)
    }

    /// Deletes it (RFC 7592 §2.3): everything that it had ends, as when it is switched off, and it is in no list any more.
    ///
    /// # Errors
    /// As [`App::own_registration`].
    pub async fn delete_own_registration(
        &self,
        id: &str,
        token: Option<&str>,
        ip: Option<IpAddr>,
    ) -> Result<(), AppError> {
        let load = || async { Ok(self.own_registration(id, token).await?.client) };
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: Some("deleted by itself") };
        let decide = |client: &Client, chance: &mut dyn Chance| {
            let mut changes = client_off(client, &by, chance);
            // At the version whose token was shown, or not at all.
            changes.steps.push(Change::UpdateClient(registration::tombstone(client)));
            changes.steps.push(Change::SetClientDisabled { client: client.id, disabled: true });
            Decision { outcome: Ok(client.id), changes }
        };
        if let Acted::Done(id, committed) = self.act("", None, load, decide).await? {
            self.hub().close_client(id, committed.rev.unwrap_or_default());
        }
        Ok(())
    }
}

fn own_event(kind: EventKind, id: ClientId, ip: Option<IpAddr>, chance: &mut dyn Chance) -> NewEvent {
    NewEvent::new(EventId::from_bits(chance.bits()), kind, &Actor::Anonymous).client(id).ip(ip).reason("by itself")
}

fn in_words(error: AppError) -> AppError {
    match error {
        AppError::Refused(refused) => as_registration_error(refused).into(),
        AppError::Bad(_, detail) => refuse(OAuthError::InvalidClientMetadata, detail),
        other => other,
    }
}
