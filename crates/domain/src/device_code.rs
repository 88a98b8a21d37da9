//! Devices without a browser (RFC 8628): a device asks, a person says yes elsewhere, the device gets tokens.
//!
//! Two tickets belong to one request: the device's, under the digest of its code of 256 bits, and the person's, under the digest
//! of the short code that they type. `born` is the stamp of the device's *request* and is never raised: an end above it between
//! the request and the answer, or between the answer and the tokens, kills it. There is no browser session for the tokens to
//! live under, so the device always gets a session of its own, which its user sees among their devices.
//!
//! The short code is ten of the twenty letters of RFC 8628 §6.1, which spell no words and look alike to nobody: 43 bits. With
//! ten thousand requests open at once, the 200 guesses that one address prefix may make in the ten minutes of their lives
//! ([`crate::throttle`]) find one of them with a chance below one in a million.
use crate::amr::Amr;
use crate::authorize::{self, CodeBody};
use crate::changes::{Change, Changes, Expect};
use crate::client::GrantType;
use crate::code::{Granted, Redeem, give, why_dead};
use crate::event::{Actor, EventKind, NewEvent};
use crate::family::MacKey;
use crate::model::Client;
use crate::proof::Proof;
use crate::refused::OAuthError;
use crate::ticket::{Ticket, TicketKind};
use crate::view::{AppView, ClientView, GrantView, Stamp, TicketView};
use crate::{Chance, Decision, Refused, Rules, ticket};
use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::IpAddr;
use portcullis_wire::{Digest, EventId, Millis, SecretString, b64};
use serde::{Deserialize, Serialize};

/// How long a request waits for its user, in milliseconds (RFC 8628 §3.2 `expires_in`).
pub const LIFE: Millis = 600_000;
/// How long a device waits between two questions, in seconds, at first (RFC 8628 §3.2 `interval`).
pub const INTERVAL_S: i64 = 5;
/// What each question that comes too soon adds, in seconds (RFC 8628 §3.5).
pub const SLOWER_S: i64 = 5;
/// How much sooner a question may come, in milliseconds: what the way to us shortens.
const TOLERANCE: Millis = 500;
/// The letters of a user code (RFC 8628 §6.1).
pub const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// How many of them.
pub const USER_CODE: usize = 10;

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pending,
    Allowed {
        /// Of the consent.
        generation: u32,
        /// When whoever said yes had proven who they are.
        auth_time: i64,
        /// By which methods.
        #[serde(default)]
        amr: Amr,
    },
    Denied,
}

/// What the device's ticket carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DeviceBody {
    scope: String,
    audience: Option<String>,
    jkt: Option<String>,
    interval_s: i64,
    polled_at: Option<i64>,
    state: State,
}

/// What the user's ticket carries: the id of the device's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UserBody {
    device: String,
}

/// What a device asks for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `scope`.
    pub scope: Option<String>,
    /// `resource`, each time that it came (RFC 8707 §2).
    pub resources: Vec<String>,
    /// The key that the tokens are to be bound to (RFC 9449).
    pub sender: Option<Digest>,
}

/// What a device is told (RFC 8628 §3.2).
#[derive(Debug, Clone)]
pub struct Begun {
    /// What it asks with.
    pub device_code: SecretString,
    /// What its user types.
    pub user_code: SecretString,
}

fn no(error: OAuthError, detail: &str) -> Refused {
    Refused::OAuth { error, detail: detail.to_owned() }
}

fn text_of(mut bits: u128) -> String {
    let mut out = String::new();
    for n in 0..USER_CODE {
        if n == USER_CODE / 2 {
            out.push('-');
        }
        out.push(char::from(LETTERS[usize::try_from(bits % 20).unwrap_or(0)]));
        bits /= 20;
    }
    out
}

/// A user code as it was typed, in the one form that has a digest; `None` when it can be none.
pub fn typed(text: &str) -> Option<String> {
    let skipped = |c: &char| !matches!(c, '-' | ' ' | '.' | '_');
    let code: String = text.trim().chars().take(64).filter(skipped).map(|c| c.to_ascii_uppercase()).collect();
    (code.len() == USER_CODE && code.bytes().all(|b| LETTERS.contains(&b))).then_some(code)
}

/// The ticket that a typed code names.
pub fn user_ticket(typed: &str) -> Digest {
    ticket::id(TicketKind::UserCode, typed)
}

/// The device's ticket that a user's ticket belongs to.
pub fn device_ticket(user: &Ticket) -> Option<Digest> {
    let body: UserBody = (user.kind == TicketKind::UserCode).then(|| user.read()).flatten()?;
    b64::decode_array(&body.device).map(Digest)
}

/// A device asks (RFC 8628 §3.1). `proven` is the client's row as of the moment when it said who it is.
pub fn begin(view: &ClientView, proven: &Client, asked: &Asked, chance: &mut dyn Chance) -> Decision<Begun> {
    match checked(view, proven, asked) {
        Ok(body) => opened(view, &body, chance),
        Err(refused) => Decision::refuse(refused),
    }
}

