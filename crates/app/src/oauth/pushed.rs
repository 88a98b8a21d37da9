//! Requests that clients push before the browser comes (RFC 9126).
use super::{Known, keeps_pace};
use crate::{Acted, App, AppError};
use portcullis_domain::authorize::{Asked, Objection, Request};
use portcullis_domain::model::Client;
use portcullis_domain::view::TicketView;
use portcullis_domain::{Refused, pushed};
use portcullis_wire::{Digest, Time};
use std::net::IpAddr;

impl App {
    /// Checks and keeps a request; the address that stands for it.
    ///
    /// # Errors
    /// As the authorization endpoint would object, in OAuth's words; [`AppError::TooOften`] (RFC 9126 §2.3); faults.
    pub async fn push_request(&self, known: &Known, request: &Request, ip: Option<IpAddr>) -> Result<String, AppError> {
        let client = known.client.id;
        if known.is_stranger() {
            keeps_pace(&self.inner.paces.pushed, ip)?;
        }
        let load = || async {
            let view = self.store().load_client(client).await.map_err(|e| self.fault(e.into()))?;
            view.ok_or_else(|| Refused::NotFound.into())
        };
        match self.act("", None, load, |view, chance| pushed::push(view, request, chance)).await? {
            Acted::Done(address, _) | Acted::Answered(address) => Ok(address),
            Acted::Before(_) => Err(AppError::Fault("a pushed request has no repeat key".into())),
        }
    }

    /// The request behind an address of ours, for this client; or what is wrong with it. `first_seen`: when the browser first
    /// came with it, if that is proven.
    ///
    /// # Errors
    /// Faults.
    pub async fn pushed_request(
        &self,
        client: &Client,
        id: Digest,
        first_seen: Option<Time>,
    ) -> Result<Result<Asked, Objection>, AppError> {
        let view = self.pushed_ticket(id).await?;
        Ok(pushed::load(view.as_ref(), client, first_seen))
    }

    pub(super) async fn pushed_ticket(&self, id: Digest) -> Result<Option<TicketView>, AppError> {
        self.store().load_ticket(id).await.map_err(|e| self.fault(e.into()))
    }
}
