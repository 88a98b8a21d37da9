//! What `import` and `export` take.
use super::Reach;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// The file: one JSON object for each account and line. `-` is standard input.
    pub file: PathBuf,
    /// Write nothing; report what would become of each line.
    #[arg(long)]
    pub dry_run: bool,
    /// Go on where an import of this file stopped (FILE.progress says where).
    #[arg(long, conflicts_with = "dry_run")]
    pub resume: bool,
    /// Firebase's base64_signer_key [environment: PORTCULLIS_FIREBASE_SIGNER_KEY, or …_FILE names a file].
    #[arg(long, value_name = "BASE64")]
    pub firebase_signer_key: Option<String>,
    /// Firebase's base64_salt_separator.
    #[arg(long, value_name = "BASE64")]
    pub firebase_salt_separator: Option<String>,
    /// Firebase's rounds.
    #[arg(long, value_name = "N")]
    pub firebase_rounds: Option<u32>,
    /// Firebase's mem_cost.
    #[arg(long, value_name = "N")]
    pub firebase_mem_cost: Option<u32>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// Where to write; must not exist. Standard output unless given.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// With the hashes of passwords. On the admin socket only; it leaves an audit record.
    #[arg(long)]
    pub with_password_hashes: bool,
}
