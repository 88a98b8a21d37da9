//! The password pool: hashes on threads of its own, a bounded queue of two lanes before it, reused memory in it.
//!
//! A flood of sign-ins queues here and then meets 503, instead of taking the cores and memory that refreshes need. Every
//! check computes one hash, also when there is nothing to compare with, so that time tells nothing (I15).
//!
//! Who comes with the mark of a known device waits in a lane of its own and is served first: a flood of strangers fills their
//! own lane only. That no lane starves, one of [`FIRST_IN_A_ROW`] + 1 is taken from the other. What a lane is decided by
//! (a mark that only a sign-in gives) a guesser knows already; whether an attempt is throttled does not decide it, or the
//! wait would tell.
mod compute;

use crate::settings::Hashing;
use argon2::Params;
use portcullis_wire::SecretString;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// After so long without work a thread gives its memory back.
const KEEP_MEMORY: Duration = Duration::from_secs(20);

/// The `nice` value of the threads that hash: on a core that is full of requests they still get a tenth of it.
#[cfg(target_os = "linux")]
const BEHIND: i32 = 10;

/// So many of known devices are served in a row before one of the others is, if one waits.
pub const FIRST_IN_A_ROW: u32 = 8;

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// The lane is full.
    Overloaded,
    /// The pool is shutting down, or a parameter is impossible.
    Failed,
}

/// Where to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// For who comes with the mark of a known device.
    Known,
    /// For everybody else.
    Others,
}

/// A place in a lane, kept until a thread takes the work up.
#[derive(Debug)]
pub struct Place {
    lane: Lane,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.taken(self.lane).fetch_sub(1, Ordering::AcqRel);
    }
}

enum Job {
    Hash(SecretString, oneshot::Sender<Option<String>>),
    Upgrade(SecretString, oneshot::Sender<Option<String>>),
    Check { password: SecretString, phc: Option<String>, compare: bool, reply: oneshot::Sender<bool> },
}

/// What waits. Generic so that its order can be tried without work.
#[derive(Debug)]
struct Lanes<T> {
    known: VecDeque<T>,
    others: VecDeque<T>,
    in_a_row: u32,
}

impl<T> Lanes<T> {
    fn new() -> Self {
        Self { known: VecDeque::new(), others: VecDeque::new(), in_a_row: 0 }
    }
    fn push(&mut self, lane: Lane, what: T) {
        match lane {
            Lane::Known => self.known.push_back(what),
            Lane::Others => self.others.push_back(what),
        }
    }
    /// Known devices first, but not for ever.
    fn next(&mut self) -> Option<T> {
        if (self.in_a_row < FIRST_IN_A_ROW || self.others.is_empty())
            && let Some(first) = self.known.pop_front()
        {
            self.in_a_row = self.in_a_row.saturating_add(1);
            return Some(first);
        }
        self.in_a_row = 0;
        self.others.pop_front().or_else(|| self.known.pop_front())
    }
}

struct Waiting {
    lanes: Lanes<(Place, Job)>,
    open: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
    known: AtomicUsize,
    others: AtomicUsize,
    /// Places in each lane.
    places: usize,
    computed: AtomicU64,
    upgraded: AtomicU64,
    refused: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("computed", &self.computed).finish_non_exhaustive()
    }
}

impl Shared {
    fn taken(&self, lane: Lane) -> &AtomicUsize {
        match lane {
            Lane::Known => &self.known,
            Lane::Others => &self.others,
        }
    }
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that may panic runs under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool. Cheap to clone; its threads end with the last clone.
#[derive(Debug, Clone)]
pub struct Passwords {
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    shared: Arc<Shared>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.lock().open = false;
        self.shared.more.notify_all();
    }
}

