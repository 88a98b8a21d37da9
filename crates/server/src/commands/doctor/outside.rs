//! The installation as its users reach it: by the issuer, through whatever stands in front.
use super::{Failed, Good, Report, State, Warning};
use crate::client::{Client, Target, Trust};
use crate::commands::remote::base_url;
use crate::settings::Settings;
use http::{Method, header};
use portcullis_app::real;
use portcullis_http::probe;
use portcullis_wire::{Time, time};
use serde_json::Value;

/// A clock that is this far from another is a warning, in milliseconds: `Date` is in whole seconds, and answers take time.
pub(super) const CLOCK_WARNS: i64 = 2_000;
/// A clock that is this far from another is a failure, in milliseconds: tokens would be refused as not valid yet.
const CLOCK_FAILS: i64 = 30_000;

/// Whom our own hop headers name: an address of documentation (RFC 5737), which no caller has.
const NOBODY: &str = "192.0.2.77";

/// The server as its users reach it: by the issuer, through whatever stands in front of it.
pub(super) async fn look(report: &mut Report, settings: &Settings, trust: Trust) {
    let Some(issuer) = &settings.issuer else {
        return report.add("public address", Good, "none is set: the server is for this machine alone");
    };
    let uri = match base_url(issuer) {
        Ok(uri) => uri,
        Err(why) => return report.add("public address", Failed, why.message),
    };
    let path = "/.well-known/oauth-authorization-server";
    let mut outside = Client::new(Target::Url(uri)).trusting(trust);
    let answer = outside.call(Method::GET, path, None).await;
    let said = match &answer {
        Ok(answer) => answer.text("issuer"),
        Err(why) => return report.add("public address", Failed, format!("users cannot reach {issuer}: {}", why.0)),
    };
    if said != issuer.as_str() {
        let detail = format!("{issuer}{path} is answered by something else than this server (issuer {said:?})");
        return report.add("public address", Failed, detail);
    }
    report.add("public address", Good, format!("{issuer} leads here"));
    let mut server = Client::new(Target::Socket(Settings::admin_socket(&settings.data_dir)));
    if let Some((state, detail)) = how_it_arrives(&mut server, &mut outside).await {
        report.add("proxy headers", state, detail);
    }
    // What stands in front of a server keeps its own clock, and so does the server when this runs elsewhere.
    let before = real::wall();
    if let Ok(response) = outside.send(Method::GET, "/.well-known/jwks.json", None, None).await
        && let Some(date) = response.headers().get(header::DATE).and_then(|date| date.to_str().ok())
        && let Ok(date) = httpdate::parse_http_date(date)
    {
        let since = date.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let off = Time(i64::try_from(since).unwrap_or(i64::MAX)).since(before).abs();
        report.add("clock", clock_state(off), format!("{} from that of the public address", time::span(off)));
    }
}

const fn clock_state(off_ms: i64) -> State {
    match off_ms {
        0..=CLOCK_WARNS => Good,
        ..CLOCK_FAILS => Warning,
        _ => Failed,
    }
}

/// A call with hop headers that we made up, as the server saw it. `None`: the server was not asked, which is said elsewhere.
async fn how_it_arrives(server: &mut Client, outside: &mut Client) -> Option<(State, String)> {
    let word = server.call(Method::POST, "/v1/admin/probe", None).await.ok().filter(super::Answer::is_success)?;
    let forwarded = format!("for={NOBODY}");
    let ours = [(probe::HEADER, word.text("probe")), ("x-forwarded-for", NOBODY), ("forwarded", &forwarded)];
    let sent = outside.send_with(Method::GET, "/.well-known/jwks.json", None, None, &ours).await;
    let seen = server.call(Method::GET, "/v1/admin/probe", None).await.ok()?;
    sent.ok().map(|_| hops_state(&seen.body["seen"]))
}

