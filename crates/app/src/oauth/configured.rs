//! Clients that stand in the configuration: made at a start, or changed to what stands there. Never deleted, and never switched
//! on or off: what an administrator does in an emergency is not undone by the next start.
use crate::admin::Admin;
use crate::{Acted, App, AppError, real};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::client::Profile;
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::model::{Account, Client, ClientKind};
use portcullis_domain::{Chance, Decision, Refused, service};
use portcullis_wire::{ClientId, Digest, EventId};

/// A client as the configuration has it.
#[derive(Debug, Clone)]
pub struct Configured {
    /// Its id.
    pub id: ClientId,
    /// Its name.
    pub name: String,
    /// What it is; this never changes.
    pub kind: ClientKind,
    /// What it registers.
    pub profile: Profile,
    /// Digest of its secret.
    pub secret: Option<Digest>,
}

/// What a start did with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was not there.
    Made,
    /// It was otherwise.
    Changed,
    /// It was like that.
    Same,
}

struct Next {
    before: Option<Client>,
    client: Client,
    account: Option<Account>,
}

impl App {
    /// Makes a client as the configuration has it, or changes it to that.
    ///
    /// # Errors
    /// 422 when it is there as another kind, was deleted, registers what this server cannot do, or would give its users other
    /// names; faults.
    pub async fn apply_client(&self, wanted: &Configured) -> Result<Applied, AppError> {
        let by = Admin::operator();
        let by = by.by(None);
        let decide = |next: &Next, chance: &mut dyn Chance| {
            let (kind, step) = match &next.before {
                Some(before) if *before == next.client => return Decision::answer(Applied::Same),
                Some(_) => (EventKind::ClientChanged, Change::UpdateClient(next.client.clone())),
                None => (EventKind::ClientCreated, Change::InsertClient(next.client.clone())),
            };
            let applied = if next.before.is_some() { Applied::Changed } else { Applied::Made };
            let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor);
            let changes = Changes {
                steps: next.account.clone().map(Change::InsertAccount).into_iter().chain([step]).collect(),
                events: vec![event.client(wanted.id).reason("by the configuration")],
                ..Changes::default()
            };
            Decision { outcome: Ok(applied), changes }
        };
        match self.act("", None, || self.next_of(wanted), decide).await? {
            Acted::Done(applied, _) | Acted::Answered(applied) => Ok(applied),
            Acted::Before(_) => Err(AppError::Fault("a client of the configuration has no repeat key".into())),
        }
    }

    async fn next_of(&self, wanted: &Configured) -> Result<Next, AppError> {
        let bad = |field, detail: &str| AppError::from(Refused::InvalidValue { field, detail: detail.into() });
        let before = self.store().load_client(wanted.id).await.map_err(|e| self.fault(e.into()))?;
        let (before, now) = (before.map(|view| view.client), self.store().now());
        if let Some(before) = &before {
            if before.kind != wanted.kind {
                return Err(bad("kind", "a client stays what it was registered as: take another id"));
            }
            if before.profile.deleted {
                return Err(bad("id", "this client was deleted, and ids are never used again: take another one"));
            }
        }
        let mut profile = self.checked_profile(wanted.kind, wanted.profile.clone(), before.as_ref())?;
        // Not again at each start: the other's address may be down.
        self.vet_sector(&profile, before.as_ref().map(|before| &before.profile), false).await?;
        self.ensure_key_of_names(&profile).await?;
        if let Some(before) = &before {
            profile.service_account = before.profile.service_account;
            profile.registration.clone_from(&before.profile.registration);
        }
        let account = service::account_for(&wanted.name, &profile, now, &mut real::RealChance);
        if let Some(account) = &account {
            profile.service_account = Some(account.id);
        }
        let base = before
            .clone()
            .unwrap_or_else(|| Client::new(wanted.id, String::new(), wanted.kind, None, Profile::default(), now));
        // Another secret takes the place of the old one at once; who wants an overlap rotates by command, then changes the file.
        let old_secret = if base.secret == wanted.secret { base.old_secret } else { None };
        let client = Client { name: wanted.name.clone(), secret: wanted.secret, old_secret, profile, ..base };
        Ok(Next { before, client, account })
    }
}
