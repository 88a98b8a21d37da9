//! Opening a database file: every way in which that fails has its own answer, which says what to do.
use crate::Clock;
use crate::cells::Fault;
use crate::connect::Connector;
use crate::lock::Lock;
use crate::reads;
use crate::rows::Meta;
use crate::settle;
use crate::writer;
use portcullis_domain::Cut;
use portcullis_domain::model::Client;
use portcullis_wire::{Chain, Epoch, LogId, Rev, Time};
use rusqlite::{Connection, ErrorCode};
use std::fmt;
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Forward only; `user_version` counts those that were done.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_guessing.sql"),
    include_str!("migrations/0003_mass.sql"),
    include_str!("migrations/0004_housekeeping.sql"),
    include_str!("migrations/0005_run.sql"),
    include_str!("migrations/0006_oauth.sql"),
    include_str!("migrations/0007_outbox.sql"),
    include_str!("migrations/0008_owners.sql"),
    include_str!("migrations/0009_upstream.sql"),
    include_str!("migrations/0010_amr.sql"),
    include_str!("migrations/0011_queues.sql"),
    include_str!("migrations/0012_sessions.sql"),
    include_str!("migrations/0013_proofs.sql"),
    include_str!("migrations/0014_allowed_in.sql"),
    include_str!("migrations/0015_audit_chain.sql"),
    include_str!("migrations/0016_risk.sql"),
    include_str!("migrations/0017_unused_clients.sql"),
    include_str!("migrations/0018_followers.sql"),
    include_str!("migrations/0019_links_in_mails.sql"),
    include_str!("migrations/0020_verified.sql"),
    include_str!("migrations/0021_used.sql"),
    include_str!("migrations/0022_goes_on.sql"),
];
/// `application_id` of our files: "Port".
const APPLICATION: i32 = 0x506f_7274;
/// Up to this size a file is checked as a whole when it is opened; above, its structure is only read on use.
const CHECK_BELOW_BYTES: u64 = 64 << 20;
/// The oldest SQLite without the WAL-reset bug (docs/decisions/0005).
const OLDEST_SQLITE: i32 = 3_051_003;

/// How to open a database.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The log of a database that is made anew; one that exists keeps its own.
    pub log_id: LogId,
    /// The database's time.
    pub clock: Clock,
    /// Connections for point reads, which run on the calling thread.
    pub readers: usize,
    /// As many commits wait for the writer at most; more are refused at once.
    pub queue: usize,
    /// As many commits share one transaction at most.
    pub group: usize,
    /// The file may not grow beyond so many pages of 4 KiB.
    pub max_pages: Option<u32>,
}

impl OpenOptions {
    /// The usual ones.
    pub fn new(log_id: LogId, clock: Clock) -> Self {
        let readers = std::thread::available_parallelism().map_or(4, |n| n.get().clamp(2, 16));
        Self { log_id, clock, readers, queue: 4096, group: 256, max_pages: None }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("log_id", &self.log_id)
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}

/// Why a database could not be opened. Nothing was changed in it.
#[derive(Debug)]
pub enum OpenError {
    /// Another server has it open.
    InUse {
        /// The file.
        path: PathBuf,
        /// The other server's process, when it could be read.
        pid: Option<u32>,
    },
    /// A later version of this program made or migrated it.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// It is no SQLite database.
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// It is a SQLite database of another program.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// It cannot be written.
    NotWritable {
        /// The file, or its directory.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Its directory does not exist.
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The disk is full.
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    Other {
        /// The file.
        path: PathBuf,
        /// What happened.
        detail: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, pid } => {
                let path = path.display();
                match pid {
                    Some(pid) => write!(f, "the database {path} is in use by another server (process {pid})")?,
                    None => write!(f, "the database {path} is in use by another server")?,
                }
                write!(f, "; stop that one first, or give this one another database")
            }
            Self::Newer { path, found, known } => write!(
                f,
                "the database {} has schema version {found}, this program knows up to {known}; \
                 use the version of the program that wrote it, or a later one",
                path.display()
            ),
            Self::NotADatabase { path } => write!(
                f,
                "{} is not a database; name another file, or move this one away to start with an empty database",
                path.display()
            ),
            Self::Foreign { path } => {
                write!(f, "{} is a SQLite database of another program; name another file", path.display())
            }
            Self::Corrupted { path, detail } => write!(
                f,
                "the database {} is damaged ({detail}); keep a copy of it with its -wal file, and restore a backup",
                path.display()
            ),
            Self::NotWritable { path, detail } => write!(
                f,
                "{} cannot be written ({detail}); give the user that runs this program the right to write the file \
                 and its directory",
                path.display()
            ),
            Self::NoDirectory { path } => {
                write!(f, "the directory {} does not exist; make it, or name another path", path.display())
            }
            Self::DiskFull { path } => {
                write!(f, "no space left for the database {}; make room on that disk", path.display())
            }
            Self::Other { path, detail } => write!(f, "the database {} cannot be opened: {detail}", path.display()),
        }
    }
}
impl std::error::Error for OpenError {}

