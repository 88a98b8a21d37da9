//! `/v1/feed`: the log as verifiers receive it. The frames are made by `app`; here they become a response that no proxy should
//! keep or delay.
use crate::problem::{BASIC_CHALLENGE, Problem};
use crate::render;
use crate::request::{self, Ctx, Json, Shared};
use crate::table::Table;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::request::Parts;
use http::{HeaderValue, header};
use portcullis_app::hub::subscription::Opening;
use portcullis_domain::account;
use portcullis_domain::model::{Client, ClientKind};
use portcullis_feed::Policies;
use portcullis_wire::frame::AckRequest;
use portcullis_wire::{Code, InstanceId, Rev, SecretString};
use serde_json::json;
use std::convert::Infallible;

pub(crate) fn routes(table: Table) -> Table {
    let table = table.get("/v1/feed", open).post("/v1/feed/acks", acknowledge);
    table.get("/v1/feed/snapshot", snapshot).get("/v1/feed/known", known)
}

/// The verifier client behind HTTP Basic. Unknown, wrong and switched off read the same.
async fn verifier(ctx: &Ctx, again: bool) -> Result<Client, Problem> {
    let refused = || {
        let detail = "Authenticate with HTTP Basic as a client of kind verifier: its id and its secret.";
        Problem::because(Code::InvalidCredentials, detail).header(header::WWW_AUTHENTICATE, BASIC_CHALLENGE)
    };
    let (id, secret) = ctx.basic().ok_or_else(refused)?;
    let client = match again {
        true => ctx.app().authenticate_again(&id, &secret).await?,
        false => ctx.app().authenticate_client(&id, &secret).await?,
    };
    let client = client.ok_or_else(refused)?;
    if client.kind != ClientKind::Verifier {
        return Err(Problem::because(Code::Forbidden, "The feed is for clients of kind verifier."));
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
    let mut params = ctx.params(&["name", "policy", "bound_ms", "instance"])?;
    let name = match params.take("name") {
        Some(name) => account::check_text("name", &name).map_err(portcullis_app::AppError::from)?,
        None => client.name.clone(),
    };
    let policies: Policies = params.parsed("policy")?.unwrap_or_default();
    let bound_ms = match params.take("bound_ms").map(|text| text.parse::<u64>()) {
        None => None,
        Some(Ok(given @ 1..)) => {
            // A longer one than the server's changes nothing. It is no error: the server's may have been lowered below what
            // its verifiers were set to, and they must be able to come back.
            let most = u64::try_from(ctx.app().hub().bound_ms()).unwrap_or(u64::MAX);
            Some(given.min(most))
        }
        Some(_) => return Err(Problem::value("bound_ms", "must be a whole number of milliseconds, from 1")),
    };
    let instance = params.parsed::<InstanceId>("instance")?;
    let secret = ctx.header("portcullis-instance-secret").map(SecretString::new);
    let opening = Opening {
        name,
        policies,
        bound_ms,
        instance: instance.zip(secret),
        last_event_id: ctx.header("last-event-id").map(str::to_owned),
    };
    let subscription = ctx.app().hub().open(&client, opening).await?;
    let events = stream::unfold(subscription, |mut subscription| async {
        let bytes = subscription.next().await?;
        Some((Ok::<_, Infallible>(bytes), subscription))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

async fn acknowledge(
    ctx: Ctx,
    AsVerifierAgain(client): AsVerifierAgain,
    body: Json<AckRequest>,
) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let answer = ctx.app().hub().acknowledge(client.id, &body.value).await?;
    Ok(render::ok(&serde_json::to_value(&answer).map_err(|_| Problem::new(Code::Unavailable))?))
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
    let mut params = ctx.params(&["part", "rev"])?;
    let number = |name: &str, text: Option<String>| match text.map(|text| text.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Problem::value(name, "must be a whole number")),
    };
    let (part, rev) = (number("part", params.take("part"))?, number("rev", params.take("rev"))?);
    let part = u32::try_from(part.unwrap_or(0)).map_err(|_| Problem::not_found())?;
    let page = ctx.app().hub().snapshot_page(part, rev.map(Rev))?;
    Ok(render::ok(&serde_json::to_value(&page).map_err(|_| Problem::new(Code::Unavailable))?))
}
