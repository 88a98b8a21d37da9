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
    let under = start_floor(bench)?;
    let provider = Provider::start(bench, &ask.workspace)?;
    let mut form = form("/token", &provider.basic, "grant_type=refresh_token&refresh_token", &provider.refresh);
    form["next"] = "refresh_token".into();
    let seconds = if ask.quick { 0.5 } else { 2.0 };
    let shipped = bench.shipped(ask)?;
    let shipped =
        shipped.as_ref().map(|shipped| Ok::<_, Failure>((Ours::start(shipped)?, start_floor(shipped)?))).transpose()?;
    let mut asked =
        vec![(&ours.running, refreshes(&ours.tokens)), (&under.0, refreshes(&under.1)), (&provider.running, form)];
    if let Some((ours, (floor, floor_tokens))) = &shipped {
        asked.extend([(&ours.running, refreshes(&ours.tokens)), (floor, refreshes(floor_tokens))]);
    }
    let mut rounds: Vec<Rounds> = asked.iter().map(|_| Rounds::default()).collect();
    // The first round of each warms and is not counted.
    for round in 0..=ask.rounds(11) {
        for (rounds, (program, description)) in rounds.iter_mut().zip(&asked) {
            let one = bench.ask(program, description, seconds)?;
            if round > 0 {
                rounds.push(one);
            }
        }
    }
    let what = format!("refresh on SQLite, {CALLERS} at once");
    let floor_name = "the floor program";
    let them_name = format!("{}, in memory", provider.name);
    let mut rows = Vec::new();
    if let [us, under, them, ..] = &rounds[..] {
        rows.extend(compared((&what, us), (floor_name, under), [Aim::RatioAtLeast(0.7), Aim::AtMost(10.0)]));
        rows.extend(compared((&what, us), (&them_name, them), [Aim::RatioAtLeast(8.0), Aim::None]));
    }
    match &rounds[..] {
        [.., them, us, under] if shipped.is_some() => {
            let what = format!("{what}, as it is shipped");
            rows.extend(compared(
                (&what, us),
                ("the floor program, so built", under),
                [Aim::RatioAtLeast(0.7), Aim::None],
            ));
            rows.extend(compared((&what, us), (&them_name, them), [Aim::RatioAtLeast(8.0), Aim::None]));
        }
        _ => println!("  what is shipped is not built, and not measured"),
    }
    Ok(rows)
}

/// How many, how late and how dear ours are beside others'. The aims are of the rate and of the p99.
fn compared((what, us): (&str, &Rounds), (name, them): (&str, &Rounds), [rate, p99]: [Aim; 2]) -> [Row; 3] {
    [
        Row::paired(what, Unit::PerSecond, &us.per_s(), name, &them.per_s(), rate),
        Row::paired(&format!("{what}, p99"), Unit::Ms, &us.p99_ms(), name, &them.p99_ms(), p99),
        Row::paired(&format!("{what}, processor time"), Unit::Us, &us.cpu_us(), name, &them.cpu_us(), Aim::None),
    ]
}

fn start_floor(bench: &Bench) -> Result<(Running, std::path::PathBuf), Failure> {
    let address = lasting_address();
    let mut command = bench.on_first(&bench.programs.join("portcullis-floor"));
    command.args([&address.to_string(), &path(&bench.folder.join("floor.db")), &CALLERS.to_string()]);
    let (floor, _) = Running::start(command, address, &bench.folder.join("floor.log"))?;
    let tokens = bench.folder.join("floor.tokens");
    std::fs::write(&tokens, (1..=CALLERS).map(|row| format!("{row}.0\n")).collect::<String>())?;
    Ok((floor, tokens))
}
