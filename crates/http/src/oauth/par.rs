//! `/oauth2/par` (RFC 9126): a client hands its authorization request over before it sends the browser.
use super::request::request_of;
use super::{OAuthForm, dpop, problem, refuse};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portcullis_domain::pushed;
use portcullis_domain::refused::OAuthError;
use portcullis_wire::b64;
use serde_json::json;

pub(super) async fn par(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let OAuthForm { known, mut params, resources, .. } = OAuthForm::read(&ctx, form).await?;
    let mut request = request_of(&mut params, resources);
    // A proof here says which key the code is to be bound to (RFC 9449 §10.1).
    let sender = dpop::sender(&ctx, &known, "/oauth2/par", false).await?;
    if let Some(sender) = sender {
        let jkt = b64::encode(&sender.0);
        if request.dpop_jkt.as_ref().is_some_and(|asked| *asked != jkt) {
            return Err(refuse(OAuthError::InvalidDpopProof, "dpop_jkt is not the thumbprint of the proof's key"));
        }
        request.dpop_jkt = Some(jkt);
    }
    let request_uri = ctx.app().push_request(&known, &request, ctx.ip).await.map_err(problem)?;
    if sender.is_some() {
        ctx.app().was_worth_its_proof(&known, ctx.ip);
    }
    let answer = render::ok(&json!({ "request_uri": request_uri, "expires_in": pushed::LIFE / 1000 }));
    let answer = (StatusCode::CREATED, answer).into_response();
    Ok(if sender.is_some() { dpop::with_nonce(&ctx, answer) } else { answer })
}
