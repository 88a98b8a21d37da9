//! In which words mails are written: one text per mail and language, which a folder may override file by file.
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// The mails that there are.
pub const NAMES: &[&str] = &[
    "reset_password",
    "password_reset",
    "password_changed",
    "new_device",
    "account_blocked",
    "account_unblocked",
    "link_added",
    "verify_email",
    "sign_up_again",
    "change_email",
    "email_changed",
    "sign_in_refused",
    "session_ended",
    "app_connected",
    "account_deleted",
    "email_moved",
];
/// The languages that come with the program.
pub const LANGUAGES: &[&str] = &["en", "de"];
/// What a template may use. All of them are there in every mail; what does not apply is empty.
pub const VALUES: &[(&str, &str)] = &[
    ("site", "id.example.org"),
    ("email", "ada@example.org"),
    ("link", "https://id.example.org/recover/pcl_0000000000000000000000"),
    ("minutes", "60"),
    ("device", "Firefox on Linux"),
    ("address", "192.0.2.1"),
    ("at", "2026-11-28 12:00 UTC"),
    ("reason", "a reason"),
    ("until", "2026-12-28 12:00 UTC"),
    ("app", "an application"),
    ("other", "a…@example.net"),
];

macro_rules! embedded {
    ($($name:literal)*) => {
        &[$(
            (concat!($name, ".en.txt"), include_str!(concat!("../templates/", $name, ".en.txt"))),
            (concat!($name, ".de.txt"), include_str!(concat!("../templates/", $name, ".de.txt"))),
        )*]
    };
}

const TEXTS: &[(&str, &str)] = embedded! {
    "reset_password" "password_reset" "password_changed" "new_device" "account_blocked" "account_unblocked"
    "link_added" "verify_email" "sign_up_again" "change_email" "email_changed" "sign_in_refused" "session_ended"
    "app_connected" "account_deleted" "email_moved"
};
const LAYOUT: (&str, &str) = ("layout.html", include_str!("../templates/layout.html"));
/// The longest subject, in characters.
const MAX_SUBJECT: usize = 150;
/// The longest file, in bytes: a template is no attachment.
const MAX_FILE: u64 = 256 * 1024;

/// A mail in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Of one line.
    pub subject: String,
    /// The mail.
    pub text: String,
    /// The same for who shows HTML.
    pub html: String,
}

/// Templates that were read and tried.
pub(crate) struct Templates {
    environment: Environment<'static>,
    language: String,
}

