//! The arrows between the crates: as cargo sees them, as ARCHITECTURE.md draws them, and as no drawing may change them.
use super::{Finding, Text};
use crate::workspace::{Package, Workspace, short};
use std::collections::BTreeSet;

const MAP: &str = "ARCHITECTURE.md";

/// These know no I/O, clock, randomness or async, and among the workspace's crates only these (DESIGN §5).
const PURE: &[(&str, &[&str])] =
    &[("wire", &[]), ("feed", &["wire"]), ("domain", &["wire"]), ("verify", &["feed", "wire"])];

/// Compiled without the standard library, so that the compiler proves their purity.
const NO_STD: &[&str] = &["wire", "feed", "domain"];

/// Outside libraries that only these crates may name, test-only uses aside.
const KEPT: &[(&str, &[&str])] = &[
    ("axum", &["http", "relay", "server", "testkit", "floor", "one-build"]),
    ("axum-core", &["tower", "http", "server", "testkit"]),
    ("rusqlite", &["store-sqlite", "floor"]),
    ("sqlx", &["store-postgres"]),
    (
        "tokio",
        &[
            "store-sqlite",
            "store-postgres",
            "app",
            "http",
            "relay",
            "server",
            "tower",
            "gate",
            "testkit",
            "floor",
            "load",
            "followers",
            "verifying",
            "outgoing",
            "mail",
        ],
    ),
];

/// Compares the graph, the drawing and the rules.
pub fn check(workspace: &Workspace, texts: &[Text]) -> Vec<Finding> {
    let Some(map) = texts.iter().find(|text| text.path == MAP) else {
        return vec![finding(
            1,
            "there is no map of the crates".into(),
            "Write ARCHITECTURE.md with an ```arrows block".into(),
        )];
    };
    let mut findings = compare_arrows(&arrows_of(&workspace.packages), &drawn_arrows(&map.text));
    findings.extend(compare_names(&workspace.packages, &map.text));
    findings.extend(workspace.packages.iter().flat_map(rules));
    findings.extend(no_std(texts));
    findings
}

/// `(from, to)`, for normal and build dependencies.
fn arrows_of(packages: &[Package]) -> BTreeSet<(String, String)> {
    let arrows = packages.iter().flat_map(|package| {
        let inside = package.dependencies.iter().filter(|dependency| dependency.internal && !dependency.dev);
        inside.map(|dependency| (short(&package.name).to_owned(), short(&dependency.name).to_owned()))
    });
    arrows.collect()
}

/// The lines `a -> b c` of the fenced block `arrows`, each with its line number.
fn drawn_arrows(map: &str) -> Vec<(usize, String, String)> {
    let mut drawn = Vec::new();
    let mut inside = false;
    for (index, line) in map.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside && line.trim() == "```arrows";
        } else if inside && let Some((from, to)) = line.split_once("->") {
            for to in to.split_whitespace() {
                drawn.push((index + 1, from.trim().to_owned(), to.to_owned()));
            }
        }
    }
    drawn
}

