//! What clients have of accounts: consents, grants, tickets.
use super::Memory;
use super::apply::require;
use crate::CommitError;
use portcullis_domain::changes::Conflict;
use portcullis_domain::model::{Client, Consent};
use portcullis_domain::ticket::{Ticket, TicketKind, Used};
use portcullis_domain::view::{AppView, GrantView, TicketView};
use portcullis_wire::{AccountId, ClientId, Digest, SessionId, Time};
use std::cmp::Reverse;

impl Memory {
    /// As [`Store::load_app`](crate::Store::load_app).
    pub fn load_app(&self, session: SessionId, client: ClientId, now: Time) -> Option<AppView> {
        let session = self.load_session(session, now)?;
        let consent = self.consents.get(&(session.account.id, client)).cloned();
        Some(AppView { session, client: self.clients.get(&client)?.clone(), consent })
    }

    /// As [`Store::load_ticket`](crate::Store::load_ticket).
    pub fn load_ticket(&self, id: Digest, now: Time) -> Option<TicketView> {
        let ticket = self.tickets.get(&id.0)?.clone();
        let app = ticket.session.zip(ticket.client).and_then(|(session, client)| self.load_app(session, client, now));
        Some(TicketView { stamp: self.stamp(now), ticket, app })
    }

    /// As [`Store::list_grants`](crate::Store::list_grants).
    pub fn list_grants(&self, account: AccountId, client: Option<ClientId>, limit: u32, now: Time) -> Vec<GrantView> {
        let mut found = Vec::new();
        for session in self.sessions_of(account).filter(|session| self.lives(session, now)) {
            for grant in self.grants_of(session.id).iter().filter_map(|id| self.grants.get(id)) {
                let cut = self.clients.get(&grant.client).map(|client| client.cut).unwrap_or_default();
                let asked = client.is_none_or(|client| client == grant.client);
                if asked && grant.ended.is_none() && !cut.kills(grant.born, session.id) {
                    found.push(GrantView { grant: grant.clone(), session: session.clone() });
                }
            }
        }
        found.sort_by_key(|view| Reverse((view.session.created_at, view.session.id, view.grant.id)));
        found.truncate(limit as usize);
        found
    }

    /// As [`Store::list_consents`](crate::Store::list_consents).
    pub fn list_consents(&self, account: AccountId) -> Vec<Consent> {
        let (first, last) = (ClientId::from_bits(0), ClientId::from_bits(u128::MAX));
        self.consents.range((account, first)..=(account, last)).map(|(_, row)| row.clone()).collect()
    }

    /// How often a consent was withdrawn.
    pub(super) fn generation(&self, account: AccountId, client: ClientId) -> u32 {
        self.consents.get(&(account, client)).map_or(0, |row| row.generation)
    }

    /// Both are there, and the consent is where the decision saw it.
    fn require_generation(&self, account: AccountId, client: ClientId, generation: u32) -> Result<(), CommitError> {
        require(self.accounts.has(&account) && self.clients.has(&client), Conflict::Missing)?;
        require(self.generation(account, client) == generation, Conflict::Moved)
    }
}

pub(super) fn update_client(db: &mut Memory, row: Client) -> Result<(), CommitError> {
    let kept = db.clients.get(&row.id).ok_or(CommitError::Conflict(Conflict::Missing))?;
    require(kept.version == row.version, Conflict::Moved)?;
    let (disabled, cut, version) = (kept.disabled, kept.cut, kept.version + 1);
    db.clients.put(row.id, Client { disabled, cut, version, ..row });
    Ok(())
}

pub(super) fn put_consent(db: &mut Memory, row: Consent) -> Result<(), CommitError> {
    db.require_generation(row.account, row.client, row.generation)?;
    db.consents.put((row.account, row.client), row);
    Ok(())
}

pub(super) fn withdraw_consent(
    db: &mut Memory,
    account: AccountId,
    client: ClientId,
    generation: u32,
    now: Time,
) -> Result<(), CommitError> {
    db.require_generation(account, client, generation)?;
    let granted_at = db.consents.get(&(account, client)).map_or(now, |row| row.granted_at);
    let row = Consent { account, client, scope: String::new(), granted_at, generation: generation + 1 };
    db.consents.put((account, client), row);
    Ok(())
}

/// A ticket that was not used yet.
fn unused(db: &Memory, id: &Digest) -> Result<Ticket, CommitError> {
    let row = db.tickets.get(&id.0).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
    require(row.used.is_none(), Conflict::Used)?;
    Ok(row)
}

pub(super) fn update_ticket(db: &mut Memory, row: Ticket) -> Result<(), CommitError> {
    let kept = unused(db, &row.id)?;
    require(kept.version == row.version, Conflict::Moved)?;
    let Ticket { id, account, session, expires_at, body, .. } = row;
    let version = kept.version + 1;
    db.tickets.put(id.0, Ticket { account, session, expires_at, body, version, ..kept });
    Ok(())
}

pub(super) fn use_ticket(db: &mut Memory, id: Digest, used: Used) -> Result<(), CommitError> {
    let row = unused(db, &id)?;
    db.tickets.put(id.0, Ticket { used: Some(used), ..row });
    Ok(())
}

/// Oldest first.
pub(super) fn prune_tickets(db: &mut Memory, before: Time, most: u64) -> u64 {
    let mut old: Vec<(Time, [u8; 32])> = db.tickets.rows().map(|(id, row)| (row.expires_at, *id)).collect();
    old.retain(|(expires_at, _)| *expires_at < before);
    old.sort();
    old.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    old.iter().for_each(|(_, id)| db.tickets.remove(id));
    old.len() as u64
}

/// Those of this kind under a session that are too many, of those that were used and of those that were not; how many.
pub(super) fn crowd_out_tickets(db: &mut Memory, session: SessionId, kind: TicketKind, open: u32, used: u32) -> u64 {
    let mut gone = 0;
    for (was_used, most) in [(false, open), (true, used)] {
        let own = |row: &&Ticket| row.session == Some(session) && row.kind == kind && row.used.is_some() == was_used;
        let rows = db.tickets.rows().map(|(_, row)| row).filter(own);
        let mut all: Vec<_> = rows.map(|row| Reverse((row.expires_at, row.id.0))).collect();
        all.sort();
        for Reverse((_, id)) in all.into_iter().skip(most as usize) {
            db.tickets.remove(&id);
            gone += 1;
        }
    }
    gone
}

/// Of a tombstone nothing stays that it allowed or began.
pub(super) fn forget_account(db: &mut Memory, account: AccountId) {
    for row in db.list_consents(account) {
        db.consents.remove(&(account, row.client));
    }
    remove_tickets(db, |row| row.account == Some(account));
}

/// A log that begins anew honours no ticket of the old one.
pub(super) fn forget_tickets(db: &mut Memory) {
    remove_tickets(db, |_| true);
}

fn remove_tickets(db: &mut Memory, which: impl Fn(&Ticket) -> bool) {
    let gone: Vec<[u8; 32]> = db.tickets.rows().filter(|(_, row)| which(row)).map(|(id, _)| *id).collect();
    gone.iter().for_each(|id| db.tickets.remove(id));
}
