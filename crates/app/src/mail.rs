//! Mail: what is looked up when one is sent, what becomes of it, and how often somebody is written to.
//!
//! Which mails there are and what is kept of one on its way stands in `domain::mail`; words and the way to the mail server in
//! `portcullis-mail`. Here both meet.
use crate::outbox::Unsent;
use crate::{App, AppError};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::MacKey;
use portcullis_domain::mail::{self, Answer, LinkBody, MailBody, Template};
use portcullis_domain::model::{Account, Status};
use portcullis_domain::outbox::Message;
use portcullis_domain::throttle::Attempt;
use portcullis_domain::ticket::{self, TicketKind};
use portcullis_mail::{Failed, Mail, Mailer};
use portcullis_wire::{AccountId, SecretString, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one mail may take: less than its claim lasts.
const PATIENCE: Duration = Duration::from_secs(45);

/// Which page opens a link of this kind.
fn page(kind: TicketKind) -> &'static str {
    match kind {
        TicketKind::NotMe => "/not-me/",
        TicketKind::VerifyEmail | TicketKind::ChangeEmail => "/email/",
        _ => "/recover/",
    }
}

impl App {
    /// What sends mail, where that is set up.
    pub fn mailer(&self) -> Option<&Mailer> {
        self.settings().mail.as_ref()
    }

    /// The key by which a mail to this account is written now; `None` when it gets none: no mail is sent, or it had as many of this
    /// kind as it may have.
    pub(crate) async fn may_mail(&self, template: Template, account: AccountId) -> Result<Option<MacKey>, AppError> {
        if self.mailer().is_none() {
            return Ok(None);
        }
        let key = self.keys().mac().clone();
        let may = !template.is_limited() || self.takes(Attempt::of_mail(&key, template, account)).await?;
        Ok(may.then_some(key))
    }

    /// The key by which the mail about a deletion is written. Each is told, but for those to an address that nobody has proved: there
    /// somebody else may have signed up with it, again and again.
    pub(crate) async fn may_tell_of_deletion(&self, account: &Account) -> Result<Option<MacKey>, AppError> {
        let (template, address) = (Template::AccountDeleted, account.email.as_deref().unwrap_or_default());
        if account.email_verified_at.is_none() && !self.may_write_to(template, address, None).await? {
            return Ok(None);
        }
        self.may_mail(template, account.id).await
    }

    /// Takes something from its budgets, in a commit of its own.
    pub(crate) async fn takes(&self, attempt: Attempt) -> Result<bool, AppError> {
        let changes = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        let committed = self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let verdict = committed.attempt.ok_or_else(|| AppError::Fault("an attempt without a verdict".into()))?;
        Ok(verdict.is_checked())
    }

    /// The secret of the link in a mail that is on its way, and what it is; `None` for a mail without one.
    ///
    /// # Errors
    /// The key that it was written by is not there any more.
    pub fn link_of(&self, message: &Message) -> Result<Option<(TicketKind, SecretString)>, String> {
        let body = message.mail_body();
        let kind = body.as_ref().and_then(|body| Template::parse(&body.template)).and_then(Template::link);
        let Some((kind, body)) = kind.zip(body) else { return Ok(None) };
        let keys = self.keys();
        let key = body.key.and_then(|id| keys.mac_by_id(id)).ok_or("the key of its link is gone")?;
        Ok(Some((kind, mail::link_secret(key, kind, message.id))))
    }

