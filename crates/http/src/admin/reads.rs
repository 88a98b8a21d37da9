//! `/v1/admin/verifiers`, `/v1/admin/events`.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx};
use axum::response::Response;
use portcullis_app::EventFilter;
use portcullis_domain::EventKind;
use portcullis_wire::InstanceId;
use serde_json::json;

/// Running copies of verifiers, whichever node they hang on.
pub(super) async fn verifiers(ctx: Ctx, _: AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor::<InstanceId>()?);
    let fleet = ctx.app().hub().fleet().await.map_err(portcullis_app::AppError::from)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // They come by id.
    let mut rows: Vec<_> =
        fleet.instances.iter().filter(|one| cursor.is_none_or(|after| one.listed.instance.id > after)).collect();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = render::next(&rows, more, |one| one.listed.instance.id.to_string());
    let rows: Vec<_> = rows.into_iter().map(|one| render::verifier(one, fleet.head)).collect();
    let body = json!({ "verifiers": rows, "head": fleet.head, "silent_nodes": fleet.silent, "next": next });
    Ok(render::ok(&body))
}

/// Audit records, newest first.
pub(super) async fn events(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["account_id", "kind", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let kind = params.take("kind");
    if let Some(kind) = &kind
        && EventKind::parse(kind).is_none()
    {
        let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        return Err(Problem::value("kind", format!("must be one of {}", known.join(", "))));
    }
    let filter = EventFilter { account: params.parsed("account_id")?, kind, revocations: false };
    let page = ctx.app().admin_events(&admin, &filter, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.event.id.to_string());
    Ok(render::list("events", page.rows.iter().map(render::event).collect(), next))
}
