//! How far the log has come, kept apart from the database; and what is done when the database is behind it (DESIGN §4.5).
//!
//! A database that was replaced by an older copy cannot tell by itself. So a small file, best on another volume, says how far
//! the log was; it is compared at the start. While the server runs, others bring proofs too: a verifier that shows a position
//! of ours beyond the head, a token of ours that is stamped beyond it, a refresh token that is ahead of its row. Any proof puts
//! this node into the state `rolled_back`: nothing is served or issued until an operator founds the log anew, restores a
//! backup, or puts the right database back. The state is written down beside the file, so that a restart does not forget it.
use crate::{App, AppError};
use portcullis_domain::view::Stamp;
use portcullis_store::{FaultKind, Flood, Store, StoreError};
use portcullis_wire::{Chain, Epoch, LogId, Rev, Time};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the file is brought up to date, when the log has grown.
const ROUND: Duration = Duration::from_secs(1);

/// How far the log was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The log.
    pub log: LogId,
    /// Its generation.
    pub epoch: Epoch,
    /// Its newest position.
    pub rev: Rev,
    /// The chain link there.
    pub chain: Chain,
    /// When that was written down, by the database's clock.
    pub at: Time,
}

/// What proves that the database is older than what it has said already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// In words, for operators.
    pub what: String,
    /// A position that the lost part had: its epoch,
    pub epoch: Epoch,
    /// and its rev.
    pub rev: Rev,
    /// When it was brought.
    pub at: Time,
    /// Whether a database that has come as far as that position has what was lost. A refresh token that is ahead of its row tells
    /// of no position: then only a person can say that the right database is back.
    pub told_by_position: bool,
}

impl Mark {
    fn of(stamp: &Stamp) -> Self {
        Self { log: stamp.log, epoch: stamp.epoch, rev: stamp.head, chain: stamp.chain, at: stamp.now }
    }
}

/// What a mark says about the database that is found.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    /// It has come as far, or further.
    Fits,
    /// It is another log altogether.
    OtherLog,
    /// It is behind, or another history.
    Behind(String),
}

/// The rule, as far as numbers tell; [`goes_on_from`] looks at what was written.
fn compare(mark: &Mark, stamp: &Stamp) -> Compared {
    if mark.log != stamp.log {
        return Compared::OtherLog;
    }
    let (was, is) = ((mark.epoch, mark.rev), (stamp.epoch, stamp.head));
    if was > is {
        return Compared::Behind(format!("the log had come to {}.{}, and is at {}.{}", was.0, was.1, is.0, is.1));
    }
    Compared::Fits
}

/// Whether the log is the one that a mark of the same epoch was made of: what was written since leads from its link to the newest.
/// A copy that went on by itself has other entries, however many. Where some of them are forgotten, nothing speaks against it.
async fn goes_on_from(store: &dyn Store, mark: &Mark) -> Result<bool, StoreError> {
    const AT_ONCE: u32 = 10_000;
    let (mut rev, mut chain) = (mark.rev, mark.chain);
    loop {
        let read = store.read_log(rev, AT_ONCE).await?;
        if !read.complete {
            return Ok(true);
        }
        chain = read.entries.iter().fold(chain, |chain, entry| chain.after(entry));
        match read.entries.last() {
            Some(last) if last.rev < read.stamp.head => rev = last.rev,
            _ => return Ok(chain == read.stamp.chain),
        }
    }
}

