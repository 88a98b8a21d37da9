//! `POST /v1/accounts`.
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, Json};
use axum::response::Response;
use http::StatusCode;
use portcullis_wire::SecretString;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignUp {
    email: String,
    password: SecretString,
    name: Option<String>,
}

pub(super) async fn sign_up(ctx: Ctx, body: Json<SignUp>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let SignUp { email, password, name } = body.value;
    match ctx.app().sign_up(&email, password, name.as_deref(), ctx.ip).await? {
        Some(account) => Ok(render::answer(StatusCode::CREATED, &render::account(&account, account.created_at))),
        // Alike for every address.
        None => Ok(render::answer(StatusCode::ACCEPTED, &json!({}))),
    }
}
