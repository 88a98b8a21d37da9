//! Founding the log anew after a rollback (DESIGN §4.5).
//!
//! A database that is older than what it has said already must not go on as if nothing had happened: what it ended since would
//! live again. So it begins a new epoch. Everything of the old one is void by its epoch alone (access tokens at verifiers,
//! refresh tokens, browser sessions); positions jump far beyond any that the lost part can have used; the first entry ends
//! everything; keys that may have died in the lost part die now, and new ones get numbers that nobody knows.
use crate::changes::{Change, Changes};
use crate::kernel::{self, By, Door, Scope};
use crate::keys::{self, KeyRules, Plan};
use crate::model::Key;
use crate::view::Stamp;
use crate::{Chance, Refused};
use alloc::vec::Vec;
use portcullis_wire::{Epoch, Rev};

/// Positions jump to a multiple of this: no log writes so many entries between a backup and its loss.
pub const JUMP: u64 = 1 << 32;

/// What is to be made and written.
#[derive(Debug, Clone)]
pub struct Refounding {
    /// The new epoch.
    pub epoch: Epoch,
    /// The position before the first entry of the new epoch.
    pub base: Rev,
    /// The keys that die and those that are made.
    pub keys: Plan,
}

/// The position before the first entry of the new epoch: beyond the head, and beyond every position that somebody proved.
///
/// # Errors
/// [`Refused::Unavailable`] at the end of numbers.
pub fn base(head: Rev, proven: Rev) -> Result<Rev, Refused> {
    let end = || Refused::Unavailable { detail: "the log is at the end of numbers".into() };
    let newest = head.0.max(proven.0);
    (newest / JUMP)
        .checked_add(1)
        .and_then(|n| n.checked_mul(JUMP))
        .filter(|n| i64::try_from(*n).is_ok())
        .map(Rev)
        .ok_or_else(end)
}

/// Plans a refounding of the log in `stamp`. `proven`: the newest position that the lost part is known to have had.
///
/// # Errors
/// [`Refused::Unavailable`] at the end of numbers.
pub fn plan(
    stamp: &Stamp,
    rows: &[Key],
    rules: &KeyRules,
    proven: (Epoch, Rev),
    chance: &mut dyn Chance,
) -> Result<Refounding, Refused> {
    let end = || Refused::Unavailable { detail: "the log is at the end of epochs".into() };
    let epoch = stamp.epoch.0.max(proven.0.0).checked_add(1).ok_or_else(end)?;
    Ok(Refounding {
        epoch: Epoch(epoch),
        base: base(stamp.head, proven.1)?,
        keys: keys::refound(rows, stamp, rules, chance),
    })
}

/// The one transaction, with the keys that [`Refounding::keys`] asks for.
///
/// # Errors
/// [`Refused::Unavailable`] when other keys were made.
pub fn changes(what: Refounding, made: Vec<Key>, by: &By<'_>, chance: &mut dyn Chance) -> Result<Changes, Refused> {
    let Refounding { epoch, base, keys } = what;
    let end = kernel::end(Door::Refound, Scope::All, None, by, chance);
    let of_keys = keys.changes(made, by, chance)?;
    Ok(Changes {
        expects: end.expects,
        steps: [Change::Refound { epoch, base }].into_iter().chain(end.steps).chain(of_keys.steps).collect(),
        events: end.events.into_iter().chain(of_keys.events).collect(),
        ..Changes::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_jump_beyond_head_and_proof() {
        for (head, proven, expected) in [
            (0, 0, JUMP),
            (1, 0, JUMP),
            (JUMP - 1, 5, JUMP),
            (JUMP, 0, 2 * JUMP),
            (7, JUMP + 3, 2 * JUMP),
            (5 * JUMP + 1, 3 * JUMP, 6 * JUMP),
        ] {
            assert_eq!(base(Rev(head), Rev(proven)), Ok(Rev(expected)));
        }
        assert!(base(Rev(u64::MAX), Rev(0)).is_err() && base(Rev(0), Rev(i64::MAX as u64)).is_err());
    }
}
