//! The words of `portcullis revoke`.
use super::{Reach, Wait};
use clap::{ArgGroup, Args};

/// Ends everyone's sessions, or those that a filter matches; all members of a filter must match.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whom").required(true).multiple(true).args(["everyone", "accounts", "clients", "created_before", "address_range"])))]
pub struct RevokeArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// Every session there is.
    #[arg(long, conflicts_with_all = ["accounts", "clients", "created_before", "address_range"])]
    pub everyone: bool,
    /// Those of this account, by its id; may be given several times.
    #[arg(long = "account", value_name = "ID")]
    pub accounts: Vec<String>,
    /// Those of this client; may be given several times.
    #[arg(long = "client", value_name = "ID")]
    pub clients: Vec<String>,
    /// Those made before this (RFC 3339, UTC).
    #[arg(long, value_name = "TIME")]
    pub created_before: Option<String>,
    /// Those signed in from there: an address, or a range such as 203.0.113.0/24.
    #[arg(long, value_name = "RANGE")]
    pub address_range: Option<String>,
    /// Spare this session.
    #[arg(long, value_name = "ID")]
    pub except: Option<String>,
    /// Refuse every older access token at once; live sessions refresh and go on.
    #[arg(long)]
    pub now: bool,
    /// Why, for the audit record.
    #[arg(long)]
    pub reason: String,
    /// Only count.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: Wait,
}
