//! How far the database has come, kept apart from it; and what is done when it is behind that (DESIGN §4.5). The rules are in
//! `domain::rollback`.
//!
//! A database that was replaced by an older copy cannot tell by itself. So a small file, best on another volume, says how far
//! it was, and which server's run wrote it; it is compared at the start. While the server runs, others bring proofs too: a verifier that shows a position
//! of ours beyond the head, a token of ours that is stamped beyond it, a refresh token that is ahead of its row. Any proof puts
//! this node into the state `rolled_back`: nothing is served or issued until an operator founds the log anew, restores a
//! backup, or puts the right database back. The state is written down beside the file, so that a restart does not forget it.
use crate::{App, AppError, real};
use portcullis_domain::Chance as _;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::rollback::{Compared, Runs};
pub use portcullis_domain::rollback::{Mark, Proof, acknowledged};
use portcullis_domain::view::Stamp;
use portcullis_store::{FaultKind, Flood, Store, StoreError};
use portcullis_wire::{Entry, LogId, Rev, RunId};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the file is brought up to date, when the log has grown.
const ROUND: Duration = Duration::from_secs(1);

/// Everything that the log has written after `rev` (`None` when some of it is forgotten), and where it is with the last of that: the
/// other nodes go on writing, so a stamp from another read may stand elsewhere.
async fn written_since(store: &dyn Store, rev: Rev) -> Result<(Stamp, Option<Vec<Entry>>), StoreError> {
    const AT_ONCE: u32 = 10_000;
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(rev, |entry| entry.rev);
        let read = store.read_log(after, AT_ONCE).await?;
        if !read.complete {
            return Ok((read.stamp, None));
        }
        let done = read.entries.is_empty() || read.entries.last().is_some_and(|last| last.rev >= read.stamp.head);
        all.extend(read.entries);
        if done {
            return Ok((read.stamp, Some(all)));
        }
    }
}

/// Whether the database has what a proof says was lost.
pub(crate) async fn is_met(store: &dyn Store, proof: &Proof) -> Result<bool, StoreError> {
    let last = store.load_run().await?;
    let (stamp, since) = written_since(store, proof.rev).await?;
    let found = match proof.commits {
        Some(commits) => store.count_commits(commits.by).await?,
        None => None,
    };
    Ok(proof.is_met_by(&stamp, since.as_deref(), last, found))
}

/// The file with the proof, beside the one with the mark.
pub fn proof_path(high_water: &Path) -> PathBuf {
    high_water.with_extension("rolled-back.json")
}

/// What a file holds; `None` when there is none.
///
/// # Errors
/// In words: it cannot be read, or holds something else.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|error| format!("{} is damaged ({error}); look at it, and move it away", path.display()))
}

/// Writes a file whole, or not at all. Each time under a draft's name of its own: of two processes that write the same file (a restart
/// that overlaps, two nodes with one data directory) none puts half of what the other writes in place.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let draft = path.with_extension(format!("{:032x}.draft", real::RealChance.bits()));
    let put = || -> std::io::Result<()> {
        let mut file = std::fs::File::create_new(&draft)?;
        file.write_all(serde_json::to_string(value)?.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&draft, path)
    };
    if let Err(error) = put() {
        let _ = std::fs::remove_file(&draft); // where it was made at all
        return Err(error);
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

impl App {
    /// Compares the database with the file, and keeps the file up to date from then on, in `tasks`. To be called before anything
    /// is served.
    ///
    /// # Errors
    /// Another log than the file names: an empty or foreign database stands where ours should. Nothing was changed.
    pub async fn guard_log(&self, path: PathBuf, tasks: &mut tokio::task::JoinSet<()>) -> Result<(), AppError> {
        let last = self.store().load_run().await.map_err(|e| self.fault(e.into()))?;
        let mark: Option<Mark> = read(&path).map_err(|what| AppError::Fault(what.into()))?;
        let proof: Option<Proof> = read(&proof_path(&path)).map_err(|what| AppError::Fault(what.into()))?;
        if let Some(mark) = mark {
            let (stamp, since) = written_since(self.store(), mark.rev).await.map_err(|e| self.fault(e.into()))?;
            let behind = match mark.compare(&stamp) {
                Compared::OtherLog => return Err(AppError::Fault(other_log(&path, &mark, stamp.log).into())),
                Compared::Behind(what) => Some(what),
                Compared::Refounded => None,
                Compared::Fits => {
                    // Where some of it is forgotten, nothing speaks against the log.
                    let same = since.is_none_or(|since| mark.after(&since).chain == stamp.chain);
                    // Where there is a proof already, the mark may be that of the wrong database: the proof says whose is right.
                    let foreign = proof.is_none() && !mark.runs.fit(last);
                    let another = || format!("the log has another history at {}.{} than it had", mark.epoch, mark.rev);
                    let by_another = || "another server has written to it since".to_owned();
                    (!same).then(another).or_else(|| foreign.then(by_another))
                }
            };
            let failover = match (mark.commits, self.store().commits()) {
                (Some(was), Some(is)) => was.failover(is.timeline),
                _ => None,
            };
            if let Some(what) = behind {
                let what = failover.map_or_else(|| what.clone(), |failover| format!("{what}; {failover}"));
                self.hub().prove(mark.proof(format!("{what} (by {})", path.display()), stamp.now));
            }
        }
        if let Some(proof) = proof {
            let met = is_met(self.store(), &proof).await.map_err(|e| self.fault(e.into()))?;
            if met && self.hub().rolled_back().is_none() {
                tracing::info!(was = %proof.what, "the database has what was missing: it is served again");
                let _ = std::fs::remove_file(proof_path(&path)); // or at the next start
            } else {
                self.hub().prove(proof);
            }
        }
        let next = (!self.store().is_shared()).then(|| RunId::from_bits(real::RealChance.bits()));
        let runs = Runs { last, next };
        let mut keeper = Keeper { path, runs, written: None, noted: None, flood: Flood::default() };
        // Before anything is served, where it can be done: that this run writes from now on.
        keeper.round(self).await;
        keeper.round(self).await;
        let app = self.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(ROUND).await;
                keeper.round(&app).await;
            }
        });
        Ok(())
    }
}

