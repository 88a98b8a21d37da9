//! Webhooks: what administrators do with them, what they are told, and how it is sent (`domain::webhook`).
use crate::admin::Admin;
use crate::follow::{Before, Look};
use crate::keys::{KeyError, MasterKey};
use crate::outbox::Unsent;
use crate::{Acted, App, AppError, RepeatKey, real, rotation};
use portcullis_domain::changes::{Change, Changes, Expect, Idempotency};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::follow::{Follower, FollowerStep};
use portcullis_domain::kernel::By;
use portcullis_domain::outbox::{Message, MessageState};
use portcullis_domain::webhook::{self, Answered, MAX_OVERLAP, MOST, MOST_WAITING, Webhook, WebhookBody};
use portcullis_domain::{Chance, Decision, Refused};
use portcullis_store::{CommitError, EventRow, MessageFilter, Page};
use portcullis_wire::{EventId, LogId, MessageId, Millis, SecretBytes, SecretString, Time, WebhookId};
use serde_json::{Value, json};

/// So much earlier a replay begins than the time that is asked for, in milliseconds: records are sealed nearly in the order of their
/// times, and not quite.
const EARLIER: Millis = 10_000;

/// A webhook, with how far it was told.
#[derive(Debug)]
pub struct Told {
    /// The webhook.
    pub webhook: Webhook,
    /// The last place of the trail for which messages were made.
    pub place: u64,
    /// Where the trail ends.
    pub head: u64,
    /// How many messages wait for it.
    pub waiting: u64,
}

/// A webhook that was just made, or got another secret, which is shown once.
#[derive(Debug)]
pub struct WithSecret {
    /// The webhook.
    pub told: Told,
    /// What it signs with.
    pub secret: Option<SecretString>,
}

/// What a webhook is to be.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    /// Where it is called.
    pub url: Option<String>,
    /// What it is for, or nothing.
    pub description: Option<Option<String>>,
    /// Which kinds of records.
    pub events: Option<Vec<String>>,
    /// Whether it is called.
    pub enabled: Option<bool>,
}

/// From where a webhook is told again.
#[derive(Debug, Clone, Copy)]
pub enum Replay {
    /// After this place.
    Place(u64),
    /// From about this time on.
    Time(Time),
}

/// A record as others are shown it: in lists, on the stream, and to webhooks.
pub fn record(row: &EventRow) -> Value {
    let event = &row.event;
    json!({
        "id": event.id, "kind": event.kind.as_str(), "at": row.at, "actor": event.actor,
        "account_id": event.account, "session_id": event.session, "client_id": event.client,
        "ip": event.ip, "reason": event.reason, "rev": row.rev, "ended": row.ended,
        "place": row.seal.map(|seal| seal.place.n),
    })
}

impl MasterKey {
    /// A webhook's secret as it is to be stored.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn seal_webhook(&self, secret: &SecretBytes, id: WebhookId, log: LogId) -> Result<SecretBytes, KeyError> {
        self.seal_bytes(aad(id, log), secret.expose())
    }

    /// The stored secret of a webhook.
    ///
    /// # Errors
    /// When it was sealed under another key, or for another webhook.
    pub fn open_webhook(&self, sealed: &SecretBytes, id: WebhookId, log: LogId) -> Result<SecretBytes, KeyError> {
        self.open_bytes(aad(id, log), sealed, KeyError::Webhook(id)).map_err(|_| KeyError::Webhook(id))
    }

    /// The same webhook, its secrets sealed under `next`.
    ///
    /// # Errors
    /// When one of them was sealed under another key.
    pub fn reseal_webhook(&self, row: &Webhook, log: LogId, next: &Self) -> Result<Webhook, KeyError> {
        let anew = |sealed: &SecretBytes| {
            let secret = self.open_webhook(sealed, row.id, log)?;
            next.seal_webhook(&secret, row.id, log)
        };
        let old_secret = match &row.old_secret {
            Some((sealed, until)) => Some((anew(sealed)?, *until)),
            None => None,
        };
        Ok(Webhook { secret: anew(&row.secret)?, old_secret, ..row.clone() })
    }
}

