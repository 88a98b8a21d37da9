//! System calls that fail under a running server: syncs and writes (docs/decisions/0019-failed-sync.md).
use super::acts::{Acts, until};
use super::place::{Injected, injected, needs_strace, serving};
use crate::kept::quiet_turn;
use crate::support::{Dir, Ran, Server};
use portcullis_testkit::lasting_address;
use rustix::process::Signal;
use std::fs;
use std::path::Path;

const SYNC: &str = "fsync,fdatasync:error=EIO";

async fn killed(mut server: Server) {
    server.process.signal(Signal::KILL);
    server.process.ended().await;
}

async fn serve(dir: &Dir, at: std::net::SocketAddr) -> Server {
    Server::run(serving(dir, at)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_claims_nothing_and_is_got_over_without_a_hand() {
    let _turn = quiet_turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server = serve(&dir, at).await;
    let mut acts = Acts::begin(at, 20).await;
    let failing = Injected::into(&server, SYNC).await;
    acts.refused_rounds(3, || ()).await;
    acts.reads_go_on().await;
    assert!(acts.metric("portcullis_faults_total{kind=\"io\"}").await >= 3 * 4);
    // Checkpoints fail too; none runs until all of the log is moved anew.
    let log = server.process.clone_log();
    until("a checkpoint that fails", async || log().contains("a checkpoint failed")).await;
    acts.refused_rounds(1, || ()).await;
    failing.end().await;
    acts.catch_up().await;
    until("checkpoints again", async || {
        acts.round().await;
        log().contains("checkpoints go on, from the first page of the log")
    })
    .await;
    let moved_at = || fs::metadata(dir.path("data/portcullis.db")).unwrap().modified().unwrap();
    let before = moved_at();
    until("the log is moved into the database file", async || moved_at() > before).await;
    acts.agrees().await;
    killed(server).await;
    let server = serve(&dir, at).await;
    acts.agrees().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_a_failed_sync_the_next_start_decides_and_stays_with_it() {
    let _turn = quiet_turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server = serve(&dir, at).await;
    let mut server = server;
    let mut acts = Acts::begin(at, 20).await;
    for tries in 1.. {
        let failing = Injected::into(&server, SYNC).await;
        acts.refused_rounds(1, || ()).await;
        // The last one's frames are left in the log, and no later ones take their place.
        assert_eq!(acts.end_one().await, 503);
        killed(server).await;
        drop(failing);

        // A start whose syncs fail claims nothing of what it finds.
        let ran: Ran = injected(&serving(&dir, at), SYNC).output().unwrap().into();
        ran.must(2, "its write-ahead log does not reach the disk");

        server = serve(&dir, at).await;
        let found = acts.agrees().await;
        killed(server).await;
        server = serve(&dir, at).await;
        assert_eq!(acts.agrees().await, found, "what was found is not found again");
        acts.catch_up().await;
        if found > 0 {
            break;
        }
        // Housekeeping may have written after it.
        assert!(tries < 5, "no end whose sync failed was ever found: the outcome was not unknown");
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_fail_now_and_then_are_told_apart() {
    let _turn = quiet_turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let mut server = serve(&dir, at).await;
    let mut acts = Acts::begin(at, 30).await;
    let (mut done, mut refused) = (0, 0);
    for often in ["1+2", "2+3", "1+5"] {
        let failing = Injected::into(&server, &format!("{SYNC}:when={often}")).await;
        for _ in 0..6 {
            let round = acts.round().await;
            refused += round.iter().filter(|status| **status == 503).count();
            done += round.iter().filter(|status| **status != 503).count();
        }
        killed(server).await;
        drop(failing);
        server = serve(&dir, at).await;
        acts.agrees().await;
    }
    assert!(done > 5 && refused > 5, "{done} done, {refused} refused");
    acts.catch_up().await;
    drop(server);
}

/// Before a recovery relies on the log it is written over itself: else what it finds may be in memory alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_writes_and_syncs_the_log_before_it_relies_on_it() {
    let _turn = quiet_turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server = serve(&dir, at).await;
    let mut acts = Acts::begin(at, 2).await;
    acts.round().await;
    killed(server).await;
    let log_file = dir.path("data/portcullis.db-wal");
    let before = fs::read(&log_file).unwrap();
    assert!(before.len() > 4096, "the log holds commits");
    let trace = dir.path("trace");
    needs_strace();
    let mut traced = std::process::Command::new("strace");
    traced.args(["-f", "-qq", "-y", "-e", "trace=pwrite64,fdatasync,fsync,mmap", "-o"]).arg(&trace);
    let plain = serving(&dir, at);
    traced.arg(plain.get_program()).args(plain.get_args()).current_dir(&dir.0);
    traced.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::run(traced).await;
    let below = Below(&trace);
    acts.agrees().await;
    let text = fs::read_to_string(&trace).unwrap();
    let place = |what: &str, file: &str| {
        let at = text.lines().position(|line| line.contains(what) && line.contains(file));
        at.unwrap_or_else(|| panic!("no {what} of {file}: {text}"))
    };
    let (written, synced) = (place("pwrite64(", "portcullis.db-wal>"), place("fdatasync(", "portcullis.db-wal>"));
    assert!(written < synced && synced < place("mmap(", "portcullis.db-shm>"), "{text}");
    drop(below);
    drop(server);
}

/// The server below `strace`, which does not pass its own end on: killed when the test ends, however it does.
struct Below<'a>(&'a Path);

impl Drop for Below<'_> {
    fn drop(&mut self) {
        let first = fs::read_to_string(self.0).unwrap_or_default();
        let first = first.split_whitespace().next().and_then(|id| rustix::process::Pid::from_raw(id.parse().ok()?));
        if let Some(server) = first {
            let _ = rustix::process::kill_process(server, Signal::KILL); // or it has ended already
        }
    }
}

/// What a file system does when it makes itself read-only under open files, and a disk that takes no writes. (`mount -o
/// remount,ro` is refused by the kernel while files are open for writing.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_fail_are_not_done_and_reads_go_on() {
    let _turn = quiet_turn().await;
    let (dir, at) = (Dir::new(), lasting_address());
    let server = serve(&dir, at).await;
    let mut acts = Acts::begin(at, 30).await;
    for errors in ["pwrite64,ftruncate,fsync,fdatasync:error=EROFS", "pwrite64:error=EIO"] {
        let failing = Injected::into(&server, errors).await;
        acts.refused_rounds(3, || ()).await;
        acts.reads_go_on().await;
        failing.end().await;
        acts.nothing_was_done().await;
        acts.catch_up().await;
    }
    killed(server).await;
    let server = serve(&dir, at).await;
    acts.agrees().await;
    drop(server);
}
