//! `cargo xtask bench revoke`: how long after a revocation every verifier refuses, with many verifiers.
//!
//! The server has the first half of the cores; callers, load and all verifiers share the other. A verifier writes down when its
//! verdicts rest on a position, by the clock that the caller uses, too. *Applied* is told from when the caller **sent** its call,
//! and of the **last** verifier: the commit lies behind that and is not seen from outside, so the figure is never better than the
//! truth. *Enforced* is what the server says of it: from the commit until all have acknowledged.
//!
//! With `PORTCULLIS_BENCH_BESIDE` another folder of programs is measured in turns with the first.
use super::Bench;
use super::ends::{self, Ended, Followers};
use super::growth::grouped;
use super::node::{self, Node, Sheet, p99};
use super::table::{Aim, Ask, Figure, Row, Unit};
use crate::Failure;
use serde_json::json;
use std::path::{Path, PathBuf};

const BESIDE_VARIABLE: &str = "PORTCULLIS_BENCH_BESIDE";
/// A plan of ends is done within this, which is less than the administrator's token lives.
const WATCH_S: &str = "240";
/// One end and the next do not meet: for each verifier, and at least.
const PAUSE_FOR_EACH_US: usize = 150;
const PAUSE_MS: usize = 25;
/// The storm: so many callers that rest for so long after each answer send about a thousand calls in a second.
const STORM_CALLERS: usize = 32;
const STORM_PAUSE_MS: usize = 27;
const STORM_S: &str = "2.5";
/// A round of refreshes beside it.
const REFRESH_S: &str = "2";
/// Verifiers that follow the storm.
const STORM_VERIFIERS: usize = 10;

/// How much is measured.
struct Extent {
    rounds: usize,
    sessions: u64,
    /// Verifiers, with the aims for applied and enforced in milliseconds, and how many ends they are watched at in a round.
    fleets: [(usize, f64, f64, usize); 2],
    everyone: usize,
    storms: usize,
    subscribers: usize,
}

const EARNEST: Extent = Extent {
    rounds: 3,
    sessions: 2_000_000,
    fleets: [(100, 5.0, 10.0, 100), (1_000, 25.0, 50.0, 50)],
    everyone: 10,
    storms: 6,
    subscribers: 10_000,
};
const QUICK: Extent = Extent {
    rounds: 2,
    sessions: 2_000,
    fleets: [(10, 5.0, 10.0, 10), (30, 25.0, 50.0, 10)],
    everyone: 2,
    storms: 2,
    subscribers: 100,
};

/// The section.
pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let mut extent = if ask.quick { QUICK } else { EARNEST };
    extent.sessions = node::sessions(extent.sessions)?;
    let bench = Bench::built(&ask.workspace)?;
    let mut builds = vec![bench.programs.clone()];
    builds.extend(std::env::var_os(BESIDE_VARIABLE).map(PathBuf::from));
    let (first, _) = Node::filled(&bench, &builds[0], "revoke-0", extent.sessions, &["ascending"])?;
    let nodes = match builds.get(1) {
        None => vec![first],
        Some(programs) => {
            let (first, second) = Node::like(first, programs, "revoke-1")?;
            vec![first, second]
        }
    };
    println!("revoke: {} sessions are there", extent.sessions);
    let mut sheets: Vec<Sheet> = nodes.iter().map(|_| Sheet::default()).collect();
    for _ in 0..extent.rounds {
        for fleet in extent.fleets {
            for (node, sheet) in nodes.iter().zip(&mut sheets) {
                watched(node, fleet, &extent, sheet)?;
            }
        }
    }
    let mut rows = Vec::new();
    let beside = (sheets.len() > 1).then(|| sheets.pop()).flatten();
    for sheet in sheets {
        rows.extend(sheet.rows(beside.as_ref()));
    }
    for node in &nodes {
        rows.extend(storm(node, extent.storms)?);
    }
    nodes.into_iter().try_for_each(|node| node.running.stop())?;
    for programs in &builds {
        rows.extend(subscribers(&bench, programs, extent.subscribers)?);
    }
    Ok(rows)
}

