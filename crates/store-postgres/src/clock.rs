//! The database's time, for callers that need it without a snapshot.
//!
//! Between looks at the database's clock a monotonic one carries it. What is told never goes back by itself: where the
//! database's clock was set back, it stands still until that has caught up. Stamps of views and commits are the database's own.
use portcullis_wire::Time;
use sqlx::postgres::PgConnection;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A clock that is given.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Where time comes from.
#[derive(Clone)]
pub enum TimeSource {
    /// From the database; between looks this monotonic clock (microseconds, counting suspension) carries it.
    Database(Arc<dyn Fn() -> i64 + Send + Sync>),
    /// From this clock alone: for tests, which move time.
    Given(Clock),
}

impl fmt::Debug for TimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database(_) => "Database",
            Self::Given(_) => "Given",
        })
    }
}

/// Looks at the clock; the one with the shortest round trip counts.
const LOOKS: u32 = 5;
/// The database's clock in milliseconds, rounded down as commits do.
pub(crate) const NOW: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

pub(crate) struct DatabaseClock {
    source: TimeSource,
    /// From monotonic to database time.
    offset: AtomicI64,
    /// The latest time that was told.
    told: AtomicI64,
}

impl DatabaseClock {
    pub(crate) fn new(source: TimeSource) -> Self {
        Self { source, offset: AtomicI64::new(0), told: AtomicI64::new(i64::MIN) }
    }

    /// The time of a given clock, if there is one.
    pub(crate) fn given(&self) -> Option<Time> {
        match &self.source {
            TimeSource::Given(clock) => Some(clock()),
            TimeSource::Database(_) => None,
        }
    }

    /// Microseconds of the monotonic clock; of the given one where there is such.
    pub(crate) fn mono_us(&self) -> i64 {
        match &self.source {
            TimeSource::Given(clock) => clock().0.saturating_mul(1000),
            TimeSource::Database(mono) => mono(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        match &self.source {
            TimeSource::Given(clock) => clock(),
            TimeSource::Database(mono) => {
                let now = (mono() / 1000).saturating_add(self.offset.load(Relaxed));
                Time(now.max(self.told.fetch_max(now, Relaxed)))
            }
        }
    }

    /// Looks at the database's clock.
    pub(crate) async fn measure(&self, db: &mut PgConnection) -> Result<(), sqlx::Error> {
        let TimeSource::Database(mono) = &self.source else { return Ok(()) };
        let mut best = None;
        for _ in 0..LOOKS {
            let before = mono() / 1000;
            let theirs: i64 = sqlx::query_scalar(NOW).fetch_one(&mut *db).await?;
            let took = (mono() / 1000).saturating_sub(before);
            if best.is_none_or(|(shortest, _)| took < shortest) {
                best = Some((took, theirs - before - took / 2));
            }
        }
        if let Some((_, offset)) = best {
            self.offset.store(offset, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_back_by_itself() {
        let mono = Arc::new(AtomicI64::new(1_000));
        let read = mono.clone();
        let clock = DatabaseClock::new(TimeSource::Database(Arc::new(move || 1000 * read.load(Relaxed))));
        clock.offset.store(5_000, Relaxed);
        assert_eq!(clock.now(), Time(6_000));
        clock.offset.store(4_000, Relaxed);
        assert_eq!(clock.now(), Time(6_000));
        mono.store(2_500, Relaxed);
        assert_eq!(clock.now(), Time(6_500));
    }
}
