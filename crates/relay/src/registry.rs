//! Whom the server knows. Verifiers below a relay are clients of the server; the relay asks it whether the credentials that it
//! is shown are right, and keeps a digest of them for a while.
//!
//! How long: [`FRESH_MS`] without another question, then with one in the background, and after [`KEPT_MS`], or B beyond the
//! former where that is longer, not at all. So an outage of the server finds the relay without freshness of its own (which
//! lasts B/2) before anybody is forgotten, and ends no lease earlier than that. A client that is switched off is told of by an entry in the log: what was
//! said about it counts no more with that entry.
//!
//! Strangers cost a question each, and there may be any number of them. So those whose credentials the server has confirmed once, positions, and
//! everybody else have turns of their own: a flood of the last finds none left, and stops none of the others.
use portcullis_app::real;
use portcullis_feed::Mono;
use portcullis_tower::following::{Known, Registrar};
use portcullis_wire::{ClientId, Digest, SecretString};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
/// Questions to the server at once: about those that it has known, about others, about positions; and how long one waits for its
/// turn.
const KNOWN_AT_ONCE: usize = 12;
const STRANGERS_AT_ONCE: usize = 12;
const POSITIONS_AT_ONCE: usize = 8;
const TURN: Duration = Duration::from_secs(2);
/// The longest secret, in bytes.
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
    /// When the question was asked that the server said yes to; `None`: that counts no more, and it is asked again.
    said: Option<Mono>,
    asking: bool,
}

/// What is to be done about credentials.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// They are right; `again`: ask about them in the background.
    Right { client: Client, again: bool },
    /// They were refused a moment ago.
    Wrong(Refused),
    /// Ask. The server has confirmed them before,
    Known,
    /// or it has not.
    Stranger,
}

/// Turns to ask the server.
#[derive(Clone)]
struct Turns {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    positions: Arc<Semaphore>,
}

/// A turn, when it comes in time.
async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refused> {
    let turn = tokio::time::timeout(TURN, of.clone().acquire_owned()).await;
    turn.ok().and_then(Result::ok).ok_or(Refused::Overloaded)
}

#[derive(Default)]
struct State {
    /// Digests are compared in constant time.
    kept: BTreeMap<ClientId, Kept>,
    refused: VecDeque<(Digest, Mono, Refused)>,
    /// Digests of positions that the server made.
    positions: VecDeque<Digest>,
    /// Raised with everything that counts no more: an answer to a question from before is not kept.
    forgotten: u64,
    /// B.
    bound_ms: i64,
}

impl State {
    /// How these credentials were refused a moment ago.
    fn refusal(&self, shown: Digest, now: Mono) -> Option<Refused> {
        let refused = |(digest, at, _): &&(Digest, Mono, Refused)| *digest == shown && now.since(*at) <= REFUSED_MS;
        self.refused.iter().find(refused).map(|(_, _, refused)| *refused)
    }
}

