//! Followers of the trail, and webhooks. What they mean stands in `domain::follow` and `domain::webhook`.
use crate::cells::{Cells, Fault, Id, all, one};
use portcullis_domain::follow::Follower;
use portcullis_domain::webhook::Webhook;
use portcullis_wire::{SecretBytes, WebhookId};
use rusqlite::Connection;

pub(crate) fn followers(db: &Connection) -> Result<Vec<Follower>, Fault> {
    all(db, "SELECT f.name, f.place FROM followers f ORDER BY f.name", [], |cells| {
        Ok(Follower { name: cells.table("followers").get()?, place: cells.u64()? })
    })
}

macro_rules! webhook_columns {
    () => {
        "w.id, w.url, w.description, w.events, w.enabled, w.disabled_why, w.secret, w.old_secret, w.old_until, \
         w.created_at, w.version"
    };
}

fn read_webhook(cells: &mut Cells<'_, '_>) -> Result<Webhook, Fault> {
    Ok(Webhook {
        id: cells.table("webhooks").id()?,
        url: cells.get()?,
        description: cells.get()?,
        events: cells.roles()?,
        enabled: cells.get()?,
        disabled_why: cells.get()?,
        secret: cells.secret()?,
        old_secret: cells.get::<Option<Vec<u8>>>()?.map(SecretBytes::new).zip(cells.time_if()?),
        created_at: cells.time()?,
        version: cells.get()?,
    })
}

pub(crate) fn webhook(db: &Connection, id: WebhookId) -> Result<Option<Webhook>, Fault> {
    const SQL: &str = concat!("SELECT ", webhook_columns!(), " FROM webhooks w WHERE w.id = ?1");
    one(db, SQL, [id.blob()], read_webhook)
}

pub(crate) fn webhooks(db: &Connection) -> Result<Vec<Webhook>, Fault> {
    const SQL: &str = concat!("SELECT ", webhook_columns!(), " FROM webhooks w ORDER BY w.id");
    all(db, SQL, [], read_webhook)
}
