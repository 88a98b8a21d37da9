//! The long tiers: the simulator over many more seeds than the test run takes, and many more kills of a real server.
use crate::{Failure, process, workspace};

/// `soak kills [--points N]`: a server under load is killed that often; a journal of what was answered is held against it.
fn kills(words: &[&str]) -> Result<(), Failure> {
    let points = match words {
        [] => "300",
        ["--points", n] if n.parse::<u32>().is_ok_and(|n| n > 0) => n,
        _ => return Err(Failure::Usage("soak kills knows --points and a number".into())),
    };
    process::run(
        process::cargo()
            .args(["test", "--release", "--locked", "-p", "portcullis-server", "--test", "it"])
            .args(["--", "--nocapture", "killed::it_costs_nobody"])
            .env("PORTCULLIS_TEST_KILLS", points)
            .current_dir(workspace::root()),
    )
}

/// `soak cluster [--rounds N] [--seed S]`: several nodes, and so many things that go wrong; and one that stands still for a minute.
fn cluster(words: &[&str]) -> Result<(), Failure> {
    let (mut rounds, mut seed) = ("200".to_owned(), "1".to_owned());
    let mut rest = words.iter();
    while let Some(flag) = rest.next() {
        let target = match *flag {
            "--rounds" => &mut rounds,
            "--seed" => &mut seed,
            other => return Err(Failure::Usage(format!("soak cluster knows --rounds and --seed, not `{other}`"))),
        };
        let value = rest.next().filter(|value| value.parse::<u64>().is_ok());
        *target = (*value.ok_or_else(|| Failure::Usage(format!("{flag} needs a number")))?).to_owned();
    }
    process::run(
        process::cargo()
            .args(["test", "--release", "--locked", "-p", "portcullis-server", "--test", "it"])
            .args(["--", "--nocapture", "cluster::every_acknowledged_end", "paused::"])
            .env("PORTCULLIS_TEST_PAUSE_S", "60")
            .env("PORTCULLIS_TEST_CLUSTER_ROUNDS", rounds)
            .env("PORTCULLIS_TEST_CLUSTER_SEED", seed)
            .current_dir(workspace::root()),
    )
}

/// `soak [--seeds N] [--from M]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    if let ["kills", rest @ ..] = words {
        return kills(rest);
    }
    if let ["cluster", rest @ ..] = words {
        return cluster(rest);
    }
    let (mut seeds, mut from) = ("20000".to_owned(), "1000000".to_owned());
    let mut rest = words.iter();
    while let Some(flag) = rest.next() {
        let target = match *flag {
            "--seeds" => &mut seeds,
            "--from" => &mut from,
            other => return Err(Failure::Usage(format!("soak knows --seeds and --from, not `{other}`"))),
        };
        let value = rest.next().ok_or_else(|| Failure::Usage(format!("{flag} needs a number")))?;
        value.parse::<u64>().map_err(|_| Failure::Usage(format!("{flag} needs a number, not `{value}`")))?;
        *target = (*value).to_owned();
    }
    process::run(
        process::cargo()
            .args(["run", "--release", "--locked", "-p", "portcullis-sim", "--", "--seeds", &seeds, "--from", &from])
            .current_dir(workspace::root()),
    )
}
