//! Notices of what has ended, and messages on their way out.
use super::{Backend, START, World, end, grant, wait};
use crate::{MessageCount, MessageFilter};
use portcullis_domain::Cut;
use portcullis_domain::changes::{Change, Changes, Conflict, Revoke};
use portcullis_domain::kernel::Door;
use portcullis_domain::mass::{Filter, Job, JobStep, Standing};
use portcullis_domain::model::{Account, ClientKind, Grant, Session, SessionKind};
use portcullis_domain::outbox::{
    Allowed, Ending, Message, MessageKind, MessageState, Notice, NoticeStep, Told, Under, UnderGrant, clients_told,
};
use portcullis_domain::receivers::Queue;
use portcullis_wire::{ClientId, GrantId, JobId, MessageId, Rev, SessionId, Target, TokenId, Verb};

fn notices(w: &World<'_>) -> Vec<Notice> {
    wait(w.store.list_notices(100)).unwrap()
}

/// What each notice is about, oldest first; they are gone afterwards.
fn taken(w: &World<'_>) -> Vec<(Ending, Rev, Cut)> {
    let all = notices(w);
    for row in &all {
        assert_eq!(row.at, w.now());
        w.ok([Change::StepNotice(NoticeStep { seq: row.seq, from: row.cursor, to: None })]);
    }
    assert!(all.is_sorted_by_key(|row| row.seq));
    assert!(notices(w).is_empty());
    all.into_iter().map(|row| (row.what, row.rev, row.before)).collect()
}

fn told(w: &World<'_>, what: Ending, cursor: Option<SessionId>, look: u32) -> Told {
    let notice = Notice { seq: 1, what, rev: Rev(1), before: Cut::default(), at: w.now(), cursor };
    wait(w.store.read_told(&notice, look)).unwrap()
}

fn granted(w: &World<'_>, session: &Session, client: ClientId) -> Grant {
    let row = Grant { client, ..grant(GrantId::from_bits(w.bits()), session.id, w.now(), session.born) };
    w.ok([Change::InsertGrant(row.clone())]);
    row
}

/// Each end leaves its notice in the same commit, with its entry and the cut that stood there before.
pub(super) fn an_end_leaves_a_notice(backend: &dyn Backend) {
    let (w, account, session, own) = World::peopled(backend);
    let app = w.new_client(ClientKind::Confidential).id;
    // Under this one no other client has anything.
    w.end(Target::Session(session.id));
    assert_eq!(taken(&w), []);
    let (session, _) = w.new_session(&account);
    let theirs = granted(&w, &session, app);
    let rev = |committed: portcullis_domain::changes::Committed| committed.rev.unwrap();
    let one = rev(w.end(Target::Grant(theirs.id)));
    let two = rev(w.end(Target::Session(session.id)));
    let grant = Ending::Grant { session: session.id, grant: theirs.id };
    assert_eq!(taken(&w), [(grant, one, Cut::default()), (Ending::Session(session.id), two, Cut::default())]);
    // What an entry does not end, and what a client gave up itself, nobody is told.
    w.end(Target::Token(TokenId::from_bits(1)));
    w.ok([super::revoke(Verb::Stale, Target::All, None)]);
    let given_up = Revoke {
        verb: Verb::End,
        target: Target::Grant(own.id),
        except: None,
        spread_ms: None,
        owner: None,
        reason: Door::TokenRevoked.as_str().into(),
    };
    w.ok([Change::Revoke(given_up)]);
    assert_eq!(taken(&w), []);
    // Cuts, each with the one before it.
    let (spared, _) = w.new_session(&account);
    let except = Some(spared.id);
    let first = rev(w.ok([end(Target::Account(account.id), except)]));
    let second = rev(w.end(Target::Account(account.id)));
    let third = rev(w.end(Target::Client(app)));
    let (fourth, fifth) = (rev(w.end(Target::All)), rev(w.end(Target::All)));
    let of_account = |except| Ending::Account { account: account.id, except };
    let all = Ending::All { except: None };
    assert_eq!(
        taken(&w),
        [
            (of_account(except), first, Cut::default()),
            (of_account(None), second, Cut { rev: first, except }),
            (Ending::Client(app), third, Cut::default()),
            (all, fourth, Cut::default()),
            (all, fifth, Cut { rev: fourth, except: None }),
        ]
    );
    // A refused commit leaves none.
    let refused = [end(Target::All, None), Change::UpdateMessage(message(&w, None))];
    assert_eq!(w.conflict(refused), Conflict::Missing);
    assert_eq!(taken(&w), []);
}

