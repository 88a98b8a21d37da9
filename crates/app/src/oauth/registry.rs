//! Clients as administrators keep them.
use crate::admin::{Admin, Registered};
use crate::{Acted, App, AppError, real};
use portcullis_domain::account;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::client::{AuthMethod, Profile};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::model::{Account, Client};
use portcullis_domain::view::ClientView;
use portcullis_domain::{Chance, Decision, Refused, service};
use portcullis_wire::{ClientId, EventId, Millis, SecretString, b64};

/// For how long at most an old secret counts beside the new one, in milliseconds: 30 days.
pub const MAX_OVERLAP: Millis = 30 * 86_400_000;

/// What to change of a client.
#[derive(Debug, Clone, Default)]
pub struct ClientPatch {
    /// A new name.
    pub name: Option<String>,
    /// Members of the profile, as they are to be; the others stay.
    pub profile: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A new secret: 256 random bits. It is kept as a SHA-256 digest, for a slow hash of what nobody can guess would only bound
/// what a client may ask for.
pub(crate) fn new_secret() -> SecretString {
    SecretString::new(format!("pcc_{}", b64::encode(&real::RealChance.secret())))
}

impl App {
    /// Changes a client's name and profile.
    ///
    /// # Errors
    /// 404; 422 naming the member, also for what would give its users other names; 409 when somebody else changed it meanwhile.
    pub async fn admin_change_client(
        &self,
        admin: &Admin,
        id: ClientId,
        patch: ClientPatch,
    ) -> Result<Client, AppError> {
        let name = patch.name.as_deref().map(|name| account::check_text("name", name)).transpose()?;
        let next_of = |before: &Client, members| {
            self.checked_profile(before.kind, merged(&before.profile, members)?, Some(before))
        };
        // The sector is looked at before the act, which may be taken anew and must wait for nobody.
        let vetted = match (&patch.profile, self.client_by_text(&id.to_string()).await?) {
            (Some(members), Some(before)) if id != ClientId::FIRST_PARTY => {
                self.still_admin(admin).await?;
                Some(self.vet_sector(&next_of(&before, members)?, Some(&before.profile), false).await?)
            }
            _ => None,
        };
        let client = self.change_client(admin, id, EventKind::ClientChanged, |client| {
            let mut next = client.clone();
            if let Some(name) = &name {
                next.name.clone_from(name);
            }
            if let Some(members) = &patch.profile {
                next.profile = next_of(client, members)?;
                if let Some(vetted) = &vetted {
                    vetted.must_be_of(&client.profile, &next.profile)?;
                }
            }
            Ok(next)
        });
        let client = client.await?;
        self.ensure_id_key(&client.profile).await?;
        Ok(client)
    }

    /// Gives a client another secret, shown once. The old one counts for `overlap` milliseconds more, so that a fleet can be
    /// moved to the new one; 0: it is dead at once. The one before that is dead in any case.
    ///
    /// # Errors
    /// 404; 422 for a client without a secret, or an overlap that is too long.
    pub async fn admin_rotate_secret(
        &self,
        admin: &Admin,
        id: ClientId,
        overlap: Millis,
    ) -> Result<Registered, AppError> {
        if !(0..=MAX_OVERLAP).contains(&overlap) {
            let detail = format!("must be 0 to {} s", MAX_OVERLAP / 1000);
            return Err(Refused::InvalidValue { field: "overlap_s", detail }.into());
        }
        let secret = new_secret();
        let changed = self.change_client(admin, id, EventKind::SecretRotated, |client| {
            let by_secret = client.profile.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt;
            let Some(old) = client.secret.filter(|_| by_secret) else {
                let detail = "this client has no secret".into();
                return Err(Refused::InvalidValue { field: "client_id", detail }.into());
            };
            // Who repeats a call whose answer got lost must not lose the secret that a fleet still uses.
            if overlap > 0 && client.old_secret.is_some_and(|(_, until)| self.now() < until) {
                let detail =
                    "the secret before this one still counts: wait until old_secret_until, or rotate with overlap_s 0";
                return Err(Refused::Conflict { detail: detail.into() }.into());
            }
            let old_secret = (overlap > 0).then(|| (old, self.now().plus(overlap)));
            Ok(Client { secret: Some(secret.digest()), old_secret, ..client.clone() })
        });
        let client = changed.await?;
        // Nodes keep a client's row for a moment; what this one keeps is the old one.
        self.hub().forget_client(id);
        Ok(Registered { client, secret: Some(secret) })
    }

    async fn change_client(
        &self,
        admin: &Admin,
        id: ClientId,
        kind: EventKind,
        change: impl Fn(&Client) -> Result<Client, AppError>,
    ) -> Result<Client, AppError> {
        if id == ClientId::FIRST_PARTY {
            let detail = "the built-in client is as it is".into();
            return Err(Refused::InvalidValue { field: "client_id", detail }.into());
        }
        let load = || async {
            let view = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))?;
            let view: ClientView = view.filter(|view| !view.client.profile.deleted).ok_or(Refused::NotFound)?;
            let mut next = change(&view.client)?;
            let account = service::account_for(&next.name, &next.profile, view.stamp.now, &mut real::RealChance);
            if let Some(account) = &account {
                next.profile.service_account = Some(account.id);
            }
            Ok((view, next, account))
        };
        let by = admin.by(None);
        let decide = |(view, next, account): &(ClientView, Client, Option<Account>), chance: &mut dyn Chance| {
            if *next == view.client {
                return Decision::answer(());
            }
            let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).client(id).ip(by.ip);
            let update = Change::UpdateClient(next.clone());
            let changes = Changes {
                expects: by.expects().into_iter().collect(),
                steps: account.clone().map(Change::InsertAccount).into_iter().chain([update]).collect(),
                events: vec![event],
                ..Changes::default()
            };
            Decision { outcome: Ok(()), changes }
        };
        if let Acted::Before(_) = self.act("", None, load, decide).await? {
            return Err(AppError::Fault("a change without a repeat key was done before".into()));
        }
        self.admin_client(admin, id).await
    }
}

/// A profile with some members as they are to be. `null` puts one back to its default.
fn merged(profile: &Profile, members: &serde_json::Map<String, serde_json::Value>) -> Result<Profile, AppError> {
    let mut all = match serde_json::to_value(profile) {
        Ok(serde_json::Value::Object(all)) => all,
        _ => return Err(AppError::Fault("a profile that has no JSON form".into())),
    };
    for (name, value) in members {
        match value {
            serde_json::Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    serde_json::from_value(serde_json::Value::Object(all))
        .map_err(|error| AppError::Bad(portcullis_wire::Code::Malformed, error.to_string()))
}
