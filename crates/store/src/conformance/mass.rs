//! Revocations by filter: a rule kills from its commit on, a job marks, and nothing in flight slips through.
use super::{Backend, World, conflict, session, wait};
use portcullis_domain::Expect;
use portcullis_domain::changes::{Change, Changes, Conflict, Revoke};
use portcullis_domain::mass::{Filter, Job, JobStep, Standing};
use portcullis_domain::model::{ClientKind, Session};
use portcullis_domain::view::Dead;
use portcullis_wire::{ClientId, JobId, Rev, SessionId, Target, Time, TokenId, Verb};
use std::net::IpAddr;

fn job(id: u128, filter: Filter, except: Option<SessionId>) -> Job {
    let rule = Standing { rev: Rev::ZERO, filter, except };
    Job::new(JobId::from_bits(id), rule, false, "operator".into(), "a leak", Time(7))
}

fn asked(job: &Job) -> Changes {
    let target = Target::Token(TokenId::from_bits(99));
    let entry = Revoke { verb: Verb::End, target, except: None, spread_ms: None, owner: None, reason: "filter".into() };
    let steps = vec![Change::Revoke(entry), Change::InsertJob(job.clone())];
    Changes { expects: vec![Expect::StandingBelow(2)], steps, ..Changes::default() }
}

fn stepped(step: JobStep) -> Changes {
    Changes { steps: vec![Change::StepJob(step)], ..Changes::default() }
}

fn from(network: &str) -> Filter {
    Filter { network: Some(network.parse().unwrap()), ..Filter::default() }
}

/// Sessions of one account from these addresses, and one from nowhere.
fn sessions(w: &World<'_>, addresses: &[&str]) -> Vec<Session> {
    let ada = w.new_account("mass@example.org");
    let make = |ip: Option<IpAddr>| {
        let born = wait(w.store.stamp()).unwrap().head;
        let row = Session { ip, ..session(SessionId::from_bits(w.bits()), ada.id, w.now(), born) };
        w.ok([Change::InsertSession(row.clone())]);
        row
    };
    addresses.iter().map(|ip| make(Some(ip.parse().unwrap()))).chain([make(None)]).collect()
}

