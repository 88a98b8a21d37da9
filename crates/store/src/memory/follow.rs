//! Followers of the trail, and webhooks.
use super::Memory;
use super::apply::require;
use crate::CommitError;
use portcullis_domain::changes::Conflict;
use portcullis_domain::follow::{Follower, FollowerStep};
use portcullis_domain::webhook::Webhook;
use portcullis_wire::WebhookId;

impl Memory {
    /// As [`Store::list_followers`](crate::Store::list_followers).
    pub fn list_followers(&self) -> Vec<Follower> {
        self.followers.rows().map(|(name, place)| Follower { name: name.clone(), place: *place }).collect()
    }

    /// As [`Store::load_webhook`](crate::Store::load_webhook).
    pub fn load_webhook(&self, id: WebhookId) -> Option<Webhook> {
        self.webhooks.get(&id).cloned()
    }

    /// As [`Store::list_webhooks`](crate::Store::list_webhooks).
    pub fn list_webhooks(&self) -> Vec<Webhook> {
        self.webhooks.rows().map(|(_, row)| row.clone()).collect()
    }
}

pub(super) fn step(db: &mut Memory, step: FollowerStep) -> Result<(), CommitError> {
    require(db.followers.get(&step.name).copied() == step.from, Conflict::Moved)?;
    match step.to {
        Some(to) => db.followers.put(step.name, to),
        None => db.followers.remove(&step.name),
    }
    Ok(())
}

pub(super) fn insert_webhook(db: &mut Memory, row: Webhook) -> Result<(), CommitError> {
    require(!db.webhooks.has(&row.id), Conflict::Moved)?;
    db.webhooks.put(row.id, row);
    Ok(())
}

pub(super) fn update_webhook(db: &mut Memory, row: Webhook) -> Result<(), CommitError> {
    let kept = db.webhooks.get(&row.id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
    require(kept.version == row.version, Conflict::Moved)?;
    db.webhooks.put(row.id, Webhook { created_at: kept.created_at, version: kept.version + 1, ..row });
    Ok(())
}

pub(super) fn remove_webhook(db: &mut Memory, id: WebhookId) -> Result<(), CommitError> {
    require(db.webhooks.has(&id), Conflict::Missing)?;
    db.webhooks.remove(&id);
    Ok(())
}
