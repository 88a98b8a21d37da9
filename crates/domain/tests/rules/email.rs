//! Addresses: what a link proves, what it gives, and what an account that is taken over gets back.
use crate::world::{START, Seeded, account, key, stamp, view};
use portcullis_domain::account::{Email, NewAccount};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::email::{Opened, ask, ask_change, confirm, mark, open, set as set_to, sign_up};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Letter, LinkBody, MailBody, Template, VERIFY_LIFE};
use portcullis_domain::model::{Account, Block, Ended, Session, Status};
use portcullis_domain::recovery::{self, Around};
use portcullis_domain::stored_hash;
use portcullis_domain::ticket::{Ticket, TicketKind, Used};
use portcullis_domain::view::{AccountView, SessionView, SignInView};
use portcullis_domain::{Cut, Refused};
use portcullis_wire::{AccountId, ClientId, Epoch, Rev, SessionId, Target};

const NEW: &str = "ada@example.net";

fn tickets(steps: &[Change]) -> Vec<Ticket> {
    let found = steps.iter().filter_map(|step| match step {
        Change::InsertTicket(ticket) => Some(ticket.clone()),
        _ => None,
    });
    found.collect()
}

fn mails(steps: &[Change]) -> Vec<MailBody> {
    let found = steps.iter().filter_map(|step| match step {
        Change::InsertMessage(message) => message.mail_body(),
        _ => None,
    });
    found.collect()
}

fn names(steps: &[Change]) -> Vec<String> {
    mails(steps).into_iter().map(|body| body.template).collect()
}

fn set(changes: &Changes) -> Option<(String, bool)> {
    changes.steps.iter().find_map(|step| match step {
        Change::SetEmail { email: Some(email), verified_at, .. } => Some((email.clone(), verified_at.is_some())),
        _ => None,
    })
}

fn at(account: Account) -> AccountView {
    AccountView { stamp: stamp(START), all_ended: account.cut.rev, account }
}

fn proves() -> Ticket {
    let account = account();
    let steps = mail::write(Letter::of(Template::VerifyEmail, &account), &stamp(START), &key(), &mut Seeded(1));
    tickets(&steps).remove(0)
}

/// The session that asks for another address, of this account.
fn asker(account: Account) -> SessionView {
    let row = view(START);
    SessionView { stamp: row.stamp, session: row.session, account, refreshed_at: None, standing: None }
}

fn changes_to(free: bool) -> Vec<Change> {
    let to = Email::parse(NEW).unwrap();
    let session = asker(account()).session.id;
    let decision = ask_change(&at(account()), &to, free, session, &By::SYSTEM, &key(), &mut Seeded(2));
    assert!(decision.outcome.is_ok());
    assert!(decision.changes.expects.contains(&Expect::Alive { session, role: None }));
    let [event] = &decision.changes.events[..] else { panic!("{:?}", decision.changes.events) };
    assert_eq!((event.kind, event.session, &event.reason), (EventKind::EmailChangeAsked, Some(session), &None));
    decision.changes.steps
}

fn blocked() -> Status {
    Status::Blocked(Block { reason: "spam".into(), actor: "operator".into(), at: START, until: None })
}

#[test]
fn a_sign_up_writes_an_account_and_a_link_or_tells_who_has_the_address() {
    let new = || NewAccount {
        email: Email::parse("ada@example.org").unwrap(),
        password_hash: Some("h".into()),
        name: None,
        roles: vec![],
        verified: false,
    };
    let seen = |account| SignInView { stamp: stamp(START), account, client_cut: Cut::default(), unused: false };
    let changes = sign_up(&seen(None), new(), true, &By::SYSTEM, &key(), &mut Seeded(1));
    let made = changes.steps.iter().find_map(|step| match step {
        Change::InsertAccount(account) => Some(account.clone()),
        _ => None,
    });
    assert_eq!(made.unwrap().email_verified_at, None);
    assert_eq!(names(&changes.steps), ["verify_email"]);
    assert!(changes.expects.contains(&Expect::EmailFree("ada@example.org".into())));
    let quiet = sign_up(&seen(None), new(), false, &By::SYSTEM, &key(), &mut Seeded(1));
    assert!(names(&quiet.steps).is_empty() && quiet.events.len() == 1, "an account without a mail too many");
    for (status, may, told) in [
        (Status::Active, true, 1),
        (Status::Active, false, 0),
        (blocked(), true, 1),
        (Status::Deleting { at: START, until: START.plus(1), rev: Rev(1) }, true, 0),
    ] {
        let there = Account { status, ..account() };
        let changes = sign_up(&seen(Some(there.clone())), new(), may, &By::SYSTEM, &key(), &mut Seeded(1));
        assert_eq!(names(&changes.steps), vec!["sign_up_again"; told]);
        assert!(changes.events.is_empty() && set(&changes).is_none(), "nothing becomes of the account that is there");
        let ticket = tickets(&changes.steps).remove(0);
        assert_eq!((ticket.kind, ticket.account), (TicketKind::ResetPassword, (told == 1).then_some(there.id)));
    }
}

