//! What is kept: accounts, sessions, grants, clients, verifier instances, keys. Plain data; the rules stand elsewhere.
use crate::amr::Amr;
use crate::client::{AuthMethod, Profile};
use crate::cut::Cut;
use crate::family::Family;
use crate::proof::Proof;
use alloc::{string::String, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{
    AccountId, ClientId, Digest, Epoch, GrantId, InstanceId, KeyId, Rev, SecretBytes, SessionId, Time,
};

/// The role that lets an account use the admin API.
pub const ADMIN: &str = "admin";

/// A person or service that can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id; never used again after deletion.
    pub id: AccountId,
    /// The normalised address (see [`crate::account::Email`]); none once deleted.
    pub email: Option<String>,
    /// Since when it is known that whoever has the account can read mail to this very address; `None`: nobody has shown it.
    pub email_verified_at: Option<Time>,
    /// What it calls itself.
    pub name: Option<String>,
    /// The password's hash as a PHC string; none when it cannot sign in by password.
    pub password_hash: Option<String>,
    /// Raised with every change of the password.
    pub password_version: u32,
    /// Roles, sorted, each once.
    pub roles: Vec<String>,
    /// Active, blocked or deleted.
    pub status: Status,
    /// When it was made.
    pub created_at: Time,
    /// What was ended for the whole account.
    pub cut: Cut,
    /// Raised with every change of the row but of `cut`.
    pub version: u32,
}

/// Whether an account may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It may.
    Active,
    /// It may not until somebody lifts it, or until `until`.
    Blocked(Block),
    /// It may not, and becomes a tombstone at `until`; an administrator can restore it before.
    Deleting {
        /// Since when.
        at: Time,
        /// When nothing is left of it.
        until: Time,
        /// The end that went with it.
        rev: Rev,
    },
    /// Never again.
    Deleted {
        /// Since when.
        at: Time,
        /// The end that went with it.
        rev: Rev,
    },
}

/// Why, by whom and how long an account is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// In words, shown to the account's owner after they proved every factor.
    pub reason: String,
    /// Who did it: an account's id, `operator` or `system`.
    pub actor: String,
    /// Since when.
    pub at: Time,
    /// When it lifts itself; `None`: when somebody does.
    pub until: Option<Time>,
}

impl Account {
    /// The block in force at `now`, if any. One whose end has passed is none.
    pub fn block_at(&self, now: Time) -> Option<&Block> {
        match &self.status {
            Status::Blocked(block) if block.until.is_none_or(|until| now < until) => Some(block),
            _ => None,
        }
    }
    /// Whether it may be used at `now`.
    pub fn usable_at(&self, now: Time) -> bool {
        !matches!(self.status, Status::Deleted { .. } | Status::Deleting { .. }) && self.block_at(now).is_none()
    }
    /// Whether it is a client's, which acts as it: nobody can sign in to it. Of others only tombstones have no address.
    pub fn is_service(&self) -> bool {
        self.email.is_none() && !matches!(self.status, Status::Deleted { .. })
    }
    /// Whether it has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
}

/// What a session is, for "Your devices".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A browser that holds a cookie.
    Browser,
    /// An application that holds its refresh token itself.
    App,
    /// An application of somebody else's that keeps its access while its user is away (`offline_access`): a "connected app".
    Connected,
    /// A client that acts for itself (RFC 6749 §4.4), under its service account.
    Service,
    /// A key that a person gave to a program.
    ApiKey,
}

impl SessionKind {
    /// Those that somebody began by signing in on a device or in a browser.
    pub const SIGN_INS: &'static [Self] = &[Self::Browser, Self::App];

    /// The word in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::App => "app",
            Self::Connected => "connected_app",
            Self::Service => "service",
            Self::ApiKey => "api_key",
        }
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Browser, Self::App, Self::Connected, Self::Service, Self::ApiKey]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// `auth_time` of a session whose user came from elsewhere, and nobody said when they proved who they are.
pub const UNPROVEN: Time = Time::ZERO;

