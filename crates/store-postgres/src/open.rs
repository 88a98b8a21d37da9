//! Opening a database: every way in which that fails has its own answer, which says what to do.
use crate::TimeSource;
use crate::cells::{Fault, Id};
use crate::clock::DatabaseClock;
use crate::migrate::{self, MIGRATIONS, Stopped};
use crate::pool::connect_options;
use crate::told::{Told, timeline, timeline_of};
use portcullis_domain::ledger::Ledger;
use portcullis_wire::{Epoch, LogId, NodeId};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, query_scalar};
use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;
use tokio::time::timeout;

/// How long the first connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The oldest PostgreSQL that is known to do: 15.
const OLDEST: i32 = 150_000;

/// How to open a database.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The log of a database that is founded now; one that exists keeps its own.
    pub log_id: LogId,
    /// Where time comes from.
    pub time: TimeSource,
    /// Connections for reading.
    pub readers: u32,
    /// As many commits wait for the committer at most; more are refused at once.
    pub queue: usize,
    /// As many commits share one transaction at most.
    pub group: usize,
    /// Opens a server that loses what it acknowledged when its machine fails (`fsync` or `full_page_writes` off). For
    /// throw-away clusters of tests; nothing else may set it.
    pub danger_lose_data_on_crash: bool,
    /// What was acknowledged to this node before, by its high-water mark, and under which id that is counted. Without one the
    /// database makes one up.
    pub acknowledged: Option<Ledger>,
}

impl OpenOptions {
    /// The usual ones.
    pub fn new(log_id: LogId, time: TimeSource) -> Self {
        Self { log_id, time, readers: 8, queue: 4096, group: 64, danger_lose_data_on_crash: false, acknowledged: None }
    }
}

