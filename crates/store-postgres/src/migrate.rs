//! The schema: numbered migrations, forward only, each in a transaction of its own, under a lock that all nodes know.
//!
//! They only add, so that nodes of the release before go on working on a database that this one has migrated. A node that is
//! killed in between leaves whole steps behind it, and the next start goes on from there.
use crate::cells::{Fault, Id};
use crate::pool::SCHEMA;
use portcullis_domain::model::ClientKind;
use portcullis_wire::{Chain, ClientId, LogId, Time};
use sqlx::postgres::PgConnection;
use sqlx::{Acquire as _, query, query_scalar, raw_sql};

/// `schema_version` counts those that were done.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_tables.sql"),
    include_str!("migrations/0002_rules.sql"),
    include_str!("migrations/0003_commit.sql"),
    include_str!("migrations/0004_act.sql"),
    include_str!("migrations/0005_nodes.sql"),
    include_str!("migrations/0006_cheaper.sql"),
];

/// What stands in the way of a migration.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A later release made or migrated it.
    Newer(i64),
    /// The schema is somebody else's.
    Foreign,
    /// The database says no.
    Fault(Fault),
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// Brings the schema up to `known` migrations, and founds the log where there is none.
pub(crate) async fn migrate(
    db: &mut PgConnection,
    log: LogId,
    given: Option<Time>,
    migrations: &[&'static str],
) -> Result<(), Stopped> {
    // Another node may be at it; a large table may take its time.
    raw_sql("SET lock_timeout = '60s'; SET statement_timeout = 0").execute(&mut *db).await?;
    query("SELECT pg_advisory_lock(1349481076, 2)").execute(&mut *db).await?;
    let done = locked(db, migrations).await;
    let done = match done {
        Ok(()) => found_log(db, log, given).await,
        stopped => stopped,
    };
    query("SELECT pg_advisory_unlock(1349481076, 2)").execute(&mut *db).await?;
    raw_sql("RESET lock_timeout; RESET statement_timeout").execute(&mut *db).await?;
    done
}

async fn locked(db: &mut PgConnection, migrations: &[&'static str]) -> Result<(), Stopped> {
    let found = version(db).await?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(Stopped::Newer(found));
    }
    let done = usize::try_from(found).unwrap_or_default();
    for (at, sql) in migrations.iter().enumerate().skip(done) {
        step(db, at, sql).await?;
    }
    Ok(())
}

/// How many migrations were done; makes the schema and the table that says so.
async fn version(db: &mut PgConnection) -> Result<i64, Stopped> {
    const THERE: &str = "SELECT to_regclass('portcullis.schema_version') IS NOT NULL";
    const FOREIGN: &str =
        "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1)";
    const MAKE: &str =
        "CREATE TABLE portcullis.schema_version (done bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())";
    if query_scalar(THERE).fetch_one(&mut *db).await? {
        return Ok(query_scalar("SELECT coalesce(max(done), 0) FROM portcullis.schema_version")
            .fetch_one(&mut *db)
            .await?);
    }
    if query_scalar(FOREIGN).bind(SCHEMA).fetch_one(&mut *db).await? {
        return Err(Stopped::Foreign);
    }
    let exists: bool = query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(SCHEMA).fetch_one(&mut *db).await?;
    // Asked first: PostgreSQL wants the right to make a schema even where it exists.
    if !exists {
        raw_sql("CREATE SCHEMA portcullis").execute(&mut *db).await?;
    }
    raw_sql(MAKE).execute(&mut *db).await?;
    Ok(0)
}

async fn step(db: &mut PgConnection, at: usize, sql: &'static str) -> Result<(), Stopped> {
    let mut transaction = db.begin().await?;
    raw_sql(sql).execute(&mut *transaction).await?;
    let done = at as i64 + 1;
    query("INSERT INTO portcullis.schema_version (done) VALUES ($1)").bind(done).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// The counter's row, and the client that always exists; one that is there stays.
async fn found_log(db: &mut PgConnection, log: LogId, given: Option<Time>) -> Result<(), Stopped> {
    const META: &str = "INSERT INTO meta (one, log, epoch, head, chain, horizon, floor, cut_rev, forgotten, standing, worked_off) \
         VALUES (1, $1, 1, 0, $2, 0, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING";
    const CLIENT: &str = "INSERT INTO clients (id, name, kind, disabled, created_at, cut_rev) \
         VALUES ($1, 'Portcullis', $2, false, $3, 0) ON CONFLICT DO NOTHING";
    let there: bool = query_scalar("SELECT EXISTS (SELECT 1 FROM meta)").fetch_one(&mut *db).await?;
    if there {
        return Ok(());
    }
    let now: i64 = match given {
        Some(now) => now.0,
        None => query_scalar(crate::clock::NOW).fetch_one(&mut *db).await?,
    };
    let mut transaction = db.begin().await?;
    let chain = Chain::genesis(log);
    query(META).bind(log.blob()).bind(chain.0).execute(&mut *transaction).await?;
    let client = query(CLIENT).bind(ClientId::FIRST_PARTY.blob()).bind(ClientKind::Public.as_str()).bind(now);
    client.execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}
