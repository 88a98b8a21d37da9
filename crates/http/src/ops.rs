//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`: for operators and their tools.
use crate::openapi;
use crate::problem::Problem;
use crate::render;
use crate::request::Ctx;
use crate::table::Table;
use crate::traffic::BUCKETS_MS;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use portcullis_app::FaultKind;
use portcullis_wire::Code;
use serde_json::json;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) fn routes(table: Table) -> Table {
    table.get("/healthz", healthz).get("/readyz", readyz).get("/metrics", metrics)
}

/// The description of the API stays beside the API.
pub(crate) fn description(table: Table) -> Table {
    table.get("/openapi.json", document)
}

/// The process lives and answers.
async fn healthz() -> Response {
    render::ok(&json!({ "status": "ok" }))
}

/// This node may serve: its reads of the log are fresh, and the database answers.
async fn readyz(ctx: Ctx) -> Result<Response, Problem> {
    match ctx.app().why_not_ready().await {
        None => Ok(render::ok(&json!({ "status": "ready" }))),
        Some(why) => {
            tracing::warn!(%why, "not ready");
            Err(Problem::because(
                Code::Unavailable,
                "This node is not up to date with its database; its log says more.",
            ))
        }
    }
}

async fn document(ctx: Ctx) -> Response {
    let config = ctx.shared.config();
    render::ok(&openapi::document(&config.issuer, &config.version))
}

/// Prometheus' text format, version 0.0.4.
async fn metrics(ctx: Ctx) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text(&ctx)).into_response()
}

/// Lines of the format. Names and label values are our own, so nothing needs to be escaped.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.value(name, "", value);
    }
}

