//! Which pages may call: the check of changing calls that a cookie authenticates, and CORS (Fetch §3.2).
//!
//! A browser attaches cookies to requests that any page makes. What it also attaches, and no page can forge, is `Origin`, and
//! in newer browsers `Sec-Fetch-Site`. A call without either comes from no browser that could be trusted to say so.
use crate::problem::Problem;
use crate::request::Shared;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use portcullis_wire::Code;

/// Where a request says that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From a page that may.
    Allowed,
    /// From a page that may not, or that hides.
    Foreign,
    /// It does not say.
    Silent,
}

fn source(shared: &Shared, headers: &HeaderMap) -> Source {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(_), Some(_)) => Source::Foreign,
        (Some(origin), None) => {
            let ours = origin.to_str().is_ok_and(|origin| is_allowed(shared, origin));
            if ours { Source::Allowed } else { Source::Foreign }
        }
        (None, _) => match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
            // `none`: the user did it by hand (an address, a bookmark), which no page can cause.
            Some(b"same-origin" | b"none") => Source::Allowed,
            Some(_) => Source::Foreign,
            None => Source::Silent,
        },
    }
}

fn is_allowed(shared: &Shared, origin: &str) -> bool {
    origin == shared.origin() || is_other_allowed(shared, origin)
}

fn is_other_allowed(shared: &Shared, origin: &str) -> bool {
    shared.config().allowed_origins.iter().any(|allowed| allowed.trim_end_matches('/') == origin)
}

/// Refuses a changing call with a cookie unless it says that it comes from a page that may make it.
pub(crate) fn must_be_ours(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    match source(shared, headers) {
        Source::Allowed => Ok(()),
        Source::Foreign | Source::Silent => Err(Problem::new(Code::OriginRefused)),
    }
}

/// The same for the forms of our own pages: nobody else's page sends them, `allowed_origins` neither.
pub(crate) fn must_be_our_page(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    must_be_ours(shared, headers)?;
    let elsewhere = origin_of(headers).is_some_and(|origin| origin != shared.origin());
    if elsewhere { Err(Problem::new(Code::OriginRefused)) } else { Ok(()) }
}

/// Refuses a call that says that it comes from a page that may not make it: for calls that set a cookie and need none.
pub(crate) fn must_not_be_foreign(shared: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    match source(shared, headers) {
        Source::Allowed | Source::Silent => Ok(()),
        Source::Foreign => Err(Problem::new(Code::OriginRefused)),
    }
}

/// Endpoints that take a token or a client's word and no cookie: applications in browsers call them from wherever they are, and
/// register themselves there where that is on.
fn for_clients(shared: &Shared, path: &str) -> bool {
    match path {
        "/oauth2/token" | "/oauth2/revoke" | "/oauth2/userinfo" | "/oauth2/par" | "/oauth2/device" => true,
        _ => {
            path.strip_prefix("/oauth2/register").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                && shared.app().registers_clients()
        }
    }
}

/// How a path is shared with other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// With everybody, never with cookies: public metadata, and what applications in browsers call.
    Public,
    /// With `allowed_origins`, with cookies.
    Allowed,
    /// With nobody: pages.
    Nobody,
}

fn sharing(shared: &Shared, path: &str) -> Sharing {
    if crate::pages::is_page(path) {
        Sharing::Nobody
    } else if path.starts_with("/.well-known/") || for_clients(shared, path) {
        Sharing::Public
    } else if path.starts_with("/v1/") || path.starts_with("/oauth2/") {
        Sharing::Allowed
    } else {
        Sharing::Nobody
    }
}

/// The answer to a preflight request; `None` when this is none.
pub(crate) fn preflight(shared: &Shared, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    let asks = method == Method::OPTIONS && headers.contains_key("access-control-request-method");
    if !asks || !headers.contains_key(header::ORIGIN) {
        return None;
    }
    let granted = match sharing(shared, path) {
        Sharing::Public => true,
        Sharing::Allowed => origin_of(headers).is_some_and(|origin| is_allowed(shared, origin)),
        Sharing::Nobody => false,
    };
    if !granted {
        return Some(Problem::new(Code::OriginRefused).into_response());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let map = response.headers_mut();
    map.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
    let allowed = HeaderValue::from_static("Authorization, Content-Type, DPoP, Idempotency-Key");
    map.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    map.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}

/// The headers that a page may read.
const READABLE: &str = "X-Request-Id, Retry-After, WWW-Authenticate, DPoP-Nonce";

fn origin_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN)?.to_str().ok()
}

/// What lets pages of other origins read an answer.
pub(crate) fn share(shared: &Shared, path: &str, request: &HeaderMap, response: &mut HeaderMap) {
    match sharing(shared, path) {
        Sharing::Nobody => {}
        Sharing::Public => {
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READABLE));
        }
        Sharing::Allowed => {
            response.append(header::VARY, HeaderValue::from_static("Origin"));
            let Some(origin) = origin_of(request).filter(|origin| is_allowed(shared, origin)) else { return };
            let Ok(origin) = HeaderValue::from_str(origin) else { return };
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READABLE));
        }
    }
}
