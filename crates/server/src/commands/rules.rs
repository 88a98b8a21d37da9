//! `portcullis rules`: policies about suspicious activity, without a server.
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{out, table};
use portcullis_domain::risk::Judge as _;
use portcullis_rules::{DEFAULT, MAX_FILE, Policy};
use std::io::Read as _;
use std::path::Path;

/// Reads a file, and shows its rules, or all that is wrong with it.
pub fn check(path: &Path) -> Outcome {
    let text = read(path).map_err(|why| Failure::config(format!("{}: {why}", path.display())))?;
    let policy = Policy::parse(&text).map_err(|faults| {
        let lines: Vec<String> = faults
            .iter()
            .map(|fault| format!("{}:{}:{}: {}", path.display(), fault.line, fault.column, fault.what))
            .collect();
        Failure::config(lines.join("\n"))
    })?;
    let row = |(name, reason, shadow): (&str, &str, bool)| {
        vec![name.to_owned(), if shadow { "shadow" } else { "on" }.to_owned(), reason.to_owned()]
    };
    let rows: Vec<Vec<String>> = policy.rules().map(row).collect();
    for warning in policy.warnings() {
        let (line, column) = (warning.line, warning.column);
        out::line(&format!("{}:{line}:{column}: warning: {}", path.display(), warning.what));
    }
    out::line(&format!("version {}, {} rules", policy.version(), rows.len()));
    out::line(&table::render(&["RULE", "", "REASON"], &rows));
    Ok(Exit::Done)
}

/// The text, if it is one and not larger than a policy may be.
fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    // One byte more than it may have shows that it has too many.
    file.take(MAX_FILE as u64 + 1).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => "this is no text in UTF-8".to_owned(),
        _ => error.to_string(),
    })?;
    Ok(text)
}

/// Prints the built-in policy.
pub fn default() -> Outcome {
    out::line(DEFAULT.trim_end());
    Ok(Exit::Done)
}
