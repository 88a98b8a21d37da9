//! The words of `portcullis sessions`, `feed`, `audit` and `doctor`: looking at a server, and ending one session.
use super::{Page, Reach, Wait};
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
pub struct FeedArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub page: Page,
    /// Exit code 4 unless everyone who holds a lease is connected and has applied all that is committed.
    #[arg(long)]
    pub check: bool,
}

/// The audit records of acts by people, operators and the server itself.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub reach: Reach,
    /// Only those about this account: id or address.
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Only this kind; a wrong one is answered with all that there are.
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    #[command(flatten)]
    pub page: Page,
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
