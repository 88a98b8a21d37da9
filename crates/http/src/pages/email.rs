//! `/email`: a link that proves an address, or gives an account another one.
//!
//! As with all links in mails, following it changes nothing; the form on its page does.
use super::page;
use super::recover::{form_of, quiet, refused};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Id};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::AppError;
use portcullis_domain::Refused;
use portcullis_domain::email::Opened;
use portcullis_wire::SecretString;

pub(super) async fn show(ctx: Ctx, Id(secret): Id<String>) -> Result<Response, Problem> {
    form(&ctx, StatusCode::OK, &secret, None).await
}

async fn form(ctx: &Ctx, status: StatusCode, secret: &str, error: Option<&str>) -> Result<Response, Problem> {
    match ctx.app().open_address_link(&SecretString::new(secret)).await {
        Ok(link) => {
            let asks = link.opened == Opened::Proves && link.account.password_hash.is_some();
            let own = link.account.email.unwrap_or_default();
            let (address, changes) = match link.opened {
                Opened::Done => return done(ctx, &own, false),
                Opened::Proves => (own, false),
                Opened::Changes(to) => (to, true),
            };
            let made = portcullis_app::mail::minute(link.account.created_at);
            page(ctx, status, "email.html", context! { secret, address, changes, made, asks, error }).map(quiet)
        }
        Err(error) => refused(ctx, error),
    }
}

fn done(ctx: &Ctx, address: &str, changed: bool) -> Result<Response, Problem> {
    page(ctx, StatusCode::OK, "email_done.html", context! { address, changed }).map(quiet)
}

pub(super) async fn confirm(ctx: Ctx, Id(secret): Id<String>, body: FormBytes) -> Result<Response, Problem> {
    let mut params = form_of(&ctx, body).await?;
    let password = SecretString::new(params.take("password").unwrap_or_default());
    match ctx.app().confirm_address(&SecretString::new(&*secret), Some(password), ctx.ip).await {
        Ok((opened, address)) => done(&ctx, &address, matches!(opened, Opened::Changes(_))),
        Err(AppError::Refused(Refused::InvalidCredentials)) => {
            let words = "This is not the password that was chosen when the account was made. If it was not you who made it, choose a new one by the link below: that confirms your address, too.";
            form(&ctx, StatusCode::UNAUTHORIZED, &secret, Some(words)).await
        }
        Err(error) => refused(&ctx, error),
    }
}
