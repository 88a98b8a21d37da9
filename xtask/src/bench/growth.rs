//! `cargo xtask bench growth`: the same acts among very many sessions and among few, in turns.
//!
//! Two servers stand on the same cores, one with ten million sessions and one with a hundred thousand. A third has as many again that
//! are long over, and its chore is at work on them. 32 callers refresh thousands of sessions in turns, so that pages all over the
//! tables are met; what is in the way of the figures is the same for both.
use super::node::{self, Node};
use super::table::{Aim, Ask, Figure, Row, Unit};
use super::{Bench, mega, process};
use crate::Failure;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Less free space than this on the disk, and nothing is filled with ten million.
const LEAST_FREE: u64 = 15_000_000_000;
const REFRESH_S: &str = "1.5";
/// Sessions of each who signs in: as many devices are listed.
const DEVICES: usize = 20;
/// Calls of a closed loop of one caller in a round.
const CALLS: usize = 100;
/// Ends that are counted for the bytes of the feed.
const ENDS: usize = 200;

struct Extent {
    many: u64,
    few: u64,
    /// A third of these live.
    expired: u64,
    rounds: usize,
    people: usize,
}

const EARNEST: Extent = Extent { many: 10_000_000, few: 100_000, expired: 300_000, rounds: 8, people: 200 };
const QUICK: Extent = Extent { many: 20_000, few: 5_000, expired: 6_000, rounds: 2, people: 8 };

/// The section.
pub fn section(ask: &Ask) -> Result<Vec<Row>, Failure> {
    let mut extent = if ask.quick { QUICK } else { EARNEST };
    extent.many = node::sessions(extent.many)?;
    let bench = Bench::built(&ask.workspace)?;
    let free = free_bytes(&bench)?;
    if extent.many >= EARNEST.many && free < LEAST_FREE {
        println!("growth: NOT MEASURED: {:.1} GB free, {:.0} are wanted", mega(free) / 1e3, mega(LEAST_FREE) / 1e3);
        let what = "growth: NOT MEASURED, for the disk has too little free space";
        return Ok(vec![Row::alone(what, Figure::once(Unit::Mb, mega(free)), Aim::None)]);
    }
    let mut rows = Vec::new();
    let begun = Instant::now();
    let (few, filled) = Node::filled(&bench, &bench.programs, "few", extent.few, &[])?;
    let bytes = filled["bytes"].as_f64().unwrap_or(0.0) / extent.few as f64;
    let what = "database, each session with its grant, its place in indexes and a quarter of an account";
    rows.push(Row::alone(what, Figure::once(Unit::Bytes, bytes), Aim::None));
    let (many, filled) = Node::filled(&bench, &bench.programs, "many", extent.many, &["ascending"])?;
    let bytes = filled["bytes"].as_f64().unwrap_or(0.0) / extent.many as f64;
    let what = format!("the same, {} put in in order", grouped(extent.many));
    rows.push(Row::alone(&what, Figure::once(Unit::Bytes, bytes), Aim::None));
    println!("growth: filled in {} s", begun.elapsed().as_secs());

    rows.extend(sizes(&many, &few, &extent)?);
    rows.push(feed_bytes(&few)?);
    many.running.stop()?;
    std::fs::remove_dir_all(bench.folder.join("many"))?;
    rows.extend(chore(&bench, &few, &extent)?);
    few.running.stop()?;
    Ok(rows)
}

fn sizes(many: &Node<'_>, few: &Node<'_>, extent: &Extent) -> Result<Vec<Row>, Failure> {
    let both = [many, few];
    let mut chains: Vec<PathBuf> = Vec::new();
    let mut people = Vec::new();
    for node in both {
        let signed_in = node.sign_in(extent.people, DEVICES)?;
        chains.push(node.chains(&signed_in)?);
        people.push(signed_in);
        node.refresh(&chains[chains.len() - 1], "2")?; // warms caches
    }
    let (mut rates, mut tails) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let (mut ends, mut lists) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..extent.rounds {
        for (which, node) in both.into_iter().enumerate() {
            let (rate, tail) = node.refresh(&chains[which], REFRESH_S)?;
            rates[which].push(rate);
            tails[which].push(tail);
        }
        for (which, node) in both.into_iter().enumerate() {
            let admin = node.admin()?;
            let accounts = node.accounts()?;
            // Each has four sessions; none comes twice before all have come.
            let own = accounts.iter().cycle().skip(round * CALLS).take(CALLS);
            let plan: String = own.map(|id| format!("DELETE /v1/admin/accounts/{id}/sessions {admin}\n")).collect();
            let ended = node.ends(1, "60", 0, &plan)?;
            ends[which].push(super::median(ended.iter().map(|e| (e.answered_us - e.sent_us) / 1000.0).collect()));
        }
        for (which, node) in both.into_iter().enumerate() {
            let fresh = node.sign_in(1, 1)?; // the tokens of the beginning may be over
            let token = fresh.first().map(|(access, _)| access.clone()).unwrap_or_default();
            let line = json!({ "method": "GET", "path": "/v1/me/sessions", "token": token });
            lists[which].push(super::median(node.timed(&vec![line; CALLS])?));
        }
    }
    let (name, at) = (format!("{} sessions", grouped(extent.few)), grouped(extent.many));
    let [many_rates, few_rates] = rates;
    let [many_tails, few_tails] = tails;
    let [many_ends, few_ends] = ends;
    let [many_lists, few_lists] = lists;
    let chains = extent.people * DEVICES;
    let what = format!("refresh at {at} sessions, 32 callers in turns over {chains} of them");
    let listed = format!("listing {DEVICES} devices of a user at {at} sessions, one caller");
    Ok(vec![
        Row::paired(&what, Unit::PerSecond, &many_rates, &name, &few_rates, Aim::RatioAtLeast(0.5)),
        Row::paired("its p99", Unit::Ms, &many_tails, &name, &few_tails, Aim::RatioAtMost(2.0)),
        Row::paired(
            &format!("end-all of an account at {at} sessions, one caller"),
            Unit::Ms,
            &many_ends,
            &name,
            &few_ends,
            Aim::RatioAtMost(1.3),
        ),
        Row::paired(&listed, Unit::Ms, &many_lists, &name, &few_lists, Aim::AtMost(1.0)),
    ])
}

