//! Nodes that share a PostgreSQL, each behind a proxy of its own, with a wall clock that can be set.
use crate::support::{ADMIN, Dir, ISSUER, Server, portcullis};
use portcullis_testkit::proxy::Proxy;
use portcullis_testkit::{Cluster, clock, lasting_address};
use std::net::SocketAddr;

/// A master key of 32 bytes, in base64.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

pub struct Node {
    pub dir: Dir,
    pub at: SocketAddr,
    /// Its way to the database.
    pub way: Proxy,
    pub server: Option<Server>,
    /// The name of the database.
    database: String,
    /// More of the command line.
    more: Vec<String>,
    /// Whether its wall clock can be set.
    settable: bool,
}

impl Node {
    /// A node that is not started yet, on the database of this URL.
    pub async fn new(cluster: &Cluster, url: &str, more: &[&str]) -> Self {
        let way = Proxy::to(cluster.address()).await.unwrap();
        let database = url.rsplit('/').next().unwrap().to_owned();
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        Self { dir: Dir::new(), at: lasting_address(), way, server: None, database, more, settable: false }
    }

    /// So many, one started after the other.
    pub async fn started(cluster: &Cluster, url: &str, count: usize, more: &[&str]) -> Vec<Self> {
        let mut nodes = Vec::new();
        for _ in 0..count {
            let mut node = Self::new(cluster, url, more).await;
            node.start().await;
            nodes.push(node);
        }
        nodes
    }

    /// With a wall clock that [`set_clock`](Self::set_clock) sets.
    pub fn with_clock(mut self) -> Self {
        self.settable = true;
        self.set_clock(0);
        self
    }

    /// Its wall clock stands so many seconds from the true time; the monotonic one goes on.
    pub fn set_clock(&self, ahead_s: i64) {
        assert!(self.settable);
        clock::set(&self.dir.path("clock"), ahead_s);
    }

    pub async fn start(&mut self) {
        let at = self.at.to_string();
        let args = ["serve", "--listen", &at, "--issuer", ISSUER, "--data-dir", "data", "--log-format", "json"];
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        let mut command = portcullis(&self.dir.0, &[&args[..], &more].concat());
        if self.settable {
            command.envs(clock::environment(&self.dir.path("clock")));
        }
        let url = format!("postgres://operator:open-sesame@{}/{}", self.way.address, self.database);
        command
            .env("PORTCULLIS_DATABASE_URL_FILE", self.dir.write("database-url", &url))
            .env("PORTCULLIS_MASTER_KEY", KEY)
            .env("PORTCULLIS_BOOTSTRAP_ADMIN", format!("{}:{}", ADMIN.0, ADMIN.1));
        self.server = Some(Server::run(command).await);
    }

    /// Its database is at this cluster from now on, as when a name that follows the primary leads there.
    pub fn follow(&self, cluster: &Cluster) {
        self.way.aim_at(cluster.address());
        self.way.reset();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        self.server.as_ref().unwrap().process.signal(signal);
    }

    /// Ends it by this signal.
    pub async fn end(&mut self, signal: rustix::process::Signal) {
        self.signal(signal);
        self.server.as_mut().unwrap().process.ended().await;
        self.server = None;
    }

    pub fn log(&self) -> String {
        self.server.as_ref().unwrap().process.log()
    }
}
