//! `/v1/feed` and what is below it, as the server has it (docs/feed.md), and what operators ask.
use crate::hub::{CannotServe, Hub, Opening};
use crate::position::{Position, Standing};
use crate::registry::{Client, Refused};
use crate::sightings::check;
use crate::streams::MAX_RESUME;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use portcullis_app::real;
use portcullis_domain::Chance as _;
use portcullis_feed::relay::MAX_TAIL;
use portcullis_http::feed::{self, Wanted};
use portcullis_http::problem::Problem;
use portcullis_http::request::{Basic, Params, basic};
use portcullis_wire::frame::{AckRequest, MAX_SIGHTINGS, SightingsRequest};
use portcullis_wire::{Code, Rev, SecretString, b64, json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The largest body of a question, and the time that it may take to arrive.
const MAX_BODY: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);
/// The longest nonce, in bytes.
const MAX_NONCE: usize = 128;

/// What a relay serves to verifiers; `ops`: and to operators.
pub fn router(hub: Hub, ops: bool) -> Router {
    let feed = Router::new()
        .route("/v1/feed", get(open))
        .route("/v1/feed/acks", post(acknowledge))
        .route("/v1/feed/sightings", post(sightings))
        .route("/v1/feed/snapshot", get(snapshot))
        .route("/v1/feed/known", get(known));
    finish(if ops { feed.merge(for_operators()) } else { feed }, hub)
}

/// What a relay serves to operators, on a listener of its own.
pub fn ops_router(hub: Hub) -> Router {
    finish(for_operators(), hub)
}

fn for_operators() -> Router<Hub> {
    let routes = Router::new().route("/healthz", get(async || "ok\n"));
    routes.route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

fn finish(routes: Router<Hub>, hub: Hub) -> Router {
    routes
        .fallback(async || Problem::because(Code::NotFound, "A relay serves the feed, and nothing else."))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
        .layer(axum::middleware::from_fn(front))
        .with_state(hub)
}

/// Problems as bodies, and headers that every answer has.
async fn front(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let id = b64::encode(&real::RealChance.bits().to_be_bytes());
        tracing::debug!(%id, code = %problem.code, "refused");
        let (kind, body) = problem.body(&id);
        *response.body_mut() = Body::from(body);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in problem.headers() {
            response.headers_mut().append(name, value.clone());
        }
    }
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong => feed::not_known(),
            Refused::Forbidden => feed::no_verifier(),
            Refused::Unavailable => {
                Self::because(Code::Unavailable, "The server, which knows its clients, does not answer this relay.")
            }
            Refused::Overloaded => Self::new(Code::Overloaded),
        }
    }
}

impl From<CannotServe> for Problem {
    fn from(cannot: CannotServe) -> Self {
        match cannot {
            CannotServe::NotFresh => Self::because(Code::Unavailable, "This relay is behind its server: try again."),
            CannotServe::Full => Self::because(Code::Overloaded, "As many verifiers follow this relay as may."),
            CannotServe::FullOfClient => {
                Self::because(Code::Overloaded, "As many verifiers of this client follow this relay as may.")
            }
            CannotServe::Gone => Self::new(Code::InstanceGone),
            CannotServe::Passed => {
                Self::because(Code::Conflict, "that snapshot has passed; start again with part=0 and without rev")
            }
            CannotServe::NoPart => Self::because(Code::NotFound, "there is no such part"),
        }
    }
}

/// Who calls.
struct Caller {
    client: Client,
    id: String,
    secret: SecretString,
}

async fn caller(hub: &Hub, headers: &HeaderMap) -> Result<Caller, Problem> {
    let Basic { id, secret, .. } = basic(headers).ok_or(Refused::Wrong)?;
    let client = hub.registry().authenticate(&id, &secret).await?;
    Ok(Caller { client, id, secret })
}

/// The one value of a header as text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn params(uri: &Uri, known: &[&str]) -> Result<Params, Problem> {
    Params::parse(uri.query().unwrap_or(""), known)
}

