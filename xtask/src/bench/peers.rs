//! Servers of others' making: installed from their registry by their lock files in `bench/peers`, which say why they are fair.
use super::asked::basic;
use super::{Bench, CALLERS, PASSWORD, Running, path};
use crate::ports::lasting_address;
use crate::workspace::Workspace;
use crate::{Failure, interop, process};
use std::path::{Path, PathBuf};

/// As many opaque access tokens are made for introspection.
pub const TOKENS: usize = 1000;

/// npm's oidc-provider, everything in memory.
pub struct Provider {
    pub running: Running,
    /// With its version.
    pub name: String,
    pub refresh: PathBuf,
    pub opaque: PathBuf,
    pub basic: String,
}

/// npm's better-auth on SQLite.
pub struct BetterAuth {
    pub running: Running,
    pub name: String,
    /// A session's cookie for each account.
    pub cookies: PathBuf,
}

impl Provider {
    pub fn start(bench: &Bench, workspace: &Workspace) -> Result<Self, Failure> {
        let counts = [CALLERS.to_string(), TOKENS.to_string()];
        let (running, folder, name) =
            start(bench, workspace, "oidc-provider", "provider.mjs", &counts, &["--ignore-scripts"])?;
        Ok(Self {
            running,
            name,
            refresh: folder.join("refresh.tokens"),
            opaque: folder.join("opaque.tokens"),
            basic: basic("bench", "only-for-measurements-and-long-enough"),
        })
    }
}

impl BetterAuth {
    pub fn start(bench: &Bench, workspace: &Workspace) -> Result<Self, Failure> {
        let words = [CALLERS.to_string(), PASSWORD.to_owned()];
        let (running, folder, name) = start(bench, workspace, "better-auth", "server.mjs", &words, &[])?;
        Ok(Self { running, name, cookies: folder.join("cookies") })
    }
}

fn start(
    bench: &Bench,
    workspace: &Workspace,
    name: &str,
    script: &str,
    words: &[String],
    flags: &[&str],
) -> Result<(Running, PathBuf, String), Failure> {
    let of = format!("bench/peers/{name}");
    interop::tools::packages(workspace, name, &of, flags)?;
    let folder = bench.folder.join(name);
    std::fs::create_dir_all(&folder)?;
    let node = process::find("node").ok_or_else(|| Failure::Missing("Node.js is needed".into()))?;
    let address = lasting_address();
    let mut command = bench.on_first(&node);
    command.arg(script).args([address.port().to_string(), path(&folder)]).args(words);
    command.current_dir(workspace.root.join(&of)).env("NODE_ENV", "production");
    let (running, _) = Running::start(command, address, &bench.folder.join(format!("{name}.log")))?;
    let lock = workspace.root.join(&of).join("package-lock.json");
    Ok((running, folder, format!("{name} {}", version(&lock, name)?)))
}

/// What the lock file holds.
fn version(lock: &Path, name: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(lock)?;
    let lock: serde_json::Value = serde_json::from_str(&text).map_err(|error| Failure::Missing(error.to_string()))?;
    Ok(lock["packages"][format!("node_modules/{name}")]["version"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use crate::workspace::root;

    #[test]
    fn each_peer_has_an_exact_version() {
        for name in ["oidc-provider", "better-auth"] {
            let lock = root().join("bench/peers").join(name).join("package-lock.json");
            assert!(super::version(&lock, name).unwrap().split('.').count() == 3, "{name}");
        }
    }
}
