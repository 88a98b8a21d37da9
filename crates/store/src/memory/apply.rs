//! What each expectation and each change means.
use super::prune::{self, OfEvents};
use super::{Memory, apps, attempts, audit, follow, outbox, upstream};
use crate::{CommitError, EventRow, Remembered, StoreError};
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes, Committed, Conflict, Expect, Revoke};
use portcullis_domain::model::{Account, Ended, Grant, OldCookie, Status, UNPROVEN};
use portcullis_domain::proof::Proof;
use portcullis_domain::ticket::Used;
use portcullis_domain::{kernel, mass};
use portcullis_wire::{AccountId, ClientId, Entry, Epoch, GrantId, Millis, Rev, Target, Time, Verb};

/// What the changes have come to so far.
struct Progress {
    now: Time,
    idle_ttl: Option<Millis>,
    rev: Option<Rev>,
    ended: Option<u64>,
    /// With the end of the grace period, when there is one.
    deleted: Vec<(AccountId, Option<Time>)>,
    of_events: Vec<OfEvents>,
    /// Accounts that became tombstones.
    erased: Vec<AccountId>,
    pruned: u64,
    attempt: Option<portcullis_domain::throttle::Verdict>,
}

pub(super) fn commit(db: &mut Memory, changes: Changes, now: Time) -> Result<Committed, CommitError> {
    for expect in &changes.expects {
        check(db, expect, changes.idle_ttl, now).map_err(CommitError::Conflict)?;
    }
    let mut so_far = Progress {
        now,
        idle_ttl: changes.idle_ttl,
        rev: None,
        ended: None,
        deleted: Vec::new(),
        of_events: Vec::new(),
        erased: Vec::new(),
        pruned: 0,
        attempt: None,
    };
    for step in changes.steps {
        apply(db, step, &mut so_far)?;
    }
    if let Some(rev) = so_far.rev {
        for (id, grace) in &so_far.deleted {
            let mut account = account(db, *id)?;
            account.status = match grace {
                Some(until) => Status::Deleting { at: now, until: *until, rev },
                None => Status::Deleted { at: now, rev },
            };
            db.accounts.put(*id, account);
        }
    }
    let Progress { rev, ended, attempt, mut pruned, of_events, erased, .. } = so_far;
    if let Some(key) = changes.idempotency {
        let at = (key.actor, key.key);
        if db.remembered.has(&at) {
            return Err(CommitError::Conflict(Conflict::Repeated));
        }
        db.remembered.put(at, Remembered { request: key.request, rev, ended, made: key.made, at: now });
    }
    if let Some(event) = changes.events.iter().find(|event| db.event_at.contains_key(&event.id)) {
        return Err(CommitError::Failed(StoreError::new(format!("the event {} exists", event.id))));
    }
    for id in erased {
        prune::leave_erasure(db, id);
    }
    for event in changes.events {
        db.event_at.insert(event.id, db.events.len());
        db.events.push(EventRow { event, at: now, rev, ended, seal: None });
    }
    for what in of_events {
        pruned += prune::events(db, what);
    }
    Ok(Committed { rev, ended, attempt, pruned, at: now })
}

pub(super) fn holds(held: bool, otherwise: Conflict) -> Result<(), Conflict> {
    if held { Ok(()) } else { Err(otherwise) }
}

