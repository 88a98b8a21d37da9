//! Mails: which there are, what is kept of one on its way, and the links in them.
//!
//! A mail is a [`Message`] that goes to one receiver, the mail server, which stands among the clients that are told of logouts under an
//! id that no client has ([`MAIL_SERVER`]): when it is down, it holds up nobody else. What is kept of a mail is which it is and whom it
//! is about; address, device and reason are looked up when it is sent, so nothing of them outlives their erasure here.
//!
//! A link is worth a password. So no link stands in the database: its secret is derived when the mail is sent, from a server key
//! and the message's id, and the ticket that is inserted with the message knows its digest alone. Who mails and who opens may be
//! different nodes.
use crate::family::MacKey;
use crate::model::Account;
use crate::outbox::{Message, MessageKind, PATIENCE};
use crate::ticket::{self, Ticket, TicketKind};
use crate::view::Stamp;
use crate::{Chance, Change};
use alloc::{format, string::String, vec, vec::Vec};
use portcullis_wire::{AccountId, ClientId, KeyId, MessageId, Millis, SecretString, SessionId, Time, b64};
use serde::{Deserialize, Serialize};

/// The mail server, as a receiver of messages.
pub const MAIL_SERVER: ClientId = ClientId::from_bits(u128::MAX);

const MINUTE: Millis = 60_000;
/// How long a link to choose a new password works: as long as somebody waits for a mail (OWASP: a short time).
pub const RESET_LIFE: Millis = 60 * MINUTE;
/// How long "this was not me" works: over a weekend.
pub const NOT_ME_LIFE: Millis = 3 * 24 * 60 * MINUTE;
/// How long a link works that proves the address of an account: until tomorrow.
pub const VERIFY_LIFE: Millis = 24 * 60 * MINUTE;

macro_rules! templates {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $link:expr;)*) => {
        /// Which mail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Template { $($(#[$doc])* $name,)* }
        impl Template {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The word in the database, and the name of its files.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// From that word.
            pub fn parse(text: &str) -> Option<Self> { Self::ALL.iter().copied().find(|one| one.as_str() == text) }
            /// What the link in it is, if it has one.
            pub const fn link(self) -> Option<TicketKind> { match self { $(Self::$name => $link,)* } }
        }
    };
}

templates! {
    /// A link to choose a new password.
    ResetPassword = "reset_password", Some(TicketKind::ResetPassword);
    /// That a new password was chosen by such a link.
    PasswordReset = "password_reset", Some(TicketKind::NotMe);
    /// That the password was changed by who knew the old one.
    PasswordChanged = "password_changed", Some(TicketKind::NotMe);
    /// A sign-in on a device that is not known.
    NewDevice = "new_device", Some(TicketKind::NotMe);
    /// That the account was blocked.
    AccountBlocked = "account_blocked", None;
    /// That the block was lifted.
    AccountUnblocked = "account_unblocked", None;
    /// That somebody of another provider may sign in from now on.
    LinkAdded = "link_added", Some(TicketKind::NotMe);
    /// A link to prove that the address is theirs.
    VerifyEmail = "verify_email", Some(TicketKind::VerifyEmail);
    /// That somebody wanted to sign up with an address that has an account, and a link to a new password.
    SignUpAgain = "sign_up_again", Some(TicketKind::ResetPassword);
    /// A link by which an account gets the address that it is sent to.
    ChangeEmail = "change_email", Some(TicketKind::ChangeEmail);
    /// That an account has another address: to the one before.
    EmailChanged = "email_changed", Some(TicketKind::NotMe);
    /// That a sign-in with the right password was refused by a rule.
    SignInRefused = "sign_in_refused", Some(TicketKind::NotMe);
    /// That a rule has ended a session, or all of them.
    SessionEnded = "session_ended", Some(TicketKind::NotMe);
    /// An application that was connected.
    AppConnected = "app_connected", Some(TicketKind::NotMe);
    /// That the account was deleted, or will be.
    AccountDeleted = "account_deleted", None;
    /// That an account has another address: to one that nobody had proved, or that a link or an administrator took away.
    EmailMoved = "email_moved", None;
}

