//! Webhooks: audit records as calls to addresses that administrators name, by the scheme of Standard Webhooks 1.0.
//!
//! A webhook follows the trail ([`crate::follow`]) under its id, and becomes messages ([`crate::outbox`]). What is sent is made when it is
//! sent, from the record as it is then: what was erased meanwhile is not sent. Each call is signed with the webhook's secret, which is
//! therefore needed in clear and kept sealed under the master key.
use crate::client::check_web;
use crate::event::EventKind;
use crate::outbox::{Message, MessageKind};
use crate::refused::Refused;
use crate::{Chance, account};
use alloc::borrow::ToOwned;
use alloc::{format, string::String, vec, vec::Vec};
use hmac::{Hmac, Mac as _};
use portcullis_wire::{ClientId, EventId, Millis, SecretBytes, SecretString, Time, WebhookId, b64};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// How many there may be: each is asked about each page of the trail.
pub const MOST: usize = 100;
/// How many patterns one may name.
pub const MAX_PATTERNS: usize = 50;
/// So many messages of one webhook may wait. Beyond that it is told of nothing more until some are taken or given up: the trail keeps
/// the rest, and its cursor stands still.
pub const MOST_WAITING: u64 = 1_000;
/// For how long an old secret may sign beside a new one, in milliseconds.
pub const MAX_OVERLAP: Millis = 7 * 86_400_000;
/// The longest wait that a receiver may ask for by `Retry-After`, in milliseconds.
pub const LONGEST_ASKED: Millis = 3_600_000;
/// The type of a message that only tries a webhook.
pub const TEST: &str = "webhook.test";

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where it is called.
    pub url: String,
    /// What it is for, in the administrator's words.
    pub description: Option<String>,
    /// Which kinds of records: `*`, a kind, or all kinds below a word (`session.*`).
    pub events: Vec<String>,
    /// Whether it is called.
    pub enabled: bool,
    /// Why it was switched off, when it was not by somebody.
    pub disabled_why: Option<String>,
    /// What it signs with, sealed under the master key.
    pub secret: SecretBytes,
    /// What it signs with besides, and until when.
    pub old_secret: Option<(SecretBytes, Time)>,
    /// When it was made.
    pub created_at: Time,
    /// Raised with every change.
    pub version: u32,
}

impl Webhook {
    /// Whether it is told of this kind of record.
    pub fn takes(&self, kind: EventKind) -> bool {
        self.events.iter().any(|pattern| fits(pattern, kind.as_str()))
    }

    /// The name that it follows the trail under.
    pub fn follower(&self) -> String {
        format!("{}", self.id)
    }
}

/// `*`, the word itself, or a word before a full stop and what comes below it (`session.*`).
fn fits(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(group) => group.ends_with('.') && kind.starts_with(group),
        None => pattern == kind,
    }
}

fn wrong(field: &'static str, detail: String) -> Refused {
    Refused::InvalidValue { field, detail }
}

/// An address that may be called: https; http on loopback. Whether the host may be called is seen when it is.
///
/// # Errors
/// Naming what is wrong.
pub fn check_url(url: &str) -> Result<String, Refused> {
    check_web(url).map_err(|why| wrong("url", format!("{url:?} {why}")))?;
    Ok(url.to_owned())
}

/// Patterns of which each names at least one kind, each once.
///
/// # Errors
/// Naming the first that does not.
pub fn check_events(mut events: Vec<String>) -> Result<Vec<String>, Refused> {
    if events.is_empty() || events.len() > MAX_PATTERNS {
        return Err(wrong("events", format!("must name 1 to {MAX_PATTERNS} kinds, or [\"*\"]")));
    }
    for pattern in &events {
        if !EventKind::ALL.iter().any(|kind| fits(pattern, kind.as_str())) {
            let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let known = kinds.join(", ");
            return Err(wrong("events", format!("{pattern:?} names no kind; there are *, session.*, …, and {known}")));
        }
    }
    events.sort();
    events.dedup();
    Ok(events)
}

/// What a webhook is for, in a line.
///
/// # Errors
/// When it is too long, or no text.
pub fn check_description(text: Option<String>) -> Result<Option<String>, Refused> {
    text.map(|text| account::check_text("description", &text)).transpose()
}