    /// Sends a mail to whom it is for, as they and it are now.
    pub(crate) async fn send_mail(&self, message: &Message) -> Result<(), Unsent> {
        let Some(mailer) = self.mailer() else { return Err(Unsent::Failed("mail is not set up".into())) };
        let body = message.mail_body().ok_or(Unsent::Hopeless("its body does not read"))?;
        let template = Template::parse(&body.template).ok_or(Unsent::Hopeless("there is no such mail"))?;
        let failed = |error: portcullis_store::StoreError| Unsent::Failed(error.to_string());
        let view = self.store().load_account(body.account).await.map_err(failed)?;
        let gone = |account: &Account| matches!(account.status, Status::Deleted { .. });
        // A mail that says so goes to whoever had it.
        let account = view.map(|view| view.account).filter(|account| !gone(account) || body.to.is_some());
        let account = account.ok_or(Unsent::Hopeless("its account is gone"))?;
        let mut values = self.values_of(&body, message.created_at).await.map_err(failed)?;
        match &account.status {
            Status::Blocked(block) => drop(values.insert("reason", block.reason.clone())),
            Status::Deleting { until, .. } => drop(values.insert("until", minute(*until))),
            _ => {}
        }
        let mut to = body.to.clone().or_else(|| account.email.clone());
        if let Some((kind, secret)) = self.link_of(message).map_err(Unsent::Refused)? {
            let found = self.store().load_ticket(ticket::id(kind, secret.expose())).await.map_err(failed)?;
            let open = found.filter(|view| view.ticket.is_open(view.stamp.epoch, view.stamp.now));
            let open = open.ok_or(Unsent::Hopeless("its link leads nowhere any more"))?;
            // Whoever opens it proves by that where it was sent.
            to = open.ticket.read::<LinkBody>().and_then(|body| body.address).or(to);
            values.insert("link", format!("{}{}{}", self.settings().rules.issuer, page(kind), secret.expose()));
            values.insert("minutes", (mail::link_life(kind) / 60_000).to_string());
        }
        let to = to.ok_or(Unsent::Hopeless("its account has no address"))?;
        // Whoever reads the mailbox before is to know that it is not their new one, and not which one it is.
        let other = account.email.as_ref().filter(|other| template == Template::EmailChanged && **other != to);
        values.insert("other", other.map(|other| masked(other)).unwrap_or_default());
        values.insert("email", to.clone());
        let (id, at_ms) = (message.id.to_string(), message.created_at.0);
        let mail = Mail { id: &id, to: &to, at_ms, name: template.as_str(), values: &values };
        let sent = tokio::time::timeout(PATIENCE, mailer.send(&mail)).await;
        match sent.unwrap_or_else(|_| Err(Failed::Unreached("the mail server takes too long".into()))) {
            Ok(()) => Ok(()),
            Err(Failed::Unwritten(why)) => Err(Unsent::Refused(why)),
            Err(Failed::Unreached(why)) => Err(Unsent::Failed(why)),
            Err(Failed::Answered(code, why)) => match mail::answered(code) {
                Answer::Never => Err(Unsent::Refused(why)),
                Answer::Later => Err(Unsent::NotNow(why)),
            },
        }
    }

    /// What a template may use. What does not apply is empty.
    async fn values_of(
        &self,
        body: &MailBody,
        at: Time,
    ) -> Result<BTreeMap<&'static str, String>, portcullis_store::StoreError> {
        let mut values: BTreeMap<&'static str, String> =
            portcullis_mail::VALUES.iter().map(|(name, _)| (*name, String::new())).collect();
        let issuer = &self.settings().rules.issuer;
        values.insert("site", issuer.split_once("://").map_or(issuer.as_str(), |(_, host)| host).to_owned());
        values.insert("at", minute(at));
        let session = match body.session {
            Some(id) => self.store().load_session(id).await?.filter(|view| view.account.id == body.account),
            None => None,
        };
        if let Some(view) = session {
            if let Some(client) = view.session.client {
                let client = self.store().load_client(client).await?;
                values.insert("app", client.map(|view| view.client.name).unwrap_or_default());
            }
            values.insert("device", view.session.device_name);
            values.insert("address", view.session.ip.map(|ip| ip.to_string()).unwrap_or_default());
        }
        Ok(values)
    }
}

/// An address whose owner knows it again: `a…@example.org`.
fn masked(address: &str) -> String {
    let (local, host) = address.rsplit_once('@').unwrap_or((address, ""));
    let first = local.chars().next().filter(|_| local.chars().nth(1).is_some());
    format!("{}…@{host}", first.map(String::from).unwrap_or_default())
}

/// `2026-11-28 12:00 UTC`.
pub fn minute(at: Time) -> String {
    let text = at.to_string();
    format!("{} {} UTC", text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each mail that the rules know has its words, and no words wait for a mail that there is not.
    #[test]
    fn rules_and_words_know_the_same_mails() {
        let known: Vec<&str> = Template::ALL.iter().map(|template| template.as_str()).collect();
        assert_eq!(known, portcullis_mail::NAMES);
    }

    #[test]
    fn of_another_address_one_letter_is_told() {
        assert_eq!(masked("ada@example.org"), "a…@example.org");
        assert_eq!(masked("ünal@example.org"), "ü…@example.org");
        assert_eq!(masked("a@example.org"), "…@example.org");
    }

    #[test]
    fn a_time_for_people_ends_at_the_minute() {
        assert_eq!(minute(Time(1_700_000_000_000)), "2023-11-14 22:13 UTC");
    }
}
