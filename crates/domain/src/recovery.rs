//! Recovery: a new password by a link in a mail, and "this was not me".
//!
//! The link is the proof: who can read the account's mail may choose its password. So a link works once, not for long, and dies as
//! other tickets do: by an end of everything of its account, and by a new password, which is such an end. One kind is spared by
//! cuts of its account: "this was not me" stands in the very mail that tells of the end which would kill it, and whoever took the
//! account over would end it by signing out everywhere. It opens no more than the mail's owner can have at any time by asking for
//! a new password; it is used once, ends with the password that it was written under, with its account's use, with the log's
//! generation, and by its time. So a new password takes back all links in older mails, and its own mail has one of its own.
//!
//! Whoever chooses a password by a link may have lost the account to somebody who linked a person of another provider to it: all
//! such links go with the old password. Their owner makes them anew.
use crate::changes::{Change, Changes, Expect};
use crate::email;
use crate::event::{EventKind, NewEvent};
use crate::family::MacKey;
use crate::kernel::{self, By, Door, Scope};
use crate::mail::{self, Letter, LinkBody, RESET_LIFE, Template};
use crate::model::{Account, Status};
use crate::ticket::{Ticket, TicketKind};
use crate::upstream::Link;
use crate::view::{AccountView, SessionView, SignInView, Stamp};
use crate::{Chance, Decision, Refused};
use portcullis_wire::{ClientId, EventId, SecretString, SessionId, b64};

/// Asks for a link to a new password. Whether there is such an account, and whether it may be written to, changes nothing that can
/// be seen from outside: a ticket is inserted in any case, and of nobody's it is nobody's. `may`: no mail too many (see
/// [`crate::throttle::Attempt::of_recovery`]).
pub fn ask(view: &SignInView, may: bool, key: &MacKey, chance: &mut dyn Chance) -> Changes {
    let gone = |account: &&Account| matches!(account.status, Status::Deleted { .. } | Status::Deleting { .. });
    // Who is blocked gets a link, too: only behind it they are told so.
    let account = view.account.as_ref().filter(|account| may && !gone(account) && account.email.is_some());
    let steps = match account {
        Some(account) => mail::write(Letter::of(Template::ResetPassword, account), &view.stamp, key, chance),
        None => {
            let nobodys = SecretString::new(b64::encode(&chance.secret()));
            let ticket =
                mail::link_ticket(TicketKind::ResetPassword, &nobodys, None, &LinkBody::default(), &view.stamp);
            alloc::vec![Change::InsertTicket(ticket)]
        }
    };
    Changes { steps, ..Changes::default() }
}

/// What a link that was opened stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it knows.
    pub body: LinkBody,
    /// Whether it leads to a new password: a link that was asked for, or "this was not me" once that was said.
    pub resets: bool,
}

/// Whether a link may be used for this account. What was used, is too old, was cut off or is another account's is one and the same
/// refusal; "blocked" is said to who holds a good one.
///
/// # Errors
/// [`Refused::NotFound`], [`Refused::AccountBlocked`].
pub fn open(stamp: &Stamp, ticket: &Ticket, account: &Account) -> Result<Opened, Refused> {
    let cut = [account.cut, stamp.all].iter().any(|cut| cut.kills_unborn(ticket.born));
    let alive = match ticket.kind {
        TicketKind::ResetPassword => !cut,
        TicketKind::NotMe => true,
        _ => false,
    };
    let body = ticket.read::<LinkBody>().ok_or(Refused::NotFound)?;
    let same = body.password == account.password_version;
    // A link to a new password that went to an address which the account does not have any more is of no use.
    let there = ticket.kind != TicketKind::ResetPassword || body.address.is_none() || body.address == account.email;
    if !alive || !same || !there || ticket.account != Some(account.id) || !ticket.is_open(stamp.epoch, stamp.now) {
        return Err(Refused::NotFound);
    }
    if let Some(block) = account.block_at(stamp.now) {
        return Err(Refused::AccountBlocked { reason: block.reason.clone(), until: block.until });
    }
    if !account.usable_at(stamp.now) {
        return Err(Refused::NotFound);
    }
    let resets = ticket.kind == TicketKind::ResetPassword || body.said;
    Ok(Opened { body, resets })
}

