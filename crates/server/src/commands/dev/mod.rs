//! `portcullis dev`: a server and a protected service on loopback, with accounts to try them, in one process.
mod guide;
mod mails;
mod tour;
mod watch;

use super::demo_api::Demo;
use super::node::Node;
use super::serve::{Signals, block_on};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::{DevArgs, out};
use crate::settings::Settings;
use crate::settings::sources::{Environment, Flags, Found, Gathered, Source};
use crate::{files, telemetry};
use http::Uri;
use mails::Mails;
use portcullis_app::{Admin, App, AppError, real};
use portcullis_domain::model::{ADMIN, ClientKind};
use portcullis_domain::{Chance as _, Refused};
use portcullis_tower::Config;
use portcullis_wire::SecretString;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `dev` decides by itself. All other settings may come from the environment, or from a file in its data directory.
const OURS: [&str; 12] = [
    "issuer",
    "audience",
    "database_url",
    "ops_listen",
    "bootstrap_admin",
    "data_dir",
    "listen",
    "tls_cert",
    "tls_key",
    "mail_url",
    "mail_from",
    "require_verified_email",
];
/// How long the demo API may take to become fresh.
const FRESH: Duration = Duration::from_secs(20);

/// Somebody who can sign in. Known to everybody: this is loopback, and nothing here is worth a secret.
#[derive(Debug, Clone)]
pub struct Person {
    /// The account.
    pub id: String,
    /// Its address.
    pub email: &'static str,
    /// Its password.
    pub password: &'static str,
}

/// What was started.
#[derive(Debug)]
pub struct Place {
    /// The server.
    pub server: Uri,
    /// The demo API.
    pub api: Uri,
    /// The page that shows the mails that were caught.
    pub mails: Uri,
    /// The mail server that catches them: `HOST:PORT`.
    pub smtp: SocketAddr,
    /// `iss`, and `aud` as well.
    pub issuer: String,
    /// The account that is tried.
    pub account: Person,
    /// Another one, to which nothing is done.
    pub bystander: Person,
    /// The administrator.
    pub admin: Person,
    /// The verifier's client id.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Where the data are.
    pub data: PathBuf,
    /// B.
    pub bound: Duration,
}

/// A directory that goes away with its value, if it was made for it.
struct DataDir {
    path: PathBuf,
    temporary: bool,
}

impl DataDir {
    fn of(args: &DevArgs) -> Result<Self, Failure> {
        if let Some(path) = &args.data {
            return Ok(Self { path: path.clone(), temporary: false });
        }
        let path = std::env::temp_dir().join(format!("portcullis-dev-{:016x}", real::RealChance.bits() >> 64));
        files::data_dir(&path)?;
        Ok(Self { path, temporary: true })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Starts everything; then plays the tour, or says what to try and waits to be ended.
pub fn run(args: &DevArgs) -> Outcome {
    files::keep_private();
    let data = DataDir::of(args)?;
    block_on(play(args, &data.path))
}

/// `smtp`: where mails are caught.
fn settings(args: &DevArgs, data: &Path, smtp: SocketAddr) -> Result<Settings, Failure> {
    let mut flags = Flags::default();
    flags.given.insert("listen", SecretString::new(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)).to_string()));
    flags.given.insert("data_dir", SecretString::new(data.to_string_lossy()));
    let mut gathered = Gathered::from(&flags, &Environment::of_process(), data);
    gathered.found.retain(|name, found| !OURS.contains(name) || matches!(found.source, Source::Flag(_)));
    for (name, text) in
        [("mail_url", format!("smtp://{smtp}")), ("mail_from", "Portcullis <dev@portcullis.example>".into())]
    {
        let source = Source::Flag(name.replace('_', "-"));
        gathered.found.insert(name, Found { text: SecretString::new(text), source });
    }
    let quiet = !gathered.found.contains_key("log_level");
    let closed = !gathered.found.contains_key("outgoing_private");
    let mut settings = Settings::read(gathered).map_err(Failure::config)?;
    if closed {
        settings.outgoing = portcullis_app::Allowed::loopback();
    }
    if quiet {
        settings.log_level = "warn".into();
    }
    Ok(settings)
}

async fn play(args: &DevArgs, data: &Path) -> Outcome {
    let mut signals = Signals::listen()?;
    let mails = Mails::start(args.port).await?;
    let settings = &settings(args, data, mails.smtp())?;
    telemetry::start(settings.log_json, &settings.log_level);
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let node = Node::start(settings).await?;
    let started = start_demo(args, settings, &node, &mails).await;
    let (place, demo) = match started {
        Ok(started) => started,
        Err(failure) => {
            node.stop().await;
            return Err(failure);
        }
    };
    let outcome = if args.tour {
        tokio::select! {
            report = tour::play(&place, args.json) => {
                if args.json {
                    out::json(&report.json);
                }
                Ok(if report.differences.is_empty() { Exit::Done } else { Exit::CheckFailed })
            }
            name = signals.next() => Err(Failure::refused(format!("the tour was ended by {name}"))),
        }
    } else {
        if args.json {
            out::json(&place.to_json())
        } else {
            out::line(&guide::text(&place))
        }
        signals.next().await;
        Ok(Exit::Done)
    };
    demo.stop().await;
    tokio::select! {
        () = node.stop() => {}
        _ = signals.next() => {}
    }
    outcome
}

