//! Opening: who else has it, whose it is, what is wrong with it. Each answer says what to do, and nothing is changed.
use crate::support::{Directory, LOG, START, child, is_child, open, options};
use portcullis_domain::{Change, Changes};
use portcullis_store::Store;
use portcullis_store_sqlite::{OpenError, OpenOptions, SqliteStore};
use portcullis_wire::{LogId, Rev};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::Arc;

fn refused(path: &Path) -> OpenError {
    match open(path) {
        Err(error) => {
            let text = error.to_string();
            // Whoever reads it learns which file and what to do.
            assert!(
                text.contains(path.file_name().unwrap().to_str().unwrap()) || text.contains("portcullis.db"),
                "{text}"
            );
            assert!(text.contains(';') || text.contains("cannot be opened"), "{text}");
            error
        }
        Ok(_) => panic!("opened"),
    }
}

/// A database with something in it, closed.
fn filled(directory: &Directory) {
    let store = open(&directory.file()).unwrap();
    let raise = Changes { steps: vec![Change::RaiseHorizon(START)], ..Changes::default() };
    portcullis_store::conformance::wait(store.commit(raise)).unwrap();
}

#[test]
fn a_second_server_is_refused_and_told_by_whom() {
    let directory = Directory::new();
    let first = open(&directory.file()).unwrap();
    let pid = match refused(&directory.file()) {
        OpenError::InUse { pid, .. } => pid,
        other => panic!("{other}"),
    };
    assert_eq!(pid, Some(std::process::id()));
    // By another name too.
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(directory.file(), &link).unwrap();
    assert!(matches!(refused(&link), OpenError::InUse { .. }));
    let around = directory.path().join("..").join(directory.path().file_name().unwrap()).join("portcullis.db");
    assert!(matches!(refused(&around), OpenError::InUse { .. }));
    drop(first);
    open(&directory.file()).unwrap();
}

#[test]
fn another_process_holds_it_until_it_is_killed() {
    if is_child("holder") {
        let store = open(Path::new(&std::env::var("DATABASE").unwrap())).unwrap();
        println!("open");
        std::thread::park();
        drop(store);
        return;
    }
    let directory = Directory::new();
    let mut holder = child("opening::another_process_holds_it_until_it_is_killed", "holder", &directory.file());
    assert_eq!(holder.line().as_deref(), Some("open"));
    assert!(matches!(refused(&directory.file()), OpenError::InUse { pid, .. } if pid == Some(holder.id())));
    holder.kill();
    open(&directory.file()).unwrap();
}

#[test]
fn a_new_database_is_for_its_user_only() {
    let directory = Directory::new();
    let store = open(&directory.file()).unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        seen += 1;
    }
    assert_eq!(seen, 4, "database, log, index, lock");
    drop(store);
}

#[test]
fn a_database_keeps_its_own_log() {
    let directory = Directory::new();
    filled(&directory);
    let other = OpenOptions::new(LogId::from_bits(1), Arc::new(|| START));
    let store = SqliteStore::open(&directory.file(), other).unwrap();
    assert_eq!(portcullis_store::conformance::wait(store.stamp()).unwrap().log, LOG);
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let directory = Directory::new();
    for content in [&b"hello"[..], &[0; 4096][..], &b"SQLite format 2\0 and so on"[..]] {
        fs::write(directory.file(), content).unwrap();
        assert!(matches!(refused(&directory.file()), OpenError::NotADatabase { .. }));
        assert_eq!(fs::read(directory.file()).unwrap(), content);
    }
    // Begins like one, and is none.
    let mut content = b"SQLite format 3\0".to_vec();
    content.resize(8192, 0xa5);
    fs::write(directory.file(), &content).unwrap();
    assert!(matches!(refused(&directory.file()), OpenError::NotADatabase { .. } | OpenError::Corrupted { .. }));
    assert_eq!(fs::read(directory.file()).unwrap(), content);
    fs::remove_file(directory.file()).unwrap();
    fs::create_dir(directory.file()).unwrap();
    assert!(matches!(refused(&directory.file()), OpenError::Other { .. }));
}

#[test]
fn an_empty_file_is_a_new_database() {
    let directory = Directory::new();
    fs::write(directory.file(), b"").unwrap();
    open(&directory.file()).unwrap();
}

