//! Notices of what has ended, and messages on their way out.
use super::Memory;
use super::apply::require;
use crate::{CommitError, Due, MessageCount, MessageFilter, Page};
use portcullis_domain::changes::{Conflict, Revoke};
use portcullis_domain::model::{Session, SessionKind};
use portcullis_domain::outbox::{Allowed, Ending, Message, MessageState, Notice, NoticeStep, Told, Under, UnderGrant};
use portcullis_domain::receivers::Queue;
use portcullis_domain::{Cut, outbox};
use portcullis_wire::{ClientId, MessageId, Rev, SessionId, Target, Time};
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

impl Memory {
    /// As [`Store::list_notices`](crate::Store::list_notices).
    pub fn list_notices(&self, limit: u32) -> Vec<Notice> {
        self.notices.rows().take(limit as usize).map(|(_, row)| row.clone()).collect()
    }

    /// As [`Store::read_told`](crate::Store::read_told).
    pub fn read_told(&self, notice: &Notice, look: u32) -> Told {
        let after = (notice.cursor.map_or(Unbounded, Excluded), Unbounded);
        let asked = |id: &SessionId| match notice.what {
            Ending::Session(session) | Ending::Grant { session, .. } => session == *id,
            // Those that had ended by themselves before have, or had, a notice of their own.
            Ending::Account { account, .. } => self.sessions.get(id).is_some_and(|row| {
                row.account == account && row.ended.as_ref().is_none_or(|ended| ended.rev > notice.rev)
            }),
            Ending::Client(_) | Ending::All { .. } => true,
        };
        let mut ids = self.sessions.range(after).map(|(id, _)| *id).filter(|id| asked(id));
        let mut found: Vec<Under> = ids.by_ref().take(look as usize).filter_map(|id| self.under(id)).collect();
        if let Ending::Session(id) = notice.what {
            found.iter_mut().for_each(|under| under.allowed = self.allowed_in(id, notice.rev));
        }
        let next = ids.next().and(found.last()).map(|under| under.session.id);
        Told { found, all: self.meta.all, next }
    }

    fn under(&self, session: SessionId) -> Option<Under> {
        let grants = self.grants_of(session);
        let grants =
            grants.iter().filter_map(|id| self.grants.get(id)).filter(|row| row.client != ClientId::FIRST_PARTY);
        let grants = grants.map(|row| UnderGrant { id: row.id, client: row.client, ended: row.ended }).collect();
        let session = self.sessions.get(&session)?.clone();
        let account_cut = self.accounts.get(&session.account).map(|row| row.cut).unwrap_or_default();
        Some(Under { refreshed_at: self.refreshed_at(session.id), session, account_cut, grants, allowed: vec![] })
    }

    /// The sessions of applications that were allowed in this one and had not ended by themselves at `rev`, by id.
    fn allowed_in(&self, id: SessionId, rev: Rev) -> Vec<Allowed> {
        let Some(account) = self.sessions.get(&id).map(|row| row.account) else { return vec![] };
        let here = self.sessions_of(account).filter(|row| row.allowed_in == Some(id));
        let here = here.filter(|row| row.ended.as_ref().is_none_or(|ended| ended.rev > rev));
        here.filter_map(|row| Some(Allowed { session: row.id, client: row.client?, born: row.born })).collect()
    }

    /// As [`Store::due_messages`](crate::Store::due_messages).
    pub fn due_messages(&self, resting: &[ClientId], after: Option<ClientId>, look: u32, now: Time) -> Due {
        let waiting = || self.messages.rows().map(|(_, row)| row).filter(|row| row.state == MessageState::Waiting);
        let later = |client: &ClientId| after.is_none_or(|after| *client > after);
        let clients: BTreeSet<ClientId> = waiting().filter_map(|row| row.client).filter(later).collect();
        let more = clients.len() > look as usize;
        let clients: BTreeSet<ClientId> = clients.into_iter().take(look as usize).collect();
        let resting: BTreeSet<&ClientId> = resting.iter().collect();
        let looked_at = |row: &&Message| match &row.client {
            None => after.is_none(),
            Some(client) => clients.contains(client) && !resting.contains(client),
        };
        let mut due: Vec<Message> = waiting().filter(|row| row.next_at <= now).filter(looked_at).cloned().collect();
        due.sort_by_key(|row| (row.next_at, row.id));
        let mut seen = BTreeSet::new();
        due.retain(|row| seen.insert(row.client));
        Due { messages: due, next: clients.last().copied().filter(|_| more) }
    }

    /// As [`Store::expired_messages`](crate::Store::expired_messages).
    pub fn expired_messages(&self, limit: u32, now: Time) -> Vec<Message> {
        let expired =
            |row: &&Message| row.state == MessageState::Waiting && row.next_at <= now && row.give_up_at <= now;
        self.messages.rows().map(|(_, row)| row).filter(expired).take(limit as usize).cloned().collect()
    }

    /// As [`Store::read_queue`](crate::Store::read_queue).
    pub fn read_queue(&self, client: ClientId, now: Time) -> Queue {
        let of_it = |row: &&Message| row.state == MessageState::Waiting && row.client == Some(client);
        let waiting = || self.messages.rows().map(|(_, row)| row).filter(of_it);
        let due_since = waiting().map(|row| row.next_at).min().filter(|at| *at <= now);
        Queue { waiting: waiting().count() as u64, due_since }
    }