pub(super) fn a_rule_kills_from_its_commit_on_and_a_job_marks(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    let all = sessions(&w, &["10.1.2.3", "10.9.9.9", "192.0.2.1", "::ffff:10.5.5.5", "10.0.0.1"]);
    let spared = all[4].id;
    let before = wait(w.store.count_live()).unwrap();
    let filter = from("10.0.0.0/8");
    let told = wait(w.store.count_matching(&filter, Some(spared))).unwrap();
    assert_eq!((told.sessions, told.accounts), (3, 1));
    let made = w.commit(asked(&job(1, filter.clone(), Some(spared)))).unwrap();
    let rule = made.rev.unwrap();
    // The rows are as they were, and three of them are dead: to every view, to who acts, to counts.
    let dead = |at: usize| wait(w.store.load_session(all[at].id)).unwrap().unwrap().dead(i64::MAX);
    for (at, killed) in [true, true, false, true, false, false].into_iter().enumerate() {
        assert_eq!(dead(at), killed.then_some(Dead::Standing { rev: rule }), "{at}");
        assert!(w.session(all[at].id).ended.is_none());
        let acts = Changes { expects: vec![Expect::Alive { session: all[at].id, role: None }], ..Changes::default() };
        assert_eq!(w.commit(acts).is_err(), killed, "{at}");
    }
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, before.sessions - 3);
    assert_eq!(wait(w.store.count_matching(&filter, Some(spared))).unwrap().sessions, 0, "they are dead already");
    let listed = wait(w.store.list_sessions(all[0].account, 100)).unwrap();
    assert_eq!(listed.iter().filter(|view| view.dead(i64::MAX).is_none()).count(), 3);

    // In two steps by a job that is found again; only the first claims the first rows.
    let running = wait(w.store.list_running_jobs()).unwrap();
    assert_eq!(running.len(), 1);
    let first = wait(w.store.read_job_batch(&running[0], 1000, 2)).unwrap();
    assert_eq!((first.sessions.len(), first.next.is_some()), (2, true));
    let step = JobStep {
        job: running[0].id,
        from: None,
        to: first.next,
        scanned: first.scanned,
        sessions: first.sessions.clone(),
        log: true,
        silent: false,
    };
    let done = w.commit(stepped(step.clone())).unwrap();
    assert_eq!(done.rev, Some(Rev(rule.0 + 2)), "an entry each");
    assert_eq!(conflict(w.commit(stepped(step.clone()))), Conflict::Moved);
    for id in &first.sessions {
        let ended = w.session(*id).ended.unwrap();
        assert!(ended.rev > rule && ended.reason == "revoked_by_filter");
    }
    let half = wait(w.store.load_job(running[0].id)).unwrap().unwrap();
    assert_eq!((half.ended, half.entries, half.cursor), (2, 2, first.next));
    let rest = wait(w.store.read_job_batch(&half, 1000, 100)).unwrap();
    assert_eq!((rest.sessions.len(), rest.next), (1, None));
    let last = JobStep {
        from: half.cursor,
        to: None,
        scanned: rest.scanned,
        sessions: rest.sessions,
        log: false,
        silent: true,
        ..step
    };
    assert_eq!(w.commit(stepped(last)).unwrap().rev, None);
    let done = wait(w.store.load_job(running[0].id)).unwrap().unwrap();
    assert_eq!((done.ended, done.entries, done.finished_at.is_some(), done.silent), (3, 2, true, true));
    assert!(wait(w.store.list_running_jobs()).unwrap().is_empty());
    assert_eq!(wait(w.store.count_live()).unwrap().sessions, before.sessions - 3);
    for (at, killed) in [true, true, false, true, false, false].into_iter().enumerate() {
        assert_eq!(matches!(dead(at), Some(Dead::Ended { .. })), killed, "{at}");
    }
}

pub(super) fn nothing_in_flight_slips_past_a_rule(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    let all = sessions(&w, &["10.1.2.3"]);
    let in_flight = |id: u128, ip: &str, born: Rev| {
        let row = Session { id: SessionId::from_bits(id), ip: Some(ip.parse().unwrap()), born, ..all[0].clone() };
        w.commit(Changes { steps: vec![Change::InsertSession(row)], ..Changes::default() })
    };
    let seen = wait(w.store.stamp()).unwrap().head;
    let rule = w.commit(asked(&job(1, from("10.0.0.0/8"), None))).unwrap().rev.unwrap();
    assert_eq!(conflict(in_flight(900, "10.7.7.7", seen)), Conflict::BornDead);
    assert!(in_flight(901, "192.0.2.7", seen).is_ok(), "another network");
    assert!(in_flight(902, "10.7.7.7", rule).is_ok(), "decided after the rule");
    // The job did not see what is still in flight when it is done: that must be decided anew.
    let step = |to, from| JobStep {
        job: JobId::from_bits(1),
        from,
        to,
        scanned: 9,
        sessions: vec![],
        log: true,
        silent: false,
    };
    w.commit(stepped(step(None, None))).unwrap();
    assert_eq!(conflict(in_flight(903, "10.7.7.7", seen)), Conflict::Moved);
    // And every view says so, for what was born before and cannot be decided anew.
    assert_eq!(wait(w.store.stamp()).unwrap().worked_off, rule);
    assert_eq!(wait(w.store.load_session(all[0].id)).unwrap().unwrap().stamp.worked_off, rule);
    assert!(in_flight(904, "10.7.7.7", rule).is_ok());
    // Forgotten is what was done, and only that.
    w.commit(asked(&job(2, from("10.0.0.0/8"), None))).unwrap();
    w.ok([Change::ForgetJobs(w.now().plus(1))]);
    let there = [1, 2].map(|id| wait(w.store.load_job(JobId::from_bits(id))).unwrap().is_some());
    assert_eq!(there, [false, true]);
    assert_eq!(conflict(in_flight(905, "192.0.2.7", seen)), Conflict::Moved, "what was worked off stays so");
    let step = |to, from| JobStep { job: JobId::from_bits(2), ..step(to, from) };
    w.commit(stepped(step(None, None))).unwrap();
    // What is done is not gone on with.
    assert_eq!(conflict(w.commit(stepped(step(None, None)))), Conflict::Moved);
}

