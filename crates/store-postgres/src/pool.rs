//! Connections for reading, and what every connection is set to.
use crate::cells::{Cells, Fault};
use crate::clock::DatabaseClock;
use portcullis_wire::Time;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow, Postgres};
use sqlx::query::Query;
use std::sync::Arc;
use std::time::Duration;

/// A statement with its values.
pub(crate) type Asked<'q> = Query<'q, Postgres, PgArguments>;

/// How long a read waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(2);

/// The schema that everything lies in.
pub(crate) const SCHEMA: &str = "portcullis";

/// What a connection is set to, whatever the database's or the role's defaults are.
pub(crate) fn connect_options(given: PgConnectOptions) -> PgConnectOptions {
    given.application_name("portcullis").statement_cache_capacity(128).options([
        ("search_path", SCHEMA),
        // `commit_group` takes its locks first and reads afterwards: each of its statements must have a snapshot of its own.
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("lock_timeout", "2s"),
        ("statement_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "2s"),
        ("client_min_messages", "warning"),
        ("jit", "off"),
    ])
}

/// Reads, each by one statement.
pub(crate) struct Reader {
    pool: PgPool,
    clock: Arc<DatabaseClock>,
}

impl Reader {
    pub(crate) fn new(options: PgConnectOptions, connections: u32, clock: Arc<DatabaseClock>) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(ACQUIRE)
            // A ping before each read would double its cost; a connection that died is found by the read, which tries again.
            .test_before_acquire(false)
            .max_lifetime(Duration::from_secs(1800))
            .idle_timeout(Duration::from_secs(300))
            .connect_lazy_with(options);
        Self { pool, clock }
    }

    /// The given time, where time does not come from the database.
    pub(crate) fn given(&self) -> Option<Time> {
        self.clock.given()
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn rows<'q>(&self, make: impl Fn() -> Asked<'q>) -> Result<Vec<PgRow>, Fault> {
        match make().fetch_all(&self.pool).await {
            Err(error) if is_stale(&error) => Ok(make().fetch_all(&self.pool).await?),
            other => Ok(other?),
        }
    }

    /// The only row of a statement, if there is one.
    pub(crate) async fn one<'q, T>(
        &self,
        make: impl Fn() -> Asked<'q>,
        read: impl FnOnce(&mut Cells<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let rows = self.rows(make).await?;
        rows.first().map(|row| read(&mut Cells::new(row))).transpose()
    }

    /// All rows of a statement.
    pub(crate) async fn all<'q, T>(
        &self,
        make: impl Fn() -> Asked<'q>,
        mut read: impl FnMut(&mut Cells<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let rows = self.rows(make).await?;
        rows.iter().map(|row| read(&mut Cells::new(row))).collect()
    }
}

/// Whether a connection of the pool had died, which says nothing about the next one. 57P01: the server was being shut down.
fn is_stale(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P0")),
        _ => false,
    }
}