fn aad(id: WebhookId, log: LogId) -> Vec<u8> {
    format!("portcullis webhook {id} {log}").into_bytes()
}

impl App {
    /// All webhooks, by id.
    pub async fn admin_webhooks(&self, admin: &Admin) -> Result<Vec<Told>, AppError> {
        let rows = self.store().list_webhooks().await.map_err(|e| self.fault(e.into()))?;
        let mut all = Vec::with_capacity(rows.len());
        let (followers, trail) = self.standing().await?;
        for webhook in rows {
            let place = followers.iter().find(|one| one.name == webhook.follower()).map_or(trail, |one| one.place);
            let waiting = self.waiting_for(webhook.id).await?;
            all.push(Told { webhook, place, head: trail, waiting });
        }
        self.still_admin(admin).await?;
        Ok(all)
    }

    async fn standing(&self) -> Result<(Vec<Follower>, u64), AppError> {
        let followers = self.store().list_followers().await.map_err(|e| self.fault(e.into()))?;
        let trail = self.trail().await.map_err(|e| self.fault(e))?;
        Ok((followers, trail.head))
    }

    async fn waiting_for(&self, id: WebhookId) -> Result<u64, AppError> {
        let queue = self.store().read_queue(webhook::receiver(id)).await.map_err(|e| self.fault(e.into()))?;
        Ok(queue.waiting)
    }

    async fn webhook(&self, id: WebhookId) -> Result<Webhook, AppError> {
        let row = self.store().load_webhook(id).await.map_err(|e| self.fault(e.into()))?;
        row.ok_or_else(|| Refused::NotFound.into())
    }

    async fn told(&self, webhook: Webhook) -> Result<Told, AppError> {
        let (followers, head) = self.standing().await?;
        let place = followers.iter().find(|one| one.name == webhook.follower()).map_or(head, |one| one.place);
        let waiting = self.waiting_for(webhook.id).await?;
        Ok(Told { webhook, place, head, waiting })
    }

    /// One webhook.
    pub async fn admin_webhook(&self, admin: &Admin, id: WebhookId) -> Result<Told, AppError> {
        let told = self.told(self.webhook(id).await?).await?;
        self.still_admin(admin).await?;
        Ok(told)
    }

    /// Makes a webhook, which is told of what is sealed from now on. A repeated call gives the one that the first made, without
    /// its secret.
    pub async fn admin_create_webhook(
        &self,
        admin: &Admin,
        what: WebhookPatch,
        repeat: Option<&RepeatKey>,
    ) -> Result<WithSecret, AppError> {
        let missing = |field: &'static str| Refused::InvalidValue { field, detail: "is missing".into() };
        let url = webhook::check_url(&what.url.ok_or_else(|| missing("url"))?)?;
        let events = webhook::check_events(what.events.ok_or_else(|| missing("events"))?)?;
        let description = webhook::check_description(what.description.flatten())?;
        // A secret that is sealed under a master key which is just being replaced would never open again.
        let _turn = self.inner.rota.turn().await;
        let id = WebhookId::from_bits(real::RealChance.bits());
        let secret = webhook::new_secret(&mut real::RealChance);
        let sealed = self.sealed_secret(&secret, id)?;
        let row = Webhook {
            id,
            url,
            description,
            events,
            enabled: what.enabled.unwrap_or(true),
            disabled_why: None,
            secret: sealed,
            old_secret: None,
            created_at: self.now(),
            version: 1,
        };
        let by = admin.by(None);
        let actor = by.actor.text();
        let load = || async {
            let there = self.store().list_webhooks().await.map_err(|e| self.fault(e.into()))?.len();
            Ok((there, self.trail().await.map_err(|e| self.fault(e))?))
        };
        let decide = |(there, trail): &(usize, portcullis_domain::follow::Trail), chance: &mut dyn Chance| {
            if *there >= MOST {
                let detail = format!("there are {MOST} webhooks, and may be no more");
                return Decision::refuse(Refused::Conflict { detail });
            }
            let steps = vec![
                Change::InsertWebhook(row.clone()),
                Change::StepFollower(FollowerStep::begin(row.follower(), trail.head)),
            ];
            let mut changes = Changes {
                idempotency: repeat
                    .map(|repeat| Idempotency { made: Some(id.to_string()), ..self.remember(&actor, repeat) }),
                ..changes(EventKind::WebhookCreated, id, None, steps, &by, chance)
            };
            changes.expects.push(Expect::WebhooksBelow(u32::try_from(MOST).unwrap_or(u32::MAX)));
            Decision { outcome: Ok(()), changes }
        };
        match self.act(&actor, repeat, load, decide).await? {
            Acted::Done((), _) | Acted::Answered(()) => {
                Ok(WithSecret { told: self.told(row).await?, secret: Some(webhook::shown(&secret)) })
            }
            Acted::Before(before) => {
                let id: WebhookId = before.made.and_then(|id| id.parse().ok()).ok_or(Refused::NotFound)?;
                Ok(WithSecret { told: self.admin_webhook(admin, id).await?, secret: None })
            }
        }
    }

