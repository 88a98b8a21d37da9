//! Monotonic time: for spans, never for dates.
use portcullis_wire::time::Millis;

/// Milliseconds of a clock that never goes back and counts suspension (`CLOCK_BOOTTIME`). Its zero means nothing, so two
/// machines' values cannot be compared, only spans can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mono(pub i64);

impl Mono {
    /// This point later by `ms`.
    pub const fn plus(self, ms: Millis) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// This point earlier by `ms`.
    pub const fn minus(self, ms: Millis) -> Self {
        Self(self.0.saturating_sub(ms))
    }
    /// How long after `earlier` this is; negative when before.
    pub const fn since(self, earlier: Self) -> Millis {
        self.0.saturating_sub(earlier.0)
    }
}

/// A bound as the verifier uses it: 1% shorter, because clocks may run at different speeds.
pub const fn shortened(bound_ms: Millis) -> Millis {
    bound_ms.saturating_sub(bound_ms.saturating_add(99) / 100)
}

/// A bound as the server waits for it: 1% longer, for the same reason.
pub const fn lengthened(bound_ms: Millis) -> Millis {
    bound_ms.saturating_add(bound_ms.saturating_add(99) / 100)
}
