//! What people do with their own account besides its sessions: another name or password, its deletion, its audit records.
use crate::admin::told;
use crate::callers::Caller;
use crate::guessing::{Counted, Taken};
use crate::risk::{Look, Verdicts};
use crate::sessions::pool_error;
use crate::{Acted, App, AppError, RepeatKey, Revoked};
use portcullis_domain::account::{self, Email, MAX_PASSWORD, Roles};
use portcullis_domain::changes::{Changes, Expect};
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::model::{Account, Status};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::throttle::Name;
use portcullis_domain::view::AccountView;
use portcullis_domain::{Decision, Refused};
use portcullis_store::{EventFilter, EventRow, Page};
use portcullis_wire::{EventId, SecretString};
use std::net::IpAddr;

impl App {
    async fn own_view(&self, caller: &Caller) -> Result<AccountView, AppError> {
        let view = self.store().load_account(caller.view.account.id).await.map_err(|e| self.fault(e.into()))?;
        view.ok_or_else(|| Refused::NotFound.into())
    }

    /// Gives the caller's account another name, or none.
    pub async fn rename_me(&self, caller: &Caller, name: Option<&str>) -> Result<Account, AppError> {
        let name = name.map(|name| account::check_text("name", name)).transpose()?;
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let load = || self.own_view(caller);
        self.act("", None, load, |view, chance| {
            account::change(view, Some(name.clone()), &Roles::Same, None, &by, chance)
        })
        .await?;
        Ok(self.own_view(caller).await?.account)
    }

