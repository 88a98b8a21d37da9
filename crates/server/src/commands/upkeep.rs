//! `portcullis backup`, `restore`, `refound`: copies of the database, and what is done when an older one is all there is.
use super::accounts::show;
use super::remote::{Remote, block_on, cell};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::upkeep::{BackupArgs, RefoundArgs, RestoreArgs};
use crate::files;
use crate::settings::{Database, Settings};
use http::Method;
use portcullis_app::act_journal::{self, Replayed};
use portcullis_app::high_water::{self, Mark, Proof};
use portcullis_app::refounding::{self, Refounded};
use portcullis_app::{AppError, real};
use portcullis_domain::kernel::By;
use portcullis_domain::replay::Journal;
use portcullis_domain::view::Stamp;
use portcullis_domain::{Actor, Chance as _};
use portcullis_store_sqlite::{OpenOptions, Restoring, SqliteStore};
use portcullis_wire::{Epoch, LogId, Rev};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// `backup`.
pub fn backup(args: &BackupArgs) -> Outcome {
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let path = std::path::absolute(&args.out);
        let path = path.map_err(|error| Failure::config(format!("--out {}: {error}", args.out.display())))?;
        let body = json!({ "path": path });
        let made = remote.call(Method::POST, "/v1/admin/backup", Some(&body)).await?;
        show(args.reach.json, &made, || {
            format!(
                "{}: the database as it was at {} ({}.{} of {})\n\
                 The master key is not in it: keep a copy of master.key, apart from this file.",
                cell(&made, "path"),
                cell(&made, "at"),
                cell(&made, "epoch"),
                cell(&made, "rev"),
                cell(&made, "log")
            )
        });
        Ok(Exit::Done)
    })
}

/// `refound`.
pub fn refound(args: &RefoundArgs) -> Outcome {
    block_on(async {
        let mut remote = Remote::of(&args.reach)?;
        let body = json!({ "reason": args.reason });
        let done = remote.call(Method::POST, "/v1/admin/refound", Some(&body)).await?;
        show(args.reach.json, &done, || {
            let n = |member: &str| done.get(member).and_then(Value::as_u64).unwrap_or(0);
            let what = Refounded {
                epoch: Epoch(u32::try_from(n("epoch")).unwrap_or(0)),
                rev: Rev(n("rev")),
                old_epoch: Epoch(u32::try_from(n("old_epoch")).unwrap_or(0)),
                old_head: Rev(n("old_head")),
                proven: Rev(n("proven")),
            };
            words(&what, None)
        });
        Ok(Exit::Done)
    })
}

/// `restore`.
pub fn restore(args: &RestoreArgs) -> Outcome {
    files::keep_private();
    let settings = Settings::load(&args.flags).map_err(Failure::config)?;
    block_on(put_back(args, &settings))
}

async fn put_back(args: &RestoreArgs, settings: &Settings) -> Outcome {
    let Database::Sqlite(database) = settings.database() else {
        return Err(Failure::config(
            "restore puts back files of SQLite databases. A PostgreSQL database is restored with its own tools; then \
             `portcullis refound` founds the log anew (docs/postgresql.md)",
        ));
    };
    let options = || OpenOptions::new(LogId::from_bits(real::RealChance.bits()), Arc::new(real::wall));
    // What is known of the log that was served, before anything is touched.
    let high_water = settings.high_water_path();
    let mark: Option<Mark> = high_water::read(&high_water).map_err(Failure::config)?;
    let proof: Option<Proof> = high_water::read(&high_water::proof_path(&high_water)).map_err(Failure::config)?;
    let before = known_before(&database, options).await?;
    let master = files::master_key(settings.master_key.as_ref(), &settings.data_dir, &args.file)?;
    let wanted = mark.map(|mark| mark.log).or(before.map(|stamp| stamp.log));
    let accept = |stamp: &Stamp| match wanted {
        Some(log) if log != stamp.log && !args.force_other_log => Err(format!(
            "it is a backup of {}, and the database that was served is {log}; with --force-other-log it is restored all \
             the same, and verifiers must be started anew to follow it",
            stamp.log
        )),
        _ => Ok(()),
    };
    let journal = args.replay.as_deref().map(journal_of).transpose()?;
    let moment: String = real::wall().to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    let suffix = format!(".before-{moment}");
    let restoring = Restoring::begin(&database, &args.file, &options(), accept).map_err(Failure::refused)?;
    // Founded anew before it is in place: whenever this ends early, no older copy is there that could be served.
    let store = SqliteStore::open(restoring.draft(), options()).map_err(Failure::config)?;
    let restored = refounding::where_it_stands(&store).await.map_err(Failure::refused)?;
    if let Some(Some(log)) = journal.as_ref().map(|journal| journal.log().ok().flatten())
        && log != restored.log
    {
        let why = format!("nothing was changed: the journal is of {log}, and the backup of {}", restored.log);
        return Err(Failure::refused(why));
    }
    let positions = [
        mark.map(|mark| (mark.epoch, mark.rev)),
        proof.map(|proof| (proof.epoch, proof.rev)),
        before.map(|stamp| (stamp.epoch, stamp.head)),
    ];
    let proven = positions.into_iter().flatten().max().unwrap_or_default();
    let by = By { actor: Actor::Operator, role: None, ip: None, reason: Some(&args.reason) };
    let rules = settings.for_app(settings.listen).key_rules();
    let done = refounding::refound(&store, &master, &rules, proven, &by).await.map_err(|error| {
        let why = match error {
            AppError::Fault(fault) => fault.detail,
            other => other.to_string(),
        };
        Failure::refused(format!("nothing was changed, for the backup's log could not be founded anew: {why}"))
    })?;
    let replayed = match &journal {
        Some(journal) => Some(act_journal::replay(&store, journal, &restored, &by).await.map_err(|error| {
            Failure::refused(format!("nothing was changed, for the journal could not be replayed: {error}"))
        })?),
        None => None,
    };
    drop(store);
    let replaced = restoring.finish(&suffix).map_err(Failure::refused)?;
    // The mark is of the old log; the next start writes the new one.
    let _ = std::fs::remove_file(&high_water);
    let _ = std::fs::remove_file(high_water::proof_path(&high_water));
    let lost_since = restored_at(&restored);
    let out = json!({
        "restored": args.file, "kept": replaced.kept, "log": restored.log,
        "epoch": done.epoch, "rev": done.rev, "old_epoch": done.old_epoch, "old_head": done.old_head, "proven": done.proven,
        "replayed": replayed.as_ref().map(|replayed| json!({
            "done": replayed.done, "already": replayed.already, "unknown": replayed.unknown, "complete": replayed.reaches,
        })),
    });
    show(args.json, &out, || {
        let kept = replaced.kept.iter().map(|path| format!("\n  {}", path.display())).collect::<String>();
        let kept = if kept.is_empty() { String::new() } else { format!("What it replaced is kept:{kept}\n") };
        format!(
            "{} is in place.\n{kept}{}{}",
            args.file.display(),
            words(&done, Some(lost_since)),
            replayed.as_ref().map(told).unwrap_or_default()
        )
    });
    Ok(Exit::Done)
}

