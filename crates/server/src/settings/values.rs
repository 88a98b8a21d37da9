//! How single values are read. Each function says what is expected in the words that stand behind the value in an error.
use http::Uri;
use ipnet::IpNet;
use portcullis_app::Authorities;
use portcullis_domain::account::{self, Email};
use portcullis_domain::client::is_scope;
use portcullis_wire::{Digest, Millis, SecretString, time};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// A scope that people may give to their API keys: never one of those that open the account, or that are about who somebody is.
pub(super) fn key_scope(text: &str) -> Result<String, String> {
    match text {
        "account" | "admin" | "openid" | "offline_access" => Err(format!("{text:?} is no scope for API keys")),
        text if is_scope(text) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is no scope: visible ASCII without quotes and backslashes")),
    }
}

/// The initial access token for registrations; what is kept of it is its digest.
pub(super) fn registration_token(text: &str) -> Result<Digest, String> {
    let fits = (32..=1024).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(Digest::of(text.as_bytes())) } else { Err("must have 32 to 1024 visible ASCII characters".into()) }
}

/// An address and a port; `localhost` is 127.0.0.1.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    localhost
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "must be an address and a port, such as 127.0.0.1:7400".into())
}

/// Whether a URL's host can only be this machine.
pub fn is_loopback_url(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An issuer as RFC 8414 §2 wants it (https, neither query nor fragment), and without a path: a server here has its
/// well-known documents at the root.
pub(super) fn issuer(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|_| "must be a URL such as https://id.example.org")?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback_url(&uri) => {}
        Some("http") => return Err("must be https; http is for loopback addresses only".into()),
        _ => return Err("must be a URL such as https://id.example.org".into()),
    }
    if text.contains(['?', '#', '@']) || uri.host().is_none_or(str::is_empty) {
        return Err("must have a host, and neither user, query nor fragment".into());
    }
    if uri.path() != "/" || text.ends_with('/') {
        return Err("must end with its host or port: neither a path nor a slash at the end".into());
    }
    Ok(text.to_owned())
}

pub(super) fn audience(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.len() <= 512 && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    plain.then(|| text.to_owned()).ok_or_else(|| "must be a name or URL without spaces".into())
}

/// Which database is served.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// PostgreSQL; its URL, which may hold a password.
    Postgres(SecretString),
}

pub(super) fn database(text: &str) -> Result<Database, String> {
    match text.split_once("://") {
        Some(("sqlite", path)) if path.contains(['?', '#']) => Err("sqlite:// takes a path and no options".into()),
        Some(("sqlite", "")) => {
            Err("sqlite:// needs a path, such as sqlite:///var/lib/portcullis/portcullis.db".into())
        }
        Some(("sqlite", path)) => Ok(Database::Sqlite(PathBuf::from(path))),
        Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => Ok(Database::Postgres(SecretString::new(text))),
        _ => Err("must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE".into()),
    }
}

/// A database's URL for people: without password and without options, which may hold one.
pub fn masked_url(text: &str) -> String {
    match text.split_once("://") {
        Some(("sqlite", _)) => text.to_owned(),
        Some((scheme, rest)) => {
            let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
            let place = place.split('?').next().unwrap_or_default();
            match user.map(|user| user.split_once(':').map_or((user, false), |(name, _)| (name, true))) {
                Some((name, true)) => format!("{scheme}://{name}:(secret)@{place}"),
                Some((name, false)) => format!("{scheme}://{name}@{place}"),
                None => format!("{scheme}://{place}"),
            }
        }
        None => "(secret)".to_owned(),
    }
}

/// The rules of risk, checked.
pub(super) fn risk_rules(text: &str) -> Result<crate::risk::Rules, String> {
    let rules = crate::risk::Rules::of(text);
    rules.load()?;
    Ok(rules)
}

/// A list of stolen passwords, looked at.
pub(super) fn breached_file(text: &str) -> Result<PathBuf, String> {
    let path = file(text)?;
    portcullis_app::breached::List::open(&path)?;
    Ok(path)
}

/// A file that is read when it is needed.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must name a file".into()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must be a directory".into()) } else { Ok(PathBuf::from(text)) }
}

/// Kibibytes, or a number with `KiB`, `MiB` or `GiB`. Argon2 takes 8 KiB to 4 TiB; one GiB per sign-in is beyond every use.
pub(super) fn memory_kib(text: &str) -> Result<u32, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "KiB" => 1,
        "MiB" => 1024,
        "GiB" => 1 << 20,
        _ => 0,
    };
    let kib = number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor));
    kib.filter(|kib| (8..=1 << 20).contains(kib)).ok_or_else(|| "must be between 8KiB and 1GiB, such as 19MiB".into())
}

/// An origin as browsers send it (RFC 6454 §6.2).
pub(super) fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no origin, such as https://app.example.org");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let plain = matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|h| !h.is_empty());
    if !plain || uri.path() != "/" || text.ends_with('/') || text.contains(['?', '#', '@', '*']) {
        return Err(wrong());
    }
    Ok(text.to_ascii_lowercase())
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse::<IpNet>())
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

/// A PEM file with certificates of private authorities, read now: what is wrong with it is found before anything is called.
pub(super) fn authorities(text: &str) -> Result<Authorities, String> {
    let bytes = std::fs::read(file(text)?).map_err(|error| format!("{text}: {error}"))?;
    Authorities::from_pem(&bytes).map_err(|why| format!("{text}: {why}"))
}

/// The same, or `all` for every address there is.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    match text {
        "all" => ["0.0.0.0/0", "::/0"].into_iter().map(network).collect(),
        text => Ok(vec![network(text)?]),
    }
}

/// `email:password`. Addresses have no colon, so the first one separates.
pub(super) fn bootstrap_admin(text: &str) -> Result<(String, SecretString), String> {
    let (email, password) = text.split_once(':').ok_or("must be email:password")?;
    let words = |refused| match refused {
        portcullis_domain::Refused::InvalidValue { field, detail } => format!("has no usable {field}: {detail}"),
        _ => "must be email:password".to_owned(),
    };
    let email = Email::parse(email).map_err(words)?;
    account::check_password(password, &email).map_err(words)?;
    Ok((email.as_str().to_owned(), SecretString::new(password)))
}

/// A span, or `0`: never. Days rather than seconds: each rotation leaves a key that verifiers keep for a while.
pub(super) fn rotation(text: &str) -> Result<Option<Millis>, String> {
    const SHORTEST: Millis = 600_000;
    match if text == "0" { Some(0) } else { time::parse_span(text) } {
        Some(0) => Ok(None),
        Some(span) if (SHORTEST..=3_660 * 86_400_000).contains(&span) => Ok(Some(span)),
        Some(_) => Err("must lie between 10m and 3660d, or be 0 for never".into()),
        None => Err("must be a span with its unit, such as 90d, or 0 for never".into()),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("must be on or off".into()),
    }
}

pub(super) fn log_level(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err("must be error, warn, info, debug or trace, or directives such as info,portcullis_app=debug".into()),
    }
}
