//! Global Token Revocation (draft-parecki-oauth-global-token-revocation-06): a tool of security or identity governance names
//! somebody, and everything that they have here ends, by the same kernel as everything else.
use super::Known;
use crate::{Acted, App, AppError, Revoked};
use portcullis_domain::account::Email;
use portcullis_domain::changes::Expect;
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::{Account, Status};
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_wire::{ClientId, Code};
use serde::Deserialize;
use std::net::IpAddr;

/// Whom a tool means: a subject identifier (RFC 9493 §3). Members that a format does not have are refused (§3).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case", deny_unknown_fields)]
pub enum Subject {
    /// By address (§3.2.2).
    Email {
        /// The address.
        email: String,
    },
    /// By the name that an issuer has for them (§3.2.3): we, by the `sub` of our tokens; another provider, by a link.
    IssSub {
        /// The issuer.
        iss: String,
        /// The subject.
        sub: String,
    },
    /// By our own name for them (§3.2.4): the account's id.
    Opaque {
        /// The id.
        id: String,
    },
}

impl App {
    /// Ends everything of whoever `subject` names: sessions, connected apps, API keys, what is under way. A repeated call writes a
    /// new end, for something may have been in flight.
    ///
    /// # Errors
    /// 403 for a client that is not registered for this; 404 for somebody who is not known here (§4.3.2 of the draft); faults.
    pub async fn revoke_globally(
        &self,
        tool: &Known,
        subject: &Subject,
        ip: Option<IpAddr>,
    ) -> Result<Revoked, AppError> {
        if !tool.proven || !tool.client.profile.global_token_revocation {
            let detail = "this client is not registered for `global_token_revocation`".into();
            return Err(AppError::Bad(Code::Forbidden, detail));
        }
        let (client, version) = (tool.client.id, tool.client.version);
        let by = By { ip, ..By::SYSTEM };
        let decide = |account: &Account, chance: &mut dyn Chance| {
            let mut changes = kernel::end(Door::GlobalRevocation, Scope::Account(account.id), None, &by, chance);
            // Whose secret counted, and what it may do, is as it was in the act's own transaction.
            changes.expects.push(Expect::ClientVersion { client, version });
            changes.events = changes.events.into_iter().map(|event| event.client(client)).collect();
            Decision { outcome: Ok(()), changes }
        };
        let load = || async {
            self.unchanged(tool).await?;
            self.meant(subject).await
        };
        match self.act("", None, load, decide).await? {
            Acted::Done((), committed) => Revoked::of(committed),
            _ => Err(AppError::Fault("an end without changes".into())),
        }
    }

    /// That the client which was authenticated still is what it was.
    async fn unchanged(&self, tool: &Known) -> Result<(), AppError> {
        let view = self.store().load_client(tool.client.id).await.map_err(|e| self.fault(e.into()))?;
        let now = view.map(|view| view.client);
        if now.is_some_and(|now| !now.disabled && now.version == tool.client.version) {
            return Ok(());
        }
        Err(AppError::Bad(Code::Forbidden, "this client was changed while it called".into()))
    }

    async fn meant(&self, subject: &Subject) -> Result<Account, AppError> {
        let by_id = |id: &str| id.parse().map_err(|_| AppError::from(Refused::NotFound));
        let account = match subject {
            Subject::Opaque { id } => self.account_view(by_id(id)?).await?.account,
            Subject::IssSub { iss, sub } if *iss == self.settings().rules.issuer => {
                self.account_view(by_id(sub)?).await?.account
            }
            // Somebody of another provider, whom a link tells us.
            Subject::IssSub { iss, sub } => {
                let view = self.store().load_link(iss, sub).await.map_err(|e| self.fault(e.into()))?;
                view.found.ok_or(Refused::NotFound)?.1
            }
            Subject::Email { email } => {
                let email = Email::parse(email).map_err(|_| AppError::from(Refused::NotFound))?;
                let view = self.store().load_sign_in(email.as_str(), ClientId::FIRST_PARTY).await;
                view.map_err(|e| self.fault(e.into()))?.account.ok_or(Refused::NotFound)?
            }
        };
        // A tombstone has nothing left to end.
        if matches!(account.status, Status::Deleted { .. }) { Err(Refused::NotFound.into()) } else { Ok(account) }
    }
}
