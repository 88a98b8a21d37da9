//! By which names clients know users, by `domain::subject`: the sector's document is looked at when a client is registered or its
//! addresses change.
use crate::{App, AppError};
use portcullis_domain::Refused;
use portcullis_domain::client::{Profile, SubjectType};
use portcullis_domain::model::{Client, ClientKind};
use portcullis_domain::subject;
use portcullis_wire::{AccountId, Code};

/// A registration whose sector was looked at: only for these addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vetted {
    sector: Option<String>,
    redirect_uris: Vec<String>,
}

impl App {
    /// A profile, checked against what this server can do, and against the client as it is, if it is there. Nothing is called.
    ///
    /// # Errors
    /// [`Refused::InvalidValue`] naming the member.
    pub(crate) fn checked_profile(
        &self,
        kind: ClientKind,
        profile: Profile,
        before: Option<&Client>,
    ) -> Result<Profile, AppError> {
        let rules = &self.settings().rules;
        let longest_s = u32::try_from(rules.access_ttl.max(rules.longest_ttl) / 1000).unwrap_or(u32::MAX);
        let profile = profile.checked(kind, longest_s)?;
        if let Some(before) = before {
            subject::stays(before, &profile)?;
        }
        Ok(profile)
    }

    /// Looks at the document of a checked profile's sector, when it must be; in the name of somebody that nobody vouches for
    /// (`stranger`) or of any other.
    ///
    /// # Errors
    /// [`Refused::InvalidValue`] for `sector_identifier_uri`; overloaded. Why it could not be fetched stands in the log: whoever
    /// registers must not learn what this server can reach.
    pub(crate) async fn vet_sector(
        &self,
        profile: &Profile,
        before: Option<&Profile>,
        stranger: bool,
    ) -> Result<Vetted, AppError> {
        let vetted =
            Vetted { sector: profile.sector_identifier_uri.clone(), redirect_uris: profile.redirect_uris.clone() };
        let Some(uri) = profile.sector_identifier_uri.as_deref().filter(|_| subject::must_vet(before, profile)) else {
            return Ok(vetted);
        };
        let _place = self.inner.client_keys.place(stranger)?;
        let why = match self.outgoing().get_json(uri, subject::MAX_DOCUMENT).await {
            Ok(answer) if answer.status == 200 => {
                subject::vet(&answer.body, profile)?;
                return Ok(vetted);
            }
            Ok(answer) => format!("answered {}", answer.status),
            Err(error) => error.to_string(),
        };
        tracing::warn!(uri, why, "a sector identifier could not be fetched");
        let detail = "could not be fetched: it must answer with 200, by https, at a public address".into();
        Err(Refused::InvalidValue { field: "sector_identifier_uri", detail }.into())
    }

    /// By which name this client knows an account.
    ///
    /// # Errors
    /// Overloaded while this node does not know the key of such names.
    pub(crate) fn name_at(&self, client: &Client, account: AccountId) -> Result<String, AppError> {
        subject::name(client, account, self.keys().pairwise()).ok_or(AppError::Overloaded)
    }

    /// Sees to it that users can be named to a client, before anything is used up for them: its key was made before it.
    ///
    /// # Errors
    /// Overloaded while this node does not know the key.
    pub(crate) async fn ensure_may_name(&self, profile: &Profile) -> Result<(), AppError> {
        let cannot = |app: &Self| profile.subject_type == SubjectType::Pairwise && app.keys().pairwise().is_none();
        if cannot(self) {
            self.reload_keys().await?;
        }
        if cannot(self) { Err(AppError::Overloaded) } else { Ok(()) }
    }

    /// By which name a caller that asks about a token is told of its account: the client that holds it by its own name for it, as in
    /// its ID tokens; anybody else by the one that stands in the token.
    ///
    /// # Errors
    /// As [`App::name_at`].
    pub fn introspected_name(
        &self,
        caller: &Client,
        claims: &portcullis_wire::AccessClaims,
    ) -> Result<String, AppError> {
        if caller.id == claims.client_id { self.name_at(caller, claims.sub) } else { Ok(claims.sub.to_string()) }
    }
}

impl Vetted {
    /// That what is committed is what was looked at.
    ///
    /// # Errors
    /// Conflict: somebody else changed the client meanwhile.
    pub(crate) fn must_be_of(&self, before: &Profile, next: &Profile) -> Result<(), AppError> {
        let same = self.sector == next.sector_identifier_uri && self.redirect_uris == next.redirect_uris;
        if same || !subject::must_vet(Some(before), next) {
            return Ok(());
        }
        Err(AppError::Bad(
            Code::Conflict,
            "the client was changed while its sector was looked at; repeat the call".into(),
        ))
    }
}
