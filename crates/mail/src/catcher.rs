//! A small mail server that keeps what it gets (RFC 5321, as far as a client needs): for `portcullis dev`, and for tests. It delivers
//! nothing. What it keeps, and what it reads, is bounded.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many mails are kept: the newest.
pub const MOST_KEPT: usize = 200;
/// For how long what is too large is read on, and thrown away.
const LINGER: Duration = Duration::from_secs(1);
/// The longest mail, in bytes.
pub const MAX_MAIL: usize = 256 * 1024;
/// The longest line of a command, in bytes (RFC 5321 §4.5.3.1.4, and room for the long ones of AUTH).
const MAX_LINE: u64 = 4096;
/// How many recipients one mail may have.
const MAX_RECIPIENTS: usize = 100;
/// How many connections are served at once.
const CONNECTIONS: usize = 32;
/// How long a client may think.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mail that was caught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The how manieth, from 1 on.
    pub n: u64,
    /// To whom, as the conversation said.
    pub to: Vec<String>,
    /// As it came, without the dots that the protocol puts in.
    pub raw: String,
}

/// Keeps what it gets, until it is dropped.
#[derive(Debug)]
pub struct Catcher {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
    replies: Mutex<VecDeque<String>>,
    slowness: Mutex<Duration>,
}

#[derive(Debug, Default)]
struct Kept {
    mails: VecDeque<Caught>,
    count: u64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Catcher {
    /// Serves on this listener. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let at = shared.clone();
        let task = tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let shared = at.clone();
                        tokio::spawn(async move {
                            let _ = converse(stream, &shared).await;
                            drop(place);
                        });
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Ok(Self { address, shared, task })
    }

    /// What is kept, oldest first.
    pub fn mails(&self) -> Vec<Caught> {
        lock(&self.shared.kept).mails.iter().cloned().collect()
    }

    /// How many came, those included that are not kept any more.
    pub fn count(&self) -> u64 {
        lock(&self.shared.kept).count
    }

    /// Answers the next mail with this line in place of taking it (`451 later`, `550 no such person`).
    pub fn answers_next(&self, reply: &str) {
        lock(&self.shared.replies).push_back(reply.to_owned());
    }

    /// Answers each mail after so long, once it is kept.
    pub fn slow(&self, by: Duration) {
        *lock(&self.shared.slowness) = by;
    }
}

impl Shared {
    fn keep(&self, to: Vec<String>, raw: String) {
        let mut kept = lock(&self.kept);
        kept.count += 1;
        let n = kept.count;
        kept.mails.push_back(Caught { n, to, raw });
        if kept.mails.len() > MOST_KEPT {
            kept.mails.pop_front();
        }
    }
}

/// One connection, to its end.
async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    say(&mut stream, "220 portcullis catches mail and delivers none").await?;
    let mut to: Option<Vec<String>> = None;
    while let Some(line) = line(&mut stream).await? {
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let reply = match (word.to_ascii_uppercase().as_str(), &mut to) {
            ("EHLO", _) => &format!("250-portcullis\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE {MAX_MAIL}"),
            ("HELO", _) => "250 portcullis",
            ("MAIL", _) if rest.to_ascii_uppercase().starts_with("FROM:") => {
                to = Some(vec![]);
                "250 ok"
            }
            ("RCPT", Some(to)) if to.len() >= MAX_RECIPIENTS => "452 too many recipients",
            ("RCPT", Some(to)) => match address(rest) {
                Some(address) => {
                    to.push(address);
                    "250 ok"
                }
                None => "501 RCPT TO:<address>",
            },
            ("DATA", Some(recipients)) if !recipients.is_empty() => {
                say(&mut stream, "354 end with a line that is a dot").await?;
                let Some(raw) = data(&mut stream).await? else {
                    say(&mut stream, "552 too large").await?;
                    // Closed over bytes that nobody has read, a connection takes its answer with it (RFC 1122 §4.2.2.13).
                    let mut rest = stream.take(4 * MAX_MAIL as u64);
                    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
                    return Ok(());
                };
                let told = lock(&shared.replies).pop_front();
                if let Some(reply) = told {
                    to = None;
                    say(&mut stream, &reply).await?;
                    continue;
                }
                shared.keep(std::mem::take(recipients), raw);
                to = None;
                let slowness = *lock(&shared.slowness);
                tokio::time::sleep(slowness).await;
                "250 caught"
            }
            ("RCPT" | "DATA", _) => "503 MAIL comes first",
            ("RSET", _) => {
                to = None;
                "250 ok"
            }
            ("NOOP", _) => "250 ok",
            ("QUIT", _) => {
                say(&mut stream, "221 bye").await?;
                return Ok(());
            }
            _ => "502 not known here",
        };
        say(&mut stream, reply).await?;
    }
    Ok(())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<()> {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await
}

/// A line without its end; `None` at the end of the conversation, and for a line that is too long.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut bytes = vec![];
    let read = async { (&mut *stream).take(MAX_LINE).read_until(b'\n', &mut bytes).await };
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let whole = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(whole.map(|line| String::from_utf8_lossy(line).into_owned()))
}