/// Why a database could not be opened. What could be read of the settings is in it, never the password.
#[derive(Debug)]
pub enum OpenError {
    /// The URL is no such URL.
    Url(String),
    /// There is no way to the server, or it lets nobody in.
    Unreachable(String),
    /// The server is older than PostgreSQL 15.
    TooOld(String),
    /// The database's encoding is not UTF8.
    Encoding(String),
    /// The server is a standby, or the database is set to be read only.
    ReadOnly(&'static str),
    /// The server acknowledges commits that are not on disk; the setting that says so.
    NotDurable(&'static str),
    /// A later release made or migrated the schema.
    Newer {
        /// Its version.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The schema `portcullis` holds tables of another program.
    Foreign,
    /// The role may not do what is needed.
    Privileges(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(what) => write!(f, "database_url: {what}; write postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
            Self::Unreachable(what) => write!(
                f,
                "PostgreSQL cannot be reached: {what}; see that it runs, that host, port, role and password in database_url \
                 are right, and that pg_hba.conf lets the role in"
            ),
            Self::TooOld(version) => {
                write!(f, "this is PostgreSQL {version}, and 15 or later is needed; upgrade the server")
            }
            Self::Encoding(encoding) => write!(
                f,
                "the database's encoding is {encoding}, and UTF8 is needed; make it anew: \
                 CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            ),
            Self::ReadOnly(why) => {
                write!(f, "{why}; point database_url at the primary (a list of hosts is no help here)")
            }
            Self::NotDurable(setting) => write!(
                f,
                "{setting} is off: the server would acknowledge what it can lose; set it to on (for this role or database, \
                 or in postgresql.conf), and check ALTER ROLE and ALTER DATABASE settings"
            ),
            Self::Newer { found, known } => write!(
                f,
                "the database has schema version {found}, this program knows up to {known}; use the release that migrated it, \
                 or a later one"
            ),
            Self::Foreign => f.write_str(
                "the schema portcullis of this database holds tables of another program; give Portcullis a database of its own",
            ),
            Self::Privileges(what) => write!(
                f,
                "the role lacks a privilege: {what}; let it own the database (ALTER DATABASE … OWNER TO …), or grant what \
                 docs/postgresql.md lists"
            ),
            Self::Other(what) => write!(f, "the database cannot be opened: {what}"),
        }
    }
}
impl std::error::Error for OpenError {}

impl OpenError {
    fn from_fault(fault: &Fault) -> Self {
        let Fault::Sqlx(sqlx::Error::Database(error)) = fault else { return Self::Other(fault.to_string()) };
        match error.code().as_deref() {
            Some("42501") => Self::Privileges(error.message().to_owned()),
            Some("25006") => Self::ReadOnly("the database takes no writes"),
            _ => Self::Other(fault.to_string()),
        }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::from_fault(&Fault::Sqlx(error))
    }
}

/// What `url` says, with what every connection is set to.
pub(crate) fn parse(url: &str) -> Result<PgConnectOptions, OpenError> {
    // The library's words may repeat what it did not understand, and that may be the password.
    let options = PgConnectOptions::from_str(url).map_err(|_| OpenError::Url("it does not read".into()))?;
    Ok(connect_options(options))
}

/// Looks at the server, migrates, and looks at the clock.
pub(crate) async fn open(
    options: &PgConnectOptions,
    given: &OpenOptions,
    clock: &DatabaseClock,
) -> Result<Told, OpenError> {
    let made = timeout(CONNECT, options.connect()).await;
    let made = made.map_err(|_| OpenError::Unreachable("no answer within 10 s".into()))?;
    let mut db = made.map_err(|error| OpenError::Unreachable(Fault::Sqlx(error).to_string()))?;
    check(&mut db, given.danger_lose_data_on_crash).await?;
    migrate::migrate(&mut db, given.log_id, clock.given(), MIGRATIONS).await.map_err(|stopped| match stopped {
        Stopped::Newer(found) => OpenError::Newer { found, known: MIGRATIONS.len() as i64 },
        Stopped::Foreign => OpenError::Foreign,
        Stopped::Fault(fault) => OpenError::from_fault(&fault),
    })?;
    privileges(&mut db).await?;
    clock.measure(&mut db).await?;
    let told = told(&mut db, given.acknowledged).await?;
    standbys(&mut db).await?;
    let _ = db.close().await; // it has served
    Ok(told)
}

/// Where the count of this node's commits stands. A row that is not there yet comes with the first commit.
async fn told(db: &mut PgConnection, remembered: Option<Ledger>) -> Result<Told, OpenError> {
    const SQL: &str = concat!(
        "SELECT m.epoch, c.commits, i.id, ",
        timeline!(),
        " FROM meta m CROSS JOIN (SELECT coalesce($1, uuid_send(gen_random_uuid())) AS id) i \
         LEFT JOIN committers c ON c.id = i.id"
    );
    let row = sqlx::query(SQL).bind(remembered.map(|old| old.told.by.blob())).fetch_one(&mut *db).await?;
    let (epoch, count, id): (i64, Option<i64>, [u8; 16]) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let number = |what: i64| u64::try_from(what).map_err(|_| OpenError::Other("a count is below zero".into()));
    let epoch = Epoch(u32::try_from(epoch).map_err(|_| OpenError::Other("the epoch is no epoch".into()))?);
    let timeline = timeline_of(row.try_get(3)?).map_err(|fault| OpenError::from_fault(&fault))?;
    let count = count.map(number).transpose()?;
    Ok(Told::new(remembered, NodeId::from_blob(id), epoch, count, timeline))
}

/// What the server does before it acknowledges, in words for the operator: it decides what a failover can lose.
async fn standbys(db: &mut PgConnection) -> Result<(), OpenError> {
    const SQL: &str = "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit')";
    let row = sqlx::query(SQL).fetch_one(&mut *db).await?;
    let (names, commit): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    match (names.as_str(), commit.as_str()) {
        ("", _) => tracing::info!(
            "synchronous_standby_names is not set: no standby has to have a commit before it is acknowledged. Should one take \
             over, what was acknowledged last may be lost, and the log must then be founded anew (docs/postgresql.md)"
        ),
        (names, "local") => tracing::warn!(
            names,
            "synchronous_commit is local: commits are acknowledged before the standbys that synchronous_standby_names lists \
             have them. Set it to on, or a failover may lose what was acknowledged last"
        ),
        (names, commit) => tracing::info!(
            names,
            synchronous_commit = commit,
            "a commit is acknowledged when these standbys have it, too: fail over to one of them only"
        ),
    }
    Ok(())
}

/// What a server says of itself.
#[derive(Debug, Clone)]
struct Server {
    number: i32,
    version: String,
    encoding: String,
    standby: bool,
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
}

/// Refuses a server that cannot keep what is promised. Asked on every new connection: a name that follows the primary may lead
/// to a standby for a while, whose log is behind, and settings change.
pub(crate) async fn check(db: &mut PgConnection, lose_data: bool) -> Result<(), OpenError> {
    const SQL: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), \
         getdatabaseencoding()::text, pg_is_in_recovery(), current_setting('synchronous_commit'), \
         current_setting('fsync'), current_setting('full_page_writes')";
    let row = sqlx::query(SQL).fetch_one(&mut *db).await?;
    let server = Server {
        number: row.try_get(0)?,
        version: row.try_get(1)?,
        encoding: row.try_get(2)?,
        standby: row.try_get(3)?,
        synchronous_commit: row.try_get(4)?,
        fsync: row.try_get(5)?,
        full_page_writes: row.try_get(6)?,
    };
    server.refused(lose_data).map_or(Ok(()), Err)
}

impl Server {
    fn refused(self, lose_data: bool) -> Option<OpenError> {
        if self.number < OLDEST {
            return Some(OpenError::TooOld(self.version));
        }
        if self.encoding != "UTF8" {
            return Some(OpenError::Encoding(self.encoding));
        }
        if self.standby {
            return Some(OpenError::ReadOnly("the server is a standby (it is in recovery)"));
        }
        // All other values flush a commit on the primary before it is acknowledged.
        if self.synchronous_commit == "off" {
            return Some(OpenError::NotDurable("synchronous_commit"));
        }
        let unsafe_settings = [("fsync", &self.fsync), ("full_page_writes", &self.full_page_writes)];
        let off = unsafe_settings.into_iter().find(|(_, value)| *value == "off" && !lose_data);
        off.map(|(setting, _)| OpenError::NotDurable(setting))
    }
}

/// What the role must be allowed, where it does not own the tables.
async fn privileges(db: &mut PgConnection) -> Result<(), OpenError> {
    const TABLES: &str = "SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c \
         WHERE c.relnamespace = to_regnamespace('portcullis') AND c.relkind = 'r' AND c.relname <> 'schema_version' \
         AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
         AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))";
    const FUNCTIONS: &str = "SELECT string_agg(p.proname::text, ', ' ORDER BY p.proname) FROM pg_proc p \
         WHERE p.pronamespace = to_regnamespace('portcullis') AND NOT has_function_privilege(p.oid, 'EXECUTE')";
    for (sql, what) in [(TABLES, "SELECT, INSERT, UPDATE, DELETE on"), (FUNCTIONS, "EXECUTE on")] {
        if let Some(missing) = query_scalar::<_, Option<String>>(sql).fetch_one(&mut *db).await? {
            return Err(OpenError::Privileges(format!("{what} {missing} in the schema portcullis")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_cannot_keep_promises() {
        let on = || "on".to_owned();
        let good = Server {
            number: 150_000,
            version: "15.0".into(),
            encoding: "UTF8".into(),
            standby: false,
            synchronous_commit: on(),
            fsync: on(),
            full_page_writes: on(),
        };
        let refused = |server: &Server, lose| server.clone().refused(lose).map(|error| error.to_string());
        assert_eq!(refused(&good, false), None);
        let old = Server { number: 140_013, version: "14.13".into(), ..good.clone() };
        assert!(refused(&old, true).unwrap().contains("PostgreSQL 14.13, and 15 or later"));
        let torn = Server { full_page_writes: "off".into(), ..good.clone() };
        assert!(refused(&torn, false).unwrap().starts_with("full_page_writes is off"));
        assert_eq!(refused(&torn, true), None);
        for value in ["local", "remote_write", "remote_apply"] {
            assert_eq!(refused(&Server { synchronous_commit: value.into(), ..good.clone() }, false), None);
        }
        // Whatever tests may lose, an acknowledgement before the flush is never right.
        assert!(refused(&Server { synchronous_commit: "off".into(), ..good }, true).is_some());
    }
}
