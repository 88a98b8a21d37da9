//! The unit and the container file: what they name exists, and what can be checked without installing them holds.
use crate::support::{Dir, Ran, portcullis};
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

const UNIT: &str = "packaging/systemd/portcullis.service";
const CONTAINER: &str = "packaging/container/Containerfile";

/// Every setting that a text names, commented lines included, each with a value that it can have.
fn settings(text: &str) -> Vec<String> {
    let names = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("PORTCULLIS_")).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// `config check` in an environment that has all of them: an unknown one is an error or a warning.
fn check(dir: &Dir, text: &str) {
    let mut command = portcullis(&dir.0, &["config", "check"]);
    dir.write("master", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let names = settings(text);
    assert!(names.len() >= 2, "{names:?}");
    for name in &names {
        let value = match name.as_str() {
            "PORTCULLIS_DATA_DIR" => "/var/lib/portcullis",
            "PORTCULLIS_LISTEN" => "0.0.0.0:7400",
            "PORTCULLIS_LOG_FORMAT" => "json",
            "PORTCULLIS_ISSUER" => "https://id.example.org",
            "PORTCULLIS_TLS_CERT" | "PORTCULLIS_TLS_KEY" => "some.pem",
            "PORTCULLIS_TRUSTED_PROXIES" => "127.0.0.1",
            "PORTCULLIS_MASTER_KEY_FILE" => "master",
            other => panic!("{other}: give it a value here, if it exists"),
        };
        command.env(name, value);
    }
    let ran = Ran::from(command.output().unwrap());
    assert!(ran.code == 0 && !ran.out.contains("resembles") && !ran.err.contains("unknown"), "{ran:#?}");
}

#[test]
fn the_unit_names_what_there_is() {
    let (dir, unit) = (Dir::new(), read(UNIT));
    check(&dir, &unit);
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap().to_owned();
    // The command as it stands, with a configuration that says nothing, as far as the settings.
    let exec = value("ExecStart");
    let args: Vec<&str> = exec.split(' ').skip(1).collect();
    assert_eq!((args[0], args[1], args.len()), ("serve", "--config", 3), "{exec}");
    dir.write("portcullis.toml", "");
    Ran::from(portcullis(&dir.0, &["config", "check", "--config", "portcullis.toml"]).output().unwrap()).must(0, "");
    for key in ["DynamicUser", "StateDirectory", "NoNewPrivileges", "ProtectSystem", "CapabilityBoundingSet"] {
        assert!(!value(key).is_empty());
    }
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
    // Exit code 2 is configuration, and stays so.
    assert_eq!(value("RestartPreventExitStatus"), "2");
    portcullis(&dir.0, &["serve", "--listen", "nonsense"]).output().map(Ran::from).unwrap().must(2, "listen");
}

/// By systemd itself, where it is there; the unit is read with this binary in the place of the installed one.
#[test]
fn systemd_takes_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("DID NOT RUN: packaging::systemd_takes_the_unit: there is no systemd-analyze");
        return;
    }
    let dir = Dir::new();
    let unit = read(UNIT).replace("/usr/bin/portcullis", env!("CARGO_BIN_EXE_portcullis"));
    let path = dir.write("portcullis.service", &unit);
    let analyze = |args: &[&str]| Ran::from(Command::new("systemd-analyze").args(args).arg(&path).output().unwrap());
    let verified = analyze(&["verify", "--man=no"]);
    let complaints: Vec<&str> = verified.err.lines().filter(|line| line.contains("portcullis.service")).collect();
    assert!(verified.code == 0 && complaints.is_empty(), "{verified:#?}");
    // How much it could do if it were taken over, from 0 to 100: little.
    let security = analyze(&["security", "--offline=yes", "--no-pager", "--threshold=20"]);
    assert_eq!(security.code, 0, "{security:#?}");
}

#[test]
fn the_container_file_names_what_there_is() {
    let (dir, file) = (Dir::new(), read(CONTAINER));
    check(&dir, &file);
    // What is copied is what the named build makes in the named folder.
    assert!(
        file.contains("cargo build --profile dist --package portcullis-server")
            && file.contains("-t portcullis target/dist")
    );
    let copied = file.lines().find(|line| line.starts_with("COPY ")).unwrap();
    assert_eq!(copied.split(' ').rev().nth(1), Some("portcullis"), "{copied}");
    let manifest = read("Cargo.toml");
    assert!(manifest.contains("[profile.dist]"));
    // A package that has settings of its own in `release` has those in `dist`, too, and is not stripped, unless they stand there again.
    let named = |profile: &str| -> Vec<String> {
        let table = manifest.split_once(&format!("[profile.{profile}.package]\n")).unwrap().1;
        let lines = table.lines().take_while(|line| !line.is_empty());
        lines.map(|line| line.split_once(" = ").unwrap().0.to_owned()).collect()
    };
    assert_eq!(named("release"), named("dist"));
    assert!(read("crates/server/Cargo.toml").contains("name = \"portcullis\"\npath = \"src/main.rs\""));
    // Both give hashes large pages.
    let large_pages = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1";
    assert!(file.contains(&format!("ENV {large_pages}")) && read(UNIT).contains(&format!("Environment={large_pages}")));
    // No root, and its words are commands of this binary.
    let user = file.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(user.parse::<u32>().unwrap() > 0);
    let health = file.lines().find_map(|line| line.split_once("CMD [\"/usr/bin/portcullis\", ")).unwrap().1;
    let args: Vec<&str> = health.trim_end_matches(']').split(", ").map(|word| word.trim_matches('"')).collect();
    portcullis(&dir.0, &args).output().map(Ran::from).unwrap().must(3, "admin.sock");
    assert!(file.contains("CMD [\"serve\"]"));
}

/// The health check of the container, against a server: 0 while it answers.
#[tokio::test]
async fn the_health_check_is_green() {
    let dir = Dir::new();
    let _server = crate::support::Server::start(&dir).await;
    let mut command = portcullis(&dir.0, &["clients", "list", "--limit", "1"]);
    command.env("PORTCULLIS_DATA_DIR", "data");
    command.output().map(Ran::from).unwrap().must(0, "portcullis");
}
