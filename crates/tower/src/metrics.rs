//! Counters, and their text for Prometheus (exposition format 0.0.4).
use crate::stripe::Striped;
use crate::verifier::Readiness;
use portcullis_feed::subscriber::Trouble;
use portcullis_wire::Code;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const TROUBLES: [Trouble; 8] = [
    Trouble::Version,
    Trouble::OtherLog,
    Trouble::OlderEpoch,
    Trouble::Fork,
    Trouble::Rollback,
    Trouble::Lagging,
    Trouble::Malformed,
    Trouble::ClockOutrun,
];
const REFUSED: [Code; 9] = [
    Code::TokenMissing,
    Code::TokenMalformed,
    Code::TokenExpired,
    Code::TokenRevoked,
    Code::TokenStale,
    Code::ProofInvalid,
    Code::NotFresh,
    Code::InsufficientScope,
    Code::Overloaded,
];

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) accepted: Striped,
    pub(crate) accepted_unproven: Striped,
    pub(crate) introspected: Count,
    refused: [Count; REFUSED.len()],
    pub(crate) alarming: Count,
    pub(crate) cache_hits: Striped,
    pub(crate) connects: Count,
    pub(crate) asks: Count,
    pub(crate) asks_failed: Count,
    pub(crate) pulls: Count,
    troubles: [Count; TROUBLES.len()],
    pub(crate) guards_ended: Count,
    pub(crate) guards_renewed: Count,
    pub(crate) sightings: Count,
}

impl Metrics {
    pub(crate) fn refused(&self, code: Code) {
        if let Some(at) = REFUSED.iter().position(|c| *c == code) {
            self.refused[at].up();
        }
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        if let Some(at) = TROUBLES.iter().position(|t| *t == trouble) {
            self.troubles[at].up();
        }
    }

    pub(crate) fn text(&self, now: &Readiness) -> String {
        let mut out = String::with_capacity(4096);
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(out, "# HELP portcullis_verifier_{name} {help}\n# TYPE portcullis_verifier_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "portcullis_verifier_{name}{labels} {value}");
            }
        };
        let plain = |value: u64| vec![(String::new(), value)];
        let (fresh, unproven) = (self.accepted.get(), self.accepted_unproven.get());
        let ways = [("fresh", fresh), ("unproven", unproven), ("introspected", self.introspected.get())];
        let accepted: Vec<_> = ways.iter().map(|(how, count)| (format!("{{how=\"{how}\"}}"), *count)).collect();
        metric("accepted_total", "counter", "Requests accepted, by what proved the token alive.", &accepted);
        let codes = REFUSED.iter().zip(&self.refused);
        let refused: Vec<_> = codes.map(|(code, c)| (format!("{{code=\"{code}\"}}"), c.get())).collect();
        metric("refused_total", "counter", "Requests refused, by code.", &refused);
        let kinds = TROUBLES.iter().zip(&self.troubles);
        let troubles: Vec<_> = kinds.map(|(t, c)| (format!("{{kind=\"{t}\"}}"), c.get())).collect();
        metric("trouble_total", "counter", "What is wrong with the feed; each deserves a look.", &troubles);
        let help = "Authentic tokens that no honest server makes; a signing key may be stolen.";
        metric("alarming_tokens_total", "counter", help, &plain(self.alarming.get()));
        metric(
            "cache_hits_total",
            "counter",
            "Signatures that need not be verified again.",
            &plain(self.cache_hits.get()),
        );
        metric("connects_total", "counter", "Streams opened.", &plain(self.connects.get()));
        metric("asks_total", "counter", "Leases asked for.", &plain(self.asks.get()));
        metric("asks_failed_total", "counter", "Leases asked for in vain.", &plain(self.asks_failed.get()));
        metric("pulls_total", "counter", "Snapshot pages fetched.", &plain(self.pulls.get()));
        metric(
            "guards_ended_total",
            "counter",
            "Open connections ended by their guard.",
            &plain(self.guards_ended.get()),
        );
        let help = "Newer tokens that open connections went on with.";
        metric("guards_renewed_total", "counter", help, &plain(self.guards_renewed.get()));
        metric("sightings_total", "counter", "Sightings that the server was told.", &plain(self.sightings.get()));
        metric("fresh", "gauge", "1 while what is known is proven recent enough.", &plain(now.fresh.into()));
        metric("connected", "gauge", "1 while the stream is open.", &plain(now.connected.into()));
        metric("applied_rev", "gauge", "The newest revocation applied.", &plain(now.applied.0));
        metric("set_entries", "gauge", "Revocations kept.", &plain(now.set_entries as u64));
        metric("set_overflowed", "gauge", "Revocations widened because the set was full.", &plain(now.set_overflowed));
        metric("set_not_understood", "gauge", "Revocations of a newer server.", &plain(now.set_not_understood));
        let lease = u64::try_from(now.lease_ms).unwrap_or(0);
        metric("lease_remaining_ms", "gauge", "How long the lease lasts still.", &plain(lease));
        out
    }
}