/// Whom the server knows; see the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    registrar: Registrar,
    state: Arc<Mutex<State>>,
    turns: Turns,
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
        let turns = Turns {
            known: Arc::new(Semaphore::new(KNOWN_AT_ONCE)),
            strangers: Arc::new(Semaphore::new(STRANGERS_AT_ONCE)),
            positions: Arc::new(Semaphore::new(POSITIONS_AT_ONCE)),
        };
        Self { registrar, state: Arc::default(), turns }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who this is.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn authenticate(&self, id: &str, secret: &SecretString) -> Result<Client, Refused> {
        // What has not the form of an id is nobody's, and no question.
        let named = id.parse::<ClientId>().ok().filter(|_| secret.expose().len() <= LONGEST);
        let named = named.ok_or(Refused::Wrong)?;
        let (client, again) = match self.look(named, digest(id, secret), real::mono()) {
            Look::Right { client, again } => (client, again),
            Look::Wrong(refused) => return Err(refused),
            Look::Known => return self.ask(named, secret, &self.turns.known).await,
            Look::Stranger => return self.ask(named, secret, &self.turns.strangers).await,
        };
        if again {
            let (registry, secret) = (self.clone(), secret.clone());
            tokio::spawn(async move {
                let asked = registry.ask(named, &secret, &registry.turns.known).await;
                if let Some(kept) = registry.state().kept.get_mut(&named) {
                    kept.asking = false;
                }
                tracing::debug!(client = %named, good = asked.is_ok(), "credentials were looked at again");
            });
        }
        Ok(client)
    }

    /// What is kept of these credentials.
    fn look(&self, named: ClientId, shown: Digest, now: Mono) -> Look {
        let mut state = self.state();
        let longest = KEPT_MS.max(FRESH_MS.saturating_add(state.bound_ms));
        let kept = state.kept.get_mut(&named).filter(|kept| kept.digest == shown);
        let is_known = kept.is_some();
        if let Some(kept) = kept
            && let Some(age) = kept.said.map(|said| now.since(said)).filter(|age| *age <= longest)
        {
            let again = age > FRESH_MS && !std::mem::replace(&mut kept.asking, age > FRESH_MS);
            return Look::Right { client: kept.client.clone(), again };
        }
        match state.refusal(shown, now) {
            Some(refused) => Look::Wrong(refused),
            None if is_known => Look::Known,
            None => Look::Stranger,
        }
    }

    async fn ask(&self, named: ClientId, secret: &SecretString, turns: &Arc<Semaphore>) -> Result<Client, Refused> {
        let id = &named.to_string();
        let shown = digest(id, secret);
        let asked = self.state().forgotten;
        let _turn = turn(turns).await?;
        // Somebody may have asked meanwhile.
        let is_fresh = |said: Mono| real::mono().since(said) <= FRESH_MS;
        let fresh = |kept: &&Kept| kept.digest == shown && kept.said.is_some_and(is_fresh);
        if let Some(kept) = self.state().kept.get(&named).filter(fresh) {
            return Ok(kept.client.clone());
        }
        if let Some(refused) = self.state().refusal(shown, real::mono()) {
            return Err(refused);
        }
        let at = real::mono(); // before the question: what is kept is as old as that
        let known = self.registrar.known(id, secret, None).await;
        let mut state = self.state();
        match known {
            Known::Yes { client, name, .. } => {
                let client = Client { id: client, name };
                if state.forgotten == asked {
                    if state.kept.len() >= MOST && !state.kept.contains_key(&named) {
                        let oldest = state.kept.iter().min_by_key(|(_, kept)| kept.said).map(|(id, _)| *id);
                        oldest.map(|id| state.kept.remove(&id));
                    }
                    let kept = Kept { digest: shown, client: client.clone(), said: Some(at), asking: false };
                    state.kept.insert(named, kept);
                }
                Ok(client)
            }
            Known::No | Known::Forbidden => {
                let refused = if known == Known::No { Refused::Wrong } else { Refused::Forbidden };
                // It stays among those that were known once, for it may be switched on again.
                let kept = state.kept.get_mut(&named).filter(|kept| kept.digest == shown);
                kept.into_iter().for_each(|kept| kept.said = None);
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

    /// Another number whenever somebody was forgotten.
    pub fn forgotten(&self) -> u64 {
        self.state().forgotten
    }

    /// Forgets what was said of a client: an end of it was committed, and it may be switched off.
    pub fn forget(&self, client: ClientId) {
        let mut state = self.state();
        state.kept.get_mut(&client).into_iter().for_each(|kept| kept.said = None);
        state.forgotten += 1;
    }

    /// Forgets what was said of everybody: what ends them may be in a snapshot, which does not say so.
    pub fn forget_all(&self) {
        let mut state = self.state();
        state.kept.values_mut().for_each(|kept| kept.said = None);
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
        let _turn = turn(&self.turns.positions).await?;
        self.vouches_now((id, secret), position).await
    }

    /// Passes a position on to the server in the background, for it may prove that the log was rolled back. Without a turn it is
    /// left: whoever holds it shows it again.
    pub fn passes_on(&self, id: String, secret: SecretString, position: String) {
        let Ok(turn) = self.turns.positions.clone().try_acquire_owned() else { return };
        let registry = self.clone();
        tokio::spawn(async move {
            let _ = registry.vouches_now((&id, &secret), &position).await;
            drop(turn);
        });
    }

    async fn vouches_now(&self, (id, secret): (&str, &SecretString), position: &str) -> Result<bool, Refused> {
        let shown = Digest::of(position.as_bytes());
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
    use portcullis_wire::b64;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const A: &str = "cli_00000000000000000000000007";

    /// A registry whose server does not answer.
    fn deaf() -> Registry {
        let config = Config::new("http://127.0.0.1:1", "x", "cli_x", "s");
        Registry::new(Registrar::of(&config).unwrap())
    }

    fn keep(registry: &Registry, secret: &SecretString, age: i64) -> Client {
        let id: ClientId = A.parse().unwrap();
        let client = Client { id, name: "orders".into() };
        let said = Some(real::mono().minus(age));
        let kept = Kept { digest: digest(A, secret), client: client.clone(), said, asking: false };
        registry.state().kept.insert(id, kept);
        client
    }

    #[tokio::test]
    async fn an_outage_is_outlived_for_a_while_and_then_nobody_is_let_in() {
        let (registry, secret) = (deaf(), SecretString::new("right"));
        assert_eq!(registry.authenticate(A, &secret).await, Err(Refused::Unavailable), "never seen");
        for age in [0, FRESH_MS + 1, KEPT_MS - 1_000] {
            let client = keep(&registry, &secret, age);
            assert_eq!(registry.authenticate(A, &secret).await, Ok(client), "{age}");
            // A wrong secret for a known id is asked about, and takes nobody's place.
            assert_eq!(registry.authenticate(A, &SecretString::new("no")).await, Err(Refused::Unavailable));
        }
        let client = keep(&registry, &secret, KEPT_MS + 1);
        registry.set_bound(600_000);
        assert_eq!(registry.authenticate(A, &secret).await, Ok(client), "the relay itself may still be fresh");
        registry.set_bound(5_000);
        assert_eq!(registry.authenticate(A, &secret).await, Err(Refused::Unavailable));
        let client = keep(&registry, &secret, 0);
        let before = registry.forgotten();
        registry.forget(client.id);
        assert!(registry.forgotten() > before);
        assert_eq!(registry.authenticate(A, &secret).await, Err(Refused::Unavailable), "forgotten");
    }

    #[tokio::test]
    async fn what_was_refused_while_a_turn_was_waited_for_is_not_asked_again() {
        let (registry, secret) = (deaf(), SecretString::new("wrong"));
        let all = u32::try_from(STRANGERS_AT_ONCE).unwrap();
        let taken = registry.turns.strangers.clone().acquire_many_owned(all).await.unwrap();
        let (asks, shown) = (registry.clone(), secret.clone());
        let waits = tokio::spawn(async move { asks.authenticate(A, &shown).await });
        tokio::task::yield_now().await;
        registry.state().refused.push_back((digest(A, &secret), real::mono(), Refused::Wrong));
        drop(taken);
        assert_eq!(waits.await.unwrap(), Err(Refused::Wrong), "the server, which does not answer, was asked");
    }

    #[tokio::test]
    async fn what_was_asked_before_a_client_was_forgotten_is_not_kept() {
        let (registry, secret) = (deaf(), SecretString::new("right"));
        assert!(digest("a", &SecretString::new("bc")) != digest("ab", &SecretString::new("c")));
        registry.state().refused.push_back((digest(A, &secret), real::mono(), Refused::Wrong));
        assert_eq!(registry.authenticate(A, &secret).await, Err(Refused::Wrong), "refused a moment ago");
        assert_eq!(registry.vouches((A, &secret), "1.2.x", false).await, Err(Refused::Unavailable));
        registry.state().positions.push_back(Digest::of(b"1.2.x"));
        assert_eq!(registry.vouches((A, &secret), "1.2.x", false).await, Ok(true));
        assert_eq!(registry.vouches((A, &secret), "1.2.x", true).await, Err(Refused::Unavailable), "asked anew");
        let all = u32::try_from(POSITIONS_AT_ONCE).unwrap();
        let _all = registry.turns.positions.clone().acquire_many_owned(all).await.unwrap();
        registry.passes_on(A.into(), secret.clone(), "1.3.x".into()); // left, and nobody waits
        assert_eq!(registry.vouches((A, &secret), "1.3.x", true).await, Err(Refused::Overloaded));
        assert_eq!(registry.authenticate(A, &SecretString::new("no")).await, Err(Refused::Unavailable), "asked about");
    }

    /// A server that knows the secret `right` and never answers about another one; it counts questions and connections.
    async fn picky() -> (Registry, Arc<[AtomicUsize; 2]>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()), "x", "cli_x", "s");
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = counts.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted[1].fetch_add(1, Ordering::Relaxed);
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut head).await {
                        counted[0].fetch_add(1, Ordering::Relaxed);
                        let right = format!("Basic {}", b64::encode(format!("{A}:right").as_bytes()));
                        if !std::str::from_utf8(&head[..read]).unwrap().contains(&right) {
                            std::future::pending::<()>().await;
                        }
                        let body = format!(r#"{{"client_id":"{A}","name":"orders","position":false}}"#);
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        stream.write_all((head + &body).as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (Registry::new(Registrar::of(&config).unwrap()), counts)
    }

    #[tokio::test]
    async fn a_flood_of_strangers_stops_nobody_whom_the_server_has_known() {
        let (registry, counts) = picky().await;
        let count = |which: usize| counts[which].load(Ordering::Relaxed);
        let right = SecretString::new("right");
        for id in ["", "x", "cli_x", "cli_unknown", &A[..A.len() - 1], "acc_00000000000000000000000007"] {
            assert_eq!(registry.authenticate(id, &right).await, Err(Refused::Wrong), "{id}");
        }
        assert_eq!(registry.authenticate(A, &SecretString::new("x".repeat(LONGEST + 1))).await, Err(Refused::Wrong));
        assert_eq!(count(0), 0, "what is no id is no question");
        let client = registry.authenticate(A, &right).await.unwrap();
        for n in 0..400_u32 {
            let (registry, wrong) = (registry.clone(), SecretString::new(format!("wrong {n}")));
            let id = if n % 2 == 0 { A.to_owned() } else { ClientId::from_bits(u128::from(n)).to_string() };
            tokio::spawn(async move { registry.authenticate(&id, &wrong).await });
        }
        while registry.turns.strangers.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let connections = count(1);
        for _ in 0..50 {
            // Each time the relay has to ask anew, as after a snapshot.
            registry.forget_all();
            assert_eq!(registry.authenticate(A, &right).await.as_ref(), Ok(&client));
        }
        assert!(count(0) >= 51);
        assert!(count(1) <= connections + STRANGERS_AT_ONCE + 1, "a connection serves again");
        assert_eq!(registry.authenticate(A, &SecretString::new("new")).await, Err(Refused::Overloaded), "a stranger");
    }
}
