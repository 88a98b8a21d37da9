//! `/oauth2/global-token-revocation` (draft-parecki-oauth-global-token-revocation-06).
use super::AsClient;
use crate::problem::Problem;
use crate::request::{Ctx, Json};
use crate::revoking::{self, Wait};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portcullis_app::oauth::Subject;
use serde::Deserialize;

/// The body (§4.2). Members beside `sub_id` are ignored, as OAuth's endpoints do.
#[derive(Deserialize)]
pub(super) struct Asked {
    sub_id: Subject,
}

/// 204 once the end is committed; with `?wait=enforced` when it is true everywhere, or the wait is over.
pub(super) async fn revoke(ctx: Ctx, AsClient(tool): AsClient, body: Json<Asked>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let revoked = ctx.app().revoke_globally(&tool, &body.value.sub_id, ctx.ip).await?;
    if wait.0.is_some() {
        revoking::body(&ctx, &revoked, wait).await;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
