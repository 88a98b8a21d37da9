//! Times: milliseconds since the Unix epoch, written RFC 3339 in UTC with milliseconds; spans in milliseconds.
use alloc::{borrow::Cow, format, string::String};
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time by the database's clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(pub i64);

/// A span of time in milliseconds.
pub type Millis = i64;

impl Time {
    /// Long before anything.
    pub const ZERO: Self = Self(0);
    /// This time later by `ms`.
    pub const fn plus(self, ms: Millis) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// This time earlier by `ms`.
    pub const fn minus(self, ms: Millis) -> Self {
        Self(self.0.saturating_sub(ms))
    }
    /// How long after `earlier` this is; negative when before.
    pub const fn since(self, earlier: Self) -> Millis {
        self.0.saturating_sub(earlier.0)
    }
    /// From whole seconds (`exp`, `iat`: RFC 7519 §2 NumericDate).
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }
    /// Whole seconds, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian; the usual era-based arithmetic.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

fn days(y: i64, m: i64, d: i64) -> i64 {
    let y = y - i64::from(m <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    era * 146_097 + (yoe * 365 + yoe / 4 - yoe / 100 + doy) - 719_468
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, ms) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (y, m, d) = civil(day);
        let (h, min, s, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        if !(0..=9999).contains(&y) {
            return write!(f, "{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{milli:03}Z");
        }
        // By hand, for every answer has some, and the machinery of `write!` takes five times as long.
        let mut out = *b"0000-00-00T00:00:00.000Z";
        for (at, len, number) in [(0, 4, y), (5, 2, m), (8, 2, d), (11, 2, h), (14, 2, min), (17, 2, s), (20, 3, milli)]
        {
            let mut rest = number;
            for slot in out[at..at + len].iter_mut().rev() {
                *slot = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        f.write_str(core::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an RFC 3339 time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseTimeError;

impl fmt::Display for ParseTimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a time in UTC such as 2026-01-31T12:00:00.000Z (RFC 3339)")
    }
}
impl core::error::Error for ParseTimeError {}

impl FromStr for Time {
    type Err = ParseTimeError;

    /// RFC 3339 in UTC (`Z`), with no fraction or one of 1 to 3 digits, years 1970 to 9999.
    fn from_str(text: &str) -> Result<Self, ParseTimeError> {
        let bytes = text.as_bytes();
        let number = |from: usize, len: usize| -> Result<i64, ParseTimeError> {
            let part = bytes.get(from..from + len).ok_or(ParseTimeError)?;
            part.iter().try_fold(0i64, |n, c| {
                if c.is_ascii_digit() { Ok(n * 10 + i64::from(c - b'0')) } else { Err(ParseTimeError) }
            })
        };
        let mark = |at: usize, c: u8| if bytes.get(at) == Some(&c) { Ok(()) } else { Err(ParseTimeError) };
        let (y, m, d) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (h, min, s) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        for (at, c) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
            mark(at, c)?;
        }
        let milli = match bytes.len() {
            20 => 0,
            len @ 22..=24 => {
                mark(19, b'.')?;
                number(20, len - 21)? * [100, 10, 1][len - 22]
            }
            _ => return Err(ParseTimeError),
        };
        mark(bytes.len() - 1, b'Z')?;
        let day = days(y, m, d);
        let real = (1970..=9999).contains(&y) && (1..=12).contains(&m) && civil(day) == (y, m, d);
        if !real || h > 23 || min > 59 || s > 59 {
            return Err(ParseTimeError);
        }
        Ok(Self(day * 86_400_000 + h * 3_600_000 + min * 60_000 + s * 1000 + milli))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text: Cow<'de, str> = Cow::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A span in words for people, exact: `90s`, `5m`, `500ms`.
pub fn span(ms: Millis) -> String {
    for (unit, len) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms != 0 && ms % len == 0 {
            return format!("{}{unit}", ms / len);
        }
    }
    format!("{ms}ms")
}

/// Reads a span with its unit (`500ms`, `90s`, `5m`, `12h`, `30d`); `None` without a unit, with a sign, or beyond 100 years.
pub fn parse_span(text: &str) -> Option<Millis> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let span = text[..digits].parse::<i64>().ok()?.checked_mul(unit)?;
    (span <= 36_525 * 86_400_000).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn known_times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_796_083_199_999, "2026-11-30T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(ms).to_string(), text);
            assert_eq!(text.parse(), Ok(Time(ms)));
        }
        assert_eq!("2000-02-29T00:00:00.1Z".parse(), Ok(Time(951_782_400_100)));
        assert_eq!("2000-02-29T00:00:00Z".parse(), Ok(Time(951_782_400_000)));
    }

    #[test]
    fn every_tenth_hour_there_and_back() {
        for i in 0..40_000 {
            let t = Time(i * 36_000_000 + i);
            assert_eq!(t.to_string().parse(), Ok(t));
        }
    }

    #[test]
    fn wrong_times() {
        for wrong in [
            "",
            "now",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234Z",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000z",
            "２026-01-01T00:00:0Z",
        ] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        for (text, ms) in [("500ms", 500), ("5s", 5000), ("5m", 300_000), ("12h", 43_200_000), ("30d", 2_592_000_000)] {
            assert_eq!(parse_span(text), Some(ms));
            assert_eq!(span(ms), text);
        }
        for wrong in ["", "5", "s", "-5s", "1.5s", "5 s", "5S", "99999999999999999999s", "40000d"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }
}