    /// Deletes the caller's account. It needs a sign-in that is not older than `step_up_max_age`, or the password. Repeated: the
    /// old rev.
    pub async fn delete_me(
        &self,
        caller: &Caller,
        password: Option<SecretString>,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        if let Status::Deleted { rev, .. } | Status::Deleting { rev, .. } = caller.view.account.status {
            return Ok(Revoked { rev, ended: Some(0), at: self.now() });
        }
        let grace = self.settings().policy.deletion_grace;
        let proven = match password {
            Some(password) => Some(self.prove(caller, password).await?),
            None => {
                self.recently_proven(caller)?;
                None
            }
        };
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let load = || self.own_view(caller);
        let notice = self.may_tell_of_deletion(&caller.view.account).await?;
        let decide = |view: &AccountView, chance: &mut dyn portcullis_domain::Chance| {
            let decision: Decision<_> = account::delete(view, grace, &by, chance);
            let mut decision = told(decision, Template::AccountDeleted, view, notice.as_ref(), chance);
            if let Some(version) = proven {
                // The proof is of one password.
                let expect = Expect::PasswordVersion { account: view.account.id, version };
                decision.changes.expects.push(expect);
            }
            decision
        };
        let acted = self.act(&by.actor.text(), repeat, load, decide).await?;
        self.mail_waits();
        match acted {
            Acted::Done(_, committed) => Revoked::of(committed),
            Acted::Answered(Some(rev)) => Ok(Revoked { rev, ended: Some(0), at: self.now() }),
            Acted::Answered(None) => Err(AppError::Fault("a deletion without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }

    /// Gives the caller another password, by the one that they have, and ends all their sessions but the one that calls.
    /// Repeated: the old rev. `end_links`: then nobody of another provider signs in any more, either; when that fails the password is
    /// another one already, and the repeated call goes on.
    pub async fn change_my_password(
        &self,
        caller: &Caller,
        current: SecretString,
        new: SecretString,
        end_links: bool,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let revoked = self.change_password(caller, current, new, repeat).await?;
        if end_links {
            self.remove_links(caller).await?;
        }
        Ok(revoked)
    }

    async fn change_password(
        &self,
        caller: &Caller,
        current: SecretString,
        new: SecretString,
        repeat: Option<&RepeatKey>,
    ) -> Result<Revoked, AppError> {
        let session = caller.view.session.id;
        let by = By { actor: caller.actor(), role: None, ip: caller.ip, reason: None };
        let repeat = repeat.map(|repeat| repeat.about(session));
        // A repeated call brings the password of before.
        if let Some(repeat) = &repeat
            && let Some(before) = self.remembered(&by.actor.text(), repeat).await?
        {
            return Revoked::remembered(&before);
        }
        let email = Email::parse(caller.view.account.email.as_deref().unwrap_or_default())?;
        account::check_password(new.expose(), &email).map_err(|refused| match refused {
            Refused::InvalidValue { detail, .. } => Refused::InvalidValue { field: "new_password", detail },
            other => other,
        })?;
        let proven = self.prove(caller, current).await?;
        self.refuse_breached("new_password", &new).await?;
        let hash = self.passwords().hash(new).await.map_err(pool_error)?;
        let notice = self.may_mail(Template::PasswordChanged, caller.view.account.id).await?;
        let load = || async {
            let view = self.own_view(caller).await?;
            // What was right of one that has been changed since is right no longer.
            let same = view.account.password_version == proven;
            if !same {
                return Err(Refused::InvalidCredentials.into());
            }
            Ok((self.look_at(caller, None).await?, view))
        };
        let verdicts = Verdicts::default();
        let decide = |(look, view): &(Option<Look>, AccountView), chance: &mut dyn portcullis_domain::Chance| {
            verdicts.anew();
            let mut base = account::change_password(view, hash.clone(), session, &by, chance);
            if let Some(key) = &notice {
                let letter = Letter::of(Template::PasswordChanged, &view.account).about(session).with_new_password();
                base.changes.steps.extend(mail::write(letter, &view.stamp, key, chance));
            }
            // What was refused before is no change.
            let Some(look) = look.as_ref().filter(|_| base.outcome.is_ok()) else { return base };
            let (at, act) = (At::Session(session, None), Act::Change(What::Password));
            look.judge(self, base, &view.stamp, &view.account, at, act, &verdicts, chance)
        };
        let acted = self.act(&by.actor.text(), repeat.as_ref(), load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        self.mail_waits();
        match acted? {
            Acted::Done((), committed) => Revoked::of(committed),
            Acted::Answered(()) => Err(AppError::Fault("a new password without changes".into())),
            Acted::Before(before) => Revoked::remembered(&before),
        }
    }

    /// Whether this is the caller's password: a guess like any other, paid for from the same budgets. The version that was
    /// right.
    pub(crate) async fn prove(&self, caller: &Caller, password: SecretString) -> Result<u32, AppError> {
        let account = &caller.view.account;
        match self.is_password_of(account, password, caller.ip).await? {
            (true, _) => Ok(account.password_version),
            (false, ours) => {
                // What was not looked at was not wrong.
                if ours.verdict.is_checked() {
                    self.proof_was_wrong(caller, &ours).await?;
                }
                Err(Refused::InvalidCredentials.into())
            }
        }
    }

    /// Whether this is the account's password, and what the guess was counted as. One that was right is given back.
    pub(crate) async fn is_password_of(
        &self,
        account: &Account,
        password: SecretString,
        ip: Option<IpAddr>,
    ) -> Result<(bool, Counted), AppError> {
        let name = Name::of(Some(account.id), account.email.as_deref().unwrap_or_default());
        let Taken { place, ours } = self.take_attempt(name, ip, None).await?;
        let compare = ours.verdict.is_checked() && password.expose().len() <= MAX_PASSWORD;
        let password = if compare { password } else { SecretString::new("") };
        let checked = self.passwords().check(place, password, account.password_hash.clone(), compare).await;
        match checked {
            Ok(true) if compare => {
                self.untake(ours.attempt, ours.verdict).await;
                Ok((true, ours))
            }
            Ok(_) => Ok((false, ours)),
            Err(error) => {
                self.untake(ours.attempt, ours.verdict).await;
                Err(pool_error(error))
            }
        }
    }

    /// Whoever uses this session does not know its user's password.
    async fn proof_was_wrong(&self, caller: &Caller, counted: &Counted) -> Result<(), AppError> {
        let load = || async { Ok((self.look_at(caller, Some(counted)).await?, self.own_view(caller).await?)) };
        let verdicts = Verdicts::default();
        let session = caller.view.session.id;
        let decide = |(look, view): &(Option<Look>, AccountView), chance: &mut dyn portcullis_domain::Chance| {
            verdicts.anew();
            let at = At::Session(session, None);
            let Some(look) = look else { return Decision::answer(()) };
            let expects = vec![Expect::Alive { session, role: None }];
            let base = Decision { outcome: Ok(()), changes: Changes { expects, ..Changes::default() } };
            look.judge(self, base, &view.stamp, &view.account, at, Act::Prove { ok: false }, &verdicts, chance)
        };
        let acted = self.act("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        acted.map(drop)
    }

    /// Audit records about the caller's account, newest first.
    pub async fn my_events(
        &self,
        caller: &Caller,
        cursor: Option<EventId>,
        limit: u32,
    ) -> Result<Page<EventRow>, AppError> {
        let filter = EventFilter { account: Some(caller.view.account.id), ..EventFilter::default() };
        self.store().list_events(&filter, cursor, limit).await.map_err(|e| self.fault(e.into()))
    }
}
