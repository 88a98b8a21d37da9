//! How a mail gets to the mail server.
use crate::templates::{Templates, Written};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long one step of the conversation may take. The whole has a limit of its own, set by who sends.
const STEP: Duration = Duration::from_secs(10);

/// How mail is sent.
#[derive(Debug, Clone, Copy)]
pub struct MailOptions<'a> {
    /// `smtps://USER:PASSWORD@HOST`, `smtp://HOST:587?tls=required`, or `smtp://HOST` without TLS.
    pub url: &'a str,
    /// Who writes: `Name <address>`, or an address.
    pub from: &'a str,
    /// A folder with templates in place of ours.
    pub templates: Option<&'a Path>,
    /// In which language.
    pub language: &'a str,
    /// Private authorities (DER) that are trusted besides the public ones.
    pub authorities: &'a [Vec<u8>],
}

/// Sends mails. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<Inner>,
}

struct Inner {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    templates: Templates,
    in_the_clear: bool,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("from", &self.inner.from).finish_non_exhaustive()
    }
}

/// One mail.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// What is before the `@` of its `Message-ID`: the same each time that it is sent, so that a second delivery is recognised.
    pub id: &'a str,
    /// To whom.
    pub to: &'a str,
    /// When it was made, in milliseconds since 1970: its `Date`.
    pub at_ms: i64,
    /// Which it is.
    pub name: &'a str,
    /// What its template may use.
    pub values: &'a BTreeMap<&'static str, String>,
}

/// Why a mail was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// It cannot be written: whenever it is tried.
    Unwritten(String),
    /// The mail server answered with this code (RFC 5321 §4.2.1).
    Answered(u16, String),
    /// The mail server was not reached, or did not go on.
    Unreached(String),
}

impl Mailer {
    /// Of settings and templates, which are read and tried now; nobody is called.
    ///
    /// # Errors
    /// What is wrong, in words, and the setting that it is about; never with a password.
    pub fn new(options: &MailOptions<'_>) -> Result<Self, (&'static str, String)> {
        let of = |setting: &'static str| move |why: String| (setting, why);
        let place = Place::parse(options.url).map_err(of("mail_url"))?;
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(options.url);
        // What a URL is called in an error may be the URL.
        let mut builder =
            builder.map_err(|_| ("mail_url", "cannot be read as an address of a mail server".to_owned()))?;
        if place.tls != Secured::No {
            let mut parameters = TlsParameters::builder(place.host.to_owned());
            for der in options.authorities {
                let certificate = Certificate::from_der(der.clone());
                parameters = parameters.add_root_certificate(certificate.map_err(|e| ("outgoing_ca", e.to_string()))?);
            }
            let parameters = parameters.build_rustls().map_err(|error| ("mail_url", error.to_string()))?;
            builder = builder.tls(match place.tls {
                Secured::AtOnce => Tls::Wrapper(parameters),
                _ => Tls::Required(parameters),
            });
        }
        let from: Mailbox = options.from.parse().map_err(|_| {
            ("mail_from", "must be an address, or a name with one: Portcullis <id@example.org>".to_owned())
        })?;
        let templates = Templates::read(options.templates, options.language);
        let templates = templates.map_err(|why| match why.contains("language") {
            true => ("mail_language", why),
            false => ("mail_templates", why),
        })?;
        let transport = builder.timeout(Some(STEP)).build();
        let in_the_clear = place.tls == Secured::No && !place.is_here();
        Ok(Self { inner: Arc::new(Inner { transport, from, templates, in_the_clear }) })
    }

    /// Whether mails, and the links in them, go over the network without TLS.
    pub fn is_in_the_clear(&self) -> bool {
        self.inner.in_the_clear
    }

    /// A mail in words.
    ///
    /// # Errors
    /// Only for a name that there is not.
    pub fn write(&self, name: &str, values: &BTreeMap<&'static str, String>) -> Result<Written, String> {
        self.inner.templates.write(name, values)
    }

