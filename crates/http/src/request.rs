//! Reading requests: what every handler gets, and how strict it is.
//!
//! Under `/v1` nothing is guessed and nothing ignored: an unknown or repeated parameter, an unknown or repeated member, a wrong
//! type or another content type is an error that says what and where. Bodies are bounded in size and in time.
use crate::HttpConfig;
use crate::oauth::metadata::Documents;
use crate::problem::Problem;
use crate::traffic::RouteCounts;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use portcullis_app::few::Few;
use portcullis_app::{Admin, App, Caller, RepeatKey};
use portcullis_domain::client_hints::{self, Hints};
use portcullis_wire::{Code, Digest, SecretString, b64, json};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// What all handlers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    app: App,
    config: HttpConfig,
    origin: String,
    operator: bool,
    counts: RouteCounts,
    failures_told: Few,
    documents: Documents,
}

impl Shared {
    pub(crate) fn new(app: App, config: HttpConfig, operator: bool, counts: RouteCounts) -> Self {
        let origin = config.issuer_origin();
        Self {
            inner: Arc::new(Inner {
                app,
                config,
                origin,
                operator,
                counts,
                failures_told: Few::default(),
                documents: Documents::default(),
            }),
        }
    }
    pub(crate) fn app(&self) -> &App {
        &self.inner.app
    }
    pub(crate) fn config(&self) -> &HttpConfig {
        &self.inner.config
    }
    /// Whether nothing is served but to operators: the database is older than what it has said (DESIGN §4.5).
    pub(crate) fn is_shut(&self) -> bool {
        !self.inner.operator && self.inner.app.hub().rolled_back().is_some()
    }
    /// The issuer's origin.
    pub(crate) fn origin(&self) -> &str {
        &self.inner.origin
    }
    pub(crate) fn counts(&self) -> &RouteCounts {
        &self.inner.counts
    }
    /// What others can find out by themselves.
    pub(crate) fn documents(&self) -> &Documents {
        &self.inner.documents
    }
    /// Which answers of class 5xx get a line of their own in the log.
    pub(crate) fn failures_told(&self) -> &Few {
        &self.inner.failures_told
    }
}

/// Where a connection comes from; put into each request by the accept loop. `None` on a Unix socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<IpAddr>);

/// The caller's address, decided by the outermost layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientIp(pub(crate) Option<IpAddr>);

/// A request without its body.
#[derive(Debug)]
pub struct Ctx {
    pub(crate) shared: Shared,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl FromRequestParts<Shared> for Ctx {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Infallible> {
        Ok(Self {
            shared: shared.clone(),
            ip: parts.extensions.get::<ClientIp>().and_then(|ip| ip.0),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
        })
    }
}

impl Ctx {
    pub(crate) fn app(&self) -> &App {
        self.shared.app()
    }

    /// The query, of which every parameter must be one of `known`.
    pub(crate) fn params(&self, known: &[&str]) -> Result<Params, Problem> {
        Params::parse(self.uri.query().unwrap_or(""), known)
    }

    /// The one value of a header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn user_agent(&self) -> Option<String> {
        let value = self.headers.get(header::USER_AGENT)?;
        let text = String::from_utf8_lossy(value.as_bytes());
        Some(text.chars().take(512).collect())
    }

    /// What client hints name the device, when they say enough.
    pub(crate) fn hinted_name(&self) -> Option<String> {
        let text = |name| self.header_once(name);
        client_hints::name(&Hints {
            brands: text("sec-ch-ua"),
            platform: text("sec-ch-ua-platform"),
            mobile: text("sec-ch-ua-mobile"),
            model: text("sec-ch-ua-model"),
        })
    }

    /// A header that came once and is text.
    fn header_once(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()
    }

    /// The access token of `Authorization: Bearer …` (RFC 6750 §2.1).
    pub(crate) fn bearer(&self) -> Option<&str> {
        self.authorized_by("bearer")
    }

