//! The mail catcher of `dev`: a mail server that delivers nothing, and a page that shows what it got.
//!
//! Mails are shown as text. Their HTML is shown nowhere: it would run in the browser of whoever tries things out.
use crate::cli::exit::Failure;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use portcullis_app::{Catcher, Caught};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How far the page is from the server's port: 7402 beside 7400.
const FROM_SERVER: u16 = 2;

/// Light and dark, like the pages of the server.
const STYLE: &str = "
:root { color-scheme: light dark; --ground: #f4f5f8; --card: #fff; --line: #dcdfe7; --quiet: #5a6272; --accent: #2f5bea; }
@media (prefers-color-scheme: dark) { :root { --ground: #111319; --card: #1b1e27; --line: #333848; --quiet: #a3abbd; --accent: #7d9bff; } }
body { margin: 0 auto; max-width: 46rem; padding: 2rem 1.25rem; background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.25; }
a { color: var(--accent); overflow-wrap: anywhere; }
ul, dl, pre { margin: 0 0 1.25rem; padding: .25rem 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
ul { list-style: none; }
li { padding: .75rem 0; border-top: 1px solid var(--line); }
li:first-child { border-top: 0; }
li a { font-weight: 550; }
li span { display: block; color: var(--quiet); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; padding: 1rem 1.25rem; font-size: .9rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { padding: 1rem 1.25rem; font: inherit; white-space: pre-wrap; }
";

/// What was started; ended with its value.
#[derive(Debug)]
pub struct Mails {
    /// The page.
    pub address: SocketAddr,
    catcher: Arc<Catcher>,
    page: JoinHandle<()>,
}

impl Drop for Mails {
    fn drop(&mut self) {
        self.page.abort();
    }
}

impl Mails {
    /// The page beside the server's port (any free one beside 0), the mail server on a free one.
    pub async fn start(port: u16) -> Result<Self, Failure> {
        let port = if port == 0 { 0 } else { port.checked_add(FROM_SERVER).unwrap_or(0) };
        let failed =
            |what: &str, error: std::io::Error| Failure::config(format!("{what} cannot listen there: {error}"));
        let smtp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|e| failed("the mail catcher", e))?;
        let catcher = Arc::new(Catcher::start(smtp).map_err(|e| failed("the mail catcher", e))?);
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let what = format!("{place}: the page of the mail catcher");
        let listener = TcpListener::bind(place).await.map_err(|e| failed(&what, e))?;
        let address = listener.local_addr().map_err(|e| failed(&what, e))?;
        let router = Router::new()
            .route("/", get(list))
            .route("/messages", get(messages))
            .route("/messages/{n}", get(show))
            .route("/style.css", get(style))
            .with_state(catcher.clone());
        let page = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the page of the mail catcher ended");
            }
        });
        Ok(Self { address, catcher, page })
    }

    /// Where mails are sent to.
    pub fn smtp(&self) -> SocketAddr {
        self.catcher.address
    }
}

type Caughts = State<Arc<Catcher>>;

fn as_json(mail: &Caught) -> Value {
    json!({
        "n": mail.n, "to": mail.to, "from": mail.header("From"), "subject": mail.header("Subject"), "date": mail.header("Date"),
        "message_id": mail.header("Message-ID"), "text": mail.text(), "link": mail.link(),
    })
}

/// Newest first, for programs.
async fn messages(State(catcher): Caughts) -> Response {
    let mails: Vec<Value> = catcher.mails().iter().rev().map(as_json).collect();
    guarded(Json(json!({ "messages": mails })).into_response())
}

async fn list(State(catcher): Caughts) -> Response {
    let mails = catcher.mails();
    let row = |mail: &Caught| {
        let (to, subject, date) =
            (escaped(&mail.to.join(", ")), escaped(&mail.header("Subject")), escaped(&mail.header("Date")));
        format!("<li><a href=\"/messages/{}\">{subject}</a><span>to {to}, {date}</span></li>", mail.n)
    };
    let rows: String = mails.iter().rev().map(row).collect();
    let rows = if rows.is_empty() { "<li>Nothing was sent yet.</li>".to_owned() } else { rows };
    page(StatusCode::OK, "Mails", &format!("<ul>{rows}</ul><p><a href=\"/\">Look again</a></p>"))
}

async fn show(State(catcher): Caughts, Path(n): Path<String>) -> Response {
    let n: Option<u64> = n.parse().ok();
    let Some(mail) = catcher.mails().into_iter().find(|mail| Some(mail.n) == n) else {
        return page(
            StatusCode::NOT_FOUND,
            "Not there",
            "<p>Only the newest are kept. <a href=\"/\">All mails</a></p>",
        );
    };
    let heads: String = ["From", "Date", "Message-ID"]
        .iter()
        .map(|name| format!("<dt>{name}</dt><dd>{}</dd>", escaped(&mail.header(name))))
        .collect();
    let words = mail.text();
    let text: String = words.lines().map(|line| format!("{}\n", linked(line))).collect();
    let to = escaped(&mail.to.join(", "));
    let body = format!("<dl><dt>To</dt><dd>{to}</dd>{heads}</dl><pre>{text}</pre><p><a href=\"/\">All mails</a></p>");
    page(StatusCode::OK, &mail.header("Subject"), &body)
}

/// A line that is an address is a link; everything else is text.
fn linked(line: &str) -> String {
    let text = escaped(line);
    let address = (line.starts_with("http://") || line.starts_with("https://")) && !line.contains(char::is_whitespace);
    if address { format!("<a href=\"{text}\" rel=\"noreferrer\">{text}</a>") } else { text }
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let title = escaped(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/style.css\"></head>\
         <body><h1>{title}</h1>{body}</body></html>"
    );
    guarded((status, Html(html)).into_response())
}

async fn style() -> Response {
    guarded(([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response())
}

/// No script, no picture, no frame, no other site.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
