//! `/v1/me/links`: who of other providers may sign in to the own account.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsCaller, Ctx, Id};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portcullis_wire::LinkId;

pub(super) async fn list(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let links = ctx.app().my_links(&caller).await?;
    Ok(render::links(&links))
}

pub(super) async fn remove(ctx: Ctx, AsCaller(caller): AsCaller, Id(link): Id<LinkId>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    ctx.app().remove_my_link(&caller, link).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
