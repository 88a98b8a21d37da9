//! `portcullis-sim --seeds N [--from M] [--mutant NAME]` runs many worlds; `--seed S [--trace]` one.
use portcullis_sim::{Counts, Lag, Lapse, Mutant, Outcome, Seam, run, run_audit, run_cluster, run_rollback};
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: portcullis-sim [--seeds N] [--from M] [--database | --rollback | --cluster | --audit] [--mutant NAME]
       portcullis-sim --seed S [--database | --rollback | --cluster | --audit] [--trace] [--mutant NAME]
Runs N seeded worlds of each kind (1000 unless told) and checks the invariants of DESIGN §3. Exit code 1: one did not hold, or a
kind of event never happened. Only one kind: --database, the world of one database (a single seed's, unless told), --rollback, that of
replaced databases, --cluster, that of several nodes and relays, or --audit, that of the audit trail. --trace tells the whole run. --mutant plants a bug (the list:
--mutant list).";

struct Options {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    kind: Option<Kind>,
    trace: bool,
    mutant: Option<Bug>,
}

/// The worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Database,
    Rollback,
    Cluster,
    Audit,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Database, Self::Rollback, Self::Cluster, Self::Audit];
    /// The word that asks for it.
    fn flag(self) -> &'static str {
        match self {
            Self::Database => "",
            Self::Rollback => " --rollback",
            Self::Cluster => " --cluster",
            Self::Audit => " --audit",
        }
    }
}

/// A planted bug, in the world that has it.
#[derive(Debug, Clone, Copy)]
enum Bug {
    Mutant(Mutant),
    Lapse(Lapse),
    Lag(Lag),
    Seam(Seam),
}

impl Bug {
    fn parse(name: &str) -> Option<Self> {
        let lapse = || Lapse::parse(name).map(Self::Lapse);
        let lag = || Lag::parse(name).map(Self::Lag);
        let mutant = Mutant::parse(name).map(Self::Mutant);
        mutant.or_else(lapse).or_else(lag).or_else(|| Seam::parse(name).map(Self::Seam))
    }
    fn name(self) -> &'static str {
        match self {
            Self::Mutant(mutant) => mutant.name(),
            Self::Lapse(lapse) => lapse.name(),
            Self::Lag(lag) => lag.name(),
            Self::Seam(seam) => seam.name(),
        }
    }
    fn kind(self) -> Kind {
        match self {
            Self::Mutant(_) => Kind::Database,
            Self::Lapse(_) => Kind::Rollback,
            Self::Lag(_) => Kind::Cluster,
            Self::Seam(_) => Kind::Audit,
        }
    }
    fn list() -> String {
        let line = |name: &str, breaks: &str| format!("{name:30} breaks {breaks}\n");
        let mutants = Mutant::ALL.iter().map(|mutant| line(mutant.name(), mutant.breaks()));
        let lapses = Lapse::ALL.iter().map(|lapse| line(lapse.name(), lapse.breaks()));
        let lags = Lag::ALL.iter().map(|lag| line(lag.name(), lag.breaks()));
        let seams = Seam::ALL.iter().map(|seam| line(seam.name(), seam.breaks()));
        mutants.chain(lapses).chain(lags).chain(seams).collect()
    }
}

/// One world of a seed.
fn world(seed: u64, kind: Kind, bug: Option<Bug>, story: bool) -> Outcome {
    match (kind, bug) {
        (Kind::Rollback, Some(Bug::Lapse(lapse))) => run_rollback(seed, Some(lapse), story),
        (Kind::Rollback, _) => run_rollback(seed, None, story),
        (Kind::Cluster, Some(Bug::Lag(lag))) => run_cluster(seed, Some(lag), story),
        (Kind::Cluster, _) => run_cluster(seed, None, story),
        (Kind::Audit, Some(Bug::Seam(seam))) => run_audit(seed, Some(seam), story),
        (Kind::Audit, _) => run_audit(seed, None, story),
        (Kind::Database, Some(Bug::Mutant(mutant))) => run(seed, Some(mutant), story),
        (Kind::Database, _) => run(seed, None, story),
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options { seeds: 1000, from: 0, seed: None, kind: None, trace: false, mutant: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value\n{USAGE}"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("not a number: {text}\n{USAGE}"));
        match word.as_str() {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--seed" => options.seed = Some(number(value()?)?),
            "--database" => options.kind = Some(Kind::Database),
            "--rollback" => options.kind = Some(Kind::Rollback),
            "--cluster" => options.kind = Some(Kind::Cluster),
            "--audit" => options.kind = Some(Kind::Audit),
            "--trace" => options.trace = true,
            "--mutant" => {
                let name = value()?;
                let bug = Bug::parse(&name).ok_or_else(|| format!("no such mutant; there are\n{}", Bug::list()))?;
                options.kind = Some(bug.kind());
                options.mutant = Some(bug);
            }
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says what went wrong, tells the story, and how to see it again.
fn explain(outcome: &Outcome, kind: Kind, options: &Options, lines: usize) {
    let Some(violation) = &outcome.violation else { return };
    let again = world(outcome.seed, kind, options.mutant, true);
    say(&format!("seed {}: {} does not hold at {} ms", outcome.seed, violation.invariant, violation.at));
    say(&format!("  {}", violation.detail));
    say("  the last events:");
    for line in again.story.iter().skip(again.story.len().saturating_sub(lines)) {
        say(&format!("  {line}"));
    }
    let planted = options.mutant.map(|bug| format!(" --mutant {}", bug.name())).unwrap_or_default();
    let (seed, which) = (outcome.seed, kind.flag());
    say(&format!("replay: cargo run -p portcullis-sim --release -- --seed {seed}{which} --trace{planted}"));
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let kind = options.kind.unwrap_or(Kind::Database);
    let outcome = world(seed, kind, options.mutant, options.trace);
    if options.trace && outcome.violation.is_none() {
        outcome.story.iter().for_each(|line| say(line));
    }
    explain(&outcome, kind, options, usize::MAX);
    say(&format!("seed {seed}: {} events, hash {:016x}", outcome.events, outcome.hash));
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(options: &Options) -> ExitCode {
    let (mut counts, mut events) = (Counts::default(), 0);
    for seed in options.from..options.from.saturating_add(options.seeds) {
        // A planted bug is in one of the worlds only; and one may be asked for.
        for kind in Kind::ALL {
            if options.kind.is_some_and(|only| only != kind) {
                continue;
            }
            let outcome = world(seed, kind, options.mutant, false);
            counts.merge(&outcome.counts);
            events += outcome.events;
            if outcome.violation.is_some() {
                explain(&outcome, kind, options, 40);
                say(&format!("found by seed {} of {} (from {})", seed - options.from + 1, options.seeds, options.from));
                return ExitCode::FAILURE;
            }
        }
    }
    say(&format!("{} seeds from {}, {events} events, every invariant held", options.seeds, options.from));
    for (kind, n) in counts.rows() {
        say(&format!("{n:>12}  {kind}"));
    }
    let missing = counts.missing();
    if options.mutant.is_none() && options.kind.is_none_or(|only| only == Kind::Database) && !missing.is_empty() {
        say(&format!("never happened, so nothing was proven about: {}", missing.join(", ")));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    match options() {
        Ok(options) => match options.seed {
            Some(seed) => one(seed, &options),
            None => many(&options),
        },
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(2)
        }
    }
}
