//! `POST /v1/recovery`: a link to a new password, and the new password.
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, Json};
use crate::revoking::Wait;
use axum::response::Response;
use http::StatusCode;
use portcullis_wire::SecretString;
use serde::Deserialize;
use serde_json::json;

/// Both forms of the body: asking for a link, and using one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    identifier: Option<String>,
    token: Option<SecretString>,
    password: Option<SecretString>,
}

pub(super) async fn recover(ctx: Ctx, body: Json<Body>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    match body.value {
        Body { identifier: Some(identifier), token: None, password: None } => {
            ctx.app().recover(&identifier, ctx.ip).await?;
            // Alike for every address.
            Ok(render::answer(StatusCode::ACCEPTED, &json!({})))
        }
        Body { identifier: None, token: Some(token), password: Some(password) } => {
            // By key and link alone: keys are chosen by others, and who finds a used link must not try passwords against it.
            let repeat = ctx.repeat(token.expose().as_bytes())?;
            let revoked = ctx.app().reset_password(&token, password, ctx.ip, repeat.as_ref()).await?;
            Ok(super::me::ended(&ctx, &revoked, wait).await)
        }
        _ => Err(Problem::malformed("send `identifier` to be sent a link, or `token` and `password` to use one")),
    }
}
