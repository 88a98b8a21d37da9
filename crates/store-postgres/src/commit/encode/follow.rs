//! Followers of the trail and webhooks: `set_follower`.
use super::{Encoded, id, int, maybe, text, text_if, texts};
use crate::commit::hex;
use portcullis_domain::changes::Change;
use portcullis_domain::webhook::Webhook;
use portcullis_store::StoreError;
use serde_json::{Value, json};

pub(super) fn step(what: &Change) -> Encoded {
    Ok(match what {
        Change::StepFollower(step) => json!({
            "do": "step_follower", "name": text(&step.name), "from": maybe(step.from, int)?, "to": maybe(step.to, int)?,
        }),
        Change::InsertWebhook(row) => webhook("insert_webhook", row),
        Change::UpdateWebhook(row) => webhook("update_webhook", row),
        Change::RemoveWebhook(webhook) => json!({"do": "remove_webhook", "id": id(*webhook)}),
        other => return Err(StoreError::new(format_args!("a change nobody applies: {other:?}"))),
    })
}

fn webhook(what: &str, row: &Webhook) -> Value {
    let old = row.old_secret.as_ref();
    json!({
        "do": what, "id": id(row.id), "url": text(&row.url), "description": text_if(row.description.as_ref()),
        "events": texts(&row.events), "enabled": row.enabled, "disabled_why": text_if(row.disabled_why.as_ref()),
        "secret": hex(row.secret.expose()), "old_secret": old.map(|(secret, _)| hex(secret.expose())),
        "old_until": old.map(|(_, until)| until.0), "created_at": row.created_at.0, "version": row.version,
    })
}