    /// What `Authorization` gives by this scheme.
    pub(crate) fn authorized_by(&self, scheme: &str) -> Option<&str> {
        let Some(text) = authorization(&self.headers)? else { return Some("") }; // which no token is: malformed
        let (given, token) = text.split_once(' ')?;
        given.eq_ignore_ascii_case(scheme).then(|| token.trim())
    }

    /// Client id and secret of `Authorization: Basic …`.
    pub(crate) fn basic(&self) -> Option<Basic> {
        basic(&self.headers)
    }

    /// The caller behind the bearer token.
    pub(crate) async fn caller(&self) -> Result<Caller, Problem> {
        Ok(self.app().caller(self.bearer(), self.ip).await?)
    }

    /// Who administers: by token, or by having reached the admin socket.
    pub(crate) async fn admin(&self) -> Result<Admin, Problem> {
        if self.shared.inner.operator {
            return Ok(Admin::operator());
        }
        let caller = self.app().admin_caller(self.bearer(), self.ip).await?;
        Ok(Admin::by_token(&caller))
    }

    /// `Idempotency-Key`, with a digest of the call that it stands for.
    pub(crate) fn repeat(&self, body: &[u8]) -> Result<Option<RepeatKey>, Problem> {
        let mut values = self.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(None) };
        let key = value.as_bytes();
        let fits = (1..=200).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic) && values.next().is_none();
        if !fits {
            return Err(Problem::value("Idempotency-Key", "must be one value of 1 to 200 visible ASCII characters"));
        }
        let target = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut call = format!("{} {}\n", self.method, target).into_bytes();
        call.extend_from_slice(body);
        let key = String::from_utf8_lossy(key).into_owned();
        Ok(Some(RepeatKey { key, request: Digest::of(&call) }))
    }
}

/// The one `Authorization` header, if there is one; `Some(None)` when it is no text, or when there are several: between
/// us and a proxy that reads another of them lies room for confusion. Verifiers do the same.
fn authorization(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let first = all.next()?;
    Some(first.to_str().ok().filter(|_| all.next().is_none()))
}

/// What `Authorization: Basic …` says.
#[derive(Debug)]
pub struct Basic {
    /// The client's id, form-decoded (RFC 6749 §2.3.1).
    pub id: String,
    /// Its secret, form-decoded.
    pub secret: SecretString,
    /// Its secret as it was sent: a client that knows RFC 7617 alone encodes nothing.
    pub as_sent: SecretString,
}

/// Client id and secret of `Authorization: Basic …` (RFC 7617; RFC 6749 §2.3.1: both parts are form-encoded).
pub fn basic(headers: &HeaderMap) -> Option<Basic> {
    let (scheme, text) = authorization(headers)??.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = text.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes = b64::decode(&plain)?;
    let pair = String::from_utf8(bytes).ok()?;
    let (id, secret) = pair.split_once(':')?;
    Some(Basic {
        id: form_decoded(id),
        secret: SecretString::new(form_decoded(secret)),
        as_sent: SecretString::new(secret),
    })
}

fn form_decoded(text: &str) -> String {
    // One pair without `=` or `&` in it is one form-encoded word; a plain id or secret of ours is its own encoding.
    match form_urlencoded::parse(text.as_bytes()).next() {
        Some((word, rest)) if rest.is_empty() && !text.contains(['&', '=']) => word.into_owned(),
        _ => text.to_owned(),
    }
}

/// The caller behind the bearer token. Who calls is asked before path, query and body are looked at: to a stranger everything
/// reads alike, and a stranger's body is not even read.
#[derive(Debug)]
pub(crate) struct AsCaller(pub(crate) Caller);

impl FromRequestParts<Shared> for AsCaller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Ok(Self(ctx_of(parts, shared).await.caller().await?))
    }
}

