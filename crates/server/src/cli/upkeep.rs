//! The words of `portcullis backup`, `restore` and `refound`.
use super::Reach;
use crate::settings::sources::Flags;
use clap::Args;
use std::path::PathBuf;

/// Copies the database of a running server to a file on the server's machine.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// The file to make; must not exist yet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Puts a backup in the place of the database of a server that is stopped, and founds its log anew.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup, or a plain copy of a database (with its -wal beside it).
    pub file: PathBuf,
    /// Restore it although it is of another log than the database that it replaces.
    #[arg(long)]
    pub force_other_log: bool,
    /// The journal of acts (acts_file): blocks and deletions after the backup are done again.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// Why, for the audit record.
    #[arg(long, default_value = "restored from a backup")]
    pub reason: String,
    #[command(flatten)]
    pub flags: Flags,
    /// JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// Founds the log anew: everyone signs in again, and what a rolled-back database had forgotten stays dead.
#[derive(Debug, Args)]
pub struct RefoundArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// Why, for the audit record.
    #[arg(long)]
    pub reason: String,
}
