//! A running server: the database, the operations, and the listeners, joined. `serve` runs one; `dev` runs one beside its demo.
use crate::cli::exit::Failure;
use crate::settings::Settings;
use crate::{files, master};
use portcullis_app::{App, AppError, high_water, real, refounding};
use portcullis_domain::Chance as _;
use portcullis_http::{HttpConfig, Limits, Listener, Traffic, operator_router, ops_router, router, serve};
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::LogId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A server that runs until it is stopped.
pub struct Node {
    /// The operations.
    pub app: App,
    /// Where it listens.
    pub address: SocketAddr,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// The admin socket.
    pub socket: PathBuf,
    background: JoinSet<()>,
    listeners: JoinSet<()>,
    ending: watch::Sender<bool>,
}

impl Node {
    /// Opens the database, then everything on top of it. Whatever fails here is a matter of configuration, and nothing of it
    /// is left running. Must be called in a tokio runtime.
    pub async fn start(settings: &Settings) -> Result<Self, Failure> {
        files::data_dir(&settings.data_dir)?;
        let database = settings.database_path();
        not_empty_by_mistake(&database, &settings.high_water_path())?;
        let master = files::master_key(settings.master_key.as_ref(), &settings.data_dir, &database)?;
        let options = OpenOptions::new(LogId::from_bits(real::RealChance.bits()), Arc::new(real::wall));
        let store = SqliteStore::open(&database, options).map_err(Failure::config)?;
        // From here on this process holds the database's lock.
        right_log(&store, &settings.high_water_path()).await?;
        let given = settings.master_key.as_ref();
        let (master, home) = master::settle(given, master, &settings.data_dir, &store).await?;
        let listener = bind("listen", settings.listen).await?;
        let address = listener.local_addr().map_err(|error| Failure::config(format!("listen: {error}")))?;
        let ops = match settings.ops_listen {
            Some(address) => Some(bind("ops_listen", address).await?),
            None => None,
        };
        let traffic = Arc::new(Traffic::default());
        let certificate = match &settings.tls {
            Some(files) => Some((files.clone(), files.load().map_err(Failure::config)?.begin(&traffic))),
            None => None,
        };
        let socket = Settings::admin_socket(&settings.data_dir);
        let admin = files::admin_listener(&socket)?;

        let app_settings = settings.for_app(address);
        let (issuer, audience) = (app_settings.rules.issuer.clone(), app_settings.rules.audience.clone());
        let mut background = JoinSet::new();
        let app = App::start_with(Arc::new(store), app_settings, master, home, &mut background);
        let app = app.await.map_err(start_error)?;
        app.guard_log(settings.high_water_path(), &mut background).await.map_err(start_error)?;
        app.keep_acts(settings.acts_path(), &mut background).await.map_err(start_error)?;
        if let Some((email, password)) = &settings.bootstrap_admin {
            let made = app.bootstrap_admin(email, password.clone()).await;
            if made.map_err(start_error)? {
                tracing::info!(%email, "made the first administrator");
            }
        }

        let config = HttpConfig {
            allowed_origins: settings.allowed_origins.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
            ops: ops.is_none(),
            traffic: traffic.clone(),
            ..HttpConfig::new(issuer.clone())
        };
        let (ending, _) = watch::channel(false);
        let mut listeners = JoinSet::new();
        let mut open = |listener, router| {
            let mut told = ending.subscribe();
            let end = async move { drop(told.wait_for(|ending| *ending).await) };
            let (hub, traffic) = (app.hub().clone(), config.traffic.clone());
            listeners.spawn(serve(listener, router, hub, Limits::default(), traffic, end));
        };
        let listener = match certificate {
            Some((files, (tls, digest, expires))) => {
                background.spawn(files.follow(tls.clone(), digest, expires, traffic));
                Listener::Tls(listener, tls)
            }
            None => Listener::Tcp(listener),
        };
        open(listener, router(app.clone(), config.clone()));
        open(Listener::Unix(admin), operator_router(app.clone(), config.clone()));
        if let Some(listener) = ops {
            open(Listener::Tcp(listener), ops_router(app.clone(), config.clone()));
        }
        Ok(Self { app, address, issuer, audience, socket, background, listeners, ending })
    }

    /// Resolves when a listener ended by itself, which only a defect explains.
    pub async fn broke(&mut self) -> Failure {
        match self.listeners.join_next().await {
            Some(Err(error)) => Failure::refused(format!("a listener ended: {error}")),
            _ => Failure::refused("a listener ended"),
        }
    }

    /// Ends it: feeds first, then the requests in flight, then what is not yet written down.
    pub async fn stop(mut self) {
        self.app.hub().close();
        self.ending.send_replace(true);
        while self.listeners.join_next().await.is_some() {}
        self.app.finish().await;
        self.background.shutdown().await;
        let _ = std::fs::remove_file(&self.socket); // the next start would do it as well
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

/// Another log than the one that was served: told before its keys do not open and before anything is written into it.
async fn right_log(store: &SqliteStore, high_water: &Path) -> Result<(), Failure> {
    let mark: Option<high_water::Mark> = high_water::read(high_water).map_err(Failure::config)?;
    let found = refounding::where_it_stands(store).await.map_err(start_error)?.log;
    match mark {
        Some(mark) if mark.log != found => Err(Failure::config(high_water::other_log(high_water, &mark, found))),
        _ => Ok(()),
    }
}

async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| Failure::config(format!("{setting} = {address}: cannot listen there: {error}")))
}

/// At a start the operator may read what is kept from callers.
fn start_error(error: AppError) -> Failure {
    match error {
        AppError::Fault(fault) => Failure::config(fault.detail),
        other => Failure::config(other.detail().unwrap_or_else(|| other.to_string())),
    }
}
