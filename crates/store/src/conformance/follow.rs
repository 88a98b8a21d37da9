//! Followers of the trail, and webhooks.
use super::audit::{begun, sealing};
use super::{Backend, START, World, conflict, wait};
use crate::CommitError;
use portcullis_domain::Chance;
use portcullis_domain::changes::{Change, Changes, Conflict, Expect};
use portcullis_domain::event::EventKind;
use portcullis_domain::follow::{Follower, FollowerStep, Trail};
use portcullis_domain::outbox::Message;
use portcullis_domain::webhook::{self, Webhook};
use portcullis_wire::{EventId, MessageId, SecretBytes, WebhookId};
use std::collections::BTreeSet;
use std::thread;

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1 << 64;
        self.0
    }
}

fn step(name: &str, from: Option<u64>, to: Option<u64>) -> FollowerStep {
    FollowerStep { name: name.into(), from, to }
}

fn message(w: &World<'_>) -> Message {
    webhook::message(WebhookId::from_bits(7), None, w.now(), &mut Counting(w.bits()))
}

fn followers(w: &World<'_>) -> Vec<(String, u64)> {
    let all = wait(w.store.list_followers()).unwrap();
    all.into_iter().map(|Follower { name, place }| (name, place)).collect()
}

fn told(w: &World<'_>) -> BTreeSet<MessageId> {
    let page = wait(w.store.list_messages(&crate::MessageFilter::default(), None, 10_000)).unwrap();
    page.rows.into_iter().map(|row| row.id).collect()
}

/// It moves from where it was seen, together with what was made of the page, or nothing of both is there.
pub(super) fn a_cursor_moves_with_what_it_passes(backend: &dyn Backend) {
    let w = World::new(backend);
    assert!(followers(&w).is_empty());
    w.ok([Change::StepFollower(FollowerStep::begin("mail".into(), 3))]);
    w.ok([Change::StepFollower(FollowerStep::begin("Zeta".into(), 0))]);
    assert_eq!(followers(&w), [("Zeta".into(), 0), ("mail".into(), 3)]);
    let row = message(&w);
    w.ok([Change::InsertMessage(row.clone()), Change::StepFollower(step("mail", Some(3), Some(8)))]);
    assert_eq!(told(&w), BTreeSet::from([row.id]));
    // Begun twice, moved from elsewhere, or one that there is not: and no message of it either, whichever stands first.
    for wrong in [
        step("mail", None, Some(9)),
        step("mail", None, None),
        step("mail", Some(3), Some(9)),
        step("mail", Some(3), None),
        step("nobody", Some(3), Some(9)),
        step("nobody", Some(3), None),
    ] {
        let other = Change::InsertMessage(message(&w));
        assert_eq!(w.conflict([other.clone(), Change::StepFollower(wrong.clone())]), Conflict::Moved, "{wrong:?}");
        assert_eq!(w.conflict([Change::StepFollower(wrong), other]), Conflict::Moved);
    }
    // And a message that is there already leaves the cursor where it was.
    assert_eq!(
        w.conflict([Change::StepFollower(step("mail", Some(8), Some(9))), Change::InsertMessage(row.clone())]),
        Conflict::Moved
    );
    assert_eq!(told(&w), BTreeSet::from([row.id]));
    // Back again, and to the largest place that there can be.
    w.ok([Change::StepFollower(step("mail", Some(8), Some(0))), Change::StepFollower(step("nobody", None, None))]);
    w.ok([Change::StepFollower(step("mail", Some(0), Some(i64::MAX.unsigned_abs())))]);
    let kept = [("Zeta".into(), 0), ("mail".into(), i64::MAX.unsigned_abs())];
    assert_eq!(followers(&w), kept);
    let Some(w) = w.reopen() else { return };
    assert_eq!(followers(&w), kept);
    w.ok([Change::StepFollower(step("Zeta", Some(0), None))]);
    assert_eq!(followers(&w)[..], kept[1..]);
}

const RECORDS: usize = 120;

fn write(w: &World<'_>) {
    for at in 0..RECORDS {
        let mut event = w.event(EventKind::SessionStarted);
        event.id = EventId::from_bits(at as u128 + 1);
        w.commit(Changes { events: vec![event], ..Changes::default() }).unwrap();
    }
}

fn seal(w: &World<'_>) {
    let mut sealed = 0;
    while sealed < RECORDS {
        let Some(what) = sealing(&*w.store, 7, w.bits()).filter(|what| !what.seals.is_empty()) else { continue };
        let count = what.seals.len();
        if tried(w, vec![Change::Seal(what)]) {
            sealed += count;
        }
    }
}

/// Makes a message of each record, whose id is the record's.
fn follow(w: &World<'_>) {
    loop {
        let one = wait(w.store.list_followers()).unwrap().remove(0);
        if one.place == RECORDS as u64 {
            return;
        }
        let read = wait(w.store.read_chain(None, 0)).unwrap().unwrap();
        let trail = Trail::of(&read.chain);
        let reading = trail.reading(one.place);
        let rows = wait(w.store.read_chain(Some(reading.after), 5)).unwrap().unwrap().rows;
        let last = rows.last().and_then(|row| row.seal).map(|seal| seal.place.n);
        let Some(step) = one.over(reading, last) else { continue };
        let made = rows.iter().map(|row| {
            let id = MessageId::from_bits(row.event.id.bits());
            Change::InsertMessage(Message { id, ..message(w) })
        });
        tried(w, [Change::StepFollower(step)].into_iter().chain(made).collect());
    }
}