/// The p99 of refreshes while what has expired is deleted, against a server that has nothing to delete.
fn chore(bench: &Bench, quiet: &Node<'_>, extent: &Extent) -> Result<Vec<Row>, Failure> {
    let (busy, _) = Node::filled(bench, &bench.programs, "expired", extent.expired, &["expired"])?;
    let pruned_before = busy.metric("portcullis_sessions_pruned_total")?;
    let chains = [busy.chains(&busy.sign_in(extent.people, 2)?)?, quiet.chains(&quiet.sign_in(extent.people, 2)?)?];
    let mut tails = [Vec::new(), Vec::new()];
    let begun = Instant::now();
    for round in 0..=extent.rounds {
        for (which, node) in [&busy, quiet].into_iter().enumerate() {
            let (_, tail) = node.refresh(&chains[which], REFRESH_S)?;
            if round > 0 {
                tails[which].push(tail);
            }
        }
    }
    let took_s = begun.elapsed().as_secs_f64();
    let pruned = busy.metric("portcullis_sessions_pruned_total")? - pruned_before;
    busy.running.stop()?;
    let [busy_tails, quiet_tails] = tails;
    let what = "refresh p99, 32 callers, while the chore deletes sessions that are over";
    Ok(vec![
        Row::paired(what, Unit::Ms, &busy_tails, "a server with none", &quiet_tails, Aim::RatioAtMost(1.5)),
        Row::alone("sessions deleted meanwhile", Figure::once(Unit::PerSecond, pruned / took_s), Aim::None),
    ])
}

/// What a subscriber's connection carries for each end, when ends come one by one.
fn feed_bytes(node: &Node<'_>) -> Result<Row, Failure> {
    let (id, secret) = node.verifier()?;
    let mut stream = TcpStream::connect(node.address())?;
    stream.set_read_timeout(Some(Duration::from_millis(700)))?;
    let basic = base64(format!("{id}:{secret}").as_bytes());
    write!(stream, "GET /v1/feed HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {basic}\r\n\r\n", node.address())?;
    let mut read = || {
        let (mut sum, mut buffer) = (0, [0; 65536]);
        // Silence ends it; the server sends a comment only after ten seconds.
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            sum += n;
        }
        sum
    };
    if read() == 0 {
        return Err(Failure::Missing("the feed sent nothing".into()));
    }
    let admin = node.admin()?;
    let accounts = node.accounts()?;
    let line = |id: &String| format!("DELETE /v1/admin/accounts/{id}/sessions {admin}\n");
    let plan: String = accounts.iter().rev().take(ENDS).map(line).collect();
    let ended = node.ends(1, "60", 5, &plan)?;
    let bytes = read() as f64 / ended.len() as f64;
    Ok(Row::alone(
        "feed, bytes for a revocation on a subscriber's connection",
        Figure::once(Unit::Bytes, bytes),
        Aim::None,
    ))
}

fn free_bytes(bench: &Bench) -> Result<u64, Failure> {
    let text = process::output(Command::new("df").args(["-B1", "--output=avail"]).arg(&bench.folder))?;
    let number = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    number.ok_or_else(|| Failure::Missing(format!("df said {text:?}")))
}

pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            out.push(if n > part.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{base64, grouped};

    #[test]
    fn letters_and_groups() {
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!((grouped(10_000_000), grouped(999)), ("10,000,000".to_owned(), "999".to_owned()));
    }
}
