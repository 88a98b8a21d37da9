//! A throw-away PostgreSQL that syncs, for measurements: started as the tests start theirs, by the same script, which ends it and
//! deletes its files when this process ends in whatever way.
use crate::{Failure, process};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The script, in the workspace.
const SCRIPT: &str = "crates/testkit/src/postgres.sh";
/// Who runs it for root, which PostgreSQL refuses: the first of these that exists.
const USERS: &[&str] = &["postgres", "nobody"];
/// Where Debian has its versions.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A row that is updated, as many of them, and nothing else: the least that a commit can be.
const BARE_TABLE: &str = "CREATE TABLE bare (id int PRIMARY KEY, version bigint NOT NULL, at_ms bigint NOT NULL) \
     WITH (fillfactor = 70); INSERT INTO bare SELECT n, 0, 0 FROM generate_series(1, 10000) n";
const BARE_ACT: &str = "\\set id random(1, 10000)\n\
     UPDATE bare SET version = version + 1, at_ms = at_ms + 1000 WHERE id = :id;\n";

/// A running cluster with one database.
pub struct Postgres {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
    server: u32,
    /// It reads from us, and ends all with us.
    shell: Child,
    _out: BufReader<ChildStdout>,
}

impl Postgres {
    /// Starts one, with a database and the table of the bare act.
    pub fn start(root: &Path) -> Result<Self, Failure> {
        let bin = programs()?;
        let directory = std::env::temp_dir().join(format!("portcullis-bench-pg-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let port = crate::ports::lasting_address().port();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(std::fs::read_to_string(root.join(SCRIPT))?).arg("postgres.sh").arg(&bin).arg(&directory);
        shell.arg(port.to_string()).args(runner(&directory)?).env("KIND", "Durable").current_dir("/").process_group(0);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = shell.stdout.take().ok_or_else(|| Failure::Missing("the script's output".into()))?;
        let (mut said, mut out) = (String::new(), BufReader::new(out));
        out.read_line(&mut said)?;
        let Some(server) = said.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok()) else {
            return Err(Failure::Missing(format!("PostgreSQL of {} does not start", bin.display())));
        };
        let postgres = Self { bin, directory, port, server, shell, _out: out };
        postgres.psql("postgres", "CREATE DATABASE bench TEMPLATE template0")?;
        postgres.psql("bench", BARE_TABLE)?;
        Ok(postgres)
    }

    /// The URL of the database.
    pub fn url(&self) -> String {
        format!("postgres://operator@127.0.0.1:{}/bench", self.port)
    }

    /// Bytes of WAL written so far.
    pub fn wal_bytes(&self) -> Result<f64, Failure> {
        let text = self.psql("bench", "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")?;
        text.parse().map_err(|_| Failure::Missing(format!("the position in the WAL is no number: {text}")))
    }

    /// Transactions that wrote something, so far.
    pub fn transactions(&self) -> Result<f64, Failure> {
        let text = self.psql("bench", "SELECT pg_snapshot_xmax(pg_current_snapshot())")?;
        text.parse().map_err(|_| Failure::Missing(format!("the next transaction is no number: {text}")))
    }

    /// What `SHOW server_version` says.
    pub fn version(&self) -> Result<String, Failure> {
        self.psql("bench", "SHOW server_version")
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, Failure> {
        let mut command = self.client("psql", database);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        Ok(process::output(&mut command)?.trim().to_owned())
    }

    fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(["-U", "operator", "-p", &self.port.to_string(), "-h"]).arg("127.0.0.1");
        command.args(if program == "psql" { ["-d", database] } else { ["-n", database] }).current_dir("/");
        command
    }

    /// pgbench with the bare act: transactions, per second, mean latency in milliseconds.
    pub fn bare(&self, clients: usize, seconds: u64, folder: &Path) -> Result<Bare, Failure> {
        let script = folder.join("bare.sql");
        std::fs::write(&script, BARE_ACT)?;
        let mut command = self.client("pgbench", "bench");
        command.args(["-M", "prepared", "-j", "1", "-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"]);
        let text = process::output(command.arg(&script).stderr(Stdio::null()))?;
        let after = |start: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(start));
            line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<f64>().ok())
        };
        let missing = || Failure::Missing(format!("pgbench said something else:\n{text}"));
        Ok(Bare {
            transactions: after("number of transactions actually processed: ").ok_or_else(missing)?,
            per_s: after("tps = ").ok_or_else(missing)?,
            mean_ms: after("latency average = ").ok_or_else(missing)?,
        })
    }

    /// Processor time so far of all its processes, those that have ended included, in milliseconds.
    pub fn cpu_ms(&self) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
            // After the name: the parent is the second field; own times the 12th and 13th, those of ended children the next two.
            if pid == self.server {
                sum += number(11) + number(12) + number(13) + number(14);
            } else if number(1) == f64::from(self.server) {
                sum += number(11) + number(12);
            }
        }
        Ok(sum * 10.0)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take()); // the script ends all
        let _ = self.shell.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What pgbench measured.
pub struct Bare {
    pub transactions: f64,
    pub per_s: f64,
    pub mean_ms: f64,
}

/// The newest PostgreSQL of Debian's, else the one on the path.
fn programs() -> Result<PathBuf, Failure> {
    let all = std::fs::read_dir(DEBIAN).into_iter().flatten().filter_map(Result::ok);
    let versions = all.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let newest = versions.filter(|(_, path)| path.join("bin/pgbench").exists()).max();
    let bin = newest.map(|(_, path)| path.join("bin"));
    let on_path = || process::find("pgbench").and_then(|file| file.parent().map(Path::to_owned));
    bin.or_else(on_path).ok_or_else(|| {
        Failure::Missing("PostgreSQL 15 or later with pgbench is needed: install it, or put it on the path".into())
    })
}

/// What comes before a command that must not run as root; hands the directory over.
fn runner(directory: &Path) -> Result<Vec<String>, Failure> {
    let id = |of: &[&str]| Command::new("id").args(of).output();
    if String::from_utf8_lossy(&id(&["-u"])?.stdout).trim() != "0" {
        return Ok(Vec::new());
    }
    let user = USERS.iter().find(|user| id(&["-u", user]).is_ok_and(|out| out.status.success()));
    let user =
        user.ok_or_else(|| Failure::Missing(format!("PostgreSQL refuses root, and none of {USERS:?} exists")))?;
    let group = String::from_utf8_lossy(&id(&["-g", user])?.stdout).trim().to_owned();
    process::run(Command::new("chown").arg(format!("{user}:{group}")).arg(directory))?;
    Ok(["setpriv", "--reuid", user, "--regid", &group, "--clear-groups"].map(str::to_owned).into())
}
