//! Logs: text for people or JSON for programs, on standard error. What is logged names ids, never secrets: their types do not
//! print them. Each line of a request says which one ([`portcullis_http::about`]), and costs nothing where there is no line.
use std::fmt;
use std::io::IsTerminal as _;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging; once per process. `level` was checked when the settings were read.
pub fn start(json: bool, level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) changes nothing.
    let _ = if json {
        builder.fmt_fields(JsonFields::new()).event_format(Objects::new()).try_init()
    } else {
        let builder = builder.with_ansi(std::io::stderr().is_terminal());
        builder.fmt_fields(DefaultFields::new()).event_format(Lines).try_init()
    };
}

/// `TIME LEVEL request{id=… method=… route=…}: MESSAGE`; the middle where a request is answered.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        let [dim, bold, colour, plain] = match out.has_ansi_escapes() {
            true => ["\u{1b}[2m", "\u{1b}[1m", colour(level), "\u{1b}[0m"],
            false => [""; 4],
        };
        write!(out, "{dim}")?;
        SystemTime.format_time(&mut out)?;
        write!(out, "{plain} {colour}{:>5}{plain} ", level.as_str())?;
        let of = portcullis_http::about(|about| {
            let (id, method, route) = (&about.id, &about.method, about.route());
            write!(out, "{bold}request{plain}{{id={id} method={method} route={route}}}: ")
        });
        of.unwrap_or(Ok(()))?;
        ctx.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

/// An object a line; its member `span` says which request.
struct Objects {
    inner: Format<Json>,
}

impl Objects {
    fn new() -> Self {
        let inner = tracing_subscriber::fmt::format().json().flatten_event(true);
        Self { inner: inner.with_current_span(false).with_span_list(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        let span = portcullis_http::about(
            |about| serde_json::json!({ "id": about.id, "method": about.method.as_str(), "route": about.route(), "name": "request" }),
        );
        match (span, line.strip_suffix("}\n")) {
            (Some(span), Some(members)) => writeln!(out, "{members},\"span\":{span}}}"),
            _ => out.write_str(&line),
        }
    }
}
