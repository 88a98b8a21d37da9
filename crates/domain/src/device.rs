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
        // What they are made of stands behind it.
        ("PlayStation", "PlayStation"),
        ("Nintendo", "Nintendo"),
        ("Tizen", "TV"),
        ("Web0S", "TV"),
        ("webOS", "TV"),
        ("SMART-TV", "TV"),
        ("AppleTV", "TV"),
        ("Apple TV", "TV"),
        ("tvOS", "TV"),
        ("Roku", "TV"),
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("CrOS", "ChromeOS"),
        ("Macintosh", "macOS"),
        ("Mac OS X", "macOS"),
        ("Darwin", "macOS"),
        ("macOS", "macOS"),
        ("iOS", "iPhone"),
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

/// What else the header says of a device, as numbers: 0 where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Build {
    /// A browser's version.
    pub browser: u32,
    /// The version of the system, as an app on a phone says it. (Browsers say one that never changes.)
    pub system: u32,
    /// A digest of the model, as an app on a phone says it.
    pub model: u32,
}

/// What else the header says: of browsers their version, of apps on phones the system's and which model of phone.
pub fn build(agent: Option<&str>) -> Build {
    let agent = agent.unwrap_or("");
    if agent.starts_with("Mozilla/") {
        // What stands in front of it is the engine, or a version that all have.
        let marks = [
            "Edg/",
            "EdgA/",
            "EdgiOS/",
            "OPR/",
            "SamsungBrowser/",
            "Vivaldi/",
            "Firefox/",
            "FxiOS/",
            "CriOS/",
            "Chrome/",
        ];
        let mark = marks.iter().chain(&["Version/"]).find(|mark| agent.contains(**mark));
        return Build { browser: mark.map_or(0, |mark| version_after(agent, mark)), ..Build::default() };
    }
    let marks = ["Android ", "Android/", "iPhone OS ", "iOS ", "iOS/", "iPadOS ", "Darwin/"];
    let system = marks.iter().map(|mark| version_after(agent, mark)).find(|version| *version > 0).unwrap_or(0);
    Build { browser: 0, system, model: model(agent).map_or(0, digest) }
}

/// The version behind a word: its first two numbers.
fn version_after(agent: &str, mark: &str) -> u32 {
    let Some((_, rest)) = agent.split_once(mark) else { return 0 };
    let text = rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').next().unwrap_or("");
    let mut numbers = text.split(['.', '_']).map(|number| number.parse().unwrap_or(0_u32).min(9999));
    numbers.next().unwrap_or(0) * 10_000 + numbers.next().unwrap_or(0)
}

/// The phone's model in the brackets of an app's header: the first part that is not the system, a language or how things are drawn.
fn model(agent: &str) -> Option<&str> {
    let inside = agent.split_once('(')?.1.split(')').next()?;
    inside.split([';', ',']).map(|part| part.split(" Build/").next().unwrap_or("").trim()).find(|part| {
        let known = ["Android", "iOS", "iPadOS", "Scale/", "iPhone OS", "CPU ", "build", "Build", "rv:"];
        let plain = ["", "Linux", "U", "K", "wv", "Mobile", "Tablet", "iPhone", "iPad"];
        let language = part.len() == 2 || part.len() == 5 && matches!(part.as_bytes()[2], b'-' | b'_');
        let letters = part.bytes().any(|b| b.is_ascii_alphabetic());
        letters && !language && !plain.contains(part) && !known.iter().any(|mark| part.starts_with(mark))
    })
}

/// FNV-1a; 0 says that there is none.
pub(crate) fn digest(text: &str) -> u32 {
    let all = text.bytes().fold(0x811c_9dc5_u32, |all, b| (all ^ u32::from(b)).wrapping_mul(0x0100_0193));
    all.max(1)
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
    fn what_else_an_app_and_a_browser_say() {
        let of = |agent| build(Some(agent));
        let (phone, emulator) =
            (of("Pay/7.2.1 (Android 14; SM-A546B)"), of("Pay/7.2.1 (Android 13; sdk_gphone64_x86_64)"));
        assert_eq!((phone.system, emulator.system), (140_000, 130_000));
        assert!(phone.model > 0 && emulator.model > 0 && phone.model != emulator.model && phone.browser == 0);
        // However else an app says the same.
        for agent in [
            "Pay/8.0 (SM-A546B; Android 14)",
            "Dalvik/2.1.0 (Linux; U; Android 14; SM-A546B Build/UP1A.231005.007)",
            "Pay/1 (Linux; Android 14; en-US; SM-A546B) okhttp/4.12.0",
        ] {
            assert_eq!(of(agent), phone, "{agent}");
        }
        let bare = |system| Build { system, ..Build::default() };
        for (agent, system) in [
            ("Notes/4.12 (iPhone; iOS 18.5; Scale/3.00)", 180_005),
            ("Notes/3.6 (Android 15)", 150_000),
            ("Notes/5.2 CFNetwork/1568.300.101 Darwin/24.2.0", 240_002),
            ("curl/8.5.0", 0),
            ("(((;;;)))Android ", 0),
            ("", 0),
        ] {
            assert_eq!(of(agent), bare(system), "{agent}");
        }
        assert!(of("Notes/4.12 (iPhone15,2; iOS 18.5)").model > 0);
        for (agent, browser) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.3", 1_400_003),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
                1_420_000,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
                260_001,
            ),
            ("Mozilla/5.0 Firefox/99999999999999999999.1", 1),
        ] {
            assert_eq!(of(agent), Build { browser, ..Build::default() }, "{agent}");
        }
    }

    #[test]
    fn given_names_are_cleaned() {
        assert_eq!(clean_name("  Ada's\u{0} phone\u{202e} \n"), Some("Ada's phone".into()));
        assert_eq!(clean_name(" \u{200b}\t"), None);
        assert_eq!(clean_name(&"é".repeat(200)).unwrap().chars().count(), MAX_NAME);
    }
}