/// Sessions that a job marks, with entries and without.
pub(super) fn a_job_leaves_notices(backend: &dyn Backend) {
    let (w, account, _, _) = World::peopled(backend);
    let app = w.new_client(ClientKind::Confidential).id;
    let sessions: Vec<Session> = (0..4).map(|_| w.new_session(&account).0).collect();
    sessions.iter().take(3).for_each(|session| drop(granted(&w, session, app)));
    let id = JobId::from_bits(w.bits());
    let rule = Standing { rev: Rev::ZERO, filter: Filter::default(), except: None };
    let job = Job::new(id, rule, false, "operator".into(), "a test", w.now());
    let entry = super::revoke(Verb::End, Target::Token(TokenId::from_bits(9)), None);
    let begun = w.ok([entry, Change::InsertJob(job)]).rev.unwrap();
    let step = |from: Option<SessionId>, to, sessions: &[&Session], log| {
        let sessions = sessions.iter().map(|session| session.id).collect();
        Change::StepJob(JobStep { job: id, from, to, scanned: 2, sessions, log, silent: !log })
    };
    let [a, b, c, d] = &sessions[..] else { panic!() };
    w.ok([step(None, Some(b.id), &[a, d], true)]);
    let marked = |session: &Session| w.session(session.id).ended.unwrap().rev;
    assert_eq!(taken(&w), [(Ending::Session(a.id), marked(a), Cut::default())]);
    assert!(marked(a) > begun);
    // Without entries the rows carry the newest one of the job; what is ended already leaves nothing.
    w.ok([step(Some(b.id), None, &[a, b, c], false)]);
    let found = taken(&w);
    let mut what: Vec<_> = found.iter().map(|(what, _, _)| *what).collect();
    what.sort_by_key(|what| if let Ending::Session(id) = what { *id } else { panic!() });
    assert_eq!(what, [Ending::Session(b.id), Ending::Session(c.id)]);
}

