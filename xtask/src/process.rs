//! Starting other programs, with a time limit and a log file.
use crate::Failure;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Looked at as often while a program runs.
const POLL: Duration = Duration::from_millis(20);

/// Runs to the end with output on the terminal.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| Failure::Missing(format!("{}: {error}", name(command))))?;
    if status.success() { Ok(()) } else { Err(Failure::Failed) }
}

/// Runs to the end and returns standard output; standard error goes to the terminal.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::Missing(format!("{}: {error}", name(command))))?;
    if !output.status.success() {
        return Err(Failure::Missing(format!("{} ended with {}", name(command), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Processor time of the programs that have ended so far, in milliseconds: what others do on the machine does not count.
pub fn children_ms() -> Result<u64, Failure> {
    /// `USER_HZ`, which Linux has fixed for what it shows in /proc.
    const TICK_MS: u64 = 10;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in brackets may hold anything; `cutime` and `cstime` are the 14th and 15th word behind it (proc_pid_stat(5)).
    let words = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(13).take(2);
    Ok(words.filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() * TICK_MS)
}

/// How a program with a log ended.
pub struct Logged {
    /// `None` when it was ended at the limit.
    pub status: Option<ExitStatus>,
    /// What it printed, both streams in order.
    pub text: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs with both streams in `log`; ends the program at `limit`.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<Logged, Failure> {
    let file = File::create(log)?;
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .map_err(|error| Failure::Missing(format!("{}: {error}", name(command))))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    Ok(Logged { status, text, took: begun.elapsed() })
}

/// Where a program stands in PATH.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The cargo that runs us, or the one in PATH.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