/// The body of a [`MessageKind::Webhook`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookBody {
    /// Which webhook.
    pub webhook: WebhookId,
    /// The record, and its place; `None`: it only tries the webhook.
    pub record: Option<(EventId, u64)>,
}

/// A message to a webhook about a record, or to try it.
pub fn message(webhook: WebhookId, record: Option<(EventId, u64)>, now: Time, chance: &mut dyn Chance) -> Message {
    let body = WebhookBody { webhook, record };
    // Ids and a number always have a JSON form.
    let body = serde_json::to_string(&body).unwrap_or_default();
    Message::new(MessageKind::Webhook, Some(receiver(webhook)), body, now, chance)
}

/// The receiver in whose turn its messages are sent: a client's id in form only, which no client has.
pub fn receiver(webhook: WebhookId) -> ClientId {
    ClientId::from_bits(webhook.bits())
}

impl Message {
    /// What was read of the body of a message to a webhook.
    pub fn webhook_body(&self) -> Option<WebhookBody> {
        serde_json::from_str(&self.body).ok().filter(|_| self.kind == MessageKind::Webhook)
    }

    /// The client that it is for, if it is for one.
    pub fn to_client(&self) -> Option<ClientId> {
        self.client.filter(|_| self.kind != MessageKind::Webhook)
    }
}

/// The `webhook-id`: the record's, so that it is the same however often it is sent, also when it is replayed.
pub fn webhook_id(message: &Message, body: &WebhookBody) -> String {
    match body.record {
        Some((event, _)) => format!("{event}"),
        None => format!("{}", message.id),
    }
}

/// The `webhook-signature` over what is sent: one signature for each secret that counts (Standard Webhooks, signature scheme).
pub fn signatures(secrets: &[SecretBytes], id: &str, sent_at: Time, body: &str) -> String {
    let all: Vec<String> = secrets.iter().map(|secret| signature(secret, id, sent_at, body)).collect();
    all.join(" ")
}