/// Who may have to be told, page by page.
pub(super) fn who_is_told_is_read_in_pages(backend: &dyn Backend) {
    let (w, account, first, _) = World::peopled(backend);
    let other = w.new_account("bob@example.org");
    let app = w.new_client(ClientKind::Confidential).id;
    let mut own: Vec<Session> = (0..4).map(|_| w.new_session(&account).0).collect();
    let (theirs, _) = w.new_session(&other);
    let grant = granted(&w, &own[1], app);
    let ended = granted(&w, &own[1], app);
    let rev = w.end(Target::Grant(ended.id)).rev;
    own.push(first);
    own.sort_by_key(|session| session.id);
    let ids = |told: &Told| told.found.iter().map(|under| under.session.id).collect::<Vec<_>>();
    let of_account = Ending::Account { account: account.id, except: None };
    let page = told(&w, of_account, None, 3);
    assert_eq!(ids(&page), own.iter().take(3).map(|session| session.id).collect::<Vec<_>>());
    assert_eq!(page.next, Some(own[2].id));
    let rest = told(&w, of_account, page.next, 3);
    assert_eq!((ids(&rest), rest.next), (own.iter().skip(3).map(|session| session.id).collect(), None));
    let exactly = told(&w, of_account, None, 5);
    assert_eq!((exactly.found.len(), exactly.next), (5, None));
    let mut everyone: Vec<SessionId> = own.iter().map(|session| session.id).chain([theirs.id]).collect();
    everyone.sort();
    for what in [Ending::All { except: None }, Ending::Client(app)] {
        assert_eq!(ids(&told(&w, what, None, 100)), everyone);
    }
    let with = |told: &Told| told.found.iter().find(|under| !under.grants.is_empty()).cloned().unwrap();
    let mut grants = vec![
        UnderGrant { id: grant.id, client: app, ended: None },
        UnderGrant { id: ended.id, client: app, ended: rev },
    ];
    grants.sort_by_key(|grant| grant.id);
    let session = with(&told(&w, of_account, None, 100)).session;
    for what in [of_account, Ending::Session(session.id), Ending::Grant { session: session.id, grant: grant.id }] {
        let found = with(&told(&w, what, None, 100));
        assert_eq!((&found.grants, found.account_cut), (&grants, Cut::default()));
        assert_eq!((found.session.clone(), found.refreshed_at.is_some()), (w.session(session.id), true));
    }
    // Cuts as they are now; of an account those that had ended by themselves before are no more.
    let before = own.iter().find(|other| other.id != session.id).unwrap().id;
    w.end(Target::Session(before));
    let cut = w.end(Target::Account(account.id)).rev.unwrap();
    w.end(Target::Session(session.id));
    let all = w.ok([end(Target::All, Some(theirs.id))]).rev.unwrap();
    let at = |rev, cursor, look| {
        let notice = Notice { seq: 1, what: of_account, rev, before: Cut::default(), at: w.now(), cursor };
        wait(w.store.read_told(&notice, look)).unwrap()
    };
    let now = at(cut, None, 100);
    let left: Vec<SessionId> = own.iter().map(|row| row.id).filter(|id| *id != before).collect();
    assert_eq!((ids(&now), now.all), (left.clone(), Cut { rev: all, except: Some(theirs.id) }));
    assert!(now.found.iter().all(|under| under.account_cut == Cut { rev: cut, except: None }));
    // What is ended by itself while the pages are read moves none of them.
    let page = at(cut, None, 2);
    assert_eq!((ids(&page), page.next), (left[..2].to_vec(), Some(left[1])));
    assert_eq!(ids(&at(cut, page.next, 2)), left[2..]);
    assert_eq!(at(w.session(session.id).ended.unwrap().rev, None, 100).found.len(), 3);
    assert_eq!(told(&w, Ending::Session(session.id), None, 1).found.len(), 1);
}

/// A cut tells of what it killed, whatever comes before it is told: a client gives its grant up, a job marks the row when its time is over,
/// and another cut comes.
pub(super) fn a_cut_tells_of_what_it_killed(backend: &dyn Backend) {
    let (w, account, session, _) = World::peopled(backend);
    let app = w.new_client(ClientKind::Confidential).id;
    let theirs = granted(&w, &session, app);
    w.end(Target::Account(account.id));
    w.end(Target::Grant(theirs.id));
    w.set(session.absolute_expires_at.plus(1));
    w.end(Target::Session(session.id));
    w.end(Target::Account(account.id));
    let of_cut = notices(&w).remove(0);
    assert!(matches!(of_cut.what, Ending::Account { .. }));
    let read = wait(w.store.read_told(&of_cut, 10)).unwrap();
    let told = |under: &Under| clients_told(&of_cut, under, read.all, 1_000_000);
    assert_eq!(read.found.iter().flat_map(told).collect::<Vec<_>>(), [(app, session.id)]);
}

