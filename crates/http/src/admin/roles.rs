//! `/v1/admin/roles`: roles of many accounts at once.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Json};
use axum::response::Response;
use portcullis_app::roles::{MAX_ACCOUNTS, RoleChange};
use portcullis_wire::AccountId;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    account_ids: Vec<String>,
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    spread_ms: Option<u64>,
    reason: Option<String>,
}

/// Repeating it is safe: who has the wanted roles is left alone. Under an `Idempotency-Key` it also takes back nothing that was
/// done to these accounts since.
pub(super) async fn change(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Change>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let repeat = ctx.repeat(&body.bytes)?;
    let Change { account_ids, add, remove, spread_ms, reason } = body.value;
    if account_ids.len() > MAX_ACCOUNTS {
        return Err(Problem::value("account_ids", "must name 1 to 1000 accounts"));
    }
    let accounts: Result<Vec<AccountId>, _> = account_ids.iter().map(|id| id.parse()).collect();
    let accounts = accounts.map_err(|error| Problem::value("account_ids", error.to_string()))?;
    let change = RoleChange { accounts, add, remove, spread_ms, reason };
    let done = ctx.app().admin_change_roles(&admin, change, repeat.as_ref()).await?;
    Ok(render::ok(&json!({
        "changed": done.changed, "unchanged": done.unchanged, "missing": done.missing, "rev": done.rev,
    })))
}