/// Whether this can be a language's name in a file's name: `en`, `de`, `pt-br`.
fn is_language(text: &str) -> bool {
    (2..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

impl Templates {
    /// With the files of this folder in place of those of the same name.
    ///
    /// # Errors
    /// Which file, and in which line, in words.
    pub(crate) fn read(folder: Option<&Path>, language: &str) -> Result<Self, String> {
        if !is_language(language) {
            return Err(format!("{language:?} is no language: two letters, such as en or de"));
        }
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(format!("{} is no folder", folder.display()));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        let embedded = |name: &str| TEXTS.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let mut spoken = LANGUAGES.contains(&language);
        let languages = if language == "en" { vec!["en"] } else { vec![language, "en"] };
        for name in NAMES.iter().flat_map(|name| languages.iter().map(move |language| format!("{name}.{language}.txt")))
        {
            let own = own(folder, &name)?;
            spoken |= own.is_some() && name.ends_with(&format!(".{language}.txt"));
            if let Some(text) = own.or_else(|| embedded(&name)) {
                add(&mut environment, folder, &name, text)?;
            }
        }
        if !spoken {
            return Err(format!(
                "there is no mail in the language {language:?}: put its files into mail_templates, or use en or de"
            ));
        }
        let layout = own(folder, LAYOUT.0)?.unwrap_or_else(|| LAYOUT.1.to_owned());
        add(&mut environment, folder, LAYOUT.0, layout)?;
        let templates = Self { environment, language: language.to_owned() };
        templates.try_all(folder)?;
        Ok(templates)
    }

    /// Each once: a name that there is not is told now.
    fn try_all(&self, folder: Option<&Path>) -> Result<(), String> {
        let values: BTreeMap<&str, String> = VALUES.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        for name in NAMES {
            for language in [self.language.as_str(), "en"] {
                if let Some(file) = self.file(name, language) {
                    self.write_by(&file, &values).map_err(|wrong| wrong.told(folder))?;
                }
            }
        }
        Ok(())
    }

    fn file(&self, name: &str, language: &str) -> Option<String> {
        let file = format!("{name}.{language}.txt");
        self.environment.get_template(&file).is_ok().then_some(file)
    }

    /// A mail in words.
    ///
    /// # Errors
    /// Only for a name that there is not, or a template that works with some values only.
    pub(crate) fn write(&self, name: &str, values: &BTreeMap<&str, String>) -> Result<Written, String> {
        let file = self.file(name, &self.language).or_else(|| self.file(name, "en"));
        let file = file.ok_or_else(|| format!("there is no mail {name:?}"))?;
        self.write_by(&file, values).map_err(|wrong| wrong.told(None))
    }

    fn write_by(&self, file: &str, values: &BTreeMap<&str, String>) -> Result<Written, Wrong> {
        // What others chose (a device's name, a reason) stays on its line.
        let plain = |text: &String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let values: BTreeMap<&str, String> = values.iter().map(|(name, text)| (*name, plain(text))).collect();
        let template = self.environment.get_template(file).map_err(|error| Wrong::of(file, &error))?;
        let whole = template.render(&values).map_err(|error| Wrong::of(file, &error))?;
        let (head, text) = whole.split_once('\n').unwrap_or((&whole, ""));
        let subject = head.strip_prefix("Subject:").map(str::trim).filter(|subject| !subject.is_empty());
        let subject = subject.ok_or_else(|| Wrong::at(file, 1, "the first line is not `Subject: …`"))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(Wrong::at(file, 2, "there is no text below the subject"));
        }
        let paragraphs: Vec<Vec<_>> = text
            .split("\n\n")
            .filter(|paragraph| !paragraph.trim().is_empty())
            .map(|paragraph| {
                let lines = paragraph.lines().map(str::trim).filter(|line| !line.is_empty());
                lines.map(|line| context! { text => line, link => values.get("link").is_some_and(|l| !l.is_empty() && l == line) }).collect()
            })
            .collect();
        let layout = self.environment.get_template(LAYOUT.0).map_err(|error| Wrong::of(LAYOUT.0, &error))?;
        let html = layout.render(context! { subject, paragraphs, site => values.get("site") });
        Ok(Written {
            subject: subject.chars().take(MAX_SUBJECT).collect(),
            text: format!("{text}\n"),
            html: html.map_err(|error| Wrong::of(LAYOUT.0, &error))?,
        })
    }
}

/// What is wrong, and where.
struct Wrong {
    file: String,
    line: usize,
    what: String,
}

impl Wrong {
    fn of(file: &str, error: &minijinja::Error) -> Self {
        let what =
            error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
        // An error of the layout's names the layout.
        let file = error.name().unwrap_or(file);
        Self::at(file, error.line().unwrap_or(1), &what)
    }
    fn at(file: &str, line: usize, what: &str) -> Self {
        Self { file: file.to_owned(), line, what: what.to_owned() }
    }
    fn told(self, folder: Option<&Path>) -> String {
        let file = folder.map_or_else(|| self.file.clone(), |folder| folder.join(&self.file).display().to_string());
        format!("{file}:{}: {}", self.line, self.what)
    }
}

/// The text of a file of the folder, if it is there.
fn own(folder: Option<&Path>, name: &str) -> Result<Option<String>, String> {
    let Some(path) = folder.map(|folder| folder.join(name)) else { return Ok(None) };
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > MAX_FILE => Err(told(&"it is too large for a template")),
        Ok(_) => std::fs::read_to_string(&path).map(Some).map_err(|error| told(&error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(told(&error)),
    }
}

fn add(environment: &mut Environment<'static>, folder: Option<&Path>, name: &str, text: String) -> Result<(), String> {
    let added = environment.add_template_owned(name.to_owned(), text);
    added.map_err(|error| Wrong::of(name, &error).told(folder))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so and ends")]
mod tests {
    use super::*;

    fn values() -> BTreeMap<&'static str, String> {
        VALUES.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    struct Folder(std::path::PathBuf);
    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("portcullis-mail-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.0.join(name), text).unwrap();
        }
    }
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_mail_is_there_in_every_language_and_says_where_its_link_is() {
        for language in LANGUAGES {
            let templates = Templates::read(None, language).unwrap();
            for name in NAMES {
                assert!(templates.file(name, language).is_some(), "{name} {language}");
                let written = templates.write(name, &values()).unwrap();
                assert!(!written.subject.contains('\n') && written.text.ends_with('\n'), "{written:?}");
                let link = &values()["link"];
                assert_eq!(
                    written.text.contains(link.as_str()),
                    written.html.contains("<a href="),
                    "{name} {language}"
                );
            }
        }
        let (en, de) = (Templates::read(None, "en").unwrap(), Templates::read(None, "de").unwrap());
        for name in NAMES {
            assert_ne!(en.write(name, &values()).unwrap().text, de.write(name, &values()).unwrap().text, "{name}");
        }
    }

    #[test]
    fn what_others_chose_is_neither_markup_nor_a_line_of_its_own() {
        let templates = Templates::read(None, "en").unwrap();
        let mut values = values();
        values.insert("device", "<b>phone</b>\r\nBcc: eve@example.org\n\n{{ link }}".into());
        let written = templates.write("new_device", &values).unwrap();
        assert!(written.text.contains("<b>phone</b>  Bcc: eve@example.org  {{ link }}"), "{}", written.text);
        assert!(!written.html.contains("<b>phone"), "{}", written.html);
        assert!(!written.text.lines().any(|line| line.starts_with("Bcc")));
        values.insert("site", "a\r\nBcc: eve@example.org".into());
        assert!(!templates.write("new_device", &values).unwrap().subject.contains(['\r', '\n']));
    }

    #[test]
    fn a_folder_overrides_single_files_and_mistakes_are_told_with_file_and_line() {
        let folder = Folder::new("own");
        folder.put("new_device.en.txt", "Subject: Somebody is in\n\nHello {{ email }}, look:\n{{ link }}\n");
        let templates = Templates::read(Some(&folder.0), "en").unwrap();
        let written = templates.write("new_device", &values()).unwrap();
        assert_eq!((written.subject.as_str(), written.text.lines().count()), ("Somebody is in", 2));
        assert!(templates.write("reset_password", &values()).unwrap().text.contains("password"), "the others stay");
        for (text, line, words) in [
            ("Subject: a\n\n{{ nobody }}\n", 3, "undefined"),
            ("Subject: a\n\n{% if link %}\n", 3, "syntax"),
            ("Hello\n\nthere\n", 1, "Subject"),
            ("Subject: a\n", 2, "no text"),
        ] {
            folder.put("new_device.en.txt", text);
            let told = Templates::read(Some(&folder.0), "en").err().unwrap();
            let place = format!("{}:{line}: ", folder.0.join("new_device.en.txt").display());
            assert!(told.starts_with(&place) && told.contains(words), "{told}");
        }
    }

    #[test]
    fn another_language_needs_one_file_at_least_and_falls_back_to_english() {
        assert!(Templates::read(None, "fr").err().unwrap().contains("\"fr\""));
        assert!(Templates::read(None, "../x").err().unwrap().contains("no language"));
        let folder = Folder::new("fr");
        folder.put("reset_password.fr.txt", "Subject: Mot de passe\n\nVoici :\n{{ link }}\n");
        let templates = Templates::read(Some(&folder.0), "fr").unwrap();
        assert_eq!(templates.write("reset_password", &values()).unwrap().subject, "Mot de passe");
        let english = Templates::read(None, "en").unwrap().write("new_device", &values()).unwrap();
        assert_eq!(templates.write("new_device", &values()).unwrap(), english);
        assert!(Templates::read(Some(&folder.0.join("nowhere")), "en").err().unwrap().contains("no folder"));
    }
}