fn ok(body: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body).map_err(|_| Problem::new(Code::Unavailable))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn contradicts() -> Problem {
    Problem::because(Code::Unavailable, "The position shown and the log of this relay do not go together.")
}

/// Where a stream may go on from: a position that fits what is known here, or that the server vouches for. What proves that
/// the log was rolled back is passed on to the server, which then shuts itself; here nothing is given for it.
async fn shown(hub: &Hub, who: &Caller, position: &str) -> Result<Option<Position>, Problem> {
    let Some(standing) = hub.standing(position, MAX_RESUME) else { return Ok(None) };
    let anew = matches!(standing, Standing::Beyond | Standing::Contradicts);
    match standing {
        Standing::Fits => return Ok(Position::parse(position)),
        Standing::Older => return Ok(None),
        Standing::Unknown => {}
        Standing::Beyond | Standing::Contradicts => {
            hub.stats().proofs.fetch_add(1, Ordering::Relaxed);
        }
    }
    match hub.registry().vouches((&who.id, &who.secret), position, anew).await? {
        false => Ok(None), // none of the server's
        true if standing == Standing::Beyond => Err(CannotServe::NotFresh.into()),
        true if anew => Err(contradicts()),
        true => Ok(None), // it was there, too long ago to go on from
    }
}

async fn open(State(hub): State<Hub>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let before = hub.registry().forgotten();
    let who = caller(&hub, &headers).await?;
    let Wanted { name, policies, bound_ms, instance } = Wanted::of(uri.query(), &headers)?;
    let name = name.unwrap_or_else(|| who.client.name.clone());
    let from = match text(&headers, "last-event-id") {
        Some(position) => shown(&hub, &who, position).await?,
        None => None,
    };
    let opening = Opening { name, policies, bound_ms, instance };
    let opened = hub.open(who.client.id, opening, from.map(|at| (at.epoch, at.rev)))?;
    if hub.registry().forgotten() != before {
        // It may have been switched off right before the stream began to look at that.
        caller(&hub, &headers).await?;
    }
    Ok(feed::events(stream::unfold(opened, |mut opened| async {
        let bytes = opened.next().await?;
        Some((bytes, opened))
    })))
}

async fn acknowledge(State(hub): State<Hub>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let arrived = real::mono();
    let who = caller(&hub, &headers).await?;
    params(&uri, &[])?;
    let asked: AckRequest = question(&headers, body).await?;
    if asked.nonce.is_empty() || asked.nonce.len() > MAX_NONCE {
        return Err(Problem::malformed("nonce: give 1 to 128 bytes, fresh for every request"));
    }
    if !asked.position.is_empty() {
        let malformed = || Problem::malformed("position: give the last `id` as it came");
        let standing = hub.standing(&asked.position, MAX_TAIL).ok_or_else(malformed)?;
        if matches!(standing, Standing::Beyond | Standing::Contradicts) {
            // Perhaps the relay lags; perhaps the log was rolled back, and this proves it. The lease does not wait for that.
            hub.stats().proofs.fetch_add(1, Ordering::Relaxed);
            hub.registry().passes_on(who.id, who.secret, asked.position.clone());
        }
        if standing == Standing::Contradicts {
            return Err(contradicts());
        }
    }
    ok(&hub.acknowledge(who.client.id, &asked, arrived)?)
}

/// Where services below were shown access tokens: the server is told with the next questions. What is too much is left out.
async fn sightings(State(hub): State<Hub>, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let who = caller(&hub, &headers).await?;
    params(&uri, &[])?;
    let told: SightingsRequest = question(&headers, body).await?;
    if told.sightings.len() > MAX_SIGHTINGS {
        return Err(Problem::malformed(format!("sightings: at most {MAX_SIGHTINGS} at once")));
    }
    let wrong = told.sightings.iter().find_map(|one| check(one).err());
    if let Some(wrong) = wrong {
        return Err(Problem::malformed(format!("sightings: {wrong}")));
    }
    ok(&json!({ "taken": hub.sighted(who.client.id, told)? }))
}

