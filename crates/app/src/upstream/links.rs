//! Links: proving that an account is one's own, looking at what may sign in, and taking that away.
use super::{is_browser, secret};
use crate::risk::{Look, Verdicts};
use crate::{Acted, App, AppError, Caller};
use portcullis_domain::changes::Change;
use portcullis_domain::kernel::{By, Door};
use portcullis_domain::mail::{self, Letter, Template};
use portcullis_domain::risk::enforce::At;
use portcullis_domain::risk::{Act, What};
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::upstream::{self, CameFrom, Identity, LIFE, Link, MAX_LINKS, Waiting};
use portcullis_domain::view::AccountView;
use portcullis_domain::{Chance, Changes, Decision, Refused};
use portcullis_store::CommitError;
use portcullis_wire::{AccountId, Digest, LinkId, SecretString, SessionId};
use std::net::IpAddr;

fn waiting_id(secret: &SecretString) -> Digest {
    // Never the id of a sign-in under way: those are of plain states.
    ticket::id(TicketKind::Upstream, &format!("prove:{}", secret.expose()))
}

impl App {
    /// Keeps whom the provider sent until they have proved that an account is theirs.
    pub(super) async fn wait_for_proof(&self, waiting: &Waiting) -> Result<SecretString, AppError> {
        let (secret, stamp) = (secret(), self.store().stamp().await?);
        let ticket = Ticket {
            id: waiting_id(&secret),
            kind: TicketKind::Upstream,
            account: None,
            session: None,
            client: None,
            born: stamp.head,
            epoch: stamp.epoch,
            expires_at: stamp.now.plus(LIFE),
            body: Ticket::write(waiting),
            version: 1,
            used: None,
        };
        let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
        self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        Ok(secret)
    }

    /// What waits under this ticket in this browser; `None` when nothing does (any more).
    pub async fn awaiting_proof(
        &self,
        ticket: &SecretString,
        browser: Option<&SecretString>,
    ) -> Result<Option<Waiting>, AppError> {
        let view = self.store().load_ticket(waiting_id(ticket)).await.map_err(|e| self.fault(e.into()))?;
        let view = view.filter(|view| view.ticket.is_open(view.stamp.epoch, view.stamp.now));
        let waiting = view.and_then(|view| view.ticket.read::<Waiting>());
        Ok(waiting.filter(|waiting| browser.is_some_and(|browser| is_browser(&waiting.browser, browser))))
    }

    /// Links what waits to the caller's account: they have just proved by its password that it is theirs. Once.
    ///
    /// # Errors
    /// 409 when it is another account's already, or there are too many; faults.
    pub async fn link_proven(
        &self,
        caller: &Caller,
        ticket: &SecretString,
        waiting: &Waiting,
        ip: Option<IpAddr>,
    ) -> Result<(), AppError> {
        if caller.view.account.email.as_ref() != Some(&waiting.email) {
            let detail = "that password is of another account".into();
            return Err(Refused::Conflict { detail }.into());
        }
        self.link(caller, &waiting.identity(), Some(waiting_id(ticket)), ip).await
    }

    pub(super) async fn link(
        &self,
        caller: &Caller,
        identity: &Identity,
        ticket: Option<Digest>,
        ip: Option<IpAddr>,
    ) -> Result<(), AppError> {
        let load = || async {
            let there = self.store().load_link(&identity.issuer, &identity.subject).await;
            let there = there.map_err(|e| self.fault(e.into()))?;
            if let Some(id) = ticket {
                let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
                if view.is_none_or(|view| view.ticket.used.is_some()) {
                    let detail = "this was done already, or took too long".into();
                    return Err(Refused::Conflict { detail }.into());
                }
            }
            let look = self.look_at(caller, None).await?;
            let id = caller.view.account.id;
            Ok((there, self.account_view(id).await?, self.links_of(id).await?, look))
        };
        type Loaded = (upstream::LinkView, AccountView, Vec<Link>, Option<Look>);
        let verdicts = Verdicts::default();
        let session = caller.view.session.id;
        let notice = self.may_mail(Template::LinkAdded, caller.view.account.id).await?;
        let decide = |(there, own, links, look): &Loaded, chance: &mut dyn Chance| {
            let link = there.found.as_ref().map(|(link, _)| link);
            let mut decision = upstream::add(own, session, link, links, identity, ip, chance);
            if let (Ok(()), Some(ticket)) = (&decision.outcome, ticket) {
                decision.changes.steps.push(Change::UseTicket { ticket, at: there.stamp.now, grant: None });
            }
            // Not when it was linked already.
            let added = decision.changes.steps.iter().any(|step| matches!(step, Change::InsertLink(_)));
            if let (Some(key), true) = (&notice, added) {
                let letter = Letter::of(Template::LinkAdded, &own.account).about(session);
                decision.changes.steps.extend(mail::write(letter, &own.stamp, key, chance));
            }
            let Some(look) = look.as_ref().filter(|_| added) else { return decision };
            let (at, act) = (At::Session(session, None), Act::Change(What::Factor));
            look.judge(self, decision, &own.stamp, &own.account, at, act, &verdicts, chance)
        };
        let acted = self.act("", None, load, decide).await;
        if matches!(acted, Ok(_) | Err(AppError::Refused(_))) {
            self.judged(&verdicts);
        }
        self.mail_waits();
        match acted? {
            Acted::Before(_) => Err(AppError::Fault("a link has no repeat key".into())),
            _ => Ok(()),
        }
    }