impl Passwords {
    /// Starts the threads. `None` when Argon2 does not accept the parameters.
    pub fn start(hashing: Hashing) -> Option<Self> {
        let params = Params::new(hashing.memory_kib, hashing.passes, hashing.lanes, Some(32)).ok()?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting { lanes: Lanes::new(), open: true }),
            more: Condvar::new(),
            known: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
            places: hashing.queue.max(1),
            computed: AtomicU64::new(0),
            upgraded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let door = Arc::new(Door { shared: shared.clone() });
        for n in 0..hashing.threads.max(1) {
            let (shared, params) = (shared.clone(), params.clone());
            let thread = std::thread::Builder::new().name(format!("password-{n}"));
            thread.spawn(move || work(&shared, &params)).ok()?;
        }
        Some(Self { door })
    }

    /// How many hashes were computed, and how many were refused for a full lane.
    pub fn counts(&self) -> (u64, u64) {
        let shared = &self.door.shared;
        (shared.computed.load(Ordering::Relaxed), shared.refused.load(Ordering::Relaxed))
    }

    /// How many hashes were computed to put a better one in the place of a stored one; not among [`Self::counts`].
    pub fn upgraded(&self) -> u64 {
        self.door.shared.upgraded.load(Ordering::Relaxed)
    }

    /// A place in a lane, before anything is done that would be in vain without one.
    pub fn reserve(&self, lane: Lane) -> Result<Place, PoolError> {
        let shared = &self.door.shared;
        let free = |taken: usize| (taken < shared.places).then_some(taken + 1);
        match shared.taken(lane).fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Ok(Place { lane, shared: shared.clone() }),
            Err(_) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                Err(PoolError::Overloaded)
            }
        }
    }

    fn submit(&self, place: Place, job: Job) {
        let shared = &self.door.shared;
        shared.lock().lanes.push(place.lane, (place, job));
        shared.more.notify_one();
    }

    /// The PHC string of a new password.
    pub async fn hash(&self, password: SecretString) -> Result<String, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(self.reserve(Lane::Others)?, Job::Hash(password, reply));
        answer.await.ok().flatten().ok_or(PoolError::Failed)
    }

    /// The PHC string of a password that was right just now, to be put in the place of a worse one.
    pub async fn upgrade(&self, password: SecretString) -> Result<String, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(self.reserve(Lane::Others)?, Job::Upgrade(password, reply));
        answer.await.ok().flatten().ok_or(PoolError::Failed)
    }

    /// Whether `password` is the one of `phc`. Without a `phc` one hash is computed all the same, and the answer is no. With
    /// `compare` off the same hash is computed and compared with nothing.
    pub async fn check(
        &self,
        place: Place,
        password: SecretString,
        phc: Option<String>,
        compare: bool,
    ) -> Result<bool, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(place, Job::Check { password, phc, compare, reply });
        answer.await.map_err(|_| PoolError::Failed)
    }
}

/// Puts the calling thread behind those that serve: a hash takes many milliseconds of a core, and whoever refreshes would wait for
/// it. Where nobody serves it costs nothing. Linux alone has a priority for each thread; elsewhere the order stays the system's.
fn step_behind() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BEHIND) {
        tracing::debug!(%error, "passwords are hashed beside requests, not behind them");
    }
}

