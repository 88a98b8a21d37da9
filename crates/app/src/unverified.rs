//! Accounts that somebody signed up for and whose address nobody has proved, where that must be proved to sign in: nobody can use one, and
//! it keeps its address from whoever has that. They go after a while, a few at a time.
use crate::{App, AppError};
use portcullis_domain::event::{Actor, EventKind};
use portcullis_domain::kernel::By;
use portcullis_domain::model::Account;
use portcullis_domain::{account, retention};
use portcullis_store::EventFilter;
use portcullis_wire::{AccountId, ClientId, Millis};
use std::sync::atomic::Ordering;

/// How many accounts are looked at in one step, and how many may go in it: each is an entry in the log.
const AT_ONCE: u32 = 200;
const MOST: usize = 20;

impl App {
    /// Looks at some accounts, from `after` on: the next ones are looked at in the next round. Whether there may be more at once.
    pub(crate) async fn prune_unverified(&self, after: &mut Option<AccountId>) -> Result<bool, AppError> {
        let Some(keep) = self.settings().policy.unverified_retention else { return Ok(false) };
        if !self.settings().rules.require_verified_email {
            return Ok(false);
        }
        let page = self.store().list_accounts(None, *after, AT_ONCE).await?;
        let mut gone = 0;
        for row in &page.rows {
            if gone == MOST {
                return Ok(false);
            }
            *after = Some(row.id);
            if retention::unverified_may_go(row, self.now(), keep) && self.was_never_used(row).await? {
                self.forget_unverified(row.id, keep).await?;
                gone += 1;
            }
        }
        *after = after.filter(|_| page.more);
        Ok(false)
    }

    /// Whether somebody signed up for it by themselves, as far as audit records tell, and nobody ever signed in to it. Whoever an
    /// administrator or an import made it for may come late.
    async fn was_never_used(&self, row: &Account) -> Result<bool, AppError> {
        let address = row.email.as_deref().unwrap_or_default();
        let view = self.store().load_sign_in(address, ClientId::FIRST_PARTY).await?;
        if !view.unused || view.account.is_none_or(|account| account.id != row.id) {
            return Ok(false);
        }
        let kind = Some(EventKind::AccountCreated.as_str().into());
        let filter = EventFilter { account: Some(row.id), kind, ..EventFilter::default() };
        let made = self.store().list_events(&filter, None, 1).await?;
        Ok(made.rows.first().is_some_and(|made| made.event.actor == Actor::Anonymous.text()))
    }

    /// Deletes it as its owner would, if it is as it was: a proof or a change that came between makes it another row. Nobody is told, for
    /// the address may be a stranger's.
    async fn forget_unverified(&self, id: AccountId, keep: Millis) -> Result<(), AppError> {
        let by = By { reason: Some("its address was never verified"), ..By::SYSTEM };
        let load = || self.account_view(id);
        let acted = self.act("", None, load, |view, chance| {
            match retention::unverified_may_go(&view.account, view.stamp.now, keep) {
                true => account::delete(view, 0, &by, chance),
                false => portcullis_domain::Decision::answer(None),
            }
        });
        acted.await?;
        self.counts().unverified_pruned.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