    pub(crate) async fn links_of(&self, account: AccountId) -> Result<Vec<Link>, AppError> {
        let most = u32::try_from(MAX_LINKS + 1).unwrap_or(u32::MAX);
        self.store().list_links(account, most).await.map_err(|e| self.fault(e.into()))
    }

    /// Who of other providers may sign in to the caller's account.
    pub async fn my_links(&self, caller: &Caller) -> Result<Vec<Link>, AppError> {
        self.links_of(caller.view.account.id).await
    }

    /// Takes one of them away, and ends the sessions that came by it, but the one that calls. What stops on the way goes on when it is
    /// repeated: the link is there, and opens nothing, until all of them have ended.
    ///
    /// # Errors
    /// 401 for a sign-in that is too old; 404; 409 for the only way in; 503: it is not done yet.
    pub async fn remove_my_link(&self, caller: &Caller, id: LinkId) -> Result<(), AppError> {
        self.recently_proven(caller)?;
        self.remove_link(caller, id).await
    }

    /// Takes all of them away, from who has just proved who they are. Repeated, it goes on.
    pub(crate) async fn remove_links(&self, caller: &Caller) -> Result<(), AppError> {
        for link in self.links_of(caller.view.account.id).await? {
            match self.remove_link(caller, link.id).await {
                Ok(()) | Err(AppError::Refused(Refused::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn remove_link(&self, caller: &Caller, id: LinkId) -> Result<(), AppError> {
        let load = || async {
            Ok((self.account_view(caller.view.account.id).await?, self.links_of(caller.view.account.id).await?))
        };
        let decide = |(view, links): &(AccountView, Vec<Link>), chance: &mut dyn Chance| -> Decision<Link> {
            upstream::close(view, caller.view.session.id, links, id, caller.ip, chance)
        };
        let link = match self.act("", None, load, decide).await? {
            Acted::Done(link, _) | Acted::Answered(link) => link,
            Acted::Before(_) => return Err(AppError::Fault("a removal has no repeat key".into())),
        };
        // To its end even if the caller hangs up, and by the server itself: the caller was alive when it was decided, and whoever came
        // by the link must not stop it by ending the caller's session.
        let (app, except, ip) = (self.clone(), caller.view.session.id, caller.ip);
        let done = tokio::spawn(async move { app.finish_removal(link, except, ip).await });
        done.await.unwrap_or_else(|error| Err(self.fault(AppError::Fault(error.to_string().into()))))
    }

    /// Ends what came by a closed link, and then takes its row away.
    async fn finish_removal(&self, link: Link, except: SessionId, ip: Option<IpAddr>) -> Result<(), AppError> {
        let Link { id, account, issuer, subject, .. } = link;
        let by = By { ip, ..By::SYSTEM };
        let from = CameFrom { issuer, subject: Some(subject), sid: None };
        self.end_from(Door::LinkRemoved, &from, Some(except), &by).await?;
        let steps = vec![Change::RemoveLink { account, link: id }];
        match self.store().commit(Changes { steps, ..Changes::default() }).await {
            // In a conflict it is gone: somebody else removed it at the same time.
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(()),
            Err(error) => Err(self.fault(error.into())),
        }
    }

    /// Whether the caller proved who they are not longer ago than `step_up_max_age`.
    ///
    /// # Errors
    /// 401 `step_up_required`.
    pub fn recently_proven(&self, caller: &Caller) -> Result<(), AppError> {
        let max_age = self.settings().policy.step_up_max_age;
        let view = &caller.view;
        if view.stamp.now.since(upstream::proven_at(&view.account, &view.session)) <= max_age {
            return Ok(());
        }
        Err(Refused::StepUpRequired { max_age_s: max_age.div_euclid(1000) }.into())
    }
}
