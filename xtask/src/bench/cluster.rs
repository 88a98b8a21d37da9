//! `cargo xtask bench cluster`: refreshes, revocations and the feed with one node and three on PostgreSQL.
//!
//! The database is a throw-away one that syncs. pgbench does the least that a commit can be, one row by its key, beside the
//! server in the same run: ratios mean something, numbers belong to one machine on one day. Database, nodes, load and verifiers
//! share its cores; so processor time stands beside every rate.
use super::ends::{self, Ends};
use super::postgres::Postgres;
use super::{ADMIN, Bench, PASSWORD, REFRESH, Running, median, path, post};
use crate::ports::lasting_address;
use crate::{Failure, mini_http, process, workspace};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How much is measured.
pub struct Extent {
    rounds: usize,
    round_s: u64,
    /// Sign-outs of a round, and how many rounds.
    pub sign_outs: usize,
    pub end_rounds: usize,
    pub fleets: &'static [Fleet],
}

/// So many verifiers, and so many calls that they are watched at.
pub struct Fleet {
    pub verifiers: usize,
    /// Ends, and when each verifier has applied them.
    pub ends: usize,
    /// Ends whose caller waits until they are enforced.
    pub waits: usize,
}

const fn fleet(verifiers: usize, ends: usize, waits: usize) -> Fleet {
    Fleet { verifiers, ends, waits }
}

const WHOLE: Extent = Extent {
    rounds: 8,
    round_s: 2,
    sign_outs: 400,
    end_rounds: 3,
    fleets: &[fleet(30, 200, 1_100), fleet(1_000, 50, 100)],
};
const QUICK: Extent =
    Extent { rounds: 1, round_s: 1, sign_outs: 60, end_rounds: 1, fleets: &[fleet(30, 20, 20), fleet(60, 5, 5)] };
/// Enough of everything for a p99.9.
const LONG: &[Fleet] = &[fleet(30, 1_100, 1_100), fleet(1_000, 1_100, 1_100)];

/// Callers of the ends, of the smallest round of refreshes, and clients of pgbench.
pub const CALLERS: usize = 32;
const NODES: usize = 3;
/// Callers of the rounds that hold one node against three: few, as many at each of three as the one has of those, and a crowd.
const CROWDS: [usize; 3] = [CALLERS, CALLERS * NODES, CALLERS * 10];
/// Clients of pgbench that wait for its commits as a node's connections do.
pub const FEW_CLIENTS: usize = 8;
/// Callers of one node beside them: a node's group is only as large as there are people who wait.
pub const CROWD: usize = CROWDS[2];
/// 32 bytes for this database only.
const MASTER_KEY: &str = "YmVuY2ggb25seTogMzIgYnl0ZXMgb2Yga2V5ICAgICA=";
/// One request of the preparation.
const LIMIT: Duration = Duration::from_secs(30);

/// `bench cluster [--quick | --refreshes | --verifiers]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let extent = match words {
        [] => WHOLE,
        ["--quick"] => QUICK,
        ["--refreshes"] => Extent { end_rounds: 0, fleets: &[], ..WHOLE },
        ["--verifiers"] => Extent { rounds: 0, end_rounds: 0, fleets: LONG, ..WHOLE },
        _ => {
            let usage = "`bench cluster` takes --quick, --refreshes or --verifiers and nothing else";
            return Err(Failure::Usage(usage.into()));
        }
    };
    let workspace = workspace::load()?;
    let bench = Bench::built(&workspace)?;
    Cluster::start(&bench, &workspace.root, NODES).and_then(|cluster| cluster.run(&extent))
}

/// The database and the nodes on it.
pub struct Cluster<'a> {
    pub bench: &'a Bench,
    pub postgres: Postgres,
    pub nodes: Vec<Running>,
}

/// One round of refreshes, by pgbench or by so many nodes.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time for each, in microseconds: of the nodes, of the database, of whoever asks.
    nodes_us: f64,
    postgres_us: f64,
    load_us: f64,
    /// Bytes of the database's log for each.
    wal: f64,
    /// How many share a commit.
    shared: f64,
}

