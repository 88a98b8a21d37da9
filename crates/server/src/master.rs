//! The master key in the data directory, and its replacement: `master.key.next` stands beside `master.key` while the stored keys
//! are being sealed anew, and takes its place afterwards. Whenever the server dies, one of the two opens them, and the next
//! start finds out which.
use crate::cli::exit::Failure;
use crate::files;
use portcullis_app::Store;
use portcullis_app::keys::MasterKey;
use portcullis_app::rotation::{MasterHome, is_sealed_under};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the master key lives when no setting gives it.
#[derive(Debug)]
pub struct MasterFile {
    path: PathBuf,
    next: PathBuf,
}

impl MasterFile {
    fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join("master.key"), next: data_dir.join("master.key.next") }
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl MasterHome for MasterFile {
    /// Whole and on disk before it has its name.
    fn prepare(&self, next: &MasterKey) -> std::io::Result<()> {
        let draft = self.next.with_extension("draft");
        let _ = std::fs::remove_file(&draft); // of an attempt that was broken off
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(next.to_text().expose().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&draft, &self.next)?;
        self.sync_directory()
    }

    fn settle(&self) -> std::io::Result<()> {
        std::fs::rename(&self.next, &self.path)?;
        self.sync_directory()
    }
}

/// The master key to start with, and where it is kept: the one that a setting gives, or whichever in the data directory opens the
/// stored keys. `present` is what [`files::master_key`] found. Only to be called while the database's lock is held.
pub async fn settle(
    given: Option<&MasterKey>,
    present: MasterKey,
    data_dir: &Path,
    store: &dyn Store,
) -> Result<(MasterKey, Option<Arc<dyn MasterHome>>), Failure> {
    if given.is_some() {
        return Ok((present, None));
    }
    let home = MasterFile::of(data_dir);
    let Some(next) = files::read_key(&home.next)? else { return Ok((present, Some(Arc::new(home)))) };
    let chosen = if is_sealed_under(store, &next, &present).await.map_err(Failure::config)? {
        let wrong = |error| Failure::config(format!("{} cannot take its place: {error}", home.next.display()));
        home.settle().map_err(wrong)?;
        tracing::info!("the stored keys are sealed under the next master key; it is in its place now");
        next
    } else {
        // It never came to be used: it opens nothing.
        if let Err(error) = std::fs::remove_file(&home.next) {
            tracing::warn!(path = %home.next.display(), %error, "a master key that opens nothing cannot be removed");
        }
        present
    };
    Ok((chosen, Some(Arc::new(home))))
}
