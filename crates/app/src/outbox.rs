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
use portcullis_domain::outbox::{self, Message, MessageKind, MessageState, Notice, NoticeStep};
use portcullis_domain::{Decision, Refused, logout};
use portcullis_outgoing::Outgoing;
use portcullis_store::{CommitError, MessageFilter, Page, StoreError};
use portcullis_wire::{ClientId, EventId, MessageId, Time};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// How many sessions one step over a notice looks at.
const LOOK: u32 = 100;
/// How many notices are worked on in turn, so that a large one holds up none of the others.
const NOTICES: u32 = 50;
/// How many messages are on their way at once, and to one client.
const IN_FLIGHT: usize = 16;
const IN_FLIGHT_EACH: usize = 4;
/// How often there is a look without anything having been heard of.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// After a fault, and where another node leads.
const REST: Duration = Duration::from_secs(1);
/// A client whose calls fail is left alone for longer and longer, up to this: one that is down must not be hammered with all that
/// waits for it. In milliseconds.
const LONGEST_REST: i64 = 60_000;

/// What the tasks share with the rest.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) outgoing: Outgoing,
    /// Something ended.
    notices: Notify,
    /// Messages were made.
    messages: Notify,
}

impl Outbox {
    pub(crate) fn new(outgoing: Outgoing) -> Self {
        Self { outgoing, notices: Notify::new(), messages: Notify::new() }
    }
    /// Something ended: there may be a notice.
    pub(crate) fn wake(&self) {
        self.notices.notify_one();
    }
}

/// How the calls to a client went.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    in_flight: usize,
    /// One after another.
    failures: u32,
    /// Left alone until then.
    rests_until: Time,
}

impl Standing {
    /// How many messages may be on their way to it: one that failed is tried with one first.
    fn most(&self) -> usize {
        if self.failures > 0 { 1 } else { IN_FLIGHT_EACH }
    }
    /// Whether it takes no more for now.
    fn is_busy(&self, now: Time) -> bool {
        self.in_flight >= self.most() || self.rests_until > now
    }
}

/// What came of a message.
struct Sent {
    client: Option<ClientId>,
    worked: bool,
}

impl App {
    /// Calls to addresses that others chose.
    pub fn outgoing(&self) -> &Outgoing {
        &self.inner.outbox.outgoing
    }

    /// Whether this node works on what is on its way out.
    fn sends(&self) -> bool {
        self.hub().leads() && self.hub().rolled_back().is_none()
    }

