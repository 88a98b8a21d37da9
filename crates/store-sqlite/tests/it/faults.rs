//! When the disk, the clock or the load are not as they should be: what is said then, and that it works again by itself.
use crate::support::{Directory, LOG, START, child_by_shell, is_child, open, options};
use portcullis_domain::changes::{Change, Changes, Committed, Idempotency};
use portcullis_store::conformance::{client, wait};
use portcullis_store::{CommitError, Store};
use portcullis_store_sqlite::{Clock, OpenOptions, SqliteStore};
use portcullis_wire::{ClientId, Digest, GrantId, Time};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// A commit that takes room: a remembered call with a long result.
fn fill(n: u64, bytes: usize) -> Changes {
    let made = Some("x".repeat(bytes));
    let idempotency = Some(Idempotency { actor: "a".into(), key: n.to_string(), request: Digest::of(b"r"), made });
    Changes { idempotency, ..Changes::default() }
}

/// A commit that takes none: a column of the counter's row.
fn raise(to: i64) -> Changes {
    Changes { steps: vec![Change::RaiseHorizon(Time(to))], ..Changes::default() }
}

#[test]
fn too_many_waiting_are_refused_at_once_and_the_others_are_served() {
    let directory = Directory::new();
    // The writer asks for the time in each commit: there it is held.
    let (gate, held) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
    let clock = {
        let (gate, held) = (gate.clone(), held.clone());
        move || {
            if std::thread::current().name() == Some("db-writer") {
                held.store(true, SeqCst);
                drop(gate.lock().unwrap());
            }
            START
        }
    };
    let mut options = OpenOptions::new(LOG, Arc::new(clock));
    (options.queue, options.group) = (3, 2);
    let store = SqliteStore::open(&directory.file(), options).unwrap();
    let closed = gate.lock().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut first = store.commit(raise(1));
    assert!(first.as_mut().poll(&mut context).is_pending());
    while !held.load(SeqCst) {
        std::thread::yield_now();
    }
    let mut waiting: Vec<_> = (2..5).map(|n| store.commit(raise(n))).collect();
    for commit in &mut waiting {
        assert!(commit.as_mut().poll(&mut context).is_pending());
    }
    for _ in 0..10 {
        match store.commit(raise(99)).as_mut().poll(&mut context) {
            Poll::Ready(Err(CommitError::Failed(error))) => assert!(error.detail.contains("overloaded"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.stats().refused, 10);
    // Whose caller went away is committed or not; here it is, since it was sent.
    drop(waiting.pop());
    drop(closed);
    wait(first).unwrap();
    for commit in waiting {
        wait(commit).unwrap();
    }
    wait(store.commit(Changes::default())).unwrap();
    assert_eq!(wait(store.stamp()).unwrap().horizon, Time(4));
}

#[test]
fn closing_serves_those_that_were_sent() {
    let directory = Directory::new();
    let store = open(&directory.file()).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    for n in 1..=200 {
        assert!(store.commit(raise(n)).as_mut().poll(&mut context).is_pending());
    }
    drop(store);
    let store = open(&directory.file()).unwrap();
    assert_eq!(wait(store.stamp()).unwrap().horizon, Time(200));
}

/// A clock that panics in the writer, once, when it is told to.
fn breaking(broken: &Arc<AtomicBool>) -> Clock {
    let broken = broken.clone();
    Arc::new(move || {
        let writes = std::thread::current().name() == Some("db-writer");
        assert!(!writes || !broken.swap(false, SeqCst), "a broken clock");
        START
    })
}

#[test]
fn a_clock_that_panics_does_not_silence_the_writer() {
    let directory = Directory::new();
    let broken = Arc::new(AtomicBool::new(false));
    let store = SqliteStore::open(&directory.file(), OpenOptions::new(LOG, breaking(&broken))).unwrap();
    for n in 1..5 {
        wait(store.commit(raise(n * 2))).unwrap();
        broken.store(true, SeqCst);
        assert!(matches!(wait(store.commit(raise(n * 2 + 1))), Err(CommitError::Unknown(_))));
        assert_eq!(wait(store.stamp()).unwrap().horizon, Time(n * 2), "what it began was taken back");
    }
}

/// Whether who looks and who reads are told the same of a client, and what: whether it is off.
fn is_off(store: &SqliteStore) -> bool {
    let id = ClientId::from_bits(9);
    let looks = || wait(store.peek_client(id)).unwrap().unwrap().disabled;
    let (first, read, second) = (looks(), wait(store.load_client(id)).unwrap().unwrap().client.disabled, looks());
    assert_eq!((first, second), (read, read));
    read
}

/// Commits that fail, by a panic and for want of room: whoever looks is shown what the database holds, before and after.
#[test]
fn who_looks_is_told_the_truth_whatever_became_of_commits() {
    let directory = Directory::new();
    let broken = Arc::new(AtomicBool::new(false));
    let mut options = OpenOptions::new(LOG, breaking(&broken));
    options.max_pages = Some(200);
    let store = SqliteStore::open(&directory.file(), options).unwrap();
    let row = client(ClientId::from_bits(9));
    wait(store.commit(Changes { steps: vec![Change::InsertClient(row)], ..Changes::default() })).unwrap();
    let switch = |disabled| {
        let steps = vec![Change::SetClientDisabled { client: ClientId::from_bits(9), disabled }];
        wait(store.commit(Changes { steps, ..Changes::default() }))
    };
    assert!(!is_off(&store));
    for round in 0..3 {
        broken.store(true, SeqCst);
        assert!(matches!(switch(true), Err(CommitError::Unknown(_))));
        assert!(!is_off(&store), "what it began was taken back");
        switch(true).unwrap();
        assert!(is_off(&store));
        let full = (0..1000).find_map(|n| wait(store.commit(fill(round * 1000 + n, 9000))).err());
        assert!(matches!(full, Some(CommitError::Failed(_))), "{full:?}");
        assert!(is_off(&store));
        switch(false).unwrap();
        assert!(!is_off(&store));
    }
}

#[test]
fn a_full_database_refuses_what_takes_room_and_goes_on_with_the_rest() {
    let directory = Directory::new();
    let mut options = options();
    options.max_pages = Some(200);
    let store = SqliteStore::open(&directory.file(), options).unwrap();
    let mut kept = 0;
    let error = loop {
        match wait(store.commit(fill(kept, 9000))) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000, "it never got full");
    };
    assert!(matches!(error, CommitError::Failed(_)), "{error}");
    assert!(kept > 10);
    for n in 0..5 {
        wait(store.commit(raise(n))).unwrap();
        assert!(matches!(wait(store.commit(fill(1000, 9000))), Err(CommitError::Failed(_))));
    }
    // Those that share a group with one that does not fit.
    let mut all: Vec<_> = (0..60).map(|n| if n % 3 == 0 { fill(1000 + n, 9000) } else { raise(n as i64) }).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut sent: Vec<_> = all.drain(..).map(|changes| store.commit(changes)).collect();
    let mut done: Vec<Option<Result<Committed, CommitError>>> = Vec::new();
    for commit in &mut sent {
        done.push(match commit.as_mut().poll(&mut context) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        });
    }
    let results = sent.into_iter().zip(done).map(|(commit, done)| done.unwrap_or_else(|| wait(commit)));
    for (n, result) in results.enumerate() {
        // A small one may fail with its group, and says so; the one that takes room never works.
        match result {
            Ok(_) => assert_ne!(n % 3, 0),
            Err(error) => assert!(matches!(error, CommitError::Failed(_)), "{error}"),
        }
    }
    // Everything acknowledged is there, nothing else; and room that was made is used.
    for n in 0..1100 {
        assert_eq!(wait(store.load_remembered("a", &n.to_string())).unwrap().is_some(), n < kept, "{n}");
    }
    let forget = Changes { steps: vec![Change::ForgetIdempotency(START.plus(1))], ..Changes::default() };
    wait(store.commit(forget)).unwrap();
    wait(store.commit(fill(2000, 9000))).unwrap();
}

#[test]
fn a_disk_that_fails_in_the_middle_of_a_commit_is_an_unknown_outcome_and_is_got_over() {
    if is_child("limited") {
        limited(Path::new(&std::env::var("DATABASE").unwrap()));
        return;
    }
    let directory = Directory::new();
    let test = "faults::a_disk_that_fails_in_the_middle_of_a_commit_is_an_unknown_outcome_and_is_got_over";
    // A write beyond the limit is an I/O error (EFBIG), once its signal is ignored; what is ignored stays so over exec.
    let mut child = child_by_shell("trap '' XFSZ; ulimit -S -f 1200", test, "limited", &directory.file());
    let mut lines = Vec::new();
    while let Some(line) = child.line() {
        lines.push(line);
    }
    let number = |word: &str| -> u64 {
        let line = lines.iter().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{word}: {lines:?}"));
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let (kept, after) = (number("kept"), number("after"));
    assert!(kept >= 5 && after == 20, "{lines:?}");
    assert!(number("failures") >= 3, "{lines:?}");
    let store = open(&directory.file()).unwrap();
    for n in (0..kept).chain(10_000..10_000 + after) {
        assert!(wait(store.load_remembered("a", &n.to_string())).unwrap().is_some(), "{n} was acknowledged");
    }
}

/// Commits until the limit, a few times more, and again when the limit is gone.
fn limited(path: &Path) {
    let store = open(path).unwrap();
    let mut kept = 0;
    let first = loop {
        match wait(store.commit(fill(kept, 4000))) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 10_000, "it never met the limit");
    };
    println!("kept {kept}");
    println!("first {first:?}");
    let mut failures = 0;
    for n in 0..5 {
        match wait(store.commit(fill(5000 + n, 4000))) {
            Err(CommitError::Failed(_) | CommitError::Unknown(_)) => failures += 1,
            other => println!("odd {other:?}"),
        }
        // Readers read on.
        assert!(wait(store.load_remembered("a", "0")).unwrap().is_some());
    }
    println!("failures {failures}");
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    let after = (0..20).filter(|n| wait(store.commit(fill(10_000 + n, 4000))).is_ok()).count();
    println!("after {after}");
}

#[test]
fn the_log_file_stays_small_under_steady_writing() {
    let directory = Directory::new();
    let store = open(&directory.file()).unwrap();
    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let wal = directory.path().join("portcullis.db-wal");
    let largest = std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let (store, written) = (&store, &written);
            scope.spawn(move || {
                // 160 MiB of log in all: several times its limit.
                for n in 0..2_000 {
                    wait(store.commit(fill(writer * 10_000 + n, 20_000))).unwrap();
                    written.fetch_add(1, SeqCst);
                }
            });
        }
        // Somebody who reads now and then holds a snapshot in between.
        scope.spawn(|| {
            while !over.load(SeqCst) {
                for _ in 0..50 {
                    assert!(wait(store.load_refresh(GrantId::from_bits(1))).unwrap().is_none());
                }
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
        });
        let watch = scope.spawn(|| {
            let mut largest = 0;
            while !over.load(SeqCst) {
                largest = largest.max(wal.metadata().map_or(0, |file| file.len()));
                std::thread::yield_now();
            }
            largest
        });
        while written.load(SeqCst) < 8_000 && !watch.is_finished() {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        over.store(true, SeqCst);
        watch.join().unwrap()
    });
    println!("{} MiB at most", largest >> 20);
    assert!(largest < 120 << 20, "{largest}");
    assert!(directory.file().metadata().unwrap().len() > 100 << 20, "checkpoints went on meanwhile");
}

#[test]
fn the_log_is_cut_when_nobody_writes_though_somebody_reads() {
    let directory = Directory::new();
    let store = open(&directory.file()).unwrap();
    let wal = directory.path().join("portcullis.db-wal");
    wait(store.commit(fill(1, 20_000))).unwrap();
    let mut reads = 0;
    while wal.metadata().unwrap().len() > 0 {
        assert!(wait(store.load_refresh(GrantId::from_bits(1))).unwrap().is_none());
        reads += 1;
        assert!(reads < 40_000, "a snapshot that is held keeps it");
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
}
