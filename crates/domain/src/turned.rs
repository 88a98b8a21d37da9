//! What a session was made with, and what it is shown with: which of them turn into each other by themselves. Both are a browser or
//! program and a system, as [`crate::device::family`] says them.
//!
//! A phone asks for the pages of computers, an app's update has another name, one computer has two systems. But a television turns into no
//! script, and no phone into another one's. Whoever sits at a computer may copy what the browser there keeps into a script, or onto
//! another computer; that is theirs to say.

/// Which of them turned into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// Nothing that is worth a word, wherever it is.
    No,
    /// Another program, which may be worth a word by where it is.
    Other,
    /// Something that its owner may have done by hand: what a browser on a computer has, in a script or on another computer; what a phone's
    /// has, in the same one on a computer; and in another browser there.
    Perhaps,
    /// Something that nothing does by itself and hardly anybody by hand: a phone, television or console has become a script, another
    /// kind of those, or another program on a computer; a browser whose cookies are locked to the system is on another one.
    Surely,
}

/// Programs that people write scripts with, or send requests by hand.
const SCRIPTS: [&str; 27] = [
    "apache-httpclient",
    "axios",
    "bruno-runtime",
    "curl",
    "faraday",
    "go-http-client",
    "got",
    "guzzlehttp",
    "httpie",
    "httpx",
    "insomnia",
    "java",
    "libwww-perl",
    "node",
    "node-fetch",
    "php",
    "postmanruntime",
    "python",
    "python-httpx",
    "python-requests",
    "python-urllib",
    "python-urllib3",
    "reqwest",
    "ruby",
    "scrapy",
    "undici",
    "wget",
];
/// Browsers, as [`crate::device::family`] calls them.
const BROWSERS: [&str; 7] = ["chrome", "edge", "firefox", "opera", "safari", "samsung internet", "vivaldi"];
/// Those that lock what they keep by the system's own means: a folder that is copied opens on no other system.
const LOCKING: [&str; 4] = ["chrome", "edge", "opera", "vivaldi"];
const DEVICES: [&str; 6] = ["android", "iphone", "ipad", "tv", "playstation", "nintendo"];
const COMPUTERS: [&str; 4] = ["windows", "macos", "linux", "chromeos"];

/// Of `firefox/linux` the first.
pub fn program(family: &str) -> &str {
    family.split('/').next().unwrap_or("")
}

/// Of `firefox/linux` the second; `?` where it is not known.
pub fn system(family: &str) -> &str {
    family.split_once('/').map_or("?", |(_, system)| system)
}

/// Whether the systems are others, and no page that was asked for as computers get it explains that.
pub fn is_other_system(made: &str, shown: &str) -> bool {
    let (a, b) = (system(made), system(shown));
    // Some parts of what runs on a television say what it is made of.
    let explained = [
        ("android", "linux"),
        ("iphone", "macos"),
        ("ipad", "macos"),
        ("iphone", "ipad"),
        ("tv", "linux"),
        ("tv", "android"),
        ("tv", "macos"),
    ];
    a != b && a != "?" && b != "?" && !is_pair(&explained, a, b)
}

/// The same, and one computer with two systems that share what a browser keeps does not explain it either.
pub fn is_other_machine(made: &str, shown: &str) -> bool {
    is_other_system(made, shown) && !is_pair(&[("windows", "linux")], system(made), system(shown))
}

/// Whether a browser that locks what it keeps to the system is on another one: one computer with two systems has it twice.
pub fn is_unlocked(made: &str, shown: &str) -> bool {
    LOCKING.contains(&program(made)) && program(made) == program(shown) && is_other_system(made, shown)
}

/// Whether an app may have become that by an update, which names itself otherwise, or has parts that do: neither of them is what scripts are
/// written with, one of them at most is a browser, on the same kind of phone, and both may be on one system.
pub fn may_be_update(made: &str, shown: &str) -> bool {
    let any = |family: &str| !SCRIPTS.contains(&program(family)) && !["", "?"].contains(&program(family));
    let app = |family: &str| !BROWSERS.contains(&program(family));
    let one_phone = system(made) == system(shown) && DEVICES.contains(&system(made));
    let apps = app(made) && app(shown) || one_phone && (app(made) || app(shown));
    any(made) && any(shown) && apps && !is_other_system(made, shown)
}

/// What became of what a session was made with.
pub fn turned(made: &str, shown: &str) -> Turned {
    if made == shown || made.is_empty() || shown.is_empty() {
        return Turned::No;
    }
    let (of_device, on_computer) = (DEVICES.contains(&system(made)), COMPUTERS.contains(&system(shown)));
    let (same_program, other) = (program(made) == program(shown), is_other_machine(made, shown));
    let script = SCRIPTS.contains(&program(shown)) && !SCRIPTS.contains(&program(made));
    let browser = BROWSERS.contains(&program(made));
    match of_device {
        true if script || other && !(on_computer && same_program) => Turned::Surely,
        true if other => Turned::Perhaps,
        false if is_unlocked(made, shown) && other && on_computer => Turned::Surely,
        // Some browsers take over what another one on the same computer has.
        _ if browser && !same_program && BROWSERS.contains(&program(shown)) && system(made) == system(shown) => {
            Turned::Perhaps
        }
        // Developers look at their pages as a phone gets them: a computer that says it is one is a computer.
        false if browser && (script || other && on_computer) => Turned::Perhaps,
        _ if same_program || may_be_update(made, shown) => Turned::No,
        _ => Turned::Other,
    }
}

