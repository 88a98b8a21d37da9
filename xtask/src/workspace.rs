//! The workspace as cargo sees it.
use crate::{Failure, process};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One package of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its full name, `portcullis-wire`.
    pub name: String,
    /// Its cargo id.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What its manifest names.
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependencies.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// Only for tests and benches.
    pub dev: bool,
    /// A package of this workspace.
    pub internal: bool,
}

/// What `cargo metadata --no-deps` says.
#[derive(Debug)]
pub struct Workspace {
    /// The repository.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// All packages.
    pub packages: Vec<Package>,
}

/// `portcullis-store-sqlite` → `store-sqlite`: as the folders and ARCHITECTURE.md say it.
pub fn short(name: &str) -> &str {
    name.strip_prefix("portcullis-").unwrap_or(name)
}

/// The repository's folder: the parent of this package's.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Asks cargo.
pub fn load() -> Result<Workspace, Failure> {
    let root = root();
    let text = process::output(
        process::cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]).current_dir(&root),
    )?;
    parse(root, &text)
        .ok_or_else(|| Failure::Missing("`cargo metadata` answered in a form that is not understood".into()))
}

fn parse(root: PathBuf, text: &str) -> Option<Workspace> {
    let value: Value = serde_json::from_str(text).ok()?;
    let packages = value["packages"].as_array()?.iter().map(package).collect::<Option<Vec<_>>>()?;
    Some(Workspace { root, target: value["target_directory"].as_str()?.into(), packages })
}

fn package(value: &Value) -> Option<Package> {
    let folder = Path::new(value["manifest_path"].as_str()?).parent()?.to_owned();
    let dependencies = value["dependencies"].as_array()?.iter().map(|dependency| {
        Some(Dependency {
            name: dependency["name"].as_str()?.to_owned(),
            dev: dependency["kind"].as_str() == Some("dev"),
            internal: dependency["path"].is_string(),
        })
    });
    Some(Package {
        name: value["name"].as_str()?.to_owned(),
        id: value["id"].as_str()?.to_owned(),
        folder,
        dependencies: dependencies.collect::<Option<Vec<_>>>()?,
    })
}