    fn sealed_secret(&self, secret: &SecretBytes, id: WebhookId) -> Result<SecretBytes, AppError> {
        self.inner.rota.master().seal_webhook(secret, id, self.inner.log).map_err(rotation::fault)
    }

    /// Changes a webhook; what is not named stays. Switched on again it is told of what it was not told while it was off.
    pub async fn admin_change_webhook(
        &self,
        admin: &Admin,
        id: WebhookId,
        patch: WebhookPatch,
    ) -> Result<Told, AppError> {
        let url = patch.url.map(|url| webhook::check_url(&url)).transpose()?;
        let events = patch.events.map(webhook::check_events).transpose()?;
        let description = patch.description.map(webhook::check_description).transpose()?;
        let by = admin.by(None);
        let decide = |row: &Webhook, chance: &mut dyn Chance| {
            let enabled = patch.enabled.unwrap_or(row.enabled);
            let next = Webhook {
                url: url.clone().unwrap_or_else(|| row.url.clone()),
                events: events.clone().unwrap_or_else(|| row.events.clone()),
                description: description.clone().unwrap_or_else(|| row.description.clone()),
                enabled,
                disabled_why: row.disabled_why.clone().filter(|_| !enabled),
                ..row.clone()
            };
            let same = (&next.url, &next.events, &next.description) == (&row.url, &row.events, &row.description);
            let kind = match (row.enabled, enabled) {
                (true, false) => EventKind::WebhookDisabled,
                (false, true) => EventKind::WebhookEnabled,
                _ if same => return Decision::answer(()),
                _ => EventKind::WebhookChanged,
            };
            Decision {
                outcome: Ok(()),
                changes: changes(kind, id, None, vec![Change::UpdateWebhook(next)], &by, chance),
            }
        };
        self.act("", None, || self.webhook(id), decide).await?;
        self.admin_webhook(admin, id).await
    }

    /// Deletes a webhook. What waits for it is given up.
    pub async fn admin_delete_webhook(&self, admin: &Admin, id: WebhookId) -> Result<(), AppError> {
        let by = admin.by(None);
        let load = || async {
            let row = self.webhook(id).await?;
            let followers = self.store().list_followers().await.map_err(|e| self.fault(e.into()))?;
            Ok(followers.into_iter().find(|one| one.name == row.follower()))
        };
        let decide = |follower: &Option<Follower>, chance: &mut dyn Chance| {
            let step = follower.as_ref().map(|one| FollowerStep { to: None, ..one.moved(one.place) });
            let steps = [Change::RemoveWebhook(id)].into_iter().chain(step.map(Change::StepFollower)).collect();
            Decision { outcome: Ok(()), changes: changes(EventKind::WebhookDeleted, id, None, steps, &by, chance) }
        };
        self.act("", None, load, decide).await.map(drop)
    }

