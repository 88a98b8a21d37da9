//! Recovery by mail: asking for a link, what it opens, a new password, "this was not me". The rules are in `domain::recovery`.
use crate::oauth::keeps_pace;
use crate::risk::{Look, Verdicts};
use crate::sessions::pool_error;
use crate::{Acted, App, AppError, RepeatKey, Revoked, real};
use portcullis_domain::account::{self, Email};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::email;
use portcullis_domain::family::MacKey;
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, LinkBody, Template};
use portcullis_domain::model::Account;
use portcullis_domain::recovery::{self, Around, Opened};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, Step};
use portcullis_domain::throttle::{self, Attempt};
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::view::{AccountView, SessionView, SignInView};
use portcullis_domain::{Actor, Chance, Decision, Refused};
use portcullis_store::CommitError;
use portcullis_wire::{ClientId, Code, Digest, SecretString, b64};
use std::net::IpAddr;

/// How often somebody's asking for a link is decided, when what is remembered of the account is written at the same time.
const TRIES: u32 = 4;

/// A link that may be used, with what it is about.
#[derive(Debug, Clone)]
pub struct Link {
    /// What it stands for.
    pub opened: Opened,
    /// Whose it is.
    pub account: Account,
    /// The session that its mail was about, if it is still there.
    pub session: Option<SessionView>,
    /// Who of other providers may sign in to the account.
    pub links: Vec<portcullis_domain::upstream::Link>,
    /// Which other account has the address that it gives back.
    holder: Option<Account>,
    ticket: Ticket,
    view: AccountView,
}

/// What is said of every link that is of no use: used, too old, cut off, of another kind, or never ours.
pub(crate) fn no_such_link() -> AppError {
    let words = "This link does not work any more: it was used, is too old, or something newer took its place. Ask for a new one.";
    AppError::Bad(Code::NotFound, words.into())
}

pub(crate) fn or_no_such_link(error: AppError) -> AppError {
    match error {
        AppError::Refused(Refused::NotFound) => no_such_link(),
        other => other,
    }
}

/// Under whose name a call by this link is remembered: by the secret's digest, as tickets are.
fn actor_by(secret: &SecretString) -> String {
    format!("link {}", b64::encode(&Digest::of(format!("repeated:{}", secret.expose()).as_bytes()).0))
}

impl App {
    /// Whether people can have a link to a new password sent to them.
    pub fn recovers(&self) -> bool {
        self.mailer().is_some()
    }

    /// Sends a link to a new password to the account of this address, if there is one. The answer, and when it comes, are the same
    /// for every address (I15): the same commits are made, and it waits for the end of a step.
    ///
    /// # Errors
    /// [`Code::Forbidden`] where no mail is sent; [`AppError::TooOften`]; faults.
    pub async fn recover(&self, identifier: &str, ip: Option<IpAddr>) -> Result<(), AppError> {
        if !self.recovers() {
            let words =
                "This server sends no mail, so nobody can be sent a link: ask whoever runs it for a new password.";
            return Err(AppError::Bad(Code::Forbidden, words.into()));
        }
        // Of who asks alone, whatever they ask for: each time is a row that lives for an hour.
        keeps_pace(&self.inner.paces.recovery, ip)?;
        let began = real::mono();
        let asked = self.ask_for_link(identifier, ip).await;
        self.hold_until_step(began).await;
        asked
    }

    async fn ask_for_link(&self, identifier: &str, ip: Option<IpAddr>) -> Result<(), AppError> {
        let key = self.keys().mac().clone();
        let attempt = Attempt::of_recovery(&key, &throttle::counted_as(identifier), ip);
        let may = self.takes(attempt).await?;
        // What cannot be an address is looked up like any other: nothing is found.
        let email = Email::parse(identifier).map_or_else(|_| String::new(), |email| email.as_str().into());
        for tries in 1..=TRIES {
            let load = self.store().load_sign_in(&email, ClientId::FIRST_PARTY).await;
            let view = load.map_err(|e| self.fault(e.into()))?;
            // Of nobody as much is read as of anybody.
            let asker = recovery::asker(&view, may);
            let look = self.look_at_recovery(asker, ip).await?;
            // What is remembered is written by others, too. It must not tell that there is an account: the last try is not judged.
            let judged = asker.zip(look).filter(|_| tries < TRIES);
            let verdicts = Verdicts::default();
            let changes = match &judged {
                Some((account, look)) => self.judged_link(&view, account, look, attempt, &verdicts),
                None => recovery::ask(&view, may, &key, &mut real::RealChance),
            };
            match self.store().commit(changes).await {
                Ok(_) => {
                    self.judged(&verdicts);
                    self.mail_waits();
                    return Ok(());
                }
                Err(CommitError::Conflict(_)) if judged.is_some() => {}
                // Of an id made by chance this never is; nothing is known of the address from it.
                Err(CommitError::Conflict(_)) => return Err(AppError::Overloaded),
                Err(error) => return Err(self.fault(error.into())),
            }
        }
        Err(AppError::Overloaded)
    }

