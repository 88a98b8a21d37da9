//! How many crates are compiled, and which never may be.
use super::{Finding, Text};
use crate::workspace::Workspace;
use crate::{Failure, process};
use std::collections::BTreeSet;

/// Unique crates, the package itself included, by normal dependencies on this platform (STYLE "Dependencies").
pub const BUDGETS: &[(&str, usize)] = &[("verify", 40), ("tower", 70), ("server", 300)];

/// Never compiled. A name can stand in Cargo.lock as somebody's unused option; then the tree decides.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "ring"];

/// Counts against the budgets and looks for what is banned.
pub fn check(workspace: &Workspace, texts: &[Text]) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for (name, budget) in BUDGETS {
        let count = count(workspace, name)?;
        if count > *budget {
            findings.push(Finding {
                file: format!("crates/{name}/Cargo.toml"),
                line: 1,
                what: format!("{count} crates are compiled for `{name}`, its budget is {budget}"),
                todo: format!("See `cargo tree -e normal -p portcullis-{name}`; drop a dependency or a feature of one"),
            });
        }
    }
    let lock = texts.iter().find(|text| text.path == "Cargo.lock").map_or("", |text| text.text.as_str());
    for (line, name) in banned_in(lock) {
        if reachable(workspace, name)? {
            findings.push(Finding {
                file: "Cargo.lock".into(),
                line,
                what: format!("`{name}` is compiled"),
                todo: format!("`cargo tree -i {name} -e all` says for whom; aws-lc-rs and rustls do its work here"),
            });
        }
    }
    Ok(findings)
}

/// Unique crates of one package by normal dependencies.
pub fn count(workspace: &Workspace, name: &str) -> Result<usize, Failure> {
    let package = format!("portcullis-{name}");
    let tree = process::output(
        process::cargo()
            .args(["tree", "--locked", "--quiet", "-e", "normal", "--prefix", "none", "-f", "{p}", "-p", &package])
            .current_dir(&workspace.root),
    )?;
    Ok(unique(&tree).len())
}

/// `name vX.Y.Z`, without where it is from and whether it was listed before.
fn unique(tree: &str) -> BTreeSet<&str> {
    tree.lines().map(|line| line.split(" (").next().unwrap_or(line)).filter(|line| !line.is_empty()).collect()
}

fn banned_in(lock: &str) -> Vec<(usize, &'static str)> {
    let lines = lock.lines().enumerate().filter_map(|(index, line)| {
        let name = line.strip_prefix("name = \"")?.strip_suffix('"')?;
        BANNED.iter().find(|banned| **banned == name).map(|banned| (index + 1, *banned))
    });
    lines.collect()
}

/// Whether any package of the workspace compiles it on this platform, tests and build scripts included.
fn reachable(workspace: &Workspace, name: &str) -> Result<bool, Failure> {
    let tree = process::output(
        process::cargo()
            .args(["tree", "--locked", "--quiet", "--workspace", "-e", "all", "--prefix", "none", "-f", "{p}"])
            .current_dir(&workspace.root),
    )?;
    Ok(unique(&tree).iter().any(|line| line.split(' ').next() == Some(name)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_each_crate_once() {
        let tree = "a v1.0.0 (/here)\nb v1.0.0\nb v1.0.0 (*)\nb v2.0.0 (proc-macro)\nb v2.0.0 (proc-macro) (*)\n\n";
        assert_eq!(super::unique(tree).len(), 3);
    }

    #[test]
    fn finds_what_is_banned() {
        let lock = "[[package]]\nname = \"ring\"\n\n[[package]]\nname = \"ringbuf\"\n";
        assert_eq!(super::banned_in(lock), [(2, "ring")]);
    }
}