/// As [`AsCaller`], for who administers.
#[derive(Debug)]
pub(crate) struct AsAdmin(pub(crate) Admin);

impl FromRequestParts<Shared> for AsAdmin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Ok(Self(ctx_of(parts, shared).await.admin().await?))
    }
}

/// The request without its body, for extractors of other modules.
pub(crate) async fn ctx_of(parts: &mut Parts, shared: &Shared) -> Ctx {
    match Ctx::from_request_parts(parts, shared).await {
        Ok(ctx) => ctx,
        Err(never) => match never {},
    }
}

/// As [`AsCaller`], for an end that may have killed its own caller: with a repeat key, a dead token may be the one that asks
/// again for the answer that got lost, which `revoking` decides.
#[derive(Debug)]
pub(crate) struct Ends<T>(pub(crate) Result<T, Problem>);

impl<T> Ends<T> {
    fn of(who: Result<T, Problem>, headers: &HeaderMap) -> Result<Self, Problem> {
        match who {
            Err(refused) if refused.code != Code::TokenRevoked || !headers.contains_key("idempotency-key") => {
                Err(refused)
            }
            who => Ok(Self(who)),
        }
    }
}

impl FromRequestParts<Shared> for Ends<Caller> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Self::of(ctx_of(parts, shared).await.caller().await, &parts.headers)
    }
}

impl FromRequestParts<Shared> for Ends<Admin> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Self::of(ctx_of(parts, shared).await.admin().await, &parts.headers)
    }
}

/// As [`AsCaller`], for a sign-out: the session of the token may have ended.
#[derive(Debug)]
pub(crate) struct DeadOrAlive(pub(crate) Caller);

impl FromRequestParts<Shared> for DeadOrAlive {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let ctx = ctx_of(parts, shared).await;
        Ok(Self(ctx.app().caller_dead_or_alive(ctx.bearer(), ctx.ip).await?))
    }
}