fn signature(secret: &SecretBytes, id: &str, sent_at: Time, body: &str) -> String {
    // A key of any length is accepted by HMAC (RFC 2104 §2), so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose()) else { return String::new() };
    mac.update(format!("{id}.{}.", sent_at.secs()).as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", standard(&mac.finalize().into_bytes()))
}

/// As base64 with padding (RFC 4648 §4), which Standard Webhooks writes secrets and signatures in.
fn standard(bytes: &[u8]) -> String {
    let mut text = b64::encode(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// A new secret: 32 bytes.
pub fn new_secret(chance: &mut dyn Chance) -> SecretBytes {
    SecretBytes::new(chance.secret())
}

/// A secret as it is shown, once: `whsec_…`.
pub fn shown(secret: &SecretBytes) -> SecretString {
    SecretString::new(format!("whsec_{}", standard(secret.expose())))
}

/// What a call to a webhook came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// It was taken.
    Taken,
    /// It wants no more, ever.
    Gone,
    /// It was not taken; it is tried again, not before so many milliseconds have passed.
    Failed {
        /// Why, in words.
        why: String,
        /// For how long it asks to be left alone.
        wait: Millis,
    },
}

/// What an answer means: success takes it; 410 says that the webhook wants no more; everything else, redirects too, is a failure
/// (Standard Webhooks, delivery success and failure). `retry_after` is that header in seconds, and counts up to a limit.
pub fn judge(status: u16, retry_after: Option<u64>) -> Answered {
    match status {
        200..300 => Answered::Taken,
        410 => Answered::Gone,
        _ => {
            let why = match status {
                300..400 => format!("answered {status}; redirects are not followed"),
                _ => format!("answered {status}"),
            };
            let wait = retry_after.map_or(0, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000));
            Answered::Failed { why, wait: wait.min(LONGEST_ASKED) }
        }
    }
}

/// The secrets that sign at `now`, as they are kept.
pub fn secrets_at(webhook: &Webhook, now: Time) -> Vec<&SecretBytes> {
    let mut all = vec![&webhook.secret];
    all.extend(webhook.old_secret.as_ref().filter(|(_, until)| now < *until).map(|(secret, _)| secret));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u128);
    impl Chance for Counting {
        fn bits(&mut self) -> u128 {
            self.0 += 1;
            self.0
        }
    }

    fn hook(events: &[&str]) -> Webhook {
        Webhook {
            id: WebhookId::from_bits(7),
            url: "https://a.example/".into(),
            description: None,
            events: events.iter().map(|word| (*word).to_owned()).collect(),
            enabled: true,
            disabled_why: None,
            secret: SecretBytes::new([1; 8]),
            old_secret: Some((SecretBytes::new([2; 8]), Time(100))),
            created_at: Time(0),
            version: 1,
        }
    }

    #[test]
    fn patterns_name_kinds() {
        let started = EventKind::SessionStarted;
        for (pattern, taken) in [
            ("*", true),
            ("session.*", true),
            ("session.started", true),
            ("sessions.*", false),
            ("session.ended", false),
        ] {
            assert_eq!(hook(&[pattern]).takes(started), taken, "{pattern}");
        }
        assert!(hook(&["account.*", "session.started"]).takes(started));
        let check = |words: &[&str]| check_events(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(check(&["session.*", "*", "session.*"]).unwrap(), ["*", "session.*"]);
        for wrong in ["", "sess*", "session.", "session", "nothing.*", "Session.*", "**"] {
            assert!(matches!(check(&[wrong]), Err(Refused::InvalidValue { field: "events", .. })), "{wrong}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&["*"; MAX_PATTERNS + 1]).is_err());
    }

    #[test]
    fn addresses_are_https_or_loopback() {
        for right in ["https://a.example/hook?x=1", "http://127.0.0.1:9/", "http://localhost/"] {
            assert!(check_url(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "http://a.example/",
            "https://user@a.example/",
            "ftp://a.example/",
            "https://a.example/#x",
            "a.example",
        ] {
            assert!(matches!(check_url(wrong), Err(Refused::InvalidValue { field: "url", .. })), "{wrong}");
        }
    }

    /// Made with another implementation: Python's `hmac` and `base64`.
    #[test]
    fn a_signature_is_what_others_make() {
        let secret = SecretBytes::new(*b"0123456789abcdefghijklmnopqrstuv");
        assert_eq!(shown(&secret).expose(), "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=");
        let (id, at, body) = ("evt_x", Time(1_674_087_231_999), "{\"type\":\"contact.created\"}");
        let one = signatures(core::slice::from_ref(&secret), id, at, body);
        assert_eq!(one, "v1,mGG0FYl4lPRep5U3yX/zZVmt6ZBvdDOQ+zrcBbnry00=");
        let two = signatures(&[secret, SecretBytes::new([9; 32])], id, at, body);
        assert!(two.starts_with(&format!("{one} v1,")) && two.len() == 2 * one.len() + 1);
        assert_ne!(one, signatures(&[SecretBytes::new([9; 32])], id, at, body));
    }

    #[test]
    fn an_old_secret_signs_until_its_time_is_over() {
        let counts = |now| secrets_at(&hook(&["*"]), Time(now)).len();
        assert_eq!([counts(0), counts(99), counts(100)], [2, 2, 1]);
    }

    #[test]
    fn answers_are_judged() {
        assert_eq!(
            [200, 204, 299].map(|status| judge(status, None)),
            [Answered::Taken, Answered::Taken, Answered::Taken]
        );
        assert_eq!(judge(410, None), Answered::Gone);
        let wait = |status, after| match judge(status, after) {
            Answered::Failed { wait, why } => (wait, why.contains("redirects")),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(302, None), (0, true));
        assert_eq!(wait(500, None), (0, false));
        assert_eq!(wait(429, Some(30)), (30_000, false));
        assert_eq!(wait(503, Some(u64::MAX)), (LONGEST_ASKED, false));
    }

    #[test]
    fn a_message_names_its_record_however_often_it_is_sent() {
        let (webhook, record) = (WebhookId::from_bits(7), (EventId::from_bits(9), 4));
        let one = message(webhook, Some(record), Time(5), &mut Counting(0));
        let two = message(webhook, Some(record), Time(6), &mut Counting(50));
        assert_ne!(one.id, two.id);
        let id = |message: &Message| webhook_id(message, &message.webhook_body().unwrap());
        assert_eq!(id(&one), id(&two));
        assert_eq!(one.webhook_body().unwrap(), WebhookBody { webhook, record: Some(record) });
        assert_eq!((one.client, one.to_client()), (Some(receiver(webhook)), None));
        let test = message(webhook, None, Time(5), &mut Counting(0));
        assert_eq!(id(&test), format!("{}", test.id));
        assert_eq!(one.logout_body(), None);
    }
}
