//! Making accounts: for somebody who signs up, for an administrator, and the first one. The rules are in `domain::account` and
//! `domain::email`.
use crate::email::sends_no_mail;
use crate::risk::{Look, Verdicts};
use crate::sessions::pool_error;
use crate::{Acted, App, AppError, RepeatKey, real};
use portcullis_domain::Refused;
use portcullis_domain::account::{self, Email, NewAccount};
use portcullis_domain::changes::Expect;
use portcullis_domain::email;
use portcullis_domain::event::Actor;
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{ADMIN, Account};
use portcullis_domain::risk::Act;
use portcullis_domain::risk::enforce::At;
use portcullis_domain::view::Stamp;
use portcullis_store::CommitError;
use portcullis_wire::{ClientId, SecretString};
use std::net::IpAddr;

impl App {
    /// Makes an account for somebody who signs up, as often as their part of the network may (see `domain::throttle`). `None`: addresses
    /// must be verified, and the rest is told by mail.
    ///
    /// # Errors
    /// Refused when nobody may, or for what can be no account; [`AppError::Overloaded`] beyond the budget; faults.
    pub async fn sign_up(
        &self,
        email: &str,
        password: SecretString,
        name: Option<&str>,
        ip: Option<IpAddr>,
    ) -> Result<Option<Account>, AppError> {
        if !self.settings().sign_up {
            return Err(Refused::Forbidden.into());
        }
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: None };
        let address = Email::parse(email)?;
        account::check_password(password.expose(), &address)?;
        self.may_sign_up(address.as_str(), ip).await?;
        self.refuse_breached("password", &password).await?;
        if !self.settings().rules.require_verified_email {
            return self.create_account(email, Some(password), name, vec![], false, &by, None).await.map(Some);
        }
        let began = real::mono();
        let new = self.newcomer_by_password(email, password, name).await?;
        let done = self.sign_up_by_mail(new, ip).await;
        self.hold_until_step(began).await;
        done.map(|()| None)
    }

    #[allow(clippy::too_many_arguments, reason = "what an account is made of")]
    pub(crate) async fn create_account(
        &self,
        email: &str,
        password: Option<SecretString>,
        name: Option<&str>,
        roles: Vec<String>,
        verified: bool,
        by: &By<'_>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Account, AppError> {
        let email = Email::parse(email)?;
        let name = name.map(|name| account::check_text("name", name)).transpose()?;
        let roles = account::check_roles(roles)?;
        let password_hash = match password {
            Some(password) => {
                account::check_password(password.expose(), &email)?;
                Some(self.passwords().hash(password).await.map_err(pool_error)?)
            }
            None => None,
        };
        // Whoever is made an account by somebody else proves their address when they come.
        let writes =
            by.actor == Actor::Anonymous && self.may_write_to(Template::VerifyEmail, email.as_str(), by.ip).await?;
        let link = writes.then(|| self.keys().mac().clone());
        let new = NewAccount { email, password_hash, name, roles, verified };
        let load = || async {
            // The system makes an account on an empty database only.
            if by.actor == Actor::System && !self.store().list_accounts(None, None, 1).await?.rows.is_empty() {
                return Err(Refused::EmailTaken.into());
            }
            let look = match by.actor == Actor::Anonymous {
                true => self.look_at_sign_up(new.email.as_str(), by.ip, None).await?,
                false => None,
            };
            Ok((self.store().stamp().await.map_err(|e| self.fault(e.into()))?, look))
        };
        let verdicts = Verdicts::default();
        let acted = self
            .act(&by.actor.text(), repeat, load, |(stamp, look): &(Stamp, Option<Look>), chance| {
                let mut decision = account::create(stamp, new.clone(), by, chance);
                // Whether the address is taken shows at the commit: so what a rule refuses tells nobody.
                if let (Some(look), Ok(account)) = (look, decision.outcome.clone()) {
                    decision = look.judge(self, decision, stamp, &account, At::SignUp, Act::SignUp, &verdicts, chance);
                }
                if by.actor == Actor::System {
                    decision.changes.expects.push(Expect::NoAccounts);
                }
                if let (Ok(account), Some(key)) = (&decision.outcome, &link) {
                    let letter = Letter::of(Template::VerifyEmail, account);
                    decision.changes.steps.extend(mail::write(letter, stamp, key, chance));
                }
                if let (Ok(account), Some(repeat)) = (&decision.outcome, repeat) {
                    let made = Some(account.id.to_string());
                    decision.changes.idempotency = Some(portcullis_domain::changes::Idempotency {
                        made,
                        ..self.remember(&by.actor.text(), repeat)
                    });
                }
                decision
            })
            .await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(Refused::ByRule { .. }))) {
            self.judged(&verdicts);
        }
        if link.is_some() {
            self.mail_waits();
        }
        match acted? {
            Acted::Done(account, _) | Acted::Answered(account) => Ok(account),
            Acted::Before(before) => {
                let id = before.made.and_then(|id| id.parse().ok()).ok_or(Refused::NotFound)?;
                Ok(self.store().load_account(id).await?.ok_or(Refused::NotFound)?.account)
            }
        }
    }

    /// Signs up where addresses must be verified: the answer, and when it comes, are the same whether the address has an account
    /// (I15). What is right of the request was seen to before.
    pub(crate) async fn sign_up_by_mail(&self, new: NewAccount, ip: Option<IpAddr>) -> Result<(), AppError> {
        if self.mailer().is_none() {
            return Err(sends_no_mail());
        }
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: None };
        let key = self.keys().mac().clone();
        // Not of the budget of `/recover`: that is its owner's.
        let may = self.may_write_to(Template::VerifyEmail, new.email.as_str(), ip).await?;
        for _ in 0..crate::MAX_TRIES {
            let view = self.store().load_sign_in(new.email.as_str(), ClientId::FIRST_PARTY).await;
            let view = view.map_err(|e| self.fault(e.into()))?;
            let changes = email::sign_up(&view, new.clone(), may, &by, &key, &mut real::RealChance);
            match self.store().commit(changes).await {
                Ok(_) => {
                    self.mail_waits();
                    return Ok(());
                }
                // Somebody took the address meanwhile.
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(self.fault(error.into())),
            }
        }
        Err(AppError::Overloaded)
    }

    /// What somebody who signs up is made of, all that is wrong with it told before anything is done.
    pub(crate) async fn newcomer_by_password(
        &self,
        email: &str,
        password: SecretString,
        name: Option<&str>,
    ) -> Result<NewAccount, AppError> {
        let email = Email::parse(email)?;
        let name = name.map(|name| account::check_text("name", name)).transpose()?;
        account::check_password(password.expose(), &email)?;
        let hash = self.passwords().hash(password).await.map_err(pool_error)?;
        Ok(NewAccount { email, password_hash: Some(hash), name, roles: vec![], verified: false })
    }

    /// Makes the administrator of `bootstrap_admin` when there is no account at all. `true` when it did.
    pub async fn bootstrap_admin(&self, email: &str, password: SecretString) -> Result<bool, AppError> {
        if !self.store().list_accounts(None, None, 1).await?.rows.is_empty() {
            return Ok(false);
        }
        let by = By::SYSTEM;
        match self.create_account(email, Some(password), None, vec![ADMIN.into()], true, &by, None).await {
            Ok(_) => Ok(true),
            Err(AppError::Refused(Refused::EmailTaken)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