impl OpenError {
    /// The same about another file: the one that it was copied from.
    pub(crate) fn about(self, file: &Path) -> Self {
        let path = file.to_owned();
        match self {
            Self::InUse { pid, .. } => Self::InUse { path, pid },
            Self::Newer { found, known, .. } => Self::Newer { path, found, known },
            Self::NotADatabase { .. } => Self::NotADatabase { path },
            Self::Foreign { .. } => Self::Foreign { path },
            Self::Corrupted { detail, .. } => Self::Corrupted { path, detail },
            Self::Other { detail, .. } => Self::Other { path, detail },
            // These are about the place where it is put.
            Self::NotWritable { .. } | Self::NoDirectory { .. } | Self::DiskFull { .. } => self,
        }
    }

    pub(crate) fn from_io(path: &Path, error: &io::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, detail },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Other { path, detail },
        }
    }

    /// The write-ahead log could not be written over itself.
    fn from_log(path: &Path, error: &io::Error) -> Self {
        match Self::from_io(path, error) {
            Self::Other { path, detail } => {
                let detail =
                    format!("its write-ahead log does not reach the disk ({detail}); mend the disk, start again");
                Self::Other { path, detail }
            }
            other => other,
        }
    }

    pub(crate) fn from_fault(path: &Path, fault: &Fault) -> Self {
        let (path, detail) = (path.to_owned(), fault.to_string());
        let code = match fault {
            Fault::Sqlite(error) => error.sqlite_error_code(),
            // A row that does not read: not by this program's hand.
            Fault::Row(_) => Some(ErrorCode::DatabaseCorrupt),
        };
        match code {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupted { path, detail },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::NotWritable { path, detail }
            }
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            _ => Self::Other { path, detail },
        }
    }
}

/// An opened file: the lock, the writer's connection, and what it found.
pub(crate) struct Opened {
    pub(crate) lock: Lock,
    pub(crate) connector: Connector,
    pub(crate) db: Connection,
    pub(crate) meta: Meta,
}

pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        let detail = format!("SQLite {} is too old, 3.51.3 is needed", rusqlite::version());
        return Err(OpenError::Other { path: path.to_owned(), detail });
    }
    let path = real_path(path)?;
    let lock = Lock::take(&path)?;
    look_at(&path)?;
    settle::log(&path).map_err(|error| OpenError::from_log(&path, &error))?;
    let fault = |fault: Fault| OpenError::from_fault(&path, &fault);
    let connector = Connector { path: path.clone(), max_pages: options.max_pages };
    let mut db = connector.writer().map_err(fault)?;
    check(&path, &db)?;
    migrate(&path, &mut db, options)?;
    let meta = reads::meta(&db).map_err(fault)?;
    Ok(Opened { lock, connector, db, meta })
}

