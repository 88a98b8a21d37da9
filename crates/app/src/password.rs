//! The password pool: Argon2id on threads of its own, a bounded queue before it, reused memory in it.
//!
//! A flood of sign-ins queues here and then meets 503, instead of taking the cores and memory that refreshes need. Every
//! check computes one hash, also when there is nothing to compare with, so that time tells nothing (I15).
use crate::real;
use crate::settings::Hashing;
use argon2::password_hash::{PasswordHash, Salt, SaltString};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher as _, Version};
use portcullis_wire::SecretString;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// After so long without work a thread gives its memory back.
const KEEP_MEMORY: Duration = Duration::from_secs(20);

/// The largest hash that is computed for a stored PHC string, in KiB: a row must not be able to take all memory.
const MAX_STORED_KIB: u32 = 1 << 20;

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// The queue is full.
    Overloaded,
    /// The pool is shutting down, or a parameter is impossible.
    Failed,
}

enum Job {
    Hash(SecretString, oneshot::Sender<Option<String>>),
    Check { password: SecretString, phc: Option<String>, reply: oneshot::Sender<bool> },
}

/// The pool. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    send: SyncSender<Job>,
    computed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("computed", &self.computed).finish_non_exhaustive()
    }
}

impl Passwords {
    /// Starts the threads. `None` when Argon2 does not accept the parameters.
    pub fn start(hashing: Hashing) -> Option<Self> {
        let params = Params::new(hashing.memory_kib, hashing.passes, hashing.lanes, Some(32)).ok()?;
        let (send, receive) = sync_channel::<Job>(hashing.queue.max(1));
        let receive = Arc::new(Mutex::new(receive));
        let computed = Arc::new(AtomicU64::new(0));
        for n in 0..hashing.threads.max(1) {
            let (receive, params, computed) = (receive.clone(), params.clone(), computed.clone());
            let thread = std::thread::Builder::new().name(format!("password-{n}"));
            thread.spawn(move || work(&receive, &params, &computed)).ok()?;
        }
        Some(Self { send, computed, refused: Arc::default() })
    }

    /// How many hashes were computed, and how many were refused for a full queue.
    pub fn counts(&self) -> (u64, u64) {
        (self.computed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    fn submit(&self, job: Job) -> Result<(), PoolError> {
        self.send.try_send(job).map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            PoolError::Overloaded
        })
    }

    /// The PHC string of a new password.
    pub async fn hash(&self, password: SecretString) -> Result<String, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Hash(password, reply))?;
        answer.await.ok().flatten().ok_or(PoolError::Failed)
    }

    /// Whether `password` is the one of `phc`. Without a `phc` one hash is computed all the same, and the answer is no.
    pub async fn check(&self, password: SecretString, phc: Option<String>) -> Result<bool, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Check { password, phc, reply })?;
        answer.await.map_err(|_| PoolError::Failed)
    }
}

/// A thread's life: one job after the other, its memory kept while there is work.
fn work(receive: &Mutex<Receiver<Job>>, params: &Params, computed: &AtomicU64) {
    let mut memory: Vec<Block> = Vec::new();
    loop {
        let job = {
            let Ok(receive) = receive.lock() else { return };
            receive.recv_timeout(KEEP_MEMORY)
        };
        match job {
            Ok(Job::Hash(password, reply)) => {
                computed.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(hash(&password, params));
            }
            Ok(Job::Check { password, phc, reply }) => {
                computed.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(check(&password, phc.as_deref(), params, &mut memory));
            }
            Err(RecvTimeoutError::Timeout) => memory = Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn hash(password: &SecretString, params: &Params) -> Option<String> {
    let mut salt = [0; 16];
    real::fill(&mut salt);
    let salt = SaltString::encode_b64(&salt).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    argon.hash_password(password.expose().as_bytes(), &salt).ok().map(|hash| hash.to_string())
}

/// Computes exactly one hash and compares in constant time.
fn check(password: &SecretString, phc: Option<&str>, params: &Params, memory: &mut Vec<Block>) -> bool {
    let parsed = phc.and_then(|phc| PasswordHash::new(phc).ok());
    let stored = parsed.as_ref().and_then(|hash| {
        let params = Params::try_from(hash).ok().filter(|p| p.m_cost() <= MAX_STORED_KIB)?;
        let algorithm = Algorithm::try_from(hash.algorithm).ok()?;
        let version = hash.version.map_or(Ok(Version::V0x13), Version::try_from).ok()?;
        let mut salt = [0u8; Salt::MAX_LENGTH];
        let salt = hash.salt?.decode_b64(&mut salt).ok()?.to_vec();
        Some((Argon2::new(algorithm, version, params.clone()), params, salt, hash.hash?))
    });
    let (argon, params, salt, expected) = match stored {
        Some((argon, params, salt, expected)) => (argon, params, salt, Some(expected)),
        None => (Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone()), params.clone(), vec![0; 16], None),
    };
    memory.resize(params.block_count(), Block::default());
    let mut out = vec![0; expected.map_or(32, |e| e.len())];
    let computed = argon.hash_password_into_with_memory(password.expose().as_bytes(), &salt, &mut out, &mut memory[..]);
    match expected {
        // `Output` compares in constant time.
        Some(expected) if computed.is_ok() => argon2::password_hash::Output::new(&out).is_ok_and(|out| out == expected),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Hashing {
        Hashing { memory_kib: 64, passes: 1, lanes: 1, threads: 1, queue: 4 }
    }

    #[tokio::test]
    async fn right_wrong_and_unknown_cost_one_hash_each() {
        let pool = Passwords::start(tiny()).unwrap();
        let secret = || SecretString::new("correct horse");
        let phc = pool.hash(secret()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        let before = pool.counts().0;
        assert!(pool.check(secret(), Some(phc.clone())).await.unwrap());
        assert!(!pool.check(SecretString::new("wrong"), Some(phc)).await.unwrap());
        assert!(!pool.check(secret(), None).await.unwrap());
        assert!(!pool.check(secret(), Some("no hash".into())).await.unwrap());
        assert_eq!(pool.counts().0 - before, 4);
    }

    #[tokio::test]
    async fn other_parameters_of_a_stored_hash_are_honoured() {
        let pool = Passwords::start(tiny()).unwrap();
        let other = Passwords::start(Hashing { memory_kib: 128, passes: 2, ..tiny() }).unwrap();
        let phc = other.hash(SecretString::new("correct horse")).await.unwrap();
        assert!(pool.check(SecretString::new("correct horse"), Some(phc)).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let pool = Passwords::start(Hashing { memory_kib: 16_384, passes: 8, ..tiny() }).unwrap();
        let jobs: Vec<_> = (0..40)
            .map(|_| {
                tokio::spawn({
                    let pool = pool.clone();
                    async move { pool.check(SecretString::new("x"), None).await }
                })
            })
            .collect();
        let mut refused = 0;
        for job in jobs {
            refused += u32::from(job.await.unwrap() == Err(PoolError::Overloaded));
        }
        assert!(refused > 0);
        assert_eq!(u64::from(refused), pool.counts().1);
    }

    #[test]
    fn weak_parameters_are_known() {
        assert!(!Hashing::default().is_weak());
        assert!(tiny().is_weak());
    }
}
