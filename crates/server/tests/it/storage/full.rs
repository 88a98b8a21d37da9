//! A disk that is really full (ENOSPC), and one that is mounted read-only.
use super::acts::{Acts, until};
use super::place::{Volume, serving};
use crate::kept::quiet_turn;
use crate::support::Ran;
use portcullis_testkit::lasting_address;
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_claims_nothing_and_goes_on_when_there_is_room() {
    let _turn = quiet_turn().await;
    let (volume, at) = (Volume::new("6m").await, lasting_address());
    let mut server = volume.serve(at).await;
    let mut acts = Acts::begin(at, 20).await;
    acts.refused_rounds(4, || volume.fill()).await;
    acts.reads_go_on().await;
    assert!(acts.metric("portcullis_faults_total{kind=\"full\"}").await >= 4 * 4);
    // What the operator sees: the kind, and a line now and then, not one per call.
    let log = server.process.log();
    let told = |kind: &str| {
        let about = |line: &&str| line.contains("\"message\":\"fault\"") && line.contains(kind);
        log.lines().filter(about).count()
    };
    assert!((1..=4).contains(&told("\"kind\":\"full\"")), "{log}");

    // Killed and started on the full disk it serves what needs no write.
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    volume.fill();
    server = volume.serve(at).await;
    assert!(acts.library.wait_fresh(crate::support::PATIENCE).await);
    assert_eq!(acts.agrees().await, 0, "what found no room was not done");
    acts.refused_rounds(1, || volume.fill()).await;
    acts.reads_go_on().await;

    volume.free();
    acts.nothing_was_done().await;
    acts.catch_up().await;
    let log = server.process.clone_log();
    until("a line that it works again", async || log().contains("commits reach the disk again")).await;
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    server = volume.serve(at).await;
    acts.agrees().await;
    assert_eq!(acts.round().await, [200, 200, 200, 201]);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_read_only_file_system_says_so_and_works_when_it_is_writable() {
    let _turn = quiet_turn().await;
    let (volume, at) = (Volume::new("16m").await, lasting_address());
    let mut server = volume.serve(at).await;
    let mut acts = Acts::begin(at, 2).await;
    assert_eq!(acts.round().await, [200, 200, 200, 201]);
    server.process.signal(Signal::KILL);
    server.process.ended().await;
    drop(server);
    volume.remount("ro");
    let ran: Ran = volume.inside(&serving(&volume.dir, at)).output().unwrap().into();
    ran.must(2, "Read-only file system");
    volume.remount("rw");
    let server = volume.serve(at).await;
    acts.agrees().await;
    assert_eq!(acts.round().await, [200, 200, 200, 201]);
    drop(server);
}