fn check(db: &Memory, expect: &Expect, idle_ttl: Option<Millis>, now: Time) -> Result<(), Conflict> {
    match expect {
        Expect::Alive { session, role } => {
            let alive = db.sessions.get(session).is_some_and(|row| {
                let account = db.accounts.get(&row.account);
                let has_role = role.is_none_or(|role| account.is_some_and(|account| account.has_role(role)));
                has_role && db.alive(row, idle_ttl, now)
            });
            holds(alive, Conflict::NotAlive(*session))
        }
        Expect::Unborn { account, client, born, under } => {
            let account = db.accounts.get(account).filter(|account| account.usable_at(now));
            let client = db.clients.get(client).filter(|client| !client.disabled);
            let may_be = account.zip(client).is_some_and(|(account, client)| {
                let kills = |cut: &Cut| under.map_or(cut.kills_unborn(*born), |session| cut.kills(*born, session));
                ![account.cut, db.meta.all, client.cut].iter().any(kills)
            });
            holds(may_be, Conflict::BornDead)
        }
        Expect::Unended { account, born } => {
            let view = db.load_account(*account, now).filter(|view| view.account.usable_at(now));
            let held = view.is_some_and(|view| *born >= view.all_ended && !db.meta.all.kills_unborn(*born));
            holds(held, Conflict::BornDead)
        }
        Expect::WebhooksBelow(limit) => holds(db.webhooks.len() < *limit as usize, Conflict::Moved),
        Expect::AccountVersion { account, version } => {
            let row = db.accounts.get(account).ok_or(Conflict::Missing)?;
            holds(row.version == *version, Conflict::Moved)
        }
        Expect::PasswordVersion { account, version } => {
            let row = db.accounts.get(account).ok_or(Conflict::Missing)?;
            holds(row.password_version == *version, Conflict::Moved)
        }
        Expect::Family { grant, counter, predecessor } => {
            let row = db.grants.get(grant).ok_or(Conflict::Missing)?;
            holds((row.family.counter, row.family.predecessor) == (*counter, *predecessor), Conflict::Moved)
        }
        Expect::Handouts { grant, handouts } => {
            let row = db.grants.get(grant).ok_or(Conflict::Missing)?;
            holds(row.family.handouts == *handouts, Conflict::Moved)
        }
        Expect::SessionNotEnded(session) => {
            let row = db.sessions.get(session).ok_or(Conflict::Missing)?;
            holds(row.ended.is_none(), Conflict::Moved)
        }
        Expect::GrantNotEnded(grant) => {
            let row = db.grants.get(grant).ok_or(Conflict::Missing)?;
            holds(row.ended.is_none(), Conflict::Moved)
        }
        Expect::LiveSessions { account, counted, besides, at_most } => {
            let counted = db.sessions_of(*account).filter(|row| counted.counts(row.kind));
            let alive = counted.filter(|row| db.alive(row, idle_ttl, now));
            let others = alive.filter(|row| !besides.contains(&row.id)).count() as u64;
            holds(others <= *at_most, Conflict::Moved)
        }
        Expect::EmailFree(email) => holds(!db.emails.has(email), Conflict::EmailTaken),
        Expect::StandingBelow(limit) => holds(db.list_running_jobs().len() < *limit as usize, Conflict::TooMany),
        Expect::NoAccounts => holds(db.accounts.len() == 0, Conflict::Moved),
        Expect::ClientVersion { client, version } => {
            let row = db.clients.get(client).ok_or(Conflict::Missing)?;
            holds(row.version == *version, Conflict::Moved)
        }
        Expect::Consent { account, client, generation } => {
            holds(db.generation(*account, *client) == *generation, Conflict::Moved)
        }
        Expect::NoOtherGrants { account, client, besides } => {
            let mut others = db.list_grants(*account, Some(*client), u32::MAX, now).into_iter();
            holds(others.all(|view| besides.contains(&view.grant.id)), Conflict::Moved)
        }
    }
}

fn account(db: &Memory, id: AccountId) -> Result<Account, CommitError> {
    db.accounts.get(&id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))
}

fn grant(db: &Memory, id: GrantId) -> Result<Grant, CommitError> {
    db.grants.get(&id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))
}

pub(super) fn require(held: bool, otherwise: Conflict) -> Result<(), CommitError> {
    holds(held, otherwise).map_err(CommitError::Conflict)
}

