//! Which rows an act locks before the counter, and whether it shares the counter's lock.
//!
//! Every row that an act changes or deletes is locked before the counter's lock, in one order (table, then id), so that nobody
//! waits for a row while holding that. Under the shared lock several nodes work at once on the short way: refreshes, new
//! sessions and tickets. Those touch nothing but rows that they lock: a family's under its grant, what is counted under its account. All
//! that could make another expectation false takes the counter's lock alone.
use super::hex;
use crate::cells::Id;
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_wire::{Target, Verb};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Rows, by id in hexadecimal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locks {
    accounts: BTreeSet<String>,
    sessions: BTreeSet<String>,
    grants: BTreeSet<String>,
    /// Sessions of these accounts that have an address, and their tickets.
    sessions_of: BTreeSet<String>,
    /// Grants under these sessions.
    grants_of: BTreeSet<String>,
    tickets: BTreeSet<String>,
    /// Those that are to be: their ids are locked, for there is no row yet.
    new_tickets: BTreeSet<String>,
}

impl Locks {
    pub(crate) fn of(changes: &Changes) -> Self {
        let mut locks = Self::default();
        changes.expects.iter().for_each(|expect| locks.expect(expect));
        changes.steps.iter().for_each(|step| locks.step(step));
        locks
    }

    pub(crate) fn join(&mut self, other: &Self) {
        let Self { accounts, sessions, grants, sessions_of, grants_of, tickets, new_tickets } = other;
        self.accounts.extend(accounts.iter().cloned());
        self.sessions.extend(sessions.iter().cloned());
        self.grants.extend(grants.iter().cloned());
        self.sessions_of.extend(sessions_of.iter().cloned());
        self.grants_of.extend(grants_of.iter().cloned());
        self.tickets.extend(tickets.iter().cloned());
        self.new_tickets.extend(new_tickets.iter().cloned());
    }

    pub(crate) fn json(&self) -> Value {
        let Self { accounts, sessions, grants, sessions_of, grants_of, tickets, new_tickets } = self;
        json!({
            "accounts": accounts, "sessions": sessions, "grants": grants, "sessions_of": sessions_of,
            "grants_of": grants_of, "tickets": tickets, "new_tickets": new_tickets,
        })
    }

    fn account(&mut self, id: impl Id) {
        self.accounts.insert(hex(&id.blob()));
    }
    fn session(&mut self, id: impl Id) {
        self.sessions.insert(hex(&id.blob()));
    }
    fn grant(&mut self, id: impl Id) {
        self.grants.insert(hex(&id.blob()));
    }

    /// Only what somebody else may change under the shared lock: families, and how many sessions an account has.
    fn expect(&mut self, expect: &Expect) {
        match expect {
            Expect::LiveSessions { account, .. } => self.account(*account),
            Expect::Family { grant, .. } | Expect::Handouts { grant, .. } => self.grant(*grant),
            Expect::Alive { .. }
            | Expect::Unborn { .. }
            | Expect::Unended { .. }
            | Expect::AccountVersion { .. }
            | Expect::PasswordVersion { .. }
            | Expect::SessionNotEnded(_)
            | Expect::GrantNotEnded(_)
            | Expect::EmailFree(_)
            | Expect::NoAccounts
            | Expect::StandingBelow(_)
            // A client or a consent that changes, and what is counted under a consent, does so under the counter's lock alone.
            | Expect::ClientVersion { .. }
            | Expect::Consent { .. }
            | Expect::NoOtherGrants { .. }
            | Expect::WebhooksBelow(_) => {}
        }
    }

    fn step(&mut self, step: &Change) {
        match step {
            Change::SetStatus { account, .. } => {
                self.account(*account);
                self.sessions_of.insert(hex(&account.blob()));
            }
            Change::SetProfile { account, .. }
            | Change::SetPassword { account, .. }
            | Change::SetUnused { account, .. }
            | Change::SetEmail { account, .. } => self.account(*account),
            // The row that a count of sessions is taken under.
            Change::InsertSession(row) => self.account(row.account),
            Change::RenameSession { session, .. }
            | Change::SetAuthTime { session, .. }
            | Change::SetCookie { session, .. } => self.session(*session),
            Change::Unprove { session, grant } => {
                self.session(*session);
                grant.iter().for_each(|grant| self.grant(*grant));
            }
            Change::InsertTicket(row) => drop(self.new_tickets.insert(hex(&row.id.0))),
            Change::UpdateTicket(row) => drop(self.tickets.insert(hex(&row.id.0))),
            Change::UseTicket { ticket, .. } => drop(self.tickets.insert(hex(&ticket.0))),
            Change::SetFamily { grant, .. } | Change::HandOut { grant, .. } | Change::SetNetwork { grant, .. } => {
                self.grant(*grant)
            }
            Change::Revoke(what) => match (&what.verb, &what.target) {
                (Verb::End, Target::Session(session)) => self.session(*session),
                (Verb::End, Target::Grant(grant)) => self.grant(*grant),
                (Verb::End, Target::Account(account)) => self.account(*account),
                _ => {}
            },
            Change::Seen(sessions) => sessions.iter().for_each(|(session, _)| self.session(*session)),
            Change::StepJob(step) => step.sessions.iter().for_each(|session| self.session(*session)),
            Change::PruneSessions { sessions, .. } => {
                for session in sessions {
                    self.session(*session);
                    self.grants_of.insert(hex(&session.blob()));
                }
            }
            Change::ForgetSessionAddresses { sessions, .. } => {
                sessions.iter().for_each(|session| self.session(*session));
            }
            // Rows of other tables change under the counter's lock alone.
            _ => {}
        }
    }
}

/// Whether an act needs the counter's lock for itself.
pub(crate) fn is_exclusive(changes: &Changes) -> bool {
    let alone = |expect: &Expect| {
        matches!(
            expect,
            Expect::EmailFree(_)
                | Expect::NoAccounts
                | Expect::StandingBelow(_)
                | Expect::NoOtherGrants { .. }
                | Expect::WebhooksBelow(_)
        )
    };
    let shared = |step: &Change| {
        matches!(
            step,
            Change::SetFamily { .. }
                | Change::HandOut { .. }
                | Change::InsertSession(_)
                | Change::InsertGrant(_)
                | Change::Seen(_)
                | Change::RenameSession { .. }
                | Change::SetAuthTime { .. }
                | Change::SetCookie { .. }
                // No expectation asks for it.
                | Change::SetUnused { .. }
                // Locks what it deletes, and waits for nobody.
                | Change::CrowdOutTickets { .. }
                | Change::InsertTicket(_)
                | Change::UpdateTicket(_)
                | Change::UseTicket { .. }
        )
    };
    changes.idempotency.is_some() || changes.expects.iter().any(alone) || !changes.steps.iter().all(shared)
}
