//! What somebody allowed, and how they take it back.
use crate::{Acted, App, AppError, Caller, RepeatKey, Revoked};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::event::Actor;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::{Client, Consent, SessionKind};
use portcullis_domain::view::GrantView;
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_wire::{AccountId, ClientId, Time};

/// The most grants of one account that are looked at.
const MAX_GRANTS: u32 = 1000;

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
            let grants = self.store().list_grants(account, Some(client), MAX_GRANTS).await;
            Ok((consent, grants.map_err(|e| self.fault(e.into()))?))
        };
        let acted = self
            .act(&by.actor.text(), repeat, load, |(consent, grants), chance| {
                withdraw(account, consent, grants, &by, chance)
            })
            .await?;
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

/// Everything that a client has of an account ends: its own sessions there, its grants under others, and by the next
/// generation what is on its way. A grant that the decision has not seen makes it a Conflict, so none slips through.
fn withdraw(
    account: AccountId,
    consent: &Consent,
    grants: &[GrantView],
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let client = consent.client;
    let mut changes = Changes {
        expects: by.expects().into_iter().collect(),
        steps: vec![Change::WithdrawConsent { account, client, generation: consent.generation }],
        ..Changes::default()
    };
    changes.expects.push(Expect::NoOtherGrants {
        account,
        client,
        besides: grants.iter().map(|view| view.grant.id).collect(),
    });
    let mut scopes: Vec<Scope> = grants
        .iter()
        .map(|view| match view.session.client == Some(client) {
            true => Scope::Session { account, session: view.session.id },
            false => Scope::Grant { account, session: view.session.id, grant: view.grant.id },
        })
        .collect();
    // Nothing lives: an entry that matches nothing moves the log on, so that the act has its rev.
    if scopes.is_empty() {
        let (session, token) =
            (portcullis_wire::SessionId::from_bits(0), portcullis_wire::TokenId::from_bits(chance.bits()));
        scopes.push(Scope::Token { account, session, token });
    }
    for (n, scope) in scopes.into_iter().enumerate() {
        let one = kernel::end(Door::ConsentWithdrawn, scope, None, &By { actor: by.actor, ..*by }, chance);
        changes.expects.extend(one.expects.into_iter().filter(|expect| !matches!(expect, Expect::Alive { .. })));
        changes.steps.extend(one.steps);
        if n == 0 {
            changes.events.extend(one.events.into_iter().map(|event| match by.actor {
                Actor::Account { session, .. } => event.session(session).client(client),
                _ => event.client(client),
            }));
        }
    }
    Decision { outcome: Ok(()), changes }
}
