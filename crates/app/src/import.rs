//! Accounts in and out in batches. What becomes of each line is decided by `domain::import`; a batch is one commit with one
//! audit record, and the same batch again changes nothing.
use crate::admin::Admin;
use crate::{App, AppError, real};
use portcullis_domain::changes::Changes;
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::import::{self, Checked, Fate, Found};
use portcullis_domain::{Chance as _, Decision, Refused};
use portcullis_wire::{AccountId, ClientId, EventId};

/// How often a batch is decided anew because something that it needs was taken meanwhile.
const MAX_TRIES: u32 = 16;

/// A piece of an export.
#[derive(Debug)]
pub struct Exported {
    /// The lines.
    pub lines: Vec<serde_json::Value>,
    /// Where the next piece begins, if there is one.
    pub next: Option<AccountId>,
}

impl App {
    /// Imports accounts whose lines are right by themselves, at most [`import::MAX_BATCH`]; what became of each. With
    /// `dry_run` nothing is written, and the answer is what would be.
    pub async fn admin_import(&self, admin: &Admin, lines: Vec<Checked>, dry_run: bool) -> Result<Vec<Fate>, AppError> {
        let by = admin.by(None);
        for _ in 0..MAX_TRIES {
            let load = || self.found(&lines);
            let settled = self
                .act_once(load, |(stamp, found), chance| {
                    let (fates, changes) = import::settle(stamp, found, &by, chance);
                    let changes = if dry_run { Changes::default() } else { changes };
                    Decision { outcome: Ok(fates), changes }
                })
                .await;
            match settled {
                Ok(Some(fates)) => {
                    self.still_admin(admin).await?; // when nothing was committed, nothing has checked it
                    return Ok(fates);
                }
                // Somebody signed up or was imported at the same time: then it is there, or its address is taken.
                Ok(None) | Err(AppError::Refused(Refused::EmailTaken)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(AppError::Overloaded)
    }

    async fn found(
        &self,
        lines: &[Checked],
    ) -> Result<(portcullis_domain::view::Stamp, Vec<(Checked, AccountId, Found)>), AppError> {
        let keys = self.keys();
        let mut out = Vec::with_capacity(lines.len());
        for line in lines {
            // A line without an id may have been imported under an older key; the newest makes a new one.
            let made = keys.macs().iter().map(|key| import::id_of(key, &line.email));
            let ids: Vec<AccountId> = line.id.map_or_else(|| made.rev().collect(), |id| vec![id]);
            let (mut id, mut by_id) = (ids[0], None); // there is always a MAC key
            for one in ids {
                if let Some(view) = self.store().load_account(one).await.map_err(|e| self.fault(e.into()))? {
                    (id, by_id) = (one, Some(view));
                    break;
                }
            }
            let by_email = self.store().load_sign_in(line.email.as_str(), ClientId::FIRST_PARTY).await;
            let by_email = by_email.map_err(|e| self.fault(e.into()))?.account.map(|account| account.id);
            out.push((line.clone(), id, Found { by_id: by_id.map(|view| view.account), by_email }));
        }
        Ok((self.store().stamp().await.map_err(|e| self.fault(e.into()))?, out))
    }

    /// Accounts as lines, by id, after `cursor`. Hashes of passwords go to the operator only, who could read the database as
    /// well, and never without a record.
    pub async fn admin_export(
        &self,
        admin: &Admin,
        with_hashes: bool,
        cursor: Option<AccountId>,
        limit: u32,
    ) -> Result<Exported, AppError> {
        if with_hashes && !admin.is_operator() {
            return Err(Refused::Forbidden.into());
        }
        let page = self.store().list_accounts(None, cursor, limit).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        let now = self.now();
        let lines: Vec<_> = page.rows.iter().filter_map(|account| import::line_of(account, with_hashes, now)).collect();
        if with_hashes && !lines.is_empty() {
            let id = EventId::from_bits(real::RealChance.bits());
            let event = NewEvent::new(id, EventKind::AccountsExported, &Actor::Operator)
                .reason(format!("{} accounts with the hashes of their passwords", lines.len()));
            let changes = Changes { events: vec![event], ..Changes::default() };
            self.store().commit(changes).await.map_err(|e| self.fault(e.into()))?;
        }
        let next = page.rows.last().map(|account| account.id).filter(|_| page.more);
        Ok(Exported { lines, next })
    }
}