    /// As [`Store::load_message`](crate::Store::load_message).
    pub fn load_message(&self, id: MessageId) -> Option<Message> {
        self.messages.get(&id).cloned()
    }

    /// As [`Store::list_messages`](crate::Store::list_messages).
    pub fn list_messages(&self, filter: &MessageFilter, cursor: Option<MessageId>, limit: u32) -> Page<Message> {
        let before = (Unbounded, cursor.map_or(Unbounded, Excluded));
        let fits = |row: &&Message| {
            filter.state.is_none_or(|state| row.state == state)
                && filter.client.is_none_or(|client| row.client == Some(client))
        };
        super::page(self.messages.range(before).rev().map(|(_, row)| row).filter(fits).cloned(), limit)
    }

    /// As [`Store::count_messages`](crate::Store::count_messages).
    pub fn count_messages(&self) -> MessageCount {
        let of = |state| self.messages.rows().filter(|(_, row)| row.state == state).count() as u64;
        let (waiting, dead) = (of(MessageState::Waiting), of(MessageState::Dead));
        MessageCount { notices: self.notices.len() as u64, waiting, dead }
    }

    /// Leaves a notice of what an entry ends, where others are told of it; called before anything of that is written.
    pub(super) fn leave_notice(&mut self, what: &Revoke, rev: Rev, now: Time) {
        if !outbox::is_told(what) {
            return;
        }
        let except = what.except;
        let (what, before) = match what.target {
            Target::Session(id) => return self.leave_notice_of_session(id, rev, now),
            Target::Grant(id) => match self.grants.get(&id) {
                Some(grant) => (Ending::Grant { session: grant.session, grant: id }, Cut::default()),
                None => return,
            },
            Target::Account(id) => {
                let cut = self.accounts.get(&id).map(|row| row.cut).unwrap_or_default();
                (Ending::Account { account: id, except }, cut)
            }
            Target::Client(id) => (Ending::Client(id), Cut::default()),
            Target::All => (Ending::All { except }, self.meta.all),
            _ => return,
        };
        self.put_notice(what, before, rev, now);
    }

    /// The same of one session: when another client than the built-in one has a grant under it, or was allowed in it.
    pub(super) fn leave_notice_of_session(&mut self, id: SessionId, rev: Rev, now: Time) {
        let grants = self.grants_of(id);
        let mut grants = grants.iter().filter_map(|id| self.grants.get(id));
        let told =
            |row: &Session| SessionKind::SIGN_INS.contains(&row.kind) && !self.allowed_in(id, Rev(u64::MAX)).is_empty();
        if grants.any(|grant| grant.client != ClientId::FIRST_PARTY) || self.sessions.get(&id).is_some_and(told) {
            self.put_notice(Ending::Session(id), Cut::default(), rev, now);
        }
    }

    fn put_notice(&mut self, what: Ending, before: Cut, rev: Rev, at: Time) {
        self.meta.noticed += 1;
        let seq = self.meta.noticed;
        self.notices.put(seq, Notice { seq, what, rev, before, at, cursor: None });
    }
}

pub(super) fn step_notice(db: &mut Memory, step: NoticeStep) -> Result<(), CommitError> {
    let row = db.notices.get(&step.seq).cloned().ok_or(CommitError::Conflict(Conflict::Moved))?;
    require(row.cursor == step.from, Conflict::Moved)?;
    match step.to {
        Some(_) => db.notices.put(step.seq, Notice { cursor: step.to, ..row }),
        None => db.notices.remove(&step.seq),
    }
    Ok(())
}

pub(super) fn insert_message(db: &mut Memory, row: Message) -> Result<(), CommitError> {
    require(!db.messages.has(&row.id), Conflict::Moved)?;
    db.messages.put(row.id, row);
    Ok(())
}

pub(super) fn update_message(db: &mut Memory, row: Message) -> Result<(), CommitError> {
    let kept = db.messages.get(&row.id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
    require(kept.version == row.version, Conflict::Moved)?;
    let Message { next_at, give_up_at, tries, state, settled_at, last_error, body, .. } = row;
    let version = kept.version + 1;
    db.messages
        .put(row.id, Message { next_at, give_up_at, tries, state, settled_at, last_error, body, version, ..kept });
    Ok(())
}

/// Those first that were settled first.
pub(super) fn prune_messages(db: &mut Memory, done: Time, dead: Time, most: u64) -> u64 {
    let rows = db.messages.rows().filter_map(|(id, row)| Some((row.settled_at?, *id, row.state)));
    let is_old = |at: Time, state| match state {
        MessageState::Waiting => false,
        MessageState::Done => at < done,
        MessageState::Dead => at < dead,
    };
    let mut old: Vec<_> = rows.filter(|(at, _, state)| is_old(*at, *state)).map(|(at, id, _)| (at, id)).collect();
    old.sort();
    old.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    old.iter().for_each(|(_, id)| db.messages.remove(id));
    old.len() as u64
}