/// Applications' own sessions remember the one in which they were allowed: its end leaves a notice, and is read with them.
pub(super) fn who_was_allowed_in_a_session_is_read_with_it(backend: &dyn Backend) {
    let (w, account, browser, _) = World::peopled(backend);
    let (other, app) = (w.new_account("bob@example.org"), w.new_client(ClientKind::Confidential).id);
    let connected = |account: &Account, allowed_in: Option<SessionId>| {
        let born = wait(w.store.stamp()).unwrap().head;
        let row = super::session(SessionId::from_bits(w.bits()), account.id, w.now(), born);
        let row = Session { kind: SessionKind::Connected, client: Some(app), allowed_in, ..row };
        w.ok([Change::InsertSession(row.clone())]);
        assert_eq!(w.session(row.id), row);
        Allowed { session: row.id, client: app, born }
    };
    let here = Some(browser.id);
    let (ended, goes_on) = (connected(&account, here), connected(&account, here));
    // Of others, and of another account, whatever stands there.
    let elsewhere = connected(&account, None);
    connected(&other, here);
    let before = w.end(Target::Session(ended.session)).rev.unwrap();
    w.end(Target::Session(elsewhere.session));
    assert_eq!(taken(&w), []);
    // Nobody else has a grant under it.
    let rev = w.end(Target::Session(browser.id)).rev.unwrap();
    assert_eq!(taken(&w), [(Ending::Session(browser.id), rev, Cut::default())]);
    let read = |what, rev| {
        let notice = Notice { seq: 1, what, rev, before: Cut::default(), at: w.now(), cursor: None };
        wait(w.store.read_told(&notice, 10)).unwrap().found
    };
    let of = |found: Vec<Under>| found.into_iter().flat_map(|under| under.allowed).collect::<Vec<_>>();
    assert_eq!(of(read(Ending::Session(browser.id), rev)), [goes_on]);
    // What has ended since lived then.
    let mut both = [ended, goes_on];
    both.sort_by_key(|app| app.session);
    assert_eq!(of(read(Ending::Session(browser.id), Rev(before.0 - 1))), both);
    assert_eq!(of(read(Ending::Session(browser.id), before)), [goes_on]);
    for what in
        [Ending::Account { account: account.id, except: None }, Ending::All { except: None }, Ending::Client(app)]
    {
        assert_eq!(of(read(what, rev)), [], "{what:?}");
    }
    // Once all of them have ended there is nobody to tell.
    let (browser, _) = w.new_session(&account);
    let last = connected(&account, Some(browser.id));
    w.end(Target::Session(last.session));
    w.end(Target::Session(browser.id));
    assert_eq!(taken(&w), []);
}

fn message(w: &World<'_>, client: Option<ClientId>) -> Message {
    Message {
        id: MessageId::from_bits(w.bits()),
        kind: MessageKind::Logout,
        client,
        body: "{\"ü\":1}".into(),
        created_at: w.now(),
        next_at: w.now(),
        give_up_at: w.now().plus(1000),
        tries: 0,
        state: MessageState::Waiting,
        settled_at: None,
        last_error: None,
        version: 1,
    }
}