#[test]
fn a_link_proves_the_address_that_it_was_sent_to_once_and_in_time() {
    let ticket = proves();
    let decision = confirm(&at(account()), &ticket, None, true, &By::SYSTEM, Some(&key()), &mut Seeded(2));
    assert_eq!(decision.outcome, Ok(Opened::Proves));
    assert_eq!(set(&decision.changes), Some((account().email.unwrap(), true)));
    assert_eq!((decision.changes.events[0].kind, mails(&decision.changes.steps).len()), (EventKind::EmailVerified, 0));
    let version = Expect::AccountVersion { account: account().id, version: account().version };
    assert!(decision.changes.expects.contains(&version));
    // Whoever signed up may not be whose mailbox it is: without the account's password nothing is proved, but of one that has none.
    let stranger = confirm(&at(account()), &ticket, None, false, &By::SYSTEM, Some(&key()), &mut Seeded(2));
    assert!(stranger.outcome == Err(Refused::InvalidCredentials) && stranger.changes.is_empty());
    let without = Account { password_hash: None, ..account() };
    let newcomer = confirm(&at(without), &ticket, None, false, &By::SYSTEM, None, &mut Seeded(2));
    assert_eq!(newcomer.outcome, Ok(Opened::Proves));
    let same = Expect::PasswordVersion { account: account().id, version: 1 };
    assert!(decision.changes.expects.contains(&same));
    // It gives no access, so no end of access takes it away, and neither does another password.
    let cut = Cut { rev: Rev(99), except: None };
    let other = Account { cut, password_version: 7, ..account() };
    assert_eq!(open(&stamp(START), &ticket, None, &other), Ok(Opened::Proves));
    let proved = Account { email_verified_at: Some(START), ..account() };
    assert_eq!(open(&stamp(START), &ticket, None, &proved), Ok(Opened::Done));
    let again = confirm(&at(proved.clone()), &ticket, None, false, &By::SYSTEM, None, &mut Seeded(3));
    assert!(again.outcome == Ok(Opened::Done) && again.changes.is_empty());
    // Of another address it says nothing, also where that is verified.
    for moved in [account(), proved] {
        let moved = Account { email: Some(NEW.into()), ..moved };
        assert_eq!(open(&stamp(START), &ticket, None, &moved), Err(Refused::NotFound));
    }
    let used = Ticket { used: Some(Used { at: START, grant: None }), ..ticket.clone() };
    let nobodys = Ticket { account: None, ..ticket.clone() };
    for wrong in [used, nobodys, Ticket { kind: TicketKind::ResetPassword, ..ticket.clone() }] {
        assert_eq!(open(&stamp(START), &wrong, None, &account()), Err(Refused::NotFound), "{wrong:?}");
    }
    let late = portcullis_domain::view::Stamp { epoch: Epoch(2), ..stamp(START) };
    assert_eq!(open(&late, &ticket, None, &account()), Err(Refused::NotFound));
    assert_eq!(open(&stamp(START.plus(VERIFY_LIFE)), &ticket, None, &account()), Err(Refused::NotFound));
    assert!(open(&stamp(START.plus(VERIFY_LIFE - 1)), &ticket, None, &account()).is_ok());
    let barred = Account { status: blocked(), ..account() };
    assert!(matches!(open(&stamp(START), &ticket, None, &barred), Err(Refused::AccountBlocked { .. })));
    // And it opens nothing else.
    assert_eq!(recovery::open(&at(account()), &ticket), Err(Refused::NotFound));
}

