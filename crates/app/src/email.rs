//! Addresses: a link that proves one, sent again, opened and used; another address. The rules are in `domain::email`.
use crate::callers::Caller;
use crate::recovery::{no_such_link, or_no_such_link};
use crate::risk::{Look, Verdicts};
use crate::{Acted, App, AppError, real};
use portcullis_domain::account::Email;
use portcullis_domain::changes::Expect;
use portcullis_domain::email::{self, Opened};
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Template};
use portcullis_domain::model::Account;
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::throttle::{self, Attempt};
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{AccountView, SessionView};
use portcullis_domain::{Actor, Chance, Refused};
use portcullis_wire::{AccountId, ClientId, Code, SecretString};
use std::net::IpAddr;

/// A link about an address that may be used.
#[derive(Debug, Clone)]
pub struct AddressLink {
    /// What it stands for.
    pub opened: Opened,
    /// Whose it is.
    pub account: Account,
    session: Option<SessionView>,
    ticket: Ticket,
    view: AccountView,
}

fn already_sent() -> AppError {
    let detail = "links were sent to this address a short while ago: look for them, also among unwanted mail, or ask again in twenty minutes";
    Refused::Conflict { detail: detail.into() }.into()
}

pub(crate) fn sends_no_mail() -> AppError {
    AppError::Bad(Code::Forbidden, "This server sends no mail, so no address can be proved.".into())
}

impl App {
    /// Sends a link to prove its address to an account, if it may have one more now. Whether one was sent.
    pub(crate) async fn send_verification(&self, account: AccountId) -> Result<bool, AppError> {
        let Some(key) = self.may_mail(Template::VerifyEmail, account).await? else { return Ok(false) };
        let address = self.account_view(account).await?.account.email.unwrap_or_default();
        if !self.may_write_to(Template::VerifyEmail, &address, None).await? {
            return Ok(false);
        }
        self.act("", None, || self.account_view(account), |view, chance| email::ask(view, &key, chance)).await?;
        self.mail_waits();
        Ok(true)
    }

    /// Whether one more mail of this kind may go to an address that somebody else may have named.
    pub(crate) async fn may_write_to(
        &self,
        template: Template,
        address: &str,
        ip: Option<IpAddr>,
    ) -> Result<bool, AppError> {
        if self.mailer().is_none() {
            return Ok(false);
        }
        let key = self.keys().mac().clone();
        self.takes(Attempt::of_wish(&key, template, &throttle::counted_as(address), ip)).await
    }

    /// Sends whoever gave the right password of an account whose address is not proved a link to prove it. After the answer, which
    /// tells nothing of it.
    pub(crate) async fn remind_to_verify(self, account: AccountId) {
        if let Err(error) = self.send_verification(account).await {
            tracing::warn!(%error, %account, "a link to prove an address could not be sent");
        }
    }

    /// Sends the caller a link to prove their address. `false`: it is proved already.
    ///
    /// # Errors
    /// [`Code::Forbidden`] where no mail is sent; a conflict when it had as many as it may have; faults.
    pub async fn verify_my_email(&self, caller: &Caller) -> Result<bool, AppError> {
        if self.mailer().is_none() {
            return Err(sends_no_mail());
        }
        let view = self.account_view(caller.view.account.id).await?;
        if view.account.email_verified_at.is_some() || view.account.email.is_none() {
            return Ok(false);
        }
        if self.send_verification(view.account.id).await? { Ok(true) } else { Err(already_sent()) }
    }

    /// Sends a link to `to`, by which the caller's account gets this address. It needs a sign-in that is not older than
    /// `step_up_max_age`, or the password. The answer does not tell whether the address has an account.
    ///
    /// # Errors
    /// [`Code::Forbidden`] where no mail is sent; 401; 422 for what is no address; a conflict when it had as many as it may have.
    pub async fn change_my_email(
        &self,
        caller: &Caller,
        to: &str,
        password: Option<SecretString>,
    ) -> Result<(), AppError> {
        if self.mailer().is_none() {
            return Err(sends_no_mail());
        }
        let to = Email::parse(to)?;
        let proven = match password {
            Some(password) => Some(self.prove(caller, password).await?),
            None => {
                self.recently_proven(caller)?;
                None
            }
        };
        if caller.view.account.email.as_deref() == Some(to.as_str()) {
            let detail = "is the address that this account has".into();
            return Err(Refused::InvalidValue { field: "email", detail }.into());
        }
        // From here on the time of the answer would tell whether the address has an account.
        let began = real::mono();
        let asked = self.ask_to_change(caller, &to, proven).await;
        self.hold_until_step(began).await;
        asked
    }

