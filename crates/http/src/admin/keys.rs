//! `/v1/admin/keys`: what signs, what waits, what is dead; rotation, revocation, and the master key.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Id, Json, MaybeJson};
use crate::revoking::{self, Wait};
use axum::response::Response;
use portcullis_app::keys::MasterKey;
use portcullis_domain::keys::Wanted;
use portcullis_wire::{KeyId, SecretString};
use serde::Deserialize;
use serde_json::json;

/// Signing and MAC keys, without their private parts.
pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor::<KeyId>()?);
    let (mut keys, floor) = ctx.app().admin_keys(&admin).await?;
    keys.retain(|key| cursor.is_none_or(|after| key.id > after));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = render::next(&keys, more, |key| key.id.to_string());
    Ok(render::list("keys", keys.iter().map(|key| render::key(key, floor)).collect(), next))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    #[serde(rename = "use")]
    usage: Option<String>,
}

/// Another signing key now, or another MAC key, or (without a word) both. Answers with the keys of then.
pub(super) async fn rotate(ctx: Ctx, AsAdmin(admin): AsAdmin, body: MaybeJson<Rotate>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let usage = body.value.and_then(|body| body.usage);
    let repeat = ctx.repeat(usage.as_deref().unwrap_or_default().as_bytes())?;
    let wanted = match usage.as_deref() {
        None => Wanted { signing: true, mac: true },
        Some("sig") => Wanted { signing: true, mac: false },
        Some("mac") => Wanted { signing: false, mac: true },
        Some(_) => return Err(Problem::value("use", "must be `sig` or `mac`; without it both are rotated")),
    };
    ctx.app().admin_rotate_keys(&admin, wanted, repeat.as_ref()).await?;
    let (keys, floor) = ctx.app().admin_keys(&admin).await?;
    Ok(render::list("keys", keys.iter().map(|key| render::key(key, floor)).collect(), None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    reason: String,
}

/// A signing key is dead from now on, for good.
pub(super) async fn revoke(
    ctx: Ctx,
    AsAdmin(admin): AsAdmin,
    Id(id): Id<KeyId>,
    body: Json<Revoke>,
) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(&body.bytes)?;
    let revoked = ctx.app().admin_revoke_key(&admin, id, &body.value.reason, repeat.as_ref()).await?;
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Master {
    new_key: SecretString,
}

/// All stored keys are sealed under another master key; by the admin socket only.
pub(super) async fn rotate_master(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Master>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let next = MasterKey::parse(&body.value.new_key);
    let next = next.ok_or_else(|| Problem::value("new_key", "must be 32 bytes in base64"))?;
    let (resealed, kept) = ctx.app().admin_rotate_master(&admin, next).await?;
    Ok(render::ok(&json!({ "resealed": resealed, "kept_in_data_dir": kept })))
}
