//! The command line: what can be asked for, and how an answer leaves the process.
pub mod clients;
pub mod exit;
pub mod keys;
pub mod look;
pub mod out;
pub mod revoke;
pub mod table;
pub mod transfer;
pub mod upkeep;
pub mod webhooks;

use crate::commands;
use crate::settings::sources::Flags;
use clap::{Args, Parser, Subcommand};
use exit::{Exit, Failure};
use portcullis_wire::time;
use std::path::PathBuf;
use std::process::ExitCode;

/// Sign-in, sessions, and revocation that is true at every service within milliseconds.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on loopback, to try it: server, demo API, demo accounts.
    Dev(DevArgs),
    /// The server.
    Serve(ServeArgs),
    /// A protected service that verifies tokens offline, to try a server with.
    DemoApi(DemoArgs),
    /// List, make, block and delete accounts, and end their sessions.
    Accounts(AccountsArgs),
    /// List and end sessions.
    Sessions(look::SessionsArgs),
    /// List, register, enable and disable clients.
    Clients(clients::ClientsArgs),
    /// List, rotate and revoke keys; replace the master key.
    Keys(keys::KeysArgs),
    /// Who follows the feed, and how far behind each is.
    Feed(look::FeedArgs),
    /// Who did what, newest first.
    Audit(look::AuditArgs),
    /// What is on its way to others (logouts for applications), and trying it again.
    Messages(look::MessagesArgs),
    /// List, make and try webhooks, which are called with audit records; have them told again.
    Webhooks(webhooks::WebhooksArgs),
    /// End everyone's sessions, or those that a filter matches.
    Revoke(revoke::RevokeArgs),
    /// Copy the database of a running server.
    Backup(upkeep::BackupArgs),
    /// Put a backup in the place of the database of a server that is stopped.
    Restore(upkeep::RestoreArgs),
    /// Found the log anew after a rollback: everyone signs in again.
    Refound(upkeep::RefoundArgs),
    /// Import accounts from a file, with the hashes of their passwords.
    Import(transfer::ImportArgs),
    /// Export accounts as lines that `import` reads.
    Export(transfer::ExportArgs),
    /// Look for what is wrong with an installation; exit code 4 when something is.
    Doctor(Box<look::DoctorArgs>),
    /// Look at the configuration.
    Config(ConfigArgs),
    /// Look at rules about suspicious activity.
    Rules(RulesArgs),
}

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Play the tour: sign in, end, log out everywhere, block, and measure who is refused when; exits 0 when all is as it should be.
    #[arg(long)]
    pub tour: bool,
    /// Keep data here [default: a temporary directory that is removed at the end].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Port of the server; the demo API takes the next one. 0 takes free ones.
    #[arg(long, default_value_t = 7400)]
    pub port: u16,
    /// One line of JSON with addresses and credentials when ready.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub flags: Flags,
}

