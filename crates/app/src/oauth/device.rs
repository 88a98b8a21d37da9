//! Devices without a browser (RFC 8628), by `domain::device_code`.
use super::tokens::{OAuthTokens, tell_of_app};
use super::{Known, as_grant_error, keeps_pace, refuse};
use crate::risk::{Look, Verdicts};
use crate::{Acted, App, AppError, Caller};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::code::Redeem;
use portcullis_domain::device_code::{self, Asked, Begun, Waiting};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::throttle::Attempt;
use portcullis_domain::ticket::{self, TicketKind};
use portcullis_domain::view::{AppView, SessionView};
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_wire::SecretString;
use std::net::IpAddr;

/// A device's request as the person is asked about it.
#[derive(Debug, Clone)]
pub struct DeviceQuestion {
    /// The person's session beside the client.
    pub view: AppView,
    /// What the client asks for.
    pub scope: Vec<String>,
    /// The code, in the one form.
    pub code: String,
    waiting: Waiting,
}

impl App {
    /// A device begins (RFC 8628 §3.1).
    ///
    /// # Errors
    /// What RFC 6749 §5.2 names; [`AppError::TooOften`]; faults.
    pub async fn begin_device(&self, known: &Known, asked: &Asked, ip: Option<IpAddr>) -> Result<Begun, AppError> {
        keeps_pace(&self.inner.paces.devices, ip)?;
        let load = || async {
            let view = self.store().load_client(known.client.id).await.map_err(|e| self.fault(e.into()))?;
            view.ok_or_else(|| refuse(OAuthError::InvalidClient, "there is no such client any more"))
        };
        let acted =
            self.act("", None, load, |view, chance| device_code::begin(view, &known.client, asked, chance)).await?;
        match acted {
            Acted::Done(begun, _) | Acted::Answered(begun) => Ok(begun),
            Acted::Before(_) => Err(AppError::Fault("a device code has no repeat key".into())),
        }
    }

    /// What waits under a code that a signed-in person typed. Each code is a guess until it proves right: it is taken from the
    /// budgets of the account and of the address first, and given back then. Beyond them every code reads as unknown.
    ///
    /// # Errors
    /// 404; faults.
    pub async fn asked_by_device(&self, caller: &Caller, code: &str) -> Result<DeviceQuestion, AppError> {
        let code = device_code::typed(code).ok_or(Refused::NotFound)?;
        let name = format!("user code by {}", caller.view.account.id);
        let attempt = Attempt::of(self.keys().mac(), &name, caller.ip, None);
        let taken = Changes { steps: vec![Change::TakeAttempt(attempt)], ..Changes::default() };
        let committed = self.store().commit(taken).await.map_err(|error| self.fault(error.into()))?;
        let verdict = committed.attempt.ok_or_else(|| AppError::Fault("an attempt without a verdict".into()))?;
        let found = self.waiting(caller, code).await?;
        if !verdict.is_checked() {
            return Err(Refused::NotFound.into());
        }
        if found.is_some() {
            self.untake(attempt, verdict).await;
        }
        found.ok_or_else(|| Refused::NotFound.into())
    }

    async fn waiting(&self, caller: &Caller, code: String) -> Result<Option<DeviceQuestion>, AppError> {
        let load = |id| async move { self.store().load_ticket(id).await.map_err(|e| self.fault(e.into())) };
        let Some(user) = load(device_code::user_ticket(&code)).await? else { return Ok(None) };
        let Some(id) = device_code::device_ticket(&user.ticket) else { return Ok(None) };
        let Some(device) = load(id).await? else { return Ok(None) };
        let waiting = Waiting { user: user.ticket, device: device.ticket };
        let Some(client) = waiting.device.client else { return Ok(None) };
        let Some(view) = self.app_view(caller, client).await? else { return Ok(None) };
        let scope = waiting.scope(&view.session.stamp).filter(|_| !view.client.disabled);
        Ok(scope.map(|scope| DeviceQuestion { view, scope, code, waiting }))
    }

    /// What the person says to it.
    ///
    /// # Errors
    /// 404 when it does not wait any more, or what it rests on has ended; faults.
    pub async fn answer_device(&self, caller: &Caller, asked: &DeviceQuestion, allow: bool) -> Result<(), AppError> {
        let load = || async {
            let found = self.waiting(caller, asked.code.clone()).await?;
            // What was shown is what is answered, or nothing is.
            let same = |found: &DeviceQuestion| found.waiting.device.id == asked.waiting.device.id;
            let found = found.filter(same).ok_or(Refused::NotFound)?;
            let look = if allow { self.look_at(caller, None).await? } else { None };
            Ok((found, look))
        };
        let rules = &self.settings().rules;
        let verdicts = Verdicts::default();
        let decide = |(asked, look): &(DeviceQuestion, Option<Look>), chance: &mut dyn Chance| -> Decision<()> {
            let base = device_code::answer(&asked.waiting, &asked.view, allow, caller.ip, rules, chance);
            let Some(look) = look.as_ref().filter(|_| base.outcome.is_ok()) else { return base };
            let SessionView { session, account, stamp, .. } = &asked.view.session;
            let (at, act) = (At::Session(session.id, None), Act::Change(What::App));
            look.judge(self, base, stamp, account, at, act, &verdicts, chance)
        };
        let acted = self.act("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        match acted {
            Ok(Acted::Done((), _) | Acted::Answered(())) => Ok(()),
            Ok(Acted::Before(_)) => Err(AppError::Fault("an answer has no repeat key".into())),
            // An end came between the request and the answer: there is nothing to say yes to.
            Err(AppError::Refused(Refused::Conflict { .. })) => Err(Refused::NotFound.into()),
            Err(error) => Err(error),
        }
    }

    /// A device asks for its tokens (RFC 8628 §3.4).
    ///
    /// # Errors
    /// What RFC 8628 §3.5 and RFC 6749 §5.2 name; faults.
    pub async fn poll_device(
        &self,
        known: &Known,
        code: &SecretString,
        presented: &Redeem,
    ) -> Result<OAuthTokens, AppError> {
        self.ensure_horizon().await?;
        self.ensure_may_sign_ids(&known.client.profile).await?;
        let id = ticket::id(TicketKind::Device, code.expose());
        let load = || async {
            let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
            let gone = || refuse(OAuthError::InvalidGrant, "there is no such device code (any more)");
            let view = view.ok_or_else(gone)?;
            let others = self.others_beside(&view).await?;
            Ok((view, others))
        };
        let (keys, rules) = (self.keys(), &self.settings().rules);
        let notice = self.may_tell_of_app(id, device_code::is_allowed).await?;
        let acted = self
            .act_on_ticket("", None, load, |(view, others), chance| {
                let mut decision = device_code::poll(view, others, presented, rules, keys.mac(), chance);
                tell_of_app(&mut decision, &view.stamp, notice.as_ref(), chance);
                decision
            })
            .await;
        if notice.is_some() {
            self.mail_waits();
        }
        match acted.map_err(as_grant_error)? {
            Acted::Done(granted, _) | Acted::Answered(granted) => self.oauth_tokens(known, granted),
            Acted::Before(_) => Err(AppError::Fault("a device code has no repeat key".into())),
        }
    }
}
