//! Puts many accounts and sessions into the database of a server that is stopped, through the same writer as every commit:
//! `cargo run --release -p portcullis-store-sqlite --example fill -- DATABASE SESSIONS NOW_MS`.
//!
//! Every account has four sessions with a grant each; half of the sessions come from 10.1.0.0/16, the others from 10.0.0.0/16.
//! Prints one line of JSON: `{"sessions", "accounts", "bytes"}`, the last one of the file.
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::view::Stamp;
use portcullis_store::Store;
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::{AccountId, ClientId, GrantId, KeyId, LogId, SessionId, Time};
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

const PER_ACCOUNT: u64 = 4;
const PER_COMMIT: u64 = 400;

/// An id as random ones are spread, from a number (SplitMix64, twice).
fn spread(kind: u64, n: u64) -> u128 {
    let mix = |mut z: u64| {
        z = z.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(kind);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    u128::from(mix(n)) << 64 | u128::from(mix(!n))
}

fn rows(n: u64, stamp: &Stamp) -> Vec<Change> {
    let now = stamp.now;
    let account = AccountId::from_bits(spread(1, n / PER_ACCOUNT));
    let mut steps = Vec::new();
    if n.is_multiple_of(PER_ACCOUNT) {
        steps.push(Change::InsertAccount(Account {
            id: account,
            email: Some(format!("filled-{}@example.org", n / PER_ACCOUNT)),
            name: None,
            password_hash: Some("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$c29tZWhhc2g".into()),
            password_version: 1,
            email_verified_at: None,
            roles: vec![],
            status: Status::Active,
            created_at: now,
            cut: Cut::default(),
            version: 1,
        }));
    }
    let session = Session {
        id: SessionId::from_bits(spread(2, n)),
        account,
        kind: SessionKind::App,
        client: None,
        device_name: "Firefox on Linux".into(),
        agent: "firefox/linux".into(),
        ip: Some([10, u8::from(n.is_multiple_of(2)), (n >> 8) as u8, n as u8].into()),
        created_at: now,
        auth_time: now,
        amr: Amr::default(),
        last_seen_at: now,
        absolute_expires_at: now.plus(180 * 86_400_000),
        born: stamp.head,
        epoch: stamp.epoch,
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(spread(3, n)),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        proof: None,
        born: stamp.head,
        network: None,
        family: Family::new([7; 32], KeyId(3), stamp.epoch, now),
        ended: None,
    };
    steps.extend([Change::InsertSession(session), Change::InsertGrant(grant)]);
    steps
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, sessions, now] = arguments.as_slice() else { return Err("usage: fill DATABASE SESSIONS NOW_MS".into()) };
    let sessions: u64 = sessions.parse()?;
    let now = Time(now.parse()?);
    let store = SqliteStore::open(Path::new(path), OpenOptions::new(LogId::from_bits(0), Arc::new(move || now)))?;
    let stamp = store.stamp().await?;
    for from in (0..sessions).step_by(PER_COMMIT as usize) {
        let steps = (from..sessions.min(from + PER_COMMIT)).flat_map(|n| rows(n, &stamp)).collect();
        store.commit(Changes { steps, ..Changes::default() }).await?;
    }
    drop(store);
    let bytes = std::fs::metadata(path)?.len() + std::fs::metadata(format!("{path}-wal")).map_or(0, |wal| wal.len());
    let accounts = sessions.div_ceil(PER_ACCOUNT);
    writeln!(std::io::stdout(), "{{\"sessions\":{sessions},\"accounts\":{accounts},\"bytes\":{bytes}}}")?;
    Ok(())
}
