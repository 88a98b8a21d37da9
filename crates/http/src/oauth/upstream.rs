//! `/upstream/{id}/backchannel-logout`: another provider says that somebody signed out there.
use super::invalid_request;
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use portcullis_app::AppError;
use portcullis_wire::Code;

/// 200 once the end is committed, also when nothing had come from there; 400 for what is no logout token of this provider
/// (Back-Channel Logout §2.8).
pub(super) async fn logout(ctx: Ctx, Path(id): Path<String>, form: FormBytes) -> Result<Response, Problem> {
    let body = form.0.ok_or_else(|| invalid_request("send the body as application/x-www-form-urlencoded"))?;
    let mut params = Params::oauth(&body).map_err(|name| invalid_request(format!("{name:?} is given twice")))?;
    let token = params.take("logout_token").ok_or_else(|| invalid_request("the logout token is missing"))?;
    match ctx.app().upstream_logout(&id, &token, ctx.ip).await {
        Ok(_) => {
            let mut response = StatusCode::OK.into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
        Err(AppError::Bad(Code::Malformed, detail)) => Err(invalid_request(detail)),
        Err(error) => Err(error.into()),
    }
}