impl Template {
    /// Whether only so many of it are sent in a while. Of what changes who can sign in everybody is told each time, or who made many
    /// small things happen first could do a great one in silence.
    pub const fn is_limited(self) -> bool {
        !matches!(
            self,
            Self::PasswordReset
                | Self::PasswordChanged
                | Self::LinkAdded
                | Self::EmailChanged
                | Self::AccountDeleted
                | Self::EmailMoved
        )
    }
}

/// How long a link of this kind works.
pub const fn link_life(kind: TicketKind) -> Millis {
    match kind {
        TicketKind::NotMe => NOT_ME_LIFE,
        TicketKind::VerifyEmail => VERIFY_LIFE,
        _ => RESET_LIFE,
    }
}

/// What is kept of a mail: the body of a [`MessageKind::Mail`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailBody {
    /// Which ([`Template::as_str`]).
    pub template: String,
    /// Whose address it goes to.
    pub account: AccountId,
    /// The session that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// The server key that its link is derived by.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<KeyId>,
    /// To which address, where neither account nor link know it: of an account that is gone. Forgotten once it is sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
}

impl MailBody {
    /// As text.
    pub fn write(&self) -> String {
        // Ids and words always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the ticket of a link knows besides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBody {
    /// Which mail it stood in ([`Template::as_str`]).
    pub template: String,
    /// The session that the mail was about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<SessionId>,
    /// Of "this was not me": it was said, and what remains is to choose a new password.
    #[serde(default)]
    pub said: bool,
    /// Which of its account's passwords it is about ([`crate::model::Account::password_version`]): with another one it is of no use,
    /// so that who changes the password takes back every link in older mails.
    #[serde(default)]
    pub password: u32,
    /// Which address its mail went to: whoever opens it can read what is sent there. Links of earlier releases do not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// Of a link to another address: which one the account had.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// Since when the account's address was known to be its owner's when it was written. What was proved earlier outweighs what was
    /// proved later (see [`crate::email::address_before`]).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Time>,
}

const PREFIX: &str = "pcl_";

/// The secret of the link in a message: 128 bits that only who has the server's key can make.
pub fn link_secret(key: &MacKey, kind: TicketKind, message: MessageId) -> SecretString {
    let tag = key.tag(b"link in a mail", &[kind.as_str().as_bytes(), &message.bits().to_be_bytes()]);
    SecretString::new(format!("{PREFIX}{}", b64::encode(&tag)))
}

/// Whether this can be the secret of a link: what cannot is not looked for.
pub fn is_link(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| b64::decode_array::<16>(rest).is_some())
}

/// A mail that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// Which.
    pub template: Template,
    /// Whose account it is about.
    pub account: &'a Account,
    /// To which address, when it is not the account's.
    pub to: Option<&'a str>,
    /// The version of the account's password once the act is done.
    pub password: u32,
    /// The session that it is about.
    pub session: Option<SessionId>,
}

impl<'a> Letter<'a> {
    /// About an account whose password stays, to its address.
    pub const fn of(template: Template, account: &'a Account) -> Self {
        Self { template, account, to: None, password: account.password_version, session: None }
    }
    /// About this session.
    pub const fn about(self, session: SessionId) -> Self {
        Self { session: Some(session), ..self }
    }
    /// With an act that gives the account another password.
    pub const fn with_new_password(self) -> Self {
        Self { password: self.password + 1, ..self }
    }
    /// To this address.
    pub const fn to(self, address: &'a str) -> Self {
        Self { to: Some(address), ..self }
    }
}

