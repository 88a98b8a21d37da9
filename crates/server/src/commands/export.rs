//! `portcullis export`: accounts as lines that `portcullis import` reads, page by page, in the order of their ids.
use super::accounts::items;
use super::remote::{Remote, block_on, escaped};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::out;
use crate::cli::transfer::ExportArgs;
use http::Method;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Does what was asked for.
pub fn run(args: &ExportArgs) -> Outcome {
    into_file(args.out.as_deref(), args.reach.json, "accounts", |out| block_on(write(args, out)))
}

/// Writes to a file that is not there yet, or to standard output. `write` says how many of `what` it wrote.
pub(super) fn into_file(
    path: Option<&Path>,
    as_json: bool,
    what: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<u64, Failure>,
) -> Outcome {
    let Some(path) = path else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        return write(&mut out).map(|_| Exit::Done);
    };
    // Under its own name only when it is whole.
    let part = path.with_added_extension("part");
    if path.exists() {
        return Err(Failure::config(format!("{} exists; name another file", path.display())));
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
    let file = file.map_err(|error| unwritable(&part, &error))?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out).and_then(|n| {
        let file = out.into_inner().map_err(|error| unwritable(&part, error.error()))?;
        File::sync_all(&file).and_then(|()| std::fs::rename(&part, path)).map_err(|error| unwritable(path, &error))?;
        Ok(n)
    });
    match written {
        Ok(n) if as_json => out::json(&serde_json::json!({ what: n, "file": path })),
        Ok(n) => out::line(&format!("{n} {what} written to {}", path.display())),
        Err(failure) => {
            let _ = std::fs::remove_file(&part); // half an export is none
            return Err(failure);
        }
    }
    Ok(Exit::Done)
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::config(format!("{} cannot be written: {error}", path.display()))
}

/// All pages; how many accounts.
async fn write(args: &ExportArgs, out: &mut dyn Write) -> Result<u64, Failure> {
    let mut remote = Remote::of(&args.reach)?;
    let hashes = if args.with_password_hashes { "&password_hashes=true" } else { "" };
    every_page(&mut remote, &format!("/v1/admin/export?limit=200{hashes}"), "accounts", out).await
}

/// Writes what stands in `member` of all pages, one a line; how many. `path` is the first page's, with a query.
pub(super) async fn every_page(
    remote: &mut Remote,
    path: &str,
    member: &str,
    out: &mut dyn Write,
) -> Result<u64, Failure> {
    let (mut cursor, mut n) = (String::new(), 0);
    loop {
        let page = remote.call(Method::GET, &format!("{path}{cursor}"), None).await?;
        let broken = |error: std::io::Error| Failure::refused(format!("the export cannot be written: {error}"));
        for one in items(&page, member) {
            writeln!(out, "{one}").map_err(broken)?;
            n += 1;
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={}", escaped(next)),
            None => {
                out.flush().map_err(broken)?;
                return Ok(n);
            }
        }
    }
}
