//! The feed client without a verifier on top: for a relay, which hands on what it learns.
//!
//! A service has no use for this; [`crate::Verifier`] is what it wants.
use crate::config::{Config, ConfigError, parse_url};
use crate::follow::{self, Heard, Upper};
use crate::http1::{self, Client, Failed};
use crate::metrics::Metrics;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use portcullis_feed::{Policies, Subscriber};
use portcullis_wire::frame::Sighting;
use portcullis_wire::{ClientId, Rev, SecretString};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the server may take to say whether it knows somebody, and the largest answer.
const KNOWN_WAIT: Duration = Duration::from_secs(5);
const KNOWN_LIMIT: usize = 16 * 1024;

/// What hears of the log, step by step.
pub trait Hears: Send + Sync + 'static {
    /// Something is known now that was not; whatever is said after this call rests on it.
    fn learned(&self, subscriber: &mut Subscriber);
    /// What everyone below has in force: acknowledged in the place of what is applied.
    fn enforced(&self) -> Rev;
    /// Somebody waits at the server: everyone below is to acknowledge at once.
    fn prompted(&self);
    /// The policies of all routes below.
    fn policies(&self) -> Policies;
    /// What services below have seen and the server was not told yet.
    fn sightings(&self) -> Vec<Sighting>;
    /// Whether the stream is open.
    fn connected(&self, yes: bool);
}

struct Relayed<H> {
    hears: Arc<H>,
    metrics: Metrics,
}

impl<H: Hears> Upper for Relayed<H> {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn policies(&self) -> Policies {
        self.hears.policies()
    }
    fn publish(&self, subscriber: &mut Subscriber) {
        self.hears.learned(subscriber);
    }
    fn connected(&self, yes: bool) {
        self.hears.connected(yes);
    }
    fn prompted(&self) {
        self.hears.prompted();
    }
    fn enforced(&self) -> Option<Rev> {
        Some(self.hears.enforced())
    }
    fn sightings(&self) -> Vec<Sighting> {
        self.hears.sightings()
    }
    fn relays(&self) -> bool {
        true
    }
}

/// A task that follows the feed; it ends with this value.
#[derive(Debug)]
pub struct Following {
    told: mpsc::Sender<Heard>,
    task: tokio::task::AbortHandle,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    /// Begins to follow, on the runtime that this is called on. The audience in `config` is not used.
    ///
    /// # Errors
    /// [`ConfigError`] for addresses or credentials that cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`tokio::spawn`] does.
    pub fn start(config: Config, hears: Arc<impl Hears>) -> Result<Self, ConfigError> {
        let feed = parse_url("the feed's address", &config.feed_url)?;
        let client = Arc::new(Client::new(&config.client_id, &config.client_secret, config.tls.clone())?);
        let (told, hear) = mpsc::channel(256);
        let upper = Arc::new(Relayed { hears, metrics: Metrics::default() });
        let task = tokio::spawn(follow::run(config, feed, client, upper, told.clone(), hear)).abort_handle();
        Ok(Self { told, task })
    }

    /// There is something to acknowledge that somebody waits for.
    pub fn speak(&self) {
        // In a full channel there is something that leads to a question, too.
        let _ = self.told.try_send(Heard::CatchUp);
    }

    /// The policies below are others: the stream is opened again, and tells them.
    pub fn declare(&self) {
        let _ = self.told.try_send(Heard::Policies);
    }
}

/// What a server says about a client and a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// A verifier client with the right secret. `position`: the server made it, and its log was there.
    Yes {
        /// Which client.
        client: ClientId,
        /// Its name.
        name: String,
        /// About the position that was shown.
        position: bool,
    },
    /// Not a client, or a wrong secret, or switched off.
    No,
    /// A client of another kind.
    Forbidden,
    /// The server does not say.
    NotSaid(String),
}

/// A server that is asked about others' credentials and positions (`GET …/feed/known`).
#[derive(Debug, Clone)]
pub struct Registrar {
    address: Uri,
    /// One for all that are asked about, so that its connections serve again.
    client: Arc<Client>,
}

impl Registrar {
    /// The server that `config` follows.
    ///
    /// # Errors
    /// [`ConfigError`] for an address or credentials that cannot be used.
    pub fn of(config: &Config) -> Result<Self, ConfigError> {
        let address = parse_url("the feed's address", &format!("{}/known", config.feed_url))?;
        let client = Client::new(&config.client_id, &config.client_secret, config.tls.clone())?;
        Ok(Self { address, client: Arc::new(client) })
    }

    /// Asks with these credentials, and about this position. Nothing is kept here.
    pub async fn known(&self, id: &str, secret: &SecretString, position: Option<&str>) -> Known {
        #[derive(Deserialize)]
        struct Answer {
            client_id: ClientId,
            name: String,
            position: bool,
        }
        // Never by the relay's own: what is asked is whether these are right.
        let Ok(credentials) = http1::basic(id, secret) else { return Known::No };
        let mut request = Request::get(self.address.clone()).header(header::AUTHORIZATION, credentials);
        if let Some(position) = position {
            // What cannot stand in a header is no position.
            let Ok(position) = HeaderValue::from_str(position) else { return Known::NotSaid("no position".into()) };
            request = request.header("last-event-id", position);
        }
        let Ok(request) = request.body(Full::new(Bytes::new())) else { return Known::No };
        match self.client.call(request, KNOWN_WAIT, KNOWN_LIMIT).await {
            Ok(body) => match serde_json::from_slice::<Answer>(&body) {
                Ok(Answer { client_id, name, position }) => Known::Yes { client: client_id, name, position },
                Err(error) => Known::NotSaid(format!("an answer that cannot be read: {error}")),
            },
            Err(Failed::Status(StatusCode::UNAUTHORIZED, _)) => Known::No,
            Err(Failed::Status(StatusCode::FORBIDDEN, _)) => Known::Forbidden,
            Err(failed) => Known::NotSaid(failed.to_string()),
        }
    }
}