/// Puts the hash of a new password in the place of the old one, by a link: everything that the account has ends in the same commit,
/// the link is used, no other one works any more, and nobody of another provider signs in any more. `links`: all of the account, read
/// after `view`; one that was added since raised the account's version. `free`: no other account has the address that comes back
/// ([`email::address_before`]). `notice`: the key by which the mail about it is written, where
/// mail is sent.
#[allow(clippy::too_many_arguments, reason = "facts, what is set, key and chance, as everywhere")]
pub fn reset(
    view: &AccountView,
    ticket: &Ticket,
    links: &[Link],
    free: bool,
    hash: &str,
    by: &By<'_>,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let body = match open(stamp, ticket, account) {
        Ok(opened) if opened.resets => opened.body,
        Ok(_) => return Decision::refuse(Refused::NotFound),
        Err(refused) => return Decision::refuse(refused),
    };
    let mut changes = kernel::end(Door::PasswordReset, Scope::Account(account.id), None, by, chance);
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    changes.expects.push(Expect::PasswordVersion { account: account.id, version: account.password_version });
    if ticket.kind == TicketKind::ResetPassword {
        let (born, client) = (ticket.born, ClientId::FIRST_PARTY);
        changes.expects.push(Expect::Unborn { account: account.id, client, born, under: None });
    }
    changes.steps.push(Change::SetPassword { account: account.id, hash: hash.into(), rehash: false });
    changes.steps.push(Change::UseTicket { ticket: ticket.id, at: stamp.now, grant: None });
    for link in links {
        changes.steps.push(Change::RemoveLink { account: account.id, link: link.id });
        let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::LinkRemoved, &by.actor);
        changes.events.push(event.account(account.id).ip(by.ip).reason(link.upstream.clone()));
    }
    if let Some(key) = notice {
        let letter = Letter::of(Template::PasswordReset, account).with_new_password();
        let back = email::address_before(ticket, &body, account).filter(|_| free);
        let letter = back.map_or(letter, |address| letter.to(address));
        changes.steps.extend(mail::write(letter, stamp, key, chance));
    }
    let (steps, events) = email::by_recovery(view, ticket, &body, free, by, chance);
    changes.steps.extend(steps);
    changes.events.extend(events);
    Decision { outcome: Ok(()), changes }
}

/// "This was not me": ends the session that the mail was about, or everything of the account when the mail was about none or
/// `all` is asked for. From then on the link leads to a new password, for as long as one that was asked for does. Said twice, it is
/// said.
#[allow(clippy::too_many_arguments, reason = "facts, what is asked for and chance, as everywhere")]
pub fn not_me(
    view: &AccountView,
    ticket: &Ticket,
    session: Option<&SessionView>,
    all: bool,
    free: bool,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let body = match open(stamp, ticket, account) {
        Ok(opened) if ticket.kind == TicketKind::NotMe => opened.body,
        Ok(_) => return Decision::refuse(Refused::NotFound),
        Err(refused) => return Decision::refuse(refused),
    };
    if body.said {
        return Decision::answer(());
    }
    let about = |id: SessionId| session.filter(|view| view.session.id == id && view.account.id == account.id);
    // By the rows alone: one that idles is still there to be ended. One that has ended by itself is not ended again.
    let scope = match body.session {
        Some(id) if !all => {
            let lives = about(id).is_some_and(|view| view.dead(i64::MAX).is_none());
            lives.then_some(Scope::Session { account: account.id, session: id })
        }
        _ => Some(Scope::Account(account.id)),
    };
    let mut changes = scope.map(|scope| kernel::end(Door::NotMe, scope, None, by, chance)).unwrap_or_default();
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    let (steps, events) = match email::address_before(ticket, &body, account) {
        Some(_) => email::by_recovery(view, ticket, &body, free, by, chance),
        None => Default::default(),
    };
    changes.steps.extend(steps);
    changes.events.extend(events);
    let expires_at = ticket.expires_at.min(stamp.now.plus(RESET_LIFE));
    let body = Ticket::write(&LinkBody { said: true, ..body });
    changes.steps.push(Change::UpdateTicket(Ticket { expires_at, body, ..ticket.clone() }));
    Decision { outcome: Ok(()), changes }
}
