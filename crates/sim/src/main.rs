//! `portcullis-sim --seeds N [--from M] [--mutant NAME]` runs many worlds; `--seed S [--trace]` one.
use portcullis_sim::{Counts, Mutant, Outcome, run};
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: portcullis-sim [--seeds N] [--from M] [--mutant NAME]
       portcullis-sim --seed S [--trace] [--mutant NAME]
Runs N seeded worlds (1000 unless told) and checks the invariants of DESIGN §3. Exit code 1: one did not hold, or a kind of
event never happened. --mutant plants a bug (the list: --mutant list).";

struct Options {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    trace: bool,
    mutant: Option<Mutant>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seeds: 1000, from: 0, seed: None, trace: false, mutant: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value\n{USAGE}"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("not a number: {text}\n{USAGE}"));
        match word.as_str() {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--seed" => options.seed = Some(number(value()?)?),
            "--trace" => options.trace = true,
            "--mutant" => {
                let name = value()?;
                let names: Vec<String> =
                    Mutant::ALL.iter().map(|m| format!("{:30} breaks {}", m.name(), m.breaks())).collect();
                options.mutant = Some(
                    Mutant::parse(&name).ok_or_else(|| format!("no such mutant; there are\n{}", names.join("\n")))?,
                );
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
fn explain(outcome: &Outcome, mutant: Option<Mutant>, lines: usize) {
    let Some(violation) = &outcome.violation else { return };
    let again = run(outcome.seed, mutant, true);
    say(&format!("seed {}: {} does not hold at {} ms", outcome.seed, violation.invariant, violation.at));
    say(&format!("  {}", violation.detail));
    say("  the last events:");
    for line in again.story.iter().skip(again.story.len().saturating_sub(lines)) {
        say(&format!("  {line}"));
    }
    let planted = mutant.map(|m| format!(" --mutant {}", m.name())).unwrap_or_default();
    say(&format!("replay: cargo run -p portcullis-sim --release -- --seed {} --trace{planted}", outcome.seed));
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let outcome = run(seed, options.mutant, options.trace);
    if options.trace && outcome.violation.is_none() {
        outcome.story.iter().for_each(|line| say(line));
    }
    explain(&outcome, options.mutant, 400);
    say(&format!("seed {seed}: {} events, hash {:016x}", outcome.events, outcome.hash));
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(options: &Options) -> ExitCode {
    let (mut counts, mut events) = (Counts::default(), 0);
    for seed in options.from..options.from.saturating_add(options.seeds) {
        let outcome = run(seed, options.mutant, false);
        counts.merge(&outcome.counts);
        events += outcome.events;
        if outcome.violation.is_some() {
            explain(&outcome, options.mutant, 40);
            say(&format!("found by seed {} of {} (from {})", seed - options.from + 1, options.seeds, options.from));
            return ExitCode::FAILURE;
        }
    }
    say(&format!("{} seeds from {}, {events} events, every invariant held", options.seeds, options.from));
    for (kind, n) in counts.rows() {
        say(&format!("{n:>12}  {kind}"));
    }
    let missing = counts.missing();
    if !missing.is_empty() {
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