#[test]
fn another_address_is_asked_for_there_and_told_to_the_one_before() {
    let asked = changes_to(true);
    let ticket = tickets(&asked).remove(0);
    assert_eq!((names(&asked), ticket.kind), (vec!["change_email".to_owned()], TicketKind::ChangeEmail));
    // The mail knows the address by its link alone.
    assert!(!format!("{:?}", mails(&asked)).contains(NEW));
    let taken = changes_to(false);
    assert!(mails(&taken).is_empty() && tickets(&taken)[0].account.is_none(), "the same row, and nobody is written to");
    let own = asker(account());
    assert_eq!(open(&stamp(START), &ticket, Some(&own), &account()), Ok(Opened::Changes(NEW.into())));
    let confirmed =
        |row: Account| confirm(&at(row), &ticket, Some(&own), false, &By::SYSTEM, Some(&key()), &mut Seeded(4)).changes;
    let changes = confirmed(account());
    assert_eq!(set(&changes), Some((NEW.into(), true)));
    // The one before had not been proved: it is told, and gets no link that is worth the account.
    assert_eq!((changes.events[0].kind, names(&changes.steps)), (EventKind::EmailChanged, vec!["email_moved".into()]));
    assert_eq!(mails(&changes.steps)[0].to, account().email);
    assert!(tickets(&changes.steps).is_empty());
    let (born, session) = (ticket.born, own.session.id);
    let unborn = Expect::Unborn { account: account().id, client: ClientId::FIRST_PARTY, born, under: Some(session) };
    assert!(changes.expects.contains(&unborn) && changes.expects.contains(&Expect::Alive { session, role: None }));
    // It dies by an end of everything, by another password, by another address that was quicker, and by the same one that came back.
    for other in [
        Account { cut: Cut { rev: Rev(99), except: None }, ..account() },
        Account { password_version: 2, ..account() },
        Account { email: Some("ada@example.com".into()), ..account() },
        Account { email_verified_at: Some(START), ..account() },
    ] {
        assert_eq!(open(&stamp(START), &ticket, Some(&own), &other), Err(Refused::NotFound));
    }
    // And with the session that asked for it; an end that spares this one spares its link.
    let ended = Some(Ended { rev: Rev(11), reason: "ended_by_user".into(), at: START });
    let over = SessionView { session: Session { ended, ..own.session.clone() }, ..own.clone() };
    let else_ones =
        SessionView { session: Session { id: SessionId::from_bits(77), ..own.session.clone() }, ..own.clone() };
    for wrong in [None, Some(&over), Some(&else_ones)] {
        assert_eq!(open(&stamp(START), &ticket, wrong, &account()), Err(Refused::NotFound));
    }
    let spared = Account { cut: Cut { rev: Rev(99), except: Some(session) }, ..account() };
    assert!(open(&stamp(START), &ticket, Some(&own), &spared).is_ok());
}

/// An account whose address was proved before it got another one, and the link that the address before was sent.
fn taken_over() -> (Account, Account, Ticket) {
    let ours = Account { email_verified_at: Some(START), ..account() };
    let asker = asker(ours.clone());
    let to = Email::parse(NEW).unwrap();
    let asked = ask_change(&at(ours.clone()), &to, true, asker.session.id, &By::SYSTEM, &key(), &mut Seeded(2));
    let ticket = tickets(&asked.changes.steps).remove(0);
    let done = confirm(&at(ours.clone()), &ticket, Some(&asker), false, &By::SYSTEM, Some(&key()), &mut Seeded(3));
    assert_eq!(names(&done.changes.steps), ["email_changed"]);
    let told = tickets(&done.changes.steps).remove(0);
    assert_eq!(told.read::<LinkBody>().unwrap().address, ours.email);
    let theirs = applied(&ours, &done.changes);
    // In the same moment, and it is later all the same.
    assert!(theirs.email.as_deref() == Some(NEW) && theirs.email_verified_at > ours.email_verified_at);
    (ours, theirs, told)
}

/// What becomes of the account.
fn applied(account: &Account, changes: &Changes) -> Account {
    let mut row = account.clone();
    for step in &changes.steps {
        match step {
            Change::SetEmail { account, email, verified_at } if *account == row.id => {
                (row.email, row.email_verified_at) = (email.clone(), *verified_at);
            }
            Change::SetPassword { hash, rehash: false, .. } => {
                (row.password_hash, row.password_version) = (Some(hash.clone()), row.password_version + 1);
            }
            _ => continue,
        }
        row.version += 1;
    }
    row
}

fn written(template: Template, account: &Account) -> Ticket {
    tickets(&mail::write(Letter::of(template, account), &stamp(START), &key(), &mut Seeded(5))).remove(0)
}

fn denied(row: &Account, ticket: &Ticket, holder: Option<&Account>) -> Result<Changes, Refused> {
    let key = key();
    let around = Around { holder, notice: Some(&key), ..Around::default() };
    // Only the session of the mail is to end.
    let said = recovery::not_me(&at(row.clone()), ticket, None, false, around, &By::SYSTEM, &mut Seeded(6));
    said.outcome.map(|()| said.changes)
}

