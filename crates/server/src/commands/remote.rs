//! How `accounts`, `clients` and their kin reach the server that they operate: by URL and token, else by the admin socket in
//! the data directory; never past the server into its database.
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Follow, Reach, out};
use crate::client::{Answer, Client, Target, Trust};
use crate::settings::sources::{Environment, Flags};
use crate::settings::{Settings, is_loopback_url};
use http::{Method, Uri};
use portcullis_tower::Config;
use portcullis_wire::{SecretString, time};
use serde_json::Value;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

/// A server that is operated.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    by_socket: bool,
    json: bool,
}

/// Runs a command that only talks: one thread is enough.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::refused(format!("no runtime: {error}")))?.block_on(future)
}

/// A secret from the command line, else from the environment or the file that it names.
pub fn secret(flag: Option<&str>, variable: &str) -> Result<Option<SecretString>, Failure> {
    match flag {
        Some(text) => Ok(Some(SecretString::new(text))),
        None => Ok(Environment::of_process().secret(variable).map_err(Failure::config)?.map(|found| found.text)),
    }
}

/// How the feed is followed by what a command line says.
pub fn follow(args: &Follow, audience: &str, ca_file: Option<&Path>) -> Result<Config, Failure> {
    let secret = secret(args.client_secret.as_deref(), "PORTCULLIS_CLIENT_SECRET")?;
    let secret = secret.ok_or_else(|| {
        Failure::config("the client's secret is missing: --client-secret, PORTCULLIS_CLIENT_SECRET or PORTCULLIS_CLIENT_SECRET_FILE")
    })?;
    let mut config = Config::new(&args.issuer, audience, &args.client_id, secret.expose());
    if let Some(url) = &args.feed_url {
        config = config.feed_url(url);
    }
    if let Some(bound) = &args.bound {
        let ms = time::parse_span(bound).and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let ms =
            ms.ok_or_else(|| Failure::config(format!("--bound {bound:?}: a duration needs a unit, such as 2s")))?;
        config = config.bound(Duration::from_millis(ms));
    }
    if ca_file.is_some() {
        let trust = Trust::of(ca_file).and_then(|trust| trust.client_config());
        config = config.tls(trust.map_err(Failure::config)?);
    }
    Ok(config)
}

/// A server's base URL as given on the command line.
pub fn base_url(text: &str) -> Result<Uri, Failure> {
    let wrong = || Failure::config(format!("{text:?} is no server's URL, such as https://id.example.org"));
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let plain = matches!(uri.scheme_str(), Some("https" | "http")) && uri.path() == "/" && uri.query().is_none();
    if plain && uri.host().is_some_and(|host| !host.is_empty()) { Ok(uri) } else { Err(wrong()) }
}

impl Remote {
    /// The server that the command line names.
    pub fn of(reach: &Reach) -> Result<Self, Failure> {
        let env = Environment::of_process();
        let server = reach.server.clone().or_else(|| env.get("PORTCULLIS_SERVER").map(|url| url.expose().to_owned()));
        let Some(server) = server else {
            let mut flags = Flags { config: reach.config.clone(), ..Flags::default() };
            if let Some(dir) = &reach.data_dir {
                flags.given.insert("data_dir", SecretString::new(dir.to_string_lossy()));
            }
            let socket = Settings::admin_socket(&Settings::data_dir_only(&flags));
            return Ok(Self { client: Client::new(Target::Socket(socket)), by_socket: true, json: reach.json });
        };
        let uri = base_url(&server)?;
        if uri.scheme_str() == Some("http") && !is_loopback_url(&uri) {
            let message = "an administrator's token must not cross a network in the clear; use https, or run this on the \
                           server's machine by the admin socket";
            return Err(Failure::config(message));
        }
        let Some(token) = secret(reach.token.as_deref(), "PORTCULLIS_TOKEN")? else {
            let message =
                "--server needs an administrator's access token: --token, PORTCULLIS_TOKEN or PORTCULLIS_TOKEN_FILE";
            return Err(Failure::config(message));
        };
        let trust = Trust::of(reach.ca_file.as_deref()).map_err(Failure::config)?;
        let client = Client::new(Target::Url(uri)).with_token(Some(token)).trusting(trust);
        Ok(Self { client, by_socket: false, json: reach.json })
    }

    /// Calls, and takes anything but success as a failure in words.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.answer(method, path, body).await?;
        if answer.is_success() {
            return Ok(answer.body);
        }
        Err(self.refusal(&answer))
    }

    /// A refusal as a failure in words; programs get the problem itself.
    pub fn refusal(&self, answer: &Answer) -> Failure {
        if self.json && answer.body.is_object() {
            out::json(&answer.body);
        }
        refused(answer)
    }

    /// Calls, and takes any answer.
    pub async fn answer(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        self.client.call(method, path, body).await.map_err(|error| {
            let hint = if self.by_socket {
                "\nIs the server running on this data directory? Otherwise give --data-dir or --server."
            } else {
                ""
            };
            Failure::unreachable(format!("{}{hint}", error.0))
        })
    }
}

/// A refusal in words: title, detail, code and request id of the problem (RFC 9457).
pub fn refused(answer: &Answer) -> Failure {
    let code = answer.code();
    if code.is_empty() {
        return Failure::refused(format!("the server answered {} without saying why", answer.status));
    }
    let words = [answer.text("title"), answer.text("detail")];
    let words = words.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
    let id = answer.text("request_id");
    let id = if id.is_empty() { String::new() } else { format!(", request {id}") };
    let exit = if answer.status == 503 { Exit::Unreachable } else { Exit::Refused };
    Failure { exit, message: out::harmless(&format!("{words} ({code}{id})")) }
}

/// A text as one part of a path or query: everything but the unreserved characters is escaped (RFC 3986 §2.3).
pub fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A member as text for a table; lists are joined, what is missing is empty.
pub fn cell(value: &Value, member: &str) -> String {
    match value.get(member) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_escapes() {
        assert_eq!(escaped("a b@x.example/ü"), "a%20b%40x.example%2F%C3%BC");
        assert!(base_url("https://id.example.org").is_ok() && base_url("http://127.0.0.1:7400/").is_ok());
        for wrong in ["id.example.org", "https://x/y", "file:///x", "https://x?q", ""] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