/// Accounts, a verifier client, and the demo API; returns when the demo API is fresh.
async fn start_demo(args: &DevArgs, settings: &Settings, node: &Node, mails: &Mails) -> Result<(Place, Demo), Failure> {
    let account = person(&node.app, "demo@portcullis.example", "demo-password", vec![]).await?;
    let bystander = person(&node.app, "bystander@portcullis.example", "bystander-password", vec![]).await?;
    let admin = person(&node.app, "admin@portcullis.example", "admin-password", vec![ADMIN.into()]).await?;
    let (client_id, client_secret) = client(&node.app, &settings.data_dir).await?;

    let port = if args.port == 0 { 0 } else { args.port.checked_add(1).unwrap_or(0) };
    let config = Config::new(&node.issuer, &node.audience, &client_id, &client_secret).name("demo-api");
    let demo =
        Demo::start(config, portcullis_tower::Policy::Closed, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None)
            .await?;
    if !demo.verifier.wait_fresh(FRESH).await {
        return Err(Failure::refused("the demo API did not become fresh"));
    }
    let uri = |address: SocketAddr| {
        let uri: Result<Uri, _> = format!("http://{address}").parse();
        uri.map_err(|error| Failure::refused(format!("{address}: {error}")))
    };
    let place = Place {
        server: uri(node.address)?,
        api: uri(demo.address)?,
        mails: uri(mails.address)?,
        smtp: mails.smtp(),
        issuer: node.issuer.clone(),
        account,
        bystander,
        admin,
        client_id,
        client_secret,
        data: settings.data_dir.clone(),
        bound: Duration::from_millis(u64::try_from(settings.bound).unwrap_or(5000)),
    };
    Ok((place, demo))
}

/// An account with this address, made if there is none.
async fn person(app: &App, email: &'static str, password: &'static str, roles: Vec<String>) -> Result<Person, Failure> {
    let failed = |error: AppError| Failure::refused(format!("the demo account {email} cannot be made: {error}"));
    let secret = Some(SecretString::new(password));
    let id = match app.admin_create_account(&Admin::operator(), email, secret, None, roles, true, None).await {
        Ok(account) => account.id,
        Err(AppError::Refused(Refused::EmailTaken)) => {
            let page = app.admin_accounts(&Admin::operator(), Some(email), None, 1).await.map_err(failed)?;
            page.rows.first().ok_or_else(|| failed(Refused::EmailTaken.into()))?.id
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(Person { id: id.to_string(), email, password })
}

/// The verifier client of the demo API: the one remembered in the data directory while it still counts, else a new one.
async fn client(app: &App, data: &Path) -> Result<(String, String), Failure> {
    let failed = |error: AppError| Failure::refused(format!("the demo client cannot be made: {error}"));
    let path = data.join("dev-client.json");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(known) = serde_json::from_str::<Value>(&text)
        && let (Some(id), Some(secret)) = (known["client_id"].as_str(), known["client_secret"].as_str())
        && app.authenticate_client(id, &SecretString::new(secret)).await.map_err(failed)?.is_some()
    {
        return Ok((id.into(), secret.into()));
    }
    let made = app.admin_create_client(&Admin::operator(), "demo-api", ClientKind::Verifier).await.map_err(failed)?;
    let id = made.client.id.to_string();
    let secret = made.secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
    let _ = std::fs::remove_file(&path);
    let kept = files::write_new(&path, &json!({ "client_id": id, "client_secret": secret }).to_string());
    kept.map_err(|error| Failure::config(format!("{} cannot be written: {error}", path.display())))?;
    Ok((id, secret))
}

/// A base address without the slash at its end.
fn url(uri: &Uri) -> String {
    uri.to_string().trim_end_matches('/').to_owned()
}

impl Place {
    /// For programs: one line with addresses and credentials.
    fn to_json(&self) -> Value {
        let person = |p: &Person| json!({ "id": p.id, "email": p.email, "password": p.password });
        json!({
            "server": url(&self.server), "demo_api": url(&self.api), "mails": url(&self.mails),
            "smtp": format!("smtp://{}", self.smtp), "issuer": self.issuer, "audience": self.issuer,
            "feed_url": format!("{}/v1/feed", url(&self.server)),
            "account": person(&self.account), "bystander": person(&self.bystander), "admin": person(&self.admin),
            "client": { "client_id": self.client_id, "client_secret": self.client_secret },
            "data_dir": self.data, "admin_socket": Settings::admin_socket(&self.data),
            "bound_ms": u64::try_from(self.bound.as_millis()).unwrap_or(0),
        })
    }
}