fn text(ctx: &Ctx) -> String {
    let mut out = Lines::default();
    let (app, config) = (ctx.app(), ctx.shared.config());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.family("portcullis_info", "gauge", "The version that runs.");
    out.value("portcullis_info", &format!("{{version=\"{}\"}}", config.version), 1);

    let counts = app.counts();
    let (hashed, hash_refused) = app.passwords().counts();
    let [observed, hits, held_back] = app.risk_counts();
    let (stats, traffic) = (app.hub().stats(), &config.traffic);
    for (name, help, value) in [
        ("sign_ins", "Sessions started.", read(&counts.sign_ins)),
        ("sign_ins_refused", "Sign-ins refused.", read(&counts.sign_ins_refused)),
        (
            "sign_ins_beyond_step",
            "Sign-ins refused after more than failed_sign_in_step: their time tells something.",
            read(&counts.sign_ins_beyond_step),
        ),
        (
            "sign_in_attempts_checked",
            "Attempts to sign in whose password was looked at.",
            read(&counts.attempts_checked),
        ),
        (
            "sign_in_attempts_throttled",
            "Attempts to sign in whose password was not looked at, because a budget for guesses was used up.",
            read(&counts.attempts_throttled),
        ),
        (
            "sign_ups_throttled",
            "Sign-ups refused with 503, because a budget of their part of the network was used up.",
            read(&counts.sign_ups_throttled),
        ),
        ("refreshes", "Refreshes answered.", read(&counts.refreshes)),
        ("refreshes_refused", "Refreshes refused.", read(&counts.refreshes_refused)),
        ("refresh_reuses", "Refresh tokens that only a copy explains.", read(&counts.thefts)),
        (
            "proofs_refused",
            "DPoP proofs and client assertions that were wrong, or shown before.",
            read(&counts.proofs_refused),
        ),
        ("revocations", "Entries that calls wrote into the revocation log.", read(&counts.revocations)),
        ("conflicts", "Decisions taken anew because rows had moved.", read(&counts.conflicts)),
        ("messages_sent", "Messages to others (logout tokens) that were taken.", read(&counts.messages_sent)),
        ("messages_failed", "Tries to send a message that failed and come again.", read(&counts.messages_failed)),
        ("messages_dead", "Messages that were given up.", read(&counts.messages_dead)),
        ("sessions_pruned", "Sessions deleted some time after their end.", read(&counts.sessions_pruned)),
        (
            "tickets_pruned",
            "Codes and proofs that can be used once, deleted some time after their end.",
            read(&counts.tickets_pruned),
        ),
        ("grants_pruned", "Grants deleted that had ended under sessions that go on.", read(&counts.grants_pruned)),
        (
            "clients_pruned",
            "Clients deleted that registered themselves and that nobody used.",
            read(&counts.clients_pruned),
        ),
        ("unverified_pruned", "Accounts deleted whose address was never verified.", read(&counts.unverified_pruned)),
        ("events_sealed", "Audit records sealed into their chain.", read(&counts.events_sealed)),
        (
            "audit_misfits",
            "Times that the chain of audit records was not what it was, and nothing was sealed or pruned.",
            read(&counts.audit_misfits),
        ),
        ("risk_observed", "Acts that the rules about suspicious activity looked at.", observed),
        ("risk_hits", "Times that one of those rules said something, shadows too.", hits),
        ("risk_blocks_held_back", "Blocks by those rules that risk_max_blocks_per_minute held back.", held_back),
        ("events_pruned", "Audit records deleted because of their age.", read(&counts.events_pruned)),
        ("addresses_forgotten", "Addresses deleted because of their age.", read(&counts.addresses_forgotten)),
        ("accounts_due", "Blocks that lifted themselves, and deletions that became final.", read(&counts.accounts_due)),
        ("password_hashes", "Password hashes computed.", hashed),
        ("password_upgrades", "Stored hashes replaced by better ones after a sign-in.", app.passwords().upgraded()),
        ("password_hashes_refused", "Password hashes refused because the queue was full.", hash_refused),
        ("feed_leases", "Leases given to verifiers.", read(&stats.leases)),
        ("feed_leases_refused", "Leases refused.", read(&stats.leases_refused)),
        ("feed_snapshots", "Snapshots sent.", read(&stats.snapshots)),
        ("feed_streams_dropped", "Streams dropped because they could not follow.", read(&stats.dropped)),
        ("nodes_lost", "Nodes whose row this one took away because they were silent.", read(&stats.nodes_lost)),
        ("log_reads_failed", "Reads of the revocation log that failed.", read(&stats.reads_failed)),
        ("connections", "Connections accepted.", read(&traffic.accepted)),
        ("connections_stalled", "Connections dropped because they took no bytes for too long.", read(&traffic.stalled)),
        ("connections_silent", "Connections dropped because no request came in time.", read(&traffic.silent)),
        ("tls_handshakes_failed", "TLS handshakes that failed or took too long.", read(&traffic.handshakes_failed)),
        ("panics", "Handlers that panicked.", read(&traffic.panics)),
    ] {
        out.one(&format!("portcullis_{name}_total"), "counter", help, value);
    }

    out.family("portcullis_faults_total", "counter", "Faults on this side, by kind.");
    for (kind, count) in FaultKind::ALL.iter().zip(&counts.faults) {
        out.value("portcullis_faults_total", &format!("{{kind=\"{}\"}}", kind.name()), read(count));
    }

    let keys = app.keys();
    out.one("portcullis_signing_keys", "gauge", "Signing keys in the feed and the JWKS.", keys.public().len());
    let help =
        "Since when the key that signs does, in seconds since 1970: one that is older than key_rotation is stuck.";
    out.one("portcullis_signing_key_since_timestamp_seconds", "gauge", help, keys.signs_since().secs());

    let (head, instances) = app.hub().instances();
    let count = |what: fn(&portcullis_feed::fleet::Listed) -> bool| instances.iter().filter(|one| what(one)).count();
    let behind = instances.iter().filter(|one| one.connected).filter_map(|one| one.applied);
    let behind = behind.map(|applied| head.0.saturating_sub(applied.0)).max().unwrap_or(0);
    out.one("portcullis_guess_budgets", "gauge", "Budgets for guesses that are not full.", read(&counts.budgets));
    let unsealed = read(&counts.events_unsealed);
    out.one("portcullis_events_unsealed", "gauge", "Audit records that wait to be sealed, as last counted.", unsealed);
    let age_s = read(&counts.events_unsealed_age_ms) / 1000;
    let help = "For how long the oldest of them has waited, as last counted.";
    out.one("portcullis_events_unsealed_age_seconds", "gauge", help, age_s);
    let waiting = read(&counts.messages_waiting);
    out.one("portcullis_messages_waiting", "gauge", "Messages that wait to be sent, as last counted.", waiting);
    out.one("portcullis_log_head", "gauge", "Position of the newest entry.", head);
    out.one("portcullis_feed_streams", "gauge", "Streams open now.", read(&stats.streams));
    if let Some(others) = app.hub().other_nodes() {
        let help = "Other nodes that have a row; a dead one's stays until no lease of it can live.";
        out.one("portcullis_nodes_others", "gauge", help, others.known);
        let help = "Those of them that have said nothing for seconds: who follows them may be without an answer.";
        out.one("portcullis_nodes_silent", "gauge", help, others.silent);
    }
    out.one("portcullis_verifiers", "gauge", "Verifier instances known.", instances.len());
    out.one("portcullis_verifiers_connected", "gauge", "Verifier instances with a stream.", count(|one| one.connected));
    out.one(
        "portcullis_verifiers_leased",
        "gauge",
        "Verifier instances that may hold a lease.",
        count(|one| one.leased),
    );
    out.one("portcullis_verifiers_behind", "gauge", "How many entries the slowest connected verifier lacks.", behind);
    out.one("portcullis_bound_seconds", "gauge", "The bound B.", seconds_ms(app.hub().bound_ms()));
    let ready = u8::from(app.hub().why_not_ready().is_none());
    out.one("portcullis_ready", "gauge", "1 while this node may serve.", ready);
    out.one("portcullis_connections_open", "gauge", "Connections open now.", read(&traffic.open));
    let expires_at_s = traffic.certificate_expires_at_s.load(Ordering::Relaxed);
    if expires_at_s > 0 {
        let help = "When the TLS certificate expires, in seconds since 1970.";
        out.one("portcullis_tls_certificate_expiry_timestamp_seconds", "gauge", help, expires_at_s);
    }
    requests(ctx, &mut out);
    out.0
}

