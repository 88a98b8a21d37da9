//! Addresses: what a link proves, what it gives, and what an account that is taken over gets back.
use crate::world::{START, Seeded, account, key, stamp};
use portcullis_domain::account::{Email, NewAccount};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::email::{Opened, ask, ask_change, confirm, mark, open, sign_up};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Letter, LinkBody, MailBody, Template, VERIFY_LIFE};
use portcullis_domain::model::{Account, Block, Status};
use portcullis_domain::recovery;
use portcullis_domain::ticket::{Ticket, TicketKind, Used};
use portcullis_domain::view::{AccountView, SignInView};
use portcullis_domain::{Cut, Refused};
use portcullis_wire::{Epoch, Rev, SessionId};

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
        Change::SetEmail { email, verified_at, .. } => Some((email.clone(), verified_at.is_some())),
        _ => None,
    })
}

fn at(account: Account) -> AccountView {
    AccountView { stamp: stamp(START), account }
}

fn proves() -> Ticket {
    let account = account();
    let steps = mail::write(Letter::of(Template::VerifyEmail, &account), &stamp(START), &key(), &mut Seeded(1));
    tickets(&steps).remove(0)
}

fn changes_to(free: bool) -> Vec<Change> {
    let to = Email::parse(NEW).unwrap();
    let session = SessionId::from_bits(5);
    let decision = ask_change(&at(account()), &to, free, session, &key(), &mut Seeded(2));
    assert!(decision.outcome.is_ok());
    assert!(decision.changes.expects.contains(&Expect::Alive { session, role: None }));
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
    let seen = |account| SignInView { stamp: stamp(START), account, client_cut: Cut::default() };
    let changes = sign_up(&seen(None), new(), true, &By::SYSTEM, &key(), &mut Seeded(1));
    let made = changes.steps.iter().find_map(|step| match step {
        Change::InsertAccount(account) => Some(account.clone()),
        _ => None,
    });
    assert_eq!(made.unwrap().email_verified_at, None);
    assert_eq!(names(&changes.steps), ["verify_email"]);
    assert!(changes.expects.contains(&Expect::EmailFree("ada@example.org".into())));
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
    let decision = confirm(&at(account()), &ticket, &By::SYSTEM, Some(&key()), &mut Seeded(2));
    assert_eq!(decision.outcome, Ok(Opened::Proves));
    assert_eq!(set(&decision.changes), Some((account().email.unwrap(), true)));
    assert_eq!((decision.changes.events[0].kind, mails(&decision.changes.steps).len()), (EventKind::EmailVerified, 0));
    let version = Expect::AccountVersion { account: account().id, version: account().version };
    assert!(decision.changes.expects.contains(&version));
    // It gives no access, so no end of access takes it away, and neither does another password.
    let cut = Cut { rev: Rev(99), except: None };
    let other = Account { cut, password_version: 7, ..account() };
    assert_eq!(open(&stamp(START), &ticket, &other), Ok(Opened::Proves));
    let proved = Account { email_verified_at: Some(START), ..account() };
    assert_eq!(open(&stamp(START), &ticket, &proved), Ok(Opened::Done));
    let again = confirm(&at(proved.clone()), &ticket, &By::SYSTEM, None, &mut Seeded(3));
    assert!(again.outcome == Ok(Opened::Done) && again.changes.is_empty());
    // Of another address it says nothing, also where that is verified.
    for moved in [account(), proved] {
        let moved = Account { email: Some(NEW.into()), ..moved };
        assert_eq!(open(&stamp(START), &ticket, &moved), Err(Refused::NotFound));
    }
    let used = Ticket { used: Some(Used { at: START, grant: None }), ..ticket.clone() };
    let nobodys = Ticket { account: None, ..ticket.clone() };
    for wrong in [used, nobodys, Ticket { kind: TicketKind::ResetPassword, ..ticket.clone() }] {
        assert_eq!(open(&stamp(START), &wrong, &account()), Err(Refused::NotFound), "{wrong:?}");
    }
    let late = portcullis_domain::view::Stamp { epoch: Epoch(2), ..stamp(START) };
    assert_eq!(open(&late, &ticket, &account()), Err(Refused::NotFound));
    assert_eq!(open(&stamp(START.plus(VERIFY_LIFE)), &ticket, &account()), Err(Refused::NotFound));
    assert!(open(&stamp(START.plus(VERIFY_LIFE - 1)), &ticket, &account()).is_ok());
    let barred = Account { status: blocked(), ..account() };
    assert!(matches!(open(&stamp(START), &ticket, &barred), Err(Refused::AccountBlocked { .. })));
    // And it opens nothing else.
    assert_eq!(recovery::open(&stamp(START), &ticket, &account()), Err(Refused::NotFound));
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
    assert_eq!(open(&stamp(START), &ticket, &account()), Ok(Opened::Changes(NEW.into())));
    let decision = confirm(&at(account()), &ticket, &By::SYSTEM, Some(&key()), &mut Seeded(4));
    assert_eq!(set(&decision.changes), Some((NEW.into(), true)));
    assert_eq!(
        (decision.changes.events[0].kind, names(&decision.changes.steps)),
        (EventKind::EmailChanged, vec!["email_changed".into()])
    );
    let told = tickets(&decision.changes.steps).remove(0);
    assert_eq!(told.read::<LinkBody>().unwrap().address, account().email);
    let born = |expect: &Expect| matches!(expect, Expect::Unborn { born, under: None, .. } if *born == ticket.born);
    assert!(decision.changes.expects.iter().any(born));
    // It dies by an end of everything, by another password, and by another address that was quicker.
    for other in [
        Account { cut: Cut { rev: Rev(99), except: None }, ..account() },
        Account { password_version: 2, ..account() },
        Account { email: Some("ada@example.com".into()), ..account() },
    ] {
        assert_eq!(open(&stamp(START), &ticket, &other), Err(Refused::NotFound));
    }
}

/// Whoever takes an account over gives it an address of theirs, to get the next link to a new password.
#[test]
fn not_me_gives_the_address_back_and_links_to_the_one_before_are_void() {
    let ours = account();
    let letter = |template| {
        let steps = mail::write(Letter::of(template, &ours), &stamp(START), &key(), &mut Seeded(5));
        tickets(&steps).remove(0)
    };
    let theirs = Account { email: Some(NEW.into()), email_verified_at: Some(START), ..account() };
    for template in [Template::EmailChanged, Template::NewDevice] {
        let ticket = letter(template);
        for free in [true, false] {
            let said = recovery::not_me(&at(theirs.clone()), &ticket, None, true, free, &By::SYSTEM, &mut Seeded(6));
            assert!(said.outcome.is_ok());
            assert_eq!(set(&said.changes), free.then(|| (ours.email.clone().unwrap(), true)));
            let ends = said.changes.steps.iter().filter(|step| matches!(step, Change::Revoke(_))).count();
            assert_eq!(ends, 1, "everything ends, whoever has the address");
        }
    }
    // One that went to the address which the account has gives nothing back.
    let said = recovery::not_me(
        &at(ours.clone()),
        &letter(Template::NewDevice),
        None,
        true,
        true,
        &By::SYSTEM,
        &mut Seeded(6),
    );
    assert_eq!(set(&said.changes), None);
    // A link to a new password that was sent to the address before is of no use: the account is no longer that mailbox's.
    let asked = letter(Template::ResetPassword);
    assert!(recovery::open(&stamp(START), &asked, &ours).is_ok());
    assert_eq!(recovery::open(&stamp(START), &asked, &theirs), Err(Refused::NotFound));
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
