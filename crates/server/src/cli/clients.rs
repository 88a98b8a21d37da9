//! `portcullis clients`: the words of the command line.
use super::{Page, Reach, Wait};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct ClientsArgs {
    #[command(flatten)]
    pub reach: Reach,
    #[command(subcommand)]
    pub act: ClientsAct,
}

#[derive(Debug, Subcommand)]
pub enum ClientsAct {
    /// All clients.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Register a client; its secret is shown once.
    Create {
        /// Its name.
        name: String,
        /// What it is.
        #[arg(long, default_value = "verifier", value_parser = ["verifier", "confidential", "public"])]
        kind: String,
        #[command(flatten)]
        profile: Box<ProfileArgs>,
    },
    /// One client, with all that it registered.
    Show {
        /// Its id.
        client: String,
    },
    /// Change what a client registered. A list is given as a whole; what is not named stays.
    Update {
        /// Its id.
        client: String,
        /// A new name.
        #[arg(long)]
        name: Option<String>,
        /// A member to put back to its default, as `show --json` names it; may be given several times.
        #[arg(long, value_name = "MEMBER")]
        unset: Vec<String>,
        #[command(flatten)]
        profile: Box<ProfileArgs>,
    },
    /// Another secret, shown once.
    RotateSecret {
        /// Its id.
        client: String,
        /// For how long the old secret counts beside the new one, at most 30d.
        #[arg(long, value_name = "SPAN", default_value = "0s")]
        overlap: String,
    },
    /// Switch a client on again.
    Enable {
        /// Its id.
        client: String,
    },
    /// Switch a client off: everything given to it ends, its feed connections close.
    Disable {
        /// Its id.
        client: String,
        #[command(flatten)]
        wait: Wait,
    },
}

/// What a client registers. Each is the member of the same name of the admin API.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Where its users may be sent back to; may be given several times.
    #[arg(long = "redirect-uri", value_name = "URI")]
    pub redirect_uris: Vec<String>,
    /// Where a browser may be sent after a logout; may be given several times.
    #[arg(long = "post-logout-redirect-uri", value_name = "URI")]
    pub post_logout_redirect_uris: Vec<String>,
    /// How it comes by tokens: authorization_code, refresh_token, client_credentials, device_code, token-exchange; may be given
    /// several times.
    #[arg(long = "grant-type", value_name = "TYPE")]
    pub grant_types: Vec<String>,
    /// What it may ask for; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// For which resources it may ask tokens; may be given several times.
    #[arg(long = "resource", value_name = "URI")]
    pub resources: Vec<String>,
    /// How it proves who it is.
    #[arg(long, value_name = "METHOD")]
    pub token_endpoint_auth_method: Option<String>,
    /// A file with its public keys, a JWK Set; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Where its public keys are.
    #[arg(long, value_name = "URI")]
    pub jwks_uri: Option<String>,
    /// What its ID tokens are signed with.
    #[arg(long, value_name = "ALGORITHM")]
    pub id_token_signed_response_alg: Option<String>,
    /// What answers of userinfo are signed with; unless given, they are plain JSON.
    #[arg(long, value_name = "ALGORITHM")]
    pub userinfo_signed_response_alg: Option<String>,
    /// How its ID tokens name a user: public or pairwise.
    #[arg(long, value_name = "TYPE")]
    pub subject_type: Option<String>,
    /// Where an array lists the redirect URIs of all clients that share pairwise names.
    #[arg(long, value_name = "URI")]
    pub sector_identifier_uri: Option<String>,
    /// Whether its users are asked: ask, or implied for an application of the house.
    #[arg(long, value_name = "ask|implied")]
    pub consent: Option<String>,
    /// The life of its access tokens in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub access_ttl_s: Option<u32>,
    /// Whether its requests must be pushed.
    #[arg(long, value_name = "true|false")]
    pub require_pushed_authorization_requests: Option<bool>,
    /// Whether its tokens are always bound to a key.
    #[arg(long, value_name = "true|false")]
    pub dpop_bound_access_tokens: Option<bool>,
    /// How old a sign-in may be, in seconds, where a request does not say.
    #[arg(long, value_name = "SECONDS")]
    pub default_max_age: Option<u32>,
    /// Whether its ID tokens must say when their user proved who they are.
    #[arg(long, value_name = "true|false")]
    pub require_auth_time: Option<bool>,
    /// Which context class it would like, where a request does not say; may be given several times.
    #[arg(long = "default-acr-value", value_name = "CLASS")]
    pub default_acr_values: Vec<String>,
    /// Where a browser is sent that is to begin a sign-in at the application.
    #[arg(long, value_name = "URI")]
    pub initiate_login_uri: Option<String>,
    /// Where it is told that a session has ended.
    #[arg(long, value_name = "URI")]
    pub backchannel_logout_uri: Option<String>,
    /// Whether it must be told which session.
    #[arg(long, value_name = "true|false")]
    pub backchannel_logout_session_required: Option<bool>,
    /// What a browser loads when its user signs out.
    #[arg(long, value_name = "URI")]
    pub frontchannel_logout_uri: Option<String>,
    /// Whether issuer and session are to be in that address.
    #[arg(long, value_name = "true|false")]
    pub frontchannel_logout_session_required: Option<bool>,
    /// Where its home page is.
    #[arg(long, value_name = "URI")]
    pub client_uri: Option<String>,
    /// Where it says what it does with what it learns.
    #[arg(long, value_name = "URI")]
    pub policy_uri: Option<String>,
    /// Where its terms are.
    #[arg(long, value_name = "URI")]
    pub tos_uri: Option<String>,
    /// Who answers for it; may be given several times.
    #[arg(long = "contact", value_name = "TEXT")]
    pub contacts: Vec<String>,
}
