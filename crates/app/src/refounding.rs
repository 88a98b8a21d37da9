//! Founding the log anew: the operation around `domain::refound`, for a running server and for a database that nobody serves.
use crate::admin::Admin;
use crate::keys::MasterKey;
use crate::{App, AppError, audit, real, rotation};
use portcullis_domain::kernel::By;
use portcullis_domain::keys::KeyRules;
use portcullis_domain::view::Stamp;
use portcullis_domain::{Refused, account, refound};
use portcullis_store::Store;
use portcullis_wire::{Epoch, Rev};
use std::path::PathBuf;

/// What a refounding came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refounded {
    /// The new epoch.
    pub epoch: Epoch,
    /// Its newest entry.
    pub rev: Rev,
    /// The epoch before.
    pub old_epoch: Epoch,
    /// Where the database stood.
    pub old_head: Rev,
    /// The newest position that the lost part is known to have had.
    pub proven: Rev,
}

/// Where the log of a database stands that nobody serves.
pub async fn where_it_stands(store: &dyn Store) -> Result<Stamp, AppError> {
    Ok(store.stamp().await?)
}

/// Founds the log of `store` anew. `proven`: the newest position that the lost part is known to have had.
///
/// # Errors
/// Faults; nothing was written then, or, when its outcome is unknown, all of it.
pub async fn refound(
    store: &dyn Store,
    master: &MasterKey,
    rules: &KeyRules,
    proven: (Epoch, Rev),
    by: &By<'_>,
) -> Result<Refounded, AppError> {
    let (stamp, rows) = (store.stamp().await?, store.list_keys().await?);
    if master.opens(&rows, stamp.log) == Some(false) {
        return Err(AppError::Fault(crate::keys::KeyError::WrongMasterKey.to_string().into()));
    }
    let what = refound::plan(&stamp, &rows, rules, proven, &mut real::RealChance)?;
    let epoch = what.epoch;
    let made = rotation::make_all(master, &what.keys.make, stamp.log, stamp.now).await?;
    let mut changes = refound::changes(what, made, by, &mut real::RealChance)?;
    changes.steps.extend(audit::of_refounding(store, master, &stamp).await?);
    let committed = store.commit(changes).await?;
    let rev = committed.rev.ok_or_else(|| AppError::Fault("a refounding without an entry".into()))?;
    let (old_epoch, old_head) = (stamp.epoch, stamp.head);
    Ok(Refounded { epoch, rev, old_epoch, old_head, proven: proven.1 })
}

impl App {
    /// Copies the database to a file on this machine while it is served; where the log stood in the copy. The master key is not
    /// in it.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub async fn operator_backup(&self, to: PathBuf) -> Result<Stamp, AppError> {
        let copied = self.store().backup(to).await;
        copied.map_err(|error| Refused::InvalidValue { field: "path", detail: error.detail }.into())
    }

    /// Founds the log anew while this server runs: everyone signs in again, verifiers follow into the new epoch, and the state
    /// `rolled_back` ends.
    pub async fn admin_refound(&self, admin: &Admin, reason: &str) -> Result<Refounded, AppError> {
        let (app, admin, reason) = (self.clone(), admin.clone(), account::check_text("reason", reason)?);
        // To its end even if the caller hangs up: what is founded anew in the database must not stay shut here.
        self.to_its_end(async move { app.found_anew(&admin, &reason).await }).await
    }

    async fn found_anew(&self, admin: &Admin, reason: &str) -> Result<Refounded, AppError> {
        let proof = self.hub().rolled_back();
        let proven = proof.map_or((Epoch::default(), Rev::ZERO), |proof| (proof.epoch, proof.rev));
        let _turn = self.inner.rota.turn().await;
        let (master, rules, by) = (self.inner.rota.master(), self.settings().key_rules(), admin.by(Some(reason)));
        let done = refound(self.store(), &master, &rules, proven, &by).await.map_err(|error| self.fault(error))?;
        self.hub().wake();
        self.load_keys().await?;
        self.hub().founded_anew();
        tracing::warn!(epoch = %done.epoch, rev = %done.rev, "the log was founded anew: everything before it is void");
        Ok(done)
    }
}