/// A question, bounded in size and time.
async fn question<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let kind = text(headers, "content-type").and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    let whole = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
    let bytes = match whole {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Problem::because(Code::TooLarge, format!("A body has at most {MAX_BODY} bytes here.")));
        }
        Ok(Err(_)) => return Err(Problem::malformed("the body broke off")),
        Err(_) => return Err(Problem::malformed("the body did not arrive in time")),
    };
    json::from_slice(&bytes).map_err(|error| Problem::malformed(error.to_string().replace("field", "member")))
}

async fn snapshot(State(hub): State<Hub>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    caller(&hub, &headers).await?;
    let (part, rev) = feed::page_of(uri.query())?;
    ok(&hub.snapshot_page(part, rev)?)
}

/// For a relay below this one.
async fn known(State(hub): State<Hub>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let who = caller(&hub, &headers).await?;
    params(&uri, &[])?;
    let position = match text(&headers, "last-event-id") {
        None => false,
        Some(position) => match hub.standing(position, MAX_RESUME) {
            None => false,
            Some(Standing::Fits) => true,
            Some(standing) => {
                let anew = matches!(standing, Standing::Beyond | Standing::Contradicts);
                hub.registry().vouches((&who.id, &who.secret), position, anew).await?
            }
        },
    };
    ok(&json!({ "client_id": who.client.id, "name": who.client.name, "position": position }))
}

async fn readyz(State(hub): State<Hub>) -> Response {
    let now = real::mono();
    let mut state = hub.state();
    let (ready, age_ms) = (state.is_ready(), state.relay.age_now(now));
    let head = state.relay.log().map(|log| (log.epoch(), log.head()));
    let enforced = state.relay.enforced(now);
    let body = json!({
        "ready": ready, "age_ms": age_ms, "connected": hub.is_connected(), "verifiers": state.relay.fleet().len(),
        "streams": hub.stats().streams.load(Ordering::Relaxed),
        "epoch": head.map(|at| at.0), "head": head.map(|at| at.1), "enforced": enforced,
    });
    drop(state);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(hub): State<Hub>) -> Response {
    let now = real::mono();
    let mut state = hub.state();
    let (stats, enforced) = (hub.stats(), state.relay.enforced(now));
    let number = |n: Option<i64>| n.unwrap_or(-1).to_string();
    let rev = |rev: Rev| rev.0.to_string();
    let lines = [
        ("ready", "gauge", u8::from(state.is_ready()).to_string()),
        ("connected", "gauge", u8::from(hub.is_connected()).to_string()),
        ("age_ms", "gauge", number(state.relay.age_now(now))),
        ("head", "gauge", rev(state.relay.log().map_or(Rev::ZERO, portcullis_feed::Publisher::head))),
        ("enforced", "gauge", rev(enforced)),
        ("verifiers", "gauge", state.relay.fleet().len().to_string()),
        ("streams", "gauge", stats.streams.load(Ordering::Relaxed).to_string()),
        ("refused_total", "counter", stats.refused.load(Ordering::Relaxed).to_string()),
        ("upstream_streams_total", "counter", stats.connects.load(Ordering::Relaxed).to_string()),
        ("streams_ended_total", "counter", stats.ended.load(Ordering::Relaxed).to_string()),
        ("leases_total", "counter", stats.leases.load(Ordering::Relaxed).to_string()),
        ("leases_refused_total", "counter", stats.leases_refused.load(Ordering::Relaxed).to_string()),
        ("sightings_total", "counter", stats.sightings.load(Ordering::Relaxed).to_string()),
        ("positions_passed_on_total", "counter", stats.proofs.load(Ordering::Relaxed).to_string()),
    ];
    drop(state);
    let line = |(name, kind, value): (&str, &str, String)| {
        format!("# TYPE portcullis_relay_{name} {kind}\nportcullis_relay_{name} {value}\n")
    };
    let body: String = lines.into_iter().map(line).collect();
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"))], body).into_response()
}