/// A message moves only from where it was seen: of two who claim it, one does.
pub(super) fn a_message_is_claimed_once(backend: &dyn Backend) {
    let w = World::new(backend);
    let load = |id| wait(w.store.load_message(id)).unwrap();
    let row = message(&w, Some(ClientId::from_bits(4)));
    assert_eq!(w.conflict([Change::UpdateMessage(row.clone())]), Conflict::Missing);
    w.ok([Change::InsertMessage(row.clone())]);
    assert_eq!(load(row.id), Some(row.clone()));
    assert_eq!(w.conflict([Change::InsertMessage(row.clone())]), Conflict::Moved);
    let claim = Message { next_at: w.now().plus(60), tries: 1, ..row.clone() };
    w.ok([Change::UpdateMessage(claim.clone())]);
    assert_eq!(w.conflict([Change::UpdateMessage(claim.clone())]), Conflict::Moved);
    let claimed = Message { version: 2, ..claim };
    assert_eq!(load(row.id), Some(claimed.clone()));
    // What it is stays; its body may lose what is not needed any more.
    let other = Message {
        client: None,
        body: "{}".into(),
        created_at: START.plus(7),
        state: MessageState::Dead,
        settled_at: Some(START.plus(9)),
        last_error: Some("dïed\0".into()),
        give_up_at: START.plus(8),
        ..claimed.clone()
    };
    w.ok([Change::UpdateMessage(other.clone())]);
    let (client, created_at) = (row.client, row.created_at);
    assert_eq!(load(row.id), Some(Message { client, created_at, version: 3, ..other }));
    // A notice, too, goes on only from where it was seen.
    w.end(Target::All);
    let seq = notices(&w)[0].seq;
    let (a, b) = (SessionId::from_bits(5), SessionId::from_bits(6));
    let step = |from, to| Change::StepNotice(NoticeStep { seq, from, to });
    w.ok([step(None, Some(a))]);
    assert_eq!(notices(&w)[0].cursor, Some(a));
    assert_eq!(w.conflict([step(None, Some(b))]), Conflict::Moved);
    assert_eq!(w.conflict([step(None, None)]), Conflict::Moved);
    w.ok([step(Some(a), Some(b)), Change::InsertMessage(message(&w, None))]);
    w.ok([step(Some(b), None)]);
    assert_eq!(w.conflict([step(Some(b), None)]), Conflict::Moved);
    // A number that was given is never given again.
    w.end(Target::All);
    assert!(notices(&w)[0].seq > seq);
}

/// A notice and a claimed message, after the database was closed and opened again.
pub(super) fn what_is_on_its_way_outlives_a_process(backend: &dyn Backend) {
    let (w, account, _, _) = World::peopled(backend);
    let row = message(&w, None);
    w.ok([end(Target::Account(account.id), None), Change::InsertMessage(row.clone())]);
    w.ok([Change::UpdateMessage(row.claimed(w.now()))]);
    let (left, claimed) = (notices(&w), wait(w.store.load_message(row.id)).unwrap());
    assert!(left.len() == 1 && claimed.as_ref().is_some_and(|row| row.tries == 1));
    let Some(w) = w.reopen() else { return };
    assert_eq!((notices(&w), wait(w.store.load_message(row.id)).unwrap()), (left, claimed));
}

