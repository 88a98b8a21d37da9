//! What others are told: messages made of notices, sent until they are taken.
//!
//! Two tasks, at work on the one node that leads. The first turns notices, which ends leave in their own transactions, into
//! messages, page by page. The second claims what is due, sends it, and writes down what came of it. Who leads may be in doubt
//! for a while; that nobody sends what another one is sending is seen to by claims, which move a row's version, and lapse.
use crate::admin::Admin;
use crate::{Acted, App, AppError, real};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::model::Client;
use portcullis_domain::outbox::{self, Message, MessageKind, MessageState, Notice, NoticeStep, SETTLE_AFTER};
use portcullis_domain::receivers::{PLACES, Receivers, Room};
use portcullis_domain::{Decision, Refused, logout};
use portcullis_outgoing::Outgoing;
use portcullis_store::{CommitError, MessageFilter, Page, StoreError};
use portcullis_wire::{ClientId, EventId, MessageId, Millis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};

/// How many sessions one step over a notice looks at.
const LOOK: u32 = 100;
/// How many notices are worked on in turn, so that a large one holds up none of the others.
const NOTICES: u32 = 50;
/// How many clients are looked at in one read for whose turn it is, and how many reads there are in one look.
const CLIENTS: u32 = 500;
const READS: usize = 8;
/// How many clients that were never called are looked up in one look, for who they are.
const MET: usize = 100;
/// How many messages whose time is over are settled in one commit.
const SETTLED: u32 = 100;
/// How often there is a look without anything having been heard of.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Where a look did not come to its end.
const GO_ON: Duration = Duration::from_millis(20);
/// After a fault, and where another node leads.
const REST: Duration = Duration::from_secs(1);
/// So much later than an end it is asked whom else to tell. Most verifiers have heard of it by then, and the question takes
/// processor time from the feed.
const AFTER_THE_FEED: Duration = Duration::from_millis(50);

/// What the tasks share with the rest.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) outgoing: Outgoing,
    /// Something ended.
    notices: Notify,
    /// Messages were made.
    messages: Notify,
    receivers: Mutex<Receivers>,
}

impl Outbox {
    pub(crate) fn new(outgoing: Outgoing) -> Self {
        Self { outgoing, notices: Notify::new(), messages: Notify::new(), receivers: Mutex::new(Receivers::new()) }
    }
    fn receivers(&self) -> MutexGuard<'_, Receivers> {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Messages were made.
    pub(crate) fn wake_sender(&self) {
        self.messages.notify_one();
    }
    /// Something ended: there may be a notice.
    pub(crate) fn wake(&self) {
        self.notices.notify_one();
    }
    /// Messages were made.
    pub(crate) fn wake_messages(&self) {
        self.messages.notify_one();
    }
}

/// What came of a message.
struct Sent {
    worked: bool,
    took: Millis,
}

/// What came of a look at the notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// There are none.
    Idle,
    /// A step was made over one at least.
    Worked,
    /// All of them wait for somebody who takes what there is already.
    Held,
}

impl App {
    /// A mail was written.
    pub(crate) fn mail_waits(&self) {
        self.inner.outbox.wake_sender();
    }

    /// Calls to addresses that others chose.
    pub fn outgoing(&self) -> &Outgoing {
        &self.inner.outbox.outgoing
    }

    /// Whether this node works on what is on its way out.
    pub(crate) fn sends(&self) -> bool {
        self.hub().leads() && self.hub().rolled_back().is_none()
    }

