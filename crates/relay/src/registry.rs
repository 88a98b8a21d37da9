//! Whom the server knows. Verifiers below a relay are clients of the server; the relay asks it whether the credentials that it
//! is shown are right, and keeps a digest of them for a while.
//!
//! How long: [`FRESH_MS`] without another question, then with one in the background, and after [`KEPT_MS`], or B beyond the
//! former where that is longer, not at all. So an outage of the server finds the relay without freshness of its own (which
//! lasts B/2) before anybody is forgotten, and ends no lease earlier than that. A client that is switched off is told of by an entry in the log: it is forgotten with that entry.
use portcullis_app::real;
use portcullis_feed::Mono;
use portcullis_tower::following::{Known, Registrar};
use portcullis_wire::{ClientId, Digest, SecretString};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// For so long an answer of the server's serves without another question.
pub const FRESH_MS: i64 = 30_000;
/// For so long it serves at all.
pub const KEPT_MS: i64 = 120_000;
/// For so long a refusal serves.
const REFUSED_MS: i64 = 5_000;
/// Credentials, refusals and positions that are kept.
const MOST: usize = 10_000;
const REFUSALS: usize = 1_024;
const POSITIONS: usize = 256;
/// Questions to the server at once, and how long one waits for its turn.
const AT_ONCE: usize = 32;
const TURN: Duration = Duration::from_secs(2);
/// The longest id and secret, in bytes.
const LONGEST: usize = 256;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Unknown, wrong, or switched off.
    Wrong,
    /// A client of another kind.
    Forbidden,
    /// The server does not say.
    Unavailable,
    /// Too many others are asked about.
    Overloaded,
}

/// A client that the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// Its name.
    pub name: String,
}

struct Kept {
    digest: Digest,
    client: Client,
    at: Mono,
    asking: bool,
}

#[derive(Default)]
struct State {
    /// By the id that was shown, which is no secret; digests are compared in constant time.
    kept: BTreeMap<String, Kept>,
    refused: VecDeque<(Digest, Mono, Refused)>,
    /// Digests of positions that the server made.
    positions: VecDeque<Digest>,
    /// Raised with everything that is forgotten: an answer to a question from before is not kept.
    forgotten: u64,
    /// B.
    bound_ms: i64,
}

/// Whom the server knows; see the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    registrar: Registrar,
    state: Arc<Mutex<State>>,
    turns: Arc<Semaphore>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

fn digest(id: &str, secret: &SecretString) -> Digest {
    // Both halves by their own digest: no pair can be cut in two ways.
    Digest::of(&[Digest::of(id.as_bytes()).0, secret.digest().0].concat())
}

