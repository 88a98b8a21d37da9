//! Recovery: a new password by a link in a mail, and "this was not me".
//!
//! The link is the proof: who can read the account's mail may choose its password. So a link works once, not for long, and dies by an
//! end of everything of its account, and by a new password. An end of all sessions but one is none of its business: any session may
//! ask for that, a stolen one too, and its thief would keep the owner from ever recovering. One kind is spared by all
//! cuts of its account: "this was not me" stands in the very mail that tells of the end which would kill it, and whoever took the
//! account over would end it by signing out everywhere. It opens no more than the mail's owner can have at any time by asking for
//! a new password; it is used once, ends with the password that it was written under, with its account's use, with the log's
//! generation, and by its time. So a new password takes back all links in older mails, and its own mail has one of its own. Only the
//! link that tells of another address outlives a password (see [`open`]).
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
use crate::view::{AccountView, SessionView, SignInView};
use crate::{Chance, Decision, Refused};
use alloc::{format, string::String};
use portcullis_wire::{EventId, SecretString, SessionId, b64};

/// Asks for a link to a new password. Whether there is such an account, and whether it may be written to, changes nothing that can
/// be seen from outside: a ticket is inserted in any case, and of nobody's it is nobody's. `may`: no mail too many (see
/// [`crate::throttle::Attempt::of_recovery`]).
pub fn ask(view: &SignInView, may: bool, key: &MacKey, chance: &mut dyn Chance) -> Changes {
    let steps = match asker(view, may) {
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

/// Whose link is sent when one is asked for; `None`: nobody's.
pub fn asker(view: &SignInView, may: bool) -> Option<&Account> {
    let gone = |account: &&Account| matches!(account.status, Status::Deleted { .. } | Status::Deleting { .. });
    // Who is blocked gets a link, too: only behind it they are told so.
    view.account.as_ref().filter(|account| may && !gone(account) && account.email.is_some())
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
/// A link that gives an address back, in the mail that tells of another one, is of the change and not of a password: whoever changed the
/// address may change the password, too. Once it was said, it is of the password that this gave.
///
/// # Errors
/// [`Refused::NotFound`], [`Refused::AccountBlocked`].
pub fn open(view: &AccountView, ticket: &Ticket) -> Result<Opened, Refused> {
    let AccountView { stamp, account, all_ended } = view;
    let cut = ticket.born < *all_ended || stamp.all.kills_unborn(ticket.born);
    let body = ticket.read::<LinkBody>().ok_or(Refused::NotFound)?;
    let same = body.password == account.password_version;
    // What went to an address which the account does not have any more is of use only to give that back.
    let there = body.address.is_none() || body.address == account.email;
    let back = email::address_before(ticket, &body, account).is_some();
    let of_change = body.template == Template::EmailChanged.as_str() && !body.said;
    let good = match ticket.kind {
        TicketKind::ResetPassword => !cut && same && there,
        TicketKind::NotMe => there && same || back && (same || of_change),
        _ => false,
    };
    if !good || ticket.account != Some(account.id) || !ticket.is_open(stamp.epoch, stamp.now) {
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

/// What else a link is used with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Who of other providers may sign in: all links of the account, read after its view; one that was added since raised the
    /// account's version.
    pub links: &'a [Link],
    /// Who has the address that comes back ([`email::address_before`]).
    pub holder: Option<&'a Account>,
    /// The key by which mails about it are written, where mail is sent.
    pub notice: Option<&'a MacKey>,
}

impl Around<'_> {
    /// Nobody of another provider signs in any more.
    fn unlink(&self, account: &Account, by: &By<'_>, changes: &mut Changes, chance: &mut dyn Chance) {
        for link in self.links {
            changes.steps.push(Change::RemoveLink { account: account.id, link: link.id });
            let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::LinkRemoved, &by.actor);
            changes.events.push(event.account(account.id).ip(by.ip).reason(link.upstream.clone()));
        }
    }

    /// What the link says of addresses. The one that goes because another one comes back is told.
    fn addresses(
        &self,
        view: &AccountView,
        ticket: &Ticket,
        body: &LinkBody,
        by: &By<'_>,
        changes: &mut Changes,
        chance: &mut dyn Chance,
    ) {
        let more = email::by_recovery(view, ticket, body, self.holder, by, chance);
        let back = email::address_before(ticket, body, &view.account).is_some() && email::is_free(self.holder);
        if let (true, Some(goes), Some(key)) = (back, &view.account.email, self.notice) {
            let letter = Letter::of(Template::EmailMoved, &view.account).to(goes);
            changes.steps.extend(mail::write(letter, &view.stamp, key, chance));
        }
        changes.expects.extend(more.expects);
        changes.steps.extend(more.steps);
        changes.events.extend(more.events);
    }
}

/// Puts the hash of a new password in the place of the old one, by a link: everything that the account has ends in the same commit,
/// the link is used, no other one works any more, and nobody of another provider signs in any more.
pub fn reset(
    view: &AccountView,
    ticket: &Ticket,
    around: Around<'_>,
    hash: &str,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let body = match open(view, ticket) {
        Ok(opened) if opened.resets => opened.body,
        Ok(_) => return Decision::refuse(Refused::NotFound),
        Err(refused) => return Decision::refuse(refused),
    };
    let mut changes = kernel::end(Door::PasswordReset, Scope::Account(account.id), None, by, chance);
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    changes.expects.push(Expect::PasswordVersion { account: account.id, version: account.password_version });
    if ticket.kind == TicketKind::ResetPassword {
        changes.expects.push(Expect::Unended { account: account.id, born: ticket.born });
    }
    changes.steps.push(Change::SetPassword { account: account.id, hash: hash.into(), rehash: false });
    changes.steps.push(Change::UseTicket { ticket: ticket.id, at: stamp.now, grant: None });
    around.unlink(account, by, &mut changes, chance);
    if let Some(key) = around.notice {
        // To the address whose owner does it, also where it cannot come back: never to the one that somebody else gave the account.
        let after = email::after(ticket, &body, account, stamp.now);
        let letter = Letter::of(Template::PasswordReset, &after).with_new_password();
        changes.steps.extend(mail::write(letter, stamp, key, chance));
    }
    around.addresses(view, ticket, &body, by, &mut changes, chance);
    Decision { outcome: Ok(()), changes }
}

/// A hash that no password has: its result is chance.
fn no_password(chance: &mut dyn Chance) -> String {
    let [salt, hash] = [chance.secret(), chance.secret()].map(|bytes| {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        hex.collect::<String>()
    });
    format!("$argon2id$v=19$m=19456,t=2,p=1${}${hash}", &salt[..32])
}

/// Whether "this was not me" about this session ends it alone. By the rows alone: one that idles is still there to be ended.
pub fn lives(session: &SessionView) -> bool {
    session.dead(i64::MAX).is_none()
}

/// "This was not me": ends the session that the mail was about, or everything of the account when the mail was about none, that one
/// has ended already, or `all` is asked for: whoever had it and is gone from it may have others. From then on the link leads to a new password, for as long as one that was asked for does. Said twice, it is
/// said.
///
/// Where it gives an address back, somebody else had the account for a while: whatever was asked for, everything ends, no password
/// opens it any more, and nobody of another provider. So no link that was written in the meantime works, either.
#[allow(clippy::too_many_arguments, reason = "facts, what is asked for and chance, as everywhere")]
pub fn not_me(
    view: &AccountView,
    ticket: &Ticket,
    session: Option<&SessionView>,
    all: bool,
    around: Around<'_>,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let body = match open(view, ticket) {
        Ok(opened) if ticket.kind == TicketKind::NotMe => opened.body,
        Ok(_) => return Decision::refuse(Refused::NotFound),
        Err(refused) => return Decision::refuse(refused),
    };
    if body.said {
        return Decision::answer(());
    }
    let back = email::address_before(ticket, &body, account).is_some();
    let about = |id: SessionId| session.filter(|view| view.session.id == id && view.account.id == account.id);
    let scope = match body.session {
        Some(id) if !all && !back && about(id).is_some_and(lives) => {
            Scope::Session { account: account.id, session: id }
        }
        _ => Scope::Account(account.id),
    };
    let mut changes = kernel::end(Door::NotMe, scope, None, by, chance);
    changes.expects.push(Expect::AccountVersion { account: account.id, version: account.version });
    let mut password = body.password;
    if back {
        changes.expects.push(Expect::PasswordVersion { account: account.id, version: account.password_version });
        changes.steps.push(Change::SetPassword { account: account.id, hash: no_password(chance), rehash: false });
        password = account.password_version + 1;
        around.unlink(account, by, &mut changes, chance);
        around.addresses(view, ticket, &body, by, &mut changes, chance);
    }
    let expires_at = ticket.expires_at.min(stamp.now.plus(RESET_LIFE));
    let body = Ticket::write(&LinkBody { said: true, password, ..body });
    changes.steps.push(Change::UpdateTicket(Ticket { expires_at, body, ..ticket.clone() }));
    Decision { outcome: Ok(()), changes }
}
