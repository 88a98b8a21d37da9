//! Somebody new: no account is made for them until they have said that they want one. A browser can be sent to a provider and back by
//! any page, and a provider that knows its user asks nothing; so without a question whoever follows a link would have an account.
//!
//! What waits for the answer is a ticket, as a sign-in under way is: used once, by the browser that was asked.
use super::{Arrival, Arrived, Coming, Visitor, digest_text, is_browser, secret};
use crate::{App, AppError};
use portcullis_domain::Changes;
use portcullis_domain::changes::Change;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::ticket::{self, TicketKind};
use portcullis_domain::upstream::{Begun, Identity, Newcomer};
use portcullis_wire::{Digest, SecretString, Time};

fn question(secret: &SecretString) -> Digest {
    // Never the id of a sign-in under way: those are of plain states.
    ticket::id(TicketKind::Upstream, &format!("new:{}", secret.expose()))
}

impl App {
    /// Keeps whom the provider sent until they have answered.
    pub(super) async fn ask_newcomer(&self, coming: &Coming<'_>) -> Result<Arrival, AppError> {
        let (secret, stamp) = (secret(), self.store().stamp().await?);
        let Coming { provider, identity, begun, .. } = *coming;
        let newcomer = Newcomer {
            identity: identity.clone(),
            browser: digest_text(coming.browser),
            return_to: coming.return_to.into(),
            at: begun.at.0,
            fresh: coming.fresh,
        };
        let ticket = newcomer.ticket(question(&secret), begun, stamp.now);
        let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
        self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        let (name, Identity { email, name: person, .. }) = (provider.settings.name.clone(), newcomer.identity);
        Ok(Arrival::Ask { ticket: secret, email, person, name })
    }

    /// What somebody new says: `yes`, and they have an account and are signed in, as if they had come back just now. Once.
    ///
    /// # Errors
    /// The refusals of a sign-in; faults.
    #[allow(clippy::too_many_arguments, reason = "what a browser brings, and what its user says")]
    pub async fn answer_newcomer(
        &self,
        ticket: &SecretString,
        yes: bool,
        request: SignIn,
        visitor: &Visitor<'_>,
    ) -> Result<Arrived, AppError> {
        let Visitor { browser, device, present } = *visitor;
        let stale = Ok(Arrived { what: Arrival::Stale, return_to: None });
        let id = question(ticket);
        let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
        let view = view.filter(|view| view.ticket.is_open(view.stamp.epoch, view.stamp.now));
        let Some((view, browser)) = view.zip(browser) else { return stale };
        let Some(newcomer) = view.ticket.read::<Newcomer>() else { return stale };
        let provider = self.inner.upstreams.by_id(&newcomer.identity.upstream);
        let Some(provider) = provider.filter(|one| one.settings.issuer == newcomer.identity.issuer) else {
            return stale;
        };
        if !is_browser(&newcomer.browser, browser) || !self.use_ticket(id, view.stamp.now).await? {
            return stale;
        }
        let return_to = Some(newcomer.return_to.clone());
        if !yes {
            return Ok(Arrived { what: Arrival::Declined, return_to });
        }
        let coming = Coming {
            provider: &provider,
            identity: &newcomer.identity,
            begun: Begun { born: view.ticket.born, epoch: view.ticket.epoch, at: Time(newcomer.at) },
            fresh: newcomer.fresh,
            return_to: &newcomer.return_to,
            browser,
            device,
            agreed: true,
        };
        Ok(Arrived { what: self.let_in(&coming, request, present).await?, return_to })
    }
}
