//! A provider says that somebody signed out there (OpenID Connect Back-Channel Logout 1.0 §2.5 to §2.7).
use super::jwt::LOGOUT_LIFE_S;
use crate::settings::UpstreamKind;
use crate::{App, AppError, MAX_TRIES, Revoked};
use portcullis_domain::Refused;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::kernel::{By, Door};
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::upstream::{Begun, CameFrom, Identity, LONGEST, SignedOut};
use portcullis_store::CommitError;
use portcullis_wire::{Code, Digest, SessionId, Time};
use std::net::IpAddr;

/// How many sessions are looked at in one step.
const AT_ONCE: u32 = 100;

impl App {
    /// Ends the sessions that came from what a logout token names, and lets no sign-in that began before come through. The newest
    /// end, when there was one. A token that came before (`jti`) does nothing.
    ///
    /// # Errors
    /// 404 for a provider that does not tell; 400 for a token that is not its; 503 for faults, so that the
    /// provider tries again.
    pub async fn upstream_logout(
        &self,
        id: &str,
        token: &str,
        ip: Option<IpAddr>,
    ) -> Result<Option<Revoked>, AppError> {
        let provider = self.inner.upstreams.by_id(id).filter(|one| one.settings.kind == UpstreamKind::Oidc);
        let provider = provider.ok_or(Refused::NotFound)?;
        let _place = provider.place().ok_or(AppError::Overloaded)?;
        provider.metadata(self.outgoing()).await.map_err(|why| self.unreachable_upstream(id, &why))?;
        let now = self.now();
        let told = provider.logout_token(self.outgoing(), token, now.secs()).await.map_err(|why| {
            self.tell_refusal(id, &why, "a logout token was refused");
            AppError::Bad(Code::Malformed, format!("this is no logout token: {}", why.0))
        })?;
        let issuer = provider.settings.issuer.clone();
        let by = By { ip, reason: None, ..By::SYSTEM };
        let from = CameFrom { issuer: issuer.clone(), subject: told.sub.clone(), sid: told.sid };
        let steps: Vec<Change> = told
            .sub
            .map(|subject| Change::SignOutLink { issuer: issuer.clone(), subject, at: now })
            .into_iter()
            .collect();
        // Before the token is used up: a fault in between is answered with 503, and the token may come again.
        let seen = ticket::id(TicketKind::Proof, &format!("logout\n{issuer}\n{}", told.jti));
        // What was done is not done again: a sign-in since then is not ended by an old token. The answer is that of the first time,
        // which the provider may not have got.
        if self.store().load_ticket(seen).await.map_err(|e| self.fault(e.into()))?.is_some() {
            return Ok(None);
        }
        for id in SignedOut::ids(&issuer, from.subject.as_deref(), from.sid.as_deref()) {
            self.remember_signed_out(id, now).await?;
        }
        if !steps.is_empty() {
            let changes = Changes { steps, ..Changes::default() };
            self.store().commit(changes).await.map_err(|error| self.fault(error.into()))?;
        }
        let revoked = self.end_from(Door::UpstreamLogout, &from, None, &by).await?;
        let stamp = self.store().stamp().await?;
        let proof = Ticket {
            id: seen,
            kind: TicketKind::Proof,
            account: None,
            session: None,
            client: None,
            born: stamp.head,
            epoch: stamp.epoch,
            expires_at: stamp.now.plus(2 * LOGOUT_LIFE_S * 1000),
            body: "{}".into(),
            version: 1,
            used: None,
        };
        let changes = Changes { steps: vec![Change::InsertTicket(proof)], ..Changes::default() };
        match self.store().commit(changes).await {
            // In a conflict the same token was worked on twice at once.
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(revoked),
            Err(error) => Err(self.fault(error.into())),
        }
    }

    /// Keeps that somebody signed out there, for as long as a sign-in that began before may come back.
    async fn remember_signed_out(&self, id: Digest, now: Time) -> Result<(), AppError> {
        for _ in 0..MAX_TRIES {
            let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
            let stamp = self.store().stamp().await?;
            let before = view.as_ref().and_then(|view| view.ticket.read::<SignedOut>()).map_or(now.0, |out| out.at);
            let fresh = Ticket {
                id,
                kind: TicketKind::Upstream,
                account: None,
                session: None,
                client: None,
                born: stamp.head,
                epoch: stamp.epoch,
                expires_at: stamp.now.plus(LONGEST),
                body: Ticket::write(&SignedOut { at: before.max(now.0) }),
                version: 1,
                used: None,
            };
            let step = match view.map(|view| view.ticket.version) {
                Some(version) => Change::UpdateTicket(Ticket { version, ..fresh }),
                None => Change::InsertTicket(fresh),
            };
            match self.store().commit(Changes { steps: vec![step], ..Changes::default() }).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(_)) => {} // somebody else was told of the same at the same time
                Err(error) => return Err(self.fault(error.into())),
            }
        }
        Err(AppError::Overloaded)
    }

    /// Whether whoever comes from there signed out there since they left here. Of the person without a link, and of a session there that
    /// no session here came from yet, nothing else knows it.
    pub(super) async fn signed_out_since(&self, who: &Identity, begun: Begun) -> Result<bool, AppError> {
        for id in SignedOut::ids(&who.issuer, Some(&who.subject), who.sid.as_deref()) {
            let view = self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))?;
            if view.and_then(|view| view.ticket.read::<SignedOut>()).is_some_and(|out| out.stops(begun)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends every session that came from there, but one. The newest end.
    pub(super) async fn end_from(
        &self,
        door: Door,
        from: &CameFrom,
        except: Option<SessionId>,
        by: &By<'_>,
    ) -> Result<Option<Revoked>, AppError> {
        let (mut after, mut newest, mut ended) = (None, None, 0);
        loop {
            let page = self.store().list_sessions_from(from, after, AT_ONCE).await.map_err(|e| self.fault(e.into()))?;
            let Some((_, last)) = page.last().copied() else { break };
            after = Some(last);
            for (account, session) in page.into_iter().filter(|(_, session)| Some(*session) != except) {
                match self.end_session(door, session, Some(account), by, "", None).await {
                    Ok(revoked) => {
                        ended += revoked.ended.unwrap_or(0);
                        newest = Some(revoked);
                    }
                    Err(AppError::Refused(Refused::NotFound)) => {} // forgotten meanwhile
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(newest.map(|revoked| Revoked { ended: Some(ended), ..revoked }))
    }
}

pub(super) fn signed_out_meanwhile() -> AppError {
    let detail = "you signed out at the provider while this sign-in was under way; sign in again".into();
    Refused::Conflict { detail }.into()
}
