//! What goes when its time has passed. Whether it may stands in `domain::retention`.
use super::Memory;
use crate::{EventRow, Prunable, RowCount};
use portcullis_domain::audit::Seal;
use portcullis_domain::model::{Session, Status};
use portcullis_domain::retention::{self, Retention, Standing};
use portcullis_wire::{AccountId, ClientId, EventId, GrantId, Millis, Rev, SessionId, Time};
use std::ops::Bound::{Excluded, Unbounded};

/// What happens to audit records at the end of a commit, when nothing can fail any more.
#[derive(Debug, Clone)]
pub(super) enum OfEvents {
    Seal(Vec<(EventId, Seal)>),
    Erase { most: u64 },
    Delete { up_to: u64 },
    ForgetAddresses { before: Time, most: u64 },
}

impl Memory {
    fn stands_at(&self, now: Time) -> Standing {
        Standing { forgotten: self.meta.forgotten, floor: self.meta.floor, now }
    }

    pub(super) fn grants_of(&self, session: SessionId) -> Vec<GrantId> {
        let (first, last) = (GrantId::from_bits(0), GrantId::from_bits(u128::MAX));
        self.grants_of.range((session, first)..=(session, last)).map(|((_, id), ())| *id).collect()
    }

    fn may_go(&self, session: &Session, keep: &Retention, now: Time) -> bool {
        let used_at = self.refreshed_at(session.id).unwrap_or(session.last_seen_at);
        let grant_end: Option<Rev> =
            self.grants_of(session.id).iter().filter_map(|id| self.grants.get(id)?.ended).max();
        retention::may_go(session, used_at, grant_end, &self.stands_at(now), keep)
    }

    /// As [`Store::list_prunable`](crate::Store::list_prunable).
    pub fn list_prunable(&self, keep: &Retention, cursor: Option<SessionId>, look_at: u32, now: Time) -> Prunable {
        let mut rows = self.sessions.range((cursor.map_or(Unbounded, Excluded), Unbounded));
        let mut out = Prunable::default();
        for (id, session) in rows.by_ref().take(look_at as usize) {
            if self.may_go(session, keep, now) {
                out.sessions.push(*id);
            } else if retention::address_may_go(session, now, keep) {
                out.addresses.push(*id);
            }
            out.next = Some(*id);
        }
        if rows.next().is_none() {
            out.next = None;
        }
        out
    }

    /// As [`Store::list_due_accounts`](crate::Store::list_due_accounts).
    pub fn list_due_accounts(&self, limit: u32, now: Time) -> Vec<AccountId> {
        let until = |status: &Status| match status {
            Status::Blocked(block) => block.until,
            Status::Deleting { until, .. } => Some(*until),
            Status::Active | Status::Deleted { .. } => None,
        };
        let rows = self.accounts.rows().filter_map(|(id, row)| Some((until(&row.status)?, *id)));
        let mut due: Vec<_> = rows.filter(|(until, _)| *until <= now).collect();
        due.sort();
        due.into_iter().take(limit as usize).map(|(_, id)| id).collect()
    }

    /// As [`Store::count_rows`](crate::Store::count_rows).
    pub fn count_rows(&self) -> RowCount {
        RowCount {
            accounts: self.accounts.len() as u64,
            sessions: self.sessions.len() as u64,
            grants: self.grants.len() as u64,
            events: self.events.len() as u64,
            entries: self.log.len() as u64,
            remembered: self.remembered.len() as u64,
            instances: self.instances.len() as u64,
            tickets: self.tickets.len() as u64,
            consents: self.consents.len() as u64,
            memories: self.memories.len() as u64,
        }
    }
}

/// Grants that have ended and were forgotten; how many.
pub(super) fn grants(db: &mut Memory, most: u64, now: Time) -> u64 {
    let at = db.stands_at(now);
    let ended = db.grants.rows().filter_map(|(id, row)| Some((row.ended?, *id, row.session)));
    let mut gone: Vec<_> = ended.filter(|(end, ..)| retention::grant_may_go(*end, &at)).collect();
    gone.sort();
    gone.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    for (_, id, session) in &gone {
        db.grants.remove(id);
        db.grants_of.remove(&(*session, *id));
    }
    gone.len() as u64
}

/// Clients that nobody used.
pub(super) fn clients(db: &mut Memory, clients: &[ClientId], unused: Millis, now: Time) -> u64 {
    let mut gone = 0;
    for id in clients {
        let held = db.consents.rows().any(|((_, client), _)| client == id)
            || db.grants.rows().any(|(_, row)| row.client == *id)
            || db.sessions.rows().any(|(_, row)| row.client == Some(*id))
            || db.tickets.rows().any(|(_, row)| row.client == Some(*id));
        if db.clients.get(id).is_some_and(|row| retention::client_may_go(row, held, now, unused)) {
            db.clients.remove(id);
            gone += 1;
        }
    }
    gone
}

