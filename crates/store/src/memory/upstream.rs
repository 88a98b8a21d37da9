//! Links to people at other providers, and sessions that came from there.
use super::Memory;
use super::apply::require;
use crate::CommitError;
use portcullis_domain::changes::Conflict;
use portcullis_domain::upstream::{CameFrom, Link, LinkView, Origin};
use portcullis_wire::{AccountId, LinkId, SessionId, Time};
use std::ops::Bound::{Excluded, Unbounded};

impl Memory {
    /// As [`Store::load_link`](crate::Store::load_link).
    pub fn load_link(&self, issuer: &str, subject: &str, now: Time) -> LinkView {
        let mut rows = self.links.rows().map(|(_, row)| row);
        let link = rows.find(|row| row.issuer == issuer && row.subject == subject);
        let found = link.and_then(|link| Some((link.clone(), self.accounts.get(&link.account)?.clone())));
        LinkView { stamp: self.stamp(now), found }
    }

    /// As [`Store::list_links`](crate::Store::list_links).
    pub fn list_links(&self, account: AccountId, limit: u32) -> Vec<Link> {
        let mut rows: Vec<Link> =
            self.links.rows().map(|(_, row)| row).filter(|row| row.account == account).cloned().collect();
        rows.sort_by_key(|row| (row.created_at, row.id));
        rows.truncate(limit as usize);
        rows
    }

    /// As [`Store::list_sessions_from`](crate::Store::list_sessions_from).
    pub fn list_sessions_from(
        &self,
        from: &CameFrom,
        after: Option<SessionId>,
        limit: u32,
    ) -> Vec<(AccountId, SessionId)> {
        let fits = |row: &Origin| {
            row.issuer == from.issuer
                && (from.subject.is_some() || from.sid.is_some())
                && from.subject.as_ref().is_none_or(|subject| *subject == row.subject)
                && from.sid.as_ref().is_none_or(|sid| row.sid.as_ref() == Some(sid))
        };
        let rows = self.origins.range((after.map_or(Unbounded, Excluded), Unbounded));
        let ids = rows.filter(|(_, row)| fits(row)).filter_map(|(id, _)| self.sessions.get(id));
        ids.filter(|row| row.ended.is_none()).map(|row| (row.account, row.id)).take(limit as usize).collect()
    }
}

pub(super) fn insert_link(db: &mut Memory, row: Link) -> Result<(), CommitError> {
    require(db.accounts.has(&row.account), Conflict::Missing)?;
    let taken = db.links.rows().any(|(_, other)| (&other.issuer, &other.subject) == (&row.issuer, &row.subject));
    require(!taken && !db.links.has(&row.id), Conflict::Moved)?;
    db.links.put(row.id, row);
    Ok(())
}

pub(super) fn use_link(db: &mut Memory, link: LinkId, begun: Time, at: Time) -> Result<(), CommitError> {
    let row = db.links.get(&link).filter(|row| row.out_at.is_none_or(|out| out < begun)).cloned();
    let row = row.ok_or(CommitError::Conflict(Conflict::Moved))?;
    db.links.put(link, Link { used_at: at, ..row });
    Ok(())
}

pub(super) fn sign_out_link(db: &mut Memory, issuer: &str, subject: &str, at: Time) {
    let row = db.links.rows().map(|(_, row)| row).find(|row| row.issuer == issuer && row.subject == subject);
    if let Some(row) = row.cloned() {
        let out_at = Some(row.out_at.unwrap_or(Time::ZERO).max(at));
        db.links.put(row.id, Link { out_at, ..row });
    }
}

pub(super) fn remove_link(db: &mut Memory, account: AccountId, link: LinkId) -> Result<(), CommitError> {
    require(db.links.get(&link).is_some_and(|row| row.account == account), Conflict::Missing)?;
    db.links.remove(&link);
    Ok(())
}

pub(super) fn insert_origin(db: &mut Memory, row: Origin) -> Result<(), CommitError> {
    require(db.sessions.has(&row.session), Conflict::Missing)?;
    require(!db.origins.has(&row.session), Conflict::Moved)?;
    db.origins.put(row.session, row);
    Ok(())
}

/// What a tombstone keeps nothing of.
pub(super) fn forget_account(db: &mut Memory, account: AccountId) {
    let links: Vec<LinkId> = db.list_links(account, u32::MAX).iter().map(|row| row.id).collect();
    links.iter().for_each(|id| db.links.remove(id));
    let sessions: Vec<SessionId> = db.sessions_of(account).map(|row| row.id).collect();
    sessions.iter().for_each(|id| db.origins.remove(id));
}
