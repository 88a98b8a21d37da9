//! From client hints to a device's name: `Sec-CH-UA` and its kin (User-Agent Client Hints), which are structured fields
//! (RFC 9651). Whatever they say comes from outside: read strictly, kept short, and shown only.
//!
//! They name devices better than the User-Agent, which browsers freeze. They come sometimes and sometimes not (the first visit, a
//! request by script, another transport), so nothing is compared by them: what late retries compare is
//! [`crate::device::family`], of the User-Agent alone.
use crate::device;
use alloc::{format, string::String, vec::Vec};

/// Longest field that is looked at, in bytes.
const MAX_FIELD: usize = 1024;
/// How many brands are looked at.
const MAX_BRANDS: usize = 16;

/// The four fields as they came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    /// `Sec-CH-UA`: a list of brands.
    pub brands: Option<&'a str>,
    /// `Sec-CH-UA-Platform`: a string.
    pub platform: Option<&'a str>,
    /// `Sec-CH-UA-Mobile`: a boolean.
    pub mobile: Option<&'a str>,
    /// `Sec-CH-UA-Model`: a string.
    pub model: Option<&'a str>,
}

/// What the hints name the device; `None` when they say too little, and the User-Agent has to do.
pub fn name(hints: &Hints<'_>) -> Option<String> {
    let brand = hints.brands.and_then(brand)?;
    let fit = |text: String| device::clean_name(&text).filter(|text| text.chars().count() <= 40);
    let model = hints.model.and_then(string).and_then(fit);
    let platform = hints.platform.and_then(string).and_then(fit).filter(|platform| platform != "Unknown");
    let mobile = hints.mobile.map(str::trim) == Some("?1");
    let on = match (model, platform) {
        (Some(model), _) => model,
        (None, Some(platform)) if mobile && platform == "Android" => "an Android phone".into(),
        (None, Some(platform)) => platform,
        (None, None) => return None,
    };
    device::clean_name(&format!("{brand} on {on}"))
}

/// The browser among the brands: not the one made up to keep servers from relying on the list (GREASE), and rather the product
/// than the engine that it is made of.
fn brand(field: &str) -> Option<String> {
    let brands = list_of_strings(field)?;
    // A made-up brand has characters that no product's name has, or says what it is.
    let made_up = |b: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == ' ';
        !b.chars().all(plain) || (b.contains("Not") && b.contains("Brand"))
    };
    let real: Vec<&String> = brands.iter().filter(|b| !made_up(b) && !b.trim().is_empty() && b.len() <= 40).collect();
    let product = real.iter().find(|b| b.as_str() != "Chromium").or_else(|| real.first())?;
    let short = match product.as_str() {
        "Google Chrome" => "Chrome",
        "Microsoft Edge" => "Edge",
        other => other,
    };
    device::clean_name(short)
}

/// A field that is one string (RFC 9651 §3.3.3), parameters ignored.
fn string(field: &str) -> Option<String> {
    let mut rest = Rest::of(field)?;
    let text = rest.string()?;
    rest.parameters()?;
    rest.is_done().then_some(text).filter(|text| !text.is_empty())
}

/// A field that is a list of strings (RFC 9651 §3.1), each with parameters.
fn list_of_strings(field: &str) -> Option<Vec<String>> {
    let (mut rest, mut out) = (Rest::of(field)?, Vec::new());
    loop {
        out.push(rest.string()?);
        if out.len() > MAX_BRANDS {
            return None;
        }
        rest.parameters()?;
        rest.skip(" \t");
        if rest.is_done() {
            return Some(out);
        }
        rest.take(',')?;
        rest.skip(" \t");
    }
}

/// What is still to be read. Everything is ASCII.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn of(field: &'a str) -> Option<Self> {
        (field.len() <= MAX_FIELD && field.is_ascii()).then(|| Self(field.trim_matches(' ')))
    }
    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
    fn skip(&mut self, these: &str) {
        self.0 = self.0.trim_start_matches(|c| these.contains(c));
    }
    fn take(&mut self, c: char) -> Option<()> {
        self.0 = self.0.strip_prefix(c)?;
        Some(())
    }
    fn string(&mut self) -> Option<String> {
        self.take('"')?;
        let mut out = String::new();
        let mut chars = self.0.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(out);
                }
                '\\' => match chars.next()? {
                    (_, c @ ('"' | '\\')) => out.push(c),
                    _ => return None,
                },
                ' '..='~' => out.push(c),
                _ => return None,
            }
        }
        None
    }
    /// `;key=value` as often as it comes. A value is a string, or a token, number or boolean, which is passed over.
    fn parameters(&mut self) -> Option<()> {
        while self.0.starts_with(';') {
            self.take(';')?;
            self.skip(" ");
            let key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c);
            let after = self.0.trim_start_matches(key);
            if after.len() == self.0.len() || self.0.starts_with(|c: char| c.is_ascii_digit() || "_-.".contains(c)) {
                return None;
            }
            self.0 = after;
            if self.0.starts_with('=') {
                self.take('=')?;
                if self.0.starts_with('"') {
                    self.string()?;
                } else {
                    let bare = |c: char| c.is_ascii_alphanumeric() || "?-._:/*+%".contains(c);
                    let after = self.0.trim_start_matches(bare);
                    if after.len() == self.0.len() {
                        return None;
                    }
                    self.0 = after;
                }
            }
        }
        Some(())
    }
}

