//! Verifier clients that were authenticated a moment ago, for the calls that come again and again: each renewal of each lease.
//!
//! 10^5 verifiers that renew every B/3 would ask the database 60,000 times a second for the same few rows. What is kept here counts
//! for a second, and not at all from when this node has read that the client was switched off: then its row is read again, until
//! that shows it on.
use super::Hub;
use crate::real;
use portcullis_domain::model::Client;
use portcullis_feed::Mono;
use portcullis_wire::{ClientId, Digest};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How long a row counts, from when its read began, in milliseconds.
const KEPT_MS: i64 = 1_000;
/// As many are kept; beyond that those that are old go, and then all.
const MOST: usize = 1_000;

/// The clients; see the [module](self).
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<BTreeMap<ClientId, (Client, Mono)>>);

impl Hub {
    /// The client, if its row was read within the last second, was on, and has this secret.
    pub(crate) fn recent_client(&self, id: ClientId, secret: &Digest) -> Option<Client> {
        let kept = self.inner.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (client, read) = kept.get(&id)?;
        let fits = client.secret.as_ref() == Some(secret) && real::mono().since(*read) < KEPT_MS;
        let client = fits.then(|| client.clone())?;
        drop(kept);
        (!self.state().closed_clients.contains_key(&id)).then_some(client)
    }

    /// A client whose row shows it to be on, by a read that began then.
    pub(crate) fn remember_client(&self, client: &Client, began: Mono) {
        let mut kept = self.inner.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.retain(|_, (_, read)| began.since(*read) < KEPT_MS);
            if kept.len() >= MOST {
                kept.clear();
            }
        }
        kept.insert(client.id, (client.clone(), began));
    }

    /// A client whose row was changed here: its next call reads it.
    pub(crate) fn forget_client(&self, id: ClientId) {
        self.inner.clients.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}