    async fn ask_to_change(&self, caller: &Caller, to: &Email, proven: Option<u32>) -> Result<(), AppError> {
        let (own, session) = (caller.view.account.id, caller.view.session.id);
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let Some(key) = self.may_mail(Template::ChangeEmail, own).await? else { return Err(already_sent()) };
        // Nobody's mailbox is filled by somebody else's wish for its address.
        let may = self.may_write_to(Template::ChangeEmail, to.as_str(), caller.ip).await?;
        let load = || async {
            let there = self.store().load_sign_in(to.as_str(), ClientId::FIRST_PARTY).await;
            let there = there.map_err(|e| self.fault(e.into()))?;
            Ok((self.look_at(caller, None).await?, self.account_view(own).await?, there.account.is_none()))
        };
        let verdicts = Verdicts::default();
        let decide = |(look, view, free): &(Option<Look>, AccountView, bool), chance: &mut dyn Chance| {
            verdicts.anew();
            let mut base = email::ask_change(view, to, may && *free, session, &by, &key, chance);
            // The proof is of one password.
            let version = proven.map(|version| Expect::PasswordVersion { account: own, version });
            base.changes.expects.extend(version);
            let Some(look) = look.as_ref().filter(|_| base.outcome.is_ok()) else { return base };
            let (at, act) = (At::Session(session, None), Act::Change(What::Email));
            look.judge(self, base, &view.stamp, &view.account, at, act, &verdicts, chance)
        };
        let acted = self.act("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        self.mail_waits();
        acted.map(drop)
    }

    /// The link about an address with this secret. Looking changes nothing.
    ///
    /// # Errors
    /// [`Code::NotFound`] in one and the same words for all that are of no use; [`Refused::AccountBlocked`].
    pub async fn open_address_link(&self, secret: &SecretString) -> Result<AddressLink, AppError> {
        if !mail::is_link(secret.expose()) {
            return Err(no_such_link());
        }
        for kind in [TicketKind::VerifyEmail, TicketKind::ChangeEmail] {
            let found = self.store().load_ticket(ticket::id(kind, secret.expose())).await;
            let found = found.map_err(|e| self.fault(e.into()))?;
            let Some(ticket) = found.map(|view| view.ticket).filter(|ticket| ticket.kind == kind) else { continue };
            let Some(account) = ticket.account else { continue };
            let view = self.store().load_account(account).await.map_err(|e| self.fault(e.into()))?;
            let view = view.ok_or_else(no_such_link)?;
            let session = match ticket.session {
                Some(id) => self.store().load_session(id).await.map_err(|e| self.fault(e.into()))?,
                None => None,
            };
            let opened = email::open(&view.stamp, &ticket, session.as_ref(), &view.account);
            let opened = opened.map_err(|e| or_no_such_link(e.into()))?;
            return Ok(AddressLink { opened, account: view.account.clone(), session, ticket, view });
        }
        Err(no_such_link())
    }

    /// Uses a link about an address. What came of it, and the address. `password`: the account's, which only a link to another address
    /// does not need.
    ///
    /// # Errors
    /// As [`App::open_address_link`]; 401 for another password, 422 for none; faults.
    pub async fn confirm_address(
        &self,
        secret: &SecretString,
        password: Option<SecretString>,
        ip: Option<IpAddr>,
    ) -> Result<(Opened, String), AppError> {
        let link = self.open_address_link(secret).await?;
        if matches!(link.opened, Opened::Changes(_)) && self.mailer().is_none() {
            return Err(sends_no_mail());
        }
        let notice = self.mailer().map(|_| self.keys().mac().clone());
        let known = match &link.opened {
            Opened::Proves => self.known_password(&link.account, password, ip).await?,
            _ => None,
        };
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: None };
        let decide = |link: &AddressLink, chance: &mut dyn Chance| {
            let knows = known == Some(link.account.password_version);
            email::confirm(&link.view, &link.ticket, link.session.as_ref(), knows, &by, notice.as_ref(), chance)
        };
        let acted = self.act_on_ticket("", None, || self.open_address_link(secret), decide).await;
        self.mail_waits();
        let acted = acted.map_err(|error| match error {
            // Whoever has it by now does not become known by a link of somebody else's.
            AppError::Refused(Refused::EmailTaken) => no_such_link(),
            // The session that asked for it ended meanwhile.
            AppError::Unauthenticated(_) => no_such_link(),
            other => or_no_such_link(other),
        })?;
        let opened = match acted {
            Acted::Done(opened, _) | Acted::Answered(opened) => opened,
            Acted::Before(_) => return Err(AppError::Fault("a link has no repeat key".into())),
        };
        let address = match &opened {
            Opened::Changes(to) => to.clone(),
            _ => link.account.email.unwrap_or_default(),
        };
        Ok((opened, address))
    }

    /// The version of the account's password, if this is it: a guess like any other, paid for from the budgets of sign-ins. `None` for
    /// an account without one.
    async fn known_password(
        &self,
        account: &Account,
        password: Option<SecretString>,
        ip: Option<IpAddr>,
    ) -> Result<Option<u32>, AppError> {
        if account.password_hash.is_none() {
            return Ok(None);
        }
        let Some(password) = password else {
            let detail = "the password that was chosen when this account was made".into();
            return Err(Refused::InvalidValue { field: "password", detail }.into());
        };
        match self.is_password_of(account, password, ip).await? {
            (true, _) => Ok(Some(account.password_version)),
            (false, _) => Err(Refused::InvalidCredentials.into()),
        }
    }
}
