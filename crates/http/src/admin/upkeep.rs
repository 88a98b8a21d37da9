//! What only the operator on the admin socket may do: copies of the database, and founding its log anew.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Json};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    path: String,
}

/// Writes a copy of the database to a file on this machine.
pub(super) async fn backup(ctx: Ctx, _: AsAdmin, body: Json<Backup>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let path = PathBuf::from(body.value.path);
    if !path.is_absolute() {
        return Err(Problem::value("path", "must begin with /"));
    }
    let stamp = ctx.app().operator_backup(path.clone()).await?;
    Ok(render::ok(&json!({
        "path": path, "log": stamp.log, "epoch": stamp.epoch, "rev": stamp.head, "chain": stamp.chain, "at": stamp.now,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refound {
    reason: String,
}

/// Founds the log anew.
pub(super) async fn refound(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Refound>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let done = ctx.app().admin_refound(&admin, &body.value.reason).await?;
    Ok(render::ok(&json!({
        "epoch": done.epoch, "rev": done.rev, "old_epoch": done.old_epoch, "old_head": done.old_head, "proven": done.proven,
    })))
}

/// Whether the database is older than what it has said, and what proves it.
pub(super) async fn rollback(ctx: Ctx, _: AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let proof = ctx.app().hub().rolled_back();
    Ok(render::ok(&json!({ "rolled_back": proof.is_some(), "proof": proof.as_deref() })))
}

/// A word to send through the public address, as the header `Portcullis-Probe`.
pub(super) async fn probe(ctx: Ctx, _: AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&json!({ "probe": ctx.shared.config().probe.ask().expose() })))
}

/// How the call with that word arrived; `null` when none has.
pub(super) async fn probed(ctx: Ctx, _: AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    Ok(render::ok(&json!({ "seen": ctx.shared.config().probe.answer() })))
}
