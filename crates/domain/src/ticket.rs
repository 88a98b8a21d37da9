//! Tickets: what can be used once, and not for long (I13). Authorization codes, pushed authorization requests, device codes,
//! links in mails, and the ids of proofs that must not come twice.
//!
//! The database knows a ticket by the digest of its secret, so a stolen copy of it redeems nothing. Of a kind's own matters it
//! keeps a body, which the store does not read. Using one is a change that fails when it was used before: whoever commits
//! first has it, on whichever node.
use alloc::string::String;
use portcullis_wire::{AccountId, ClientId, Digest, Epoch, GrantId, Rev, SessionId, Time};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a ticket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TicketKind {
    /// An authorization code (RFC 6749 §1.3.1).
    Code,
    /// A pushed authorization request (RFC 9126 §2.2).
    Pushed,
    /// A device code (RFC 8628 §3.2), under the digest of the device's half.
    Device,
    /// The user's half of a device code; its body names the other one.
    UserCode,
    /// The id of a proof or assertion that was shown (RFC 9449 §11.1, RFC 7523 §3).
    Proof,
    /// A sign-in at another provider that is under way.
    Upstream,
    /// A link to choose a new password.
    ResetPassword,
    /// A link that says "this was not me", and then leads to a new password.
    NotMe,
    /// A link that proves an account's address.
    VerifyEmail,
    /// A link that proves the address which an account is to have.
    ChangeEmail,
}

impl TicketKind {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Code,
        Self::Pushed,
        Self::Device,
        Self::UserCode,
        Self::Proof,
        Self::Upstream,
        Self::ResetPassword,
        Self::NotMe,
        Self::VerifyEmail,
        Self::ChangeEmail,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Pushed => "pushed",
            Self::Device => "device",
            Self::UserCode => "user_code",
            Self::Proof => "proof",
            Self::Upstream => "upstream",
            Self::ResetPassword => "reset_password",
            Self::NotMe => "not_me",
            Self::VerifyEmail => "verify_email",
            Self::ChangeEmail => "change_email",
        }
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Digest of its secret, with its kind in front (see [`id`]).
    pub id: Digest,
    /// What it is.
    pub kind: TicketKind,
    /// Whose it is, as soon as that is known.
    pub account: Option<AccountId>,
    /// The session that it is under.
    pub session: Option<SessionId>,
    /// Who may use it.
    pub client: Option<ClientId>,
    /// The stamp of the first step of its making.
    pub born: Rev,
    /// The generation that it was made in.
    pub epoch: Epoch,
    /// It cannot be used from then on.
    pub expires_at: Time,
    /// What else its kind knows, as JSON.
    pub body: String,
    /// Raised with every change but its use.
    pub version: u32,
    /// Set once it was used.
    pub used: Option<Used>,
}

/// That a ticket was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// When.
    pub at: Time,
    /// What came of it: if it is shown again, that ends.
    pub grant: Option<GrantId>,
}

/// The id of the ticket with this secret: of one kind it is never that of another.
pub fn id(kind: TicketKind, secret: &str) -> Digest {
    let mut text = String::from(kind.as_str());
    text.push(':');
    text.push_str(secret);
    Digest::of(text.as_bytes())
}

impl Ticket {
    /// Its body; `None` when that is not of this shape.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.body).ok()
    }
    /// A body as text.
    pub fn write<T: Serialize>(body: &T) -> String {
        // Bodies are structs of texts, numbers and lists, which always have a JSON form.
        serde_json::to_string(body).unwrap_or_default()
    }
    /// Whether it may be used, as far as it can say itself.
    pub fn is_open(&self, epoch: Epoch, now: Time) -> bool {
        self.used.is_none() && self.epoch == epoch && now < self.expires_at
    }
}
