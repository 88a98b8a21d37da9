//! Addresses: proving that one is its owner's, signing up where that must be proved first, and another address.
//!
//! An address is verified when somebody has opened a link that was sent to it, or when somebody answers for it: the operator, an
//! administrator, an import. What another provider says of an address is no proof here (see [`crate::upstream`]). The proof belongs to
//! the address: an account that gets another one begins anew, and it gets that only by a link which was sent there.
//!
//! Where addresses must be verified, signing up tells nobody which addresses have an account (I15): the answer is one and the same, and
//! the rest is told by mail. Where they need not be, nothing waits for it.
//!
//! A link proves an address and nothing else: it opens no account and signs nobody in. So it is spared by ends and by another
//! password. A link to another address is worth more, since mails about the password go there from then on: it dies by all that.
use crate::account::{self, Email, NewAccount};
use crate::changes::{Change, Changes, Expect};
use crate::event::{EventKind, NewEvent};
use crate::family::MacKey;
use crate::kernel::By;
use crate::mail::{self, Letter, LinkBody, Template};
use crate::model::{Account, Status};
use crate::ticket::{Ticket, TicketKind};
use crate::view::{AccountView, SignInView, Stamp};
use crate::{Chance, Decision, Refused};
use alloc::{string::String, vec, vec::Vec};
use portcullis_wire::{ClientId, EventId, SecretString, SessionId, b64};

/// Whether nobody may write to it any more.
fn gone(account: &Account) -> bool {
    matches!(account.status, Status::Deleted { .. } | Status::Deleting { .. })
}

/// A ticket of nobody's: what is asked for in vain leaves the same rows.
fn nobodys(kind: TicketKind, stamp: &Stamp, chance: &mut dyn Chance) -> Change {
    let secret = SecretString::new(b64::encode(&chance.secret()));
    Change::InsertTicket(mail::link_ticket(kind, &secret, None, &LinkBody::default(), stamp))
}

/// Signs up where addresses must be verified: a new account and a link to prove its address, or, when there is such an account
/// already, a mail that says so, with a link to a new password. `may`: no mail too many to that one.
pub fn sign_up(
    view: &SignInView,
    new: NewAccount,
    may: bool,
    by: &By<'_>,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Changes {
    let stamp = &view.stamp;
    if let Some(account) = &view.account {
        let steps = match may && !gone(account) {
            true => mail::write(Letter::of(Template::SignUpAgain, account), stamp, key, chance),
            false => vec![nobodys(TicketKind::ResetPassword, stamp, chance)],
        };
        return Changes { steps, ..Changes::default() };
    }
    let Decision { outcome, mut changes } = account::create(stamp, new, by, chance);
    if let Ok(account) = &outcome {
        changes.steps.extend(mail::write(Letter::of(Template::VerifyEmail, account), stamp, key, chance));
    }
    changes
}

/// Sends a link to prove the account's address, once more; nothing when it is proved.
pub fn ask(view: &AccountView, key: &MacKey, chance: &mut dyn Chance) -> Decision<()> {
    let account = &view.account;
    if gone(account) || account.email.is_none() || account.email_verified_at.is_some() {
        return Decision::answer(());
    }
    let steps = mail::write(Letter::of(Template::VerifyEmail, account), &view.stamp, key, chance);
    Decision { outcome: Ok(()), changes: Changes { steps, ..Changes::default() } }
}

/// Sends a link by which the account gets another address, to that address. `free`: no account has it, and no mail too many goes
/// there; else nothing is sent, and the same rows are written.
pub fn ask_change(
    view: &AccountView,
    to: &Email,
    free: bool,
    session: SessionId,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let steps = match free {
        true => mail::write(Letter::of(Template::ChangeEmail, account).to(to.as_str()), stamp, key, chance),
        false => vec![nobodys(TicketKind::ChangeEmail, stamp, chance)],
    };
    let expects = vec![
        Expect::Alive { session, role: None },
        Expect::AccountVersion { account: account.id, version: account.version },
    ];
    Decision { outcome: Ok(()), changes: Changes { expects, steps, ..Changes::default() } }
}

/// What a link about an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// To prove the account's address.
    Proves,
    /// To give the account this one.
    Changes(String),
    /// It was done already, by this link or another.
    Done,
}

/// Whether a link may be used for this account. What is of no use is one and the same refusal; "blocked" is said to who holds a good
/// one.
///
/// # Errors
/// [`Refused::NotFound`], [`Refused::AccountBlocked`].
pub fn open(stamp: &Stamp, ticket: &Ticket, account: &Account) -> Result<Opened, Refused> {
    let body = ticket.read::<LinkBody>().ok_or(Refused::NotFound)?;
    let Some(address) = body.address.filter(|_| ticket.account == Some(account.id)) else {
        return Err(Refused::NotFound);
    };
    let own = account.email.as_ref() == Some(&address);
    // Who opens it twice has proved it once.
    let timely = ticket.epoch == stamp.epoch && stamp.now < ticket.expires_at;
    let of_these = matches!(ticket.kind, TicketKind::VerifyEmail | TicketKind::ChangeEmail);
    if of_these && timely && own && account.email_verified_at.is_some() && account.usable_at(stamp.now) {
        return Ok(Opened::Done);
    }
    let opened = match ticket.kind {
        TicketKind::VerifyEmail if own => Opened::Proves,
        TicketKind::ChangeEmail => {
            let cut = [account.cut, stamp.all].iter().any(|cut| cut.kills_unborn(ticket.born));
            if cut || body.before != account.email || body.password != account.password_version {
                return Err(Refused::NotFound);
            }
            Opened::Changes(address)
        }
        _ => return Err(Refused::NotFound),
    };
    if !ticket.is_open(stamp.epoch, stamp.now) {
        return Err(Refused::NotFound);
    }
    if let Some(block) = account.block_at(stamp.now) {
        return Err(Refused::AccountBlocked { reason: block.reason.clone(), until: block.until });
    }
    if account.usable_at(stamp.now) { Ok(opened) } else { Err(Refused::NotFound) }
}

