//! A running server: the database, the operations, and the listeners, joined. `serve` runs one; `dev` runs one beside its demo.
use super::database::{self, Opened};
use crate::cli::exit::Failure;
use crate::files;
use crate::settings::Settings;
use portcullis_app::oauth::Applied;
use portcullis_app::{App, AppError};
use portcullis_http::{HttpConfig, Limits, Listener, Traffic, operator_router, ops_router, router, serve};
use std::net::SocketAddr;
use std::path::PathBuf;
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
        let Opened { store, master, home } = database::open(settings).await?;
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
        let app = App::start_with(store, app_settings, master, home, &mut background);
        let app = app.await.map_err(start_error)?;
        app.guard_log(settings.high_water_path(), &mut background).await.map_err(start_error)?;
        app.keep_acts(settings.acts_path(), &mut background).await.map_err(start_error)?;
        settings.risk.clone().begin(&app, &mut background).map_err(Failure::config)?;
        if let Some(path) = settings.breached.clone() {
            crate::breached::begin(path, &app, &mut background).map_err(Failure::config)?;
        }
        if let Some((email, password)) = &settings.bootstrap_admin {
            let made = app.bootstrap_admin(email, password.clone()).await;
            if made.map_err(start_error)? {
                tracing::info!(%email, "made the first administrator");
            }
        }

        for client in &settings.configured {
            let applied = app.apply_client(client).await.map_err(|error| {
                let Failure { message, .. } = start_error(error);
                Failure::config(format!("[[clients]] {}: {message}", client.id))
            })?;
            if applied != Applied::Same {
                tracing::info!(client = %client.id, name = %client.name, ?applied, "a client of the configuration");
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

async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| Failure::config(format!("{setting} = {address}: cannot listen there: {error}")))
}

/// At a start the operator may read what is kept from callers.
pub(super) fn start_error(error: AppError) -> Failure {
    match error {
        AppError::Fault(fault) => Failure::config(fault.detail),
        other => Failure::config(other.detail().unwrap_or_else(|| other.to_string())),
    }
}
