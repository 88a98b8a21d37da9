//! Followers of the trail, and webhooks. What they mean stands in `domain::follow` and `domain::webhook`.
use crate::cells::{Cells, Fault, Id};
use crate::pool::Reader;
use portcullis_domain::follow::Follower;
use portcullis_domain::webhook::Webhook;
use portcullis_wire::{SecretBytes, WebhookId};
use sqlx::query;

pub(crate) async fn followers(db: &Reader) -> Result<Vec<Follower>, Fault> {
    let read = |cells: &mut Cells<'_>| Ok(Follower { name: cells.table("followers").text()?, place: cells.number()? });
    db.all(|| query("SELECT f.name, f.place FROM followers f ORDER BY f.name COLLATE \"C\""), read).await
}

macro_rules! webhook_columns {
    () => {
        "w.id, w.url, w.description, w.events, w.enabled, w.disabled_why, w.secret, w.old_secret, w.old_until, \
         w.created_at, w.version"
    };
}

fn read_webhook(cells: &mut Cells<'_>) -> Result<Webhook, Fault> {
    Ok(Webhook {
        id: cells.table("webhooks").id()?,
        url: cells.text()?,
        description: cells.text_if()?,
        events: cells.roles()?,
        enabled: cells.get()?,
        disabled_why: cells.text_if()?,
        secret: cells.secret()?,
        old_secret: cells.raw_if()?.map(SecretBytes::new).zip(cells.time_if()?),
        created_at: cells.time()?,
        version: cells.number()?,
    })
}

pub(crate) async fn webhook(db: &Reader, id: WebhookId) -> Result<Option<Webhook>, Fault> {
    const SQL: &str = concat!("SELECT ", webhook_columns!(), " FROM webhooks w WHERE w.id = $1");
    db.one(|| query(SQL).bind(id.blob()), read_webhook).await
}

pub(crate) async fn webhooks(db: &Reader) -> Result<Vec<Webhook>, Fault> {
    const SQL: &str = concat!("SELECT ", webhook_columns!(), " FROM webhooks w ORDER BY w.id");
    db.all(|| query(SQL), read_webhook).await
}