fn is_pair(pairs: &[(&str, &str)], a: &str, b: &str) -> bool {
    pairs.iter().any(|pair| *pair == (a, b) || *pair == (b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::family;
    use alloc::format;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
    const TV: &str = "Mozilla/5.0 (SMART-TV; LINUX; Tizen 7.0) AppleWebKit/537.36 (KHTML, like Gecko) 94.0.4606.31/7.0 TV Safari/537.36";
    const WEBOS: &str =
        "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36";
    const ANDROID: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36";
    const ANDROID_DESKTOP: &str =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
    const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1";
    const MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15";
    const PS5: &str = "Mozilla/5.0 (PlayStation; PlayStation 5/9.00) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15";

    const CHROME_MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
    const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0";
    const FIREFOX_MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:144.0) Gecko/20100101 Firefox/144.0";

    fn of(made: &str, shown: &str) -> Turned {
        turned(&family(Some(made)), &family(Some(shown)))
    }

    #[test]
    fn no_television_phone_or_console_becomes_a_script_or_another_one() {
        for (made, shown) in [
            (TV, "python-requests/2.32.3"),
            (WEBOS, "curl/8.5.0"),
            (TV, CHROME),
            (PS5, "Wget/1.21.4 (linux-gnu)"),
            (PS5, CHROME),
            (ANDROID, "curl/8.5.0"),
            ("Kino/6.1 (iPhone; iOS 18.5; Scale/3.00)", "Go-http-client/2.0"),
            ("Kino/6.1 (iPhone; iOS 18.5; Scale/3.00)", "Kino/6.1 (Android 14; SM-A546B)"),
            ("Kino/6.1 (Android 14; SM-A546B)", CHROME),
            (IPHONE, CHROME),
            (IPHONE, ANDROID),
            (CHROME, CHROME_MAC),
        ] {
            assert_eq!(of(made, shown), Turned::Surely, "{made} -> {shown}");
        }
    }

    #[test]
    fn what_a_person_at_a_computer_may_do_is_asked() {
        let edge = format!("{CHROME} Edg/142.0.0.0");
        for (made, shown) in [
            (CHROME, "curl/8.5.0"),
            (FIREFOX, FIREFOX_MAC),
            (CHROME, edge.as_str()),
            (ANDROID, CHROME),
            (MAC, "python-requests/2.32.3"),
        ] {
            assert_eq!(of(made, shown), Turned::Perhaps, "{made} -> {shown}");
        }
    }

    #[test]
    fn what_turns_by_itself_is_nothing() {
        for (made, shown) in [
            (CHROME, CHROME),
            (ANDROID, ANDROID_DESKTOP),
            (IPHONE, MAC),
            (WEBOS, ANDROID_DESKTOP),
            (CHROME, ANDROID_DESKTOP),
            // Updates, and parts of one app.
            ("Kino/6.1 (Android 14; SM-A546B)", "okhttp/5.1.0"),
            ("okhttp/4.12.0", "Kino/7.0 (Android 15; SM-A546B)"),
            ("Kino/6.1 (iPhone; iOS 18.5)", "Kino/7.0 CFNetwork/1568.300.101 Darwin/24.2.0"),
            ("Kino/6.1 (Android 14)", "Dart/3.5 (dart:io)"),
        ] {
            assert_eq!(of(made, shown), Turned::No, "{made} -> {shown}");
        }
    }

    #[test]
    fn another_program_is_worth_a_look() {
        for (made, shown) in [
            ("acme-cli/2.3 (linux; amd64)", "Go-http-client/2.0"),
            ("Backup/1.0 (Windows NT 10.0)", "python-requests/2.32.3"),
            ("NotenDesktop/3.8.1 (macOS 15.6; Electron 37)", "python-httpx/0.27.2"),
            ("curl/8.5.0", "python-requests/2.32.3"),
            ("python-requests/2.32.3", CHROME),
            (CHROME, "okhttp/5.1.0"),
            // Who says nothing.
            ("", "curl/8.5.0"),
            (CHROME, ""),
            // Developers' tools.
            (CHROME, IPHONE),
            (MAC, ANDROID),
        ] {
            assert_eq!(of(made, shown), Turned::Other, "{made} -> {shown}");
        }
    }

    #[test]
    fn an_app_has_another_name_after_an_update() {
        let may = |made: &str, shown: &str| may_be_update(&family(Some(made)), &family(Some(shown)));
        assert!(
            may("okhttp/4.12.0", "Kino/7.0 (Android 15)") && may("Kino/6 (iPhone; iOS 18)", "Kino/7 Darwin/24.2.0")
        );
        assert!(may("Kino/6 (Android 14)", ANDROID), "a part of it that is a browser");
        for (made, shown) in [
            (CHROME, "okhttp/5.1.0"),
            ("okhttp/4.12.0", "curl/8.5.0"),
            ("curl/8", "okhttp/4"),
            ("Kino/6 (Windows NT 10.0)", CHROME),
            ("Kino/6 (Android 14)", "Kino/6 (iPhone; iOS 18)"),
        ] {
            assert!(!may(made, shown), "{made} -> {shown}");
        }
    }
}