    /// A link for this account, unless a rule does not let it be sent; then one of nobody's, so that nobody sees it.
    fn judged_link(
        &self,
        view: &SignInView,
        account: &Account,
        look: &Look,
        attempt: Attempt,
        verdicts: &Verdicts,
    ) -> Changes {
        let (keys, chance) = (self.keys(), &mut real::RealChance);
        let (key, look) = (keys.mac(), look.charged_to(attempt));
        let base = Decision { outcome: Ok(()), changes: recovery::ask(view, true, key, chance) };
        let (at, act) = (At::Asked, Act::Recover(Step::Asked));
        let mut decision = look.judge(self, base, &view.stamp, account, at, act, verdicts, chance);
        if decision.outcome.is_err() {
            decision.changes.steps.extend(recovery::ask(view, false, key, chance).steps);
        }
        decision.changes
    }

    /// The link with this secret. Looking changes nothing: mail scanners open links, too.
    ///
    /// # Errors
    /// [`Code::NotFound`] in one and the same words for all that are of no use; [`Refused::AccountBlocked`] for a good one of an
    /// account that is blocked.
    pub async fn open_link(&self, secret: &SecretString) -> Result<Link, AppError> {
        self.open_as(secret, &[TicketKind::ResetPassword, TicketKind::NotMe]).await
    }

    /// The same for "this was not me" alone.
    ///
    /// # Errors
    /// As [`App::open_link`].
    pub async fn open_not_me(&self, secret: &SecretString) -> Result<Link, AppError> {
        self.open_as(secret, &[TicketKind::NotMe]).await
    }

    async fn open_as(&self, secret: &SecretString, kinds: &[TicketKind]) -> Result<Link, AppError> {
        if !mail::is_link(secret.expose()) {
            return Err(no_such_link());
        }
        for kind in kinds {
            let id = ticket::id(*kind, secret.expose());
            let found = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
            let Some(ticket) = found.map(|view| view.ticket).filter(|ticket| ticket.kind == *kind) else { continue };
            let Some(account) = ticket.account else { continue };
            // The stamp is the account's: it was read later than the ticket.
            let view = self.store().load_account(account).await.map_err(|e| self.fault(e.into()))?;
            let view = view.ok_or_else(no_such_link)?;
            let opened = recovery::open(&view, &ticket).map_err(|e| or_no_such_link(e.into()))?;
            let session = match opened.body.session {
                Some(id) => self.store().load_session(id).await.map_err(|e| self.fault(e.into()))?,
                None => None,
            };
            let session = session.filter(|session| session.account.id == view.account.id);
            let links = self.links_of(account).await?;
            let holder = match email::address_before(&ticket, &opened.body, &view.account) {
                Some(address) => {
                    let there = self.store().load_sign_in(address, ClientId::FIRST_PARTY).await;
                    there.map_err(|e| self.fault(e.into()))?.account
                }
                None => None,
            };
            return Ok(Link { opened, account: view.account.clone(), session, links, holder, ticket, view });
        }
        Err(no_such_link())
    }

    /// What a form is repeated by, should its answer get lost on the way: nobody can guess it.
    pub fn repeat_text(&self) -> String {
        b64::encode(&real::RealChance.bits().to_be_bytes())
    }

    /// Gives the account of a link a new password, and ends everything that it has. Once. Repeated: the old rev. Without a key of the
    /// caller's choice a used link says nothing, for it would tell whoever finds it later which password is right. Nor may a key do
    /// that which can be guessed: `repeat` is made of the password only where the key is this server's chance ([`App::repeat_text`]).
    ///
    /// # Errors
    /// As [`App::open_link`]; 422 for a password that may not be, or is known to be stolen; faults.
    pub async fn reset_password(
        &self,
        secret: &SecretString,
        password: SecretString,
        ip: Option<IpAddr>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let done = || async {
            match repeat {
                Some(repeat) => self.remembered(&actor_by(secret), repeat).await,
                None => Ok(None),
            }
        };
        if let Some(before) = done().await? {
            return Revoked::remembered(&before);
        }
        let acted = self.set_password_by(secret, password, ip, repeat).await;
        if matches!(acted, Err(AppError::Bad(Code::NotFound, _)))
            && let Some(before) = done().await?
        {
            // By the same call, meanwhile.
            return Revoked::remembered(&before);
        }
        acted
    }

