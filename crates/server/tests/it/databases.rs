//! Database files that cannot be used: each is refused in words that say why, nothing is changed in it.
use crate::support::{Dir, ISSUER, Ran, Server, portcullis_at, run};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

const SERVE: [&str; 7] = ["serve", "--listen", "127.0.0.1:0", "--issuer", ISSUER, "--data-dir", "data"];

/// A database that a server has used and closed.
async fn used() -> Dir {
    let dir = Dir::new();
    let mut server = Server::start(&dir).await;
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.ended().await, Some(0));
    dir
}

fn refused(dir: &Dir, said: &str) -> Ran {
    let database = dir.path("data/portcullis.db");
    let before = std::fs::read(&database).unwrap();
    let ran = run(&dir.0, &SERVE).must(2, said);
    assert!(ran.err.contains("portcullis.db"), "it does not name the file: {ran:?}");
    assert!(before == std::fs::read(&database).unwrap(), "the file was changed");
    ran
}

#[tokio::test]
async fn a_newer_one() {
    let dir = used().await;
    let path = dir.path("data/portcullis.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&9999u32.to_be_bytes()); // user_version in the header of the file format
    std::fs::write(&path, bytes).unwrap();
    refused(&dir, "9999");
}

#[tokio::test]
async fn a_damaged_one() {
    let dir = used().await;
    let path = dir.path("data/portcullis.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let from = bytes.len() / 4;
    bytes[from..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    refused(&dir, "damaged");
}

#[tokio::test]
async fn none_at_all() {
    let dir = used().await;
    dir.write("data/portcullis.db", "this is a shopping list, not a database\n");
    refused(&dir, "not a database");
}

#[tokio::test]
async fn a_read_only_one() {
    let dir = used().await;
    let modes = [
        ("data", 0o755),
        ("data/portcullis.db", 0o444),
        ("data/master.key", 0o444),
        ("data/portcullis.db.lock", 0o666),
    ];
    for (name, mode) in modes {
        std::fs::set_permissions(dir.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Root may write everything, nobody may not; nobody may not reach the target folder either, so a copy runs.
    let binary = dir.path("portcullis");
    std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &binary).unwrap();
    let mut command = portcullis_at(&binary, &dir.0, &SERVE);
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(65_534).gid(65_534);
    }
    Ran::from(command.output().unwrap()).must(2, "cannot be written");
}

#[tokio::test]
async fn one_in_a_directory_that_is_not_there() {
    let dir = Dir::new();
    let args = [&SERVE[..], &["--database-url", "sqlite://nowhere/portcullis.db"]].concat();
    run(&dir.0, &args).must(2, "nowhere");
}
