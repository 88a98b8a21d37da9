//! `cargo xtask bench [SECTION...]`: one table of what was measured, beside the machine's limit or a peer, all from one run.
//!
//! A section measures and gives rows. Absolute figures belong to one machine on one day; a ratio is of figures that were taken
//! in turns in the same run, and is the median of the rounds' ratios. Whether an aim is met is said, and ends nothing: a busy
//! machine misses many.
use crate::Failure;
use crate::workspace::{self, Workspace};
use std::fmt::Write as _;
use std::time::Instant;

/// What a section is told.
#[derive(Debug)]
pub struct Ask {
    /// The repository.
    pub workspace: Workspace,
    /// Few and short rounds: shows that it runs, measures nothing.
    pub quick: bool,
}

impl Ask {
    /// How many rounds, of as many when measured in earnest.
    pub fn rounds(&self, earnest: usize) -> usize {
        if self.quick { 2 } else { earnest }
    }
}

/// What a section does.
type Section = fn(&Ask) -> Result<Vec<Row>, Failure>;

/// The sections, in the order of the table.
const SECTIONS: &[(&str, Section)] = &[
    ("refresh", super::refresh::section),
    ("sign_in", super::sign_in::section),
    ("introspect", super::introspect::section),
    ("footprint", super::footprint::section),
    ("verify", super::verify::section),
    ("revoke", super::revoke::section),
    ("growth", super::growth::section),
];

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A rate.
    PerSecond,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// 2^20 bytes.
    Mib,
    /// 10^6 bytes.
    Mb,
    /// Bytes.
    Bytes,
    /// A bare number.
    Count,
}

/// The median of several rounds, and how far apart they were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// What it counts.
    pub unit: Unit,
}

impl Figure {
    /// Of all rounds.
    pub fn of(unit: Unit, rounds: &[f64]) -> Self {
        let (low, high) = (rounds.iter().copied().fold(f64::MAX, f64::min), rounds.iter().copied().fold(0.0, f64::max));
        Self { median: super::median(rounds.to_vec()), low, high, unit }
    }

    /// Measured once.
    pub const fn once(unit: Unit, value: f64) -> Self {
        Self { median: value, low: value, high: value, unit }
    }

    fn words(&self) -> String {
        let unit = match self.unit {
            Unit::PerSecond => "/s",
            Unit::Ms => " ms",
            Unit::Us => " µs",
            Unit::Mib => " MiB",
            Unit::Mb => " MB",
            Unit::Bytes => " B",
            Unit::Count => "",
        };
        let median = number(self.median);
        if self.low == self.high {
            return format!("{median}{unit}");
        }
        format!("{median}{unit} ({} to {})", number(self.low), number(self.high))
    }
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => {
            let digits = format!("{:.0}", value);
            let mut grouped = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What a row is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// Our own figure is at most this.
    AtMost(f64),
    /// Nothing; it is told.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done, and how often at once.
    pub what: String,
    /// What we did.
    pub ours: Figure,
    /// What it stands beside, by name and version (a limit of the machine, a peer, or ours at another size), and its figure.
    pub beside: Option<(String, Figure)>,
    /// Ours through theirs.
    pub ratio: Option<Figure>,
    /// What was wanted.
    pub aim: Aim,
}

impl Row {
    /// Two series of rounds that were taken in turns.
    pub fn paired(what: &str, unit: Unit, ours: &[f64], name: &str, theirs: &[f64], aim: Aim) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| our / their).collect();
        Self {
            what: what.to_owned(),
            ours: Figure::of(unit, ours),
            beside: Some((name.to_owned(), Figure::of(unit, theirs))),
            ratio: Some(Figure::of(Unit::Count, &ratios)),
            aim,
        }
    }

    /// A figure by itself.
    pub fn alone(what: &str, ours: Figure, aim: Aim) -> Self {
        Self { what: what.to_owned(), ours, beside: None, ratio: None, aim }
    }

    /// Whether what was wanted was reached; `None` when nothing was.
    pub fn met(&self) -> Option<bool> {
        match self.aim {
            Aim::None => None,
            Aim::AtMost(most) => Some(self.ours.median <= most),
            Aim::RatioAtLeast(least) => self.ratio.map(|ratio| ratio.median >= least),
            Aim::RatioAtMost(most) => self.ratio.map(|ratio| ratio.median <= most),
        }
    }

    fn line(&self) -> String {
        let (name, theirs) = self
            .beside
            .as_ref()
            .map_or((String::new(), String::new()), |(name, figure)| (name.clone(), figure.words()));
        let aim = match self.aim {
            Aim::None => String::new(),
            Aim::AtMost(most) => format!("at most {}", Figure::once(self.ours.unit, most).words()),
            Aim::RatioAtLeast(least) => format!("ratio {} or more", number(least)),
            Aim::RatioAtMost(most) => format!("ratio {} or less", number(most)),
        };
        let met = self.met().map_or("", |met| if met { "yes" } else { "**no**" });
        let ratio = self.ratio.map_or(String::new(), |ratio| ratio.words());
        format!("| {} | {} | {name} | {theirs} | {ratio} | {aim} | {met} |", self.what, self.ours.words())
    }
}

/// `bench [SECTION...] [--quick]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let quick = words.contains(&"--quick");
    let wanted: Vec<&str> = words.iter().copied().filter(|word| *word != "--quick").collect();
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|word| !names.contains(word)) {
        return Err(Failure::Usage(format!("`bench {unknown}`: there are {}", names.join(", "))));
    }
    let ask = Ask { workspace: workspace::load()?, quick };
    let before = machine();
    let mut text = String::from(
        "| what | ours | beside it | its figure | ours / its | aim | met |\n|---|--:|---|--:|--:|---|---|\n",
    );
    let mut missed = 0;
    for (name, section) in SECTIONS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        let begun = Instant::now();
        let rows = section(&ask)?;
        println!("{name}: {} rows in {:.1} min", rows.len(), begun.elapsed().as_secs_f64() / 60.0);
        for row in rows {
            missed += usize::from(row.met() == Some(false));
            println!("{}", row.line()); // at once: a section that comes later may be broken off
            let _ = writeln!(text, "{}", row.line());
        }
    }
    let _ = writeln!(text, "\nBefore: {before}. After: {}.", machine());
    let file = ask.workspace.target.join("bench-table.md");
    std::fs::write(&file, &text)?;
    println!("\n{text}\n{missed} aims missed{}", if quick { " (--quick measures nothing)" } else { "" });
    Ok(())
}

/// What it was measured on, and how much else went on.
fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (cpu, load) = (read("/proc/cpuinfo"), read("/proc/loadavg"));
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_start_matches([':', '\t', ' ']);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores, load average {}", load.split(' ').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Aim, Figure, Row, Unit, number};

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0451, "0.045"),
            (0.123, "0.12"),
            (12.34, "12.3"),
            (123.4, "123"),
            (31_500.0, "31,500"),
            (1_000_000.0, "1,000,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_ratio_is_of_rounds_that_were_neighbours() {
        let row =
            Row::paired("x", Unit::PerSecond, &[8.0, 2.0, 80.0], "y", &[10.0, 2.0, 100.0], Aim::RatioAtLeast(0.7));
        let ratio = row.ratio.unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (0.8, 0.8, 1.0));
        assert_eq!(row.met(), Some(true));
        assert_eq!(Row::alone("x", Figure::once(Unit::Mib, 31.0), Aim::AtMost(30.0)).met(), Some(false));
    }
}
