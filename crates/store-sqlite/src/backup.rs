//! Copies of a database: made while it is in use, and put back.
//!
//! A copy is made by `VACUUM INTO` on a connection of its own: one consistent snapshot, without free pages and without a log
//! beside it. It takes a reader's place for as long as it takes, and the writer goes on. A copy is put back only while nobody
//! serves the database, and only after it was looked at from the first page to the last.
use crate::connect::Connector;
use crate::lock::Lock;
use crate::open::{self, OpenError, OpenOptions};
use crate::reads;
use crate::rows::Meta;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What was put back, and where what it replaced was moved.
#[derive(Debug)]
pub struct Replaced {
    /// The database that was there before, with the files beside it; none when there was none.
    pub kept: Vec<PathBuf>,
}

/// Copies the database to `to`, which must not exist; whole, checked and on disk, or not at all.
pub(crate) fn copy(connector: &Connector, to: &Path) -> Result<Meta, String> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", to.display());
    if to.exists() {
        return Err(format!("{} exists already; name another file", to.display()));
    }
    let draft = beside(to, ".draft");
    let _ = fs::remove_file(&draft); // what an interrupted backup left
    let made = (|| {
        let db = connector.reader().map_err(|fault| wrong("the database cannot be read", &fault))?;
        db.pragma_update(None, "query_only", false).map_err(|error| wrong("cannot be made", &error))?;
        let text = draft.to_str().ok_or_else(|| format!("{}: its name is no text", to.display()))?;
        db.execute("VACUUM INTO ?1", [text]).map_err(|error| wrong("cannot be written", &error))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(|error| wrong("permissions", &error))?;
        let meta = look_through(&draft).map_err(|why| wrong("the copy is not sound", &why))?;
        File::open(&draft).and_then(|file| file.sync_all()).map_err(|error| wrong("cannot be synced", &error))?;
        fs::hard_link(&draft, to).map_err(|error| wrong("cannot get its name", &error))?; // refuses a name that is taken
        let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| wrong("cannot be synced", &error))?;
        Ok(meta)
    })();
    let _ = fs::remove_file(&draft);
    made
}

/// Every page of a copy, and its counter's row.
fn look_through(path: &Path) -> Result<Meta, String> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| error.to_string())?;
    let found: String =
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| error.to_string())?;
    if found != "ok" {
        return Err(found);
    }
    reads::meta(&db).map_err(|fault| fault.to_string())
}

/// A copy that is on its way into the place of a database. Until [`Restoring::finish`] the database is untouched, and nobody
/// else can open it; what is dropped before leaves nothing behind.
#[derive(Debug)]
pub struct Restoring {
    path: PathBuf,
    draft: PathBuf,
    _lock: Lock,
}

impl Restoring {
    /// Takes the copy `from`, which is to take the place of the database at `path`; nobody may have that open. What is wrong
    /// with the copy is found here.
    ///
    /// # Errors
    /// As for opening; `accept` may refuse, too, for what it finds in the copy, with its words.
    pub fn begin(
        path: &Path,
        from: &Path,
        options: &OpenOptions,
        accept: impl FnOnce(&portcullis_domain::view::Stamp) -> Result<(), String>,
    ) -> Result<Self, OpenError> {
        let path = open::real_path(path)?;
        let lock = Lock::take(&path)?;
        let other = |path: &Path, detail: String| OpenError::Other { path: path.to_owned(), detail };
        if !from.is_file() {
            return Err(other(from, "it is no file".into()));
        }
        let new = Self { draft: beside(&path, ".restoring"), path, _lock: lock };
        new.clean(); // what an interrupted restore left
        let draft = &new.draft;
        fs::copy(from, draft).map_err(|error| OpenError::from_io(draft, &error))?;
        // A plain copy of files may have its log beside it.
        match fs::copy(beside(from, "-wal"), beside(draft, "-wal")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(OpenError::from_io(from, &error)),
            _ => {}
        }
        fs::set_permissions(draft, fs::Permissions::from_mode(0o600)).map_err(|e| OpenError::from_io(draft, &e))?;
        if fs::metadata(draft).is_ok_and(|meta| meta.len() == 0) {
            return Err(OpenError::NotADatabase { path: from.to_owned() });
        }
        // Opening migrates an older schema, refuses a newer, a foreign or a damaged one, and takes the log in.
        let opened = open::open(draft, options).map_err(|error| error.about(from))?;
        let stamp = opened.meta.stamp((options.clock)());
        let found: String = opened
            .db
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| OpenError::Corrupted { path: from.to_owned(), detail: error.to_string() })?;
        if found != "ok" {
            return Err(OpenError::Corrupted { path: from.to_owned(), detail: found });
        }
        accept(&stamp).map_err(|why| other(from, why))?;
        opened.db.close().map_err(|(_, error)| other(from, error.to_string()))?;
        Ok(new)
    }

    /// The copy, a database of its own, in which what must be done can be done before it is in place.
    pub fn draft(&self) -> &Path {
        &self.draft
    }

    /// Puts the copy, which nobody may have open any more, in its place by one rename. The files that were there are kept
    /// beside it under names that end in `suffix`.
    ///
    /// # Errors
    /// The copy is still in use, or a file cannot be moved.
    pub fn finish(self, suffix: &str) -> Result<Replaced, OpenError> {
        let (path, draft) = (&self.path, &self.draft);
        let in_use = Lock::take(draft)?;
        let whole = |error: rusqlite::Error| OpenError::Other { path: draft.clone(), detail: error.to_string() };
        let db = Connection::open(draft).map_err(whole)?;
        let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(whole)?;
        db.close().map_err(|(_, error)| whole(error))?;
        if busy != 0 || fs::metadata(beside(draft, "-wal")).is_ok_and(|meta| meta.len() > 0) {
            return Err(OpenError::Other { path: draft.clone(), detail: "its log could not be taken in".into() });
        }
        drop(in_use);
        File::open(draft).and_then(|file| file.sync_all()).map_err(|error| OpenError::from_io(draft, &error))?;
        let mut kept = Vec::new();
        for end in ["", "-wal", "-shm"] {
            let (old, aside) = (beside(path, end), beside(path, &format!("{suffix}{end}")));
            match fs::rename(&old, &aside) {
                Ok(()) => kept.push(aside),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::from_io(&old, &error)),
            }
        }
        fs::rename(draft, path).map_err(|error| OpenError::from_io(path, &error))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| OpenError::from_io(folder, &error))?;
        Ok(Replaced { kept })
    }

    fn clean(&self) {
        for end in ["", "-wal", "-shm", ".lock"] {
            let _ = fs::remove_file(beside(&self.draft, end));
        }
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.clean();
    }
}

/// `a.db` → `a.db-wal`.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}