/// A thread's life: one job after the other, its memory kept while there is work.
fn work(shared: &Shared, params: &Params) {
    step_behind();
    let mut memory = compute::no_memory();
    loop {
        let mut waiting = shared.lock();
        let job = loop {
            if let Some((place, job)) = waiting.lanes.next() {
                drop(place); // it no longer waits
                break job;
            }
            if !waiting.open {
                return;
            }
            let (again, timeout) =
                shared.more.wait_timeout(waiting, KEEP_MEMORY).unwrap_or_else(PoisonError::into_inner);
            waiting = again;
            if timeout.timed_out() {
                memory = compute::no_memory();
            }
        };
        drop(waiting);
        match job {
            Job::Hash(password, reply) => {
                shared.computed.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(compute::hash(&password, params, &mut memory));
            }
            Job::Upgrade(password, reply) => {
                shared.upgraded.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(compute::hash(&password, params, &mut memory));
            }
            Job::Check { password, phc, compare, reply } => {
                shared.computed.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(compute::check(&password, phc.as_deref(), compare, params, &mut memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Hashing {
        Hashing { memory_kib: 64, passes: 1, lanes: 1, threads: 1, queue: 4 }
    }

    async fn check(pool: &Passwords, password: &str, phc: Option<String>, compare: bool) -> Result<bool, PoolError> {
        pool.check(pool.reserve(Lane::Others)?, SecretString::new(password), phc, compare).await
    }

    #[tokio::test]
    async fn right_wrong_and_unknown_cost_one_hash_each() {
        let pool = Passwords::start(tiny()).unwrap();
        let phc = pool.hash(SecretString::new("correct horse")).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        let before = pool.counts().0;
        assert!(check(&pool, "correct horse", Some(phc.clone()), true).await.unwrap());
        assert!(!check(&pool, "wrong", Some(phc.clone()), true).await.unwrap());
        assert!(!check(&pool, "correct horse", Some(phc), false).await.unwrap(), "computed, and not looked at");
        assert!(!check(&pool, "correct horse", None, true).await.unwrap());
        assert!(!check(&pool, "correct horse", Some("no hash".into()), true).await.unwrap());
        assert_eq!(pool.counts().0 - before, 5);
    }

    #[tokio::test]
    async fn other_parameters_of_a_stored_hash_are_honoured() {
        let pool = Passwords::start(tiny()).unwrap();
        let other = Passwords::start(Hashing { memory_kib: 128, passes: 2, ..tiny() }).unwrap();
        let phc = other.hash(SecretString::new("correct horse")).await.unwrap();
        assert!(check(&pool, "correct horse", Some(phc), true).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_the_other_does_not() {
        let pool = Passwords::start(tiny()).unwrap();
        let places: Vec<_> = (0..4).map(|_| pool.reserve(Lane::Others).unwrap()).collect();
        assert_eq!(pool.reserve(Lane::Others).unwrap_err(), PoolError::Overloaded);
        assert_eq!(pool.hash(SecretString::new("x")).await, Err(PoolError::Overloaded));
        let known = pool.reserve(Lane::Known).unwrap();
        assert!(!pool.check(known, SecretString::new("x"), None, true).await.unwrap());
        assert_eq!(pool.counts(), (1, 2));
        drop(places);
        assert!(pool.hash(SecretString::new("x")).await.is_ok());
    }

    #[test]
    fn known_devices_are_served_first_and_nobody_starves() {
        let mut lanes = Lanes::new();
        for n in 0..100 {
            lanes.push(Lane::Others, ("other", n));
        }
        for n in 0..20 {
            lanes.push(Lane::Known, ("known", n));
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        assert_eq!(order.len(), 120);
        let known = |from: usize, to: usize| order[from..to].iter().filter(|(kind, _)| *kind == "known").count();
        assert_eq!((known(0, 8), known(8, 9), known(9, 17), known(17, 18), known(18, 22)), (8, 0, 8, 0, 4));
        for kind in ["known", "other"] {
            let of_kind: Vec<_> = order.iter().filter(|(k, _)| *k == kind).map(|(_, n)| *n).collect();
            assert!(of_kind.is_sorted(), "in the order in which they came");
        }
        // One that comes later goes before all the others that wait.
        (0..5).for_each(|n| lanes.push(Lane::Others, ("other", n)));
        assert_eq!(lanes.next().unwrap().0, "other");
        lanes.push(Lane::Known, ("known", 0));
        assert_eq!(lanes.next().unwrap().0, "known");
    }

    #[test]
    fn weak_parameters_are_known() {
        assert!(!Hashing::default().is_weak());
        assert!(tiny().is_weak());
    }
}
