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
use portcullis_domain::email::Opened;
use portcullis_wire::SecretString;

pub(super) async fn show(ctx: Ctx, Id(secret): Id<String>) -> Result<Response, Problem> {
    match ctx.app().open_address_link(&SecretString::new(&*secret)).await {
        Ok(link) => {
            let own = link.account.email.unwrap_or_default();
            let (address, changes) = match link.opened {
                Opened::Done => return done(&ctx, &own, false),
                Opened::Proves => (own, false),
                Opened::Changes(to) => (to, true),
            };
            let made = portcullis_app::mail::minute(link.account.created_at);
            page(&ctx, StatusCode::OK, "email.html", context! { secret, address, changes, made }).map(quiet)
        }
        Err(error) => refused(&ctx, error),
    }
}

fn done(ctx: &Ctx, address: &str, changed: bool) -> Result<Response, Problem> {
    page(ctx, StatusCode::OK, "email_done.html", context! { address, changed }).map(quiet)
}

pub(super) async fn confirm(ctx: Ctx, Id(secret): Id<String>, body: FormBytes) -> Result<Response, Problem> {
    form_of(&ctx, body).await?;
    match ctx.app().confirm_address(&SecretString::new(&*secret), ctx.ip).await {
        Ok((opened, address)) => done(&ctx, &address, matches!(opened, Opened::Changes(_))),
        Err(error) => refused(&ctx, error),
    }
}
