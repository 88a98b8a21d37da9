//! `/v1/feed`: the log as verifiers receive it. The frames are made by `app`; here they become a response that no proxy should
//! keep or delay. What a relay reads and writes alike is public.
use crate::accept::Unending;
use crate::problem::{BASIC_CHALLENGE, Problem};
use crate::render;
use crate::request::{self, Basic, Ctx, Json, Params, Shared};
use crate::table::Table;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use portcullis_app::hub::subscription::Opening;
use portcullis_domain::account;
use portcullis_domain::model::{Client, ClientKind};
use portcullis_feed::Policies;
use portcullis_wire::frame::{AckRequest, SightingsRequest};
use portcullis_wire::{Code, InstanceId, Rev, SecretString};
use serde_json::json;
use std::convert::Infallible;

pub(crate) fn routes(table: Table) -> Table {
    let table = table.get("/v1/feed", open).post("/v1/feed/acks", acknowledge);
    let table = table.post("/v1/feed/sightings", sightings);
    table.get("/v1/feed/snapshot", snapshot).get("/v1/feed/known", known)
}

/// Credentials that are nobody's.
pub fn not_known() -> Problem {
    let detail = "Authenticate with HTTP Basic as a client of kind verifier: its id and its secret.";
    Problem::because(Code::InvalidCredentials, detail).header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
}

/// Credentials of a client of another kind.
pub fn no_verifier() -> Problem {
    Problem::because(Code::Forbidden, "The feed is for clients of kind verifier.")
}

/// What a verifier says of itself when it opens a stream.
#[derive(Debug)]
pub struct Wanted {
    /// What administrators see it called; else its client's name.
    pub name: Option<String>,
    /// The policies of its routes.
    pub policies: Policies,
    /// A bound of its own, in milliseconds.
    pub bound_ms: Option<u64>,
    /// Which instance it was, with its secret.
    pub instance: Option<(InstanceId, SecretString)>,
}

impl Wanted {
    /// From query and headers.
    ///
    /// # Errors
    /// The first parameter that is not known or not right.
    pub fn of(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut params = Params::parse(query.unwrap_or(""), &["name", "policy", "bound_ms", "instance"])?;
        let name = params.take("name").map(|name| account::check_text("name", &name)).transpose();
        let name = name.map_err(portcullis_app::AppError::from)?;
        let policies = params.parsed("policy")?.unwrap_or_default();
        let bound_ms = match params.take("bound_ms").map(|text| text.parse::<u64>()) {
            None => None,
            Some(Ok(given @ 1..)) => Some(given),
            Some(_) => return Err(Problem::value("bound_ms", "must be a whole number of milliseconds, from 1")),
        };
        let instance = params.parsed::<InstanceId>("instance")?;
        let secret = headers.get("portcullis-instance-secret").and_then(|value| value.to_str().ok());
        Ok(Self { name, policies, bound_ms, instance: instance.zip(secret.map(SecretString::new)) })
    }
}

/// Which page of a snapshot is asked for: its number, and the position of the pages pulled so far.
///
/// # Errors
/// The first parameter that is not known or not right.
pub fn page_of(query: Option<&str>) -> Result<(u32, Option<Rev>), Problem> {
    let mut params = Params::parse(query.unwrap_or(""), &["part", "rev"])?;
    let number = |name: &str, text: Option<String>| match text.map(|text| text.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Problem::value(name, "must be a whole number")),
    };
    let (part, rev) = (number("part", params.take("part"))?, number("rev", params.take("rev"))?);
    let part = u32::try_from(part.unwrap_or(0)).map_err(|_| Problem::not_found())?;
    Ok((part, rev.map(Rev)))
}

/// A response that no proxy should keep or delay, with these events.
pub fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Body::from_stream(events.map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(Unending);
    response
}

/// The verifier client behind HTTP Basic. Unknown, wrong and switched off read the same.
async fn verifier(ctx: &Ctx, again: bool) -> Result<Client, Problem> {
    let Basic { id, secret, .. } = ctx.basic().ok_or_else(not_known)?;
    let client = match again {
        true => ctx.app().authenticate_again(&id, &secret).await?,
        false => ctx.app().authenticate_client(&id, &secret).await?,
    };
    let client = client.ok_or_else(not_known)?;
    if client.kind != ClientKind::Verifier {
        return Err(no_verifier());
    }
    Ok(client)
}

/// The verifier that calls, asked for before query and body are looked at.
struct AsVerifier(Client);

impl FromRequestParts<Shared> for AsVerifier {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Ok(Self(verifier(&request::ctx_of(parts, shared).await, false).await?))
    }
}

/// The same for what each verifier calls again and again.
struct AsVerifierAgain(Client);

impl FromRequestParts<Shared> for AsVerifierAgain {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        Ok(Self(verifier(&request::ctx_of(parts, shared).await, true).await?))
    }
}

async fn open(ctx: Ctx, AsVerifier(client): AsVerifier) -> Result<Response, Problem> {
    let Wanted { name, policies, bound_ms, instance } = Wanted::of(ctx.uri.query(), &ctx.headers)?;
    // A longer one than the server's changes nothing. It is no error: the server's may have been lowered below what its verifiers
    // were set to, and they must be able to come back.
    let most = u64::try_from(ctx.app().hub().bound_ms()).unwrap_or(u64::MAX);
    let opening = Opening {
        name: name.unwrap_or_else(|| client.name.clone()),
        policies,
        bound_ms: bound_ms.map(|given| given.min(most)),
        instance,
        last_event_id: ctx.header("last-event-id").map(str::to_owned),
    };
    let subscription = ctx.app().hub().open(&client, opening).await?;
    Ok(events(stream::unfold(subscription, |mut subscription| async {
        let bytes = subscription.next().await?;
        Some((bytes, subscription))
    })))
}

async fn acknowledge(
    ctx: Ctx,
    AsVerifierAgain(client): AsVerifierAgain,
    body: Json<AckRequest>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let answer = ctx.app().hub().acknowledge(client.id, &body.value).await?;
    Ok(render::ok(&answer))
}

/// Where services were shown access tokens. What cannot be used is left out and counted: no verifier hangs on this.
async fn sightings(
    ctx: Ctx,
    AsVerifierAgain(client): AsVerifierAgain,
    body: Json<SightingsRequest>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let taken = ctx.app().take_sightings(client.id, &body.value).await?;
    Ok(render::ok(&json!({ "taken": taken })))
}

/// For a relay, which asks with the credentials and the `Last-Event-ID` that it was shown: whether they are right.
async fn known(ctx: Ctx, AsVerifier(client): AsVerifier) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let position = match ctx.header("last-event-id") {
        Some(text) => ctx.app().hub().vouches(client.id, text).await?,
        None => false,
    };
    Ok(render::ok(&json!({ "client_id": client.id, "name": client.name, "position": position })))
}

/// A page of the snapshot, for verifiers whose acknowledgement was answered with `"snapshot"`.
async fn snapshot(ctx: Ctx, _: AsVerifier) -> Result<Response, Problem> {
    let (part, rev) = page_of(ctx.uri.query())?;
    let page = ctx.app().hub().snapshot_page(part, rev)?;
    Ok(render::ok(&serde_json::to_value(&page).map_err(|_| Problem::new(Code::Unavailable))?))
}
