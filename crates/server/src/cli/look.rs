//! The words of `portcullis sessions`, `feed`, `audit` and `doctor`: looking at a server, and ending one session.
use super::{Follow, Page, Reach, Wait};
use crate::settings::sources::Flags;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: SessionsAct,
}

#[derive(Debug, Subcommand)]
pub enum SessionsAct {
    /// The living sessions of an account.
    List {
        /// Id or address of the account.
        account: String,
        #[command(flatten)]
        page: Page,
    },
    /// End one session.
    End {
        /// Its id (ses_…).
        session: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// End all sessions of an account.
    EndAll {
        /// Id or address of the account.
        account: String,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Who follows the feed, and how far behind each is.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct FeedArgs {
    #[command(subcommand)]
    pub act: Option<FeedAct>,
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub page: Page,
    /// Exit code 4 unless everyone who holds a lease is connected and has applied all that is committed, whichever page is shown.
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Subcommand)]
pub enum FeedAct {
    /// Follow the feed once and serve it to many verifiers.
    Relay(Box<RelayArgs>),
}

/// A relay of the feed: registered at the server as one verifier, a server to those below it.
#[derive(Debug, Args)]
pub struct RelayArgs {
    #[command(flatten)]
    pub follow: Follow,
    /// What administrators see it called.
    #[arg(long, value_name = "NAME", default_value = "relay")]
    pub name: String,
    /// Where to serve. Verifiers get http(s)://ADDRESS/v1/feed as the address of their feed.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7410")]
    pub listen: String,
    /// The certificate and its chain (PEM), for TLS [default: none, for loopback or behind a proxy].
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serves /healthz, /readyz and /metrics there, and no more on the address for verifiers [default: there].
    #[arg(long, value_name = "ADDRESS")]
    pub ops_listen: Option<String>,
    /// The longest stream_grace of the verifiers below, such as 2s.
    #[arg(long, value_name = "SPAN", default_value = "0s")]
    pub stream_grace: String,
    /// The only log that is followed, as the feed names it [default: the first that is met, until the process ends].
    #[arg(long, value_name = "ID")]
    pub log: Option<String>,
    /// The most running copies of verifiers below.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_verifiers: u32,
    /// The most of one client [default: seven eighths of those, so that no client takes all places].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_verifiers_per_client: Option<u32>,
    /// What the log lines are: text or json.
    #[arg(long, value_name = "WORD", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
}

/// The audit records of acts by people, operators and the server itself. Without a word: the newest.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub act: Option<AuditAct>,
    #[command(flatten)]
    pub list: AuditList,
}

#[derive(Debug, Subcommand)]
pub enum AuditAct {
    /// Records, newest first.
    List(AuditList),
    /// All records that are asked for, newest first, one JSON object a line.
    Export {
        #[command(flatten)]
        reach: Reach,
        #[command(flatten)]
        of: AuditFilter,
        /// The file, which must not be there yet [default: standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Where the chain over the records ends: NUMBER:LINK, to be kept where nobody can change it.
    Head {
        #[command(flatten)]
        reach: Reach,
    },
    /// Whether every record is what was sealed, and none is missing. Ends with 4 when not.
    Verify {
        #[command(flatten)]
        reach: Reach,
        /// What `audit head` printed at some time: it must be in the chain.
        #[arg(long, value_name = "NUMBER:LINK")]
        head: Option<String>,
        /// Only what follows this place, which was checked before; not beyond the head.
        #[arg(long, value_name = "NUMBER:LINK")]
        from: Option<String>,
    },
    /// Let the chain go on from where it ends, whatever nodes have seen beyond, once you have looked: after a failover that has lost the
    /// last seals, or when an older database was put back.
    GoOn {
        #[command(flatten)]
        reach: Reach,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Begin another chain in the place of one that is broken, once you have looked: nothing sealed before can be checked any more.
    BeginAnew {
        #[command(flatten)]
        reach: Reach,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub struct AuditList {
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub of: AuditFilter,
    #[command(flatten)]
    pub page: Page,
}

/// Which records.
#[derive(Debug, Args)]
pub struct AuditFilter {
    /// Only those about this account: id or address.
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only this kind; a wrong one is answered with all that there are.
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only those about this session (ses_…).
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Only those about this client (cli_…).
    #[arg(long, value_name = "CLIENT")]
    pub client: Option<String>,
    /// Only by this account (acc_…), or by operator, system or anonymous.
    #[arg(long, value_name = "WHO")]
    pub actor: Option<String>,
    /// Only from this time on (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only from before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only of the act that wrote this entry of the log.
    #[arg(long, value_name = "REV")]
    pub rev: Option<u64>,
}

#[derive(Debug, Args)]
pub struct MessagesArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: MessagesAct,
}

#[derive(Debug, Subcommand)]
pub enum MessagesAct {
    /// Messages, newest first.
    List {
        /// Only those in this state.
        #[arg(long, value_name = "STATE", value_parser = ["waiting", "done", "dead"])]
        state: Option<String>,
        /// Only those for this client (cli_…).
        #[arg(long, value_name = "CLIENT")]
        client: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Try a message again at once.
    Retry {
        /// Its id (msg_…).
        message: String,
    },
}

/// Looks for what is wrong with an installation, on the server's machine.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub flags: Flags,
    /// Only what can be seen without a running server: settings, files, certificate.
    #[arg(long)]
    pub offline: bool,
    /// Trust these authorities (PEM) about the server, instead of those that browsers trust.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// JSON for programs.
    #[arg(long)]
    pub json: bool,
}
