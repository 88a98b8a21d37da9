//! `/oauth2/par` (RFC 9126): a client hands its authorization request over before it sends the browser.
use super::request::request_of;
use super::{OAuthForm, problem};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portcullis_domain::pushed;
use serde_json::json;

pub(super) async fn par(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let OAuthForm { known, mut params, resources } = OAuthForm::read(&ctx, form).await?;
    let request = request_of(&mut params, resources);
    let request_uri = ctx.app().push_request(known.client.id, &request).await.map_err(problem)?;
    let answer = render::ok(&json!({ "request_uri": request_uri, "expires_in": pushed::LIFE / 1000 }));
    Ok((StatusCode::CREATED, answer).into_response())
}
