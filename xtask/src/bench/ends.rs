//! The second half of `bench cluster`: how many revocations in a second, and when verifiers have applied them.
//!
//! A verifier's own process writes down when its verdicts rest on a position, by the clock that the caller uses, too. What lies
//! between is told from two sides: from when the caller sent its call, and from when it had the answer, which left after the
//! commit. A verifier may well be quicker than the answer.
use super::cluster::{CALLERS, Cluster, Extent, Fleet};
use super::{Running, median, path};
use crate::{Failure, mini_http, process};
use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const SIGN_OUT: &str = "/v1/me/sessions/current";
/// Accounts whose sessions end: few enough sessions of each that entries stay entries (docs/revoking.md).
const ACCOUNTS: usize = 64;
/// A round of ends stops after as long.
const ROUND_S: &str = "4";
/// Ends that are watched with one access token of an administrator, and the seconds that they may take, which is less than it lives.
const WATCHED: usize = 100;
const WATCH_S: &str = "300";
/// Between two ends that are watched, so that each is alone: for each verifier that follows on this machine, and at least.
const PAUSE_FOR_EACH_US: usize = 300;
const PAUSE_MS: usize = 10;
/// How long leases are counted while nothing else happens.
const QUIET: Duration = Duration::from_secs(5);

/// A revoking call that was answered.
pub struct Ended {
    /// Its position in the log.
    pub rev: u64,
    /// When it was sent and when its answer was there, by the machine's monotonic clock.
    pub sent_us: f64,
    pub answered_us: f64,
    /// From the commit until it was enforced, as the server says.
    pub took_ms: f64,
    pub complete: bool,
}

impl Ended {
    /// What `portcullis-ends` printed; an error when that is nothing.
    pub fn all(text: &str) -> Result<Vec<Self>, Failure> {
        let parse = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok());
            let rev = words.first().and_then(|word| word.parse().ok())?;
            let complete = words.get(4) == Some(&"true");
            Some(Self { rev, sent_us: number(1)?, answered_us: number(2)?, took_ms: number(3)?, complete })
        };
        let all: Option<Vec<Self>> = text.lines().map(parse).collect();
        all.filter(|all| !all.is_empty()).ok_or_else(|| Failure::Missing(format!("portcullis-ends said:\n{text}")))
    }
}

pub struct Ends<'a> {
    cluster: &'a Cluster<'a>,
}

impl<'a> Ends<'a> {
    pub fn new(cluster: &'a Cluster<'a>) -> Self {
        Self { cluster }
    }

    pub fn run(&self, extent: &Extent) -> Result<(), Failure> {
        if extent.fleets.is_empty() {
            return Ok(());
        }
        // Those whose sessions end.
        self.cluster.sign_in("watched", CALLERS, CALLERS)?;
        // The verifiers first: each takes in what is revoked, and the rounds of ends revoke thousands.
        println!(
            "\nverifiers  ms from the answer / from sending; every call at every verifier; slowest: the last verifier of each call"
        );
        extent.fleets.iter().try_for_each(|fleet| self.fleet(fleet))?;
        if extent.end_rounds > 0 { self.rates(extent) } else { Ok(()) }
    }

    fn rates(&self, extent: &Extent) -> Result<(), Failure> {
        let nodes = self.cluster.nodes.len();
        let mut rates = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        let mut cpu = [Vec::new(), Vec::new()];
        for round in 0..extent.end_rounds {
            for (which, nodes) in [1, nodes].into_iter().enumerate() {
                let name = format!("leaver-{round}-{nodes}");
                let sessions = self.cluster.sign_in(&name, ACCOUNTS, extent.sign_outs)?;
                let plan = sessions.iter().map(|(access, _)| format!("DELETE {SIGN_OUT} {access}\n")).collect();
                let before = (self.cluster.nodes_cpu_ms()?, self.cluster.postgres.cpu_ms()?);
                let ended = self.call_all(CALLERS, "0", ROUND_S, plan, nodes)?;
                let after = (self.cluster.nodes_cpu_ms()?, self.cluster.postgres.cpu_ms()?);
                rates[0][which].push(rate(&ended));
                let each = |ms: f64| ms * 1000.0 / ended.len().max(1) as f64;
                cpu[which].push((each(after.0 - before.0), each(after.1 - before.1)));
                let plan = self.end_all_plan(extent.sign_outs, "")?;
                rates[1][which].push(rate(&self.call_all(CALLERS, "0", ROUND_S, plan, nodes)?));
            }
        }
        println!("\nends       {CALLERS} callers, medians of {} alternating rounds", extent.end_rounds);
        for (name, rates) in ["sign-out", "end-all"].iter().zip(rates) {
            let [one, three] = rates.map(median);
            println!("  {name:<9} {one:>7.0}/s by 1 node, {three:>7.0}/s by {nodes} (ratio {:.2})", three / one);
        }
        for (nodes, cpu) in [1, nodes].iter().zip(cpu) {
            println!(
                "  sign-out  {:.0} us of processor at the nodes, {:.0} us at the database, by {nodes}",
                median(cpu.iter().map(|(nodes, _)| *nodes).collect()),
                median(cpu.iter().map(|(_, database)| *database).collect())
            );
        }
        Ok(())
    }

