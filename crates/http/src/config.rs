//! What the surface needs to know, already checked by whoever read the settings.
use crate::pages::Pages;
use crate::probe::Probe;
use crate::traffic::Traffic;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// The settings of the outside surface. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The issuer, without a slash at the end: the address under which browsers and programs see this server.
    pub issuer: String,
    /// Origins (`https://app.example`) whose pages may call with cookies, besides the issuer's own; also CORS.
    pub allowed_origins: Vec<String>,
    /// Proxies whose word about the caller's address and the request's id counts.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest body in bytes; beyond it 413.
    pub max_body: usize,
    /// How long a body may take to arrive; beyond that 400, and the connection ends.
    pub body_time: Duration,
    /// The HTML pages; see [`Pages::with_overrides`].
    pub pages: Pages,
    /// Whether the public listener also serves `/healthz`, `/readyz` and `/metrics`.
    pub ops: bool,
    /// The version that `/openapi.json` and the metrics name.
    pub version: String,
    /// Counters shared with the accept loops.
    pub traffic: Arc<Traffic>,
    /// What `portcullis doctor` asks, shared by the public listener and the admin socket.
    pub probe: Arc<Probe>,
}

/// 64 KiB: no body of this API is near it.
pub const MAX_BODY: usize = 64 * 1024;

impl HttpConfig {
    /// The defaults for this issuer: no other origins, no trusted proxies, bodies of 64 KiB, the embedded pages.
    pub fn new(issuer: impl Into<String>) -> Self {
        let issuer: String = issuer.into();
        Self {
            issuer: issuer.trim_end_matches('/').to_owned(),
            allowed_origins: vec![],
            trusted_proxies: vec![],
            max_body: MAX_BODY,
            body_time: Duration::from_secs(30),
            pages: Pages::embedded(),
            ops: true,
            version: env!("CARGO_PKG_VERSION").into(),
            traffic: Arc::default(),
            probe: Arc::default(),
        }
    }

    /// The issuer's origin (RFC 6454 §6.2): scheme, host and port, without a path.
    pub fn issuer_origin(&self) -> String {
        let Some((scheme, rest)) = self.issuer.split_once("://") else { return self.issuer.clone() };
        let authority = rest.split('/').next().unwrap_or(rest);
        format!("{scheme}://{authority}").to_ascii_lowercase()
    }

    /// Whether browsers reach this server by TLS.
    pub fn is_https(&self) -> bool {
        self.issuer.starts_with("https://")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_has_no_path() {
        for (issuer, origin) in [
            ("https://id.example/", "https://id.example"),
            ("https://ID.example:8443/auth", "https://id.example:8443"),
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400"),
        ] {
            assert_eq!(HttpConfig::new(issuer).issuer_origin(), origin);
        }
    }
}
