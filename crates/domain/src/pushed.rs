//! Pushed authorization requests (RFC 9126): a request that its client handed over before the browser came.
//!
//! The address that stands for it is loaded first within [`LIFE`]. A person then needs time to sign in, and the browser comes by
//! more than once meanwhile: whoever shows the server's own mark that it was loaded in time may load it until [`KEPT`] has passed
//! (RFC 9126 §4 allows reloads). It is used up by the commit that makes the code, so one push gives one code (I13).
use crate::authorize::{Asked, Objection, Request, check};
use crate::changes::{Change, Changes};
use crate::model::Client;
use crate::refused::{OAuthError, Refused};
use crate::ticket::{self, Ticket, TicketKind};
use crate::view::{ClientView, TicketView};
use crate::{Chance, Decision};
use alloc::{format, string::String, vec};
use portcullis_wire::{Digest, Millis, Time, b64};

/// What stands before the secret of a pushed request (RFC 9126 §2.2).
pub const URN: &str = "urn:ietf:params:oauth:request_uri:";
/// For how long a browser may come with it the first time, in milliseconds.
pub const LIFE: Millis = 90_000;
/// For how long a browser that came in time may come again, in milliseconds.
pub const KEPT: Millis = 20 * 60_000;
/// The longest request that is kept, in bytes of JSON.
pub const MAX_BODY: usize = 16 * 1024;

/// The id of the ticket behind an address of ours; `None` for any other address.
pub fn id_of(request_uri: &str) -> Option<Digest> {
    request_uri.strip_prefix(URN).map(|secret| ticket::id(TicketKind::Pushed, secret))
}

/// Checks the whole request, there and then (RFC 9126 §2.1), and keeps it. The answer is the address that stands for it.
pub fn push(view: &ClientView, request: &Request, chance: &mut dyn Chance) -> Decision<String> {
    let (client, stamp) = (&view.client, &view.stamp);
    if let Err(objection) = check(request, client, true) {
        return Decision::refuse(objection.into());
    }
    let body = Ticket::write(request);
    if body.len() > MAX_BODY {
        let detail = format!("the request has more than {MAX_BODY} bytes");
        return Decision::refuse(Refused::OAuth { error: OAuthError::InvalidRequest, detail });
    }
    let secret = b64::encode(&chance.secret());
    let ticket = Ticket {
        id: ticket::id(TicketKind::Pushed, &secret),
        kind: TicketKind::Pushed,
        account: None,
        session: None,
        client: Some(client.id),
        born: stamp.head,
        epoch: stamp.epoch,
        expires_at: stamp.now.plus(KEPT),
        body,
        version: 1,
        used: None,
    };
    let changes = Changes { steps: vec![Change::InsertTicket(ticket)], ..Changes::default() };
    Decision { outcome: Ok(format!("{URN}{secret}")), changes }
}

/// Loads a pushed request for `client`. `first_seen` is when the browser first came with it, if it can be proven.
///
/// # Errors
/// `invalid_request_uri`, or what [`check`] says when the client has changed meanwhile; for a page of ours in any case.
pub fn load(view: Option<&TicketView>, client: &Client, first_seen: Option<Time>) -> Result<Asked, Objection> {
    let gone =
        |detail: &str| Objection { error: OAuthError::InvalidRequestUri, detail: detail.into(), redirect_uri: None };
    let unknown = || gone("this request_uri is not known, was used, or is another client's");
    let TicketView { ticket, stamp, .. } = view.ok_or_else(unknown)?;
    if ticket.kind != TicketKind::Pushed || ticket.client != Some(client.id) || ticket.used.is_some() {
        return Err(unknown());
    }
    let in_time = stamp.now.min(first_seen.unwrap_or(stamp.now)) < ticket.expires_at.minus(KEPT - LIFE);
    if !ticket.is_open(stamp.epoch, stamp.now) || !in_time {
        return Err(gone("this request_uri has expired; go back to the application and begin again"));
    }
    if client.cut.kills_unborn(ticket.born) || stamp.all.kills_unborn(ticket.born) {
        return Err(unknown());
    }
    let request: Request = ticket.read().ok_or_else(unknown)?;
    let asked = check(&request, client, true).map_err(|objection| Objection { redirect_uri: None, ..objection })?;
    Ok(Asked { pushed: Some(ticket.id), ..asked })
}