fn checked(view: &ClientView, proven: &Client, asked: &Asked) -> Result<DeviceBody, Refused> {
    let client = &view.client;
    if client.disabled || client.cut != proven.cut || client.version != proven.version {
        return Err(no(OAuthError::InvalidClient, "this client was changed meanwhile: authenticate again"));
    }
    if !client.profile.has(GrantType::DeviceCode) {
        return Err(no(OAuthError::UnauthorizedClient, "this client is not registered for device codes"));
    }
    let scope = client.profile.allowed_scope(asked.scope.as_deref());
    if scope.is_empty() {
        return Err(no(OAuthError::InvalidScope, "none of these scopes is this client's"));
    }
    let audience = authorize::audience(&asked.resources, client)
        .map_err(|detail| Refused::OAuth { error: OAuthError::InvalidTarget, detail: detail.to_string() })?;
    Ok(DeviceBody {
        scope: scope.join(" "),
        audience,
        jkt: asked.sender.map(|key| b64::encode(&key.0)),
        interval_s: INTERVAL_S,
        polled_at: None,
        state: State::Pending,
    })
}

fn opened(view: &ClientView, body: &DeviceBody, chance: &mut dyn Chance) -> Decision<Begun> {
    let (stamp, client) = (&view.stamp, &view.client);
    let device_code = SecretString::new(format!("pcd_{}", b64::encode(&chance.secret())));
    let shown = text_of(chance.bits());
    let device = Ticket {
        id: ticket::id(TicketKind::Device, device_code.expose()),
        kind: TicketKind::Device,
        account: None,
        session: None,
        client: Some(client.id),
        born: stamp.head,
        epoch: stamp.epoch,
        expires_at: stamp.now.plus(LIFE),
        body: Ticket::write(body),
        version: 1,
        used: None,
    };
    let user = Ticket {
        id: user_ticket(&typed(&shown).unwrap_or_default()),
        kind: TicketKind::UserCode,
        body: Ticket::write(&UserBody { device: b64::encode(&device.id.0) }),
        ..device.clone()
    };
    let changes = Changes {
        expects: vec![Expect::ClientVersion { client: client.id, version: client.version }],
        steps: vec![Change::InsertTicket(device), Change::InsertTicket(user)],
        ..Changes::default()
    };
    Decision { outcome: Ok(Begun { device_code, user_code: SecretString::new(shown) }), changes }
}

/// A request that waits for its user.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The user's ticket.
    pub user: Ticket,
    /// The device's.
    pub device: Ticket,
}

impl Waiting {
    /// The scopes that are asked for; `None` when nothing waits (any more).
    pub fn scope(&self, stamp: &Stamp) -> Option<Vec<String>> {
        let open = self.user.is_open(stamp.epoch, stamp.now) && self.device.is_open(stamp.epoch, stamp.now);
        let pair = device_ticket(&self.user) == Some(self.device.id) && self.device.kind == TicketKind::Device;
        let body: DeviceBody = (open && pair).then(|| self.device.read()).flatten()?;
        (body.state == State::Pending).then(|| body.scope.split(' ').map(str::to_owned).collect())
    }
}

/// A device that is let in and told nothing of what its user has proven.
pub(crate) fn unprove(ticket: &mut Ticket) {
    let Some(mut body) = ticket.read::<DeviceBody>() else { return };
    if let State::Allowed { auth_time, amr, .. } = &mut body.state {
        let unknown = Proof::unknown();
        (*auth_time, *amr) = (unknown.at.0, unknown.amr);
        ticket.body = Ticket::write(&body);
    }
}

/// What a person says to a device's request (RFC 8628 §3.3). `app` is their browser's session beside the client.
pub fn answer(
    waiting: &Waiting,
    app: &AppView,
    allow: bool,
    ip: Option<IpAddr>,
    rules: &Rules,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let gone = || Decision::refuse(Refused::NotFound);
    let (stamp, device) = (&app.session.stamp, &waiting.device);
    let (Some(scope), Some(mut body)) = (waiting.scope(stamp), device.read::<DeviceBody>()) else { return gone() };
    let cuts = [app.session.account.cut, stamp.all, app.client.cut];
    let dead = cuts.iter().any(|cut| cut.kills_unborn(device.born)) || app.session.dead(rules.idle_ttl).is_some();
    let undated = allow && app.client.profile.lacks_auth_time(&app.session.session);
    if dead || undated || app.client.disabled || device.client != Some(app.client.id) {
        return gone();
    }
    let (session, account, client) = (&app.session.session, app.session.account.id, app.client.id);
    let used = Change::UseTicket { ticket: waiting.user.id, at: stamp.now, grant: None };
    let mut changes =
        Changes { expects: vec![Expect::Alive { session: session.id, role: None }], ..Changes::default() };
    if allow {
        body.state =
            State::Allowed { generation: app.generation(), auth_time: session.auth_time.0, amr: session.amr.clone() };
        let (consent, event) = authorize::allow(app, &scope, true, ip, stamp, chance);
        changes.expects.extend([
            Expect::Unborn { account, client, born: device.born, under: None },
            Expect::ClientVersion { client, version: app.client.version },
            Expect::Consent { account, client, generation: app.generation() },
        ]);
        changes.steps.extend(consent);
        changes.events.extend(event);
    } else {
        body.state = State::Denied;
        let actor = Actor::Account { account, session: session.id };
        let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::DeviceRefused, &actor);
        changes.events.push(event.account(account).session(session.id).client(client).ip(ip));
    }
    let told = Ticket {
        account: Some(account),
        session: Some(session.id),
        body: Ticket::write(&body),
        ..waiting.device.clone()
    };
    changes.steps.extend([Change::UpdateTicket(told), used]);
    Decision { outcome: Ok(()), changes }
}

