//! `/v1/admin/revocations`, and the end of one session.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Ends, Id, Json};
use crate::revoking::{self, WAIT, Wait, Who};
use axum::response::Response;
use portcullis_app::{Admin, EventFilter, EventRow, Revoked};
use portcullis_wire::{Rev, SessionId};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

pub(super) async fn end_session(ctx: Ctx, admin: Ends<Admin>, Id(sid): Id<SessionId>) -> Result<Response, Problem> {
    let wait = Wait::only(&ctx)?;
    let repeat = ctx.repeat(b"")?;
    let revoked = match revoking::or_before(&ctx, repeat.as_ref(), admin).await? {
        Who::Acts(admin) => ctx.app().admin_end_session(&admin, sid, repeat.as_ref()).await?,
        Who::Did(revoked) => revoked,
    };
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    everyone: Option<bool>,
    filter: Option<IgnoredAny>,
    except: Option<String>,
    now: Option<IgnoredAny>,
    reason: String,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn create(ctx: Ctx, admin: Ends<Admin>, body: Json<Create>) -> Result<Response, Problem> {
    let mut params = ctx.params(&WAIT)?;
    let wait = Wait::of(&ctx, &mut params)?;
    let repeat = ctx.repeat(&body.bytes)?;
    let admin = match revoking::or_before(&ctx, repeat.as_ref(), admin).await? {
        Who::Acts(admin) => admin,
        Who::Did(revoked) => return Ok(revoking::reply(&ctx, &revoked, wait).await),
    };
    let Create { everyone, filter, except, now, reason, dry_run } = body.value;
    if filter.is_some() || now.is_some() {
        let field = if filter.is_some() { "filter" } else { "now" };
        return Err(Problem::value(field, "this server has no filtered revocations yet; use {\"everyone\": true}"));
    }
    if everyone != Some(true) {
        return Err(Problem::value("everyone", "must be true: there is no other revocation here yet"));
    }
    let except = except.map(|text| text.parse::<SessionId>()).transpose();
    let except = except.map_err(|error| Problem::value("except", error.to_string()))?;
    if dry_run {
        let counted = ctx.app().admin_count_live(&admin, except, &reason).await?;
        return Ok(render::ok(&json!({ "dry_run": true, "sessions": counted.sessions, "accounts": counted.accounts })));
    }
    let revoked = ctx.app().admin_end_everyone(&admin, except, &reason, repeat.as_ref()).await?;
    Ok(revoking::reply(&ctx, &revoked, wait).await)
}

pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["account_id", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let filter = EventFilter { account: params.parsed("account_id")?, kind: None, revocations: true };
    let page = ctx.app().admin_events(&admin, &filter, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.event.id.to_string());
    Ok(render::list("revocations", page.rows.iter().map(|row| with_enforcement(&ctx, row)).collect(), next))
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(rev): Id<u64>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let row = ctx.app().admin_revocation(&admin, Rev(rev)).await?;
    Ok(render::ok(&with_enforcement(&ctx, &row)))
}

fn with_enforcement(ctx: &Ctx, row: &EventRow) -> Value {
    let mut out = render::revocation(row);
    if let Some(rev) = row.rev {
        let revoked = Revoked { rev, ended: row.ended, at: row.at };
        out["enforcement"] = revoking::enforcement_body(&revoked, &ctx.app().hub().enforcement(&revoked));
    }
    out
}
