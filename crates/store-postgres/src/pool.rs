//! Connections for reading, and what every connection is set to.
use crate::cells::{Cells, Fault};
use crate::clock::DatabaseClock;
use crate::open::{self, OpenOptions};
use crate::told::Told;
use portcullis_wire::Time;
use sqlx::ConnectOptions as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow, Postgres};
use sqlx::query::Query;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A statement with its values.
pub(crate) type Asked<'q> = Query<'q, Postgres, PgArguments>;

/// How long a read waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(2);
/// How long a connection may take to be made. Longer than anybody waits for it: it is there for whoever comes next. Were it given up with
/// the read, a database that is busy or far away would only make connections that nobody gets.
const MADE: Duration = Duration::from_secs(8);
/// For each connection of the pool, as many reads at most leave behind what they asked for.
const LEFT_BEHIND: usize = 4;

/// So long is waited for the connection that keeps its plans.
const GIVEN_BACK: Duration = Duration::from_millis(20);

/// How long an answer may take. The server gives a statement up before that; later the way to it must be broken.
const ANSWER: Duration = Duration::from_secs(6);

/// The schema that everything lies in.
pub(crate) const SCHEMA: &str = "portcullis";

/// What a connection is set to, whatever the database's or the role's defaults are.
pub(crate) fn connect_options(given: PgConnectOptions) -> PgConnectOptions {
    given.application_name("portcullis").statement_cache_capacity(128).disable_statement_logging().options([
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

/// Connections, by how PostgreSQL plans what is asked on them.
struct Pools {
    /// As it sees fit: anew for the values, as long as it finds that better.
    own_plans: PgPool,
    /// Once, and kept. Left to itself it compares a new plan with what the kept one was expected to cost when it was made; when a
    /// table has become smaller since, it plans each call anew for as long as the connection lives, at several times the call.
    /// One connection: what finds it in use, or not there, goes by the others.
    kept_plans: PgPool,
    /// It is being made.
    making: AtomicBool,
}

/// Which of them.
#[derive(Debug, Clone, Copy)]
enum Plans {
    Own,
    Kept,
}

impl Pools {
    fn new(options: &PgConnectOptions, connections: u32, lose_data: bool) -> Self {
        let kept = options.clone().options([("plan_cache_mode", "force_generic_plan")]);
        Self {
            own_plans: pool(options, connections, lose_data),
            kept_plans: pool(&kept, 1, lose_data),
            making: AtomicBool::new(false),
        }
    }

    /// The connection that keeps its plans, unless somebody has it for longer. Where there is none it is made meanwhile, for whoever
    /// comes next.
    async fn kept(self: &Arc<Self>) -> Option<PoolConnection<Postgres>> {
        if self.kept_plans.size() > 0 {
            // Whoever has just been answered is still giving it back.
            return timeout(GIVEN_BACK, self.kept_plans.acquire()).await.ok()?.ok();
        }
        if !self.making.swap(true, Relaxed) {
            let pools = self.clone();
            tokio::spawn(async move {
                drop(pools.kept_plans.acquire().await); // whatever is wrong, the other connections meet it, too
                pools.making.store(false, Relaxed);
            });
        }
        None
    }
}

/// Reads, each by one statement.
pub(crate) struct Reader {
    pools: Mutex<Arc<Pools>>,
    options: PgConnectOptions,
    lose_data: bool,
    clock: Arc<DatabaseClock>,
    pub(crate) told: Arc<Told>,
    /// As many at most.
    connections: u32,
    /// How many more may leave behind what they asked for.
    left_behind: Arc<Semaphore>,
}

impl Reader {
    pub(crate) fn new(
        options: PgConnectOptions,
        given: &OpenOptions,
        clock: Arc<DatabaseClock>,
        told: Arc<Told>,
    ) -> Self {
        let (connections, lose_data) = (given.readers.max(1), given.danger_lose_data_on_crash);
        let pools = Mutex::new(Arc::new(Pools::new(&options, connections, lose_data)));
        let left_behind = Arc::new(Semaphore::new(connections as usize * LEFT_BEHIND));
        Self { pools, options, lose_data, connections, clock, told, left_behind }
    }

    pub(crate) fn clock(&self) -> &Arc<DatabaseClock> {
        &self.clock
    }

    /// The given time, where time does not come from the database.
    pub(crate) fn given(&self) -> Option<Time> {
        self.clock.given()
    }

    /// The connections as they are used now.
    pub(crate) fn pool(&self) -> PgPool {
        self.locked().own_plans.clone()
    }

    fn locked(&self) -> MutexGuard<'_, Arc<Pools>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner) // each change is one assignment
    }

    /// What is read from now on is read on connections that are made from now on: those that there are may lead to where the name
    /// does not lead any more, or nowhere. Those in use are closed when they are given back.
    pub(crate) fn renew(&self) {
        *self.locked() = Arc::new(Pools::new(&self.options, self.connections, self.lose_data));
    }

    /// A connection, made in the background if there is none.
    async fn acquire(&self, pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if let Some(free) = pool.try_acquire() {
            return Ok(free);
        }
        let late = |_| sqlx::Error::PoolTimedOut;
        let Ok(place) = self.left_behind.clone().try_acquire_owned() else {
            return timeout(ACQUIRE, pool.acquire()).await.map_err(late)?;
        };
        let pool = pool.clone();
        let asked = tokio::spawn(async move {
            let made = pool.acquire().await;
            drop(place);
            made
        });
        timeout(ACQUIRE, asked).await.map_err(late)?.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    async fn rows<'q>(&self, plans: Plans, make: impl Fn() -> Asked<'q>) -> Result<Vec<PgRow>, Fault> {
        // As many connections may have died, with the one that keeps its plans, and one more.
        let mut left = self.connections + 2;
        loop {
            left -= 1;
            let pools = self.locked().clone();
            let kept = match plans {
                Plans::Own => None,
                Plans::Kept => pools.kept().await,
            };
            let mut db = match kept {
                Some(free) => free,
                None => self.acquire(&pools.own_plans).await?,
            };
            match timeout(ANSWER, make().fetch_all(&mut *db)).await {
                Ok(Err(error)) if left > 0 && is_stale(&error) => {}
                Ok(rows) => return Ok(rows?),
                Err(_) => {
                    // Nobody may be there any more to say good-bye to; given back, it would take its place for minutes.
                    drop(db.detach());
                    // Those that are as old may be as dead, and would each be waited for in turn.
                    if Arc::ptr_eq(&pools, &self.locked()) {
                        self.renew();
                    }
                    return Err(Fault::Row("PostgreSQL gave no answer to a read in time".into()));
                }
            }
        }
    }

    /// The only row of a statement, if there is one.
    pub(crate) async fn one<'q, T>(
        &self,
        make: impl Fn() -> Asked<'q>,
        read: impl FnOnce(&mut Cells<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let rows = self.rows(Plans::Own, make).await?;
        rows.first().map(|row| read(&mut Cells::new(row))).transpose()
    }

    /// All rows of a statement.
    pub(crate) async fn all<'q, T>(
        &self,
        make: impl Fn() -> Asked<'q>,
        read: impl FnMut(&mut Cells<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        each(&self.rows(Plans::Own, make).await?, read)
    }

    /// The same, by a plan that is made once wherever that can be: for a statement whose best plan does not depend on the values.
    pub(crate) async fn all_by_kept_plan<'q, T>(
        &self,
        make: impl Fn() -> Asked<'q>,
        read: impl FnMut(&mut Cells<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        each(&self.rows(Plans::Kept, make).await?, read)
    }
}

fn each<T>(rows: &[PgRow], mut read: impl FnMut(&mut Cells<'_>) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    rows.iter().map(|row| read(&mut Cells::new(row))).collect()
}

fn pool(options: &PgConnectOptions, connections: u32, lose_data: bool) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .after_connect(move |db, _| {
            Box::pin(async move {
                open::check(db, lose_data).await.map_err(|error| sqlx::Error::Configuration(error.into()))
            })
        })
        .acquire_timeout(MADE)
        // A ping before each read would double its cost; a connection that died is found by the read, which tries again.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(1800))
        .idle_timeout(Duration::from_secs(300))
        .connect_lazy_with(options.clone())
}

/// Whether a connection of the pool had died, which says nothing about the next one. 57P01: the server was being shut down.
fn is_stale(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P0")),
        _ => false,
    }
}
