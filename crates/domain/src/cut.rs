//! Cuts: what makes one row end everything under it (DESIGN §4.1).
//!
//! An account, a client and the whole each hold a [`Cut`]; everything under them holds `born`, the stamp of the first step of
//! its own making. Born below a cut above it means dead, whatever the row itself says; the one session that the cut spares
//! excepted, and what is under it.
use portcullis_wire::{Rev, SessionId};

/// The rev of the last `end` of a scope, with the one session that it spares. The default ([`Rev::ZERO`]) kills nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Position of the last `end`.
    pub rev: Rev,
    /// The one session that it spares.
    pub except: Option<SessionId>,
}

impl Cut {
    /// Whether this cut kills what was born at `born` under (or as) `session`.
    pub fn kills(&self, born: Rev, session: SessionId) -> bool {
        born < self.rev && self.except != Some(session)
    }

    /// Whether this cut kills something born at `born` that is under no session yet (a sign-in in progress).
    pub fn kills_unborn(&self, born: Rev) -> bool {
        born < self.rev
    }

    /// The last `end` of the scope that spared nobody. This cut says it, unless it spares somebody itself: then it is what was kept
    /// when that was written, and where nothing was kept, this cut counts as one.
    pub fn whole(&self, kept: Option<Rev>) -> Rev {
        if self.except.is_none() { self.rev } else { kept.unwrap_or(self.rev) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spares_somebody_is_not_the_whole() {
        let (spared, rev) = (Some(SessionId::from_bits(1)), Rev(9));
        for kept in [None, Some(Rev(4))] {
            assert_eq!(Cut { rev, except: None }.whole(kept), rev);
            assert_eq!(Cut { rev, except: spared }.whole(kept), kept.unwrap_or(rev));
        }
    }

    #[test]
    fn born_below_is_dead_unless_spared() {
        let (spared, other) = (SessionId::from_bits(1), SessionId::from_bits(2));
        for cut in 0..20u64 {
            for born in 0..20u64 {
                let c = Cut { rev: Rev(cut), except: Some(spared) };
                assert_eq!(c.kills(Rev(born), other), born < cut);
                assert!(!c.kills(Rev(born), spared));
                assert_eq!(c.kills_unborn(Rev(born)), born < cut);
            }
        }
    }
}