/// Links resolved, so that two names of one file have one lock.
pub(crate) fn real_path(path: &Path) -> Result<PathBuf, OpenError> {
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = match directory.canonicalize() {
        Ok(real) if real.is_dir() => real,
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(OpenError::from_io(directory, &error)),
        _ => return Err(OpenError::NoDirectory { path: directory.to_owned() }),
    };
    match path.file_name() {
        Some(name) => Ok(real.join(name)),
        None => Err(OpenError::Other { path: path.to_owned(), detail: "it names no file".into() }),
    }
}

/// Makes the file when there is none, for this user only (SQLite gives `-wal` and `-shm` the same mode); else sees to it that
/// it may be written and begins like a database.
fn look_at(path: &Path) -> Result<(), OpenError> {
    // SQLite removes the log of a database that is empty, and with it what might still be read from there.
    let log = settle::log_of(path).metadata().map_or(0, |log| log.len());
    let lost =
        |what: &str| OpenError::Corrupted { path: path.to_owned(), detail: format!("{what}, and its log is not") };
    if log > 0 && !path.exists() {
        return Err(lost("it is gone"));
    }
    match FileOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(OpenError::from_io(path, &error)),
    }
    if path.is_dir() {
        return Err(OpenError::Other { path: path.to_owned(), detail: "it is a directory".into() });
    }
    let file =
        FileOptions::new().read(true).write(true).open(path).map_err(|error| OpenError::from_io(path, &error))?;
    let mut head = Vec::new();
    File::take(file, 16).read_to_end(&mut head).map_err(|error| OpenError::from_io(path, &error))?;
    if head.is_empty() && log > 0 {
        return Err(lost("it is empty"));
    }
    // A file of no bytes is a new database: so SQLite sees it, and so a crash while it was made leaves it.
    if head.is_empty() || head == b"SQLite format 3\0" {
        Ok(())
    } else {
        Err(OpenError::NotADatabase { path: path.to_owned() })
    }
}

/// Reads the schema, and all pages of a file that is not too large for it.
fn check(path: &Path, db: &Connection) -> Result<(), OpenError> {
    let fault = |error: rusqlite::Error| OpenError::from_fault(path, &Fault::Sqlite(error));
    if db.is_readonly("main").map_err(fault)? {
        return Err(OpenError::NotWritable { path: path.to_owned(), detail: "it is read-only".into() });
    }
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(fault)?;
    let bytes = path.metadata().map_err(|error| OpenError::from_io(path, &error))?.len();
    if bytes > CHECK_BELOW_BYTES {
        return Ok(());
    }
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fault)?;
    if found == "ok" {
        return Ok(());
    }
    Err(OpenError::Corrupted { path: path.to_owned(), detail: found })
}

/// Brings the schema to this program's version, each step in a transaction of its own.
fn migrate(path: &Path, db: &mut Connection, options: &OpenOptions) -> Result<(), OpenError> {
    let fault = |error: rusqlite::Error| OpenError::from_fault(path, &Fault::Sqlite(error));
    let known = MIGRATIONS.len() as i64;
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fault)?;
    let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(fault)?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fault)?;
    let new = found == 0 && application == 0 && tables == 0;
    if !new && application != APPLICATION {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found).unwrap_or_default();
    for (at, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        step(db, at, sql, options).map_err(fault)?;
    }
    Ok(())
}

fn step(db: &mut Connection, at: usize, sql: &str, options: &OpenOptions) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    transaction.execute_batch(sql)?;
    if at == 0 {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        let (meta, first_party) = nothing_yet(options.log_id, (options.clock)());
        writer::found(&transaction, &meta, &first_party)?;
    }
    transaction.pragma_update(None, "user_version", at as i64 + 1)?;
    transaction.commit()
}

/// What a new database holds.
fn nothing_yet(log: LogId, now: Time) -> (Meta, Client) {
    let meta = Meta {
        log,
        epoch: Epoch(1),
        head: Rev::ZERO,
        chain: Chain::genesis(log),
        horizon: Time::ZERO,
        floor: Time::ZERO,
        all: Cut::default(),
        forgotten: Rev::ZERO,
        bound: None,
        standing: 0,
        worked_off: Rev::ZERO,
    };
    let first_party = Client::first_party(now);
    (meta, first_party)
}
