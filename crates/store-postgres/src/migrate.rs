//! The schema: numbered migrations, forward only, each in a transaction of its own, under a lock that all nodes know. Indexes
//! on tables that grow are built beside those that write, which no transaction can (`CONCURRENTLY`), each in a step of its own.
//!
//! They only add, so that nodes of the release before go on working on a database that this one has migrated. A node that is
//! killed in between leaves whole steps behind it, and the next start goes on from there.
use crate::cells::{Fault, Id};
use crate::pool::SCHEMA;
use portcullis_domain::model::ClientKind;
use portcullis_wire::{Chain, ClientId, LogId, Time};
use sqlx::postgres::PgConnection;
use sqlx::{Acquire as _, query, query_scalar, raw_sql};
use std::time::Duration;

/// `schema_version` counts those that were done.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_tables.sql"),
    include_str!("migrations/0002_rules.sql"),
    include_str!("migrations/0003_commit.sql"),
    include_str!("migrations/0004_act.sql"),
    include_str!("migrations/0005_nodes.sql"),
    include_str!("migrations/0006_committers.sql"),
    include_str!("migrations/0007_cheaper.sql"),
    include_str!("migrations/0008_refreshes.sql"),
    include_str!("migrations/0009_oauth.sql"),
    include_str!("migrations/0010_outbox.sql"),
    include_str!("migrations/0011_owners.sql"),
    include_str!("migrations/0012_upstream.sql"),
    include_str!("migrations/0013_amr.sql"),
    include_str!("migrations/0014_queues.sql"),
    include_str!("migrations/0015_indexes.sql"),
    include_str!("migrations/0016_sessions.sql"),
    include_str!("migrations/0017_proofs.sql"),
    include_str!("migrations/0018_allowed_in.sql"),
    include_str!("migrations/0019_audit_chain.sql"),
    include_str!("migrations/0020_erasures.sql"),
    include_str!("migrations/0021_events_by_place.sql"),
    include_str!("migrations/0022_events_unsealed.sql"),
    include_str!("migrations/0023_sessions_allowed_in.sql"),
    include_str!("migrations/0024_risk.sql"),
    include_str!("migrations/0025_unused_clients.sql"),
    include_str!("migrations/0026_grants_by_client.sql"),
    include_str!("migrations/0027_sessions_by_client.sql"),
    include_str!("migrations/0028_followers.sql"),
    include_str!("migrations/0029_consents_by_client.sql"),
    include_str!("migrations/0030_tickets_by_client.sql"),
    include_str!("migrations/0031_unproven.sql"),
    include_str!("migrations/0032_links_in_mails.sql"),
    include_str!("migrations/0033_begun_anew.sql"),
    include_str!("migrations/0034_verified.sql"),
    include_str!("migrations/0035_used.sql"),
    include_str!("migrations/0036_goes_on.sql"),
];

/// Between two looks whether another node migrates.
const TURN: Duration = Duration::from_millis(50);

/// After the building of an index and a node's start stood in each other's way.
const DEADLOCK: Duration = Duration::from_secs(1);

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
    turn(db).await?;
    let done = locked(db, migrations).await;
    let done = match done {
        Ok(()) => found_log(db, log, given).await,
        stopped => stopped,
    };
    query("SELECT pg_advisory_unlock(1349481076, 2)").execute(&mut *db).await?;
    raw_sql("RESET lock_timeout; RESET statement_timeout").execute(&mut *db).await?;
    done
}

/// Takes the lock that all nodes know. Asked for again and again: who waits inside a statement has a snapshot, which the building
/// of an index waits for in turn.
async fn turn(db: &mut PgConnection) -> Result<(), Stopped> {
    while !query_scalar::<_, bool>("SELECT pg_try_advisory_lock(1349481076, 2)").fetch_one(&mut *db).await? {
        tokio::time::sleep(TURN).await;
    }
    Ok(())
}

