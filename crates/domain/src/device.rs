//! From a User-Agent header to words: "Firefox on Linux". A hint for people and for late retries, never a proof.
use alloc::{format, string::String};

/// Longest device name, in characters.
pub const MAX_NAME: usize = 80;

/// Browser or program, and system, as far as the header tells.
fn parts(agent: &str) -> (Option<&str>, Option<&'static str>) {
    const BROWSERS: &[(&str, &str)] = &[
        ("Edg/", "Edge"),
        ("EdgA/", "Edge"),
        ("EdgiOS/", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Vivaldi/", "Vivaldi"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Version/", "Safari"),
    ];
    const SYSTEMS: &[(&str, &str)] = &[
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("CrOS", "ChromeOS"),
        ("Macintosh", "macOS"),
        ("Mac OS X", "macOS"),
        ("Darwin", "macOS"),
        ("Linux", "Linux"),
    ];
    let find =
        |table: &'static [(&str, &'static str)]| table.iter().find(|(mark, _)| agent.contains(mark)).map(|e| e.1);
    let program = find(BROWSERS).or_else(|| {
        let first = agent.split(['/', ' ']).next().unwrap_or("");
        let plain = !first.is_empty() && first.len() <= 40 && first != "Mozilla";
        (plain && first.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))).then_some(first)
    });
    (program, find(SYSTEMS))
}

/// The name that a session gets when its user gave none.
pub fn name_from_agent(agent: Option<&str>) -> String {
    match parts(agent.unwrap_or("")) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(program), None) => program.into(),
        (None, Some(system)) => format!("A device on {system}"),
        (None, None) => "An unknown device".into(),
    }
}

/// Browser and system without versions, for comparison (`firefox/linux`).
pub fn family(agent: Option<&str>) -> String {
    let (program, system) = parts(agent.unwrap_or(""));
    format!("{}/{}", program.unwrap_or("?"), system.unwrap_or("?")).to_ascii_lowercase()
}

/// Whether a character is not to be seen, or turns the text around it: in a name it only serves to look like another one. (Unicode's
/// control and format characters, and blanks that are no spaces.)
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A device name as given, made fit for display: no control characters, trimmed, at most [`MAX_NAME`] characters; `None` when
/// nothing is left.
pub fn clean_name(given: &str) -> Option<String> {
    let clean: String = given.chars().filter(|c| !is_hidden(*c)).collect();
    let clean: String = clean.trim().chars().take(MAX_NAME).collect();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (agent, name) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
                "Safari on iPhone",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            ("curl/8.5.0", "curl"),
            ("<script>alert(1)</script>", "An unknown device"),
            ("", "An unknown device"),
        ] {
            assert_eq!(name_from_agent(Some(agent)), name);
        }
        assert_eq!(family(Some("curl/8.5.0")), family(Some("curl/9.0.0")));
    }

    #[test]
    fn given_names_are_cleaned() {
        assert_eq!(clean_name("  Ada's\u{0} phone\u{202e} \n"), Some("Ada's phone".into()));
        assert_eq!(clean_name(" \u{200b}\t"), None);
        assert_eq!(clean_name(&"é".repeat(200)).unwrap().chars().count(), MAX_NAME);
    }
}