impl<'a> Cluster<'a> {
    pub fn start(bench: &'a Bench, root: &Path, nodes: usize) -> Result<Self, Failure> {
        let postgres = Postgres::start(root)?;
        println!("PostgreSQL {} with fsync, nodes: {nodes}, one machine for all", postgres.version()?);
        let mut cluster = Self { bench, postgres, nodes: Vec::new() };
        let addresses: Vec<SocketAddr> = (0..nodes).map(|_| lasting_address()).collect();
        let issuer = format!("http://{}", addresses[0]);
        for (n, address) in addresses.iter().enumerate() {
            let mut command = Command::new(bench.programs.join("portcullis"));
            let data = path(&bench.folder.join(format!("node-{n}")));
            command.args(["serve", "--listen", &address.to_string(), "--issuer", &issuer, "--data-dir", &data]);
            command.env("PORTCULLIS_DATABASE_URL", cluster.postgres.url()).env("PORTCULLIS_MASTER_KEY", MASTER_KEY);
            command.env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{ADMIN}:{PASSWORD}"));
            // Sign-ins only prepare what is measured.
            command.env("PORTCULLIS_ARGON2_MEMORY", "64KiB").env("PORTCULLIS_ARGON2_PASSES", "1");
            let log = bench.folder.join(format!("node-{n}.log"));
            cluster.nodes.push(Running::start(command, *address, &log)?.0);
        }
        Ok(cluster)
    }

    fn run(self, extent: &Extent) -> Result<(), Failure> {
        let begun = Instant::now();
        if extent.rounds > 0 {
            self.refreshes(extent)?;
        }
        Ends::new(&self).run(extent)?;
        println!("({} s after the nodes were ready)", begun.elapsed().as_secs());
        self.nodes.into_iter().try_for_each(Running::stop)
    }

    /// Addresses of the first so many nodes.
    pub fn addresses(&self, nodes: usize) -> Vec<String> {
        self.nodes[..nodes].iter().map(|node| node.address.to_string()).collect()
    }

    /// Processor time of all nodes so far, in milliseconds.
    pub fn nodes_cpu_ms(&self) -> Result<f64, Failure> {
        self.nodes.iter().map(Running::cpu_ms).sum()
    }

