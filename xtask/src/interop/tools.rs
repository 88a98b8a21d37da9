//! What the scripts need, found or installed: Node.js and its packages, a Python environment, programs of Debian's. What
//! cannot be installed ends the command with a word about what to install; nothing is passed over.
use crate::rings::found_or_installed;
use crate::workspace::Workspace;
use crate::{Failure, process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that is looked for (a path, or a name in PATH), and the package that has it.
pub type Package = (&'static str, &'static str);

/// Apache with the module that signs people in.
pub const APACHE: &[Package] =
    &[("apache2", "apache2"), ("/usr/lib/apache2/modules/mod_auth_openidc.so", "libapache2-mod-auth-openidc")];
/// HAProxy.
pub const HAPROXY: &[Package] = &[("haproxy", "haproxy")];

/// The oldest Node.js that all packages take.
const NODE_MAJOR: u32 = 20;

/// Node.js, and the packages of `interop/node/package-lock.json`.
pub fn node(workspace: &Workspace) -> Result<(), Failure> {
    packages(workspace, "npm", "interop/node", &["--ignore-scripts"])
}

/// Node.js, and the packages of the `package-lock.json` in this folder of the repository.
pub fn packages(workspace: &Workspace, name: &str, of: &str, flags: &[&str]) -> Result<(), Failure> {
    let advice = format!("what is in {of} needs Node.js {NODE_MAJOR} or later with npm: install both");
    found_or_installed(&["node"], "nodejs", &advice)?;
    found_or_installed(&["npm"], "npm", &advice)?;
    let version = process::output(Command::new("node").arg("--version"))?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|text| text.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MAJOR) {
        return Err(Failure::Missing(format!("{advice}; this is {}", version.trim())));
    }
    let folder = workspace.root.join(of);
    let installed = folder.join("node_modules");
    once(workspace, name, &folder.join("package-lock.json"), &installed, || {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-progress"]).args(flags).current_dir(&folder);
        // What is compiled needs the headers of Node.js; where they are installed they are not fetched.
        let prefix = process::find("node").and_then(|file| Some(file.parent()?.parent()?.to_owned()));
        if let Some(prefix) = prefix.filter(|prefix| prefix.join("include/node/node_api.h").exists()) {
            npm.env("npm_config_nodedir", prefix);
        }
        process::run(&mut npm).map_err(|_| Failure::Missing(format!("`npm ci` failed in {of}: see above")))
    })
}

/// The interpreter of an environment with the packages of `interop/python/requirements.txt`.
pub fn python(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let advice =
        "the clients in interop/python need Python 3.11 or later with venv: install `python3` and `python3-venv`";
    found_or_installed(&["python3"], "python3-venv", advice)?;
    let folder = workspace.target.join("interop/python");
    let interpreter = folder.join("bin/python");
    let requirements = workspace.root.join("interop/python/requirements.txt");
    once(workspace, "pip", &requirements, &interpreter, || {
        let missing = |what: &str| Failure::Missing(format!("{what}: {advice}"));
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))
            .map_err(|_| missing("`python3 -m venv` failed"))?;
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r"]);
        process::run(pip.arg(&requirements)).map_err(|_| missing("`pip install` failed"))
    })?;
    Ok(interpreter)
}

/// Programs of Debian's.
pub fn debian(packages: &[Package]) -> Result<(), Failure> {
    for (program, package) in packages {
        if program.starts_with('/') && Path::new(program).exists() {
            continue;
        }
        let advice = format!("install Debian's package `{package}`");
        // A module is no program: its package is there when its file is.
        if program.starts_with('/') {
            crate::rings::install(package, &advice)?;
            if !Path::new(program).exists() {
                return Err(Failure::Missing(advice));
            }
        } else {
            found_or_installed(&[program, &format!("../sbin/{program}")], package, &advice)?;
        }
    }
    Ok(())
}

/// Installs unless just this list has been installed, and is there.
fn once(
    workspace: &Workspace,
    name: &str,
    list: &Path,
    installed: &Path,
    install: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let stamp = workspace.target.join(format!("interop/{name}.installed"));
    let text = std::fs::read_to_string(list)?;
    if installed.exists() && std::fs::read_to_string(&stamp).is_ok_and(|known| known == text) {
        return Ok(());
    }
    println!("  installing what {} names", list.display());
    std::fs::create_dir_all(workspace.target.join("interop"))?;
    install()?;
    Ok(std::fs::write(stamp, text)?)
}