/// Whether a database that comes back may be served again by itself.
fn has_what_was_lost(proof: &Proof, stamp: &Stamp) -> bool {
    stamp.epoch > proof.epoch || proof.told_by_position && (stamp.epoch, stamp.head) >= (proof.epoch, proof.rev)
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

/// Writes a file whole, or not at all.
fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(serde_json::to_string(value)?.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&draft, path)?;
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
        let stamp = self.store().stamp().await.map_err(|e| self.fault(e.into()))?;
        let mark: Option<Mark> = read(&path).map_err(|what| AppError::Fault(what.into()))?;
        if let Some(mark) = mark {
            let behind = match compare(&mark, &stamp) {
                Compared::OtherLog => return Err(AppError::Fault(other_log(&path, &mark, stamp.log).into())),
                Compared::Behind(what) => Some(what),
                Compared::Fits if mark.epoch < stamp.epoch => None, // founded anew since
                Compared::Fits => {
                    let same = goes_on_from(self.store(), &mark).await.map_err(|e| self.fault(e.into()))?;
                    (!same).then(|| format!("the log has another history at {}.{} than it had", mark.epoch, mark.rev))
                }
            };
            if let Some(what) = behind {
                let what = format!("{what} (by {})", path.display());
                let (epoch, rev, at) = (mark.epoch, mark.rev, stamp.now);
                self.hub().prove(Proof { what, epoch, rev, at, told_by_position: true });
            }
        }
        let proof: Option<Proof> = read(&proof_path(&path)).map_err(|what| AppError::Fault(what.into()))?;
        if let Some(proof) = proof {
            if has_what_was_lost(&proof, &stamp) && self.hub().rolled_back().is_none() {
                tracing::info!(was = %proof.what, "the database has what was missing: it is served again");
                let _ = std::fs::remove_file(proof_path(&path)); // or at the next start
            } else {
                self.hub().prove(proof);
            }
        }
        tasks.spawn(self.clone().keep_mark(path));
        Ok(())
    }

    /// For ever. What could not be written is tried again in the next round, and the mark never goes back.
    async fn keep_mark(self, path: PathBuf) {
        let (mut written, mut noted): (Option<Mark>, Option<Arc<Proof>>) = (None, None);
        let mut flood = Flood::default();
        loop {
            let proof = self.hub().rolled_back();
            let result = if proof != noted {
                let (at, what) = (proof_path(&path), proof.clone());
                let result = off_thread(move || what.map_or_else(|| remove(&at), |proof| write(&at, &*proof))).await;
                result.map(|()| noted = proof)
            } else if noted.is_none()
                && let Ok(stamp) = self.store().stamp().await
                && written.is_none_or(|mark| is_further(&mark, &stamp))
            {
                let (mark, at) = (Mark::of(&stamp), path.clone());
                off_thread(move || write(&at, &mark)).await.map(|()| written = Some(mark))
            } else {
                Ok(())
            };
            if let Err(error) = result
                && let Some(times) = flood.note(FaultKind::of_io(&error), self.store().now())
            {
                tracing::warn!(%error, times, path = %path.display(), "how far the log has come could not be written down");
            }
            tokio::time::sleep(ROUND).await;
        }
    }
}

/// Whether the log is beyond a mark. One that went back is none of the mark's business: the mark is what proves it.
fn is_further(mark: &Mark, stamp: &Stamp) -> bool {
    (stamp.epoch, stamp.head) > (mark.epoch, mark.rev)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn off_thread(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> std::io::Result<()> {
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
    use super::*;
    use portcullis_domain::Cut;

    #[test]
    fn only_a_log_that_has_come_as_far_fits() {
        let log = LogId::from_bits(1);
        let stamp = |epoch, rev, link: u8| Stamp {
            log,
            epoch: Epoch(epoch),
            head: Rev(rev),
            chain: Chain([link; 32]),
            horizon: Time(0),
            floor: Time(0),
            all: Cut::default(),
            now: Time(0),
        };
        let mark = Mark::of(&stamp(2, 10, 1));
        assert!(is_further(&mark, &stamp(2, 11, 1)) && is_further(&mark, &stamp(3, 0, 1)));
        assert!(
            !is_further(&mark, &stamp(2, 10, 1))
                && !is_further(&mark, &stamp(2, 9, 1))
                && !is_further(&mark, &stamp(1, 99, 1))
        );
        for (epoch, rev, link, fits) in
            [(2, 10, 1, true), (2, 11, 9, true), (3, 1, 9, true), (2, 9, 1, false), (1, 99, 1, false)]
        {
            assert_eq!(compare(&mark, &stamp(epoch, rev, link)) == Compared::Fits, fits, "{epoch}.{rev} {link}");
        }
        let other = Stamp { log: LogId::from_bits(2), ..stamp(2, 10, 1) };
        assert_eq!(compare(&mark, &other), Compared::OtherLog);
    }
}