/// Ends of accounts, then of everyone, one after the other, with so many verifiers.
fn watched(
    node: &Node<'_>,
    (count, applied_aim, enforced_aim, ends): (usize, f64, f64, usize),
    extent: &Extent,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let mut fleet = node.followers(count, 1)?;
    let pause_ms = (count * PAUSE_FOR_EACH_US / 1000).max(PAUSE_MS);
    let accounts = node.accounts()?;
    let plan = |query: &str, skip: usize| -> Result<String, Failure> {
        let admin = node.admin()?;
        let line = |id: &String| format!("DELETE /v1/admin/accounts/{id}/sessions{query} {admin}\n");
        Ok(accounts.iter().cycle().skip(skip).take(ends).map(line).collect())
    };
    let name = |what: &str| format!("{count} verifiers, {what}");
    // Those of the round before are gone, and their leases are waited for until they have ended.
    let first = plan("?wait=enforced", 0)?.lines().take(1).map(|line| format!("{line}\n")).collect::<String>();
    node.ends(1, WATCH_S, 0, &first)?;
    let mut costs = |fleet: &[Followers], query: &str, skip: usize, what: &str| {
        let spent = || {
            let own: f64 = fleet.iter().map(Followers::cpu_ms).sum::<Result<f64, Failure>>()?;
            Ok::<_, Failure>((node.running.cpu_ms()?, own))
        };
        let (plan, before) = (plan(query, skip)?, spent()?);
        let ended = node.ends(1, WATCH_S, pause_ms, &plan)?;
        let after = spent()?;
        let each = |ms: f64| ms * 1000.0 / (ended.len() * count) as f64;
        let what = name(&format!("processor for each at each end{what}, renewals of leases with it"));
        sheet.add(&format!("{what}: the server's"), Unit::Us, Aim::None, each(after.0 - before.0));
        sheet.add(&format!("{what}: the verifier's"), Unit::Us, Aim::None, each(after.1 - before.1));
        Ok::<_, Failure>(ended)
    };
    let ended = costs(&fleet, "", 0, "")?;
    let waited = costs(&fleet, "?wait=enforced", ends, " that is waited for")?;
    applied(&mut fleet, &ended, &name("an account's end"), applied_aim, sheet)?;
    enforced(&waited, &name("an account's end"), enforced_aim, sheet);

    let (mut ended, mut waited) = (Vec::new(), Vec::new());
    let everyone = extent.everyone;
    let name = |what: &str| name(&format!("everyone ({} sessions){what}", grouped(extent.sessions)));
    for n in 0..everyone * 2 {
        // Each ends the administrator's session, too.
        let admin = node.admin()?;
        let body = json!({ "everyone": true, "reason": "a bench" });
        let query = if n < everyone { "" } else { "?wait=enforced" };
        let plan = format!("POST /v1/admin/revocations{query} {admin} {body}\n");
        let all = if n < everyone { &mut ended } else { &mut waited };
        all.extend(node.ends(1, WATCH_S, 0, &plan)?);
    }
    let took = ended.iter().map(|e| (e.answered_us - e.sent_us) / 1000.0).collect();
    let whole = name(": answered, so committed");
    sheet.add(&format!("{whole} (slowest)"), Unit::Ms, Aim::AtMost(50.0), p99(took));
    applied(&mut fleet, &ended, &name(""), applied_aim, sheet)?;
    enforced(&waited, &name(""), enforced_aim, sheet);
    Ok(())
}

fn applied(fleet: &mut [Followers], ended: &[Ended], what: &str, aim: f64, sheet: &mut Sheet) -> Result<(), Failure> {
    let at = ends::applied(fleet, ended)?;
    let last =
        |(end, at): (&Ended, &Vec<f64>)| (at.iter().copied().fold(f64::MIN, f64::max) - end.sent_us).max(0.0) / 1000.0;
    let lasts: Vec<f64> = ended.iter().zip(&at).map(last).collect();
    let all = ended.iter().zip(&at).flat_map(|(end, at)| at.iter().map(|at| (at - end.sent_us) / 1000.0)).collect();
    let answer = ended.iter().map(|e| (e.answered_us - e.sent_us) / 1000.0).collect();
    sheet.add(
        &format!("{what}: applied at the last one, from sending, p99"),
        Unit::Ms,
        Aim::AtMost(aim),
        p99(lasts.clone()),
    );
    sheet.add(
        &format!("{what}: applied at the last one, from sending, p50"),
        Unit::Ms,
        Aim::None,
        super::median(lasts),
    );
    sheet.add(&format!("{what}: applied at any, from sending, p99"), Unit::Ms, Aim::None, p99(all));
    sheet.add(&format!("{what}: the call's answer, p50"), Unit::Ms, Aim::None, super::median(answer));
    Ok(())
}

fn enforced(waited: &[Ended], what: &str, aim: f64, sheet: &mut Sheet) {
    let took: Vec<f64> = waited.iter().map(|e| e.took_ms).collect();
    let call = waited.iter().map(|e| (e.answered_us - e.sent_us) / 1000.0).collect();
    sheet.add(&format!("{what}: enforced, from the commit, p99"), Unit::Ms, Aim::AtMost(aim), p99(took.clone()));
    sheet.add(&format!("{what}: enforced, from the commit, p50"), Unit::Ms, Aim::None, super::median(took));
    sheet.add(&format!("{what}: the whole call that waits, p99"), Unit::Ms, Aim::None, p99(call));
    let incomplete = waited.iter().filter(|e| !e.complete).count();
    sheet.add(&format!("{what}: not complete"), Unit::Count, Aim::AtMost(0.0), incomplete as f64);
}