/// Whether it was committed; a conflict otherwise.
fn tried(w: &World<'_>, steps: Vec<Change>) -> bool {
    match w.commit(Changes { steps, ..Changes::default() }) {
        Ok(_) => true,
        Err(CommitError::Conflict(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Records are written while one seals and several follow under one name: each record is told of once.
pub(super) fn many_who_follow_tell_once(backend: &dyn Backend) {
    let w = World::new(backend);
    w.ok([begun(), Change::StepFollower(FollowerStep::begin("mail".into(), 0))]);
    let run = |work: fn(&World<'_>)| {
        let w = &w;
        move || {
            let _guard = backend.enter();
            work(w);
        }
    };
    thread::scope(|scope| {
        for work in [write, seal, follow, follow] {
            scope.spawn(run(work));
        }
    });
    assert_eq!(told(&w).len(), RECORDS);
    assert_eq!(followers(&w), [("mail".to_owned(), RECORDS as u64)]);
}

fn hook(w: &World<'_>, url: &str) -> Webhook {
    Webhook {
        id: WebhookId::from_bits(w.bits()),
        url: url.into(),
        description: Some("for \u{1}the\0 desk".into()),
        events: vec!["account.*".into(), "session.started".into()],
        enabled: true,
        disabled_why: None,
        secret: SecretBytes::new([1, 0, 255]),
        old_secret: None,
        created_at: START,
        version: 1,
    }
}

/// What can be compared of one.
fn told_of(row: &Webhook) -> impl PartialEq + std::fmt::Debug + use<> {
    let old = row.old_secret.as_ref().map(|(secret, until)| (secret.expose().to_vec(), *until));
    let plain = (row.id, row.url.clone(), row.description.clone(), row.events.clone(), row.enabled);
    (plain, row.disabled_why.clone(), row.secret.expose().to_vec(), old, row.created_at, row.version)
}

/// A limit that many at once keep.
pub(super) fn webhooks_are_counted_with_the_new_one(backend: &dyn Backend) {
    let w = World::new(backend);
    let add = |w: &World<'_>, below| {
        let changes = Changes {
            expects: vec![Expect::WebhooksBelow(below)],
            steps: vec![Change::InsertWebhook(hook(w, "https://one.example/"))],
            ..Changes::default()
        };
        match w.commit(changes) {
            Ok(_) => true,
            other => conflict(other) != Conflict::Moved,
        }
    };
    assert!(!add(&w, 0) && add(&w, 1) && !add(&w, 1));
    let made: usize = thread::scope(|scope| {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let w = &w;
                scope.spawn(move || {
                    let _guard = backend.enter();
                    (0..4).filter(|_| add(w, 5)).count()
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).sum()
    });
    assert_eq!((made, wait(w.store.list_webhooks()).unwrap().len()), (4, 5));
}

pub(super) fn a_webhook_comes_back_as_it_was(backend: &dyn Backend) {
    let w = World::new(backend);
    let load = |w: &World<'_>, id| wait(w.store.load_webhook(id)).unwrap();
    let list = |w: &World<'_>| -> Vec<_> { wait(w.store.list_webhooks()).unwrap().iter().map(told_of).collect() };
    let (one, two) = (hook(&w, "https://one.example/"), hook(&w, "https://two.example/"));
    assert!(load(&w, one.id).is_none() && list(&w).is_empty());
    w.ok([Change::InsertWebhook(two.clone()), Change::InsertWebhook(one.clone())]);
    assert_eq!(w.conflict([Change::InsertWebhook(one.clone())]), Conflict::Moved);
    assert_eq!(list(&w), [told_of(&one), told_of(&two)]);
    let changed = Webhook {
        url: "http://127.0.0.1/".into(),
        description: None,
        events: vec!["*".into()],
        enabled: false,
        disabled_why: Some("it answered 410".into()),
        secret: SecretBytes::new([2; 60]),
        old_secret: Some((SecretBytes::new([3; 60]), START.plus(5))),
        ..one.clone()
    };
    w.ok([Change::UpdateWebhook(Webhook { created_at: START.plus(9), ..changed.clone() })]);
    let kept = Webhook { version: 2, ..changed.clone() };
    assert_eq!(told_of(&load(&w, one.id).unwrap()), told_of(&kept), "when it was made stays");
    assert_eq!(w.conflict([Change::UpdateWebhook(changed.clone())]), Conflict::Moved);
    let nobody = Webhook { id: WebhookId::from_bits(w.bits()), ..changed };
    assert_eq!(w.conflict([Change::UpdateWebhook(nobody.clone())]), Conflict::Missing);
    assert_eq!(w.conflict([Change::RemoveWebhook(nobody.id)]), Conflict::Missing);
    // With the cursor that it follows by, or nothing of both.
    w.ok([Change::StepFollower(FollowerStep::begin(two.follower(), 4))]);
    let away = |from| Changes {
        steps: vec![Change::RemoveWebhook(two.id), Change::StepFollower(step(&two.follower(), Some(from), None))],
        ..Changes::default()
    };
    assert_eq!(conflict(w.commit(away(3))), Conflict::Moved);
    assert_eq!(list(&w).len(), 2);
    w.commit(away(4)).unwrap();
    assert!(followers(&w).is_empty());
    let Some(w) = w.reopen() else { return };
    assert_eq!(list(&w), [told_of(&kept)]);
}