    async fn set_password_by(
        &self,
        secret: &SecretString,
        password: SecretString,
        ip: Option<IpAddr>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let link = self.open_link(secret).await?;
        if !link.opened.resets {
            return Err(no_such_link());
        }
        let email = Email::parse(link.account.email.as_deref().unwrap_or_default())?;
        account::check_password(password.expose(), &email)?;
        self.refuse_breached("password", &password).await?;
        let hash = self.passwords().hash(password).await.map_err(pool_error)?;
        let notice = self.may_mail(Template::PasswordReset, link.account.id).await?;
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: None };
        let verdicts = Verdicts::default();
        let load = || async {
            let link = self.open_link(secret).await?;
            let look = self.look_at_recovery(Some(&link.account), ip).await?;
            let memory = match &look {
                Some(_) => None,
                None => self.memory_with_new_password(link.account.id).await?,
            };
            Ok((link, look, memory))
        };
        let decide = |(link, look, memory): &(Link, Option<Look>, Option<Change>), chance: &mut dyn Chance| {
            let (view, around) = (&link.view, link.around(notice.as_ref()));
            let mut decision = recovery::reset(view, &link.ticket, around, &hash, &by, chance);
            if decision.outcome.is_err() {
                return decision;
            }
            decision.changes.steps.extend(memory.clone());
            let Some(look) = look else { return decision };
            let (at, act) = (At::Reset, Act::Recover(Step::Done));
            look.judge(self, decision, &view.stamp, &view.account, at, act, &verdicts, chance)
        };
        let acted = self.act_on_link(&actor_by(secret), repeat, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        let acted = acted?;
        self.mail_waits();
        match acted {
            Acted::Done((), committed) => Revoked::of(committed),
            Acted::Before(before) => Revoked::remembered(&before),
            Acted::Answered(()) => Err(AppError::Fault("a new password without changes".into())),
        }
    }

    /// "This was not me": ends the session that the mail was about if it lives, or everything; from then on the link leads to a new password.
    ///
    /// # Errors
    /// As [`App::open_not_me`]; faults.
    pub async fn deny_session(&self, secret: &SecretString, all: bool, ip: Option<IpAddr>) -> Result<(), AppError> {
        let by = By { actor: Actor::Anonymous, role: None, ip, reason: None };
        let notice = self.mailer().map(|_| self.keys().mac().clone());
        let verdicts = Verdicts::default();
        let load = || async {
            let link = self.open_not_me(secret).await?;
            let look = self.look_at_recovery(Some(&link.account), ip).await?;
            Ok((link, look))
        };
        let decide = |(link, look): &(Link, Option<Look>), chance: &mut dyn Chance| {
            let Link { view, ticket, session, .. } = link;
            let around = link.around(notice.as_ref());
            let decision = recovery::not_me(view, ticket, session.as_ref(), all, around, &by, chance);
            // Said twice, it is said.
            let said = decision.outcome.is_ok() && !decision.changes.is_empty();
            let Some(look) = look.as_ref().filter(|_| said) else { return decision };
            let act = Act::Recover(Step::Denied);
            look.judge(self, decision, &view.stamp, &view.account, At::Account, act, &verdicts, chance)
        };
        let acted = self.act_on_link("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        self.mail_waits();
        acted.map(drop)
    }

    /// [`App::act_on_ticket`] for what may give an address back: when somebody takes it at that very moment it is looked at again, so that
    /// nobody keeps everything from ending by that.
    async fn act_on_link<V, F>(
        &self,
        actor: &str,
        repeat: Option<&RepeatKey>,
        load: impl Fn() -> F,
        decide: impl Fn(&V, &mut dyn Chance) -> Decision<()>,
    ) -> Result<Acted<()>, AppError>
    where
        F: Future<Output = Result<V, AppError>>,
    {
        for _ in 0..crate::MAX_TRIES {
            match self.act_on_ticket(actor, repeat, &load, &decide).await {
                Err(AppError::Refused(Refused::EmailTaken)) => {}
                other => return other.map_err(or_no_such_link),
            }
        }
        Err(AppError::Overloaded)
    }
}

impl Link {
    fn around<'a>(&'a self, notice: Option<&'a MacKey>) -> Around<'a> {
        Around { links: &self.links, holder: self.holder.as_ref(), notice }
    }

    /// Whether the session that its mail was about lives: then "this was not me" ends that one alone, if no more is asked for.
    pub fn is_about_a_living_session(&self) -> bool {
        self.session.as_ref().is_some_and(recovery::lives)
    }
    /// What the mail that it stood in was about.
    pub fn template(&self) -> Option<Template> {
        let LinkBody { template, .. } = &self.opened.body;
        Template::parse(template)
    }
}
