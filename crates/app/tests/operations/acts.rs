//! The journal of acts: what is blocked or deleted is written down, also when the process died before it could be.
use crate::world::World;
use portcullis_app::act_journal;
use portcullis_domain::replay::{Line, Word};
use portcullis_wire::LogId;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;

struct Dir(PathBuf);
impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-acts-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until the newest line says this.
async fn until(path: &Path, word: Word) -> Vec<Line> {
    let lines = || act_journal::read(path).unwrap().unwrap().lines;
    let said = async {
        while lines().last().is_none_or(|line| line.status != Some(word)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), said).await;
    came.unwrap_or_else(|_| panic!("{word:?} never came: {:?}", lines()));
    lines()
}

#[tokio::test]
async fn what_was_done_before_a_crash_is_found_by_the_next_start() {
    let (world, dir) = (World::start().await, Dir::new("crash"));
    let path = dir.0.join("acts.jsonl");
    let mut tasks = JoinSet::new();
    world.app.keep_acts(path.clone(), &mut tasks).await.unwrap();
    world.app.admin_block(&world.admin, world.ada.id, "one", None, None).await.unwrap();
    let lines = until(&path, Word::Blocked).await;
    assert_eq!((lines.len(), lines[0].account, lines[1].account), (2, None, Some(world.ada.id)));
    assert_eq!(lines[1].reason.as_deref(), Some("one"));
    // The process dies: nobody writes down what comes now, and the last line is only half written.
    tasks.shutdown().await;
    world.app.admin_delete(&world.admin, world.eve.id, None).await.unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"v\":1,\"lo")).unwrap();
    let again = World::over(&world).await;
    again.keep_acts(path.clone(), &mut tasks).await.unwrap();
    let lines = until(&path, Word::Deleted).await;
    assert_eq!((lines.len(), lines[2].account), (3, Some(world.eve.id)));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with(&whole), "nothing that was whole was lost");
    again.admin_unblock(&world.admin, world.ada.id, None).await.unwrap();
    until(&path, Word::Active).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_gone_on_with_stops_the_start_and_is_left_alone() {
    let (world, dir) = (World::start().await, Dir::new("bad"));
    let line = serde_json::to_string(&Line::begin(&world.app.store().stamp().await.unwrap())).unwrap();
    let foreign = line.replace(&LogId::from_bits(7).to_string(), &LogId::from_bits(8).to_string());
    for (name, text, words) in [
        ("other.jsonl", format!("{foreign}\n"), "is the journal of log_"),
        ("broken.jsonl", format!("{line}\nno line\n{line}\n"), "broken.jsonl, line 2: "),
    ] {
        let path = dir.0.join(name);
        std::fs::write(&path, &text).unwrap();
        let error = world.app.keep_acts(path.clone(), &mut JoinSet::new()).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("move"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let nowhere = dir.0.join("missing/acts.jsonl");
    let error = world.app.keep_acts(nowhere, &mut JoinSet::new()).await.unwrap_err().to_string();
    assert!(error.contains("cannot be written"), "{error}");
}

/// A volume that is full for a while holds nobody up, and the line comes later.
#[tokio::test]
async fn what_could_not_be_written_is_tried_again() {
    let (world, dir) = (World::start().await, Dir::new("full"));
    let (path, aside) = (dir.0.join("acts.jsonl"), dir.0.join("aside.jsonl"));
    let mut tasks = JoinSet::new();
    world.app.keep_acts(path.clone(), &mut tasks).await.unwrap();
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap(); // nothing can be written there
    world.app.admin_block(&world.admin, world.ada.id, "one", None, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    until(&path, Word::Blocked).await;
}