    /// Makes messages of notices, and gives up those whose time is over, for ever.
    pub(crate) async fn spread_notices(self) {
        let mut sends_since = None;
        loop {
            if !self.sends() {
                sends_since = None;
                tokio::time::sleep(REST).await;
                continue;
            }
            let since = *sends_since.get_or_insert(self.now());
            if since.plus(SETTLE_AFTER) <= self.now()
                && let Err(error) = self.settle_expired().await
            {
                tracing::warn!(%error, "messages whose time is over could not be given up; tried again");
            }
            match self.spread_some().await {
                Ok(Spread::Worked) => {}
                Ok(Spread::Held) => tokio::time::sleep(REST).await,
                Ok(Spread::Idle) => {
                    if tokio::time::timeout(LOOK_AGAIN, self.inner.outbox.notices.notified()).await.is_ok() {
                        tokio::time::sleep(AFTER_THE_FEED).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "messages about what has ended could not be made; tried again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Gives up what is due and past its time: of a client that takes nothing only one message a minute would be tried.
    async fn settle_expired(&self) -> Result<(), CommitError> {
        let expired = self.store().expired_messages(SETTLED).await.map_err(CommitError::Failed)?;
        if expired.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let steps: Vec<Change> = expired.iter().map(|one| Change::UpdateMessage(one.expired(now))).collect();
        let mut settled = steps.len();
        match self.store().commit(Changes { steps: steps.clone(), ..Changes::default() }).await {
            Ok(_) => {}
            // One of them was claimed meanwhile: each by itself.
            Err(CommitError::Conflict(_)) => {
                for step in steps {
                    match self.store().commit(Changes { steps: vec![step], ..Changes::default() }).await {
                        Ok(_) => {}
                        Err(CommitError::Conflict(_)) => settled -= 1,
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        tracing::warn!(messages = settled, "messages were given up, since their time is over");
        self.counts().messages_dead.fetch_add(settled as u64, Ordering::Relaxed);
        Ok(())
    }

    /// One step over each of the oldest notices.
    pub(crate) async fn spread_some(&self) -> Result<Spread, CommitError> {
        let notices = self.store().list_notices(NOTICES).await.map_err(CommitError::Failed)?;
        if notices.is_empty() {
            return Ok(Spread::Idle);
        }
        let waiting = self.store().count_messages().await.map_err(CommitError::Failed)?.waiting;
        self.counts().messages_waiting.store(waiting, Ordering::Relaxed);
        let mut came = Spread::Held;
        for notice in &notices {
            let begun = real::mono_us();
            let Some(more) = self.spread(notice, waiting).await? else { continue };
            came = Spread::Worked;
            if more {
                // As long as that took, so that refreshes are not held up.
                let took_us = u64::try_from(real::mono_us() - begun).unwrap_or(0);
                tokio::time::sleep(Duration::from_micros(took_us.min(1_000_000))).await;
            }
        }
        Ok(came)
    }

    /// One step over a notice; whether more of it is left. `None`: it waits until somebody has taken what waits for them.
    async fn spread(&self, notice: &Notice, waiting: u64) -> Result<Option<bool>, CommitError> {
        let told = self.store().read_told(notice, LOOK).await.map_err(CommitError::Failed)?;
        let (now, idle_ttl, mut chance) = (self.now(), self.settings().rules.idle_ttl, real::RealChance);
        let mut rooms: BTreeMap<ClientId, Option<Room>> = BTreeMap::new();
        let step = NoticeStep { seq: notice.seq, from: notice.cursor, to: told.next };
        let (mut steps, mut given_up) = (vec![Change::StepNotice(step)], 0);
        for under in &told.found {
            for (client, session) in outbox::clients_told(notice, under, told.all, idle_ttl) {
                let room = match rooms.get(&client) {
                    Some(room) => *room,
                    None => *rooms.entry(client).or_insert(self.room(client, notice, waiting).await?),
                };
                let message = outbox::logout(client, under.session.account, session, now, &mut chance);
                match room {
                    None => {}
                    Some(Room::Later) => return Ok(None),
                    Some(Room::Free) => steps.push(Change::InsertMessage(message)),
                    Some(Room::None) => {
                        given_up += 1;
                        steps.push(Change::InsertMessage(message.dead(now, "too many were waiting for this client")));
                    }
                }
            }
        }
        let made = steps.len() > 1;
        match self.store().commit(Changes { steps, ..Changes::default() }).await {
            Ok(_) => {}
            // Another node was at it.
            Err(CommitError::Conflict(_)) => return Ok(Some(false)),
            Err(error) => return Err(error),
        }
        if given_up > 0 {
            tracing::warn!(messages = given_up, "messages were given up at once, since too many wait for their client");
            self.counts().messages_dead.fetch_add(given_up, Ordering::Relaxed);
        }
        if made {
            self.inner.outbox.messages.notify_one();
        }
        Ok(Some(told.next.is_some()))
    }

    /// What becomes of messages for a client now; `None` when it wants none.
    async fn room(&self, client: ClientId, notice: &Notice, waiting: u64) -> Result<Option<Room>, CommitError> {
        let row = self.store().load_client(client).await.map_err(CommitError::Failed)?;
        if row.is_none_or(|view| receiver(&view.client).is_none()) {
            return Ok(None);
        }
        let queue = self.store().read_queue(client).await.map_err(CommitError::Failed)?;
        let failing = self.inner.outbox.receivers().is_failing(client);
        Ok(Some(self.settings().queues.room(queue, waiting, failing, notice.what, self.now())))
    }

    /// Sends what is due, for ever.
    pub(crate) async fn send_messages(self) {
        let (mut under_way, mut to) = (JoinSet::new(), BTreeMap::new());
        loop {
            while let Some(sent) = under_way.try_join_next_with_id() {
                self.arrived(sent, &mut to);
            }
            if !self.sends() {
                tokio::time::sleep(REST).await;
                continue;
            }
            let (begun, more) = match self.claim_some().await {
                Ok(looked) => looked,
                Err(error) => {
                    tracing::warn!(%error, "messages could not be looked at; tried again");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let idle = begun.is_empty();
            for message in begun {
                let (app, client) = (self.clone(), message.client);
                let task = under_way.spawn(async move { app.send(message).await });
                to.insert(task.id(), client);
            }
            if !idle && under_way.len() < PLACES {
                // Where nothing has to be waited for, others get their turn all the same.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                Some(sent) = under_way.join_next_with_id() => self.arrived(sent, &mut to),
                () = self.inner.outbox.messages.notified(), if under_way.len() < PLACES => {}
                () = tokio::time::sleep(if more { GO_ON } else { LOOK_AGAIN }) => {}
            }
        }
    }

    /// Claims what is due, one message of each client whose turn it is, and whether there was more to look at. What somebody else has
    /// claimed meanwhile is left to them.
    async fn claim_some(&self) -> Result<(Vec<Message>, bool), StoreError> {
        let (now, mut claimed) = (self.now(), Vec::new());
        let busy = {
            let receivers = self.inner.outbox.receivers();
            if receivers.free() == 0 {
                return Ok((claimed, false));
            }
            receivers.busy(now)
        };
        // Around all of them if they are few, else a part of the way.
        let (mut due, mut round) = (Vec::new(), self.inner.outbox.receivers().looks_on());
        for _ in 0..READS {
            let found = self.store().due_messages(&busy, round.after(), CLIENTS).await?;
            due.extend(found.messages);
            if round.went_to(found.next) {
                break;
            }
        }
        self.inner.outbox.receivers().looked(round);
        let mut seen = BTreeSet::new();
        due.retain(|message| seen.insert(message.id));
        let (in_turn, mut to_meet) = (self.inner.outbox.receivers().in_turn(due), MET);
        for message in in_turn {
            if !self.inner.outbox.receivers().may_be_called(message.client, now) {
                continue;
            }
            if let Some(client) = message.client.filter(|_| !self.inner.outbox.receivers().knows(message.client)) {
                if to_meet == 0 {
                    continue;
                }
                to_meet -= 1;
                let row = self.store().load_client(client).await?;
                let stranger = row.is_some_and(|view| view.client.profile.is_stranger());
                let mut receivers = self.inner.outbox.receivers();
                receivers.meets(client, stranger);
                if !receivers.may_be_called(message.client, now) {
                    continue;
                }
            }
            let claim = message.claimed(now);
            match self.store().commit(change(claim.clone())).await {
                Ok(_) => {
                    self.inner.outbox.receivers().left(claim.client);
                    claimed.push(Message { version: claim.version + 1, ..claim });
                }
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Failed(error) | CommitError::Unknown(error)) => {
                    // Those that are claimed are sent all the same; a claim that may stand lapses.
                    if claimed.is_empty() {
                        return Err(error);
                    }
                    break;
                }
            }
        }
        Ok((claimed, to_meet == 0))
    }

    /// Notes how a call went, and how long its client is left alone. A call that panicked counts as one in vain: its place is free
    /// again, and its claim lapses.
    fn arrived(&self, sent: Result<(Id, Sent), JoinError>, to: &mut BTreeMap<Id, Option<ClientId>>) {
        let (id, went) = match sent {
            Ok((id, sent)) => (id, sent),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a call to a receiver came to no end; its message is sent again");
                }
                (error.id(), Sent { worked: false, took: 0 })
            }
        };
        let client = to.remove(&id).flatten();
        self.inner.outbox.receivers().arrived(client, went.worked, went.took, self.now(), &mut real::RealChance);
    }

    /// Sends a claimed message, and writes down what came of it.
    async fn send(&self, message: Message) -> Sent {
        let begun = real::mono();
        let outcome = match message.kind {
            MessageKind::Logout => self.send_logout(&message).await,
            MessageKind::Mail => self.send_mail(&message).await,
            MessageKind::Webhook => self.send_webhook(&message).await,
        };
        let (now, counts, took) = (self.now(), self.counts(), real::mono().since(begun));
        let (next, worked) = match outcome {
            Ok(()) => (message.done(now), true),
            Err(Unsent::Hopeless(why)) => (message.dead(now, why), true),
            Err(Unsent::Refused(why)) => (message.dead(now, &why), true),
            Err(Unsent::NotNow(why)) => (message.failed(now, &why, &mut real::RealChance), true),
            Err(Unsent::Failed(why)) => (message.failed(now, &why, &mut real::RealChance), false),
            Err(Unsent::Later(why, wait)) => (message.failed_for(now, &why, wait, &mut real::RealChance), false),
        };
        match next.state {
            MessageState::Done => counts.messages_sent.fetch_add(1, Ordering::Relaxed),
            MessageState::Waiting => counts.messages_failed.fetch_add(1, Ordering::Relaxed),
            MessageState::Dead => {
                let why = next.last_error.as_deref().unwrap_or_default();
                tracing::warn!(message = %next.id, why, "a message was given up");
                counts.messages_dead.fetch_add(1, Ordering::Relaxed)
            }
        };
        if let Err(error) = self.store().commit(change(next)).await {
            tracing::warn!(message = %message.id, %error, "what came of a message could not be written; it is sent again");
        }
        Sent { worked, took }
    }

    /// A logout token to its client (OpenID Connect Back-Channel Logout §2.5). Taken is what is answered with success (§2.8).
    async fn send_logout(&self, message: &Message) -> Result<(), Unsent> {
        let (Some(client), Some(body)) = (message.client, message.logout_body()) else {
            return Err(Unsent::Hopeless("its body does not read"));
        };
        let view = self.store().load_client(client).await.map_err(|error| Unsent::Failed(error.to_string()))?;
        let client = view.map(|view| view.client).ok_or(Unsent::Hopeless("there is no such client any more"))?;
        let uri = receiver(&client)
            .ok_or(Unsent::Hopeless("the client is switched off, or has no backchannel_logout_uri"))?;
        let sub = self.name_at(&client, body.account).map_err(|_| Unsent::Failed("its user has no name yet".into()))?;
        let claims =
            logout::claims(&self.settings().rules.issuer, sub, client.id, body.session, self.now(), message.jti());
        let token = self.keys().sign_logout_token(&claims).map_err(|error| Unsent::Failed(error.to_string()))?;
        // A compact JWS has no character that a form would have to encode.
        let form = format!("logout_token={}", token.expose());
        match self.outgoing().post_form(uri, form).await {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(Unsent::Failed(format!("answered {}", answer.status))),
            Err(error) => Err(Unsent::Failed(error.to_string())),
        }
    }

    /// Messages, newest first.
    pub async fn admin_messages(
        &self,
        admin: &Admin,
        filter: &MessageFilter,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>, AppError> {
        let page = self.store().list_messages(filter, cursor, limit).await.map_err(|e| self.fault(e.into()))?;
        self.still_admin(admin).await?;
        Ok(page)
    }

    /// Has a message tried again at once, and for as long as a new one; 409 when it was taken.
    pub async fn admin_retry_message(&self, admin: &Admin, id: MessageId) -> Result<Message, AppError> {
        let load = || async {
            let row = self.store().load_message(id).await.map_err(|e| self.fault(e.into()))?;
            row.ok_or_else(|| Refused::NotFound.into())
        };
        let by = admin.by(None);
        let acted = self
            .act("", None, load, |message: &Message, chance| {
                if message.state == MessageState::Done {
                    let detail = "it was taken: there is nothing to repeat".into();
                    return Decision::refuse(Refused::Conflict { detail });
                }
                let again = message.again(self.now());
                let mut event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::MessageRetried, &by.actor);
                event.client = message.to_client();
                let changes = Changes {
                    expects: by.expects().into_iter().collect(),
                    steps: vec![Change::UpdateMessage(again.clone())],
                    events: vec![event.ip(by.ip).reason(id.to_string())],
                    ..Changes::default()
                };
                Decision { outcome: Ok(again), changes }
            })
            .await?;
        self.inner.outbox.messages.notify_one();
        match acted {
            Acted::Done(message, _) | Acted::Answered(message) => Ok(message),
            Acted::Before(_) => Err(AppError::Fault("a retry has no repeat key".into())),
        }
    }
}

/// Why a message was not sent.
pub(crate) enum Unsent {
    /// It never will be.
    Hopeless(&'static str),
    /// Perhaps later.
    Failed(String),
    /// It never will be, as the receiver says.
    Refused(String),
    /// Perhaps later, as the receiver says, which takes others meanwhile.
    NotNow(String),
    /// Perhaps later, and not before so many milliseconds have passed.
    Later(String, Millis),
}

fn change(message: Message) -> Changes {
    Changes { steps: vec![Change::UpdateMessage(message)], ..Changes::default() }
}

/// Where a client is told, if it wants to be.
fn receiver(client: &Client) -> Option<&str> {
    client.profile.backchannel_logout_uri.as_deref().filter(|_| !client.disabled)
}
