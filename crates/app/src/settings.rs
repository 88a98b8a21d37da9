//! The settings of a running server, already checked. Where they come from is `server`'s business.
use portcullis_domain::Rules;
use portcullis_domain::keys::KeyRules;
use portcullis_wire::Millis;
use portcullis_wire::jws::Algorithm;

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
    /// How keys live.
    pub keys: KeySettings,
}

impl Settings {
    /// What the life of keys depends on.
    pub fn key_rules(&self) -> KeyRules {
        let rules = &self.rules;
        KeyRules {
            rotate_every: self.keys.rotate_every,
            algorithm: self.keys.algorithm,
            max_life: rules.max_life(),
            // As long as a session made today can live without a refresh, and then a predecessor can come late.
            mac_kept: rules.absolute_ttl.max(rules.idle_ttl).saturating_add(rules.late_retry),
        }
    }
}

/// How keys live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySettings {
    /// After how long a key is replaced; `None`: when somebody says so.
    pub rotate_every: Option<Millis>,
    /// What new signing keys sign with.
    pub algorithm: Algorithm,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self { rotate_every: Some(90 * 86_400_000), algorithm: Algorithm::Es256 }
    }
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