fn said(changes: &Changes) -> Ticket {
    let next = changes.steps.iter().find_map(|step| match step {
        Change::UpdateTicket(ticket) => Some(ticket.clone()),
        _ => None,
    });
    next.unwrap()
}

/// Whoever takes an account over gives it an address of theirs, to get the next link to a new password; and then another password.
#[test]
fn the_address_before_comes_back_whatever_became_of_the_password() {
    let (ours, theirs, told) = taken_over();
    let other_password = Account { password_version: 5, ..theirs.clone() };
    for row in [theirs.clone(), other_password.clone()] {
        let changes = denied(&row, &told, None).unwrap();
        let back = applied(&row, &changes);
        assert_eq!((back.email.clone(), back.email_verified_at), (ours.email.clone(), ours.email_verified_at));
        let ends = changes.steps.iter().any(
            |step| matches!(step, Change::Revoke(revoke) if revoke.target == Target::Account(ours.id) && revoke.except.is_none()),
        );
        assert!(ends, "everything ends, also where one session was asked for");
        // No password opens it, and the hash is one that can be read, or sign-ins would be faults.
        let hash = back.password_hash.clone().unwrap();
        assert!(stored_hash::parse(&hash).is_ok() && back.password_version == row.password_version + 1);
        // The address that goes is told, without a link.
        assert_eq!(names(&changes.steps), ["email_moved"]);
        assert_eq!(mails(&changes.steps)[0].to.as_deref(), Some(NEW));
        // The same link leads to a new password now, and tells the address that is back.
        let next = said(&changes);
        assert!(recovery::open(&at(back.clone()), &next).unwrap().resets);
        let key = key();
        let around = Around { notice: Some(&key), ..Around::default() };
        let reset = recovery::reset(&at(back.clone()), &next, around, "h", &By::SYSTEM, &mut Seeded(7));
        assert!(reset.outcome.is_ok());
        let mailed = tickets(&reset.changes.steps).remove(0).read::<LinkBody>().unwrap();
        assert_eq!((mailed.address, mailed.since), (ours.email.clone(), ours.email_verified_at));
    }
    // Another mail from before is of its password, as ever.
    let older = written(Template::NewDevice, &ours);
    assert!(denied(&theirs, &older, None).is_ok());
    assert_eq!(denied(&other_password, &older, None).unwrap_err(), Refused::NotFound);
    // A link to a new password that was sent to the address before is of no use: the account is no longer that mailbox's.
    let asked = written(Template::ResetPassword, &ours);
    assert!(recovery::open(&at(ours.clone()), &asked).is_ok());
    assert_eq!(recovery::open(&at(theirs.clone()), &asked), Err(Refused::NotFound));
}

/// What went to the address of whoever took the account over is worth nothing against the one before, whoever is quicker.
#[test]
fn the_address_that_was_proved_earlier_wins() {
    let (ours, theirs, told) = taken_over();
    let to_them = written(Template::NewDevice, &theirs);
    // They go on to a third one, which tells the second.
    let asker = asker(theirs.clone());
    let to = Email::parse("third@example.net").unwrap();
    let asked =
        ask_change(&at(theirs.clone()), &to, true, asker.session.id, &By::SYSTEM, &key(), &mut Seeded(2)).changes;
    let link = tickets(&asked.steps).remove(0);
    let done = confirm(&at(theirs.clone()), &link, Some(&asker), false, &By::SYSTEM, Some(&key()), &mut Seeded(3));
    let (third, second_told) = (applied(&theirs, &done.changes), tickets(&done.changes.steps).remove(0));
    let waits = written(Template::ResetPassword, &third);
    let back = applied(&third, &denied(&third, &told, None).unwrap());
    assert_eq!(back.email, ours.email);
    for void in [&to_them, &second_told, &waits, &link] {
        assert_eq!(recovery::open(&at(back.clone()), void), Err(Refused::NotFound), "{void:?}");
    }
    assert_eq!(open(&stamp(START), &link, Some(&asker), &back), Err(Refused::NotFound));
    // They are quicker: the second comes back, and the first all the same.
    let quick = applied(&third, &denied(&third, &second_told, None).unwrap());
    assert_eq!((quick.email.as_deref(), quick.email_verified_at), (Some(NEW), theirs.email_verified_at));
    assert_eq!(applied(&quick, &denied(&quick, &told, None).unwrap()).email, ours.email);
}

