//! A PostgreSQL cluster of a test program's own: one cluster per program, one database per test.
//!
//! It listens on 127.0.0.1 and a Unix socket, and runs as somebody other than root. A shell that reads from this process starts
//! it, and ends it and deletes its files when there is nothing more to read: after the last test, after a panic, after `kill -9`.
use crate::{clock, lasting_address};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// What ends a cluster's files and processes.
const SCRIPT: &str = include_str!("postgres.sh");
/// Who runs it when the tests are run by root, which PostgreSQL refuses: the first of these that exists.
const USERS: &[&str] = &["postgres", "nobody"];

/// How many connections a [`Cluster::small`] has.
pub const SMALL: usize = 30;

/// Kinds of clusters; the script knows the words.
#[derive(Debug)]
enum Kind {
    /// Nothing in it outlives the tests: it need not reach the disk.
    Forgetful,
    Durable,
    /// Durable, with few connections.
    Small,
    Standby,
    /// It streams from a primary.
    Follower,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
    server: u32,
    shell: Mutex<(Child, BufReader<ChildStdout>)>,
    databases: AtomicU64,
    /// Whether its wall clock can be set.
    settable: bool,
}

impl Cluster {
    /// The cluster of this test program, started at the first call.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start: a test that needs it has failed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::run(Kind::Forgetful))
    }

    /// A cluster apart, for tests that end it.
    pub fn start() -> Self {
        Self::run(Kind::Forgetful)
    }

    /// A cluster apart that syncs, as `portcullis serve` wants it.
    pub fn durable() -> Self {
        Self::run(Kind::Durable)
    }

    /// The same with so few connections ([`SMALL`]) that others can take all of them.
    pub fn small() -> Self {
        Self::run(Kind::Small)
    }

    /// A cluster apart that is a standby: it reads only, for ever.
    pub fn standby() -> Self {
        Self::run(Kind::Standby)
    }

    /// The same with a wall clock that [`set_clock`](Self::set_clock) sets; its standbys' are, too.
    pub fn with_clock() -> Self {
        Self::run_after(Kind::Durable, None, true)
    }

    /// Its wall clock stands so many seconds from the true time; the monotonic one goes on.
    pub fn set_clock(&self, ahead_s: i64) {
        assert!(self.settable);
        clock::set(&self.directory.join("clock"), ahead_s);
    }

    /// A standby that streams from this one, on a port of its own.
    pub fn follower(&self) -> Self {
        Self::run_after(Kind::Follower, Some(self), self.settable)
    }

    fn run(kind: Kind) -> Self {
        Self::run_after(kind, None, false)
    }

    fn run_after(kind: Kind, primary: Option<&Self>, settable: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bin = programs();
        let name = format!("portcullis-pg-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let runner = runner(&directory);
        let port = lasting_address().port();
        let mut command = Command::new("sh");
        if settable {
            let file = directory.join("clock");
            clock::set(&file, 0);
            let [library, given, rest @ ..] = clock::environment(&file);
            // For the server only: the script passes it on.
            command.env("CLOCK", library.1).envs([given]).envs(rest);
        }
        let mut shell = command
            .arg("-c")
            .arg(SCRIPT)
            .arg("postgres.sh")
            .args([&bin, &directory])
            .arg(port.to_string())
            .args(runner)
            .env("KIND", format!("{kind:?}"))
            .env("PRIMARY", primary.map_or_else(String::new, |primary| primary.port.to_string()))
            // Every user may read the working directory of root's tests, but not enter it.
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut said, mut out) = (String::new(), BufReader::new(shell.stdout.take().unwrap()));
        out.read_line(&mut said).unwrap();
        let server = said.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok());
        let server = server.unwrap_or_else(|| {
            shell.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("PostgreSQL of {} does not start: {said}", bin.display())
        });
        Self { bin, directory, port, server, shell: Mutex::new((shell, out)), databases: AtomicU64::new(0), settable }
    }

    /// A new database, a copy of `template` when one is named; its URL. Names and URLs are by number.
    pub fn database(&self, template: Option<&str>) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {}", template.unwrap_or("template0")));
        self.url(&name)
    }

    /// The URL of a database, by TCP, for the operator, with a password that nothing should ever show.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://operator:open-sesame@127.0.0.1:{}/{database}", self.port)
    }

    /// The same for another role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:open-sesame@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL as the operator; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|wrong| panic!("psql: {sql}: {wrong}"))
    }

    /// The same; what the server said is wrong, if it failed.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let out = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "operator", "-d", database, "-c", sql])
            .arg("-h")
            .arg(&self.directory)
            .args(["-p", &self.port.to_string()])
            .current_dir("/")
            .output()
            .unwrap();
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        Ok(String::from_utf8(out.stdout).unwrap().trim().to_owned())
    }

    /// All its processes die as in a crash; then it comes back, on the same data and port. Blocks for a second or so.
    pub fn crash(&self) {
        let said = self.tell("crash");
        assert!(said.starts_with("ready"), "PostgreSQL did not come back: {said:?}");
    }

    /// All its processes die as in a crash, and stay away until [`crash`](Self::crash) brings them back.
    pub fn end(&self) {
        assert_eq!(self.tell("end"), "ended");
    }

    fn tell(&self, word: &str) -> String {
        let mut shell = self.shell.lock().unwrap();
        let (child, out) = &mut *shell;
        writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
        let mut said = String::new();
        out.read_line(&mut said).unwrap();
        said.trim().to_owned()
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.join("server.log")).unwrap()).into_owned()
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The postmaster's process as it was started first, for tests that end it.
    pub fn server(&self) -> u32 {
        self.server
    }
}

/// The newest PostgreSQL of Debian's, else the one on the path.
fn programs() -> PathBuf {
    let all = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut versions: Vec<(u32, PathBuf)> = all
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .collect();
    versions.sort();
    if let Some((_, bin)) = versions.pop() {
        return bin;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|bin| complete(bin));
    found.expect(
        "these tests need PostgreSQL 15 or later: install Debian's package `postgresql`, or put initdb on the path",
    )
}

fn complete(bin: &Path) -> bool {
    ["initdb", "postgres", "psql", "pg_isready"].iter().all(|program| bin.join(program).exists())
}

/// What comes before a command that must not run as root; hands the directory over.
fn runner(directory: &Path) -> Vec<String> {
    let id = |of: &[&str]| Command::new("id").args(of).output().unwrap();
    if String::from_utf8_lossy(&id(&["-u"]).stdout).trim() != "0" {
        return Vec::new();
    }
    let user = USERS.iter().find(|user| id(&["-u", user]).status.success());
    let user = user.unwrap_or_else(|| panic!("PostgreSQL does not run as root, and none of {USERS:?} exists"));
    let group = String::from_utf8(id(&["-g", user]).stdout).unwrap().trim().to_owned();
    let owned = Command::new("chown").arg(format!("{user}:{group}")).arg(directory).status().unwrap();
    assert!(owned.success(), "chown {}", directory.display());
    ["setpriv", "--reuid", user, "--regid", &group, "--clear-groups"].map(str::to_owned).into()
}