fn compare_arrows(real: &BTreeSet<(String, String)>, drawn: &[(usize, String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, from, to) in drawn {
        if !real.contains(&(from.clone(), to.clone())) {
            findings.push(finding(
                *line,
                format!("the arrow `{from} -> {to}` is drawn, but crates/{from}/Cargo.toml has no such dependency"),
                "Remove the arrow, or the reason why it is missing".into(),
            ));
        }
    }
    for (from, to) in real {
        if !drawn.iter().any(|(_, a, b)| a == from && b == to) {
            findings.push(finding(
                1,
                format!("`{from}` depends on `{to}`, and no arrow says so"),
                format!(
                    "Draw `{from} -> {to}` if it belongs to the design (DESIGN §5); otherwise remove the dependency"
                ),
            ));
        }
    }
    findings
}

/// The first cells of the table under "## Crates": `| \`wire\` | …`.
fn named(map: &str) -> Vec<(usize, String)> {
    let rows = map.lines().enumerate().filter_map(|(index, line)| {
        let name = line.strip_prefix("| `")?.split('`').next()?;
        Some((index + 1, name.to_owned()))
    });
    rows.collect()
}

fn compare_names(packages: &[Package], map: &str) -> Vec<Finding> {
    let rows = named(map);
    let mut findings = Vec::new();
    for (line, name) in &rows {
        if !packages.iter().any(|package| short(&package.name) == name) {
            findings.push(finding(
                *line,
                format!("the table names `{name}`, which is no package of the workspace"),
                "Remove the row, or add the crate".into(),
            ));
        }
    }
    for package in packages {
        let name = short(&package.name);
        let count = rows.iter().filter(|(_, row)| row == name).count();
        if count != 1 {
            findings.push(finding(
                1,
                format!("the crate `{name}` has {count} rows in the table of crates"),
                "Give it exactly one, that says what it holds and what is absent from it".into(),
            ));
        }
    }
    findings
}

/// What no arrow in the drawing may change.
fn rules(package: &Package) -> Vec<Finding> {
    let name = short(&package.name);
    let mut findings = Vec::new();
    for dependency in package.dependencies.iter().filter(|dependency| !dependency.dev) {
        let to = short(&dependency.name);
        if let Some((_, allowed)) = PURE.iter().find(|(pure, _)| *pure == name)
            && dependency.internal
            && !allowed.contains(&to)
        {
            findings.push(manifest(
                name,
                format!("the pure crate `{name}` depends on `{to}`"),
                format!("It may know: {allowed:?}"),
            ));
        }
        if let Some((_, allowed)) = KEPT.iter().find(|(library, _)| *library == dependency.name)
            && !allowed.contains(&name)
        {
            findings.push(manifest(
                name,
                format!("`{name}` depends on {}", dependency.name),
                format!("Only these may: {}", allowed.join(", ")),
            ));
        }
    }
    findings
}

fn no_std(texts: &[Text]) -> Vec<Finding> {
    let impure = NO_STD.iter().filter_map(|name| {
        let path = format!("crates/{name}/src/lib.rs");
        let file = texts.iter().find(|text| text.path == path)?;
        (!file.text.contains("#![no_std]")).then(|| Finding {
            file: path,
            line: 1,
            what: format!("`{name}` is compiled with the standard library"),
            todo: "Open it with #![no_std] and take what is needed from alloc".into(),
        })
    });
    impure.collect()
}

fn finding(line: usize, what: String, todo: String) -> Finding {
    Finding { file: MAP.into(), line, what, todo }
}

fn manifest(name: &str, what: String, todo: String) -> Finding {
    Finding { file: format!("crates/{name}/Cargo.toml"), line: 1, what, todo }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|(name, dev)| Dependency {
            name: (*name).to_owned(),
            dev: *dev,
            internal: name.starts_with("portcullis-"),
        });
        Package {
            name: format!("portcullis-{name}"),
            id: String::new(),
            folder: "crates".into(),
            dependencies: dependencies.collect(),
        }
    }

    fn map(text: &str) -> Vec<Text> {
        vec![Text { path: MAP.into(), text: text.into() }]
    }

    fn workspace(packages: Vec<Package>) -> Workspace {
        Workspace { root: ".".into(), target: "target".into(), packages }
    }

    const TWO: &str = "| `wire` | x |\n| `feed` | y |\n```arrows\nfeed -> wire\n```\n";

    #[test]
    fn a_true_map_is_clean() {
        let w = workspace(vec![
            package("wire", &[]),
            package("feed", &[("portcullis-wire", false), ("portcullis-sim", true)]),
        ]);
        assert_eq!(check(&w, &map(TWO)), []);
    }

    #[test]
    fn an_arrow_too_many_or_too_few_is_found() {
        let w = workspace(vec![package("wire", &[]), package("feed", &[])]);
        let findings = check(&w, &map(TWO));
        assert!(findings.len() == 1 && findings[0].line == 4 && findings[0].what.contains("is drawn"), "{findings:?}");
        let w = workspace(vec![package("wire", &[]), package("feed", &[("portcullis-wire", false)])]);
        let findings = check(&w, &map(&TWO.replace("feed -> wire", "")));
        assert!(findings.len() == 1 && findings[0].what.contains("no arrow says so"), "{findings:?}");
    }

    #[test]
    fn names_must_agree_both_ways() {
        let w = workspace(vec![package("wire", &[]), package("gate", &[])]);
        let findings = check(&w, &map("| `wire` | x |\n| `ghost` | y |\n"));
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn a_pure_crate_and_a_library_kept_apart_are_guarded_even_when_drawn() {
        let drawn = "| `domain` | |\n| `verify` | |\n```arrows\ndomain -> verify\n```\n";
        let w = workspace(vec![
            package("domain", &[("portcullis-verify", false), ("tokio", false)]),
            package("verify", &[("axum", false), ("rusqlite", true)]),
        ]);
        let findings = check(&w, &map(drawn));
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}