/// Which messages are due, in which order they are listed, how many there are, and which go.
pub(super) fn messages_are_due_listed_counted_and_pruned(backend: &dyn Backend) {
    let w = World::new(backend);
    let clients = [1, 2].map(ClientId::from_bits);
    let mut rows: Vec<Message> = Vec::new();
    for n in 0..6_usize {
        let client = if n == 5 { None } else { Some(clients[n % 2]) };
        rows.push(Message { next_at: START.minus(n as i64), ..message(&w, client) });
        w.ok([Change::InsertMessage(rows[n].clone())]);
    }
    let look = |resting: &[ClientId], after, look| {
        let found = wait(w.store.due_messages(resting, after, look)).unwrap();
        let place = |row: &Message| rows.iter().position(|other| other == row).unwrap();
        (found.messages.iter().map(place).collect::<Vec<_>>(), found.next)
    };
    let due = |resting: &[ClientId], most| {
        let (found, next) = look(resting, None, most);
        assert_eq!(next, None);
        found
    };
    // Of each client the one that waits the longest.
    assert_eq!(due(&[], 100), [5, 4, 3]);
    assert_eq!(due(&[], 2), [5, 4, 3]);
    // Some clients after another, those that rest too; what is for no client comes with the first ones.
    assert_eq!(look(&[], None, 1), (vec![5, 4], Some(clients[0])));
    assert_eq!(look(&[], Some(clients[0]), 1), (vec![3], None));
    assert_eq!(look(&clients[..1], None, 1), (vec![5], Some(clients[0])));
    assert_eq!(look(&[], Some(clients[1]), 1), (vec![], None));
    assert_eq!(look(&[], Some(ClientId::from_bits(0)), 1), (vec![4], Some(clients[0])));
    assert_eq!(due(&clients[..1], 100), [5, 3]);
    assert_eq!(due(&clients[1..], 100), [5, 4]);
    assert_eq!(due(&clients, 100), [5]);
    let queue = |client| wait(w.store.read_queue(client)).unwrap();
    assert_eq!(queue(clients[0]), Queue { waiting: 3, due_since: Some(START.minus(4)) });
    assert_eq!(queue(clients[1]), Queue { waiting: 2, due_since: Some(START.minus(3)) });
    assert_eq!(queue(ClientId::from_bits(3)), Queue::default());
    w.set(START.minus(4));
    assert_eq!(due(&[], 100), [5, 4]);
    assert_eq!(queue(clients[1]), Queue { waiting: 2, due_since: None });
    // Past their time are those that are due, too.
    let expired = || wait(w.store.expired_messages(100)).unwrap();
    w.set(rows[0].give_up_at.minus(1));
    assert_eq!(expired(), []);
    w.set(rows[0].give_up_at);
    assert_eq!((expired().len(), wait(w.store.expired_messages(2)).unwrap().len()), (6, 2));
    let later = message(&w, Some(clients[0]));
    w.ok([Change::InsertMessage(Message { next_at: w.now().plus(1), give_up_at: w.now(), ..later.clone() })]);
    assert_eq!(expired().len(), 6, "it is claimed, or tried again soon");
    w.ok([Change::UpdateMessage(Message { state: MessageState::Done, settled_at: Some(START), ..later })]);
    w.commit(Changes {
        steps: vec![Change::PruneMessages { done: START.plus(1), dead: START, most: 10 }],
        ..Changes::default()
    })
    .unwrap();
    w.set(START);
    let list = |filter: MessageFilter, cursor, limit| wait(w.store.list_messages(&filter, cursor, limit)).unwrap();
    let newest_first: Vec<Message> = rows.iter().rev().cloned().collect();
    let page = list(MessageFilter::default(), None, 4);
    assert_eq!((&page.rows[..], page.more), (&newest_first[..4], true));
    let page = list(MessageFilter::default(), Some(rows[2].id), 4);
    assert_eq!((&page.rows[..], page.more), (&newest_first[4..], false));
    let of_one = list(MessageFilter { state: None, client: Some(clients[0]) }, None, 100);
    assert_eq!(of_one.rows, [rows[4].clone(), rows[2].clone(), rows[0].clone()]);
    let settled = |n: usize, state, at| {
        w.ok([Change::UpdateMessage(Message { state, settled_at: Some(START.plus(at)), ..rows[n].clone() })]);
    };
    settled(0, MessageState::Done, 1);
    settled(1, MessageState::Done, 5);
    settled(2, MessageState::Dead, 1);
    settled(3, MessageState::Dead, 9);
    w.end(Target::All);
    let counted = wait(w.store.count_messages()).unwrap();
    assert_eq!(counted, MessageCount { notices: 1, waiting: 2, dead: 2 });
    let ids = |state| {
        let found = list(MessageFilter { state: Some(state), client: None }, None, 100).rows;
        found.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(MessageState::Dead), [rows[3].id, rows[2].id]);
    assert_eq!(wait(w.store.due_messages(&[], None, 100)).unwrap().messages.len(), 2);
    let prune = |done, dead, most| {
        let what = Change::PruneMessages { done: START.plus(done), dead: START.plus(dead), most };
        w.commit(Changes { steps: vec![what], ..Changes::default() }).unwrap().pruned
    };
    assert_eq!(prune(1, 1, 10), 0);
    assert_eq!(prune(2, 2, 1), 1);
    assert_eq!(prune(2, 2, 10), 1);
    assert_eq!(prune(6, 9, 10), 1);
    assert_eq!((ids(MessageState::Done), ids(MessageState::Dead)), (vec![], vec![rows[3].id]));
    assert_eq!(prune(10_000, 10_000, 10), 1);
    assert_eq!(list(MessageFilter::default(), None, 100).rows.len(), 2, "what waits stays");
}
