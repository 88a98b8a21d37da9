//! The settings of a running server, already checked. Where they come from is `server`'s business.
use portcullis_domain::Rules;
use portcullis_wire::Millis;

/// Everything that operations depend on. Spans in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the rules depend on.
    pub rules: Rules,
    /// The bound B.
    pub bound: Millis,
    /// How long streams on `closed` routes may outlive a lost lease.
    pub stream_grace: Millis,
    /// Whether people may make accounts themselves.
    pub sign_up: bool,
    /// How passwords are hashed.
    pub hashing: Hashing,
}

/// Argon2id parameters and the limits of the pool that computes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashing {
    /// Memory per hash in KiB (OWASP: at least 19456 with two passes).
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// How many hashes are computed at once; memory is bounded by this times `memory_kib`.
    pub threads: usize,
    /// How many may wait; beyond that the answer is 503.
    pub queue: usize,
}

impl Default for Hashing {
    /// OWASP's first choice for Argon2id: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1, threads: 2, queue: 256 }
    }
}

impl Hashing {
    /// Whether the parameters are weaker than OWASP's minimum (for tests only; `serve` names it loudly).
    pub fn is_weak(&self) -> bool {
        let enough = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];
        !enough.iter().any(|(memory, passes)| self.memory_kib >= *memory && self.passes >= *passes)
    }
}
