//! A directory of its own for each test, and a clock that stands until it is moved.
use portcullis_store_sqlite::{OpenError, OpenOptions, SqliteStore};
use portcullis_wire::{LogId, Time};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub const START: Time = Time(1_700_000_000_000);
pub const LOG: LogId = LogId::from_bits(7);

/// Removed with everything in it when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("portcullis-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub fn file(&self) -> PathBuf {
        self.0.join("portcullis.db")
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}
impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options() -> OpenOptions {
    OpenOptions::new(LOG, Arc::new(|| START))
}

pub fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, options())
}

/// This test binary once more, running one test as a child with a part to play.
pub struct Child {
    process: std::process::Child,
    out: BufReader<std::process::ChildStdout>,
    whole: bool,
}

/// Whether this process is the child that plays this part.
pub fn is_child(part: &str) -> bool {
    std::env::var("PART").is_ok_and(|value| value == part)
}

pub fn child(test: &str, part: &str, database: &Path) -> Child {
    child_as(test, part, database, |_| {})
}

pub fn child_as(test: &str, part: &str, database: &Path, change: impl Fn(&mut Command)) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    change(&mut command);
    start(command, test, part, database)
}

/// A child for whom a shell prepares the ground first.
pub fn child_by_shell(prepare: &str, test: &str, part: &str, database: &Path) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{prepare}; exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    start(command, test, part, database)
}

fn start(mut command: Command, test: &str, part: &str, database: &Path) -> Child {
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("PART", part).env("DATABASE", database);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut process = command.spawn().unwrap();
    let out = BufReader::new(process.stdout.take().unwrap());
    Child { process, out, whole: true }
}

impl Child {
    pub fn id(&self) -> u32 {
        self.process.id()
    }
    /// The next line that the test itself printed.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            self.whole = line.ends_with('\n');
            let line = line.trim_end();
            // The harness's own words; what the test prints may follow "… ... " on the same line.
            let line = line.rsplit_once(" ... ").map_or(line, |(_, rest)| rest);
            if !line.is_empty() && !line.starts_with("running ") {
                return Some(line.to_owned());
            }
        }
    }
    /// Whether the last line came to its end.
    pub fn whole(&self) -> bool {
        self.whole
    }
    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
