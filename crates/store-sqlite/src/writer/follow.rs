//! Followers of the trail, and webhooks.
use super::apply::run;
use super::check::holds;
use super::{Act, Stop};
use crate::cells::{Id, Int, any, roles};
use portcullis_domain::changes::Conflict;
use portcullis_domain::follow::FollowerStep;
use portcullis_domain::webhook::Webhook;
use portcullis_wire::WebhookId;
use rusqlite::params;

pub(super) fn step(act: &Act<'_>, step: &FollowerStep) -> Result<(), Stop> {
    let name = &step.name;
    let changed = match (step.from, step.to) {
        (None, Some(to)) => {
            let sql = "INSERT INTO followers (name, place) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";
            run(act, sql, params![name, Int(to)])?
        }
        (Some(from), Some(to)) => {
            let sql = "UPDATE followers SET place = ?3 WHERE name = ?1 AND place = ?2";
            run(act, sql, params![name, Int(from), Int(to)])?
        }
        (Some(from), None) => {
            run(act, "DELETE FROM followers WHERE name = ?1 AND place = ?2", params![name, Int(from)])?
        }
        (None, None) => usize::from(!any(act.db, "SELECT 1 FROM followers WHERE name = ?1", [name])?),
    };
    holds(changed == 1, Conflict::Moved)
}

pub(super) fn insert_webhook(act: &Act<'_>, row: &Webhook) -> Result<(), Stop> {
    const SQL: &str = "INSERT INTO webhooks (id, url, description, events, enabled, disabled_why, secret, old_secret, \
         old_until, created_at, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
    let old = row.old_secret.as_ref();
    let params = params![
        row.id.blob(),
        row.url,
        row.description,
        roles(&row.events),
        row.enabled,
        row.disabled_why,
        row.secret.expose(),
        old.map(|(secret, _)| secret.expose()),
        old.map(|(_, until)| until.0),
        row.created_at.0,
        row.version,
    ];
    holds(run(act, SQL, params)? == 1, Conflict::Moved)
}

pub(super) fn update_webhook(act: &Act<'_>, row: &Webhook) -> Result<(), Stop> {
    const SQL: &str = "UPDATE webhooks SET url = ?3, description = ?4, events = ?5, enabled = ?6, disabled_why = ?7, \
         secret = ?8, old_secret = ?9, old_until = ?10, version = version + 1 WHERE id = ?1 AND version = ?2";
    let old = row.old_secret.as_ref();
    let params = params![
        row.id.blob(),
        row.version,
        row.url,
        row.description,
        roles(&row.events),
        row.enabled,
        row.disabled_why,
        row.secret.expose(),
        old.map(|(secret, _)| secret.expose()),
        old.map(|(_, until)| until.0),
    ];
    if run(act, SQL, params)? == 1 {
        return Ok(());
    }
    let there = any(act.db, "SELECT 1 FROM webhooks WHERE id = ?1", [row.id.blob()])?;
    Err(Stop::Conflict(if there { Conflict::Moved } else { Conflict::Missing }))
}

pub(super) fn remove_webhook(act: &Act<'_>, id: WebhookId) -> Result<(), Stop> {
    holds(run(act, "DELETE FROM webhooks WHERE id = ?1", [id.blob()])? == 1, Conflict::Missing)
}