/// One sign-in on one device or browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id, `sid` in tokens.
    pub id: SessionId,
    /// Whose it is.
    pub account: AccountId,
    /// What it is.
    pub kind: SessionKind,
    /// The client whose session it is, for connected apps and services; `None`: a sign-in of the built-in client.
    pub client: Option<ClientId>,
    /// What its user sees ("Firefox on Linux").
    pub device_name: String,
    /// Browser and system, as far as the user agent tells; compared at late retries.
    pub agent: String,
    /// Where it signed in from.
    pub ip: Option<IpAddr>,
    /// When it was made.
    pub created_at: Time,
    /// When its user proved who they are, or [`UNPROVEN`].
    pub auth_time: Time,
    /// By which methods.
    pub amr: Amr,
    /// Last seen, written from time to time only.
    pub last_seen_at: Time,
    /// It ends then, whatever happens. Never moves.
    pub absolute_expires_at: Time,
    /// The stamp of the first step of its making.
    pub born: Rev,
    /// The generation that it was made in.
    pub epoch: Epoch,
    /// Digest of the cookie's secret, for browser sessions; of the key itself, for API keys.
    pub cookie: Option<Digest>,
    /// The cookie before that one, as long as it is still taken (see [`crate::page_cookie`]).
    pub old_cookie: Option<OldCookie>,
    /// The browser's session in which its user allowed it, for connected apps that were: whoever signs out there signs out of the
    /// application, while this goes on (OpenID Connect Back-Channel Logout §2.7). It may have ended, or be forgotten.
    pub allowed_in: Option<SessionId>,
    /// Set once it was ended by itself (not by a cut above it).
    pub ended: Option<Ended>,
}

impl Session {
    /// Whether what this client does under it is a use of it: a session idles by what its own client does. An application that
    /// refreshes what it got under a browser's session is not the person at that browser (decision 0034).
    pub fn is_used_by(&self, client: ClientId) -> bool {
        client == self.client.unwrap_or(ClientId::FIRST_PARTY)
    }
}

/// A browser's cookie that another one has taken the place of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldCookie {
    /// Digest of its secret.
    pub digest: Digest,
    /// How its user had proved who they are, as far as it is concerned.
    pub proof: Proof,
    /// It is not taken from then on.
    pub until: Time,
}

/// How something was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The entry.
    pub rev: Rev,
    /// The door.
    pub reason: String,
    /// When.
    pub at: Time,
}

/// What one client got under a session: scopes, and one refresh-token family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id, `gid` in tokens.
    pub id: GrantId,
    /// The session that it is under.
    pub session: SessionId,
    /// Who got it.
    pub client: ClientId,
    /// Scopes, separated by spaces.
    pub scope: String,
    /// The resources that its access tokens are for (RFC 8707), separated by spaces; `None`: the server's own audience.
    pub audience: Option<String>,
    /// The thumbprint (RFC 7638) of the key that whoever uses it must prove to hold (RFC 9449); `None`: bearer tokens.
    pub sender: Option<Digest>,
    /// Browser and system of whoever got it, as far as the user agent told; `None`: those of its session.
    pub agent: Option<String>,
    /// The stamp of the first step of its making.
    pub born: Rev,
    /// The proof that it was given for; `None`: that of its session, which was made with it (see [`crate::proof`]).
    pub proof: Option<Proof>,
    /// From which network it was made, or last refreshed, by a MAC of what counts of an address; `None`: not known, or nobody's own
    /// (an application's server refreshes from where it stands).
    pub network: Option<[u8; 8]>,
    /// The refresh tokens.
    pub family: Family,
    /// Set once it was ended by itself.
    pub ended: Option<Rev>,
}

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// A service that follows the feed.
    Verifier,
    /// An application that can keep a secret.
    Confidential,
    /// An application that cannot.
    Public,
}

impl ClientKind {
    /// The word in the API and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verifier => "verifier",
            Self::Confidential => "confidential",
            Self::Public => "public",
        }
    }
    /// Whether one of this kind that proves itself like that has a secret.
    pub fn has_secret(self, method: AuthMethod) -> bool {
        self != Self::Public && method != AuthMethod::PrivateKeyJwt
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Verifier, Self::Confidential, Self::Public].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: ClientKind,
    /// Digest of its secret of 256 random bits; none for public clients.
    pub secret: Option<Digest>,
    /// The secret before that one, and until when it is taken as well.
    pub old_secret: Option<(Digest, Time)>,
    /// What it registered (RFC 7591 §2).
    pub profile: Profile,
    /// Raised with every change of the row but of `cut`, `disabled`.
    pub version: u32,
    /// Whether it is switched off.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Time,
    /// What was ended for the whole client.
    pub cut: Cut,
}

impl Client {
    /// A client that is new: switched on, with one secret or none.
    pub fn new(
        id: ClientId,
        name: String,
        kind: ClientKind,
        secret: Option<Digest>,
        profile: Profile,
        created_at: Time,
    ) -> Self {
        let (old_secret, version, disabled, cut) = (None, 1, false, Cut::default());
        Self { id, name, kind, secret, old_secret, profile, version, disabled, created_at, cut }
    }

    /// The client that always exists: ours.
    pub fn first_party(created_at: Time) -> Self {
        let (id, name) = (ClientId::FIRST_PARTY, "Portcullis".into());
        Self::new(id, name, ClientKind::Public, None, Profile::default(), created_at)
    }
}