impl Registry {
    /// Nobody known yet.
    pub fn new(registrar: Registrar) -> Self {
        Self { registrar, state: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who this is.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn authenticate(&self, id: &str, secret: &SecretString) -> Result<Client, Refused> {
        if id.is_empty() || id.len() > LONGEST || secret.expose().len() > LONGEST {
            return Err(Refused::Wrong);
        }
        let shown = digest(id, secret);
        let (client, again) = match self.look(id, shown, real::mono()) {
            Some(Ok(found)) => found,
            Some(Err(refused)) => return Err(refused),
            None => return self.ask(id, secret).await,
        };
        if again {
            let (registry, id, secret) = (self.clone(), id.to_owned(), secret.clone());
            tokio::spawn(async move {
                let asked = registry.ask(&id, &secret).await;
                if let Some(kept) = registry.state().kept.get_mut(&id) {
                    kept.asking = false;
                }
                tracing::debug!(client = %id, good = asked.is_ok(), "credentials were looked at again");
            });
        }
        Ok(client)
    }

    /// What is kept of these credentials, and whether to ask about them again.
    fn look(&self, id: &str, shown: Digest, now: Mono) -> Option<Result<(Client, bool), Refused>> {
        let mut state = self.state();
        let bound_ms = state.bound_ms;
        if let Some(kept) = state.kept.get_mut(id).filter(|kept| kept.digest == shown) {
            let age = now.since(kept.at);
            if age <= KEPT_MS.max(FRESH_MS.saturating_add(bound_ms)) {
                let again = age > FRESH_MS && !std::mem::replace(&mut kept.asking, age > FRESH_MS);
                return Some(Ok((kept.client.clone(), again)));
            }
        }
        let known = |(digest, at, _): &&(Digest, Mono, Refused)| *digest == shown && now.since(*at) <= REFUSED_MS;
        state.refused.iter().find(known).map(|(_, _, refused)| Err(*refused))
    }

    async fn ask(&self, id: &str, secret: &SecretString) -> Result<Client, Refused> {
        let shown = digest(id, secret);
        let asked = self.state().forgotten;
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refused::Overloaded) };
        // Somebody may have asked meanwhile.
        let fresh = |kept: &&Kept| kept.digest == shown && real::mono().since(kept.at) <= FRESH_MS;
        if let Some(kept) = self.state().kept.get(id).filter(fresh) {
            return Ok(kept.client.clone());
        }
        let at = real::mono(); // before the question: what is kept is as old as that
        let known = self.registrar.known(id, secret, None).await;
        let mut state = self.state();
        match known {
            Known::Yes { client, name, .. } => {
                let client = Client { id: client, name };
                if state.forgotten == asked {
                    if state.kept.len() >= MOST && !state.kept.contains_key(id) {
                        let oldest = state.kept.iter().min_by_key(|(_, kept)| kept.at).map(|(id, _)| id.clone());
                        oldest.map(|id| state.kept.remove(&id));
                    }
                    let kept = Kept { digest: shown, client: client.clone(), at, asking: false };
                    state.kept.insert(id.to_owned(), kept);
                }
                Ok(client)
            }
            Known::No | Known::Forbidden => {
                let refused = if known == Known::No { Refused::Wrong } else { Refused::Forbidden };
                if state.kept.get(id).is_some_and(|kept| kept.digest == shown) {
                    state.kept.remove(id);
                }
                if state.refused.len() >= REFUSALS {
                    state.refused.pop_front();
                }
                state.refused.push_back((shown, at, refused));
                Err(refused)
            }
            Known::NotSaid(why) => {
                tracing::warn!(%why, "the server does not say whether it knows a client");
                Err(Refused::Unavailable)
            }
        }
    }

    /// B, as it is told to verifiers.
    pub fn set_bound(&self, bound_ms: i64) {
        self.state().bound_ms = bound_ms;
    }

    /// Whether the server can be asked at once.
    pub fn has_turn(&self) -> bool {
        self.turns.available_permits() > 0
    }

    /// Another number whenever somebody was forgotten.
    pub fn forgotten(&self) -> u64 {
        self.state().forgotten
    }

    /// Forgets a client: an end of it was committed, and it may be switched off.
    pub fn forget(&self, client: ClientId) {
        let mut state = self.state();
        state.kept.retain(|_, kept| kept.client.id != client);
        state.forgotten += 1;
    }

    /// Forgets everybody: what ends them may be in a snapshot, which does not say so.
    pub fn forget_all(&self) {
        let mut state = self.state();
        state.kept.clear();
        state.forgotten += 1;
    }