/// A mail's text up to its dot; `None` when it is too long, or breaks off.
async fn data(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut raw = String::new();
    loop {
        let Some(line) = line(stream).await? else { return Ok(None) };
        match line.strip_prefix('.') {
            Some("") => return Ok(Some(raw)),
            // A dot in front was put in by the sender (RFC 5321 §4.5.2).
            Some(rest) => raw += rest,
            None => raw += &line,
        }
        raw += "\r\n";
        if raw.len() > MAX_MAIL {
            return Ok(None);
        }
    }
}

/// The address of `TO:<ada@example.org>`, whatever parameters follow.
fn address(rest: &str) -> Option<String> {
    let (_, rest) = rest.split_once('<').filter(|(word, _)| word.trim().eq_ignore_ascii_case("TO:"))?;
    rest.split_once('>').map(|(address, _)| address.to_owned()).filter(|address| !address.is_empty())
}

impl Caught {
    /// A header's value, unfolded and decoded; empty when there is none.
    pub fn header(&self, name: &str) -> String {
        header(headers(&self.raw).0, name).map(|value| decoded_words(&value)).unwrap_or_default()
    }
    /// The text part.
    pub fn text(&self) -> String {
        part(&self.raw, "text/plain").unwrap_or_default()
    }
    /// The HTML part.
    pub fn html(&self) -> String {
        part(&self.raw, "text/html").unwrap_or_default()
    }
    /// The first address of a page in the text.
    pub fn link(&self) -> Option<String> {
        let text = self.text();
        let link = text.split_whitespace().find(|word| word.starts_with("http://") || word.starts_with("https://"));
        link.map(str::to_owned)
    }
}

/// Headers and body.
fn headers(raw: &str) -> (&str, &str) {
    raw.split_once("\r\n\r\n").unwrap_or((raw, ""))
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut found: Option<String> = None;
    for line in head.lines() {
        match &mut found {
            Some(value) if line.starts_with([' ', '\t']) => {
                value.push(' ');
                value.push_str(line.trim());
            }
            Some(_) => break,
            None => {
                let value = line.split_once(':').filter(|(known, _)| known.eq_ignore_ascii_case(name));
                found = value.map(|(_, value)| value.trim().to_owned());
            }
        }
    }
    found
}

/// The first part of this kind: of one level, which is all that is written here.
fn part(raw: &str, kind: &str) -> Option<String> {
    let (head, body) = headers(raw);
    let content = header(head, "Content-Type").unwrap_or_else(|| "text/plain".into());
    if content.to_ascii_lowercase().starts_with(kind) {
        return Some(decoded(body, &header(head, "Content-Transfer-Encoding").unwrap_or_default()));
    }
    let boundary = content.split_once("boundary=")?.1;
    let boundary = match boundary.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => boundary.split(';').next()?.trim(),
    };
    let mark = format!("--{boundary}");
    let parts = body.split(mark.as_str()).skip(1).map(|part| part.trim_start_matches("\r\n"));
    parts.filter(|part| header(headers(part).0, "Content-Type").is_some()).find_map(|part| {
        let own = header(headers(part).0, "Content-Type")?;
        own.to_ascii_lowercase().starts_with(kind).then(|| self::part(part, kind))?
    })
}

fn decoded(body: &str, encoding: &str) -> String {
    let text = match encoding.to_ascii_lowercase().as_str() {
        "base64" => {
            let plain: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            String::from_utf8_lossy(&STANDARD.decode(plain).unwrap_or_default()).into_owned()
        }
        "quoted-printable" => unquoted(body, false),
        _ => body.to_owned(),
    };
    format!("{}\n", text.replace("\r\n", "\n").trim_end())
}