/// What somebody allowed a client to do: what is asked only once, and can be withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// Who allowed it.
    pub account: AccountId,
    /// To whom.
    pub client: ClientId,
    /// Which scopes, sorted, separated by spaces; empty once it was withdrawn.
    pub scope: String,
    /// When it was last given.
    pub granted_at: Time,
    /// Raised by each withdrawal: what was made under an earlier generation is dead.
    pub generation: u32,
}

/// One running copy of a verifier, as the database knows it. Leases and acknowledgements are the node's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The verifier client that it signed in as.
    pub client: ClientId,
    /// What it calls itself.
    pub name: String,
    /// What it does without a lease: `closed`, `introspect` or `open` (the laxest of its routes).
    pub policy: String,
    /// The bound that it uses, in milliseconds; at most B.
    pub bound_ms: u64,
    /// Digest of its secret.
    pub secret: Digest,
    /// When it was made.
    pub created_at: Time,
}

/// A key that signs tokens or makes MACs. The private part is encrypted under the master key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its number.
    pub id: KeyId,
    /// What it is for.
    pub purpose: KeyPurpose,
    /// Public JWK as JSON text; empty for MAC keys.
    pub public_jwk: String,
    /// The private part, encrypted; empty once it is of no more use.
    pub sealed: SecretBytes,
    /// When it was made.
    pub created_at: Time,
    /// Since when it signs; `None` while it only waits as the next one.
    pub active_from: Option<Time>,
    /// What F must reach for it to be dropped from the list: nothing that it made lives longer. `None` while in use. See
    /// [`crate::keys::state`].
    pub retired_at: Option<Time>,
    /// Dead for good, by this entry.
    pub dead: Option<Rev>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPurpose {
    /// Signing tokens with ES256.
    Es256,
    /// Signing tokens with RS256.
    Rs256,
    /// Signing tokens with Ed25519.
    Ed25519,
    /// The MAC of refresh tokens and feed positions.
    Mac,
    /// Signing ID tokens with ES256 for clients that ask for it, and nothing else; so are the next three.
    IdEs256,
    /// ID tokens with RS256.
    IdRs256,
    /// ID tokens with Ed25519, by that name (RFC 9864 §2.2).
    IdEd25519,
    /// ID tokens with Ed25519 by its old name, `EdDSA` (RFC 8037 §3.1): its key is listed under that name, and a key has one.
    IdEdDsa,
    /// What pairwise subjects are derived from ([`crate::subject`]). There is one, and it is never replaced.
    Pairwise,
}

impl KeyPurpose {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Es256,
        Self::Rs256,
        Self::Ed25519,
        Self::Mac,
        Self::IdEs256,
        Self::IdRs256,
        Self::IdEd25519,
        Self::IdEdDsa,
        Self::Pairwise,
    ];
    /// Those of keys that sign ID tokens only. They stand in the JWKS and never in the feed: no verifier takes an access token by them.
    pub const ID_ONLY: &'static [Self] = &[Self::IdEs256, Self::IdRs256, Self::IdEd25519, Self::IdEdDsa];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "es256",
            Self::Rs256 => "rs256",
            Self::Ed25519 => "ed25519",
            Self::Mac => "mac",
            Self::IdEs256 => "id_es256",
            Self::IdRs256 => "id_rs256",
            Self::IdEd25519 => "id_ed25519",
            Self::IdEdDsa => "id_eddsa",
            Self::Pairwise => "pairwise",
        }
    }
    /// From that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|purpose| purpose.as_str() == text)
    }
    /// The signature algorithm; `None` for what signs nothing.
    pub const fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Es256 | Self::IdEs256 => Some(Algorithm::Es256),
            Self::Rs256 | Self::IdRs256 => Some(Algorithm::Rs256),
            Self::Ed25519 | Self::IdEd25519 | Self::IdEdDsa => Some(Algorithm::Ed25519),
            Self::Mac | Self::Pairwise => None,
        }
    }
    /// Whether keys of it sign ID tokens and nothing else.
    pub fn is_id_only(self) -> bool {
        Self::ID_ONLY.contains(&self)
    }
    /// The name of the algorithm in headers and in the JWKS; `None` for what signs nothing.
    pub fn alg_name(self) -> Option<&'static str> {
        if self == Self::IdEdDsa { Some("EdDSA") } else { self.algorithm().map(Algorithm::name) }
    }
    /// Of a key that signs ID tokens alone, under this name; `None` for a name that is not served.
    pub fn id_only(name: &str) -> Option<Self> {
        Self::ID_ONLY.iter().copied().find(|purpose| purpose.alg_name() == Some(name))
    }
    /// Of a key that signs with this.
    pub const fn signing(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::Es256,
            Algorithm::Rs256 => Self::Rs256,
            Algorithm::Ed25519 => Self::Ed25519,
        }
    }
}