async fn locked(db: &mut PgConnection, migrations: &[&'static str]) -> Result<(), Stopped> {
    let found = version(db).await?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(Stopped::Newer(found));
    }
    let done = usize::try_from(found).unwrap_or_default();
    for (at, sql) in migrations.iter().enumerate().skip(done) {
        match beside(sql) {
            Some(index) => build(db, at, index, sql).await?,
            None => step_in_turn(db, at, sql).await?,
        }
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

/// A step whose locks cross those of a node that is at work has not happened when PostgreSQL breaks it off, and is tried again.
async fn step_in_turn(db: &mut PgConnection, at: usize, sql: &'static str) -> Result<(), Stopped> {
    loop {
        match step(db, at, sql).await {
            Err(error) if is_deadlock(&error) => tokio::time::sleep(DEADLOCK).await,
            done => return Ok(done?),
        }
    }
}

fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("40P01")
}

async fn step(db: &mut PgConnection, at: usize, sql: &'static str) -> Result<(), sqlx::Error> {
    let mut transaction = db.begin().await?;
    raw_sql(sql).execute(&mut *transaction).await?;
    let done = at as i64 + 1;
    query("INSERT INTO portcullis.schema_version (done) VALUES ($1)").bind(done).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// The index that a step builds beside those that write.
fn beside(sql: &'static str) -> Option<&'static str> {
    sql.split_once("INDEX CONCURRENTLY ")?.1.split_whitespace().next()
}

/// Builds an index. What a start that was killed in between has left of it goes first.
async fn build(db: &mut PgConnection, at: usize, index: &str, sql: &'static str) -> Result<(), Stopped> {
    const WRITE: &str = "INSERT INTO portcullis.schema_version (done) VALUES ($1)";
    // It waits for all transactions that are open, a long dump among them, and nobody waits for it.
    raw_sql("SET lock_timeout = 0").execute(&mut *db).await?;
    let left = format!("DROP INDEX CONCURRENTLY IF EXISTS portcullis.{index}");
    loop {
        raw_sql(sqlx::AssertSqlSafe(left.clone())).execute(&mut *db).await?;
        match raw_sql(sql).execute(&mut *db).await {
            // A node of the release before waits for the turn inside a statement.
            Err(error) if is_deadlock(&error) => tokio::time::sleep(DEADLOCK).await,
            done => break done.map(drop)?,
        }
    }
    raw_sql("SET lock_timeout = '60s'").execute(&mut *db).await?;
    query(WRITE).bind(at as i64 + 1).execute(&mut *db).await?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_wire::Digest;

    /// What has once run on somebody's database stays as it is: the beginning of the SHA-256 of each, one more for each release
    /// that adds one.
    const FIXED: &[&str] = &[
        "cf6c1304a2a8e334",
        "86bda59ca5868dd3",
        "2729e063c404b060",
        "7c61d6f40840051a",
        "cdc7ccc5e6b74abb",
        "8ece9123a7fbd2d2",
        "d62dd5617744eb66",
        "b33847cab10c644f",
        "083b2b7c947b3e8b",
        "353235ff29343c46",
        "c049a7c223dfa924",
        "9f46b98b80162429",
        "e83e896e4d1ae143",
        "a978f942d2af3baf",
        "18c75caa79420e96",
        "659b0906e78d3086",
        "6d57a3f9c7c3585c",
        "4e06e7a4fc58a4a0",
        "e72dfebc468af33d",
        "e3e263f00546cef5",
        "c76e477cf230a83a",
        "167fc9c10908b29f",
        "f85867322bbb55ad",
        "1098f0d56bc31f0a",
        "0ebbef4bc0afd363",
        "f476df71967b5ea4",
        "37cf100106db82e9",
        "e40d5c03d389d3e6",
        "aa1f84e6514cbf5e",
        "d09724100fbc123d",
        "35cf69ce8600a4fb",
        "a9bc95a3bfab9775",
        "222dc7b5c10862c9",
        "6bbc1ba8c3417790",
        "d75b4f5a26bb419c",
        "9dfcf0ed222b90cd",
    ];

    fn found(sql: &str) -> String {
        Digest::of(sql.as_bytes()).0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn migrations_are_never_changed() {
        let found: Vec<String> = MIGRATIONS.iter().map(|sql| found(sql)).collect();
        assert_eq!(found, FIXED, "a step that was changed has run already: add another one");
    }

    /// The release before is still at work when a step runs: nothing that it calls or reads may become another thing. A function
    /// that must do something else gets a new name, with a number (`commit_group_2`).
    #[test]
    fn steps_only_add() {
        for (n, sql) in MIGRATIONS.iter().enumerate() {
            let code: String =
                sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ");
            let words = code.to_uppercase().split_whitespace().collect::<Vec<_>>().join(" ");
            // `used_at` answers no later time than it did, and only where an application has refreshed under a browser's session.
            let words = match sql.contains("old_auth_time") {
                true => words.replace("CREATE OR REPLACE FUNCTION USED_AT(", "CREATE FUNCTION USED_AT("),
                false => words,
            };
            // Functions without side effects may get another body that answers the same of all that the releases before can
            // have written: three of them in step 7; `kills` in step 9, which those then ask about what they do not know.
            let words = match n {
                6 => words.replace("CREATE OR REPLACE", "CREATE"),
                8 => words.replace("CREATE OR REPLACE FUNCTION KILLS(", "CREATE FUNCTION KILLS("),
                // For the releases before it does what it did, and spares what is sealed.
                _ if sql.contains("audit_chain") && !sql.contains("'begin_anew'") => {
                    words.replace("CREATE OR REPLACE FUNCTION PRUNE_EVENTS(", "CREATE FUNCTION PRUNE_EVENTS(")
                }
                // Does what it did for whoever names no owner, and no release before does.
                _ if sql.contains("log_by_owner") => {
                    words.replace("CREATE OR REPLACE FUNCTION REVOKE(", "CREATE FUNCTION REVOKE(")
                }
                // The same for whoever names no methods, or no proof.
                _ if sql.contains("ADD COLUMN amr") => {
                    ["PLAIN_STEP_4(", "INSERT_SESSION_4(", "INSERT_GRANT_4(", "PLAIN_STEP_7("]
                        .iter()
                        .fold(words, |words, name| {
                            words.replace(&format!("CREATE OR REPLACE FUNCTION {name}"), "AS BEFORE ")
                        })
                }
                // The same for whoever names no follower and no webhook.
                _ if sql.contains("CREATE TABLE followers") => {
                    words.replace("CREATE OR REPLACE FUNCTION PLAIN_STEP_5(", "AS BEFORE ")
                }
                // The same for whoever sends no such step.
                _ if sql.contains("CREATE FUNCTION unprove") => {
                    words.replace("CREATE OR REPLACE FUNCTION PLAIN_STEP_6(", "AS BEFORE ")
                }
                // The same for whoever does not say whether an address is verified, and sends no such step.
                _ if sql.contains("ADD COLUMN email_verified_at") => {
                    ["INSERT_ACCOUNT(", "SET_STATUS(", "PLAIN_STEP_6(", "SET_OUTGOING("]
                        .iter()
                        .fold(words, |words, name| {
                            words.replace(&format!("CREATE OR REPLACE FUNCTION {name}"), "AS BEFORE ")
                        })
                }
                // The same for whoever names no network, and sends none of the new steps.
                _ if sql.contains("ADD COLUMN network") => {
                    ["INSERT_GRANT_4(", "PLAIN_STEP_6("].iter().fold(words, |words, name| {
                        words.replace(&format!("CREATE OR REPLACE FUNCTION {name}"), "AS BEFORE ")
                    })
                }
                // The same for whoever names no browser, and of what was allowed in none.
                _ if sql.contains("ADD COLUMN allowed_in") => {
                    ["INSERT_SESSION_4(", "LEAVE_NOTICE_OF_SESSION("].iter().fold(words, |words, name| {
                        words.replace(&format!("CREATE OR REPLACE FUNCTION {name}"), "AS BEFORE ")
                    })
                }
                // The same for whoever asks or sends nothing of it.
                _ if sql.contains("ADD COLUMN cut_whole") => {
                    ["EXPECTATION_7(", "PLAIN_STEP_7("].iter().fold(words, |words, name| {
                        words.replace(&format!("CREATE OR REPLACE FUNCTION {name}"), "AS BEFORE ")
                    })
                }
                // The same for whoever names no place up to which records go, and begins nothing anew.
                _ if sql.contains("'begin_anew'") => {
                    words.replace("CREATE OR REPLACE FUNCTION SET_CHAIN(", "AS BEFORE ")
                }
                // The same for whoever does not name that step.
                _ if sql.contains("prune_clients(") => {
                    words.replace("CREATE OR REPLACE FUNCTION FREE_STEP_7(", "AS BEFORE ")
                }
                _ => words,
            };
            for wrong in ["OR REPLACE", "DROP ", "RENAME ", "ALTER COLUMN", "ALTER FUNCTION", "TRUNCATE"] {
                assert!(!words.contains(wrong), "step {}: {wrong}", n + 1);
            }
        }
        // No name twice: the same one with other arguments is a second function beside the first, and a call is ambiguous.
        let names = |sql: &str| {
            let made = sql.match_indices("CREATE FUNCTION ").map(|(at, word)| &sql[at + word.len()..]);
            made.filter_map(|rest| rest.split('(').next().map(str::to_owned)).collect::<Vec<_>>()
        };
        let all: Vec<String> = MIGRATIONS.iter().flat_map(|sql| names(sql)).collect();
        let once: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(all.len(), once.len());
    }
}