/// Whose feed is followed, and as whom.
#[derive(Debug, Args)]
pub struct Follow {
    /// The server's issuer, such as https://id.example.org.
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// The id of a client of kind `verifier`.
    #[arg(long, value_name = "ID")]
    pub client_id: String,
    /// Its secret [environment: PORTCULLIS_CLIENT_SECRET, or PORTCULLIS_CLIENT_SECRET_FILE names a file].
    #[arg(long, value_name = "SECRET")]
    pub client_secret: Option<String>,
    /// Where the feed is; a relay's, perhaps [default: ISSUER/v1/feed].
    #[arg(long, value_name = "URL")]
    pub feed_url: Option<String>,
    /// A shorter bound than the server's, such as 2s; a relay's counts for everyone below.
    #[arg(long, value_name = "SPAN")]
    pub bound: Option<String>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub follow: Follow,
    /// The audience that tokens must have [default: the issuer].
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// Where to serve.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7401")]
    pub listen: String,
    /// Where clients reach this service, which DPoP proofs name [default: http:// and where it listens].
    #[arg(long, value_name = "URL")]
    pub address: Option<String>,
    /// What to do without a lease.
    #[arg(long, value_name = "POLICY", default_value = "closed", value_parser = ["closed", "introspect", "open"])]
    pub policy: String,
    /// Trust these authorities (PEM) about the server, instead of those that browsers trust.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// How a command reaches the server that it operates.
#[derive(Debug, Args)]
pub struct Reach {
    /// The server [environment: PORTCULLIS_SERVER; default: the admin socket in the data directory].
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// An administrator's access token [environment: PORTCULLIS_TOKEN, or PORTCULLIS_TOKEN_FILE names a file].
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Trust these authorities (PEM) about the server, instead of those that browsers trust.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The data directory, in which the admin socket is [environment: PORTCULLIS_DATA_DIR].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The server's configuration file, which may name the data directory.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AccountsArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: AccountsAct,
}

#[derive(Debug, Subcommand)]
pub enum AccountsAct {
    /// All accounts.
    List {
        /// Only those whose address starts so.
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Make an account. The password is read from standard input unless a file is named.
    Create {
        /// Its address.
        email: String,
        /// What it calls itself.
        #[arg(long)]
        name: Option<String>,
        /// A role, such as admin; may be given several times.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A file with the password; `-` is standard input.
        #[arg(long, value_name = "FILE", default_value = "-")]
        password_file: PathBuf,
        /// Without a password: it cannot sign in by one.
        #[arg(long, conflicts_with = "password_file")]
        no_password: bool,
    },
    /// One account.
    Show {
        /// Id or address.
        account: String,
    },
    /// Block an account: everything that it has ends, and it cannot sign in.
    Block {
        /// Id or address.
        account: String,
        /// Why; the owner sees it after signing in rightly.
        #[arg(long)]
        reason: String,
        /// When the block lifts itself (RFC 3339, UTC).
        #[arg(long)]
        until: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Lift a block. What it ended stays ended.
    Unblock {
        /// Id or address.
        account: String,
        /// Why, for the audit record.
        #[arg(long)]
        reason: Option<String>,
    },
    /// The living sessions of an account.
    Sessions {
        /// Id or address.
        account: String,
        #[command(flatten)]
        page: Page,
    },
    /// End all sessions of an account.
    EndSessions {
        /// Id or address.
        account: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete an account: everything that it has ends; a tombstone stays.
    Delete {
        /// Id or address.
        account: String,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Which part of a list.
#[derive(Debug, Args)]
pub struct Page {
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Go on where the last page ended.
    #[arg(long)]
    pub cursor: Option<String>,
}

/// Whether to answer when committed, or when true everywhere.
#[derive(Debug, Args)]
pub struct Wait {
    /// Answer when every verifier enforces it; exit code 4 when that does not come in time.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait [default: twice the bound].
    #[arg(long, requires = "wait", value_name = "SPAN", value_parser = span)]
    pub timeout: Option<i64>,
}

fn span(text: &str) -> Result<i64, String> {
    time::parse_span(text).ok_or_else(|| "a duration needs a number and a unit, such as 5s".into())
}

impl Wait {
    /// The query of the call.
    pub fn query(&self) -> String {
        match (self.wait, self.timeout) {
            (false, _) => String::new(),
            (true, None) => "?wait=enforced".into(),
            (true, Some(ms)) => format!("?wait=enforced&timeout_ms={ms}"),
        }
    }
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub act: ConfigAct,
}

#[derive(Debug, Subcommand)]
pub enum ConfigAct {
    /// Read the settings as `serve` would, and show each with where it came from, secrets masked.
    #[command(visible_alias = "show")]
    Check {
        #[command(flatten)]
        flags: Flags,
        /// JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct RulesArgs {
    #[command(subcommand)]
    pub act: RulesAct,
}

#[derive(Debug, Subcommand)]
pub enum RulesAct {
    /// Read a policy file, and say what is wrong with it and where; exit code 2 when something is.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the policy that is on when no other is given.
    Default,
}

/// Reads the command line, does it, and says how it went.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            let _ = error.print();
            return if wrong { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let result = match cli.command {
        Command::Dev(args) => commands::dev::run(&args),
        Command::Serve(args) => commands::serve::run(&args.flags),
        Command::DemoApi(args) => commands::demo_api::run(&args),
        Command::Accounts(args) => commands::accounts::run(&args),
        Command::Sessions(args) => commands::sessions::run(&args),
        Command::Feed(args) => commands::feed::run(&args),
        Command::Audit(args) => commands::audit::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Clients(args) => commands::clients::run(&args),
        Command::Keys(args) => commands::keys::run(&args),
        Command::Messages(args) => commands::messages::run(&args),
        Command::Webhooks(args) => commands::webhooks::run(&args),
        Command::Revoke(args) => commands::revoke::run(&args),
        Command::Backup(args) => commands::upkeep::backup(&args),
        Command::Restore(args) => commands::upkeep::restore(&args),
        Command::Refound(args) => commands::upkeep::refound(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Config(ConfigArgs { act: ConfigAct::Check { flags, json } }) => commands::config::check(&flags, json),
        Command::Rules(RulesArgs { act: RulesAct::Check { file } }) => commands::rules::check(&file),
        Command::Rules(RulesArgs { act: RulesAct::Default }) => commands::rules::default(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            out::complain(&message);
            exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// docs/commands.md tells of every command, and of no flag that there is not.
    #[test]
    fn the_page_about_commands_is_true() {
        const PAGE: &str = include_str!("../../../../docs/commands.md");
        let mut flags = vec!["--help".to_owned()];
        let cli = Cli::command();
        let mut left: Vec<_> = cli.get_subcommands().collect();
        for command in &left {
            let name = command.get_name();
            let told = [format!("`{name}`"), format!("`{name} ")].iter().any(|text| PAGE.contains(text.as_str()));
            assert!(told, "docs/commands.md does not tell of `{name}`");
        }
        while let Some(command) = left.pop() {
            flags.extend(command.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))));
            left.extend(command.get_subcommands());
        }
        for word in PAGE.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            let is_flag =
                word.strip_prefix("--").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
            assert!(!is_flag || flags.iter().any(|flag| flag == word), "docs/commands.md speaks of {word}");
        }
    }
}
