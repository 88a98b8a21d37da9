//! What a verifier is told.
use crate::dpop::DEFAULT_PROOFS;
use http::Uri;
use http::uri::Scheme;
use portcullis_feed::{Policies, set};
use portcullis_verify::Expect;
use portcullis_wire::{LogId, SecretString};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a verifier is told. Everything but the four arguments of [`Config::new`] has a default.
#[derive(Clone)]
pub struct Config {
    pub(crate) expect: Expect,
    pub(crate) client_id: String,
    pub(crate) client_secret: SecretString,
    pub(crate) feed_url: String,
    pub(crate) introspect_url: String,
    pub(crate) name: String,
    pub(crate) bound_ms: Option<i64>,
    pub(crate) log: Option<LogId>,
    pub(crate) stream_grace_ms: i64,
    pub(crate) set_limit: usize,
    pub(crate) cache_slots: usize,
    pub(crate) proofs: usize,
    pub(crate) policies: Policies,
    pub(crate) sightings: bool,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for ConfigError {}

impl Config {
    /// `issuer` as in the tokens' `iss`; `audience` as in their `aud`; a client of kind `verifier` with its secret. The feed
    /// is at the issuer's `/v1/feed`.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> Self {
        let issuer = issuer.into();
        let base = issuer.trim_end_matches('/');
        Self {
            feed_url: format!("{base}/v1/feed"),
            introspect_url: format!("{base}/oauth2/introspect"),
            expect: Expect { issuer, audience: audience.into() },
            client_id: client_id.into(),
            client_secret: SecretString::new(client_secret),
            name: String::new(),
            bound_ms: None,
            log: None,
            stream_grace_ms: 0,
            set_limit: set::DEFAULT_LIMIT,
            cache_slots: 4096,
            proofs: DEFAULT_PROOFS,
            policies: Policies::default(),
            sightings: false,
            tls: None,
        }
    }

    /// The feed's address, when it is not at the issuer's `/v1/feed`. Acknowledgements and snapshot pages go below it.
    pub fn feed_url(mut self, url: impl Into<String>) -> Self {
        self.feed_url = url.into().trim_end_matches('/').to_owned();
        self
    }

    /// Where routes under `introspect` ask (RFC 7662), when it is not at the issuer's `/oauth2/introspect`.
    pub fn introspect_url(mut self, url: impl Into<String>) -> Self {
        self.introspect_url = url.into();
        self
    }

    /// What administrators see this verifier called.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A shorter bound than the server's. A longer one changes nothing.
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound_ms = Some(i64::try_from(bound.as_millis()).unwrap_or(i64::MAX));
        self
    }

    /// Follows this log and no other. Without it, the first log that is met counts until the process ends.
    pub fn log(mut self, log: LogId) -> Self {
        self.log = Some(log);
        self
    }

    /// For how long an open connection outlives a lost lease (DESIGN I14). None unless set; it adds to the bound.
    pub fn stream_grace(mut self, grace: Duration) -> Self {
        self.stream_grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// How many revocations are kept one by one; beyond, everything older is refused as stale.
    pub fn set_limit(mut self, entries: usize) -> Self {
        self.set_limit = entries;
        self
    }

    /// How many verified signatures are remembered (claims, never verdicts), rounded up to eights. 0: none. Four places for each token that is live at a
    /// time let nearly none be pushed out; a place that is taken costs about 1.5 kB.
    pub fn cache(mut self, slots: usize) -> Self {
        self.cache_slots = slots;
        self
    }

    /// How many DPoP proofs are remembered at once, each for a minute and a half. While so many are, requests with further ones are answered 503.
    pub fn proofs(mut self, most: usize) -> Self {
        self.proofs = most;
        self
    }

    /// The fail policies that routes will have. Layers declare theirs by themselves; this is for those who judge tokens with
    /// [`crate::Verifier::verify`] and want to tell the server before the first one.
    pub fn policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Whether the server is told in which networks tokens are shown here, by [`crate::Verified::seen_from`]. Off unless asked for: it says of
    /// people where they are, by 24 bits of an IPv4 address and 56 of an IPv6 address.
    pub fn sightings(mut self, told: bool) -> Self {
        self.sightings = told;
        self
    }

    /// How TLS is spoken to the server; for private certificate authorities. The Mozilla roots otherwise.
    pub fn tls(mut self, tls: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(tls);
        self
    }
}

/// An address of `http` or `https` with a host; no user information, for secrets are no part of addresses.
pub(crate) fn parse_url(what: &str, url: &str) -> Result<Uri, ConfigError> {
    let wrong = |why: &str| ConfigError(format!("{what} {url:?}: {why}"));
    let uri: Uri = url.parse().map_err(|_| wrong("not an address"))?;
    if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(wrong("must begin with http:// or https://"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wrong("must have a host and no user information"));
    }
    if uri.query().is_some() {
        return Err(wrong("must have no query"));
    }
    Ok(uri)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("expect", &self.expect)
            .field("client_id", &self.client_id)
            .field("feed_url", &self.feed_url)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
