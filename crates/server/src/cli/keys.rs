//! `portcullis keys …`.
use super::{Page, Reach, Wait};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: KeysAct,
}

#[derive(Debug, Subcommand)]
pub enum KeysAct {
    /// All signing and MAC keys, with what each does.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Take the next signing key and a new MAC key now. Nobody notices.
    Rotate {
        /// Only this kind.
        #[arg(long = "use", value_name = "USE", value_parser = ["sig", "mac"])]
        usage: Option<String>,
    },
    /// Kill a signing key for good: whoever holds it signs nothing that is accepted any more. Sessions live on.
    Revoke {
        /// Its number, such as key_1.
        key: String,
        /// Why, for the audit record.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Seal all stored keys under another master key, by the admin socket.
    RotateMaster {
        /// A file with the new one: 32 bytes in base64.
        #[arg(long, value_name = "FILE")]
        new_key_file: PathBuf,
    },
}