fn apply(db: &mut Memory, step: Change, so_far: &mut Progress) -> Result<(), CommitError> {
    match step {
        Change::InsertAccount(row) => insert_account(db, row)?,
        Change::SetStatus { account: id, status } => set_status(db, id, status, so_far)?,
        Change::SetProfile { account: id, name, roles } => {
            let row = account(db, id)?;
            db.accounts.put(id, Account { name, roles, version: row.version + 1, ..row });
        }
        Change::SetUnused { account: id, unused } => {
            require(db.accounts.has(&id), Conflict::Missing)?;
            if unused { db.unused.put(id, ()) } else { db.unused.remove(&id) }
        }
        Change::SetPassword { account: id, hash, rehash } => {
            let row = account(db, id)?;
            let password_version = row.password_version + u32::from(!rehash);
            let (password_hash, version) = (Some(hash), row.version + 1);
            db.accounts.put(id, Account { password_hash, password_version, version, ..row });
        }
        Change::SetEmail { account: id, email, verified_at } => {
            let row = account(db, id)?;
            let owner = email.as_ref().and_then(|email| db.emails.get(email));
            require(owner.is_none_or(|owner| *owner == id), Conflict::EmailTaken)?;
            if let Some(before) = &row.email {
                db.emails.remove(before);
            }
            if let Some(email) = &email {
                db.emails.put(email.clone(), id);
            }
            let version = row.version + 1;
            db.accounts.put(id, Account { email, email_verified_at: verified_at, version, ..row });
        }
        Change::InsertSession(row) => {
            require(!db.sessions.has(&row.id), Conflict::Moved)?;
            require(db.accounts.has(&row.account), Conflict::Missing)?;
            require(mass::killed_by(&db.standing(), &row).is_none(), Conflict::BornDead)?;
            require(row.born >= db.meta.worked_off, Conflict::Moved)?;
            db.sessions_of.put((row.account, row.id), ());
            db.unused.remove(&row.account);
            db.sessions.put(row.id, row);
        }
        Change::RenameSession { session, device_name } => {
            let row = db.sessions.get(&session).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            db.sessions.put(session, portcullis_domain::model::Session { device_name, ..row });
        }
        Change::InsertGrant(row) => {
            require(!db.grants.has(&row.id), Conflict::Moved)?;
            require(db.sessions.has(&row.session) && db.clients.has(&row.client), Conflict::Missing)?;
            db.grants_of.put((row.session, row.id), ());
            db.grants.put(row.id, row);
        }
        Change::SetFamily { grant: id, counter, predecessor, family } => {
            let row = grant(db, id)?;
            require((row.family.counter, row.family.predecessor) == (counter, predecessor), Conflict::Moved)?;
            db.grants.put(id, Grant { family, ..row });
        }
        Change::HandOut { grant: id, counter, at } => {
            let mut row = grant(db, id)?;
            require(row.family.counter == counter, Conflict::Moved)?;
            row.family.handed_at = row.family.handed_at.max(at);
            row.family.handouts += 1;
            db.grants.put(id, row);
        }
        Change::Revoke(what) => revoke(db, what, so_far)?,
        Change::Seen(sessions) => {
            for (id, at) in sessions {
                if let Some(mut row) = db.sessions.get(&id).cloned() {
                    row.last_seen_at = row.last_seen_at.max(at);
                    db.sessions.put(id, row);
                }
            }
        }
        Change::RaiseHorizon(to) => db.meta.horizon = db.meta.horizon.max(to),
        Change::RaiseFloor(to) => raise_floor(db, to),
        Change::TakeAttempt(attempt) => so_far.attempt = Some(attempts::take(db, &attempt, so_far.now)),
        Change::GiveBack { attempt, verdict } => attempts::give_back(db, &attempt, verdict, so_far.now),
        Change::KnowNetwork { account, network } => attempts::know(db, account, network, so_far.now),
        Change::PruneAttempts { keep, most } => attempts::prune(db, keep, most, so_far.now),
        Change::Refound { epoch, base } => refound(db, epoch, base, so_far.now)?,
        Change::InsertJob(job) => db.insert_job(job, so_far.rev)?,
        Change::StepJob(step) => db.step_job(step, &mut so_far.rev, so_far.idle_ttl, so_far.now)?,
        Change::PruneSessions { sessions, keep } => so_far.pruned += prune::sessions(db, &sessions, &keep, so_far.now),
        Change::ForgetSessionAddresses { sessions, keep } => {
            so_far.pruned += prune::session_addresses(db, &sessions, &keep, so_far.now);
        }
        Change::BeginChain(chain) => audit::begin(db, chain)?,
        Change::Seal(what) => so_far.of_events.push(audit::seal(db, what)?),
        Change::BeginAnew(what) => audit::begin_anew(db, what)?,
        Change::Attest { key, attested } => audit::attest(db, &key, attested)?,
        Change::PruneChain(what) => so_far.of_events.push(audit::prune(db, &what)?),
        Change::SetChainKey { before, sealed } => audit::set_key(db, &before, sealed)?,
        Change::ForgetEventAddresses { before, most } => {
            so_far.of_events.push(OfEvents::ForgetAddresses { before, most });
        }
        Change::EraseRecords { most } => so_far.of_events.push(OfEvents::Erase { most }),
        Change::PutConsent(row) => apps::put_consent(db, row)?,
        Change::WithdrawConsent { account, client, generation } => {
            apps::withdraw_consent(db, account, client, generation, so_far.now)?;
        }
        Change::SetAuthTime { session, at, amr } => {
            let mut row = db.sessions.get(&session).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            row.auth_time = at;
            row.amr = amr;
            db.sessions.put(session, row);
        }
        Change::Unprove { session, grant: of } => {
            let mut row = db.sessions.get(&session).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            (row.auth_time, row.amr) = (UNPROVEN, Amr::unknown());
            row.old_cookie = row.old_cookie.map(|old| OldCookie { proof: Proof::unknown(), ..old });
            db.sessions.put(session, row);
            if let Some(id) = of {
                let row = grant(db, id)?;
                db.grants.put(id, Grant { proof: Some(Proof::unknown()), ..row });
            }
        }
        Change::InsertTicket(row) => {
            require(!db.tickets.has(&row.id.0), Conflict::Used)?;
            db.tickets.put(row.id.0, row);
        }
        Change::UpdateTicket(row) => apps::update_ticket(db, row)?,
        Change::UseTicket { ticket, at, grant } => apps::use_ticket(db, ticket, Used { at, grant })?,
        Change::InsertMessage(row) => outbox::insert_message(db, row)?,
        Change::UpdateMessage(row) => outbox::update_message(db, row)?,
        Change::StepNotice(step) => outbox::step_notice(db, step)?,
        Change::PruneMessages { done, dead, most } => so_far.pruned += outbox::prune_messages(db, done, dead, most),
        Change::InsertLink(row) => upstream::insert_link(db, row)?,
        Change::UseLink { link, begun, at } => upstream::use_link(db, link, begun, at)?,
        Change::SignOutLink { issuer, subject, at } => upstream::sign_out_link(db, &issuer, &subject, at),
        Change::RemoveLink { account, link } => upstream::remove_link(db, account, link)?,
        Change::InsertOrigin(row) => upstream::insert_origin(db, row)?,
        Change::StepFollower(step) => follow::step(db, step)?,
        Change::InsertWebhook(row) => follow::insert_webhook(db, row)?,
        Change::UpdateWebhook(row) => follow::update_webhook(db, row)?,
        Change::RemoveWebhook(id) => follow::remove_webhook(db, id)?,
        Change::SetCookie { session, before, cookie, old } => {
            let mut row = db.sessions.get(&session).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            require(row.cookie == Some(before), Conflict::Moved)?;
            (row.cookie, row.old_cookie) = (Some(cookie), old);
            db.sessions.put(session, row);
        }
        Change::PutMemory { account: id, version, memory } => {
            let row = account(db, id)?;
            require(!matches!(row.status, Status::Deleted { .. }), Conflict::Missing)?;
            require(db.memories.get(&id).map_or(0, |(_, version)| *version) == version, Conflict::Moved)?;
            db.memories.put(id, (memory, version + 1));
        }
        Change::SetNetwork { grant: id, network } => {
            let row = grant(db, id)?;
            db.grants.put(id, Grant { network: Some(network), ..row });
        }
        Change::Draw { bucket, budget } => attempts::draw(db, bucket, budget, so_far.now)?,
        Change::CrowdOutTickets { session, kind, open, used } => {
            so_far.pruned += apps::crowd_out_tickets(db, session, kind, open, used);
        }
        Change::PruneClients { clients, unused } => so_far.pruned += prune::clients(db, &clients, unused, so_far.now),
        Change::PruneGrants { most } => so_far.pruned += prune::grants(db, most, so_far.now),
        Change::PruneTickets { before, most } => so_far.pruned += apps::prune_tickets(db, before, most),
        other => apply_rare(db, other)?,
    }
    Ok(())
}