    /// Another secret, shown once. The old one signs beside it for `overlap` milliseconds more.
    pub async fn admin_rotate_webhook(
        &self,
        admin: &Admin,
        id: WebhookId,
        overlap: Millis,
    ) -> Result<WithSecret, AppError> {
        if !(0..=MAX_OVERLAP).contains(&overlap) {
            let detail = format!("must be 0 to {} s", MAX_OVERLAP / 1000);
            return Err(Refused::InvalidValue { field: "overlap_s", detail }.into());
        }
        let _turn = self.inner.rota.turn().await;
        let secret = webhook::new_secret(&mut real::RealChance);
        let sealed = self.sealed_secret(&secret, id)?;
        let by = admin.by(None);
        let decide = |row: &Webhook, chance: &mut dyn Chance| {
            let now = self.now();
            // Who repeats a call whose answer got lost must not lose the secret that a receiver still checks by.
            if overlap > 0 && row.old_secret.as_ref().is_some_and(|(_, until)| now < *until) {
                let detail =
                    "the secret before this one still signs: wait until old_secret_until, or rotate with overlap_s 0";
                return Decision::refuse(Refused::Conflict { detail: detail.into() });
            }
            let old_secret = (overlap > 0).then(|| (row.secret.clone(), now.plus(overlap)));
            let steps = vec![Change::UpdateWebhook(Webhook { secret: sealed.clone(), old_secret, ..row.clone() })];
            Decision {
                outcome: Ok(()),
                changes: changes(EventKind::WebhookSecretRotated, id, None, steps, &by, chance),
            }
        };
        self.act("", None, || self.webhook(id), decide).await?;
        Ok(WithSecret { told: self.admin_webhook(admin, id).await?, secret: Some(webhook::shown(&secret)) })
    }

    /// Sends a message that only tries the webhook, unless as many wait for it as may. One after another: who comes second counts again.
    pub async fn admin_test_webhook(&self, admin: &Admin, id: WebhookId) -> Result<Message, AppError> {
        let by = admin.by(None);
        let load = || async { Ok((self.webhook(id).await?, self.waiting_for(id).await?)) };
        let decide = |(row, waiting): &(Webhook, u64), chance: &mut dyn Chance| {
            if !row.enabled {
                let detail = "it is switched off".into();
                return Decision::refuse(Refused::Conflict { detail });
            }
            if *waiting >= MOST_WAITING {
                let detail = format!("{MOST_WAITING} messages wait for it, and may be no more");
                return Decision::refuse(Refused::Conflict { detail });
            }
            let message = webhook::message(id, None, self.now(), chance);
            let changes = Changes {
                expects: by.expects().into_iter().collect(),
                // The row as it is: its version is what they are counted under.
                steps: vec![Change::UpdateWebhook(row.clone()), Change::InsertMessage(message.clone())],
                ..Changes::default()
            };
            Decision { outcome: Ok(message), changes }
        };
        let acted = self.act("", None, load, decide).await?;
        self.inner.outbox.wake_messages();
        match acted {
            Acted::Done(message, _) | Acted::Answered(message) => Ok(message),
            Acted::Before(_) => Err(AppError::Fault("a test has no repeat key".into())),
        }
    }

    /// Messages of a webhook, newest first.
    pub async fn admin_webhook_messages(
        &self,
        admin: &Admin,
        id: WebhookId,
        state: Option<MessageState>,
        cursor: Option<MessageId>,
        limit: u32,
    ) -> Result<Page<Message>, AppError> {
        self.webhook(id).await?;
        let filter = MessageFilter { state, client: Some(webhook::receiver(id)) };
        self.admin_messages(admin, &filter, cursor, limit).await
    }

