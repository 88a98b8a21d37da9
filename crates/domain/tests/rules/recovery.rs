//! Links in mails: which open what, and what kills them.
use crate::world::{START, Seeded, account, key, stamp, view};
use portcullis_domain::changes::{Change, Changes, Expect};
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::By;
use portcullis_domain::mail::{self, Letter, NOT_ME_LIFE, RESET_LIFE, Template};
use portcullis_domain::model::{Account, Block, Ended, Session, Status};
use portcullis_domain::outbox::MessageKind;
use portcullis_domain::recovery::{Around, ask, not_me, open, reset};
use portcullis_domain::ticket::{Ticket, TicketKind, Used, id};
use portcullis_domain::upstream::Link;
use portcullis_domain::view::{AccountView, SessionView, SignInView, Stamp};
use portcullis_domain::{Cut, Refused};
use portcullis_wire::{Epoch, LinkId, Rev, SessionId, Target, Time, Verb};

fn ticket_of(steps: &[Change]) -> Ticket {
    let found = steps.iter().find_map(|step| match step {
        Change::InsertTicket(ticket) => Some(ticket.clone()),
        _ => None,
    });
    found.unwrap()
}

fn link(template: Template, session: Option<SessionId>) -> Ticket {
    let account = account();
    let letter = Letter { session, ..Letter::of(template, &account) };
    ticket_of(&mail::write(letter, &stamp(START), &key(), &mut Seeded(1)))
}

fn at(now: Time, account: Account) -> AccountView {
    let all_ended = account.cut.whole(None);
    AccountView { stamp: stamp(now), account, all_ended }
}

fn blocked() -> Status {
    Status::Blocked(Block { reason: "spam".into(), actor: "operator".into(), at: START, until: None })
}

fn ends(changes: &Changes) -> Vec<Target> {
    let entries = changes.steps.iter().filter_map(|step| match step {
        Change::Revoke(revoke) if revoke.verb == Verb::End && revoke.except.is_none() => Some(revoke.target.clone()),
        _ => None,
    });
    entries.collect()
}

