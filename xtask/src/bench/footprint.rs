//! What the server takes: memory before the first sign-in and a minute after many, the time of a start, the size of its program.
use super::asked::{emails, sign_ins};
use super::peers::{BetterAuth, Provider};
use super::table::{Aim, Ask, Figure, Row, Unit};
use super::{Bench, CALLERS, IDLE, mega, sign_in_all};
use crate::ports::lasting_address;
use crate::{Failure, process};
use std::process::Command;
use std::time::Duration;

/// How long and how many at once people sign in before the second look at memory, and how long afterwards that is.
const BURST_S: f64 = 10.0;
const BURST: usize = 64;
const AFTER: Duration = Duration::from_secs(60);

pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let bench = Bench::built(&ask.workspace)?;
    let address = lasting_address();
    let (first, _) = bench.start_server(address)?;
    sign_in_all(address)?;
    std::thread::sleep(IDLE);
    let signed_up = first.memory_kb()? as f64 / 1024.0;
    first.stop()?;

    let (mut starts, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..ask.rounds(7) {
        let (server, took) = bench.start_server(address)?;
        starts.push(took.as_secs_f64() * 1000.0);
        std::thread::sleep(IDLE);
        idle.push(server.memory_kb()? as f64 / 1024.0);
        server.stop()?;
    }

    let (server, _) = bench.start_server(address)?;
    let burst = sign_ins("/v1/sessions", "identifier", BURST, &emails(&bench, CALLERS)?);
    let (burst_s, wait) = if ask.quick { (1.0, IDLE) } else { (BURST_S, AFTER) };
    let mut rate = 0.0;
    // What is given back after the first may be kept after the second.
    for _ in 0..2 {
        rate = bench.ask(&server, &burst, burst_s)?.per_s;
        std::thread::sleep(wait);
    }
    let (after, peak) = (server.memory_kb()? as f64 / 1024.0, server.peak_kb()? as f64 / 1024.0);
    server.stop()?;
    println!("  {BURST} signed in for {burst_s} s, {rate:.0} per second");

    let mut rows = vec![
        Row::alone("memory, idle, before the first sign-in", Figure::of(Unit::Mib, &idle), Aim::AtMost(30.0)),
        Row::alone(
            &format!("memory {} s after a second burst of sign-ins", wait.as_secs()),
            Figure::once(Unit::Mib, after),
            Aim::AtMost(60.0),
        ),
        Row::alone("memory in those bursts, the most", Figure::once(Unit::Mib, peak), Aim::None),
        Row::alone(
            &format!("memory after {CALLERS} sign-ups and as many sign-ins"),
            Figure::once(Unit::Mib, signed_up),
            Aim::None,
        ),
        Row::alone("start to ready on an existing database", Figure::of(Unit::Ms, &starts), Aim::AtMost(100.0)),
    ];
    let ours = Figure::of(Unit::Mib, &idle);
    let provider = Provider::start(&bench, &ask.workspace)?;
    rows.push(beside(ours, &provider.name, provider.running.memory_kb()?));
    drop(provider);
    let framework = BetterAuth::start(&bench, &ask.workspace)?;
    rows.push(beside(ours, &framework.name, framework.running.memory_kb()?));
    drop(framework);
    rows.push(binary(&bench, ask)?);
    Ok(rows)
}

fn beside(ours: Figure, name: &str, kb: u64) -> Row {
    let theirs = Figure::once(Unit::Mib, kb as f64 / 1024.0);
    let ratio = Figure::once(Unit::Count, ours.median / theirs.median);
    let what = "memory after the start".to_owned();
    Row {
        what,
        ours,
        beside: Some((format!("{name}, with what it was given"), theirs)),
        ratio: Some(ratio),
        aim: Aim::None,
    }
}

fn binary(bench: &Bench, ask: &Ask) -> Result<Row, Failure> {
    if let Some(shipped) = bench.shipped(ask)? {
        let size = Figure::once(Unit::Mb, mega(std::fs::metadata(shipped.programs.join("portcullis"))?.len()));
        return Ok(Row::alone("size of the program as it is shipped", size, Aim::AtMost(30.0)));
    }
    let bare = bench.folder.join("stripped");
    process::run(Command::new("strip").arg("-o").arg(&bare).arg(bench.programs.join("portcullis")))?;
    let size = Figure::once(Unit::Mb, mega(std::fs::metadata(&bare)?.len()));
    Ok(Row::alone("size of the program, profile release, stripped (not the shipped one)", size, Aim::None))
}
