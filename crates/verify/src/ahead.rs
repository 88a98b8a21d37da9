//! Tokens whose rev is ahead of what this verifier has applied (DESIGN §4.7).
//!
//! That is normal for a moment: the token came faster than the log. Then no entry that is missing here can match it. But no
//! server can have minted a rev that the log had not reached; when a head that was read after the token arrived is still
//! below its rev, the token was made by somebody else, with a stolen key.
use crate::Reason;
use portcullis_feed::{Knowledge, Mono};
use portcullis_wire::Rev;
use std::collections::BTreeMap;

/// How many revs are watched at a time. When more are met before the log catches up, further ones are refused as `not_fresh`.
pub const AHEAD_LIMIT: usize = 4096;

/// When each rev that is ahead was first seen. Used on that rare path only, so a lock around it harms nobody.
#[derive(Debug, Default)]
pub struct AheadRecord {
    first_seen: BTreeMap<Rev, Mono>,
}

impl AheadRecord {
    /// Looks at an otherwise accepted token whose rev is above [`Knowledge::applied`].
    ///
    /// # Errors
    /// [`Reason::AheadOfLog`] when a read of the head that began after this rev was first seen did not reach it;
    /// [`Reason::NotFresh`] when too many are watched.
    pub fn check(&mut self, rev: Rev, known: &Knowledge, now: Mono) -> Result<(), Reason> {
        self.first_seen.retain(|seen, _| *seen > known.applied);
        if rev <= known.applied {
            return Ok(());
        }
        let first = match self.first_seen.get(&rev) {
            Some(first) => *first,
            None if self.first_seen.len() >= AHEAD_LIMIT => return Err(Reason::NotFresh),
            None => *self.first_seen.entry(rev).or_insert(now),
        };
        match known.proven {
            Some(proven) if proven.head < rev && proven.began > first => Err(Reason::AheadOfLog { rev }),
            _ => Ok(()),
        }
    }
}