/// Keeps the two files.
struct Keeper {
    path: PathBuf,
    /// The run that the database names, and this one until it is that.
    runs: Runs,
    written: Option<Mark>,
    noted: Option<Arc<Proof>>,
    flood: Flood,
}

impl Keeper {
    /// What could not be written is tried again in the next round, and the mark never goes back: a database that does while it
    /// is served is a proof like any other.
    async fn round(&mut self, app: &App) {
        // A read that a standby which may take over has to know, too, so that a mark tells of nothing that may be lost.
        let stamp = app.store().read_log(app.hub().head(), 1).await.map(|read| read.stamp).ok();
        let commits = app.store().commits();
        if let (Some(mark), Some(stamp)) = (&self.written, &stamp)
            && let Compared::Behind(what) = mark.compare(stamp)
        {
            app.hub().prove(mark.proof(what, stamp.now));
        }
        let proof = app.hub().rolled_back();
        if proof != self.noted {
            let (at, what) = (proof_path(&self.path), proof.clone());
            let result = off_thread(move || what.map_or_else(|| remove(&at), |proof| write(&at, &*proof))).await;
            if self.tell(app, result) {
                self.noted = proof;
            }
        } else if let Some(stamp) = stamp.filter(|_| proof.is_none() && app.store().lost().is_none()) {
            let mark = Mark { runs: self.runs, ..Mark::of(&stamp).with(commits) };
            if self.is_due(&mark, &stamp) {
                let at = self.path.clone();
                let result = off_thread(move || write(&at, &mark)).await;
                if !self.tell(app, result) {
                    return;
                }
                self.written = Some(mark);
            }
            self.enter(app).await;
        }
    }

    fn is_due(&self, mark: &Mark, stamp: &Stamp) -> bool {
        self.written.is_none_or(|written| {
            (written.runs, written.commits) != (mark.runs, mark.commits) || written.is_behind(stamp)
        })
    }

    /// The mark names the next run: now the database may, too.
    async fn enter(&mut self, app: &App) {
        let Some(next) = self.runs.next else { return };
        let changes = Changes { steps: vec![Change::SetRun(next)], ..Changes::default() };
        match app.store().commit(changes).await {
            Ok(_) => self.runs = Runs { last: Some(next), next: None },
            Err(error) => _ = app.fault(error.into()),
        }
    }

    /// Whether it could be written.
    fn tell(&mut self, app: &App, result: std::io::Result<()>) -> bool {
        let Err(error) = result else { return true };
        if let Some(times) = self.flood.note(FaultKind::of_io(&error), app.store().now()) {
            let path = self.path.display();
            tracing::warn!(%error, times, %path, "how far the database has come could not be written down");
        }
        false
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// What to say when a database of another log is found.
pub fn other_log(path: &Path, mark: &Mark, found: LogId) -> String {
    format!(
        "the database holds {found}, and {} says that it should hold {} (at {}.{}).\n\
         Was an empty or a foreign volume mounted? Put the right database back, or restore a backup of it. To begin a new \
         log on purpose, move {} away.",
        path.display(),
        mark.log,
        mark.epoch,
        mark.rev,
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    /// Two that write one file: whoever reads finds what one of them wrote, whole, and no draft is left behind.
    #[test]
    fn two_writers_of_one_file_do_not_mix_what_they_write() {
        let folder = std::env::temp_dir().join(format!("portcullis-two-writers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("audit-head.json");
        std::thread::scope(|scope| {
            for (letter, length) in [("a", 9_000), ("b", 10)] {
                let path = &path;
                scope.spawn(move || (0..40).for_each(|_| write(path, &letter.repeat(length)).unwrap()));
            }
            let whole = [Some("a".repeat(9_000)), Some("b".repeat(10)), None];
            (0..200).for_each(|_| assert!(whole.contains(&read::<String>(&path).unwrap())));
        });
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(left, ["audit-head.json"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
