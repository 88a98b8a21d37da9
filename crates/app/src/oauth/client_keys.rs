//! Keys that stand at an address of their client (`jwks_uri`), by `domain::client_keys`: fetched when an assertion needs them, kept
//! in memory, by each node for itself.
//!
//! One call at a time goes to an address, and whoever needs its answer waits for that one; who holds keys that count meanwhile waits
//! for nobody. There are at most [`MAX_KEPT`] addresses here, [`AT_ONCE`] calls, and [`MAX_WAITING`] who wait for one. Clients that
//! registered themselves have places of their own, and are forgotten first: they keep nobody else waiting.
use crate::{App, AppError, real};
use portcullis_domain::client_keys::{self, Line, Spans, Standing, Step};
use portcullis_domain::model::Client;
use portcullis_wire::jwk::PublicKey;
use portcullis_wire::{ClientId, Code};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many clients' keys are kept; of more, those that were used least lately are forgotten.
const MAX_KEPT: usize = 1024;
/// How many addresses are called at once, sector identifiers included; and besides them those of strangers.
const AT_ONCE: usize = 48;
const FOR_STRANGERS: usize = 16;
/// How many may wait for one address; more are told to come again.
const MAX_WAITING: usize = 32;

/// All of them.
#[derive(Debug)]
pub(crate) struct ClientKeys {
    kept: Mutex<BTreeMap<ClientId, Kept>>,
    /// Places among those who call.
    calls: Semaphore,
    calls_for_strangers: Semaphore,
}

#[derive(Debug)]
struct Kept {
    address: Arc<Address>,
    stranger: bool,
    used: i64,
}

/// What is known of one address.
#[derive(Debug)]
struct Address {
    uri: String,
    known: Mutex<Known>,
    turn: Arc<tokio::sync::Mutex<()>>,
    waiting: Semaphore,
}

#[derive(Debug, Clone, Default)]
struct Known {
    standing: Standing,
    keys: Arc<Vec<PublicKey>>,
}

impl Default for ClientKeys {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            calls: Semaphore::new(AT_ONCE),
            calls_for_strangers: Semaphore::new(FOR_STRANGERS),
        }
    }
}

/// What is behind these locks is whole after every statement, so a panic of another holder changes nothing.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientKeys {
    /// A place among those who call an address, for a client that nobody vouches for or for any other.
    ///
    /// # Errors
    /// Overloaded: others have all of them.
    pub(super) fn place(&self, stranger: bool) -> Result<SemaphorePermit<'_>, AppError> {
        let places = if stranger { &self.calls_for_strangers } else { &self.calls };
        places.try_acquire().map_err(|_| AppError::Overloaded)
    }

    fn of(&self, client: ClientId, uri: &str, stranger: bool) -> Arc<Address> {
        let (mut kept, now) = (locked(&self.kept), real::mono().0);
        if let Some(known) = kept.get_mut(&client).filter(|known| known.address.uri == uri) {
            (known.used, known.stranger) = (now, stranger);
            return known.address.clone();
        }
        if kept.len() >= MAX_KEPT && !kept.contains_key(&client) {
            let oldest = kept.iter().min_by_key(|(_, known)| (!known.stranger, known.used)).map(|(id, _)| *id);
            oldest.and_then(|id| kept.remove(&id));
        }
        let address = Arc::new(Address {
            uri: uri.to_owned(),
            known: Mutex::default(),
            turn: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING),
        });
        kept.insert(client, Kept { address: address.clone(), stranger, used: now });
        address
    }
}

impl Address {
    fn step(&self, spans: &Spans, signed: &impl Fn(&[PublicKey]) -> bool, line: Line) -> Step {
        let known = locked(&self.known).clone();
        known.standing.step(spans, signed(&known.keys), line, real::mono().0)
    }
}