/// What inserts a mail, and the ticket of the link in it; nothing for an account without an address. Of a link that leads nowhere any
/// more nobody wants to hear: its mail is given up when the link has ended.
pub fn write(letter: Letter<'_>, stamp: &Stamp, key: &MacKey, chance: &mut dyn Chance) -> Vec<Change> {
    let Letter { template, account, to, password, session } = letter;
    let Some(address) = to.or(account.email.as_deref()) else { return vec![] };
    let (now, kind) = (stamp.now, template.link());
    let life = kind.map_or(PATIENCE, link_life);
    // A mail without a link to another address than the account's, which has none any more.
    let to = to.filter(|_| kind.is_none()).map(String::from);
    let body =
        MailBody { template: template.as_str().into(), account: account.id, session, key: kind.map(|_| key.id), to };
    let message = Message::new(MessageKind::Mail, Some(MAIL_SERVER), body.write(), now, chance);
    let id = message.id;
    let message = Message { give_up_at: now.plus(PATIENCE.min(life)), ..message };
    let mut steps = vec![Change::InsertMessage(message)];
    if let Some(kind) = kind {
        let secret = link_secret(key, kind, id);
        let before = account.email.clone().filter(|_| kind == TicketKind::ChangeEmail);
        let own = kind == TicketKind::ChangeEmail || account.email.as_deref() == Some(address);
        let since = account.email_verified_at.filter(|_| own);
        let address = Some(address.into());
        let template = template.as_str().into();
        let body = LinkBody { template, session, said: false, password, address, before, since };
        let ticket = link_ticket(kind, &secret, Some(account.id), &body, stamp);
        // It is asked for by a session, and ends with it.
        let under = session.filter(|_| kind == TicketKind::ChangeEmail);
        steps.push(Change::InsertTicket(Ticket { session: under, ..ticket }));
    }
    steps
}

/// The ticket of a link with this secret.
pub(crate) fn link_ticket(
    kind: TicketKind,
    secret: &SecretString,
    account: Option<AccountId>,
    body: &LinkBody,
    stamp: &Stamp,
) -> Ticket {
    Ticket {
        id: ticket::id(kind, secret.expose()),
        kind,
        account,
        session: None,
        client: None,
        born: stamp.head,
        epoch: stamp.epoch,
        expires_at: stamp.now.plus(link_life(kind)),
        body: Ticket::write(body),
        version: 1,
        used: None,
    }
}

/// What comes of a mail that the mail server answered with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It will not be taken, however often it is tried.
    Never,
    /// Perhaps later.
    Later,
}

/// RFC 5321 §4.2.1: 4xx is for now, 5xx for good. But a server that wants another password (RFC 4954 §6), TLS, or no mail at all
/// from us speaks of our settings, which somebody will mend, and not of this mail.
pub const fn answered(code: u16) -> Answer {
    match code {
        500..=504 | 521 | 523 | 530 | 534 | 535 | 538 => Answer::Later,
        500..=599 => Answer::Never,
        _ => Answer::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::collections::BTreeSet;
    use portcullis_wire::SecretBytes;

    #[test]
    fn a_link_is_of_one_message_one_purpose_and_one_key() {
        let keys = [1u8, 2].map(|n| MacKey::new(KeyId(n.into()), &SecretBytes::new([n; 32])));
        let mut seen = BTreeSet::new();
        for key in &keys {
            for kind in [TicketKind::ResetPassword, TicketKind::NotMe, TicketKind::VerifyEmail] {
                for n in 0..20 {
                    let secret = link_secret(key, kind, MessageId::from_bits(n));
                    assert!(is_link(secret.expose()) && seen.insert(secret.expose().to_owned()));
                }
            }
        }
        for wrong in
            ["", "pcl_", "pcr_AAAAAAAAAAAAAAAAAAAAAA", "pcl_AAAAAAAAAAAAAAAAAAAAA", "pcl_AAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert!(!is_link(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_about_the_mail_itself_is_for_good() {
        for (code, answer) in [
            (421, Answer::Later),
            (451, Answer::Later),
            (535, Answer::Later),
            (530, Answer::Later),
            (550, Answer::Never),
            (552, Answer::Never),
            (554, Answer::Never),
            (200, Answer::Later),
        ] {
            assert_eq!(answered(code), answer, "{code}");
        }
    }

    #[test]
    fn each_mail_has_its_word() {
        for one in Template::ALL {
            assert_eq!(Template::parse(one.as_str()), Some(*one));
        }
        assert_eq!(Template::parse("x"), None);
    }
}