    /// So many ends of all sessions of accounts that are there: each writes a new cut.
    fn end_all_plan(&self, calls: usize, query: &str) -> Result<String, Failure> {
        let admin = self.cluster.admin()?;
        let listed = self.cluster.call(&admin, "GET", "/v1/admin/accounts?limit=50", None)?;
        let accounts: Vec<&str> =
            listed["accounts"].as_array().into_iter().flatten().filter_map(|a| a["id"].as_str()).collect();
        let myself = self.cluster.call(&admin, "GET", "/v1/me", None)?;
        let others: Vec<&&str> = accounts.iter().filter(|id| Some(**id) != myself["id"].as_str()).collect();
        let line = |id: &&&str| format!("DELETE /v1/admin/accounts/{id}/sessions{query} {admin}\n");
        Ok(others.iter().cycle().take(calls).map(line).collect())
    }

    fn call_all(
        &self,
        callers: usize,
        pause_ms: &str,
        seconds: &str,
        plan: String,
        nodes: usize,
    ) -> Result<Vec<Ended>, Failure> {
        let file = self.cluster.bench.folder.join("plan");
        std::fs::write(&file, plan)?;
        let mut command = Command::new(self.cluster.bench.programs.join("portcullis-ends"));
        command.args([&callers.to_string(), seconds, pause_ms, &path(&file)]).args(self.cluster.addresses(nodes));
        Ended::all(&process::output(&mut command)?)
    }

    fn fleet(&self, &Fleet { verifiers: count, ends, waits }: &Fleet) -> Result<(), Failure> {
        let admin = self.cluster.admin()?;
        let body = json!({ "name": format!("bench-{count}"), "kind": "verifier" });
        let client = self.cluster.call(&admin, "POST", "/v1/admin/clients", Some(&body))?;
        let text = |member: &str| client[member].as_str().unwrap_or_default().to_owned();
        let (id, secret) = (text("client_id"), text("client_secret"));
        let memory = |nodes: &[Running]| nodes.iter().map(Running::memory_kb).sum::<Result<u64, Failure>>();
        let before_kb = memory(&self.cluster.nodes)?;
        let mut fleet = Vec::new();
        let all = self.cluster.nodes.len();
        for (n, node) in self.cluster.addresses(all).into_iter().enumerate() {
            let share = count / all + usize::from(n < count % all);
            let issuer = format!("http://{}", self.cluster.nodes[0].address);
            let program = Command::new(self.cluster.bench.programs.join("portcullis-followers"));
            fleet.push(Followers::start(program, &issuer, share, &node, (&id, &secret))?);
        }
        fleet.iter_mut().try_for_each(Followers::ready)?;
        let after_kb = memory(&self.cluster.nodes)?;

        let (cpu, leases) = (self.cluster.nodes_cpu_ms()?, self.leases()?);
        let database = self.cluster.postgres.cpu_ms()?;
        std::thread::sleep(QUIET);
        let leases = self.leases()? - leases;
        let (cpu, database) = (self.cluster.nodes_cpu_ms()? - cpu, self.cluster.postgres.cpu_ms()? - database);

        let pause_ms = (count * PAUSE_FOR_EACH_US / 1000).max(PAUSE_MS).to_string();
        let watch = |calls: usize, query| {
            let mut answered = Vec::new();
            while answered.len() < calls {
                let plan = self.end_all_plan(WATCHED.min(calls - answered.len()), query)?;
                answered.extend(self.call_all(1, &pause_ms, WATCH_S, plan, all)?);
            }
            Ok::<_, Failure>(answered)
        };
        let ended = watch(ends, "")?;
        let applied = applied(&mut fleet, &ended)?;
        let enforced = watch(waits, "?wait=enforced")?;

        println!("  {count} verifiers at {all} nodes, {} and {} ends one after the other", ended.len(), enforced.len());
        let of = |from: fn(&Ended) -> f64, slowest: bool| {
            let mut all: Vec<f64> = Vec::new();
            for (ended, at) in ended.iter().zip(&applied) {
                let times = at.iter().map(|at| (at - from(ended)) / 1000.0);
                if slowest { all.push(times.fold(f64::MIN, f64::max)) } else { all.extend(times) }
            }
            all
        };
        println!(
            "    applied              {}",
            quantiles(of(|e| e.answered_us, false), Some(of(|e| e.sent_us, false)))
        );
        println!("    applied, slowest     {}", quantiles(of(|e| e.answered_us, true), Some(of(|e| e.sent_us, true))));
        let server: Vec<f64> = enforced.iter().map(|e| e.took_ms).collect();
        println!("    enforced, from commit (the server's took_ms)  {}", quantiles(server, None));
        let client = enforced.iter().map(|e| (e.answered_us - e.sent_us) / 1000.0).collect();
        println!("    enforced, call with ?wait=enforced            {}", quantiles(client, None));
        println!(
            "    {} of {} said complete; {:.0} leases/s cost {:.0} us of processor each at the nodes, {:.0} at the database (all that \
             they do meanwhile)",
            enforced.iter().filter(|e| e.complete).count(),
            enforced.len(),
            leases / QUIET.as_secs_f64(),
            cpu * 1000.0 / leases.max(1.0),
            database * 1000.0 / leases.max(1.0)
        );
        println!(
            "    memory of the nodes {:.0} kB more for each verifier; {:.0} kB for each in its own process",
            (after_kb as f64 - before_kb as f64) / count as f64,
            fleet.iter().map(Followers::memory_kb).sum::<Result<u64, Failure>>()? as f64 / count as f64
        );
        Ok(())
    }

