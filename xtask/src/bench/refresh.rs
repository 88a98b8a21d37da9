//! Refreshes: ours with every rule and the audit, on SQLite with full sync; the floor program; a provider that keeps everything in
//! memory. And one node on PostgreSQL beside pgbench.
use super::asked::{Ours, Rounds, form, refreshes};
use super::cluster::{CROWD, Cluster, FEW_CLIENTS};
use super::peers::Provider;
use super::table::{Aim, Ask, Row, Unit};
use super::{Bench, CALLERS, Running, path};
use crate::Failure;
use crate::ports::lasting_address;

pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let bench = Bench::built(&ask.workspace)?;
    let mut rows = on_sqlite(&bench, ask)?;
    let cluster = Cluster::start(&bench, &ask.workspace.root, 1)?;
    let version = cluster.postgres.version()?;
    // A node has few connections and gathers on them those who wait; pgbench's clients are connections.
    for (callers, clients, aim) in
        [(CROWD, FEW_CLIENTS, Aim::RatioAtLeast(0.8)), (CALLERS, FEW_CLIENTS, Aim::None), (CALLERS, CALLERS, Aim::None)]
    {
        let seconds = if ask.quick { 1 } else { 3 };
        let (node, pgbench) = cluster.beside_pgbench((callers, clients), ask.rounds(5), seconds)?;
        rows.push(Row::paired(
            &format!("refresh on PostgreSQL, {callers} at once"),
            Unit::PerSecond,
            &node,
            &format!("pgbench {version}, the bare transaction, {clients} connections"),
            &pgbench,
            aim,
        ));
    }
    cluster.nodes.into_iter().try_for_each(Running::stop)?;
    Ok(rows)
}

fn on_sqlite(bench: &Bench, ask: &Ask) -> Result<Vec<Row>, Failure> {
    let ours = Ours::start(bench)?;
    let (floor, floor_tokens) = floor(bench)?;
    let provider = Provider::start(bench, &ask.workspace)?;
    let mut form = form("/token", &provider.basic, "grant_type=refresh_token&refresh_token", &provider.refresh);
    form["next"] = "refresh_token".into();
    let seconds = if ask.quick { 0.5 } else { 2.0 };
    let mut rounds = [Rounds::default(), Rounds::default(), Rounds::default()];
    // The first round of each warms and is not counted.
    for round in 0..=ask.rounds(11) {
        let all = [
            bench.ask(&ours.running, &refreshes(&ours.tokens), seconds)?,
            bench.ask(&floor, &refreshes(&floor_tokens), seconds)?,
            bench.ask(&provider.running, &form, seconds)?,
        ];
        if round > 0 {
            rounds.iter_mut().zip(all).for_each(|(rounds, one)| rounds.push(one));
        }
    }
    let [us, under, them] = rounds;
    let what = format!("refresh on SQLite, {CALLERS} at once");
    let floor_name = "the floor program";
    let them_name = format!("{}, in memory", provider.name);
    let rate =
        |theirs: &Rounds, name: &str, aim| Row::paired(&what, Unit::PerSecond, &us.per_s(), name, &theirs.per_s(), aim);
    let p99 = |theirs: &Rounds, name: &str, aim| {
        Row::paired(&format!("{what}, p99"), Unit::Ms, &us.p99_ms(), name, &theirs.p99_ms(), aim)
    };
    let cpu = |theirs: &Rounds, name: &str| {
        Row::paired("processor time of a refresh", Unit::Us, &us.cpu_us(), name, &theirs.cpu_us(), Aim::None)
    };
    Ok(vec![
        rate(&under, floor_name, Aim::RatioAtLeast(0.7)),
        rate(&them, &them_name, Aim::RatioAtLeast(8.0)),
        p99(&under, floor_name, Aim::AtMost(10.0)),
        p99(&them, &them_name, Aim::None),
        cpu(&under, floor_name),
        cpu(&them, &them_name),
    ])
}

fn floor(bench: &Bench) -> Result<(Running, std::path::PathBuf), Failure> {
    let address = lasting_address();
    let mut command = bench.on_first(&bench.programs.join("portcullis-floor"));
    command.args([&address.to_string(), &path(&bench.folder.join("floor.db")), &CALLERS.to_string()]);
    let (floor, _) = Running::start(command, address, &bench.folder.join("floor.log"))?;
    let tokens = bench.folder.join("floor.tokens");
    std::fs::write(&tokens, (1..=CALLERS).map(|row| format!("{row}.0\n")).collect::<String>())?;
    Ok((floor, tokens))
}