/// An address that somebody else signed up with meanwhile, and has not proved, is taken from them by who proves it.
#[test]
fn nobody_holds_an_address_against_its_owner_without_a_proof() {
    let (ours, theirs, told) = taken_over();
    let squatter = Account { id: AccountId::from_bits(9), version: 4, ..account() };
    let changes = denied(&theirs, &told, Some(&squatter)).unwrap();
    let goes = changes.steps.iter().position(
        |step| matches!(step, Change::SetEmail { account, email: None, verified_at: None } if *account == squatter.id),
    );
    let comes = changes.steps.iter().position(
        |step| matches!(step, Change::SetEmail { account, email: Some(email), .. } if *account == ours.id && Some(email) == ours.email.as_ref()),
    );
    assert!(goes.is_some() && goes < comes);
    assert!(changes.expects.contains(&Expect::AccountVersion { account: squatter.id, version: 4 }));
    assert!(
        changes.events.iter().any(|event| event.account == Some(squatter.id) && event.kind == EventKind::EmailChanged)
    );
    // Who has proved it keeps it. All the same everything ends, and what is told of the new password goes to who chose it.
    let proved = Account { email_verified_at: Some(START), ..squatter };
    let changes = denied(&theirs, &told, Some(&proved)).unwrap();
    assert_eq!(set(&changes), None);
    let row = applied(&theirs, &changes);
    let key = key();
    let around = Around { notice: Some(&key), holder: Some(&proved), ..Around::default() };
    let reset = recovery::reset(&at(row), &said(&changes), around, "h", &By::SYSTEM, &mut Seeded(7));
    assert!(reset.outcome.is_ok() && set(&reset.changes).is_none());
    assert_eq!(tickets(&reset.changes.steps).remove(0).read::<LinkBody>().unwrap().address, ours.email);
}

/// A mailbox that was never proved may be anybody's, and an administrator has the last word.
#[test]
fn nothing_is_given_back_to_an_address_that_nobody_proved_or_against_an_administrator() {
    let unproved = written(Template::NewDevice, &account());
    let moved = Account { email: Some(NEW.into()), email_verified_at: Some(START.plus(5)), ..account() };
    assert_eq!(denied(&moved, &unproved, None).unwrap_err(), Refused::NotFound);
    let (_, theirs, told) = taken_over();
    let to = Email::parse("ada@example.com").unwrap();
    for verified in [None, Some(false), Some(true)] {
        let decision = set_to(&at(theirs.clone()), &to, verified, &By::SYSTEM, Some(&key()), &mut Seeded(8));
        assert!(decision.outcome.is_ok() && decision.changes.events[0].kind == EventKind::EmailChanged);
        assert_eq!(names(&decision.changes.steps), ["email_moved"]);
        let row = applied(&theirs, &decision.changes);
        assert_eq!(
            (row.email.as_deref(), row.email_verified_at.is_some()),
            (Some(to.as_str()), verified == Some(true))
        );
        assert_eq!(denied(&row, &told, None).unwrap_err(), Refused::NotFound);
    }
    let own = Email::parse(NEW).unwrap();
    let same = set_to(&at(theirs.clone()), &own, None, &By::SYSTEM, None, &mut Seeded(8));
    assert!(same.outcome.is_ok() && same.changes.is_empty());
    let dead = Account { status: Status::Deleted { at: START, rev: Rev(1) }, ..theirs };
    assert_eq!(set_to(&at(dead), &to, None, &By::SYSTEM, None, &mut Seeded(8)).outcome, Err(Refused::NotFound));
}

#[test]
fn asked_again_only_what_is_not_proved_is_sent_and_an_administrator_may_say_so() {
    let asked = |account: Account| names(&ask(&at(account), &key(), &mut Seeded(1)).changes.steps);
    assert_eq!(asked(account()), ["verify_email"]);
    for nothing in [
        Account { email_verified_at: Some(START), ..account() },
        Account { email: None, ..account() },
        Account { status: Status::Deleted { at: START, rev: Rev(1) }, ..account() },
    ] {
        assert!(asked(nothing).is_empty());
    }
    for (before, says, kind) in [
        (None, true, Some(EventKind::EmailVerified)),
        (Some(START), false, Some(EventKind::AccountChanged)),
        (None, false, None),
        (Some(START), true, None),
    ] {
        let row = Account { email_verified_at: before, ..account() };
        let decision = mark(&at(row), says, &By::SYSTEM, &mut Seeded(2));
        assert!(decision.outcome.is_ok());
        assert_eq!(decision.changes.events.first().map(|event| event.kind), kind);
        assert_eq!(set(&decision.changes), kind.map(|_| (account().email.unwrap(), says)));
    }
    let nobody = mark(&at(Account { email: None, ..account() }), true, &By::SYSTEM, &mut Seeded(2));
    assert!(matches!(nobody.outcome, Err(Refused::InvalidValue { field: "email_verified", .. })));
}