pub(super) fn sessions(db: &mut Memory, sessions: &[SessionId], keep: &Retention, now: Time) -> u64 {
    let mut gone = 0;
    for id in sessions {
        let Some(row) = db.sessions.get(id).cloned().filter(|row| db.may_go(row, keep, now)) else { continue };
        for grant in db.grants_of(*id) {
            db.grants.remove(&grant);
            db.grants_of.remove(&(*id, grant));
        }
        db.sessions.remove(id);
        db.origins.remove(id);
        db.sessions_of.remove(&(row.account, *id));
        gone += 1;
    }
    gone
}

pub(super) fn session_addresses(db: &mut Memory, sessions: &[SessionId], keep: &Retention, now: Time) -> u64 {
    let mut gone = 0;
    for id in sessions {
        let row = db.sessions.get(id).filter(|row| retention::address_may_go(row, now, keep));
        if let Some(row) = row.cloned() {
            db.sessions.put(*id, Session { ip: None, ..row });
            gone += 1;
        }
    }
    gone
}

/// The addresses of a tombstone's sessions.
pub(super) fn addresses_of(db: &mut Memory, account: AccountId) {
    let rows: Vec<Session> = db.sessions_of(account).filter(|row| row.ip.is_some()).cloned().collect();
    for row in rows {
        db.sessions.put(row.id, Session { ip: None, ..row });
    }
}

pub(super) fn events(db: &mut Memory, what: OfEvents) -> u64 {
    let limit = |most| usize::try_from(most).unwrap_or(usize::MAX);
    match what {
        OfEvents::Seal(seals) => {
            for (id, seal) in seals {
                let Some(row) = db.event_at.get(&id).and_then(|at| db.events.get_mut(*at)) else { continue };
                row.seal = Some(seal);
                without_lost_salts(row);
            }
            0
        }
        OfEvents::Erase { most } => erase_records(db, limit(most)),
        OfEvents::Delete { up_to } => {
            let all = db.events.len();
            db.events.retain(|row| row.seal.is_none_or(|seal| seal.place.n > up_to));
            if db.events.len() < all {
                db.event_at = db.events.iter().enumerate().map(|(n, row)| (row.event.id, n)).collect();
            }
            (all - db.events.len()) as u64
        }
        OfEvents::ForgetAddresses { before, most } => {
            let with = db.events.iter().enumerate().filter(|(_, row)| row.event.ip.is_some() && row.at < before);
            let mut with: Vec<(Time, usize)> = with.map(|(n, row)| (row.at, n)).collect();
            with.sort();
            with.truncate(limit(most));
            for (_, n) in &with {
                db.events[*n].event.ip = None;
                without_lost_salts(&mut db.events[*n]);
            }
            with.len() as u64
        }
    }
}

/// What can be erased of the records about a tombstone is erased later, a few at a time.
pub(super) fn leave_erasure(db: &mut Memory, account: AccountId) {
    if !db.erasures.has(&account) {
        let about = db.events.iter().filter(|row| row.event.account == Some(account));
        let about = about.map(|row| row.event.id).collect();
        db.erasures.put(account, about);
    }
}

fn erase_records(db: &mut Memory, most: usize) -> u64 {
    let Some((account, mut left)) = db.erasures.rows().next().map(|(id, left)| (*id, left.clone())) else { return 0 };
    left.retain(|id| db.event_at.contains_key(id));
    let rest = left.split_off(most.min(left.len()));
    for id in &left {
        let Some(row) = db.event_at.get(id).and_then(|at| db.events.get_mut(*at)) else { continue };
        (row.event.ip, row.event.reason) = (None, None);
        without_lost_salts(row);
    }
    let done = left.len() < most;
    match done {
        true => db.erasures.remove(&account),
        false => db.erasures.put(account, rest),
    }
    left.len() as u64 + u64::from(done)
}

/// A salt goes with its value.
fn without_lost_salts(row: &mut EventRow) {
    let Some(seal) = &mut row.seal else { return };
    let here = [row.event.ip.is_some(), row.event.reason.is_some()];
    for (hidden, here) in [&mut seal.hides.address, &mut seal.hides.reason].into_iter().zip(here) {
        if let Some(hidden) = hidden
            && !here
        {
            hidden.salt = None;
        }
    }
}
