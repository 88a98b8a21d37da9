//! Puts many accounts and sessions into the database of a server that is stopped, through the same writer as every commit:
//! `cargo run --release -p portcullis-store-sqlite --example fill -- DATABASE SESSIONS NOW_MS [WORD...]`.
//!
//! Every account has four sessions with a grant each; half of the sessions come from 10.1.0.0/16, the others from 10.0.0.0/16.
//! Words: `ascending` gives ids that are as far apart as random ones but come in order, so that ten million rows are written once
//! and not again with each page that a random id meets; `expired` makes
//! two of three sessions long over, so that the chore has work; any other is a file, which gets the ids of a thousand accounts
//! spread over all, one a line.
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
/// In order, rows of one commit share their pages.
const PER_COMMIT_ASCENDING: u64 = 4000;
const DAY_MS: i64 = 86_400_000;
/// As many accounts are named.
const NAMED: u64 = 1000;

/// What is put in.
struct Plan {
    sessions: u64,
    ascending: bool,
    expired: bool,
}

impl Plan {
    fn id(&self, kind: u64, n: u64, of: u64) -> u128 {
        let random = spread(kind, n);
        if self.ascending {
            let place = (u128::from(n) << 64) / u128::from(of.max(1));
            return place << 64 | (random & u128::from(u64::MAX));
        }
        random
    }

    fn accounts(&self) -> u64 {
        self.sessions.div_ceil(PER_ACCOUNT)
    }

    fn account(&self, n: u64) -> AccountId {
        AccountId::from_bits(self.id(1, n, self.accounts()))
    }
}

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

fn rows(n: u64, stamp: &Stamp, plan: &Plan) -> Vec<Change> {
    let old = plan.expired && !n.is_multiple_of(3);
    let now = if old { stamp.now.minus(400 * DAY_MS) } else { stamp.now };
    let account = plan.account(n / PER_ACCOUNT);
    let mut steps = Vec::new();
    if n.is_multiple_of(PER_ACCOUNT) {
        steps.push(Change::InsertAccount(Account {
            id: account,
            email: Some(format!("filled-{:09}@example.org", n / PER_ACCOUNT)),
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
        id: SessionId::from_bits(plan.id(2, n, plan.sessions)),
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
        absolute_expires_at: now.plus(180 * DAY_MS),
        born: stamp.head,
        epoch: stamp.epoch,
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(plan.id(3, n, plan.sessions)),
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
    let [path, sessions, now, words @ ..] = arguments.as_slice() else {
        return Err("usage: fill DATABASE SESSIONS NOW_MS [ascending] [expired] [FILE]".into());
    };
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    let plan = Plan { sessions: sessions.parse()?, ascending: has("ascending"), expired: has("expired") };
    let (sessions, now) = (plan.sessions, Time(now.parse()?));
    if let Some(file) = words.iter().find(|word| !["ascending", "expired"].contains(&word.as_str())) {
        let step = (plan.accounts() / NAMED).max(1) as usize;
        let named = (0..plan.accounts()).step_by(step).take(NAMED as usize);
        std::fs::write(file, named.map(|n| format!("{}\n", plan.account(n))).collect::<String>())?;
    }
    let store = SqliteStore::open(Path::new(path), OpenOptions::new(LogId::from_bits(0), Arc::new(move || now)))?;
    let stamp = store.stamp().await?;
    let at_once = if plan.ascending { PER_COMMIT_ASCENDING } else { PER_COMMIT };
    for from in (0..sessions).step_by(at_once as usize) {
        let steps = (from..sessions.min(from + at_once)).flat_map(|n| rows(n, &stamp, &plan)).collect();
        store.commit(Changes { steps, ..Changes::default() }).await?;
    }
    drop(store);
    let bytes = std::fs::metadata(path)?.len() + std::fs::metadata(format!("{path}-wal")).map_or(0, |wal| wal.len());
    let accounts = plan.accounts();
    writeln!(std::io::stdout(), "{{\"sessions\":{sessions},\"accounts\":{accounts},\"bytes\":{bytes}}}")?;
    Ok(())
}
