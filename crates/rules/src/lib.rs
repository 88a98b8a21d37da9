//! Rules about suspicious activity: a policy file, read once and evaluated many times.
//!
//! A policy ([`Policy`]) is TOML: a version, and rules with a name, the acts that they are about, a condition over signals, outcomes and a
//! reason in words. Conditions are expressions of CEL ([`condition`]). A policy that was taken cannot fail: names, kinds and words of
//! its conditions were checked, and its evaluation is bounded. What cannot be taken is refused with line, column and what to do.
//!
//! What signals there are, and what is done about an outcome, is `domain::risk`'s affair. Here is no I/O and no clock: who reads files
//! hands in their text.
pub mod condition;
mod policy;

pub use policy::{Fault, MAX_FILE, MAX_RULES, Policy};

/// The policy that is on when no other is given.
pub const DEFAULT: &str = include_str!("../default.toml");

/// Words that signals may be, as far as they are a closed set.
pub(crate) const WORDS: &[(&str, &[&str])] = &[
    ("act.kind", ACTS),
    (
        "act.what",
        &[
            "",
            "rotated",
            "again",
            "skipped",
            "other_device",
            "theft",
            "password",
            "email",
            "factor",
            "app",
            "key",
            "asked",
            "done",
            "denied",
            "provider",
            "credential_leaked",
            "device_lost",
            "fraud",
        ],
    ),
];

/// What rules may be about.
pub const ACTS: &[&str] = &["sign_up", "sign_in", "refresh", "prove", "change", "recover", "sighting", "external"];