/// Clients, instances, keys, settings.
fn apply_rare(db: &mut Memory, step: Change) -> Result<(), CommitError> {
    match step {
        Change::InsertClient(row) => {
            require(!db.clients.has(&row.id), Conflict::Moved)?;
            db.clients.put(row.id, row);
        }
        Change::SetClientDisabled { client, disabled } => {
            let mut row = db.clients.get(&client).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            row.disabled = disabled;
            db.clients.put(client, row);
        }
        Change::UpdateClient(row) => apps::update_client(db, row)?,
        Change::InsertInstance(row) => {
            require(!db.instances.has(&row.id), Conflict::Moved)?;
            db.instances.put(row.id, row);
        }
        Change::UpdateInstance(row) => {
            let mut kept = db.instances.get(&row.id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            (kept.name, kept.policy, kept.bound_ms) = (row.name, row.policy, row.bound_ms);
            db.instances.put(kept.id, kept);
        }
        Change::RemoveInstances(ids) => ids.iter().for_each(|id| db.instances.remove(id)),
        Change::InsertKey(row) => {
            require(!db.keys.has(&row.id), Conflict::Moved)?;
            db.keys.put(row.id, row);
        }
        Change::SetKeyTimes { key, active_from, retired_at } => {
            let mut row = db.keys.get(&key).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            (row.active_from, row.retired_at) = (active_from, retired_at);
            db.keys.put(key, row);
        }
        Change::SetKeySealed { key, before, sealed } => {
            let mut row = db.keys.get(&key).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            require(row.sealed.expose() == before.expose(), Conflict::Moved)?;
            row.sealed = sealed;
            db.keys.put(key, row);
        }
        Change::SetBound(row) => db.meta.bound = Some(row),
        Change::SetRun(run) => db.meta.run = Some(run),
        Change::ForgetJobs(before) => db.forget_jobs(before),
        Change::ForgetIdempotency(before) => {
            let old = db.remembered.rows().filter(|(_, r)| r.at < before).map(|(key, _)| key.clone());
            old.collect::<Vec<_>>().iter().for_each(|key| db.remembered.remove(key));
        }
        other => return Err(CommitError::Failed(StoreError::new(format!("a change nobody applies: {other:?}")))),
    }
    Ok(())
}

fn insert_account(db: &mut Memory, row: Account) -> Result<(), CommitError> {
    require(!db.accounts.has(&row.id), Conflict::Moved)?;
    if let Some(email) = &row.email {
        require(!db.emails.has(email), Conflict::EmailTaken)?;
        db.emails.put(email.clone(), row.id);
    }
    db.accounts.put(row.id, row);
    Ok(())
}

fn set_status(db: &mut Memory, id: AccountId, status: Status, so_far: &mut Progress) -> Result<(), CommitError> {
    let mut row = account(db, id)?;
    row.version += 1;
    if let Status::Deleting { until, .. } = &status {
        so_far.deleted.push((id, Some(*until)));
    }
    if matches!(status, Status::Deleted { .. }) {
        if let Some(email) = row.email.take() {
            db.emails.remove(&email);
        }
        (row.name, row.password_hash, row.email_verified_at) = (None, None, None);
        row.roles.clear();
        so_far.deleted.push((id, None));
        so_far.erased.push(id);
        prune::addresses_of(db, id);
        apps::forget_account(db, id);
        db.memories.remove(&id);
        upstream::forget_account(db, id);
    }
    row.status = status;
    db.accounts.put(id, row);
    Ok(())
}

/// Deletes entries whose `until` lies before the floor: a prefix, since `until` never falls along the log.
fn raise_floor(db: &mut Memory, to: Time) {
    db.meta.floor = db.meta.floor.max(to);
    let below = |(_, entry): &(&Rev, &Entry)| entry.until < db.meta.floor;
    let gone: Vec<Rev> = db.log.rows().take_while(below).map(|(rev, _)| *rev).collect();
    for rev in gone {
        db.log.remove(&rev);
        db.owners.remove(&rev);
        db.meta.forgotten = rev;
    }
}

/// Appends one entry and writes its rev where it belongs.
fn revoke(db: &mut Memory, what: Revoke, so_far: &mut Progress) -> Result<(), CommitError> {
    let rev = db.next_rev()?;
    db.leave_notice(&what, rev, so_far.now);
    let Revoke { mut verb, mut target, except, spread_ms, owner, reason } = what;
    let before = so_far.ended;
    so_far.ended = match (&verb, &target) {
        (Verb::End, Target::Session(id)) => {
            let mut row = db.sessions.get(id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            require(row.ended.is_none(), Conflict::Moved)?;
            let alive = db.alive(&row, so_far.idle_ttl, so_far.now);
            row.ended = Some(Ended { rev, reason, at: so_far.now });
            let (id, owner) = (*id, row.account);
            db.sessions.put(id, row);
            (verb, target) = kernel::entry_for_session(id, owner, db.unforgotten_ends(owner));
            Some(u64::from(alive))
        }
        (Verb::End, Target::Grant(id)) => {
            let row = grant(db, *id)?;
            db.grants.put(*id, Grant { ended: Some(rev), ..row });
            Some(0)
        }
        (Verb::End, Target::Account(id)) => {
            let row = account(db, *id)?;
            let dies = db.sessions_of(*id).filter(|s| Some(s.id) != except && db.alive(s, so_far.idle_ttl, so_far.now));
            let ended = dies.count() as u64;
            if except.is_some() {
                let whole = row.cut.whole(db.whole_cuts.get(id).copied());
                db.whole_cuts.put(*id, whole);
            }
            db.accounts.put(*id, Account { cut: Cut { rev, except }, ..row });
            Some(ended)
        }
        (Verb::End, Target::Client(id)) => {
            cut_client(db, *id, Cut { rev, except })?;
            None
        }
        (Verb::End, Target::All) => {
            db.meta.all = Cut { rev, except };
            None
        }
        (Verb::Key, Target::Key(id)) => {
            let mut row = db.keys.get(id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
            require(row.dead.is_none(), Conflict::Moved)?;
            row.dead = Some(rev);
            db.keys.put(*id, row);
            Some(0)
        }
        _ => None,
    };
    if let Some(account) = owner.filter(|_| verb == Verb::End) {
        let before = db.owners.rows().filter(|(_, owner)| **owner == account).count() as u64;
        (verb, target) = kernel::entry_for(target, account, before + 1);
        if verb == Verb::End {
            db.owners.put(rev, account);
        }
    }
    // Several ends in one commit are counted together.
    so_far.ended = so_far.ended.map(|ended| ended + before.unwrap_or(0));
    db.append(Entry { rev, verb, target, except, spread_ms, until: db.meta.horizon });
    so_far.rev = Some(rev);
    Ok(())
}

fn refound(db: &mut Memory, epoch: Epoch, base: Rev, now: Time) -> Result<(), CommitError> {
    require(epoch > db.meta.epoch && base > db.meta.head, Conflict::Moved)?;
    let old: Vec<Rev> = db.log.rows().map(|(rev, _)| *rev).collect();
    for rev in old {
        db.log.remove(&rev);
        db.owners.remove(&rev);
    }
    db.end_jobs(now);
    apps::forget_tickets(db);
    db.meta.epoch = epoch;
    (db.meta.head, db.meta.forgotten, db.meta.worked_off) = (base, base, base);
    Ok(())
}

fn cut_client(db: &mut Memory, id: ClientId, cut: Cut) -> Result<(), CommitError> {
    let mut row = db.clients.get(&id).cloned().ok_or(CommitError::Conflict(Conflict::Missing))?;
    row.cut = cut;
    db.clients.put(id, row);
    Ok(())
}
