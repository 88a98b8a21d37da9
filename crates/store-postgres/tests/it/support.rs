//! Databases for tests: each a copy of one that is migrated and holds nothing.
use portcullis_domain::changes::{Change, Changes, Committed};
use portcullis_store::memory::Clock;
use portcullis_store::{CommitError, Store};
use portcullis_store_postgres::{OpenOptions, PostgresStore, TimeSource};
use portcullis_testkit::Cluster;
use portcullis_wire::{LogId, Time};
use std::sync::{Arc, OnceLock};

pub const START: Time = Time(1_700_000_000_000);
pub const LOG: LogId = LogId::from_bits(7);

/// By the clock of the suite, on a cluster that forgets everything in a crash.
pub fn options(log: LogId, clock: Clock) -> OpenOptions {
    let mut options = OpenOptions::new(log, TimeSource::Given(clock));
    (options.danger_lose_data_on_crash, options.readers) = (true, 4);
    options
}

pub fn standing() -> OpenOptions {
    options(LOG, Arc::new(|| START))
}

/// One runtime for all tests of this program: stores are used from threads of their own, too.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// The URL of a database that is migrated, without a log yet.
pub fn database() -> String {
    static MIGRATED: OnceLock<String> = OnceLock::new();
    let cluster = Cluster::shared();
    let template = MIGRATED.get_or_init(|| {
        let url = cluster.database(None);
        let name = url.rsplit('/').next().unwrap().to_owned();
        // A thread of its own: whoever asks may be in the runtime already.
        let migrate = || drop(runtime().block_on(PostgresStore::open(&url, standing())).unwrap());
        std::thread::scope(|scope| scope.spawn(migrate).join().unwrap());
        cluster.psql(&name, "DELETE FROM portcullis.meta; DELETE FROM portcullis.clients");
        let idle = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
        while cluster.psql("postgres", &idle) != "0" {}
        name
    });
    cluster.database(Some(template))
}

pub async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, standing()).await.unwrap()
}

pub fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

pub async fn commit(store: &PostgresStore, steps: Vec<Change>) -> Result<Committed, CommitError> {
    store.commit(Changes { steps, ..Changes::default() }).await
}
