//! `/v1/admin/rules`: the rules of risk and what they did; `/v1/admin/signals`: what somebody outside says of an account.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Ends, Json};
use crate::revoking::{self, Wait, Who};
use axum::response::Response;
use portcullis_app::Admin;
use portcullis_app::risk::{Told, parse_kind};
use portcullis_domain::account::check_text;
use portcullis_wire::AccountId;
use serde::Deserialize;
use serde_json::json;

/// What is in force here, and how often each rule has said something since the start.
pub(super) async fn state(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let state = ctx.app().admin_rules(&admin).await?;
    let rules: Vec<_> = state
        .rules
        .iter()
        .map(|one| json!({ "name": one.rule, "shadow": one.shadow, "hits": one.hits, "last_at": one.last_at }))
        .collect();
    let body = json!({
        "version": state.version, "observed": state.observed, "blocks_held_back": state.capped, "rules": rules,
    });
    Ok(render::ok(&body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    account_id: String,
    kind: String,
    detail: Option<String>,
}

/// Takes a signal, which is judged at once. Where that ends something it answers as every revoking call does.
pub(super) async fn signal(ctx: Ctx, admin: Ends<Admin>, body: Json<Signal>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Signal { account_id, kind, detail } = body.value;
    let account: AccountId = account_id.parse().map_err(|_| Problem::value("account_id", "is no id of an account"))?;
    let kind = parse_kind(&kind)
        .ok_or_else(|| Problem::value("kind", "must be `credential_leaked`, `device_lost` or `fraud`"))?;
    let detail =
        detail.map(|detail| check_text("detail", &detail)).transpose().map_err(portcullis_app::AppError::from)?;
    let revoked = match revoking::or_before(&ctx, repeat.as_ref(), admin).await? {
        Who::Acts(admin) => {
            let told = Told { account, kind, detail };
            ctx.app().admin_signal(&admin, &told, repeat.as_ref()).await?
        }
        Who::Did(revoked) => Some(revoked),
    };
    let mut answer = match &revoked {
        Some(revoked) => revoking::body(&ctx, revoked, wait).await,
        None => json!({ "rev": null, "ended": null, "enforcement": null }),
    };
    answer["acted"] = json!(revoked.is_some());
    Ok(render::ok(&answer))
}