    /// Makes messages of notices, for ever.
    pub(crate) async fn spread_notices(self) {
        loop {
            if !self.sends() {
                tokio::time::sleep(REST).await;
                continue;
            }
            match self.spread_some().await {
                Ok(true) => {}
                Ok(false) => {
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.inner.outbox.notices.notified()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "messages about what has ended could not be made; tried again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// One step over each of the oldest notices. Whether there was something to do.
    pub(crate) async fn spread_some(&self) -> Result<bool, CommitError> {
        let notices = self.store().list_notices(NOTICES).await.map_err(CommitError::Failed)?;
        if notices.is_empty() {
            return Ok(false);
        }
        let waiting = self.store().count_messages().await.map_err(CommitError::Failed)?.waiting;
        self.counts().messages_waiting.store(waiting, Ordering::Relaxed);
        if waiting >= outbox::MAX_WAITING {
            tokio::time::sleep(REST).await;
            return Ok(true);
        }
        for notice in &notices {
            let begun = real::mono_us();
            let more = self.spread(notice).await?;
            if more {
                // As long as that took, so that refreshes are not held up.
                let took_us = u64::try_from(real::mono_us() - begun).unwrap_or(0);
                tokio::time::sleep(Duration::from_micros(took_us.min(1_000_000))).await;
            }
        }
        Ok(true)
    }

    /// One step over a notice; whether more of it is left.
    async fn spread(&self, notice: &Notice) -> Result<bool, CommitError> {
        let told = self.store().read_told(notice, LOOK).await.map_err(CommitError::Failed)?;
        let (now, idle_ttl, mut chance) = (self.now(), self.settings().rules.idle_ttl, real::RealChance);
        let mut receivers: BTreeMap<ClientId, bool> = BTreeMap::new();
        let step = NoticeStep { seq: notice.seq, from: notice.cursor, to: told.next };
        let mut steps = vec![Change::StepNotice(step)];
        for under in &told.found {
            for client in outbox::clients_told(notice, under, told.all, idle_ttl) {
                let receives = match receivers.get(&client) {
                    Some(receives) => *receives,
                    None => {
                        let row = self.store().load_client(client).await.map_err(CommitError::Failed)?;
                        let receives = row.is_some_and(|view| receiver(&view.client).is_some());
                        receivers.insert(client, receives);
                        receives
                    }
                };
                if receives {
                    steps.push(Change::InsertMessage(outbox::logout(client, &under.session, now, &mut chance)));
                }
            }
        }
        let made = steps.len() > 1;
        match self.store().commit(Changes { steps, ..Changes::default() }).await {
            Ok(_) => {}
            // Another node was at it.
            Err(CommitError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        if made {
            self.inner.outbox.messages.notify_one();
        }
        Ok(told.next.is_some())
    }

    /// Sends what is due, for ever.
    pub(crate) async fn send_messages(self) {
        let mut under_way: JoinSet<Sent> = JoinSet::new();
        let mut clients: BTreeMap<ClientId, Standing> = BTreeMap::new();
        loop {
            while let Some(sent) = under_way.try_join_next() {
                self.arrived(sent.ok(), &mut clients);
            }
            if !self.sends() {
                tokio::time::sleep(REST).await;
                continue;
            }
            let begun = match self.claim_some(IN_FLIGHT - under_way.len().min(IN_FLIGHT), &clients).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::warn!(%error, "messages could not be looked at; tried again");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let idle = begun.is_empty();
            for message in begun {
                if let Some(client) = message.client {
                    clients.entry(client).or_default().in_flight += 1;
                }
                let app = self.clone();
                under_way.spawn(async move { app.send(message).await });
            }
            if !idle && under_way.len() < IN_FLIGHT {
                continue;
            }
            tokio::select! {
                Some(sent) = under_way.join_next() => self.arrived(sent.ok(), &mut clients),
                () = self.inner.outbox.messages.notified(), if under_way.len() < IN_FLIGHT => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Claims what is due, within the limits of each client. What somebody else has claimed meanwhile is left to them.
    async fn claim_some(
        &self,
        free: usize,
        clients: &BTreeMap<ClientId, Standing>,
    ) -> Result<Vec<Message>, StoreError> {
        let (now, mut claimed) = (self.now(), Vec::new());
        if free == 0 {
            return Ok(claimed);
        }
        let resting: Vec<ClientId> = clients.iter().filter(|(_, one)| one.is_busy(now)).map(|(id, _)| *id).collect();
        let due = self.store().due_messages(&resting, u32::try_from(free).unwrap_or(1)).await?;
        let mut taken: BTreeMap<ClientId, usize> = BTreeMap::new();
        for message in due {
            if let Some(client) = message.client {
                let before = clients.get(&client).copied().unwrap_or_default();
                let count = taken.entry(client).or_default();
                if before.in_flight + *count >= before.most() {
                    continue;
                }
                *count += 1;
            }
            let claim = message.claimed(now);
            match self.store().commit(change(claim.clone())).await {
                Ok(_) => claimed.push(Message { version: claim.version + 1, ..claim }),
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
        Ok(claimed)
    }

    /// Notes how a call went, and how long its client is left alone.
    fn arrived(&self, sent: Option<Sent>, clients: &mut BTreeMap<ClientId, Standing>) {
        let Some(Sent { client: Some(client), worked }) = sent else { return };
        let standing = clients.entry(client).or_default();
        standing.in_flight = standing.in_flight.saturating_sub(1);
        if worked {
            standing.failures = 0;
        } else {
            standing.failures = standing.failures.saturating_add(1);
            let rest = outbox::wait_after(standing.failures, &mut real::RealChance).min(LONGEST_REST);
            standing.rests_until = self.now().plus(rest);
        }
        if standing.in_flight == 0 && standing.failures == 0 {
            clients.remove(&client);
        }
    }

    /// Sends a claimed message, and writes down what came of it.
    async fn send(&self, message: Message) -> Sent {
        let outcome = match message.kind {
            MessageKind::Logout => self.send_logout(&message).await,
        };
        let (now, counts) = (self.now(), self.counts());
        let (next, worked) = match outcome {
            Ok(()) => (message.done(now), true),
            Err(Unsent::Hopeless(why)) => (message.dead(now, why), true),
            Err(Unsent::Failed(why)) => (message.failed(now, &why, &mut real::RealChance), false),
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
        Sent { client: message.client, worked }
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
                event.client = message.client;
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
enum Unsent {
    /// It never will be.
    Hopeless(&'static str),
    /// Perhaps later.
    Failed(String),
}

fn change(message: Message) -> Changes {
    Changes { steps: vec![Change::UpdateMessage(message)], ..Changes::default() }
}

/// Where a client is told, if it wants to be.
fn receiver(client: &Client) -> Option<&str> {
    client.profile.backchannel_logout_uri.as_deref().filter(|_| !client.disabled)
}
