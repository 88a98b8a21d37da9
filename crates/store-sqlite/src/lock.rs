//! One server per database file: an exclusive lock on a file beside it.
//!
//! The kernel gives the lock back when its holder is gone, however it went; nothing has to be cleaned up after `kill -9`. The
//! lock file itself is never removed: whoever removed it could let two servers hold locks on two files of the same name. Its
//! content is only for people: the holder's process id.
use crate::OpenError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the database at `path`, or says who has it.
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let lock_path = beside(path);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let mut file = opened.map_err(|error| OpenError::from_io(&lock_path, &error))?;
        match try_for_a_moment(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = (&file).take(20).read_to_string(&mut text); // the id is a help, not a condition
                return Err(OpenError::InUse { path: path.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(OpenError::from_io(&lock_path, &error)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|error| OpenError::from_io(&lock_path, &error))?;
        Ok(Self { _file: file })
    }
}

/// A holder that is just ending (a server being restarted, a child process between fork and exec) is waited for, briefly.
fn try_for_a_moment(file: &File) -> Result<(), TryLockError> {
    const TRIES: u32 = 25;
    const PAUSE: Duration = Duration::from_millis(10);
    let mut outcome = file.try_lock();
    for _ in 1..TRIES {
        if !matches!(outcome, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::park_timeout(PAUSE);
        outcome = file.try_lock();
    }
    outcome
}

/// `portcullis.db` → `portcullis.db.lock`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
