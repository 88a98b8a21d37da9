//! Small texts for people: how long ago, and where a form may lead back to.
use portcullis_wire::Time;

/// "5 minutes ago", or the day.
pub(super) fn ago(then: Time, now: Time) -> String {
    let minutes = now.since(then).max(0) / 60_000;
    let some = |n: i64, unit: &str| format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" });
    match minutes {
        0 => "just now".into(),
        1..60 => some(minutes, "minute"),
        60..1440 => some(minutes / 60, "hour"),
        1440..43_200 => some(minutes / 1440, "day"),
        _ => then.to_string().chars().take(10).collect(),
    }
}

/// The longest place to go back to: an authorization request fits.
const MAX_PATH: usize = 7000;

/// An address's origin as a source of a content security policy (CSP 3 §2.3.1): scheme, host and port. `None` for what would mean
/// something else in a policy.
pub(super) fn origin_for_policy(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let plain = !authority.is_empty() && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    plain.then(|| format!("{scheme}://{authority}"))
}

/// A place to go back to after signing in: a path on this origin and nothing that a browser could read as another host
/// (`//evil`, `/\evil`, control characters that browsers drop).
pub(super) fn safe_path(given: &str) -> Option<&str> {
    let plain = given.len() <= MAX_PATH && given.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let one_slash = given.starts_with('/') && !given.starts_with("//");
    (plain && one_slash).then_some(given)
}

/// A text as the value of a query parameter.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_words() {
        let now = Time(1_800_000_000_000);
        for (ms, words) in [
            (-5_000, "just now"),
            (59_999, "just now"),
            (60_000, "1 minute ago"),
            (3_599_999, "59 minutes ago"),
            (7_200_000, "2 hours ago"),
            (86_400_000, "1 day ago"),
            (30 * 86_400_000, "2026-12-16"),
        ] {
            assert_eq!(ago(now.minus(ms), now), words);
        }
    }

    #[test]
    fn an_origin_cannot_say_more_in_a_policy() {
        for (uri, origin) in [
            ("https://a.example/cb?x=1", Some("https://a.example")),
            ("http://127.0.0.1:8080/cb", Some("http://127.0.0.1:8080")),
            ("com.example.app:/cb", None),
            ("https://a.example; script-src *", None),
            ("https://*/", None),
            ("'unsafe-inline':x", None),
            ("nothing", None),
        ] {
            assert_eq!(origin_for_policy(uri).as_deref(), origin, "{uri}");
        }
    }

    #[test]
    fn only_paths_of_this_origin() {
        for good in ["/", "/account/devices", "/oauth2/authorize?client_id=a&state=%2F%2Fx", "/a//b"] {
            assert_eq!(safe_path(good), Some(good));
        }
        let long = format!("/{}", "a".repeat(MAX_PATH));
        for evil in [
            "",
            "account",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            " //evil.example",
            "javascript:alert(1)",
            "/ok\r\nSet-Cookie: a=b",
            "/é",
            &long,
        ] {
            assert_eq!(safe_path(evil), None, "{evil:?}");
        }
    }
}
