//! What somebody allowed, and how they take it back.
use crate::{Acted, App, AppError, Caller, RepeatKey, Revoked};
use portcullis_domain::kernel::By;
use portcullis_domain::model::{Client, Consent, SessionKind};
use portcullis_domain::view::GrantView;
use portcullis_domain::withdraw::{ends, withdraw};
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_wire::{AccountId, ClientId, Time};

/// The most grants of one account that are looked at in one act.
pub(super) const MAX_GRANTS: u32 = 1000;

/// An application that an account allowed something.
#[derive(Debug, Clone)]
pub struct ConnectedApp {
    /// The application.
    pub client: Client,
    /// What it may do, separated by spaces.
    pub scope: String,
    /// Since when.
    pub granted_at: Time,
    /// How many grants of it live.
    pub grants: usize,
    /// Whether it keeps its access while its user is away.
    pub offline: bool,
    /// When one of its tokens was last refreshed.
    pub last_used_at: Option<Time>,
}

impl App {
    /// The applications that the caller's account allowed something, by name.
    pub async fn my_apps(&self, caller: &Caller) -> Result<Vec<ConnectedApp>, AppError> {
        let account = caller.view.account.id;
        let consents = self.store().list_consents(account).await.map_err(|e| self.fault(e.into()))?;
        let grants = self.store().list_grants(account, None, MAX_GRANTS).await.map_err(|e| self.fault(e.into()))?;
        let mut apps = Vec::new();
        for consent in consents.into_iter().filter(|consent| !consent.scope.is_empty()) {
            let view = self.store().load_client(consent.client).await.map_err(|e| self.fault(e.into()))?;
            let Some(client) = view.map(|view| view.client) else { continue };
            apps.push(connected(client, consent, &grants));
        }
        apps.sort_by(|a, b| a.client.name.cmp(&b.client.name).then(a.client.id.cmp(&b.client.id)));
        Ok(apps)
    }

    async fn living_grants(&self, account: AccountId, client: ClientId) -> Result<Vec<GrantView>, AppError> {
        let grants = self.store().list_grants(account, Some(client), MAX_GRANTS).await;
        grants.map_err(|e| self.fault(e.into()))
    }

    /// Takes back what the caller's account allowed a client: everything that it has of the account ends, codes on their way
    /// too. 404 when nothing was allowed.
    pub async fn disconnect_app(
        &self,
        caller: &Caller,
        client: ClientId,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let account = caller.view.account.id;
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let load = || async {
            let consents = self.store().list_consents(account).await.map_err(|e| self.fault(e.into()))?;
            let consent = consents.into_iter().find(|consent| consent.client == client && !consent.scope.is_empty());
            let consent = consent.ok_or(Refused::NotFound)?;
            Ok((consent, self.living_grants(account, client).await?))
        };
        // More than one act takes: those end first, and the consent with the last of them.
        while self.living_grants(account, client).await?.len() >= MAX_GRANTS as usize {
            let load = || self.living_grants(account, client);
            self.act("", None, load, |grants, chance| Decision {
                outcome: Ok(()),
                changes: ends(account, client, grants, &by, chance),
            })
            .await?;
        }
        let decide = |(consent, grants): &(Consent, Vec<GrantView>), chance: &mut dyn Chance| {
            withdraw(account, consent, grants, &by, chance)
        };
        let acted = self.act(&by.actor.text(), repeat, load, decide).await?;
        match acted {
            Acted::Done((), committed) => Revoked::of(committed),
            Acted::Answered(()) => Err(AppError::Fault("a withdrawal without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }
}

fn connected(client: Client, consent: Consent, grants: &[GrantView]) -> ConnectedApp {
    let own: Vec<&GrantView> = grants.iter().filter(|view| view.grant.client == client.id).collect();
    ConnectedApp {
        scope: consent.scope,
        granted_at: consent.granted_at,
        grants: own.len(),
        offline: own.iter().any(|view| view.session.kind == SessionKind::Connected),
        last_used_at: own.iter().map(|view| view.grant.family.made_at).max(),
        client,
    }
}