    /// Leases given by all nodes so far.
    fn leases(&self) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for node in &self.cluster.nodes {
            let answer = mini_http::request(node.address, "GET", "/metrics", None, Duration::from_secs(5))?;
            let line = answer.body.lines().find_map(|line| line.strip_prefix("portcullis_feed_leases_total "));
            sum += line.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(sum)
    }
}

/// When each verifier had applied each of `ended`, in microseconds.
pub fn applied(fleet: &mut [Followers], ended: &[Ended]) -> Result<Vec<Vec<f64>>, Failure> {
    let revs: Vec<u64> = ended.iter().map(|e| e.rev).collect();
    let mut all = vec![Vec::new(); revs.len()];
    for followers in fleet {
        for (sum, own) in all.iter_mut().zip(followers.applied(&revs)?) {
            sum.extend(own);
        }
    }
    Ok(all)
}

/// A process of verifiers that hang on one node.
pub struct Followers {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Followers {
    /// So many on this node of the server with this issuer, as this client, by this program.
    pub fn start(
        mut command: Command,
        issuer: &str,
        count: usize,
        node: &str,
        (client, secret): (&str, &str),
    ) -> Result<Self, Failure> {
        command.args([&count.to_string(), issuer, client, &format!("http://{node}/v1/feed")]);
        command.env("PORTCULLIS_CLIENT_SECRET", secret).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or_else(|| Failure::Missing("the verifiers' output".into()))?);
        Ok(Self { child, input, output })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(Failure::Missing("portcullis-followers ended".into())),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Waits until all are fresh.
    pub fn ready(&mut self) -> Result<(), Failure> {
        let said = self.line()?;
        if said == "ready" { Ok(()) } else { Err(Failure::Missing(format!("portcullis-followers said {said:?}"))) }
    }

    /// When each of them had applied each of these positions, in microseconds.
    pub fn applied(&mut self, revs: &[u64]) -> Result<Vec<Vec<f64>>, Failure> {
        let asked: Vec<String> = revs.iter().map(u64::to_string).collect();
        if let Some(input) = &mut self.input {
            writeln!(input, "{}", asked.join(" "))?;
        }
        let lines = revs.iter().map(|rev| {
            let line = self.line()?;
            let times: Option<Vec<f64>> = line.split(' ').skip(1).map(|word| word.parse().ok()).collect();
            times.ok_or_else(|| Failure::Missing(format!("a verifier did not apply {rev} in time")))
        });
        lines.collect()
    }

    pub fn memory_kb(&self) -> Result<u64, Failure> {
        super::memory_kb(self.child.id())
    }

    pub fn cpu_ms(&self) -> Result<f64, Failure> {
        super::cpu_ms(self.child.id())
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

/// Processor time of programs that we started and that have ended, in milliseconds.
pub fn children_cpu_ms() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(13).take(2);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * 10.0)
}

pub fn rate(ended: &[Ended]) -> f64 {
    let first = ended.iter().map(|e| e.sent_us).fold(f64::MAX, f64::min);
    let last = ended.iter().map(|e| e.answered_us).fold(f64::MIN, f64::max);
    ended.len() as f64 * 1e6 / (last - first).max(1.0)
}

/// p50, p99, p99.9, of one list or of two side by side.
fn quantiles(values: Vec<f64>, beside: Option<Vec<f64>>) -> String {
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let (values, beside) = (sorted(values), beside.map(sorted));
    let at = |values: &[f64], share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    let one = |(name, share): (&str, f64)| match &beside {
        Some(beside) => format!("{name} {:>7.2} / {:>7.2}", at(&values, share), at(beside, share)),
        None => format!("{name} {:>7.2}", at(&values, share)),
    };
    [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].map(one).join("   ") + &format!("   (of {})", values.len())
}

#[cfg(test)]
mod tests {
    use super::quantiles;

    #[test]
    fn quantiles_of_one_list_and_of_two() {
        let values: Vec<f64> = (0..=1000).map(f64::from).collect();
        assert_eq!(quantiles(values, None), "p50  500.00   p99  990.00   p99.9  999.00   (of 1001)");
        assert!(quantiles(vec![1.0], Some(vec![2.0])).starts_with("p50    1.00 /    2.00"));
    }
}