    /// Signs so many people in, `CALLERS` at most at a time; access and refresh token of each.
    pub fn sign_in(&self, name: &str, accounts: usize, sessions: usize) -> Result<Vec<(String, String)>, Failure> {
        let one_of = |n: usize| self.nodes[n % self.nodes.len()].address;
        let email = |n: usize| format!("{name}-{n}@example.org");
        let thread = |own: usize| -> Result<Vec<(String, String)>, Failure> {
            let mine = |all: usize| (own..all).step_by(CALLERS);
            for n in mine(accounts) {
                post(one_of(own), "/v1/accounts", &json!({ "email": email(n), "password": PASSWORD }))?;
            }
            // Each asks for accounts of its own, so that nobody waits for another's sign-up.
            let own_accounts: Vec<usize> = mine(accounts).collect();
            let asked = mine(sessions).zip(own_accounts.iter().cycle());
            let tokens = asked.map(|(_, account)| {
                let body = json!({ "identifier": email(*account), "password": PASSWORD, "device_name": "bench" });
                let session = post(one_of(own), "/v1/sessions", &body)?;
                let text = |member: &str| session[member].as_str().unwrap_or_default().to_owned();
                Ok((text("access_token"), text("refresh_token")))
            });
            tokens.collect()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CALLERS).map(|own| scope.spawn(move || thread(own))).collect();
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().map_err(|_| Failure::Missing("a sign-in panicked".into()))??);
            }
            Ok(all)
        })
    }

    /// An administrator's access token.
    pub fn admin(&self) -> Result<String, Failure> {
        let session =
            post(self.nodes[0].address, "/v1/sessions", &json!({ "identifier": ADMIN, "password": PASSWORD }))?;
        Ok(session["access_token"].as_str().unwrap_or_default().to_owned())
    }

    /// One call by an administrator.
    pub fn call(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map(ToString::to_string);
        let answer = mini_http::request_as(self.nodes[0].address, method, path, Some(token), body.as_deref(), LIMIT)?;
        if !(200..300).contains(&answer.status) {
            return Err(Failure::Missing(format!("{method} {path}: {} {}", answer.status, answer.body)));
        }
        serde_json::from_str(&answer.body).map_err(|error| Failure::Missing(format!("{method} {path}: {error}")))
    }

    /// Refreshes per second of one node, asked by so many, and pgbench's bare transactions per second with so many clients, in
    /// alternating rounds.
    pub fn beside_pgbench(
        &self,
        (callers, clients): (usize, usize),
        rounds: usize,
        round_s: u64,
    ) -> Result<(Vec<f64>, Vec<f64>), Failure> {
        let tokens = self.tokens(&format!("caller-of-{callers}-beside-{clients}"), callers)?;
        let (mut node, mut bare) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let pair = (self.refresh_round(1, round_s, &tokens)?.per_s, self.bare_round(clients, round_s)?.per_s);
            if round > 0 {
                node.push(pair.0);
                bare.push(pair.1);
            }
        }
        Ok((node, bare))
    }

    fn refreshes(&self, extent: &Extent) -> Result<(), Failure> {
        let mut names = vec![format!("pgbench, {FEW_CLIENTS}"), format!("pgbench, {CALLERS}")];
        let mut crowds = Vec::new();
        for callers in CROWDS {
            crowds.push(self.tokens(&format!("caller-of-{callers}"), callers)?);
            names.extend([format!("1 node, {callers}"), format!("{NODES} nodes, {callers}")]);
        }
        let mut rounds = vec![Vec::new(); names.len()];
        // The first round of each warms caches and is not counted.
        for round in 0..=extent.rounds {
            let mut all =
                vec![self.bare_round(FEW_CLIENTS, extent.round_s)?, self.bare_round(CALLERS, extent.round_s)?];
            for tokens in &crowds {
                all.extend([
                    self.refresh_round(1, extent.round_s, tokens)?,
                    self.refresh_round(NODES, extent.round_s, tokens)?,
                ]);
            }
            if round > 0 {
                rounds.iter_mut().zip(all).for_each(|(rounds, one)| rounds.push(one));
            }
        }
        println!(
            "\nrefresh    by so many clients and callers; {} alternating rounds of {} s, medians; processor time and WAL for each",
            extent.rounds, extent.round_s
        );
        println!(
            "                per second    p50 ms    p99 ms    nodes us  database us   load us   WAL bytes  a commit"
        );
        for (name, rounds) in names.iter().zip(&rounds) {
            let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
            println!(
                "  {name:<12} {:>11.0} {:>9.2} {:>9.2} {:>11.0} {:>12.0} {:>9.0} {:>11.0} {:>9.1}",
                of(|r| r.per_s),
                of(|r| r.p50_ms),
                of(|r| r.p99_ms),
                of(|r| r.nodes_us),
                of(|r| r.postgres_us),
                of(|r| r.load_us),
                of(|r| r.wal),
                of(|r| r.shared)
            );
        }
        let ratio = |what: &str, a: &[Round], b: &[Round], of: fn(&Round) -> f64| {
            let each = a.iter().zip(b).map(|(a, b)| of(a) / of(b)).collect();
            println!("  {what:<54} {:>5.2}", median(each));
        };
        println!("  ratios, medians of the rounds'");
        let [few, bare, pairs @ ..] = rounds.as_slice() else { return Ok(()) };
        for (clients, bare, callers, one) in
            [(FEW_CLIENTS, few, CROWD, &pairs[pairs.len() - 2]), (CALLERS, bare, CALLERS, &pairs[0])]
        {
            ratio(&format!("rate, 1 node with {callers} / pgbench with {clients}"), one, bare, |r| r.per_s);
            ratio("database's processor time, the same", one, bare, |r| r.postgres_us);
        }
        let of_all = |what: &str, a: &[Round], b: &[Round]| {
            ratio(what, a, b, |r| r.per_s);
            ratio("processor time of nodes and database, the same", a, b, |r| r.nodes_us + r.postgres_us);
            ratio("of the nodes alone, the same", a, b, |r| r.nodes_us);
            ratio("of the database alone, the same", a, b, |r| r.postgres_us);
            ratio("of all, with whoever asks, the same", a, b, |r| r.nodes_us + r.postgres_us + r.load_us);
        };
        for (callers, pair) in CROWDS.iter().zip(pairs.chunks_exact(2)) {
            of_all(&format!("rate, {callers} callers, {NODES} nodes / 1 node"), &pair[1], &pair[0]);
        }
        of_all(&format!("rate, {NODES} nodes with {} / 1 node with {CALLERS}", CROWDS[1]), &pairs[3], &pairs[0]);
        Ok(())
    }

    /// A file with the refresh tokens of so many people who are signed in.
    fn tokens(&self, name: &str, people: usize) -> Result<std::path::PathBuf, Failure> {
        let file = self.bench.folder.join(format!("{name}.tokens"));
        let signed_in = self.sign_in(name, people, people)?;
        std::fs::write(&file, signed_in.iter().map(|(_, refresh)| format!("{refresh}\n")).collect::<String>())?;
        Ok(file)
    }

    fn bare_round(&self, clients: usize, seconds: u64) -> Result<Round, Failure> {
        let (cpu, load, wal) = (self.postgres.cpu_ms()?, ends::children_cpu_ms()?, self.postgres.wal_bytes()?);
        let commits = self.postgres.transactions()?;
        let bare = self.postgres.bare(clients, seconds, &self.bench.folder)?;
        let each = |total: f64| total / bare.transactions.max(1.0);
        Ok(Round {
            per_s: bare.per_s,
            p50_ms: bare.mean_ms, // pgbench tells the mean
            p99_ms: f64::NAN,
            nodes_us: 0.0,
            postgres_us: each((self.postgres.cpu_ms()? - cpu) * 1000.0),
            load_us: each((ends::children_cpu_ms()? - load) * 1000.0),
            wal: each(self.postgres.wal_bytes()? - wal),
            shared: each(self.postgres.transactions()? - commits).recip(),
        })
    }

    fn refresh_round(&self, nodes: usize, seconds: u64, tokens: &Path) -> Result<Round, Failure> {
        let mut command = Command::new(self.bench.programs.join("portcullis-load"));
        command.args([&self.addresses(nodes).join(","), REFRESH, &path(tokens), &seconds.to_string(), "1000000"]);
        let (nodes_cpu, cpu) = (self.nodes_cpu_ms()?, self.postgres.cpu_ms()?);
        let (load, wal) = (ends::children_cpu_ms()?, self.postgres.wal_bytes()?);
        let commits = self.postgres.transactions()?;
        let text = process::output(&mut command)?;
        let said: Value =
            serde_json::from_str(&text).map_err(|error| Failure::Missing(format!("portcullis-load: {error}")))?;
        if said["errors"] != 0 {
            return Err(Failure::Missing(format!("a caller met an error: {}", said["first_error"])));
        }
        let number = |name: &str| said[name].as_f64().unwrap_or(0.0);
        let each = |total: f64| total / number("requests").max(1.0);
        Ok(Round {
            per_s: number("per_s"),
            p50_ms: number("p50_us") / 1000.0,
            p99_ms: number("p99_us") / 1000.0,
            nodes_us: each((self.nodes_cpu_ms()? - nodes_cpu) * 1000.0),
            postgres_us: each((self.postgres.cpu_ms()? - cpu) * 1000.0),
            load_us: each((ends::children_cpu_ms()? - load) * 1000.0),
            wal: each(self.postgres.wal_bytes()? - wal),
            shared: each(self.postgres.transactions()? - commits).recip(),
        })
    }
}
