//! The database that the settings name, with the master key that opens what is sealed in it.
use crate::cli::exit::Failure;
use crate::settings::{Database, Settings};
use crate::{files, master};
use portcullis_app::keys::MasterKey;
use portcullis_app::rotation::MasterHome;
use portcullis_app::{Store, high_water, real, refounding};
use portcullis_domain::Chance as _;
use portcullis_store_postgres::{PostgresStore, TimeSource};
use portcullis_store_sqlite::SqliteStore;
use portcullis_wire::LogId;
use std::path::Path;
use std::sync::Arc;

/// An opened database.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    pub(super) master: MasterKey,
    /// Where the master key is kept, when no setting gives it.
    pub(super) home: Option<Arc<dyn MasterHome>>,
}

/// Opens it, or makes it.
pub(super) async fn open(settings: &Settings) -> Result<Opened, Failure> {
    let log = LogId::from_bits(real::RealChance.bits());
    match settings.database() {
        Database::Sqlite(path) => open_file(settings, &path, log).await,
        Database::Postgres(url) => {
            let Some(master) = settings.master_key.clone() else {
                return Err(Failure::config("master_key must be set with PostgreSQL"));
            };
            let time = TimeSource::Database(Arc::new(real::mono_us));
            let mut options = portcullis_store_postgres::OpenOptions::new(log, time);
            let mark: Option<high_water::Mark> =
                high_water::read(&settings.high_water_path()).map_err(Failure::config)?;
            let proof: Option<high_water::Proof> =
                high_water::read(&high_water::proof_path(&settings.high_water_path())).map_err(Failure::config)?;
            options.acknowledged = high_water::acknowledged(mark.as_ref(), proof.as_ref());
            let store = PostgresStore::open(url.expose(), options).await.map_err(Failure::config)?;
            right_log(&store, &settings.high_water_path()).await?;
            Ok(Opened { store: Arc::new(store), master, home: None })
        }
    }
}

async fn open_file(settings: &Settings, path: &Path, log: LogId) -> Result<Opened, Failure> {
    not_empty_by_mistake(path, &settings.high_water_path())?;
    let given = settings.master_key.as_ref();
    let master = files::master_key(given, &settings.data_dir, path)?;
    let options = portcullis_store_sqlite::OpenOptions::new(log, Arc::new(real::wall));
    let store = SqliteStore::open(path, options).map_err(Failure::config)?;
    // From here on this process holds the database's lock.
    right_log(&store, &settings.high_water_path()).await?;
    let (master, home) = master::settle(given, master, &settings.data_dir, &store).await?;
    Ok(Opened { store: Arc::new(store), master, home })
}

/// Another log than the one that was served: told before its keys do not open and before anything is written into it.
async fn right_log(store: &dyn Store, high_water: &Path) -> Result<(), Failure> {
    let mark: Option<high_water::Mark> = high_water::read(high_water).map_err(Failure::config)?;
    let found = refounding::where_it_stands(store).await.map_err(super::node::start_error)?.log;
    match mark {
        Some(mark) if mark.log != found => Err(Failure::config(high_water::other_log(high_water, &mark, found))),
        _ => Ok(()),
    }
}

/// An empty volume where a database should be: told before anything is made on it.
fn not_empty_by_mistake(database: &Path, high_water: &Path) -> Result<(), Failure> {
    if std::fs::metadata(database).is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    let mark: Option<high_water::Mark> = high_water::read(high_water).map_err(Failure::config)?;
    match mark {
        None => Ok(()),
        Some(mark) => Err(Failure::config(format!(
            "there is no database at {}, and {} says that there should be one: {} at {}.{}.\n\
             Was an empty volume mounted? Put the right database back, or restore a backup of it. To begin a new log on \
             purpose, move {} away.",
            database.display(),
            high_water.display(),
            mark.log,
            mark.epoch,
            mark.rev,
            high_water.display()
        ))),
    }
}
