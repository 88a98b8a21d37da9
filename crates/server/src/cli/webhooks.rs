//! `portcullis webhooks`: the words of the command line.
use super::{Page, Reach};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct WebhooksArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: WebhooksAct,
}

#[derive(Debug, Subcommand)]
pub enum WebhooksAct {
    /// All webhooks.
    List,
    /// Make a webhook; its secret is shown once.
    Create {
        /// Where it is called.
        url: String,
        /// Which kinds of audit records: a kind (session.started), all below a word (account.*), or *; may be given several times.
        #[arg(long = "event", value_name = "KIND", default_value = "*")]
        events: Vec<String>,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Make it switched off.
        #[arg(long)]
        disabled: bool,
    },
    /// One webhook.
    Show {
        /// Its id (whk_…).
        webhook: String,
    },
    /// Change a webhook; what is not named stays.
    Update {
        /// Its id (whk_…).
        webhook: String,
        /// Where it is called.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// Which kinds of audit records, all of them anew; may be given several times.
        #[arg(long = "event", value_name = "KIND")]
        events: Vec<String>,
        /// What it is for; nothing for none.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Switch a webhook on: it is told of what it was not told while it was off.
    Enable {
        /// Its id (whk_…).
        webhook: String,
    },
    /// Switch a webhook off.
    Disable {
        /// Its id (whk_…).
        webhook: String,
    },
    /// Delete a webhook.
    Delete {
        /// Its id (whk_…).
        webhook: String,
    },
    /// Another secret, shown once.
    RotateSecret {
        /// Its id (whk_…).
        webhook: String,
        /// For how long the old secret signs beside the new one, at most 7d.
        #[arg(long, value_name = "SPAN", default_value = "0s")]
        overlap: String,
    },
    /// Send a message that only tries it.
    Test {
        /// Its id (whk_…).
        webhook: String,
    },
    /// Its messages, newest first.
    Messages {
        /// Its id (whk_…).
        webhook: String,
        /// Only those in this state.
        #[arg(long, value_name = "STATE", value_parser = ["waiting", "done", "dead"])]
        state: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Have it told again of everything after a place of the audit trail, or from a time on.
    Replay {
        /// Its id (whk_…).
        webhook: String,
        /// The place (a number), or the time (2026-01-31T12:00:00Z).
        #[arg(long, value_name = "PLACE|TIME")]
        after: String,
    },
}
