//! Of what kind a fault is, and how often one is worth a line in the log.
use portcullis_wire::{Millis, Time};
use std::io::{self, ErrorKind};

/// Between two lines about faults of one kind, while they go on.
const QUIET: Millis = 10_000;

/// What kind of trouble a database is in, as operators tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// No space is left.
    Full,
    /// The files may be read and not written.
    ReadOnly,
    /// Reading, writing or syncing failed.
    Io,
    /// A lock was held for too long.
    Busy,
    /// A file or a row is not what it should be.
    Damaged,
    /// More waits than may.
    Overloaded,
    /// Anything else.
    Other,
}

impl FaultKind {
    /// All of them, each at its own index.
    pub const ALL: [Self; 7] =
        [Self::Full, Self::ReadOnly, Self::Io, Self::Busy, Self::Damaged, Self::Overloaded, Self::Other];

    /// Of a file beside the database.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly,
            _ => Self::Io,
        }
    }

    /// The word for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Io => "io",
            Self::Busy => "busy",
            Self::Damaged => "damaged",
            Self::Overloaded => "overloaded",
            Self::Other => "other",
        }
    }
}

/// Which faults are told: the first of a kind at once, then how many there were, every ten seconds while they go on. Pure: the
/// time is an argument.
#[derive(Debug, Default)]
pub struct Flood {
    kinds: [Kind; FaultKind::ALL.len()],
}

#[derive(Debug, Default, Clone, Copy)]
struct Kind {
    told: Option<Time>,
    untold: u64,
}

impl Kind {
    /// Quiet for long enough; a clock that was set back does not silence anything.
    fn may_be_told(&self, now: Time) -> bool {
        self.told.is_none_or(|told| now.since(told) >= QUIET || now < told)
    }
    fn tell(&mut self, now: Time) -> u64 {
        self.told = Some(now);
        std::mem::take(&mut self.untold)
    }
}

impl Flood {
    /// A fault happened: `Some` when it is to be told now, with how many of its kind, this one among them, were not yet.
    pub fn note(&mut self, kind: FaultKind, now: Time) -> Option<u64> {
        let of_kind = self.kinds.get_mut(kind as usize)?;
        of_kind.untold += 1;
        of_kind.may_be_told(now).then(|| of_kind.tell(now))
    }

    /// The kinds of which some were not told and may be now, with how many. For whoever comes by from time to time.
    pub fn due(&mut self, now: Time) -> Vec<(FaultKind, u64)> {
        let all = FaultKind::ALL.into_iter().zip(&mut self.kinds);
        let due = all.filter(|(_, of_kind)| of_kind.untold > 0 && of_kind.may_be_told(now));
        due.map(|(kind, of_kind)| (kind, of_kind.tell(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_rest_is_counted() {
        let mut flood = Flood::default();
        let at = |ms: i64| Time(1_000_000 + ms);
        assert_eq!(flood.note(FaultKind::Full, at(0)), Some(1));
        for n in 1..1000 {
            assert_eq!(flood.note(FaultKind::Full, at(n)), None);
        }
        assert_eq!(flood.note(FaultKind::Io, at(5)), Some(1), "another kind has its own turn");
        assert!(flood.due(at(9_999)).is_empty());
        assert_eq!(flood.due(at(10_000)), [(FaultKind::Full, 999)]);
        assert!(flood.due(at(30_000)).is_empty(), "nothing is told twice");
        assert_eq!(flood.note(FaultKind::Full, at(40_000)), Some(1));
        assert_eq!(flood.note(FaultKind::Full, at(40_001)), None);
        assert_eq!(flood.note(FaultKind::Full, at(50_000)), Some(2), "those in between are told with the next");
        assert_eq!(flood.note(FaultKind::Full, at(0)), Some(1), "a clock that was set back silences nothing");
    }

    #[test]
    fn each_kind_stands_at_its_index() {
        for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{}", kind.name());
        }
    }
}