/// Whether its user has allowed the device of this ticket.
pub fn is_allowed(ticket: &Ticket) -> bool {
    ticket.read::<DeviceBody>().is_some_and(|body| matches!(body.state, State::Allowed { .. }))
}

/// A device asks whether its user has answered (RFC 8628 §3.4, §3.5). `others` are the client's living grants of the account that
/// has answered.
pub fn poll(
    view: &TicketView,
    others: &[GrantView],
    presented: &Redeem,
    rules: &Rules,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<Granted> {
    let (ticket, stamp) = (&view.ticket, &view.stamp);
    let strange = || Decision::refuse(no(OAuthError::InvalidGrant, "this is no device code of this client"));
    if ticket.kind != TicketKind::Device || ticket.client != Some(presented.client) {
        return strange();
    }
    // Not a sign of theft, as a second use of an authorization code is: no browser ever saw this one, and a device whose answer
    // got lost asks again. It gets nothing.
    if ticket.used.is_some() {
        return Decision::refuse(no(OAuthError::InvalidGrant, "this device code was used before"));
    }
    let Some(body) = ticket.read::<DeviceBody>() else { return strange() };
    if !ticket.is_open(stamp.epoch, stamp.now) {
        return Decision::refuse(no(OAuthError::ExpiredToken, "this device code has expired: begin anew"));
    }
    let wanted = body.jkt.as_deref().and_then(b64::decode_array::<32>).map(Digest);
    if wanted.is_some() && wanted != presented.sender {
        return Decision::refuse(no(OAuthError::InvalidGrant, "this device code is bound to another key (RFC 9449)"));
    }
    match body.state {
        State::Pending => wait(view, body),
        State::Denied => Decision::refuse(no(OAuthError::AccessDenied, "the user said no")),
        State::Allowed { generation, auth_time, amr } => {
            let body = CodeBody {
                redirect_uri: String::new(),
                challenge: String::new(),
                scope: body.scope,
                nonce: None,
                audience: body.audience,
                jkt: body.jkt,
                generation,
                auth_time,
                amr,
            };
            let Some(app) = &view.app else { return strange() };
            match why_dead(view, app, &body, rules) {
                Some(_) => Decision::refuse(no(OAuthError::InvalidGrant, "what this device code rests on has ended")),
                None => give(view, app, &body, true, others, presented, rules, key, chance),
            }
        }
    }
}

/// Not yet; and slower, if it comes too soon.
fn wait(view: &TicketView, mut body: DeviceBody) -> Decision<Granted> {
    let now = view.stamp.now;
    let soon = body.polled_at.is_some_and(|at| now.0 - at < body.interval_s * 1000 - TOLERANCE);
    body.polled_at = Some(now.0);
    let refused = if soon {
        body.interval_s += SLOWER_S;
        no(OAuthError::SlowDown, &format!("ask every {} seconds at most", body.interval_s))
    } else {
        no(OAuthError::AuthorizationPending, "the user has not answered yet")
    };
    let told = Ticket { body: Ticket::write(&body), ..view.ticket.clone() };
    let changes = Changes { steps: vec![Change::UpdateTicket(told)], ..Changes::default() };
    Decision { outcome: Err(refused), changes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_codes_are_read_as_people_type_them() {
        let shown = text_of(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(shown.len(), USER_CODE + 1);
        let code = typed(&shown).unwrap();
        for spelling in [shown.to_lowercase(), shown.replace('-', ""), format!(" {} ", shown.replace('-', " "))] {
            assert_eq!(typed(&spelling).as_ref(), Some(&code), "{spelling:?}");
        }
        for wrong in ["", "BCDFG", "BCDFG-HJKLA", "BCDFG-HJKLMN", "BCDFG-HJKL1", "BCDFG/HJKLM", "ÄBCDFGHJKL"] {
            assert_eq!(typed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn ten_letters_of_twenty_are_more_than_forty_bits() {
        let bits = f64::from(u32::try_from(USER_CODE).unwrap()) * 4.32; // log2(20) = 4.32
        assert!(bits > 43.0);
        let mut letters = LETTERS.to_vec();
        letters.dedup();
        assert_eq!(letters.len(), 20);
        assert!(!letters.iter().any(|letter| b"AEIOUY01".contains(letter)));
    }
}