#[test]
fn a_database_of_another_program_is_refused() {
    let directory = Directory::new();
    let other = rusqlite::Connection::open(directory.file()).unwrap();
    other.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    drop(other);
    assert!(matches!(refused(&directory.file()), OpenError::Foreign { .. }));
    let other = rusqlite::Connection::open(directory.file()).unwrap();
    let tables: i64 = other.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn a_newer_database_is_refused() {
    let directory = Directory::new();
    filled(&directory);
    let later = rusqlite::Connection::open(directory.file()).unwrap();
    let ours: i64 = later.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    later.pragma_update(None, "user_version", 1000).unwrap();
    drop(later);
    assert!(matches!(refused(&directory.file()), OpenError::Newer { found: 1000, .. }));
    let later = rusqlite::Connection::open(directory.file()).unwrap();
    later.pragma_update(None, "user_version", ours).unwrap();
    drop(later);
    open(&directory.file()).unwrap();
}

#[test]
fn a_damaged_or_cut_file_is_refused() {
    let directory = Directory::new();
    filled(&directory);
    let whole = fs::read(directory.file()).unwrap();
    assert!(whole.len() >= 16 * 4096);
    let mut found = 0;
    // Every page in turn filled with nonsense; the first with its head left as it is.
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        let from = if page == 0 { 100 } else { page * 4096 };
        damaged[from..(page + 1) * 4096].fill(0xa5);
        fs::write(directory.file(), &damaged).unwrap();
        match refused(&directory.file()) {
            OpenError::Corrupted { .. } => found += 1,
            other => panic!("page {page}: {other}"),
        }
    }
    assert!(found >= 16);
    for pages in [1, whole.len() / 4096 / 2, whole.len() / 4096 - 1] {
        fs::write(directory.file(), &whole[..pages * 4096]).unwrap();
        assert!(matches!(refused(&directory.file()), OpenError::Corrupted { .. }), "cut to {pages} pages");
    }
    fs::write(directory.file(), &whole[..700]).unwrap();
    refused(&directory.file());
    fs::write(directory.file(), &whole).unwrap();
    open(&directory.file()).unwrap();
}

#[test]
fn a_row_that_does_not_read_is_a_fault_that_names_it() {
    let directory = Directory::new();
    filled(&directory);
    let hand = rusqlite::Connection::open(directory.file()).unwrap();
    hand.execute_batch(
        "INSERT INTO accounts (id, password_version, roles, status, created_at, cut_rev, version)
         VALUES (x'00000000000000000000000000000001', 1, 'no list', 'active', 0, 0, 1), (x'00000000000000000000000000000002', 1, '[]', 'odd', 0, 0, 1),
                (x'00000000000000000000000000000003', 1, '[]', 'active', 0, -1, 1)",
    )
    .unwrap();
    drop(hand);
    let store = open(&directory.file()).unwrap();
    for (id, word) in [(1, "roles"), (2, "odd"), (3, "-1")] {
        let load = store.load_account(portcullis_wire::AccountId::from_bits(id));
        let error = portcullis_store::conformance::wait(load).unwrap_err().to_string();
        assert!(error.contains("accounts") && error.contains(&format!("0{id}")) && error.contains(word), "{error}");
    }
    // The others read on.
    assert_eq!(portcullis_store::conformance::wait(store.stamp()).unwrap().head, Rev::ZERO);
    drop(store);
    let hand = rusqlite::Connection::open(directory.file()).unwrap();
    hand.execute_batch("DELETE FROM meta").unwrap();
    drop(hand);
    assert!(matches!(refused(&directory.file()), OpenError::Corrupted { .. }));
}

#[test]
fn a_directory_that_is_not_there() {
    let directory = Directory::new();
    let path = directory.path().join("nowhere").join("portcullis.db");
    match open(&path) {
        Err(OpenError::NoDirectory { path: missing }) => assert_eq!(Some(missing.as_path()), path.parent()),
        other => panic!("{other:?}"),
    }
    fs::write(directory.path().join("file"), b"x").unwrap();
    assert!(open(&directory.path().join("file").join("portcullis.db")).is_err());
}

#[test]
fn what_may_not_be_written_is_refused() {
    if is_child("reader") {
        match open(Path::new(&std::env::var("DATABASE").unwrap())) {
            Err(OpenError::NotWritable { .. }) => println!("refused"),
            other => println!("{other:?}"),
        }
        return;
    }
    // Root may write everywhere, whatever the mode: then the child is somebody else.
    let nobody = |command: &mut std::process::Command| {
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
    };
    let test = "opening::what_may_not_be_written_is_refused";
    let directory = Directory::new();
    filled(&directory);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let lock = directory.path().join("portcullis.db.lock");
    let told = || crate::support::child_as(test, "reader", &directory.file(), nobody).line();
    mode(directory.path(), 0o777);
    mode(&directory.file(), 0o444);
    mode(&lock, 0o666);
    assert_eq!(told().as_deref(), Some("refused"), "the file");
    mode(&directory.file(), 0o666);
    mode(&lock, 0o444);
    assert_eq!(told().as_deref(), Some("refused"), "the lock");
    mode(&lock, 0o666);
    mode(directory.path(), 0o555);
    assert_eq!(told().as_deref(), Some("refused"), "the directory");
    mode(directory.path(), 0o777);
}

#[test]
fn the_limit_of_pages_holds_from_the_start() {
    let directory = Directory::new();
    let mut options = options();
    options.max_pages = Some(4);
    assert!(matches!(SqliteStore::open(&directory.file(), options), Err(OpenError::DiskFull { .. })));
    open(&directory.file()).unwrap();
}