/// Quoted-printable (RFC 2045 §6.7), or the Q of encoded words (RFC 2047 §4.2).
fn unquoted(text: &str, word: bool) -> String {
    let text = text.replace("=\r\n", "");
    let (bytes, mut out, mut at) = (text.as_bytes(), vec![], 0);
    while let Some(byte) = bytes.get(at) {
        let hex = || u8::from_str_radix(std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?, 16).ok();
        match (byte, hex()) {
            (b'=', Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'_', _) if word => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A header's encoded words (RFC 2047) as text. The space between two of them is none.
fn decoded_words(value: &str) -> String {
    let mut out = String::new();
    let mut after_word = false;
    for word in value.split(' ') {
        let decoded = word.strip_prefix("=?").and_then(|rest| rest.strip_suffix("?=")).and_then(|rest| {
            let mut parts = rest.splitn(3, '?');
            let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
            let known = charset.eq_ignore_ascii_case("utf-8");
            match encoding.to_ascii_lowercase().as_str() {
                "b" if known => Some(String::from_utf8_lossy(&STANDARD.decode(text).ok()?).into_owned()),
                "q" if known => Some(unquoted(text, true)),
                _ => None,
            }
        });
        if !(out.is_empty() || after_word && decoded.is_some()) {
            out.push(' ');
        }
        after_word = decoded.is_some();
        out.push_str(decoded.as_deref().unwrap_or(word));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so and ends")]
mod tests {
    use super::*;
    use crate::{Failed, Mail, MailOptions, Mailer, VALUES};
    use std::collections::BTreeMap;

    async fn catcher() -> (Catcher, String) {
        let catcher = Catcher::start(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
        let url = format!("smtp://{}", catcher.address);
        (catcher, url)
    }

    fn mailer(url: &str, language: &str) -> Mailer {
        let from = "Pförtner <id@example.org>";
        Mailer::new(&MailOptions { url, from, templates: None, language, authorities: &[] }).unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_is_caught_and_read_as_it_was_written() {
        let (catcher, url) = catcher().await;
        let mut values: BTreeMap<&str, String> =
            VALUES.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        values
            .insert("device", "Ädas Telefon, with a very long name that goes on and on and on beyond one line".into());
        for (n, language) in crate::LANGUAGES.iter().enumerate() {
            let mailer = mailer(&url, language);
            let at_ms = 1_700_000_000_000;
            let mail = Mail { id: "msg_1", to: "ada@example.org", at_ms, name: "new_device", values: &values };
            mailer.send(&mail).await.unwrap();
            let caught = catcher.mails().pop().unwrap();
            let written = mailer.write("new_device", &values).unwrap();
            assert_eq!((caught.n, caught.to.as_slice()), (n as u64 + 1, &["ada@example.org".to_owned()][..]));
            assert_eq!((caught.header("Subject"), caught.text()), (written.subject, written.text));
            assert_eq!(caught.html().trim(), written.html.trim());
            assert_eq!(caught.header("Message-ID"), "<msg_1@example.org>");
            assert_eq!(caught.header("From"), "Pförtner <id@example.org>");
            assert!(caught.header("Date").starts_with("Tue, 14 Nov 2023 22:13:20"), "{}", caught.header("Date"));
            assert_eq!(caught.link().as_deref(), Some(values["link"].as_str()));
        }
    }

    #[tokio::test]
    async fn what_a_mail_server_answers_is_told_and_what_is_none_is_not_reached() {
        let (catcher, url) = catcher().await;
        let (mailer, values) = (mailer(&url, "en"), VALUES.iter().map(|(n, t)| (*n, (*t).to_owned())).collect());
        let mail = Mail { id: "msg_1", to: "ada@example.org", at_ms: 0, name: "new_device", values: &values };
        for code in [451, 550] {
            catcher.answers_next(&format!("{code} not <ada@example.org>"));
            let failed = mailer.send(&mail).await.unwrap_err();
            assert!(
                matches!(&failed, Failed::Answered(told, words) if *told == code && !words.contains("ada@")),
                "{failed:?}"
            );
        }
        assert_eq!(catcher.count(), 0);
        let wrong = mailer.send(&Mail { to: "ada", ..mail }).await;
        assert!(matches!(wrong, Err(Failed::Unwritten(_))), "{wrong:?}");
        drop(catcher);
        tokio::task::yield_now().await;
        let unreached = mailer.send(&mail).await;
        assert!(matches!(unreached, Err(Failed::Unreached(_))), "{unreached:?}");
    }

    #[tokio::test]
    async fn it_keeps_the_newest_and_reads_no_more_than_it_keeps() {
        let (catcher, _) = catcher().await;
        let talk = async |lines: &str| {
            let mut stream = TcpStream::connect(catcher.address).await.unwrap();
            let (mut read, mut write) = stream.split();
            let mut answer = String::new();
            let say = async {
                let _ = write.write_all(lines.as_bytes()).await;
                let _ = write.shutdown().await;
            };
            let _ = tokio::join!(say, read.read_to_string(&mut answer));
            answer
        };
        let mail = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d> X=1\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n";
        talk(&format!("HELO x\r\n{}QUIT\r\n", mail.repeat(MOST_KEPT + 5))).await;
        let mails = catcher.mails();
        assert_eq!((mails.len(), mails[0].n, catcher.count()), (MOST_KEPT, 6, MOST_KEPT as u64 + 5));
        assert_eq!((mails[0].text().as_str(), mails[0].header("subject").as_str()), (".dot\n", "x"));
        for (lines, reply) in [
            ("DATA\r\n", "503"),
            ("RCPT TO:<a@b>\r\n", "503"),
            ("MAIL FROM:<>\r\nRCPT TO:\r\n", "501"),
            ("MAIL FROM:<>\r\nDATA\r\n", "503"),
            ("VRFY root\r\n", "502"),
        ] {
            assert!(talk(lines).await.contains(&format!("\r\n{reply} ")), "{lines}");
        }
        let large = format!("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n{}.\r\n", "x\r\n".repeat(MAX_MAIL / 2));
        assert!(talk(&large).await.contains("552"));
        assert!(!talk(&"x".repeat(10_000)).await.contains("502"), "no such line is read to its end");
        assert_eq!(catcher.count(), MOST_KEPT as u64 + 5);
    }
}
