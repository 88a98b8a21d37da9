//! `/v1/me/apps`: what the own account allowed applications.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsCaller, Ctx, Id};
use crate::revoking::{self, Wait};
use axum::response::Response;
use portcullis_app::oauth::ConnectedApp;
use portcullis_wire::ClientId;
use serde_json::{Value, json};

pub(super) async fn list(ctx: Ctx, AsCaller(caller): AsCaller) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let apps = ctx.app().my_apps(&caller).await?;
    Ok(render::list("apps", apps.iter().map(shown).collect(), None))
}

fn shown(app: &ConnectedApp) -> Value {
    json!({
        "client_id": app.client.id, "name": app.client.name, "client_uri": app.client.profile.client_uri,
        "scope": app.scope, "granted_at": app.granted_at, "last_used_at": app.last_used_at,
        "grants": app.grants, "offline": app.offline,
    })
}

/// Takes it back: everything that the application has of the account ends.
pub(super) async fn disconnect(
    ctx: Ctx,
    AsCaller(caller): AsCaller,
    Id(client): Id<ClientId>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let revoked = ctx.app().disconnect_app(&caller, client, repeat.as_ref()).await?;
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}