pub(super) fn rules_are_bounded(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    for id in 1..=2 {
        w.commit(asked(&job(id, from("10.0.0.0/8"), None))).unwrap();
    }
    assert_eq!(conflict(w.commit(asked(&job(3, from("10.0.0.0/8"), None)))), Conflict::TooMany);
    assert_eq!(wait(w.store.list_running_jobs()).unwrap().len(), 2);
    let unwritten = Changes { steps: vec![Change::InsertJob(job(4, from("::/0"), None))], ..Changes::default() };
    assert_eq!(conflict(w.commit(unwritten)), Conflict::Missing, "a rule has an entry");
    // They come back as they were.
    let filter = Filter {
        accounts: vec![w.new_account("other@example.org").id],
        clients: vec![ClientId::FIRST_PARTY],
        created_before: Some(Time(-5)),
        network: Some("2001:db8::/32".parse().unwrap()),
    };
    let end = JobStep {
        job: JobId::from_bits(1),
        from: None,
        to: None,
        scanned: 0,
        sessions: vec![SessionId::from_bits(12345)],
        log: true,
        silent: false,
    };
    w.commit(stepped(end)).unwrap();
    let wanted = job(5, filter, Some(SessionId::from_bits(8)));
    let rev = w.commit(asked(&wanted)).unwrap().rev.unwrap();
    let kept = wait(w.store.load_job(wanted.id)).unwrap().unwrap();
    assert_eq!(kept, Job { rule: Standing { rev, ..wanted.rule.clone() }, last: rev, ..wanted });
}

pub(super) fn a_session_is_its_own_clients(backend: &dyn Backend) {
    let (w, ..) = World::peopled(backend);
    let (ours, app, other) = (ClientId::FIRST_PARTY, w.new_client(ClientKind::Public).id, ClientId::from_bits(9));
    let ada = w.new_account("apps@example.org");
    let with = |client, born| Session { client, ..session(SessionId::from_bits(w.bits()), ada.id, w.now(), born) };
    let rows = [None, Some(app), Some(other)].map(|client| with(client, Rev::ZERO));
    w.ok(rows.clone().map(Change::InsertSession));
    let of = |clients: &[ClientId]| Filter { accounts: vec![ada.id], clients: clients.to_vec(), ..Filter::default() };
    let count = |clients: &[ClientId]| wait(w.store.count_matching(&of(clients), None)).unwrap().sessions;
    assert_eq!((count(&[]), count(&[ours]), count(&[app]), count(&[ours, app])), (3, 1, 1, 2));
    assert_eq!(count(&[ClientId::from_bits(8)]), 0);
    let rule = job(1, of(&[app]), None);
    w.commit(asked(&rule)).unwrap();
    assert_eq!(rows.each_ref().map(|row| w.alive(row.id)), [true, false, true]);
    assert_eq!((count(&[]), wait(w.store.load_job(rule.id)).unwrap().unwrap().rule.filter), (2, of(&[app])));
    let insert = |client| {
        w.commit(Changes { steps: vec![Change::InsertSession(with(client, Rev::ZERO))], ..Changes::default() })
    };
    assert_eq!(conflict(insert(Some(app))), Conflict::BornDead);
    assert!(insert(None).is_ok() && insert(Some(other)).is_ok());
    let running = wait(w.store.list_running_jobs()).unwrap();
    assert_eq!(wait(w.store.read_job_batch(&running[0], 1000, 9)).unwrap().sessions, [rows[1].id]);
    w.commit(asked(&job(2, of(&[ours]), None))).unwrap();
    assert_eq!(rows.map(|row| w.alive(row.id)), [false, false, true]);
}
