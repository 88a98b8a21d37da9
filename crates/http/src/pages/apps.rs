//! `/account/apps`: what an account allowed applications, and how to take that back.
use super::words::ago;
use super::{devices, go, page};
use crate::origin;
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::AppError;
use portcullis_app::oauth::ConnectedApp;
use portcullis_domain::Refused;
use portcullis_wire::{ClientId, Code, Time};

pub(super) const PATH: &str = "/account/apps";

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    let caller = match devices::caller(&ctx, PATH).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let mut params =
        Params::oauth(ctx.uri.query().unwrap_or("").as_bytes()).map_err(|_| Problem::new(Code::Malformed))?;
    let notice = params.take("done").map(|_| "It is disconnected: what it had has ended, everywhere.");
    let now = caller.view.stamp.now;
    let issuer = &ctx.shared.config().issuer;
    let apps: Vec<_> = ctx.app().my_apps(&caller).await?.iter().map(|app| shown(app, issuer, now)).collect();
    let account = &caller.view.account;
    let who = super::who(account);
    page(&ctx, StatusCode::OK, "apps.html", context! { who, apps, notice })
}

fn shown(app: &ConnectedApp, issuer: &str, now: Time) -> minijinja::Value {
    context! {
        begins_at => app.client.profile.begins_at(issuer),
        id => app.client.id.to_string(), name => app.client.name, uri => app.client.profile.client_uri,
        scopes => app.scope.split(' ').collect::<Vec<_>>(), offline => app.offline, grants => app.grants,
        since => ago(app.granted_at, now), since_at => app.granted_at.to_string(),
        used => app.last_used_at.map(|at| ago(at, now)), used_at => app.last_used_at.map(|at| at.to_string()),
    }
}

pub(super) async fn disconnect(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let caller = match devices::caller(&ctx, PATH).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let client: ClientId =
        params.take("client").and_then(|id| id.parse().ok()).ok_or_else(|| Problem::new(Code::NotFound))?;
    match ctx.app().disconnect_app(&caller, client, None).await {
        // Taken back already: that is what was wanted.
        Ok(_) | Err(AppError::Refused(Refused::NotFound)) => Ok(go("/account/apps?done=1", vec![])),
        Err(error) => Err(error.into()),
    }
}
