//! What a failed sync leaves behind, and how it is put right (docs/decisions/0019-failed-sync.md).
//!
//! After a sync that failed, the kernel may hold pages that it will never write and that it takes for written: what is read
//! is not what is on disk, and the next sync succeeds. Writing the same bytes once more makes the kernel write them.
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Read and written at once.
const CHUNK: usize = 1 << 20;

/// Writes the write-ahead log of the database at `path` over itself, byte for byte, and syncs it: what a recovery finds in it
/// is then on disk. Ended at any moment it has changed nothing. Nobody may write to the database meanwhile.
///
/// # Errors
/// It is not certain that the log is on disk.
pub(crate) fn log(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(log_of(path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut buffer = vec![0; CHUNK.min(usize::try_from(file.metadata()?.len()).unwrap_or(CHUNK)).max(1)];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        file.write_all_at(bytes, at)?;
        at += read as u64;
    }
    file.sync_data()
}

/// `portcullis.db` → `portcullis.db-wal`.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
