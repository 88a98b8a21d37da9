//! What no compiler checks, as a test: each finding says where, what, and what to do.
//!
//! The checks read the repository as it lies on the disk (STYLE: the map is checked). They are strict rather than clever: a
//! false alarm is answered by a better check or by clearer code, not by a list of exceptions.
mod budget;
mod clauses;
mod docs;
mod graph;
mod sources;

use crate::workspace::{self, Workspace};
use crate::{Failure, process};
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, from the repository's folder.
    pub file: String,
    /// The line, 1 for the whole file.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub todo: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}. {}.", self.file, self.line, self.what, self.todo)
    }
}

/// A text file of the repository.
#[derive(Debug)]
pub struct Text {
    /// The path, from the repository's folder, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// `cargo xtask tidy`.
pub fn command() -> Result<(), Failure> {
    let findings = run(&workspace::load()?)?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {}", if findings.is_empty() { "clean".into() } else { format!("{} findings", findings.len()) });
    if findings.is_empty() { Ok(()) } else { Err(Failure::Failed) }
}

/// All checks.
pub fn run(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let texts = read(&workspace.root)?;
    let mut findings = graph::check(workspace, &texts);
    findings.extend(budget::check(workspace, &texts)?);
    findings.extend(sources::check(&texts));
    findings.extend(docs::check(&workspace.root, &texts));
    findings.extend(clauses::check(&texts));
    findings.extend(interop_lock(&workspace.root));
    findings.sort();
    Ok(findings)
}

/// The workspace in `interop/` has a lock file of its own, which nobody thinks of when a crate of ours gets another dependency.
fn interop_lock(root: &Path) -> Option<Finding> {
    let mut fits = process::cargo();
    fits.args(["metadata", "--locked", "--format-version", "1"]).current_dir(root.join("interop"));
    process::output(&mut fits).is_err().then(|| Finding {
        file: "interop/Cargo.lock".into(),
        line: 1,
        what: "it does not fit the manifests any more".into(),
        todo: "Run `cargo update -w` in interop/".into(),
    })
}

/// `(crate, crates compiled for it, budget)`.
pub fn counts(workspace: &Workspace) -> Result<Vec<(&'static str, usize, usize)>, Failure> {
    let counted = budget::BUDGETS.iter().map(|(name, most)| Ok((*name, budget::count(workspace, name)?, *most)));
    counted.collect()
}

/// Every text file that git knows or would take; a fresh file counts before it is added.
fn read(root: &Path) -> Result<Vec<Text>, Failure> {
    let listing = process::output(
        std::process::Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root),
    )?;
    let mut texts = Vec::new();
    for path in listing.split_terminator('\0') {
        let known = ["rs", "md", "toml", "lock", "mjs", "py"].iter().any(|kind| path.ends_with(&format!(".{kind}")));
        let file: PathBuf = root.join(path);
        if known && file.is_file() {
            texts.push(Text { path: path.to_owned(), text: std::fs::read_to_string(file)? });
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use crate::workspace;

    #[test]
    fn the_repository_is_tidy() {
        let findings = super::run(&workspace::load().unwrap()).unwrap();
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "\n{}\n", said.join("\n"));
    }
}
