//! How far an import has come, in a file beside its own: so many lines are done, and this is their digest.
use crate::cli::exit::Failure;
use portcullis_wire::{Digest, b64};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What became of lines.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub lines: u64,
    pub blank: u64,
    pub created: u64,
    pub unchanged: u64,
    pub refused: u64,
}

#[derive(Debug, Clone)]
pub struct Progress {
    pub lines: u64,
    pub digest: Digest,
    pub counts: Counts,
}

impl Default for Progress {
    fn default() -> Self {
        Self { lines: 0, digest: Digest([0; 32]), counts: Counts::default() }
    }
}

/// The file of the progress of an import of this file.
pub fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("progress")
}

/// The import is done.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path); // one that stays names lines that are done, which is true
}

impl Progress {
    /// What an earlier run left, if it left anything.
    pub fn load(path: &Path) -> Result<Option<Self>, Failure> {
        let wrong = |why: &str| {
            let path = path.display();
            Failure::config(format!("{path} {why}; remove it and run without --resume (accounts that are there stay)"))
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&format!("cannot be read: {error}"))),
        };
        let read = || -> Option<Self> {
            let value: Value = serde_json::from_str(&text).ok()?;
            let number = |name: &str| value.get(name).and_then(Value::as_u64);
            let digest = Digest(b64::decode_array(value.get("digest")?.as_str()?)?);
            let lines = number("lines")?;
            let (created, unchanged) = (number("created")?, number("unchanged")?);
            let counts = Counts { lines, blank: number("blank")?, created, unchanged, refused: number("refused")? };
            Some(Self { lines, digest, counts })
        };
        read().map(Some).ok_or_else(|| wrong("is no record of an import's progress"))
    }

    /// Puts it in the place of the last one, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let Counts { blank, created, unchanged, refused, .. } = self.counts;
        let text = json!({
            "lines": self.lines, "digest": b64::encode(&self.digest.0), "blank": blank, "created": created,
            "unchanged": unchanged, "refused": refused,
        });
        let new = path.with_added_extension("new");
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            writeln!(file, "{text}")?;
            std::fs::rename(&new, path)
        };
        write().map_err(|error| Failure::config(format!("{} cannot be written: {error}", path.display())))
    }
}