/// The fields that a page asks for (`Accept-CH`).
pub const fn asked_for() -> &'static str {
    "Sec-CH-UA, Sec-CH-UA-Platform, Sec-CH-UA-Mobile, Sec-CH-UA-Model"
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = r#""Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140""#;

    fn named(brands: &str, platform: &str, mobile: &str, model: &str) -> Option<String> {
        let given = |text| Some(text).filter(|text: &&str| !text.is_empty());
        name(&Hints { brands: given(brands), platform: given(platform), mobile: given(mobile), model: given(model) })
    }

    #[test]
    fn names() {
        for (brands, platform, mobile, model, expected) in [
            (CHROME, r#""macOS""#, "?0", r#""""#, Some("Chrome on macOS")),
            (CHROME, r#""Android""#, "?1", r#""Pixel 9""#, Some("Chrome on Pixel 9")),
            (CHROME, r#""Android""#, "?1", "", Some("Chrome on an Android phone")),
            (CHROME, r#""Android""#, "?0", "", Some("Chrome on Android")),
            (
                r#""Not)A;Brand";v="99", "Microsoft Edge";v="141", "Chromium";v="141""#,
                r#""Windows""#,
                "?0",
                "",
                Some("Edge on Windows"),
            ),
            (r#""Brave";v="1", "Not A Brand";v="8", "Chromium";v="1""#, r#""Linux""#, "?0", "", Some("Brave on Linux")),
            (r#""Chromium";v="1""#, r#""Linux""#, "?0", "", Some("Chromium on Linux")),
            // too little, or not what it should be
            (r#""Not/A)Brand";v="8""#, r#""Linux""#, "?0", "", None),
            (CHROME, r#""Unknown""#, "?0", "", None),
            (CHROME, "", "", "", None),
            (CHROME, "macOS", "?0", "", None),
            ("", r#""macOS""#, "?0", "", None),
            (r#""Chromium"v="1""#, r#""Linux""#, "?0", "", None),
            (r#""Chromium";v="1","#, r#""Linux""#, "?0", "", None),
            (r#"Chromium;v=1"#, r#""Linux""#, "?0", "", None),
            (r#""Chromium";V="1""#, r#""Linux""#, "?0", "", None),
            (r#""Chromium"#, r#""Linux""#, "?0", "", None),
        ] {
            assert_eq!(named(brands, platform, mobile, model).as_deref(), expected, "{brands} {platform} {model}");
        }
    }

    #[test]
    fn what_is_hostile_is_not_shown() {
        let markup = named(CHROME, r#""Linux""#, "?0", r#""<b onclick=1>""#).unwrap();
        assert_eq!(markup, "Chrome on <b onclick=1>"); // pages escape it; nothing else is in it
        let long = format!("\"{}\"", "x".repeat(500));
        assert_eq!(named(CHROME, r#""Linux""#, "?0", &long), Some("Chrome on Linux".into()));
        assert_eq!(named(&format!("\"{}\"", "x".repeat(2000)), r#""Linux""#, "?0", ""), None);
        assert_eq!(named("\"Chr\u{f6}me\"", r#""Linux""#, "?0", ""), None);
        assert_eq!(named("\"Chr\tome\"", r#""Linux""#, "?0", ""), None);
        let many = ["\"a\""; 100].join(", ");
        assert_eq!(named(&many, r#""Linux""#, "?0", ""), None);
    }

    #[test]
    fn no_input_does_harm() {
        // Every mutation of one byte of a good field, and every prefix.
        for at in 0..CHROME.len() {
            for byte in 0..128u8 {
                let mut bytes = CHROME.as_bytes().to_vec();
                bytes[at] = byte;
                let text = String::from_utf8(bytes).unwrap();
                let made = named(&text, r#""Linux""#, "?0", "");
                assert!(made.is_none_or(|made| made.ends_with(" on Linux") && made.len() < 60), "{text}");
            }
            named(&CHROME[..at], r#""Linux""#, "?0", "");
        }
    }
}
