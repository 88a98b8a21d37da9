//! How much of a bare grouped update is left of a refresh's commit: `cargo run --release -p portcullis-store-sqlite --example commits`.
//!
//! Thirty-two callers, each with rows of its own, in turn on a bare one-row update in groups (the shape of `bench/floor`) and on
//! the store: the commit alone, and with the view loaded before it. Rounds alternate, so that both see the same disk; only ratios
//! mean something.
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_store::Store;
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::{AccountId, ClientId, Epoch, GrantId, KeyId, LogId, Rev, SessionId, Time};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior, params};
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

const CALLERS: u64 = 32;
const ROWS: u64 = 20_000;
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 24;
const NOW: Time = Time(1_700_000_000_000);

type Fault = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let directory = std::env::temp_dir().join(format!("portcullis-commits-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let bare = Bare::open(&directory.join("bare.db"))?;
    let options = OpenOptions::new(LogId::from_bits(1), Arc::new(|| NOW));
    let store = Arc::new(SqliteStore::open(&directory.join("store.db"), options)?);
    found(&store).await?;
    let (mut bare_rates, mut commits, mut refreshes) = (Vec::new(), Vec::new(), Vec::new());
    if std::env::args().any(|argument| argument == "--loads") {
        loads(&store).await?;
        loads(&store).await?;
        std::fs::remove_dir_all(&directory)?;
        return Ok(());
    }
    for _ in 0..ROUNDS {
        bare_rates.push(round_of(|caller, over| bare_caller(bare.clone(), caller, over)).await);
        commits.push(round_of(|caller, over| store_caller(store.clone(), caller, over, false)).await);
        refreshes.push(round_of(|caller, over| store_caller(store.clone(), caller, over, true)).await);
    }
    let of = |part: &[u64]| {
        let mut shares: Vec<u64> = part.iter().zip(&bare_rates).map(|(part, bare)| part * 100 / bare.max(&1)).collect();
        shares.sort_unstable();
        (shares[ROUNDS / 4], shares[ROUNDS / 2], shares[ROUNDS * 3 / 4])
    };
    let (committed, refreshed) = (of(&commits), of(&refreshes));
    let (bare, commits, refreshes) = (median(bare_rates), median(commits), median(refreshes));
    let seconds = ROUND.as_secs_f64();
    let mut out = std::io::stdout();
    writeln!(out, "bare update        {:>8.0} per second", bare / seconds)?;
    writeln!(
        out,
        "commit             {:>8.0} per second, quartiles of its share in % {committed:?}",
        commits / seconds
    )?;
    writeln!(
        out,
        "load and commit    {:>8.0} per second, quartiles of its share in % {refreshed:?}",
        refreshes / seconds
    )?;
    writeln!(out, "{:?}", store.stats())?;
    loads(&store).await?;
    drop(store);
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn median(mut rates: Vec<u64>) -> f64 {
    rates.sort_unstable();
    rates[rates.len() / 2] as f64
}

/// How much all callers together did in a round.
async fn round_of<F>(caller: impl Fn(u64, Arc<Round>) -> F) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let round = Arc::new(Round::default());
    let tasks: Vec<_> = (0..CALLERS).map(|n| tokio::spawn(caller(n, round.clone()))).collect();
    tokio::time::sleep(ROUND).await;
    let done = round.done.load(Relaxed);
    round.over.store(true, Relaxed);
    for task in tasks {
        let _ = task.await;
    }
    done
}

#[derive(Default)]
struct Round {
    over: AtomicBool,
    done: AtomicU64,
}

async fn store_caller(store: Arc<SqliteStore>, caller: u64, round: Arc<Round>, load: bool) {
    let mine = ROWS / CALLERS;
    let mut known: Vec<Option<Family>> = vec![None; mine as usize];
    let mut at = 0u64;
    while !round.over.load(Relaxed) {
        at = (at + 7919) % mine;
        let grant = grant(caller * mine + at);
        let family = match known[at as usize].take().filter(|_| !load) {
            Some(family) => family,
            None => match store.load_refresh(grant).await {
                Ok(Some(view)) => view.grant.family,
                _ => return,
            },
        };
        let (counter, predecessor) = (family.counter, family.predecessor);
        let next = Family { counter: counter + 1, predecessor: Some(counter), ..family };
        let step = Change::SetFamily { grant, counter, predecessor, family: next.clone() };
        if store.commit(Changes { steps: vec![step], ..Changes::default() }).await.is_err() {
            return;
        }
        known[at as usize] = Some(next);
        round.done.fetch_add(1, Relaxed);
    }
}

async fn loads(store: &Arc<SqliteStore>) -> Result<(), Fault> {
    let round = Arc::new(Round::default());
    let task = tokio::spawn(loader(store.clone(), round.clone()));
    tokio::time::sleep(4 * ROUND).await;
    round.over.store(true, Relaxed);
    task.await?;
    let loads = round.done.load(Relaxed);
    writeln!(std::io::stdout(), "one load           {:>8.1} µs", 4.0 * ROUND.as_secs_f64() * 1e6 / loads as f64)?;
    Ok(())
}

/// Views alone, one after the other.
async fn loader(store: Arc<SqliteStore>, round: Arc<Round>) {
    let mut at = 0;
    while !round.over.load(Relaxed) {
        at = (at + 7919) % ROWS;
        if !matches!(store.load_refresh(grant(at)).await, Ok(Some(_))) {
            return;
        }
        round.done.fetch_add(1, Relaxed);
    }
}

fn grant(n: u64) -> GrantId {
    // Spread over the key space, as random ids are.
    GrantId::from_bits(u128::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

async fn found(store: &SqliteStore) -> Result<(), Fault> {
    for chunk in 0..ROWS / 100 {
        let mut steps = Vec::new();
        for n in chunk * 100..(chunk + 1) * 100 {
            let bits = grant(n).bits();
            let account = Account {
                id: AccountId::from_bits(bits),
                email: Some(format!("user{n}@example.org")),
                name: None,
                password_hash: Some("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$c29tZWhhc2g".into()),
                password_version: 1,
                email_verified_at: None,
                roles: vec![],
                status: Status::Active,
                created_at: NOW,
                cut: Cut::default(),
                version: 1,
            };
            let session = Session {
                id: SessionId::from_bits(bits),
                account: account.id,
                kind: SessionKind::App,
                client: None,
                device_name: "Firefox on Linux".into(),
                agent: "Firefox/Linux".into(),
                ip: Some([192, 0, 2, 1].into()),
                created_at: NOW,
                auth_time: NOW,
                amr: Amr::default(),
                last_seen_at: NOW,
                absolute_expires_at: NOW.plus(1 << 40),
                born: Rev::ZERO,
                epoch: Epoch(1),
                cookie: None,
                old_cookie: None,
                allowed_in: None,
                ended: None,
            };
            let grant = Grant {
                id: grant(n),
                session: session.id,
                client: ClientId::FIRST_PARTY,
                scope: "account".into(),
                audience: None,
                sender: None,
                agent: None,
                proof: None,
                born: Rev::ZERO,
                network: None,
                family: Family::new([1; 32], KeyId(1), Epoch(1), NOW),
                ended: None,
            };
            steps.extend([Change::InsertAccount(account), Change::InsertSession(session), Change::InsertGrant(grant)]);
        }
        store.commit(Changes { steps, ..Changes::default() }).await?;
    }
    Ok(())
}

struct Rotate {
    id: i64,
    version: i64,
    done: oneshot::Sender<bool>,
}

/// One grouped one-row update, and nothing else.
#[derive(Clone)]
struct Bare(mpsc::SyncSender<Rotate>);

impl Bare {
    fn open(path: &Path) -> Result<Self, Fault> {
        let db = Self::connect(path)?;
        db.execute_batch(
            "CREATE TABLE family (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, at_ms INTEGER NOT NULL)",
        )?;
        for id in 0..ROWS as i64 {
            db.execute("INSERT INTO family VALUES (?1, 0, 0)", [id])?;
        }
        let (sender, waiting) = mpsc::sync_channel(1024);
        std::thread::spawn(move || Self::write(db, &waiting));
        let checkpoints = Self::connect(path)?;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                tokio::task::block_in_place(|| {
                    let _ = checkpoints.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                });
            }
        });
        Ok(Self(sender))
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let db = Connection::open(path)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        db.busy_timeout(Duration::from_secs(2))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(db)
    }

    fn write(mut db: Connection, waiting: &mpsc::Receiver<Rotate>) {
        while let Ok(first) = waiting.recv() {
            let group: Vec<Rotate> = std::iter::once(first).chain(waiting.try_iter().take(31)).collect();
            let Ok(outcomes) = Self::commit(&mut db, &group) else { continue };
            for (rotate, rotated) in group.into_iter().zip(outcomes) {
                let _ = rotate.done.send(rotated);
            }
        }
    }

    fn commit(db: &mut Connection, group: &[Rotate]) -> rusqlite::Result<Vec<bool>> {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(group.len());
        {
            let sql = "UPDATE family SET version = version + 1, at_ms = ?3 WHERE id = ?1 AND version >= ?2";
            let mut update = transaction.prepare_cached(sql)?;
            for rotate in group {
                outcomes.push(update.execute(params![rotate.id, rotate.version, NOW.0])? == 1);
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

async fn bare_caller(bare: Bare, caller: u64, round: Arc<Round>) {
    let mine = (ROWS / CALLERS) as i64;
    let mut at = 0;
    while !round.over.load(Relaxed) {
        at = (at + 7919) % mine;
        let id = caller as i64 * mine + at;
        // Every version fits: what is measured is the update, not the bookkeeping of a caller.
        let (done, committed) = oneshot::channel();
        if bare.0.try_send(Rotate { id, version: 0, done }).is_err() || committed.await.is_err() {
            return;
        }
        round.done.fetch_add(1, Relaxed);
    }
}