/// Milliseconds as a decimal number of seconds, without floating point.
fn seconds_ms(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn requests(ctx: &Ctx, out: &mut Lines) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let all = ctx.shared.counts().all();
    out.family("portcullis_http_requests_total", "counter", "Answers by route and class of status.");
    for (method, route, count) in &all {
        for (class, counter) in count.classes.iter().enumerate().filter(|(_, counter)| read(counter) > 0) {
            let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{class}xx\"}}");
            out.value("portcullis_http_requests_total", &labels, read(counter));
        }
    }
    let name = "portcullis_http_request_seconds";
    out.family(name, "histogram", "Time until the answer's head was ready.");
    for (method, route, count) in &all {
        let total: u64 = count.buckets.iter().map(read).sum();
        if total == 0 {
            continue;
        }
        let mut below = 0;
        for (bound_ms, bucket) in BUCKETS_MS.iter().zip(&count.buckets) {
            below += read(bucket);
            let bound = seconds_ms(i64::try_from(*bound_ms).unwrap_or(0));
            out.value(
                &format!("{name}_bucket"),
                &format!("{{method=\"{method}\",route=\"{route}\",le=\"{bound}\"}}"),
                below,
            );
        }
        let labels = format!("{{method=\"{method}\",route=\"{route}\"}}");
        out.value(&format!("{name}_bucket"), &format!("{{method=\"{method}\",route=\"{route}\",le=\"+Inf\"}}"), total);
        let sum_us = read(&count.sum_us);
        out.value(&format!("{name}_sum"), &labels, format!("{}.{:06}", sum_us / 1_000_000, sum_us % 1_000_000));
        out.value(&format!("{name}_count"), &labels, total);
    }
}
