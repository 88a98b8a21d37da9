//! How many bytes of the file a session takes, by table and index:
//! `cargo run --release -p portcullis-store-sqlite --example bytes -- 100000`.
//!
//! Each session is a sign-in as the server commits it: a session, a grant and an audit record, with ids by chance, half of them
//! refreshed once. Four sessions for each account.
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::{Cut, device};
use portcullis_store::Store;
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::{AccountId, ClientId, Epoch, EventId, GrantId, KeyId, LogId, Rev, SessionId, Time};
use rusqlite::Connection;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

const NOW: Time = Time(1_700_000_000_000);
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

type Fault = Box<dyn Error + Send + Sync>;

/// SplitMix64: ids that are spread as real ones are.
fn id(n: u64, kind: u64) -> u128 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(kind);
    (u128::from(mix(seed)) << 64) | u128::from(mix(seed ^ 0xabcd_ef01))
}

fn account(n: u64) -> Change {
    Change::InsertAccount(Account {
        id: AccountId::from_bits(id(n, 1)),
        email: Some(format!("user{n}@example.org")),
        name: None,
        password_hash: Some(format!("$argon2id$v=19$m=19456,t=2,p=1${}${}", "c".repeat(22), "d".repeat(43))),
        password_version: 1,
        roles: vec![],
        status: Status::Active,
        created_at: NOW,
        cut: Cut::default(),
        version: 1,
    })
}

fn sign_in(n: u64) -> Changes {
    let account = AccountId::from_bits(id(n / 4, 1));
    let ip = Some([203, 0, 113, (n % 250) as u8].into());
    let session = Session {
        id: SessionId::from_bits(id(n, 2)),
        account,
        kind: SessionKind::App,
        device_name: device::name_from_agent(Some(AGENT)),
        agent: device::family(Some(AGENT)),
        ip,
        created_at: NOW,
        auth_time: NOW,
        last_seen_at: NOW,
        absolute_expires_at: NOW.plus(180 * 86_400_000),
        born: Rev(n % 10_000),
        epoch: Epoch(1),
        cookie: None,
        ended: None,
    };
    let mut family = Family::new([7; 32], KeyId(2), Epoch(1), NOW);
    if n.is_multiple_of(2) {
        (family.counter, family.predecessor) = (2, Some(1));
    }
    let grant = Grant {
        id: GrantId::from_bits(id(n, 3)),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        born: session.born,
        family,
        ended: None,
    };
    let actor = Actor::Account { account, session: session.id };
    let event = NewEvent::new(EventId::from_bits(id(n, 4)), EventKind::SessionStarted, &actor);
    let events = vec![event.account(account).session(session.id).ip(ip)];
    let steps = vec![Change::InsertSession(session), Change::InsertGrant(grant)];
    Changes { steps, events, ..Changes::default() }
}

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
