//! The scripts, what each needs, and how they run: one after another, each against a server of its own, so that what one of
//! them does to a session, a client or a budget is nobody else's.
use super::place::Place;
use super::{judged, tools};
use crate::rings::{Tally, log_file};
use crate::workspace::Workspace;
use crate::{Failure, process};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A script is ended after as long.
const LIMIT: Duration = Duration::from_secs(120);

/// What runs a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    Node,
    Python,
    /// Node drives a program of Debian's.
    Debian(&'static [tools::Package]),
}

/// One script.
pub struct Client {
    /// The library or program that it tries.
    pub name: &'static str,
    /// Whether `cargo xtask test` runs it too.
    pub quick: bool,
    runs: Runs,
    /// From the folder `interop/`.
    script: &'static str,
    /// What its server signs access tokens with.
    algorithm: &'static str,
}

impl Client {
    /// Whether it is meant by this word.
    pub fn is(&self, word: &str) -> bool {
        self.name == word
    }
    fn title(&self) -> String {
        format!("{} {}", self.name, self.algorithm)
    }
}

const fn node(name: &'static str, script: &'static str, algorithm: &'static str) -> Client {
    Client { name, quick: true, runs: Runs::Node, script, algorithm }
}
const fn python(name: &'static str, script: &'static str, algorithm: &'static str) -> Client {
    Client { name, quick: true, runs: Runs::Python, script, algorithm }
}
const fn debian(
    name: &'static str,
    packages: &'static [tools::Package],
    script: &'static str,
    algorithm: &'static str,
) -> Client {
    Client { name, quick: false, runs: Runs::Debian(packages), script, algorithm }
}

/// All scripts.
pub const ALL: &[Client] = &[
    node("openid-client", "node/openid-client.mjs", "ES256"),
    node("oauth4webapi", "node/oauth4webapi.mjs", "ES256"),
    node("oidc-provider", "node/oracle.mjs", "ES256"),
    node("upstream", "node/upstream.mjs", "ES256"),
    node("express-openid-connect", "node/express.mjs", "RS256"),
    node("jose", "node/jose.mjs", "ES256"),
    node("jose", "node/jose.mjs", "RS256"),
    node("jose", "node/jose.mjs", "Ed25519"),
    node("standardwebhooks", "node/webhooks.mjs", "ES256"),
    python("authlib", "python/authlib_client.py", "ES256"),
    python("pyjwt", "python/pyjwt_tokens.py", "ES256"),
    python("pyjwt", "python/pyjwt_tokens.py", "RS256"),
    python("joserfc", "python/joserfc_tokens.py", "ES256"),
    python("joserfc", "python/joserfc_tokens.py", "RS256"),
    python("joserfc", "python/joserfc_tokens.py", "Ed25519"),
    debian("apache", tools::APACHE, "debian/apache.mjs", "RS256"),
    debian("haproxy", tools::HAPROXY, "debian/haproxy.mjs", "ES256"),
    debian("haproxy", tools::HAPROXY, "debian/haproxy.mjs", "RS256"),
];

/// Installs what the wanted scripts need, and runs them.
pub fn run(workspace: &Workspace, wanted: impl Fn(&Client) -> bool, server: &Path) -> Result<Tally, Failure> {
    let chosen: Vec<&Client> = ALL.iter().filter(|client| wanted(client)).collect();
    tools::node(workspace)?;
    let python =
        if chosen.iter().any(|client| client.runs == Runs::Python) { Some(tools::python(workspace)?) } else { None };
    let mut tally = Tally::default();
    for client in chosen {
        if let Runs::Debian(packages) = client.runs {
            tools::debian(packages)?;
        }
        let interpreter = match client.runs {
            Runs::Python => python.as_deref().unwrap_or(Path::new("python3")),
            Runs::Node | Runs::Debian(_) => Path::new("node"),
        };
        tally.add(run_one(workspace, client, interpreter, server)?);
    }
    Ok(tally)
}

fn run_one(workspace: &Workspace, client: &Client, interpreter: &Path, server: &Path) -> Result<Tally, Failure> {
    let folder = workspace.root.join("interop");
    let place = Place::start(workspace, server, client.algorithm)?;
    let log = log_file(workspace, super::RING, &client.title().replace(' ', "-"))?;
    let mut script = Command::new(interpreter);
    script.arg(folder.join(client.script)).current_dir(place.folder()).env("PORTCULLIS_INTEROP", place.told()?);
    let logged = process::logged(&mut script, &log, LIMIT)?;
    judged(&client.title(), &log, logged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn every_script_is_there_and_every_file_beside_them_is_run() {
        let folder = root().join("interop");
        assert!(ALL.iter().all(|client| folder.join(client.script).is_file()), "a script is missing");
        for part in ["node", "python", "debian"] {
            let entries = std::fs::read_dir(folder.join(part)).unwrap().map(|entry| entry.unwrap().path());
            for file in entries.filter(|file| file.extension().is_some_and(|kind| kind == "mjs" || kind == "py")) {
                let name = format!("{part}/{}", file.file_name().unwrap().to_string_lossy());
                let shared = ["debian/lib.mjs", "python/place.py"].contains(&&*name);
                assert!(shared || ALL.iter().any(|client| client.script == name), "nothing runs {name}");
            }
        }
    }
}
