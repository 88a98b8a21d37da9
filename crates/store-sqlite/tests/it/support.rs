//! A directory of its own for each test, and a clock that stands until it is moved.
use portcullis_store_sqlite::{OpenError, OpenOptions, SqliteStore};
use portcullis_wire::{LogId, Time};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub const START: Time = Time(1_700_000_000_000);
pub const LOG: LogId = LogId::from_bits(7);

/// Removed with everything in it when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("portcullis-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub fn file(&self) -> PathBuf {
        self.0.join("portcullis.db")
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
}
impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options() -> OpenOptions {
    OpenOptions::new(LOG, Arc::new(|| START))
}

pub fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, options())
}
