//! The settings of a running server, already checked. Where they come from is `server`'s business.
use portcullis_domain::Rules;
use portcullis_domain::client_keys::Spans;
use portcullis_domain::keys::KeyRules;
use portcullis_domain::receivers::QueueLimits;
use portcullis_domain::retention::Retention;
use portcullis_domain::session_limit::SessionLimit;
use portcullis_mail::Mailer;
use portcullis_outgoing::{Authorities, Calls};
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{Digest, Millis, SecretString};

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
    /// How addresses that others chose are called.
    pub outgoing: Calls,
    /// Which private authorities are trusted there, besides those that browsers trust.
    pub outgoing_ca: Authorities,
    /// What sends mail; `None`: none is sent.
    pub mail: Option<Mailer>,
    /// How many messages may wait.
    pub queues: QueueLimits,
    /// Other providers that people may sign in with.
    pub upstreams: Vec<UpstreamSettings>,
    /// What accounts may and how long things are kept.
    pub policy: PolicySettings,
    /// What clients and API keys may.
    pub clients: ClientSettings,
    /// Where it is written down how far the audit trail was seen; `None`: nowhere.
    pub audit_head_file: Option<std::path::PathBuf>,
}

/// Another provider that people may sign in with.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// Its id in our addresses: lower-case letters, digits and hyphens.
    pub id: String,
    /// What people know it by.
    pub name: String,
    /// What it speaks.
    pub kind: UpstreamKind,
    /// Its issuer, to the letter; of GitHub its address.
    pub issuer: String,
    /// What it knows us by.
    pub client_id: String,
    /// What proves it.
    pub client_secret: SecretString,
    /// What is asked for.
    pub scopes: Vec<String>,
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamKind {
    /// OpenID Connect.
    Oidc,
    /// OAuth 2 and GitHub's own API.
    GitHub,
}

impl Settings {
    /// For how long what is kept.
    pub fn retention(&self) -> Retention {
        let PolicySettings { ended_retention, event_retention, address_retention, .. } = self.policy;
        let idle_ttl = self.rules.idle_ttl;
        Retention { ended: ended_retention, addresses: address_retention, events: event_retention, idle_ttl }
    }

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

/// What clients and API keys may.
#[derive(Debug, Clone, Default)]
pub struct ClientSettings {
    /// The scopes that people may give to their API keys.
    pub api_key_scopes: Vec<String>,
    /// Who may register clients by themselves (RFC 7591).
    pub registration: Registration,
    /// How long the keys at clients' own addresses count.
    pub keys: Spans,
}

/// Who may register clients by themselves.
#[derive(Debug, Clone, Default)]
pub enum Registration {
    /// Nobody.
    #[default]
    Off,
    /// Whoever shows this initial access token (RFC 7591 §3).
    ByToken(Digest),
    /// Everybody, at a slow pace.
    Open,
}

/// What accounts may, and for how long things are kept. Spans in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySettings {
    /// How many sessions an account may have; `None`: as many as it likes.
    pub session_limit: Option<SessionLimit>,
    /// How old a sign-in may be for acts that need a fresh one.
    pub step_up_max_age: Millis,
    /// Refused sign-ins are answered at the end of a step of so long; 0: at once.
    pub failed_sign_in_step: Millis,
    /// How long a deletion can be taken back; 0: not at all.
    pub deletion_grace: Millis,
    /// How long sessions are kept after their end.
    pub ended_retention: Millis,
    /// How long audit records are kept; `None`: for ever.
    pub event_retention: Option<Millis>,
    /// How long addresses are kept.
    pub address_retention: Millis,
    /// How many accounts the rules of risk may block a minute.
    pub max_blocks_per_minute: u32,
    /// Whether new passwords are refused that are in the list of stolen ones.
    pub refuse_breached: bool,
    /// How long accounts are kept that somebody signed up for and whose address nobody proves, where that must be proved; `None`: for
    /// ever.
    pub unverified_retention: Option<Millis>,
    /// How long clients are kept that registered themselves and that nobody uses; `None`: for ever.
    pub registration_retention: Option<Millis>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        const DAY: Millis = 86_400_000;
        Self {
            session_limit: None,
            step_up_max_age: 3_600_000,
            failed_sign_in_step: 500,
            deletion_grace: 0,
            ended_retention: 30 * DAY,
            event_retention: Some(365 * DAY),
            address_retention: 90 * DAY,
            max_blocks_per_minute: 30,
            refuse_breached: true,
            unverified_retention: Some(7 * DAY),
            registration_retention: Some(30 * DAY),
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
