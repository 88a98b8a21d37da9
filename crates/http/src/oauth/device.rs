//! `/oauth2/device` (RFC 8628 §3.1): a device without a browser begins.
use super::{OAuthForm, dpop, problem};
use crate::problem::Problem;
use crate::render;
use crate::request::{Ctx, FormBytes};
use axum::response::Response;
use portcullis_domain::client::GrantType;
use portcullis_domain::device_code::{self, Asked, INTERVAL_S, LIFE};
use serde_json::json;

const PATH: &str = "/oauth2/device";

/// RFC 8628 §3.2.
pub(super) async fn begin(ctx: Ctx, form: FormBytes) -> Result<Response, Problem> {
    let mut form = OAuthForm::read(&ctx, form).await?;
    form.known.must_have(GrantType::DeviceCode).map_err(problem)?;
    // Who shows a proof here can redeem the code with that key alone, as a code of a pushed request (RFC 9449 §10).
    let sender = dpop::sender(&ctx, &form.known, PATH, false).await?;
    let asked = Asked { scope: form.params.take("scope"), resources: form.resources, sender };
    let device_code::Begun { device_code, user_code } =
        ctx.app().begin_device(&form.known, &asked, ctx.ip).await.map_err(problem)?;
    if asked.sender.is_some() {
        ctx.app().was_worth_its_proof(&form.known, ctx.ip);
    }
    let place = format!("{}{}", ctx.shared.config().issuer, crate::pages::DEVICE);
    let answer = render::ok(&json!({
        "device_code": device_code.expose(), "user_code": user_code.expose(),
        "verification_uri": place, "verification_uri_complete": format!("{place}?user_code={}", user_code.expose()),
        "expires_in": LIFE / 1000, "interval": INTERVAL_S,
    }));
    Ok(if asked.sender.is_some() { dpop::with_nonce(&ctx, answer) } else { answer })
}