    /// Gives a mail to the mail server.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&self, mail: &Mail<'_>) -> Result<(), Failed> {
        let message = self.message(mail).map_err(Failed::Unwritten)?;
        match self.inner.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // What the server says may repeat to whom.
                let words = error.to_string().replace(mail.to, "…");
                Err(match error.status() {
                    Some(code) => Failed::Answered(code.into(), words),
                    None => Failed::Unreached(words),
                })
            }
        }
    }

    fn message(&self, mail: &Mail<'_>) -> Result<Message, String> {
        let Written { subject, text, html } = self.write(mail.name, mail.values)?;
        let to = mail.to.parse().map_err(|_| "the address is none that mail can be sent to".to_owned())?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(mail.at_ms).unwrap_or(0));
        let message = Message::builder()
            .message_id(Some(format!("<{}@{}>", mail.id, self.inner.from.email.domain())))
            .date(at)
            .from(self.inner.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .raw_header(lettre::message::header::HeaderValue::new(
                lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(), // RFC 3834 §5: nobody's absence notice is wanted
            ))
            .multipart(MultiPart::alternative_plain_html(text, html));
        message.map_err(|error| error.to_string())
    }
}

/// How the connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secured {
    /// TLS from the first byte (RFC 8314 §3.3).
    AtOnce,
    /// By STARTTLS, or not at all.
    Upgraded,
    /// Not at all.
    No,
}

/// Where the mail server is.
struct Place<'a> {
    host: &'a str,
    tls: Secured,
}

impl<'a> Place<'a> {
    fn parse(url: &'a str) -> Result<Self, String> {
        let usage = "must be smtps://USER:PASSWORD@HOST, smtp://USER:PASSWORD@HOST:587?tls=required, or smtp://HOST without TLS";
        let (scheme, rest) = url.split_once("://").ok_or(usage)?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let tls = match (scheme, query) {
            ("smtps", None) => Secured::AtOnce,
            ("smtp", Some("tls=required")) => Secured::Upgraded,
            ("smtp", None) => Secured::No,
            ("smtp", Some("tls=opportunistic")) => {
                return Err("tls=opportunistic is no TLS for who stands in between: say tls=required".into());
            }
            _ => return Err(usage.into()),
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
        let host = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, _)) => host,
            None => place.split(':').next().unwrap_or(place),
        };
        if host.is_empty() {
            return Err(usage.into());
        }
        let place = Self { host, tls };
        if user.is_some() && tls == Secured::No && !place.is_here() {
            return Err("would send its password in the clear: use smtps://, or ?tls=required".into());
        }
        Ok(place)
    }

    /// Whether that is this machine.
    fn is_here(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so and ends")]
mod tests {
    use super::*;

    fn options(url: &str) -> MailOptions<'_> {
        MailOptions { url, from: "Portcullis <id@example.org>", templates: None, language: "en", authorities: &[] }
    }

    #[test]
    fn a_mail_server_is_named_so_that_nothing_secret_goes_in_the_clear() {
        for (url, clear) in [
            ("smtps://ada:a%20secret@mail.example.org", false),
            ("smtp://ada:secret@mail.example.org:587?tls=required", false),
            ("smtp://mail.example.org", true),
            ("smtp://127.0.0.1:2525", false),
            ("smtp://ada:secret@localhost:2525", false),
            ("smtp://[::1]:25", false),
        ] {
            assert_eq!(Mailer::new(&options(url)).unwrap().is_in_the_clear(), clear, "{url}");
        }
        for url in [
            "mail.example.org",
            "https://mail.example.org",
            "smtp://",
            "smtps://mail.example.org?tls=none",
            "smtp://mail.example.org?tls=opportunistic",
            "smtp://ada:sesame@mail.example.org",
            "smtp://ada:sesame@mail.example.org:port?tls=required",
        ] {
            let (setting, why) = Mailer::new(&options(url)).unwrap_err();
            assert!(setting == "mail_url" && !why.contains("sesame"), "{url}: {why}");
        }
        let from = |from| Mailer::new(&MailOptions { from, ..options("smtp://127.0.0.1") });
        assert!(from("id@example.org").is_ok() && from("nobody").unwrap_err().0 == "mail_from");
    }
}
