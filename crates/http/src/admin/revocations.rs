//! `/v1/admin/revocations`, and the end of one session.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Ends, Id, Json};
use crate::revoking::{self, WAIT, Wait, Who};
use axum::response::Response;
use http::StatusCode;
use portcullis_app::mass::Filtered;
use portcullis_app::{Admin, EventFilter, EventRow, Revoked};
use portcullis_domain::mass::{Filter, Job, MAX_IDS, Network};
use portcullis_wire::{JobId, Rev, SessionId, Time};
use serde::Deserialize;
use serde_json::{Value, json};
use std::str::FromStr;

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
    filter: Option<FilterBody>,
    except: Option<String>,
    #[serde(default)]
    now: bool,
    reason: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterBody {
    account_ids: Option<Vec<String>>,
    client_ids: Option<Vec<String>>,
    created_before: Option<String>,
    address_range: Option<String>,
}

impl FilterBody {
    fn read(self) -> Result<Filter, Problem> {
        let wrong = |field: &'static str| move |why: String| Problem::value(field, why);
        let created_before = self.created_before.map(|text| text.parse::<Time>()).transpose();
        let network = self.address_range.map(|text| text.parse::<Network>()).transpose();
        let filter = Filter {
            accounts: ids("account_ids", self.account_ids)?,
            clients: ids("client_ids", self.client_ids)?,
            created_before: created_before.map_err(|error| wrong("created_before")(error.to_string()))?,
            network: network.map_err(|error| wrong("address_range")(error.to_string()))?,
        };
        if filter.is_empty() {
            return Err(Problem::value("filter", "names nothing; to end every session use {\"everyone\": true}"));
        }
        Ok(filter)
    }
}

/// A list of ids: not empty, bounded, sorted, each once.
fn ids<T: FromStr + Ord>(field: &'static str, given: Option<Vec<String>>) -> Result<Vec<T>, Problem>
where
    T::Err: std::fmt::Display,
{
    let Some(given) = given else { return Ok(vec![]) };
    if given.is_empty() || given.len() > MAX_IDS {
        return Err(Problem::value(field, format!("must have 1 to {MAX_IDS} ids; leave it out to match any")));
    }
    let read = |text: &String| text.parse().map_err(|error| Problem::value(field, format!("{text:?}: {error}")));
    let mut ids = given.iter().map(read).collect::<Result<Vec<T>, Problem>>()?;
    ids.sort();
    ids.dedup();
    Ok(ids)
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
    let except = except.map(|text| text.parse::<SessionId>()).transpose();
    let except = except.map_err(|error| Problem::value("except", error.to_string()))?;
    let filter = match (everyone, filter) {
        (Some(true), None) => None,
        (None, Some(filter)) => Some(filter.read()?),
        (Some(_), Some(_)) => return Err(Problem::value("everyone", "give either a filter or everyone, not both")),
        _ => return Err(Problem::value("everyone", "must be true, unless a filter is given")),
    };
    if dry_run {
        let counted = match &filter {
            Some(filter) => ctx.app().admin_count_matching(&admin, filter, except, &reason).await?,
            None => ctx.app().admin_count_live(&admin, except, &reason).await?,
        };
        return Ok(render::ok(&json!({ "dry_run": true, "sessions": counted.sessions, "accounts": counted.accounts })));
    }
    let Some(filter) = filter else {
        let revoked = ctx.app().admin_end_everyone(&admin, except, &reason, repeat.as_ref()).await?;
        return Ok(revoking::reply(&ctx, &revoked, wait).await);
    };
    match ctx.app().admin_revoke(&admin, &filter, except, now, &reason, repeat.as_ref()).await? {
        Filtered::Done(revoked) => Ok(revoking::reply(&ctx, &revoked, wait).await),
        Filtered::Job { job, revoked } => {
            let job = ctx.app().admin_job(&admin, job).await?;
            let out = json!({ "job": job.id, "rev": revoked.rev, "bounded_by": bounded_by(&ctx, &job) });
            if let Wait(Some(timeout)) = wait {
                let job = ctx.app().wait_for_job(job, timeout).await?;
                return Ok(render::ok(&job_body(&ctx, &job).await));
            }
            Ok(render::answer(StatusCode::ACCEPTED, &out))
        }
    }
}

/// By when it is true everywhere, whatever happens: with `now` B after the commit; else, since nothing that matches is refreshed
/// any more, when the longest token made before has expired.
fn bounded_by(ctx: &Ctx, job: &Job) -> Time {
    let app = ctx.app();
    let ms = if job.now { app.hub().bounded_by_ms() } else { app.settings().rules.max_life() };
    job.created_at.plus(ms)
}

/// A job as `GET /v1/admin/revocations/{job}` shows it. `enforcement` is that of the newest entry that it wrote; it is complete
/// when the job is done, too, unless it was asked for now.
async fn job_body(ctx: &Ctx, job: &Job) -> Value {
    let mut out = render::job(job);
    let revoked = Revoked { rev: job.last, ended: None, at: job.created_at };
    let mut told = revoking::enforcement_body(&revoked, &ctx.app().hub().enforcement_now(&revoked).await);
    told["bounded_by"] = json!(bounded_by(ctx, job));
    if !job.now && job.finished_at.is_none() {
        told["complete"] = false.into();
    }
    out["bounded_by"] = json!(bounded_by(ctx, job));
    out["enforcement"] = told;
    out
}

pub(super) async fn list(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["account_id", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let filter = EventFilter { account: params.parsed("account_id")?, kind: None, revocations: true };
    let page = ctx.app().admin_events(&admin, &filter, cursor, limit).await?;
    let next = render::next(&page.rows, page.more, |row| row.event.id.to_string());
    let revs: Vec<Rev> = page.rows.iter().filter_map(|row| row.rev).collect();
    ctx.app().hub().ask_about(&revs).await;
    Ok(render::list("revocations", page.rows.iter().map(|row| with_enforcement(&ctx, row)).collect(), next))
}

/// What a path names: a rev, or a job.
pub(super) enum Named {
    Rev(Rev),
    Job(JobId),
}

impl FromStr for Named {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse::<u64>() {
            Ok(rev) => Ok(Self::Rev(Rev(rev))),
            Err(_) => text.parse().map(Self::Job).map_err(|_| ()),
        }
    }
}

pub(super) async fn get(ctx: Ctx, AsAdmin(admin): AsAdmin, Id(named): Id<Named>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    match named {
        Named::Rev(rev) => {
            let row = ctx.app().admin_revocation(&admin, rev).await?;
            ctx.app().hub().ask_about(&[rev]).await;
            Ok(render::ok(&with_enforcement(&ctx, &row)))
        }
        Named::Job(job) => {
            let job = ctx.app().admin_job(&admin, job).await?;
            Ok(render::ok(&job_body(&ctx, &job).await))
        }
    }
}

fn with_enforcement(ctx: &Ctx, row: &EventRow) -> Value {
    let mut out = render::revocation(row);
    if let Some(rev) = row.rev {
        let revoked = Revoked { rev, ended: row.ended, at: row.at };
        out["enforcement"] = revoking::enforcement_body(&revoked, &ctx.app().hub().enforcement(&revoked));
    }
    out
}