/// Uses a link about an address: it is verified from now on, or the account has it from now on, and the address before is told.
/// `notice`: the key by which that mail is written.
pub fn confirm(
    view: &AccountView,
    ticket: &Ticket,
    by: &By<'_>,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) -> Decision<Opened> {
    let (account, stamp) = (&view.account, &view.stamp);
    let opened = match open(stamp, ticket, account) {
        Ok(Opened::Done) => return Decision::answer(Opened::Done),
        Ok(opened) => opened,
        Err(refused) => return Decision::refuse(refused),
    };
    let mut expects = vec![Expect::AccountVersion { account: account.id, version: account.version }];
    let (email, kind) = match &opened {
        Opened::Changes(to) => {
            let (born, client) = (ticket.born, ClientId::FIRST_PARTY);
            expects.push(Expect::Unborn { account: account.id, client, born, under: None });
            (to.clone(), EventKind::EmailChanged)
        }
        _ => (account.email.clone().unwrap_or_default(), EventKind::EmailVerified),
    };
    let mut steps = vec![
        Change::SetEmail { account: account.id, email, verified_at: Some(stamp.now) },
        Change::UseTicket { ticket: ticket.id, at: stamp.now, grant: None },
    ];
    if let (EventKind::EmailChanged, Some(key)) = (kind, notice) {
        steps.extend(mail::write(Letter::of(Template::EmailChanged, account), stamp, key, chance));
    }
    let events = vec![record(kind, account, by, chance)];
    Decision { outcome: Ok(opened), changes: Changes { expects, steps, events, ..Changes::default() } }
}

fn record(kind: EventKind, account: &Account, by: &By<'_>, chance: &mut dyn Chance) -> NewEvent {
    let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).account(account.id).ip(by.ip);
    match by.reason {
        Some(reason) => event.reason(reason),
        None => event,
    }
}

/// An administrator says that the account's address is its owner's, or that nobody knows.
pub fn mark(view: &AccountView, verified: bool, by: &By<'_>, chance: &mut dyn Chance) -> Decision<()> {
    let account = &view.account;
    let Some(email) = &account.email else {
        let detail = "this account has no address".into();
        return Decision::refuse(Refused::InvalidValue { field: "email_verified", detail });
    };
    if account.email_verified_at.is_some() == verified {
        return Decision::answer(());
    }
    let version = Expect::AccountVersion { account: account.id, version: account.version };
    let verified_at = verified.then_some(view.stamp.now);
    let kind = if verified { EventKind::EmailVerified } else { EventKind::AccountChanged };
    let changes = Changes {
        expects: by.expects().into_iter().chain([version]).collect(),
        steps: vec![Change::SetEmail { account: account.id, email: email.clone(), verified_at }],
        events: vec![record(kind, account, by, chance)],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// What a link that leads to a new password says about the account's address besides: whoever opens it can read what is sent there, so
/// that is verified. And "this was not me", sent to an address that the account does not have any more, gives it back: whoever took
/// the account over would get the next link to a new password otherwise. `free`: no other account has it meanwhile.
pub(crate) fn by_recovery(
    view: &AccountView,
    ticket: &Ticket,
    body: &LinkBody,
    free: bool,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> (Vec<Change>, Vec<NewEvent>) {
    let account = &view.account;
    let Some(address) = &body.address else { return (vec![], vec![]) };
    let kind = match account.email.as_ref() == Some(address) {
        true if account.email_verified_at.is_some() => return (vec![], vec![]),
        true => EventKind::EmailVerified,
        false if ticket.kind == TicketKind::NotMe && free => EventKind::EmailChanged,
        false => return (vec![], vec![]),
    };
    let step = Change::SetEmail { account: account.id, email: address.clone(), verified_at: Some(view.stamp.now) };
    let event = record(kind, account, by, chance);
    let event =
        if kind == EventKind::EmailChanged { event.reason(String::from("the one before is back")) } else { event };
    (vec![step], vec![event])
}

/// The address that an account would get back by this link, when it has another one.
pub fn address_before<'a>(ticket: &Ticket, body: &'a LinkBody, account: &Account) -> Option<&'a str> {
    let other = body.address.as_deref().filter(|address| account.email.as_deref() != Some(*address));
    other.filter(|_| ticket.kind == TicketKind::NotMe)
}