/// Every combination of what may have become of a link, its account and the log.
#[test]
fn a_link_opens_only_what_it_is_for_and_only_while_nothing_cut_it_off() {
    let mut opened = 0;
    for kind in TicketKind::ALL {
        for cut in [Rev::ZERO, Rev(10), Rev(11)] {
            for all in [Rev::ZERO, Rev(11)] {
                for used in [None, Some(Used { at: START, grant: None })] {
                    for epoch in [Epoch(1), Epoch(2)] {
                        for later in [0, RESET_LIFE - 1, RESET_LIFE, NOT_ME_LIFE - 1, NOT_ME_LIFE] {
                            for own in [true, false] {
                                for status in [Status::Active, blocked(), Status::Deleted { at: START, rev: Rev(1) }] {
                                    let template = if *kind == TicketKind::NotMe {
                                        Template::NewDevice
                                    } else {
                                        Template::ResetPassword
                                    };
                                    let base = link(template, None);
                                    let owner = if own { base.account } else { None };
                                    let ticket = Ticket { kind: *kind, used, account: owner, ..base };
                                    // Whatever spared somebody since is none of its business.
                                    let spares = Some(SessionId::from_bits(9));
                                    let row = Account {
                                        status: status.clone(),
                                        cut: Cut { rev: Rev(99), except: spares },
                                        ..account()
                                    };
                                    let whole = Cut { rev: all, except: None };
                                    let stamp = Stamp { epoch, all: whole, ..stamp(START.plus(later)) };
                                    let good = used.is_none()
                                        && epoch == Epoch(1)
                                        && own
                                        && match kind {
                                            TicketKind::ResetPassword => {
                                                cut <= Rev(10) && all <= Rev(10) && later < RESET_LIFE
                                            }
                                            TicketKind::NotMe => later < NOT_ME_LIFE,
                                            _ => false,
                                        };
                                    let expected = match (&status, good) {
                                        (Status::Active, true) => Ok(*kind == TicketKind::ResetPassword),
                                        (Status::Blocked(_), true) => {
                                            Err(Refused::AccountBlocked { reason: "spam".into(), until: None })
                                        }
                                        _ => Err(Refused::NotFound),
                                    };
                                    opened += usize::from(expected.is_ok());
                                    let view = AccountView { stamp, account: row, all_ended: cut };
                                    let found = open(&view, &ticket).map(|opened| opened.resets);
                                    assert_eq!(found, expected, "{kind:?} {cut:?} {all:?} {used:?} {later} {status:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(opened > 20, "{opened}");
}

#[test]
fn a_new_password_ends_everything_uses_its_link_and_expects_what_it_saw() {
    let (ticket, view) = (link(Template::ResetPassword, None), at(START, account()));
    for notice in [None, Some(key())] {
        let around = Around { notice: notice.as_ref(), ..Around::default() };
        let decision = reset(&view, &ticket, around, "a new hash", &By::SYSTEM, &mut Seeded(2));
        let changes = decision.changes;
        assert!(decision.outcome.is_ok() && ends(&changes) == [Target::Account(view.account.id)]);
        let unended = Expect::Unended { account: view.account.id, born: ticket.born };
        assert!(changes.expects.contains(&unended));
        let version = Expect::PasswordVersion { account: view.account.id, version: 1 };
        assert!(changes.expects.contains(&version));
        let used = |step: &Change| matches!(step, Change::UseTicket { ticket: used, .. } if *used == ticket.id);
        let set =
            |step: &Change| matches!(step, Change::SetPassword { hash, rehash: false, .. } if hash == "a new hash");
        assert!(changes.steps.iter().any(used) && changes.steps.iter().any(set));
        let mails = changes.steps.iter().filter(|step| matches!(step, Change::InsertMessage(_))).count();
        // Whoever opens a link that was sent to the address has shown that it is theirs.
        assert_eq!((mails, changes.events.len()), (usize::from(notice.is_some()), 2));
        let proved = |step: &Change| matches!(step, Change::SetEmail { verified_at: Some(at), .. } if *at == START);
        assert!(changes.steps.iter().any(proved) && changes.events[1].kind == EventKind::EmailVerified);
    }
    // A link of another kind, or one that has not come so far, sets no password.
    for other in [link(Template::NewDevice, None), Ticket { used: Some(Used { at: START, grant: None }), ..ticket }] {
        let decision = reset(&view, &other, Around::default(), "a new hash", &By::SYSTEM, &mut Seeded(2));
        assert!(decision.outcome == Err(Refused::NotFound) && decision.changes.is_empty());
    }
}

#[test]
fn not_me_ends_what_its_mail_was_about_and_only_then_leads_to_a_password() {
    let row = view(START);
    let session = SessionView {
        stamp: row.stamp,
        session: row.session.clone(),
        account: row.account.clone(),
        refreshed_at: None,
        standing: None,
    };
    let gone = Session {
        ended: Some(Ended { rev: Rev(3), reason: "signed_out".into(), at: START }),
        ..session.session.clone()
    };
    let ended = SessionView { session: gone, ..session.clone() };
    let about = session.session.id;
    let own = at(START, account());
    let cases = [
        (Some(about), Some(&session), false, vec![Target::Session(about)]),
        (Some(about), Some(&session), true, vec![Target::Account(account().id)]),
        // It is not there any more, or has ended: whoever had it may have others.
        (Some(about), None, false, vec![Target::Account(account().id)]),
        (Some(about), Some(&ended), false, vec![Target::Account(account().id)]),
        (None, None, false, vec![Target::Account(account().id)]),
    ];
    for (about, found, all, ends_what) in cases {
        let ticket = link(Template::NewDevice, about);
        let decision = not_me(&own, &ticket, found, all, Around::default(), &By::SYSTEM, &mut Seeded(3));
        assert!(decision.outcome.is_ok());
        assert_eq!(ends(&decision.changes), ends_what);
        let told: Vec<_> = decision.changes.events.iter().map(|event| event.kind).collect();
        assert_eq!(told, [EventKind::NotMe], "on record, whatever it ended");
        let next = decision.changes.steps.iter().find_map(|step| match step {
            Change::UpdateTicket(ticket) => Some(ticket.clone()),
            _ => None,
        });
        let next = next.unwrap();
        assert_eq!(next.expires_at, START.plus(RESET_LIFE));
        assert!(open(&own, &next).unwrap().resets);
        // Said twice it is said; and by then even a cut of the account leaves it its use.
        let cut = Account { cut: Cut { rev: Rev(99), except: None }, ..account() };
        let again = not_me(&at(START, cut.clone()), &next, found, all, Around::default(), &By::SYSTEM, &mut Seeded(4));
        assert!(again.outcome.is_ok() && again.changes.is_empty());
        let set = reset(&at(START, cut), &next, Around::default(), "a new hash", &By::SYSTEM, &mut Seeded(5));
        assert_eq!(ends(&set.changes), [Target::Account(account().id)]);
    }
    let asked = link(Template::ResetPassword, None);
    let wrong = not_me(&own, &asked, None, true, Around::default(), &By::SYSTEM, &mut Seeded(6));
    assert!(wrong.outcome == Err(Refused::NotFound) && wrong.changes.is_empty());
}

#[test]
fn asking_writes_a_ticket_whoever_asks_and_a_mail_only_where_there_is_somebody() {
    let deleting = Status::Deleting { at: START, until: START.plus(1), rev: Rev(1) };
    for (status, may, mails) in [
        (Some(Status::Active), true, 1),
        (Some(Status::Active), false, 0),
        (Some(blocked()), true, 1),
        (Some(deleting), true, 0),
        (None, true, 0),
    ] {
        let account = status.map(|status| Account { status, ..account() });
        let of = account.as_ref().filter(|_| mails == 1).map(|account| account.id);
        let asked = SignInView { stamp: stamp(START), account, unused: false, client_cut: Cut::default() };
        let changes = ask(&asked, may, &key(), &mut Seeded(7));
        let ticket = ticket_of(&changes.steps);
        assert_eq!((ticket.kind, ticket.account, ticket.born), (TicketKind::ResetPassword, of, Rev(10)));
        let messages: Vec<_> = changes
            .steps
            .iter()
            .filter_map(|step| match step {
                Change::InsertMessage(message) => Some(message),
                _ => None,
            })
            .collect();
        assert_eq!((messages.len(), changes.steps.len()), (mails, 1 + mails));
        for message in messages {
            assert_eq!((message.kind, message.client), (MessageKind::Mail, Some(mail::MAIL_SERVER)));
            let secret = mail::link_secret(&key(), TicketKind::ResetPassword, message.id);
            assert_eq!(ticket.id, id(TicketKind::ResetPassword, secret.expose()));
            assert!(!message.body.contains(secret.expose()) && message.give_up_at == START.plus(RESET_LIFE));
        }
    }
}

/// Who changes the password takes back the links of older mails, and the mail about it has one that works.
#[test]
fn a_link_is_of_one_password() {
    let next = Account { password_version: account().password_version + 1, ..account() };
    for template in [Template::ResetPassword, Template::NewDevice, Template::LinkAdded] {
        let ticket = link(template, None);
        assert!(open(&at(START, account()), &ticket).is_ok());
        assert_eq!(open(&at(START, next.clone()), &ticket), Err(Refused::NotFound));
    }
    let asked = link(Template::ResetPassword, None);
    let key = key();
    let around = Around { notice: Some(&key), ..Around::default() };
    let decision = reset(&at(START, account()), &asked, around, "a new hash", &By::SYSTEM, &mut Seeded(2));
    let mailed = ticket_of(&decision.changes.steps);
    assert_eq!(mailed.kind, TicketKind::NotMe);
    assert!(open(&at(START, next), &mailed).is_ok() && open(&at(START, account()), &mailed).is_err());
}

/// Whoever had the account may have linked somebody of theirs: nobody comes in by a link that was there.
#[test]
fn a_new_password_takes_the_links_to_other_providers_with_it() {
    let link_row = |n: u128| Link {
        id: LinkId::from_bits(n),
        issuer: "https://provider.example".into(),
        subject: "them".into(),
        account: account().id,
        upstream: "provider".into(),
        label: None,
        created_at: START,
        used_at: START,
        out_at: None,
    };
    let links = [link_row(5), link_row(6)];
    let asked = link(Template::ResetPassword, None);
    let around = Around { links: &links, ..Around::default() };
    let changes = reset(&at(START, account()), &asked, around, "a new hash", &By::SYSTEM, &mut Seeded(2)).changes;
    let gone: Vec<LinkId> = changes
        .steps
        .iter()
        .filter_map(|step| match step {
            Change::RemoveLink { account: of, link } if *of == account().id => Some(*link),
            _ => None,
        })
        .collect();
    assert_eq!(gone, links.map(|link| link.id));
    let told = changes.events.iter().filter(|event| event.kind == EventKind::LinkRemoved).count();
    assert_eq!(told, 2);
    // One that is added beside it raises the account's version, which is expected.
    let version = Expect::AccountVersion { account: account().id, version: account().version };
    assert!(changes.expects.contains(&version));
}
