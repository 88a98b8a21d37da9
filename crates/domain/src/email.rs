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
//! password. A link to another address is worth more, since mails about the password go there from then on: it dies by all that, and
//! with the session that asked for it.
//!
//! Whoever takes an account over gives it an address of theirs. So the one before is told, and may take it back for some days: of
//! two addresses that were proved, the one that was proved earlier has the account. What comes back comes with the time that it had, so
//! nothing that went to the later one outweighs it ([`address_before`]).
use crate::account::{self, Email, NewAccount};
use crate::changes::{Change, Changes, Expect};
use crate::event::{EventKind, NewEvent};
use crate::family::MacKey;
use crate::kernel::By;
use crate::mail::{self, Letter, LinkBody, Template};
use crate::model::{Account, Status};
use crate::ticket::{Ticket, TicketKind};
use crate::view::{AccountView, SessionView, SignInView, Stamp};
use crate::{Chance, Decision, Refused};
use alloc::{string::String, vec, vec::Vec};
use portcullis_wire::{ClientId, EventId, SecretString, SessionId, Time, b64};

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
/// already, a mail that says so, with a link to a new password. `may`: no mail too many to that address; without one an account is made
/// all the same, and its owner is sent a link when they sign in.
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
    if let (Ok(account), true) = (&outcome, may) {
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
/// there; else nothing is sent, and a ticket of nobody's is written. It is on record in both cases alike, without the address: the
/// record is read by who asked.
pub fn ask_change(
    view: &AccountView,
    to: &Email,
    free: bool,
    session: SessionId,
    by: &By<'_>,
    key: &MacKey,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let (account, stamp) = (&view.account, &view.stamp);
    let steps = match free {
        true => {
            let letter = Letter::of(Template::ChangeEmail, account).to(to.as_str()).about(session);
            mail::write(letter, stamp, key, chance)
        }
        false => vec![nobodys(TicketKind::ChangeEmail, stamp, chance)],
    };
    let expects = vec![
        Expect::Alive { session, role: None },
        Expect::AccountVersion { account: account.id, version: account.version },
    ];
    let event = NewEvent { session: Some(session), ..record(EventKind::EmailChangeAsked, account, by, chance) };
    Decision { outcome: Ok(()), changes: Changes { expects, steps, events: vec![event], ..Changes::default() } }
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
/// one. `session`: the one that asked for it, if it is still there.
///
/// # Errors
/// [`Refused::NotFound`], [`Refused::AccountBlocked`].
pub fn open(
    stamp: &Stamp,
    ticket: &Ticket,
    session: Option<&SessionView>,
    account: &Account,
) -> Result<Opened, Refused> {
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
            let asked = ticket.session.ok_or(Refused::NotFound)?;
            let cut = [account.cut, stamp.all].iter().any(|cut| cut.kills(ticket.born, asked));
            // By the rows alone: one that idles is still there.
            let lives = session.is_some_and(|view| view.session.id == asked && view.dead(i64::MAX).is_none());
            // An address that went and came back is another one.
            let same = body.before == account.email && body.since == account.email_verified_at;
            if cut || !lives || !same || body.password != account.password_version {
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
/// `knows`: whoever uses it gave the account's password. Without it an address is not verified where there is one: somebody else may
/// have signed up with it, and whose password it is would have the account. `notice`: the key by which the mail is written.
pub fn confirm(
    view: &AccountView,
    ticket: &Ticket,
    session: Option<&SessionView>,
    knows: bool,
    by: &By<'_>,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) -> Decision<Opened> {
    let (account, stamp) = (&view.account, &view.stamp);
    let opened = match open(stamp, ticket, session, account) {
        Ok(Opened::Done) => return Decision::answer(Opened::Done),
        Ok(opened) => opened,
        Err(refused) => return Decision::refuse(refused),
    };
    let mut expects = vec![Expect::AccountVersion { account: account.id, version: account.version }];
    if opened == Opened::Proves && account.password_hash.is_some() && !knows {
        return Decision::refuse(Refused::InvalidCredentials);
    }
    expects.push(Expect::PasswordVersion { account: account.id, version: account.password_version });
    let (email, at, kind) = match &opened {
        Opened::Changes(to) => {
            let (born, client) = (ticket.born, ClientId::FIRST_PARTY);
            expects.extend(ticket.session.map(|session| Expect::Alive { session, role: None }));
            expects.push(Expect::Unborn { account: account.id, client, born, under: ticket.session });
            (Some(to.clone()), later(account, stamp.now), EventKind::EmailChanged)
        }
        _ => (account.email.clone(), stamp.now, EventKind::EmailVerified),
    };
    let mut steps = vec![
        Change::SetEmail { account: account.id, email, verified_at: Some(at) },
        Change::UseTicket { ticket: ticket.id, at: stamp.now, grant: None },
    ];
    if let (EventKind::EmailChanged, Some(key)) = (kind, notice) {
        steps.extend(told_before(account, stamp, key, chance));
    }
    let events = vec![record(kind, account, by, chance)];
    Decision { outcome: Ok(opened), changes: Changes { expects, steps, events, ..Changes::default() } }
}

/// Since when an address is proved that takes the place of the account's: always later than that one, whatever the clock says.
fn later(account: &Account, now: Time) -> Time {
    account.email_verified_at.map_or(now, |before| now.max(before.plus(1)))
}

/// The mail to the address before. One that nobody had proved may be anybody's: it gets no link that is worth the account.
fn told_before(account: &Account, stamp: &Stamp, key: &MacKey, chance: &mut dyn Chance) -> Vec<Change> {
    match (&account.email, account.email_verified_at) {
        (Some(_), Some(_)) => mail::write(Letter::of(Template::EmailChanged, account), stamp, key, chance),
        (Some(email), None) => mail::write(Letter::of(Template::EmailMoved, account).to(email), stamp, key, chance),
        (None, _) => vec![],
    }
}

fn record(kind: EventKind, account: &Account, by: &By<'_>, chance: &mut dyn Chance) -> NewEvent {
    let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).account(account.id).ip(by.ip);
    match by.reason {
        Some(reason) => event.reason(reason),
        None => event,
    }
}

/// An administrator says that the account's address is its owner's, or that nobody knows. Who is answered for has had the address since
/// the account began: no link gives another one back.
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
    let verified_at = verified.then_some(account.created_at);
    let kind = if verified { EventKind::EmailVerified } else { EventKind::AccountChanged };
    let changes = Changes {
        expects: by.expects().into_iter().chain([version]).collect(),
        steps: vec![Change::SetEmail { account: account.id, email: Some(email.clone()), verified_at }],
        events: vec![record(kind, account, by, chance)],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// An administrator gives the account another address. It is not verified unless they answer for it, too; the one before is told, by a
/// mail without a link, and no link that went there gives it back while the new one is not proved. `notice`: the key by which that mail is
/// written.
pub fn set(
    view: &AccountView,
    to: &Email,
    verified: Option<bool>,
    by: &By<'_>,
    notice: Option<&MacKey>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let account = &view.account;
    if gone(account) {
        return Decision::refuse(Refused::NotFound);
    }
    if account.email.as_deref() == Some(to.as_str()) {
        return verified.map_or_else(|| Decision::answer(()), |verified| mark(view, verified, by, chance));
    }
    let version = Expect::AccountVersion { account: account.id, version: account.version };
    let verified_at = (verified == Some(true)).then_some(account.created_at);
    let email = Some(to.as_str().into());
    let mut steps = vec![Change::SetEmail { account: account.id, email, verified_at }];
    if let (Some(before), Some(key)) = (&account.email, notice) {
        let letter = Letter::of(Template::EmailMoved, account).to(before);
        steps.extend(mail::write(letter, &view.stamp, key, chance));
    }
    let changes = Changes {
        expects: by.expects().into_iter().chain([version]).collect(),
        steps,
        events: vec![record(EventKind::EmailChanged, account, by, chance)],
        ..Changes::default()
    };
    Decision { outcome: Ok(()), changes }
}

/// What a link that leads to a new password says about the account's address besides: whoever opens it can read what is sent there, so
/// that is verified. And "this was not me", sent to an address that the account does not have any more, gives it back: whoever took
/// the account over would get the next link to a new password otherwise. `holder`: who has that address meanwhile. Who has not proved it
/// loses it to who does; who has keeps it.
pub(crate) fn by_recovery(
    view: &AccountView,
    ticket: &Ticket,
    body: &LinkBody,
    holder: Option<&Account>,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Changes {
    let account = &view.account;
    let Some(address) = &body.address else { return Changes::default() };
    let mut changes = Changes::default();
    let set = |account: &Account, email: Option<&String>, verified_at: Option<Time>| Change::SetEmail {
        account: account.id,
        email: email.cloned(),
        verified_at,
    };
    if account.email.as_ref() == Some(address) {
        if account.email_verified_at.is_none() {
            changes.steps.push(set(account, Some(address), Some(view.stamp.now)));
            changes.events.push(record(EventKind::EmailVerified, account, by, chance));
        }
        return changes;
    }
    if address_before(ticket, body, account).is_none() || !is_free(holder) {
        return changes;
    }
    if let Some(holder) = holder {
        changes.expects.push(Expect::AccountVersion { account: holder.id, version: holder.version });
        changes.steps.push(set(holder, None, None));
        let event = record(EventKind::EmailChanged, holder, by, chance);
        changes.events.push(event.reason(String::from("it was proved to be another account's")));
    }
    changes.steps.push(set(account, Some(address), body.since));
    let event = record(EventKind::EmailChanged, account, by, chance);
    changes.events.push(event.reason(String::from("the one before is back")));
    changes
}

/// Whether an address can be given to who proves it: nobody else has proved that it is theirs.
pub(crate) fn is_free(holder: Option<&Account>) -> bool {
    holder.is_none_or(|holder| holder.email_verified_at.is_none())
}

/// The address that an account would get back by this link: the one that the link went to, when the account has another one that was
/// proved later. Of an address that nobody had proved, and in the place of one that nobody has, nothing comes back.
pub fn address_before<'a>(ticket: &Ticket, body: &'a LinkBody, account: &Account) -> Option<&'a str> {
    let other = body.address.as_deref().filter(|address| account.email.as_deref() != Some(*address));
    let earlier = body.since.zip(account.email_verified_at).is_some_and(|(since, now)| since < now);
    other.filter(|_| ticket.kind == TicketKind::NotMe && earlier)
}

/// The account once this link was used.
pub(crate) fn after(ticket: &Ticket, body: &LinkBody, account: &Account, now: Time) -> Account {
    let own = body.address.is_some() && account.email == body.address;
    let back = address_before(ticket, body, account).is_some();
    match () {
        () if back => Account { email: body.address.clone(), email_verified_at: body.since, ..account.clone() },
        () if own => Account { email_verified_at: account.email_verified_at.or(Some(now)), ..account.clone() },
        () => account.clone(),
    }
}
