//! How many bytes of the file a session takes, by table and index:
//! `cargo run --release -p portcullis-store-sqlite --example bytes -- 100000`.
//!
//! Each session is a sign-in as the server commits it: a session, a grant and an audit record, with ids by chance, half of them
//! refreshed once. Four sessions for each account, of which is remembered what the rules of risk ask; the records are sealed.
mod after;
mod rows;

use after::{remembered, seal_all};
use portcullis_domain::changes::Changes;
use portcullis_store::Store;
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::LogId;
use rows::{NOW, account, sign_in};
use rusqlite::Connection;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

type Fault = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let sessions: u64 = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("portcullis-bytes-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("portcullis.db");
    let store = Arc::new(SqliteStore::open(&path, OpenOptions::new(LogId::from_bits(1), Arc::new(|| NOW)))?);
    for first in (0..sessions).step_by(2_048) {
        let part = first..sessions.min(first + 2_048);
        let steps = part.clone().filter(|n| n.is_multiple_of(4)).map(|n| account(n / 4)).collect();
        store.commit(Changes { steps, ..Changes::default() }).await?;
        let under_way: Vec<_> = part
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.commit(sign_in(n)).await })
            })
            .collect();
        for one in under_way {
            one.await??;
        }
    }
    for first in (0..sessions / 4).step_by(2_048) {
        let part = (first..(sessions / 4).min(first + 2_048)).flat_map(|n| remembered(n).steps).collect();
        store.commit(Changes { steps: part, ..Changes::default() }).await?;
    }
    seal_all(&*store, LogId::from_bits(1)).await?;
    drop(store);
    let db = Connection::open(&path)?;
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    let mut rows = db.prepare("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC")?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let (mut out, mut all, sessions) = (std::io::stdout(), 0, i64::try_from(sessions.max(1))?);
    writeln!(out, "{sessions} sessions; bytes for each:")?;
    for row in rows {
        let (name, bytes) = row?;
        all += bytes;
        if bytes / sessions > 0 {
            writeln!(out, "{:>8}  {name}", bytes / sessions)?;
        }
    }
    writeln!(out, "{:>8}  all; the file has {all} bytes", all / sessions)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
