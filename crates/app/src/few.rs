//! A limit on lines in the log: trouble that makes every answer fail must not fill the disk that it comes from.
use std::sync::{Mutex, PoisonError};

/// So many lines in each window.
const MOST: u64 = 100;
/// How long a window is.
const WINDOW_US: i64 = 10_000_000;

/// Counts lines of one kind.
#[derive(Debug, Default)]
pub struct Few {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began_us: Option<i64>,
    asked: u64,
}

impl Few {
    /// Whether one more line may be written now, by the monotonic clock, and how many were left out in the window before.
    pub fn may(&self, now_us: i64) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if window.began_us.is_none_or(|began| now_us - began >= WINDOW_US) {
            left_out = window.asked.saturating_sub(MOST);
            *window = Window { began_us: Some(now_us), asked: 0 };
        }
        window.asked += 1;
        (window.asked <= MOST).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_lines_in_ten_seconds_and_then_how_many_were_left_out() {
        let few = Few::default();
        for n in 0..100 {
            assert_eq!(few.may(n), Some(0));
        }
        for n in 100..1_000 {
            assert_eq!(few.may(n), None);
        }
        assert_eq!(few.may(9_999_999), None);
        assert_eq!(few.may(10_000_000), Some(901));
        assert_eq!(few.may(10_000_001), Some(0));
        assert_eq!(few.may(90_000_000), Some(0), "none was left out");
    }
}
