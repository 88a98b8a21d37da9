//! Logout by an application (OpenID Connect RP-Initiated Logout 1.0), without its pages.
use crate::{App, AppError, Caller, Revoked};
use portcullis_domain::event::Actor;
use portcullis_domain::kernel::{By, Door};
use portcullis_domain::logout;
use portcullis_domain::model::Client;
use portcullis_wire::{ClientId, SessionId};
use std::collections::BTreeMap;

/// How many grants of an account are looked at, and how many clients a browser loads something of.
const MAX_GRANTS: u32 = 1000;
const MAX_FRAMES: usize = 50;

impl App {
    /// The client with this id, by its text.
    pub async fn client_named(&self, id: &str) -> Result<Option<Client>, AppError> {
        self.client_by_text(id).await
    }

    /// Ends the session of a browser because an application says so.
    pub async fn sign_out_by_application(&self, caller: &Caller) -> Result<Revoked, AppError> {
        // As with a sign-out, a session that ends itself needs no other proof of life.
        let by = By { actor: Actor::System, role: None, ip: caller.ip, reason: None };
        let (session, account) = (caller.view.session.id, caller.view.account.id);
        self.end_session(Door::RpLogout, session, Some(account), &by, &caller.actor().text(), None).await
    }

    /// Whether a session is this browser's: its own, or one of an application that was allowed in it.
    pub async fn is_of_browser(&self, session: SessionId, caller: &Caller) -> Result<bool, AppError> {
        let own = &caller.view.session;
        if session == own.id {
            return Ok(true);
        }
        let view = self.store().load_session(session).await.map_err(|e| self.fault(e.into()))?;
        Ok(view.is_some_and(|view| view.session.account == own.account && view.session.allowed_in == Some(own.id)))
    }

    /// What the browser loads of the clients that have something under its session, or whose own was allowed in it, once that has
    /// ended (OpenID Connect Front-Channel Logout §3). Asked before the end.
    pub async fn frames_of(&self, caller: &Caller) -> Result<Vec<String>, AppError> {
        let (session, account) = (caller.view.session.id, caller.view.account.id);
        let grants = self.store().list_grants(account, None, MAX_GRANTS).await.map_err(|e| self.fault(e.into()))?;
        let here = grants.iter().filter(|view| view.session.id == session || view.session.allowed_in == Some(session));
        let mut clients: BTreeMap<ClientId, Vec<SessionId>> = BTreeMap::new();
        for view in here.filter(|view| view.grant.client != ClientId::FIRST_PARTY) {
            clients.entry(view.grant.client).or_default().push(view.session.id);
        }
        let mut frames = Vec::new();
        for (id, mut sessions) in clients {
            let Some(view) = self.store().load_client(id).await.map_err(|e| self.fault(e.into()))? else { continue };
            // The browser's own first; then the newest.
            sessions.sort_by_key(|one| *one != session);
            sessions.dedup();
            let frame = |one: &SessionId| logout::frame(&view.client, &self.settings().rules.issuer, *one);
            frames.push(sessions.iter().filter_map(frame).collect());
        }
        Ok(logout::frames(&frames, MAX_FRAMES))
    }
}