/// The p99 of refreshes beside a storm of ends, against the quiet before.
fn storm(node: &Node<'_>, rounds: usize) -> Result<Vec<Row>, Failure> {
    let chains = node.chains(&node.sign_in(super::CALLERS, 1)?)?;
    let _fleet = node.followers(STORM_VERIFIERS, 1)?;
    let accounts = node.accounts()?;
    node.refresh(&chains, "1")?; // warms caches
    let (mut quiet, mut stormy, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut quiet_rate, mut stormy_rate) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (rate, p99) = node.refresh(&chains, REFRESH_S)?;
        quiet.push(p99);
        quiet_rate.push(rate);
        let admin = node.admin()?;
        let line = |id: &String| format!("DELETE /v1/admin/accounts/{id}/sessions {admin}\n");
        let plan: String = accounts.iter().cycle().take(10_000).map(line).collect();
        let (ended, refreshed) = std::thread::scope(|scope| {
            let storm = scope.spawn(|| node.ends(STORM_CALLERS, STORM_S, STORM_PAUSE_MS, &plan));
            std::thread::sleep(std::time::Duration::from_millis(250));
            let refreshed = node.refresh(&chains, REFRESH_S);
            (storm.join(), refreshed)
        });
        let ended = ended.map_err(|_| Failure::Missing("the storm panicked".into()))??;
        let (rate, p99) = refreshed?;
        rates.push(ends::rate(&ended));
        stormy.push(p99);
        stormy_rate.push(rate);
    }
    let what = "refresh p99, 32 callers, beside a storm of single ends";
    Ok(vec![
        Row::paired(what, Unit::Ms, &stormy, "without the storm", &quiet, Aim::RatioAtMost(2.0)),
        Row::paired("its rate", Unit::PerSecond, &stormy_rate, "without the storm", &quiet_rate, Aim::None),
        Row::alone(
            &format!("ends in the storm, with {STORM_VERIFIERS} verifiers"),
            Figure::of(Unit::PerSecond, &rates),
            Aim::None,
        ),
    ])
}

/// Memory of a server with very many verifiers. The bound is long, so that their streams are what is measured: each renewal holds
/// another connection for ten seconds, and the server takes 20,000.
fn subscribers(bench: &Bench, programs: &Path, count: usize) -> Result<Vec<Row>, Failure> {
    let node = Node::start(bench, programs, "subscribers", &[("PORTCULLIS_BOUND", "2m")])?;
    let before_kb = node.running.memory_kb()?;
    let mut fleet = node.followers(count, 3)?;
    let account = post_account(&node)?;
    let plan = format!("DELETE /v1/admin/accounts/{account}/sessions {}\n", node.admin()?);
    let ended = node.ends(1, WATCH_S, 0, &plan)?;
    let at = ends::applied(&mut fleet, &ended)?;
    let last = at.iter().flatten().copied().fold(f64::MIN, f64::max);
    let applied_ms = ended.first().map_or(0.0, |end| (last - end.sent_us) / 1000.0);
    let (after_kb, files) = (node.running.memory_kb()?, node.files()?);
    let streams = node.metric("portcullis_feed_streams")?;
    let own_kb = fleet.iter().map(Followers::memory_kb).sum::<Result<u64, Failure>>()?;
    drop(fleet);
    node.running.stop()?;
    std::fs::remove_dir_all(bench.folder.join("subscribers"))?;
    let name = |what: &str| format!("{streams:.0} subscribers, {files} open files: {what}");
    let each = |kb: u64| kb as f64 * 1024.0 / count as f64;
    Ok(vec![
        Row::alone(
            &name("memory of the server"),
            Figure::once(Unit::Mib, after_kb as f64 / 1024.0),
            Aim::AtMost(300.0),
        ),
        Row::alone(&name("of that for each"), Figure::once(Unit::Bytes, each(after_kb - before_kb)), Aim::None),
        Row::alone(&name("each at home"), Figure::once(Unit::Bytes, each(own_kb)), Aim::None),
        Row::alone(&name("one end applied at the last"), Figure::once(Unit::Ms, applied_ms), Aim::None),
    ])
}

fn post_account(node: &Node<'_>) -> Result<String, Failure> {
    let body = json!({ "email": "one@example.org", "password": super::PASSWORD });
    let account = super::post(node.address(), "/v1/accounts", &body)?;
    Ok(account["id"].as_str().unwrap_or_default().to_owned())
}
