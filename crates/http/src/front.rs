//! The outermost layer: ids, addresses, CORS, problems as bodies, headers that every answer has, counts and the log line.
use crate::origin;
use crate::pages;
use crate::problem::Problem;
use crate::request::{ClientIp, Peer, Shared};
use crate::{forwarded, traffic::Traffic};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_app::real;
use portcullis_domain::Chance as _;
use portcullis_wire::{Code, b64};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The fallback for unknown paths.
pub(crate) async fn no_such_route() -> Problem {
    Problem::because(Code::NotFound, "There is nothing at this address; /openapi.json lists what there is.")
}

/// The fallback for methods that a path does not have. axum adds `Allow`.
pub(crate) async fn no_such_method() -> Problem {
    Problem::new(Code::MethodNotAllowed)
}

/// What log lines say of the request that they belong to. A span would say it as well, for two hundredths of a refresh, whether
/// there is a line or not.
#[derive(Debug)]
pub struct About {
    pub id: String,
    pub method: Method,
    route: Option<MatchedPath>,
}

impl About {
    /// The route's pattern; `-` when nothing is there.
    pub fn route(&self) -> &str {
        self.route.as_ref().map_or("-", MatchedPath::as_str)
    }
}

tokio::task_local! {
    static ABOUT: About;
}

/// What is known of the request that this task answers; `None`: it answers none.
pub fn about<T>(told: impl FnOnce(&About) -> T) -> Option<T> {
    ABOUT.try_with(told).ok()
}

pub(crate) async fn front(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    let by_proxy = forwarded::from_proxy(peer, &shared.config().trusted_proxies);
    let about = About {
        id: request_id(request.headers(), by_proxy),
        method: request.method().clone(),
        route: request.extensions().get::<MatchedPath>().cloned(),
    };
    ABOUT.scope(about, answered(shared, request, next, peer, by_proxy)).await
}

async fn answered(shared: Shared, mut request: Request, next: Next, peer: Option<IpAddr>, by_proxy: bool) -> Response {
    let began = real::mono_us();
    let config = shared.config();
    let ip = forwarded::client_ip(peer, request.headers(), &config.trusted_proxies);
    config.probe.look(request.headers(), peer, by_proxy, ip);
    request.extensions_mut().insert(ClientIp(ip));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    // What is needed of the request's headers once it is gone.
    let mut kept = HeaderMap::new();
    if let Some(value) = request.headers().get(header::ORIGIN) {
        kept.insert(header::ORIGIN, value.clone());
    }

    let route_name = route.as_ref().map(MatchedPath::as_str);
    let shut = shared.is_shut() && !matches!(route_name, Some("/healthz" | "/readyz" | "/metrics" | "/openapi.json"));
    let mut response = match origin::preflight(&shared, &method, &path, request.headers()) {
        Some(response) => response,
        None if shut => Problem::new(Code::Unavailable).into_response(),
        None => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                Traffic::add(&config.traffic.panics);
                tracing::error!("a handler panicked");
                Problem::new(Code::Unavailable).into_response()
            }
        },
    };
    ABOUT.with(|about| {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            write_problem(&shared, &path, &about.id, &problem, &mut response);
        }
        finish_headers(&shared, &path, &about.id, &kept, &mut response);
    });
    let took_us = u64::try_from(real::mono_us() - began).unwrap_or(0);
    let status = response.status().as_u16();
    shared.counts().record(&method, route_name, status, took_us);
    match status {
        500.. => match shared.failures_told().may(real::mono_us()) {
            Some(left_out) => tracing::warn!(status, took_us, left_out, "answered"),
            None => tracing::debug!(status, took_us, "answered"),
        },
        400.. => tracing::info!(status, took_us, "answered"),
        // Metrics count these; a line for each would cost a tenth of a refresh.
        _ => tracing::debug!(status, took_us, "answered"),
    }
    response
}

/// The id that a trusted proxy gave, when it is a sane one, or a new one.
fn request_id(headers: &HeaderMap, from_proxy: bool) -> String {
    let given = headers.get(&REQUEST_ID).filter(|_| from_proxy).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    given.filter(sane).map_or_else(|| b64::encode(&real::RealChance.bits().to_be_bytes()), str::to_owned)
}

fn write_problem(shared: &Shared, path: &str, id: &str, problem: &Problem, response: &mut Response) {
    let (kind, body) = match pages::is_page(path) {
        true => ("text/html; charset=utf-8", pages::problem_page(shared, problem, id)),
        false => problem.body(id),
    };
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in problem.headers() {
        headers.append(name, value.clone());
    }
}

fn finish_headers(shared: &Shared, path: &str, id: &str, request: &HeaderMap, response: &mut Response) {
    let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    if unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    origin::share(shared, path, request, headers);
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if shared.config().is_https() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    if pages::is_page(path) {
        pages::add_headers(path, headers);
    } else {
        // Nothing here is a document: should a browser show it as one, it may do nothing.
        let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(nothing);
        headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    }
}