/// What the proxies do with the headers that name the caller, and what this server makes of it.
fn hops_state(seen: &Value) -> (State, String) {
    let Some(peer) = seen["peer"].as_str() else {
        return (Warning, "the call did not arrive at this server: was it another node's turn, or a cache's?".into());
    };
    let hops = |name: &str| {
        let values = seen[name].as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let (plain, standard) = (hops("x_forwarded_for"), hops("forwarded"));
    // As we sent it, removed, or written to by whoever stands in front.
    let ours = |hops: &str| hops == NOBODY || hops == format!("for={NOBODY}");
    let written = |hops: &str| !hops.is_empty() && !ours(hops);
    let trusted = seen["trusted"] == true;
    if !trusted && (written(&plain) || written(&standard)) {
        let detail = format!(
            "a proxy at {peer} names the callers, and trusted_proxies does not have it: every caller seems to be that proxy"
        );
        return (Failed, detail);
    }
    if !trusted {
        return (Good, format!("{peer} is taken for the caller, whatever it writes into its headers"));
    }
    match (written(&plain), written(&standard)) {
        (true, true) | (true, false) if !ours(&standard) => (Good, format!("the proxy at {peer} says who calls")),
        (false, true) if !ours(&plain) => (Good, format!("the proxy at {peer} says who calls")),
        (false, false) if plain.is_empty() && standard.is_empty() => {
            (Warning, format!("the proxy at {peer} does not say who calls: have it set X-Forwarded-For"))
        }
        (false, false) => {
            let detail = format!(
                "{peer} is a trusted proxy, and headers arrive as the caller wrote them: any caller can name another's address. \
                 Have the proxy set X-Forwarded-For and remove Forwarded; where no proxy stands there, take {peer} out of trusted_proxies"
            );
            (Failed, detail)
        }
        (plain, _) => {
            let (kept, other) = if plain { ("X-Forwarded-For", "Forwarded") } else { ("Forwarded", "X-Forwarded-For") };
            let detail = format!(
                "the proxy at {peer} keeps {kept}, and hands {other} on as the caller wrote it: who sends it comes from nowhere (0.0.0.0). \
                 Have the proxy remove it"
            );
            (Warning, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn clocks() {
        for (off, state) in [(0, Good), (2_000, Good), (2_001, Warning), (29_999, Warning), (30_000, Failed)] {
            assert_eq!(clock_state(off), state, "{off}");
        }
    }

    #[test]
    fn hops() {
        let (us, fwd) = (NOBODY, "for=192.0.2.77");
        for (trusted, plain, standard, state, words) in [
            (false, &[us][..], &[fwd][..], Good, "whatever it writes"),
            (false, &[], &[], Good, "whatever it writes"),
            (false, &["192.0.2.77, 198.51.100.7"], &[fwd], Failed, "trusted_proxies does not have it"),
            (false, &["198.51.100.7"], &[], Failed, "trusted_proxies does not have it"),
            (true, &["198.51.100.7"], &[], Good, "says who calls"),
            (true, &[us, "198.51.100.7"], &[], Good, "says who calls"),
            (true, &[], &["for=198.51.100.7"], Good, "says who calls"),
            (true, &["198.51.100.7"], &["for=198.51.100.7"], Good, "says who calls"),
            (true, &["198.51.100.7"], &[fwd], Warning, "hands Forwarded on"),
            (true, &[us], &["for=192.0.2.77, for=198.51.100.7"], Warning, "hands X-Forwarded-For on"),
            (true, &[], &[], Warning, "does not say who calls"),
            (true, &[us], &[fwd], Failed, "as the caller wrote them"),
            (true, &[us], &[], Failed, "as the caller wrote them"),
            (true, &[], &[fwd], Failed, "as the caller wrote them"),
        ] {
            let seen =
                json!({ "peer": "10.0.0.1", "trusted": trusted, "x_forwarded_for": plain, "forwarded": standard });
            let (is, detail) = hops_state(&seen);
            assert!(is == state && detail.contains(words), "{seen}: {is:?} {detail}");
        }
        assert_eq!(hops_state(&Value::Null).0, Warning);
    }
}