    /// Has a webhook told again of everything after a place, or from a time on, as far as it is there.
    pub async fn admin_replay_webhook(&self, admin: &Admin, id: WebhookId, from: Replay) -> Result<Told, AppError> {
        self.webhook(id).await?;
        self.still_admin(admin).await?; // before the trail is looked through in their name
        let place = match from {
            Replay::Place(place) => place,
            Replay::Time(time) => self.place_before(time.minus(EARLIER)).await?,
        };
        let by = admin.by(None);
        let load = || async {
            let row = self.webhook(id).await?;
            let (followers, trail) = (self.store().list_followers().await, self.trail().await);
            let followers = followers.map_err(|e| self.fault(e.into()))?;
            let trail = trail.map_err(|e| self.fault(e))?;
            Ok((followers.into_iter().find(|one| one.name == row.follower()), row.follower(), trail))
        };
        type Standing = (Option<Follower>, String, portcullis_domain::follow::Trail);
        let decide = |(one, name, trail): &Standing, chance: &mut dyn Chance| {
            let to = trail.bounded(place);
            let step = match one {
                Some(one) => one.moved(to),
                None => FollowerStep::begin(name.clone(), to),
            };
            let why = format!("after {to}");
            let steps = vec![Change::StepFollower(step)];
            let changes = changes(EventKind::WebhookReplayed, id, Some(&why), steps, &by, chance);
            Decision { outcome: Ok(()), changes }
        };
        self.act("", None, load, decide).await?;
        self.admin_webhook(admin, id).await
    }

    /// The last place whose record is from before this time: by halving, for places are nearly in the order of times.
    async fn place_before(&self, time: Time) -> Result<u64, AppError> {
        let trail = self.trail().await.map_err(|e| self.fault(e))?;
        let (mut low, mut high) = (trail.first(), trail.head);
        while low < high {
            let middle = low + (high - low) / 2;
            let read = self.store().read_chain(Some(middle), 1).await.map_err(|e| self.fault(e.into()))?;
            let row = read.and_then(|read| read.rows.into_iter().next());
            match row.and_then(|row| Some((row.at, row.seal?.place.n))) {
                Some((at, place)) if at < time => low = place.max(middle + 1),
                _ => high = middle,
            }
        }
        Ok(low)
    }

    // ---- telling them ----

    /// One page for each webhook; whether there may be more.
    pub(crate) async fn tell_webhooks(&self, look: &Look) -> Result<bool, AppError> {
        let mut more = false;
        for row in self.store().list_webhooks().await?.into_iter().filter(|row| row.enabled) {
            more |= self.tell_webhook(look, &row).await?;
        }
        Ok(more)
    }

    async fn tell_webhook(&self, look: &Look, row: &Webhook) -> Result<bool, AppError> {
        let Some(before) = self.before_follower(look, &row.follower(), u32::MAX).await? else { return Ok(false) };
        let waiting = self.store().read_queue(webhook::receiver(row.id)).await?.waiting;
        let room = usize::try_from(MOST_WAITING.saturating_sub(waiting)).unwrap_or(0);
        let (Before { rows, mut step, mut more }, now) = (before, self.now());
        let mut made = Vec::new();
        for one in &rows {
            let Some(place) = one.seal.map(|seal| seal.place.n) else { continue };
            if !row.takes(one.event.kind) {
                continue;
            }
            if made.len() == room {
                // The trail keeps the rest until there is room.
                (step.to, more) = (Some(place.saturating_sub(1)), false);
                break;
            }
            let message = webhook::message(row.id, Some((one.event.id, place)), now, &mut real::RealChance);
            made.push(Change::InsertMessage(message));
        }
        if step.from == step.to {
            return Ok(false);
        }
        Ok(self.pass(step, made).await? && more)
    }