/// Parameters of a query or a form, each at most once.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Refuses unknown and repeated parameters.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Problem> {
        let mut seen = BTreeSet::new();
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) {
                return Err(Problem::malformed(format!("unknown parameter {name:?}; known: {}", listed(known))));
            }
            if !seen.insert(name) {
                return Err(Problem::malformed(format!("the parameter {name:?} is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// A form as OAuth endpoints take it: unknown parameters are ignored, empty ones are as if they were not there, repeated ones
    /// refused (RFC 6749 §3.1, §3.2).
    /// `Err`: the parameter that came twice.
    pub(crate) fn oauth(body: &[u8]) -> Result<Self, String> {
        Self::oauth_pairs(
            form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        )
    }

    /// The same, of what was decoded already.
    pub(crate) fn oauth_pairs(pairs: Vec<(String, String)>) -> Result<Self, String> {
        let mut seen = BTreeSet::new();
        for (name, _) in &pairs {
            if !seen.insert(name) {
                return Err(name.clone());
            }
        }
        // What comes without a value was not sent (RFC 6749 §3.1, §3.2); but for a token that is asked about, which is dead then.
        Ok(Self(pairs.into_iter().filter(|(name, value)| !value.is_empty() || name == "token").collect()))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A parsed parameter; 422 naming it when it does not parse.
    pub fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| Problem::value(name, format!("{error}")))
    }

    /// `limit`: 1 to 200, 50 unless given.
    pub(crate) fn limit(&mut self) -> Result<u32, Problem> {
        match self.take("limit").map(|text| text.parse::<u32>()) {
            None => Ok(50),
            Some(Ok(limit @ 1..=200)) => Ok(limit),
            Some(_) => Err(Problem::value("limit", "must be a whole number from 1 to 200")),
        }
    }

    /// `cursor`: what an earlier page gave as `next`.
    pub(crate) fn cursor<T: FromStr>(&mut self) -> Result<Option<T>, Problem> {
        let Some(text) = self.take("cursor") else { return Ok(None) };
        let read = || String::from_utf8(b64::decode(&text)?).ok()?.parse().ok();
        read().map(Some).ok_or_else(|| Problem::value("cursor", "give the `next` of an earlier page as it came"))
    }
}

/// What a list gives as `next`, so that [`Params::cursor`] reads it again.
pub(crate) fn cursor_text(id: impl std::fmt::Display) -> String {
    b64::encode(id.to_string().as_bytes())
}

fn listed(known: &[&str]) -> String {
    if known.is_empty() { "none".into() } else { known.join(", ") }
}

/// An id in the path. What is no id of the right kind does not exist.
#[derive(Debug)]
pub struct Id<T>(pub T);

impl<T: FromStr + Send> FromRequestParts<Shared> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, shared).await.map_err(|_| Problem::not_found())?;
        text.0.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

/// The whole body, bounded in size (413) and time.
async fn body(request: Request, shared: &Shared) -> Result<Bytes, Problem> {
    let (max, time) = (shared.config().max_body, shared.config().body_time);
    let too_large = || Problem::because(Code::TooLarge, format!("A body has at most {max} bytes here."));
    let told = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(time, Limited::new(request.into_body(), max).collect()).await;
    match collected {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::malformed("the body broke off")),
        Err(_) => Err(Problem::malformed(format!("the body did not arrive within {} s", time.as_secs()))
            .header(header::CONNECTION, "close")),
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

/// A JSON body, and the bytes that it came as.
#[derive(Debug)]
pub struct Json<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

/// A JSON body that may be missing altogether.
#[derive(Debug)]
pub struct MaybeJson<T> {
    pub(crate) value: Option<T>,
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Problem> {
    json::from_slice(bytes).map_err(|error| {
        // "unknown field" is serde's word; ours is member.
        let text =
            error.to_string().replace("unknown field", "unknown member").replace("missing field", "missing member");
        Problem::malformed(text)
    })
}

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let kind = media_type(request.headers());
        if kind.as_deref() != Some("application/json") {
            return Err(Problem::new(Code::UnsupportedMediaType));
        }
        let bytes = body(request, shared).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for MaybeJson<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let kind = media_type(request.headers());
        let bytes = body(request, shared).await?;
        if bytes.is_empty() {
            return Ok(Self { value: None });
        }
        if kind.as_deref() != Some("application/json") {
            return Err(Problem::new(Code::UnsupportedMediaType));
        }
        Ok(Self { value: Some(parse(&bytes)?) })
    }
}

/// The bytes of an HTML or OAuth form; `None` when the content type is another.
#[derive(Debug)]
pub struct FormBytes(pub(crate) Option<Bytes>);

impl FromRequest<Shared> for FormBytes {
    type Rejection = Problem;
    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let fits = media_type(request.headers()).as_deref() == Some("application/x-www-form-urlencoded");
        let bytes = body(request, shared).await?;
        Ok(Self(fits.then_some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_single() {
        let mut params = Params::parse("limit=5&cursor=YQ", &["limit", "cursor"]).unwrap();
        assert_eq!(params.limit().unwrap(), 5);
        assert_eq!(params.cursor::<String>().unwrap(), Some("a".into()));
        for wrong in ["limit=1&limit=2", "limits=1"] {
            assert_eq!(Params::parse(wrong, &["limit"]).unwrap_err().code, Code::Malformed, "{wrong}");
        }
        for wrong in ["limit=0", "limit=201", "limit=x", "limit="] {
            assert_eq!(
                Params::parse(wrong, &["limit"]).unwrap().limit().unwrap_err().code,
                Code::InvalidValue,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_client_id_is_its_own_form_encoding() {
        for (given, read) in [("cli_abc", "cli_abc"), ("a%20b", "a b"), ("a+b", "a b"), ("", ""), ("a=b", "a=b")] {
            assert_eq!(form_decoded(given), read);
        }
    }
}
