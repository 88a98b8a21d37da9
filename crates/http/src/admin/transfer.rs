//! `/v1/admin/import` and `/v1/admin/export`: accounts in and out, in batches.
use crate::problem::Problem;
use crate::render;
use crate::request::{AsAdmin, Ctx, Json, cursor_text};
use axum::response::Response;
use portcullis_domain::Refused;
use portcullis_domain::import::{self, Checked, Fate, FirebaseProject, Line, MAX_BATCH};
use portcullis_wire::Code;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// As they come: a line that is no account is refused by itself, and the others go on.
    accounts: Vec<Value>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn import(ctx: Ctx, AsAdmin(admin): AsAdmin, body: Json<Import>) -> Result<Response, Problem> {
    ctx.params(&[])?;
    let Import { accounts, dry_run } = body.value;
    if !(1..=MAX_BATCH).contains(&accounts.len()) {
        return Err(Problem::value("accounts", format!("must hold 1 to {MAX_BATCH} accounts")));
    }
    let read: Vec<Result<Checked, Value>> = accounts.into_iter().map(read).collect();
    let right = read.iter().filter_map(|line| line.as_ref().ok()).cloned().collect();
    let mut fates = ctx.app().admin_import(&admin, right, dry_run).await?.into_iter();
    let (mut created, mut unchanged, mut refused) = (0, 0, 0);
    let mut results = Vec::with_capacity(read.len());
    for line in &read {
        let told = match line {
            Err(told) => told.clone(),
            // Each line that is right by itself has its fate, in the same order.
            Ok(_) => match fates.next().ok_or_else(|| Problem::new(Code::Unavailable))? {
                Fate::Made(id) => json!({ "status": "created", "id": id }),
                Fate::There(id, differs) => json!({ "status": "unchanged", "id": id, "differs": differs }),
                Fate::Refused(why) => refusal(&why),
            },
        };
        match told["status"].as_str() {
            Some("created") => created += 1,
            Some("unchanged") => unchanged += 1,
            _ => refused += 1,
        }
        results.push(told);
    }
    let counts = json!({
        "dry_run": dry_run, "created": created, "unchanged": unchanged, "refused": refused, "results": results,
    });
    Ok(render::ok(&counts))
}

fn read(value: Value) -> Result<Checked, Value> {
    let line = serde_json::from_value::<Line>(value).map_err(|error| {
        let detail = import::without_values(&error.to_string());
        json!({ "status": "refused", "code": Code::Malformed.as_str(), "detail": detail })
    })?;
    import::check(line, &FirebaseProject::default()).map_err(|why| refusal(&why))
}

fn refusal(why: &Refused) -> Value {
    let mut out = json!({ "status": "refused", "code": why.code().as_str() });
    match why {
        Refused::InvalidValue { field, detail } => {
            out["field"] = (*field).into();
            out["detail"] = detail.as_str().into();
        }
        Refused::Conflict { detail } => out["detail"] = detail.as_str().into(),
        Refused::EmailTaken => {
            out["field"] = "email".into();
            out["detail"] =
                "another account has this address; change or delete that one, or leave this line out".into();
        }
        other => out["detail"] = other.code().title().into(),
    }
    out
}

pub(super) async fn export(ctx: Ctx, AsAdmin(admin): AsAdmin) -> Result<Response, Problem> {
    let mut params = ctx.params(&["password_hashes", "limit", "cursor"])?;
    let (limit, cursor) = (params.limit()?, params.cursor()?);
    let with_hashes = params.parsed::<bool>("password_hashes")?.unwrap_or(false);
    let exported = ctx.app().admin_export(&admin, with_hashes, cursor, limit).await.map_err(|error| {
        let problem = Problem::from(error);
        match problem.code {
            Code::Forbidden => {
                problem.saying("hashes of passwords are given on the admin socket only, to the operator")
            }
            _ => problem,
        }
    })?;
    let next = exported.next.map(cursor_text);
    Ok(render::ok(&json!({ "accounts": exported.lines, "next": next })))
}