    /// Sends a message to its webhook. Taken is what is answered with success; 410 switches the webhook off.
    pub(crate) async fn send_webhook(&self, message: &Message) -> Result<(), Unsent> {
        let body = message.webhook_body().ok_or(Unsent::Hopeless("its body does not read"))?;
        let failed = |error: &dyn std::fmt::Display| Unsent::Failed(error.to_string());
        let row = self.store().load_webhook(body.webhook).await.map_err(|error| failed(&error))?;
        let row = row.ok_or(Unsent::Hopeless("there is no such webhook any more"))?;
        if !row.enabled {
            return Err(Unsent::Hopeless("the webhook is switched off"));
        }
        let text = self.webhook_text(&body).await?;
        let (id, now) = (webhook::webhook_id(message, &body), self.now());
        let opened = webhook::secrets_at(&row, now)
            .into_iter()
            .map(|sealed| self.inner.rota.open_webhook(sealed, row.id, self.inner.log))
            .collect::<Result<Vec<_>, _>>();
        let signature = webhook::signatures(&opened.map_err(|error| failed(&error))?, &id, now, &text);
        let seconds = now.secs().to_string();
        let headers = [("webhook-id", id.as_str()), ("webhook-timestamp", &seconds), ("webhook-signature", &signature)];
        let answer = self.outgoing().post_json(&row.url, text, &headers).await.map_err(|error| failed(&error))?;
        match webhook::judge(answer.status, answer.retry_after) {
            Answered::Taken => Ok(()),
            Answered::Gone => {
                self.webhook_is_gone(row).await;
                Err(Unsent::Hopeless("answered 410: the webhook wants no more, and is switched off"))
            }
            Answered::Failed { why, wait: 0 } => Err(Unsent::Failed(why)),
            Answered::Failed { why, wait } => Err(Unsent::Later(why, wait)),
        }
    }

    /// What is sent, from the record as it is now.
    async fn webhook_text(&self, body: &WebhookBody) -> Result<String, Unsent> {
        let Some((event, place)) = body.record else {
            let data = json!({ "webhook_id": body.webhook });
            return Ok(json!({ "type": webhook::TEST, "timestamp": self.now(), "data": data }).to_string());
        };
        let read = self.store().read_chain(Some(place.saturating_sub(1)), 1).await;
        let rows = read.map_err(|error| Unsent::Failed(error.to_string()))?.map(|read| read.rows).unwrap_or_default();
        let row = rows.into_iter().find(|row| row.event.id == event);
        let row = row.ok_or(Unsent::Hopeless("its record is not kept any more"))?;
        Ok(json!({ "type": row.event.kind.as_str(), "timestamp": row.at, "data": record(&row) }).to_string())
    }

    /// It is switched off, and that is recorded. When it cannot be written the next message finds it as it is.
    async fn webhook_is_gone(&self, row: Webhook) {
        let why = "it answered 410: it wants no more";
        let by = By { actor: portcullis_domain::Actor::System, role: None, ip: None, reason: None };
        let id = row.id;
        let next = Webhook { enabled: false, disabled_why: Some(why.into()), ..row };
        let steps = vec![Change::UpdateWebhook(next)];
        let changes = changes(EventKind::WebhookDisabled, id, Some(why), steps, &by, &mut real::RealChance);
        match self.store().commit(changes).await {
            Ok(_) => tracing::warn!(webhook = %id, "a webhook was switched off, since {why}"),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => {
                tracing::warn!(webhook = %id, %error, "a webhook that wants no more could not be switched off")
            }
        }
    }
}

/// An act on a webhook, with its record, whose reason names it.
fn changes(
    kind: EventKind,
    id: WebhookId,
    why: Option<&str>,
    steps: Vec<Change>,
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Changes {
    let event = NewEvent::new(EventId::from_bits(chance.bits()), kind, &by.actor).ip(by.ip);
    let reason = why.map_or_else(|| id.to_string(), |why| format!("{id} {why}"));
    Changes {
        expects: by.expects().into_iter().collect(),
        steps,
        events: vec![event.reason(reason)],
        ..Changes::default()
    }
}
