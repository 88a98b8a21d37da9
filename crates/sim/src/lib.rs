//! A small, bad world around the real rules.
//!
//! One server node on one disk, devices, thieves, administrators, readers of mails, applications with keys of their own, machines, other providers and verifiers live in virtual time on a network that delays,
//! drops, doubles, reorders and cuts. Clocks drift and are set, machines are suspended, the server dies at every step of a
//! commit. What runs in it is the product: `domain` decides, the memory store of `store` keeps, `feed` publishes and follows,
//! `verify` judges; only the loop around them (which `app` has with real clocks and sockets) is written again, step by step,
//! so that anything can happen between two steps.
//!
//! The checks of [`checks`] read the truth, which the world keeps apart ([`truth`]), and hold the invariants of DESIGN §3
//! against it. A run is a function of its seed; a failing seed is replayed by its number, with the story of its last events.
//! [`run_rollback`] is a second world, in which databases are replaced by older ones; [`run_cluster`] a third one, of several nodes; [`run_audit`] a fourth, of the chain over audit records. [`mutant`] plants bugs to prove that the checks would notice.
#![allow(missing_docs)]

mod applications;
mod audit;
mod chaos;
pub mod checks;
mod client_keys;
mod clients;
pub mod clock;
mod cluster;
pub mod counts;
mod decide;
mod disk;
mod filters;
mod guesses;
mod house;
mod hub;
mod imports;
mod letters;
mod machines;
pub mod mutant;
mod net;
mod policy;
pub mod rng;
mod rollback;
mod rota;
mod server;
mod streams;
mod suspicion;
mod told;
pub mod truth;
mod upstream;
mod verifiers;
mod world;

pub use audit::run as run_audit;
pub use checks::Violation;
pub use cluster::run as run_cluster;
pub use counts::Counts;
pub use mutant::{Lag, Lapse, Mutant, Seam};
pub use rollback::run as run_rollback;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub counts: Counts,
    /// Everything that was seen, as one number.
    pub hash: u64,
    pub events: u64,
    /// The last events in words, when they were kept.
    pub story: Vec<String>,
}

/// Runs one seed. `story`: keep the last events in words.
pub fn run(seed: u64, mutant: Option<Mutant>, story: bool) -> Outcome {
    let mut world = world::World::new(seed, mutant, story);
    world.run();
    Outcome {
        seed,
        story: world.story().map(str::to_owned).collect(),
        violation: world.violation,
        counts: world.counts,
        hash: world.hash,
        events: world.events,
    }
}
