//! Directories for one test each.
use portcullis_app::real;
use portcullis_domain::Chance as _;
use std::path::{Path, PathBuf};

/// A new empty directory, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one under the system's directory for such things.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portcullis-{name}-{:032x}", real::RealChance.bits()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{} cannot be made: {error}", path.display()));
        Self(path)
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is still open (a browser that is about to end) may make this fail; the system cleans up what stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
