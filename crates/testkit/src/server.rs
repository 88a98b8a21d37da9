//! A whole server on loopback: the real SQLite store in a directory of its own, the app, the surface on a free port.
use crate::client::Client;
use crate::temp::TempDir;
use portcullis_app::keys::MasterKey;
use portcullis_app::{
    Admin, Allowed, App, Authorities, ClientSettings, Hashing, KeySettings, PolicySettings, Settings, real,
};
use portcullis_domain::{Chance as _, Rules};
use portcullis_http::{HttpConfig, Limits, Listener, Traffic};
use portcullis_store::faulty::Faulty;
use portcullis_store_sqlite::{OpenOptions, SqliteStore};
use portcullis_wire::{LogId, SecretString};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// The administrator of every test server.
pub const ADMIN: (&str, &str) = ("admin@example.test", "correct horse battery staple");
/// The password of everybody else.
pub const PASSWORD: &str = "a good long password";

/// How a test server differs from the usual.
pub struct Options {
    /// The settings; issuer and audience are filled in.
    pub settings: Settings,
    /// The limits of the listener.
    pub limits: Limits,
    /// The system's buffer for what is sent on a connection, in bytes; small ones make a stuck reader show soon.
    pub send_buffer: Option<u32>,
    /// Changes the surface's settings before the server starts.
    pub config: Box<dyn FnOnce(&mut HttpConfig) + Send>,
    /// Changes how the database is opened.
    pub database: Box<dyn FnOnce(&mut OpenOptions) + Send>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Default for Options {
    /// Sign-up on, B = 2 s, tokens of 5 minutes, hashes that cost nearly nothing.
    fn default() -> Self {
        let rules = Rules {
            issuer: String::new(),
            audience: String::new(),
            access_ttl: 300_000,
            longest_ttl: 300_000,
            idle_ttl: 14 * 86_400_000,
            absolute_ttl: 90 * 86_400_000,
            retry_window: 10_000,
            late_retry: 86_400_000,
            late_retry_at_home: 14 * 86_400_000,
            require_verified_email: false,
        };
        let hashing = Hashing { memory_kib: 64, passes: 1, lanes: 1, threads: 2, queue: 256 };
        let keys = KeySettings::default();
        let policy = PolicySettings { failed_sign_in_step: 0, ..PolicySettings::default() };
        let outgoing = Allowed::loopback().into();
        let clients =
            ClientSettings { api_key_scopes: vec!["read".into(), "write".into()], ..ClientSettings::default() };
        let settings = Settings {
            rules,
            bound: 2_000,
            stream_grace: 0,
            sign_up: true,
            hashing,
            keys,
            outgoing,
            outgoing_ca: Authorities::none(),
            queues: portcullis_domain::receivers::QueueLimits::default(),
            mail: None,
            upstreams: vec![],
            policy,
            clients,
            audit_head_file: None,
        };
        Self {
            settings,
            limits: Limits::default(),
            send_buffer: None,
            config: Box::new(|_| {}),
            database: Box::new(|_| {}),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct TestServer {
    /// Its operations, for looking inside.
    pub app: App,
    /// Its address, which is its issuer too: `http://127.0.0.1:PORT`.
    pub issuer: String,
    /// A client of it.
    pub client: Client,
    /// Its database, which fails when told to.
    pub store: Arc<Faulty<SqliteStore>>,
    /// Its counters.
    pub traffic: Arc<Traffic>,
    ahead_ms: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
    dir: TempDir,
    config: HttpConfig,
}

/// Somebody who signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The access token.
    pub access: String,
    /// The refresh token.
    pub refresh: String,
    /// The session.
    pub sid: String,
    /// The account.
    pub account: String,
}

impl TestServer {
    /// Starts one.
    pub async fn start(options: Options) -> Self {
        let listener = listen(options.send_buffer);
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let dir = TempDir::new("server");
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let clock = {
            let ahead_ms = ahead_ms.clone();
            Arc::new(move || real::wall().plus(ahead_ms.load(Ordering::SeqCst)))
        };
        let log = LogId::from_bits(real::RealChance.bits());
        let mut opening = OpenOptions::new(log, clock);
        (options.database)(&mut opening);
        let store = SqliteStore::open(&dir.path().join("portcullis.db"), opening);
        let store = Arc::new(Faulty::new(store.expect("a new database")));
        let mut settings = options.settings;
        settings.rules.issuer.clone_from(&issuer);
        settings.rules.audience.clone_from(&issuer);
        let mut tasks = JoinSet::new();
        let app = App::start(store.clone(), settings, MasterKey::generate(), &mut tasks).await.expect("the app starts");
        assert!(app.bootstrap_admin(ADMIN.0, SecretString::new(ADMIN.1)).await.expect("an administrator"));
        let mut config = HttpConfig::new(&*issuer);
        (options.config)(&mut config);
        let traffic = config.traffic.clone();
        let router = portcullis_http::router(app.clone(), config.clone());
        let (stop, stopped) = oneshot::channel();
        let hub = app.hub().clone();
        let serving =
            portcullis_http::serve(Listener::Tcp(listener), router, hub, options.limits, traffic.clone(), async {
                drop(stopped.await)
            });
        let serving = Some(tokio::spawn(serving));
        let client = Client::new(&*issuer);
        Self { app, issuer, client, store, traffic, ahead_ms, stop: Some(stop), serving, tasks, dir, config }
    }

    /// Starts one as usual.
    pub async fn usual() -> Self {
        Self::start(Options::default()).await
    }

    /// Starts one behind a proxy; its client is somebody elsewhere.
    pub async fn behind_a_proxy(options: Options) -> Self {
        let config: Box<dyn FnOnce(&mut HttpConfig) + Send> = Box::new(|config| {
            (options.config)(config);
            config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        });
        let mut server = Self::start(Options { config, ..options }).await;
        server.client = server.client.from("203.0.113.77");
        server
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.issuer.trim_start_matches("http://")
    }

    /// Puts the database's clock forward.
    pub fn advance(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Serves the operator's API on a Unix socket, until the server ends; the socket's path.
    pub fn operator_socket(&mut self) -> std::path::PathBuf {
        let path = self.dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let router = portcullis_http::operator_router(self.app.clone(), self.config.clone());
        let (hub, traffic) = (self.app.hub().clone(), self.traffic.clone());
        let limits = Limits::default();
        self.tasks.spawn(portcullis_http::serve(
            Listener::Unix(listener),
            router,
            hub,
            limits,
            traffic,
            std::future::pending(),
        ));
        path
    }

    /// Tells the server to end; resolves when it has.
    pub async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(serving) = self.serving.take() {
            serving.await.expect("the accept loop ends well");
        }
        self.app.finish().await;
    }

    /// Signs somebody up; their account's id. Where mail is sent, an operator makes the account, and answers for the address, so that no
    /// mail about it is on its way.
    pub async fn sign_up(&self, email: &str) -> String {
        if self.app.mailer().is_some() {
            let (operator, password) = (Admin::operator(), Some(SecretString::new(PASSWORD)));
            let made = self.app.admin_create_account(&operator, email, password, None, vec![], true, None).await;
            return made.expect("an account").id.to_string();
        }
        let body = json!({ "email": email, "password": PASSWORD });
        let made = self.client.post("/v1/accounts").json(&body).send().await.expect(201).json();
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Signs in with the usual password.
    pub async fn sign_in(&self, email: &str) -> SignedIn {
        self.sign_in_as(email, PASSWORD, json!({})).await
    }

    /// Signs in; `more` are further members of the body.
    pub async fn sign_in_as(&self, email: &str, password: &str, more: Value) -> SignedIn {
        let mut body = json!({ "identifier": email, "password": password });
        for (name, value) in more.as_object().expect("members") {
            body[name] = value.clone();
        }
        let answer = self.client.post("/v1/sessions").json(&body).send().await.expect(201).json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        SignedIn {
            access: text(&answer["access_token"]),
            refresh: text(&answer["refresh_token"]),
            sid: text(&answer["session"]["id"]),
            account: text(&answer["session"]["account_id"]),
        }
    }

    /// Signs the administrator in.
    pub async fn admin(&self) -> SignedIn {
        self.sign_in_as(ADMIN.0, ADMIN.1, json!({})).await
    }

    /// Registers a client of this kind; its id and secret.
    pub async fn new_client(&self, kind: &str) -> (String, String) {
        let admin = self.admin().await;
        let body = json!({ "name": format!("a {kind}"), "kind": kind });
        let call = self.client.post("/v1/admin/clients").bearer(&admin.access).json(&body);
        let made = call.send().await.expect(201).json();
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        (text("client_id"), text("client_secret"))
    }
}

fn listen(send_buffer: Option<u32>) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes).expect("connections inherit it");
    }
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    socket.listen(1024).expect("a listener")
}