/// The journal that is to be replayed; what is wrong with it is told before anything is touched.
fn journal_of(path: &Path) -> Result<Journal, Failure> {
    match act_journal::read(path) {
        Ok(Some(journal)) => Ok(journal),
        Ok(None) => Err(Failure::refused(format!("--replay: {} is not there", path.display()))),
        Err(why) => Err(Failure::refused(format!("nothing was changed: {why}"))),
    }
}

/// What a replay came to.
fn told(replayed: &Replayed) -> String {
    let Replayed { done, already, unknown, reaches } = replayed;
    let mut out = format!(
        "\nReplayed from the journal: {done} blocked, unblocked or deleted again, {already} were so already, {} unknown here.",
        unknown.len()
    );
    for id in unknown {
        out += &format!("\n  {id} signed up after the copy");
    }
    if !reaches {
        out += "\nThe journal begins after the copy: blocks and deletions between the two are not in it.";
    }
    out
}

fn restored_at(stamp: &Stamp) -> (Epoch, Rev) {
    (stamp.epoch, stamp.head)
}

/// Where the database stands that is replaced, when it can still be read. That a server serves it is told by its lock.
async fn known_before(database: &Path, options: impl Fn() -> OpenOptions) -> Result<Option<Stamp>, Failure> {
    if !std::fs::metadata(database).is_ok_and(|meta| meta.len() > 0) {
        return Ok(None);
    }
    match SqliteStore::open(database, options()) {
        Ok(store) => Ok(refounding::where_it_stands(&store).await.ok()),
        Err(error @ portcullis_store_sqlite::OpenError::InUse { .. }) => Err(Failure::refused(error)),
        Err(error) => {
            tracing::debug!(%error, "the database that is replaced cannot be read");
            Ok(None)
        }
    }
}

/// What happened, and what cannot be known.
fn words(done: &Refounded, restored: Option<(Epoch, Rev)>) -> String {
    let gap = done.proven.0.saturating_sub(done.old_head.0);
    let lost = match gap {
        0 => "Nothing proves that an end was lost; whether one was cannot be known.".to_owned(),
        n => {
            format!("At least {n} entries of the log are lost: that many ends, blocks, deletions or changes of roles.")
        }
    };
    let at = restored.map_or((done.old_epoch, done.old_head), |at| at);
    format!(
        "The log goes on in epoch {} at {}. It stood at {}.{}.\n\
         Everyone is signed out: every access token, refresh token and browser session from before is void, at every verifier.\n\
         Signing and MAC keys are new; the old ones are dead for good.\n\
         {lost}\n\
         What cannot be known, for it happened after this database was copied:\n\
         \x20 sign-ups and imports (those people sign up again), new passwords (the old ones count again), blocks and deletions\n\
         \x20 (do them again), changed roles, new clients (register them again), and the audit records of all that.",
        done.epoch, done.rev, at.0, at.1
    )
}
