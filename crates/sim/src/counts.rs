//! How often each kind of event happened. A run in which one never did has proven less than it says.
use std::collections::BTreeMap;

/// Every kind that must happen in a full run.
pub const KINDS: &[&str] = &[
    "sign-ins",
    "sign-ins refused: blocked",
    "sign-ins born dead",
    "guesses looked at",
    "guesses throttled",
    "sign-ins at an unknown device",
    "sign-ins throttled at an unknown device",
    "sign-ins from a known network",
    "sign-ins from a known device",
    "lines imported",
    "end: revoked_by_filter",
    "sessions matched by a filter",
    "job steps",
    "jobs done",
    "lines known again",
    "hashes upgraded",
    "refreshes",
    "retries inside the window",
    "late retries (skips)",
    "second tabs",
    "parallel duplicates",
    "thefts caught",
    "thief let in",
    "thief refused: other device",
    "sessions expired",
    "conflicts",
    "end: signed_out",
    "end: ended_by_user",
    "end: others_ended",
    "end: all_ended",
    "end: ended_by_admin",
    "end: all_ended_by_admin",
    "end: blocked",
    "end: deleted",
    "end: everyone",
    "end: refresh_reused",
    "end: key_revoked",
    "end: session_limit",
    "end: client_disabled",
    "end: code_reused",
    "end: revoked_by_client",
    "end: consent_withdrawn",
    "codes made",
    "codes redeemed",
    "proofs made again",
    "tokens after a later proof",
    "refreshes by applications",
    "device codes made",
    "device codes redeemed",
    "device polls: pending",
    "device polls: slow down",
    "device polls: denied",
    "outbox: notices spread",
    "outbox: told",
    "outbox: an application is told of the browser that allowed it",
    "outbox: a receiver failed",
    "outbox: a sender died",
    "sign-ins by another provider",
    "sessions ended by another provider",
    "logouts of another provider",
    "end: revoked_globally",
    "end: signed_out_upstream",
    "tokens of keys",
    "tokens exchanged",
    "tokens exchanged again",
    "refreshes refused: another's token",
    "applications switched on",
    "sign-ins refused: limit",
    "sessions pruned",
    "refresh tokens of forgotten sessions",
    "accounts due",
    "keys: rotated",
    "keys: retired",
    "keys: not published yet",
    "keys: too young to sign",
    "keys: used once confirmed",
    "forgeries judged",
    "refused: key dead",
    "unblocks",
    "roles changed",
    "acts repeated under their key",
    "enforced: acknowledged",
    "enforced: by arithmetic",
    "commit faults: nothing written",
    "commit faults: written or not",
    "answers: unavailable",
    "crash: commit begun",
    "crash: commit durable",
    "crash: commit visible",
    "crash: commit replied",
    "crash: any time",
    "crash left a commit behind",
    "crash undid a commit",
    "restarts",
    "server pauses",
    "reads slow",
    "ends during a first lease",
    "reads stalled",
    "messages dropped",
    "messages duplicated",
    "messages reordered",
    "stream frames dropped",
    "stream frames duplicated",
    "stream frames reordered",
    "streams broken",
    "partitions: both ways",
    "partitions: one way",
    "partitions: stream only",
    "database clock forward",
    "database clock back",
    "verifier clock forward",
    "verifier clock back",
    "suspensions counted by the clock",
    "suspensions not counted by the clock",
    "verifier restarts",
    "snapshots sent",
    "snapshots pulled",
    "resumes",
    "gaps met",
    "leases granted",
    "leases refused",
    "leases lost",
    "entries forgotten",
    "floor keeps pace",
    "floor catches up",
    "floor not written",
    "horizon raised",
    "accepted",
    "refused: ended",
    "refused: stale",
    "refused: expired",
    "refused: not fresh",
    "tokens ahead of the verifier",
    "connections opened",
    "connections renewed",
    "connections ended: revoked",
    "connections ended: stale",
    "connections ended: expired",
    "connections ended: not fresh",
    "renewals refused: another's token",
];

/// Counters by kind.
#[derive(Debug, Clone, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Once more.
    pub fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }
    /// How often so far.
    pub fn get(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }
    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (kind, n) in &other.0 {
            *self.0.entry(kind).or_default() += n;
        }
    }
    /// What never happened of what must.
    pub fn missing(&self) -> Vec<&'static str> {
        KINDS.iter().copied().filter(|kind| self.get(kind) == 0).collect()
    }
    /// All of them, with their numbers.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let others = self.0.keys().copied().filter(|kind| !KINDS.contains(kind));
        KINDS.iter().copied().chain(others).map(|kind| (kind, self.get(kind)))
    }
}