    /// Whether the server made this position. `anew`: it is asked whatever it said before, for this one may prove that the log
    /// was rolled back.
    ///
    /// # Errors
    /// [`Refused`]: it does not say, which is what a server says that was rolled back.
    pub async fn vouches(
        &self,
        (id, secret): (&str, &SecretString),
        position: &str,
        anew: bool,
    ) -> Result<bool, Refused> {
        let shown = Digest::of(position.as_bytes());
        if !anew && self.state().positions.contains(&shown) {
            return Ok(true);
        }
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refused::Overloaded) };
        match self.registrar.known(id, secret, Some(position)).await {
            Known::Yes { position: false, .. } => Ok(false),
            Known::Yes { .. } => {
                let mut state = self.state();
                if state.positions.len() >= POSITIONS {
                    state.positions.pop_front();
                }
                state.positions.push_back(shown);
                Ok(true)
            }
            Known::No => Err(Refused::Wrong),
            Known::Forbidden => Err(Refused::Forbidden),
            Known::NotSaid(why) => {
                tracing::warn!(%why, "the server does not vouch for a position");
                Err(Refused::Unavailable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_tower::Config;

    /// A registry whose server does not answer.
    fn deaf() -> Registry {
        let config = Config::new("http://127.0.0.1:1", "x", "cli_x", "s");
        Registry::new(Registrar::of(&config).unwrap())
    }

    fn keep(registry: &Registry, id: &str, secret: &SecretString, age: i64) -> Client {
        let client = Client { id: ClientId::from_bits(7), name: "orders".into() };
        let at = real::mono().minus(age);
        let kept = Kept { digest: digest(id, secret), client: client.clone(), at, asking: false };
        registry.state().kept.insert(id.into(), kept);
        client
    }

    #[tokio::test]
    async fn an_outage_is_outlived_for_a_while_and_then_nobody_is_let_in() {
        let (registry, secret) = (deaf(), SecretString::new("right"));
        assert_eq!(registry.authenticate("cli_a", &secret).await, Err(Refused::Unavailable), "never seen");
        for age in [0, FRESH_MS + 1, KEPT_MS - 1_000] {
            let client = keep(&registry, "cli_a", &secret, age);
            assert_eq!(registry.authenticate("cli_a", &secret).await, Ok(client), "{age}");
            // A wrong secret for a known id is asked about, and takes nobody's place.
            assert_eq!(registry.authenticate("cli_a", &SecretString::new("no")).await, Err(Refused::Unavailable));
        }
        let client = keep(&registry, "cli_a", &secret, KEPT_MS + 1);
        registry.set_bound(600_000);
        assert_eq!(registry.authenticate("cli_a", &secret).await, Ok(client), "the relay itself may still be fresh");
        registry.set_bound(5_000);
        assert_eq!(registry.authenticate("cli_a", &secret).await, Err(Refused::Unavailable));
        let client = keep(&registry, "cli_a", &secret, 0);
        let before = registry.forgotten();
        registry.forget(client.id);
        assert!(registry.forgotten() > before);
        assert_eq!(registry.authenticate("cli_a", &secret).await, Err(Refused::Unavailable), "forgotten");
        let long = SecretString::new("x".repeat(LONGEST + 1));
        assert_eq!(registry.authenticate("cli_a", &long).await, Err(Refused::Wrong));
        assert_eq!(registry.authenticate("", &secret).await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn what_was_asked_before_a_client_was_forgotten_is_not_kept() {
        let (registry, secret) = (deaf(), SecretString::new("right"));
        assert!(digest("a", &SecretString::new("bc")) != digest("ab", &SecretString::new("c")));
        registry.state().refused.push_back((digest("cli_a", &secret), real::mono(), Refused::Wrong));
        assert_eq!(registry.authenticate("cli_a", &secret).await, Err(Refused::Wrong), "refused a moment ago");
        assert_eq!(registry.vouches(("cli_a", &secret), "1.2.x", false).await, Err(Refused::Unavailable));
        registry.state().positions.push_back(Digest::of(b"1.2.x"));
        assert_eq!(registry.vouches(("cli_a", &secret), "1.2.x", false).await, Ok(true));
        assert_eq!(registry.vouches(("cli_a", &secret), "1.2.x", true).await, Err(Refused::Unavailable), "asked anew");
        let _all = registry.turns.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        assert!(!registry.has_turn());
        assert_eq!(registry.vouches(("cli_a", &secret), "1.3.x", true).await, Err(Refused::Overloaded));
    }
}