impl App {
    /// Whether one of the keys at this client's address counts: `signed` says whether one of those it is given has signed.
    ///
    /// # Errors
    /// 503 while the address fails and nothing that was there counts any more; overloaded.
    pub(super) async fn is_signed_by_keys_at(
        &self,
        client: &Client,
        uri: &str,
        signed: impl Fn(&[PublicKey]) -> bool,
    ) -> Result<bool, AppError> {
        let (id, stranger) = (client.id, client.profile.is_stranger());
        let (address, spans) = (self.inner.client_keys.of(id, uri, stranger), &self.settings().clients.keys);
        let line = if address.turn.try_lock().is_err() { Line::Busy } else { Line::Free };
        if address.step(spans, &signed, line) == Step::Use {
            return Ok(true);
        }
        let _place = address.waiting.try_acquire().map_err(|_| AppError::Overloaded)?;
        let turn = address.turn.clone().lock_owned().await;
        // Somebody may have fetched them meanwhile.
        let step = match address.step(spans, &signed, Line::Free) {
            Step::Fetch => {
                let (app, fetched) = (self.clone(), address.clone());
                // To its end, also when who asked has gone: else a garbage call that hangs up would count as a failure.
                let work = async move {
                    let _turn = turn;
                    app.fetch_keys(id, stranger, &fetched).await
                };
                match self.to_its_end(work).await {
                    // Others hold all the places: what was there last goes on, as when the address fails.
                    Err(AppError::Overloaded) if address.step(spans, &signed, Line::Full) == Step::Use => Step::Use,
                    fetched => {
                        fetched?;
                        address.step(spans, &signed, Line::Free)
                    }
                }
            }
            step => step,
        };
        match step {
            Step::Use => Ok(true),
            Step::Unknown => Ok(false),
            Step::Fetch | Step::Unavailable => {
                let detail = "the client's keys could not be fetched from its jwks_uri; repeat the call later".into();
                Err(AppError::Bad(Code::Unavailable, detail))
            }
        }
    }

    async fn fetch_keys(&self, client: ClientId, stranger: bool, address: &Address) -> Result<(), AppError> {
        let _place = self.inner.client_keys.place(stranger)?;
        {
            let mut known = locked(&address.known);
            known.standing = known.standing.trying(real::mono().0);
        }
        let fetched = match self.outgoing().get_json(&address.uri, client_keys::MAX_DOCUMENT).await {
            Ok(answer) if answer.status == 200 => client_keys::read(&answer.body).map_err(str::to_owned),
            Ok(answer) => Err(format!("answered {}", answer.status)),
            Err(error) => Err(error.to_string()),
        };
        let mut known = locked(&address.known);
        known.standing = known.standing.tried(fetched.is_ok(), real::mono().0);
        match fetched {
            Ok(keys) => known.keys = Arc::new(keys),
            Err(why) => tracing::warn!(%client, why, "the keys at a client's jwks_uri could not be fetched"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_addresses_are_kept_as_may_be() {
        let keys = ClientKeys::default();
        let first = keys.of(ClientId::from_bits(0), "https://a.example/", false);
        for n in 1..3 * MAX_KEPT as u128 {
            keys.of(ClientId::from_bits(n), "https://a.example/", false);
            // Who is in use stays.
            locked(&keys.kept).get_mut(&ClientId::from_bits(0)).unwrap().used = i64::MAX;
        }
        assert_eq!(locked(&keys.kept).len(), MAX_KEPT);
        assert!(Arc::ptr_eq(&first, &keys.of(ClientId::from_bits(0), "https://a.example/", false)));
        assert!(!Arc::ptr_eq(&first, &keys.of(ClientId::from_bits(0), "https://b.example/", false)), "another address");
        assert_eq!(locked(&keys.kept).len(), MAX_KEPT);
    }

    #[test]
    fn strangers_are_forgotten_first_and_keep_nobody_waiting() {
        let keys = ClientKeys::default();
        let first = keys.of(ClientId::from_bits(0), "https://a.example/", false);
        locked(&keys.kept).get_mut(&ClientId::from_bits(0)).unwrap().used = i64::MIN;
        for n in 1..3 * MAX_KEPT as u128 {
            keys.of(ClientId::from_bits(n), "https://s.example/", true);
        }
        assert!(Arc::ptr_eq(&first, &keys.of(ClientId::from_bits(0), "https://a.example/", false)));
        let held: Vec<_> = std::iter::from_fn(|| keys.place(true).ok()).collect();
        assert_eq!(held.len(), FOR_STRANGERS);
        let others: Vec<_> = std::iter::from_fn(|| keys.place(false).ok()).collect();
        assert_eq!(others.len(), AT_ONCE);
        assert!(keys.place(false).is_err());
        drop(held);
        assert!(keys.place(true).is_ok() && keys.place(false).is_err());
    }
}
