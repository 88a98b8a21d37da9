//! Logs: text for people or JSON for programs, on standard error. What is logged names ids, never secrets: their types do not
//! print them.
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging; once per process. `level` was checked when the settings were read.
pub fn start(json: bool, level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) changes nothing.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
}
